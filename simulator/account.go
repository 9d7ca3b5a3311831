package simulator

// Accounts and the credentials that they have been given.

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claude-balancer/claude-balancer/secret"
)

// Plans of an Account.
const (
	PlanConsole = "console" // Pro, over OAuth
	PlanMax     = "max"     // Max, over OAuth
	PlanAPI     = "api"     // an API key
)

// Account describes an account of the fake service.
type Account struct {
	Name      string
	Plan      string        // PlanConsole unless set
	TokenLife time.Duration // of access tokens; default 8 h

	// Windows limit what the account can use; nil means the plan's usual ones,
	// wide enough for any test: 5h, 7d and 7d_oi, for API keys requests,
	// input-tokens and output-tokens per minute.
	Windows []Window

	// ExtraUsage serves requests beyond a spent window for money, as an account
	// does that has overage switched on.
	ExtraUsage bool

	// Families are the model families that the account may use, such as
	// "sonnet". Nil means all, as the service itself has it today.
	Families []string
}

// Credentials of an account: Access and Refresh, or APIKey.
type Credentials struct {
	AccountUUID     string
	Access, Refresh secret.String
	APIKey          secret.String
	ExpiresAt       time.Time // of Access
}

// account is an Account and its state.
type account struct {
	Account
	uuid, organization string

	held                        atomic.Bool
	requests, refreshes, reuses atomic.Int64

	mu        sync.Mutex
	windows   []*usageWindow
	prompts   map[[sha256.Size]byte]int // cached prompts, in tokens
	resources []*resource               // oldest first
	apiKey    string
	issued    int           // numbers the credentials
	access    []*credential // newest last
	grants    []*grant
}

// A grant is one login: a chain of refresh tokens of which only the last works.
type grant struct {
	refresh string
	dead    bool
}

// A credential is what the service knows about a string that it once issued.
type credential struct {
	kind    credentialKind
	account *account
	grant   *grant // nil for API keys
	value   string
	expires atomic.Int64 // Unix nanoseconds; access tokens only
	revoked atomic.Bool
}

type credentialKind int

const (
	accessToken credentialKind = iota
	refreshToken
	apiKey
)

// keptTokens is how many of an account's access tokens still get an answer that
// says what is wrong with them; older ones are unknown.
const keptTokens = 16

// AddAccount adds an account and returns its credentials. It panics if the name
// is taken.
func (s *Simulator) AddAccount(a Account) Credentials {
	c, err := s.add(a)
	if err != nil {
		panic("simulator: " + err.Error())
	}
	return c
}

func (s *Simulator) add(settings Account) (Credentials, error) {
	switch settings.Plan {
	case "":
		settings.Plan = PlanConsole
	case PlanConsole, PlanMax, PlanAPI:
	default:
		return Credentials{}, fmt.Errorf("the plan %q of %q is not console, max or api", settings.Plan, settings.Name)
	}
	if settings.TokenLife == 0 {
		settings.TokenLife = 8 * time.Hour
	}
	a := &account{
		Account:      settings,
		uuid:         s.uuid("account", settings.Name),
		organization: s.uuid("organization", settings.Name),
		windows:      usageWindows(settings),
		prompts:      make(map[[sha256.Size]byte]int),
	}

	s.mu.Lock()
	taken := slices.ContainsFunc(s.accounts, func(b *account) bool { return b.Name == a.Name })
	if !taken {
		s.accounts = append(s.accounts, a)
	}
	s.mu.Unlock()
	if taken {
		return Credentials{}, fmt.Errorf("the account %q exists already", a.Name)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Plan == PlanAPI {
		a.apiKey = s.token("sk-ant-api03-", a)
		s.credentials.Store(a.apiKey, &credential{kind: apiKey, account: a, value: a.apiKey})
	} else {
		s.issue(a, &grant{})
	}
	return a.credentials(), nil
}

// Credentials returns an account's newest credentials. It panics, like all
// methods that take a name, if there is no such account.
func (s *Simulator) Credentials(name string) Credentials {
	a := s.mustFind(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credentials()
}

// ExpireAccess lets the account's access tokens be past their time.
func (s *Simulator) ExpireAccess(name string) {
	past := s.now().Add(-time.Second).UnixNano()
	s.eachAccess(name, func(c *credential) { c.expires.Store(past) })
}

// RevokeAccess revokes the account's access tokens; refreshing still works.
func (s *Simulator) RevokeAccess(name string) {
	s.eachAccess(name, func(c *credential) { c.revoked.Store(true) })
}

// KillRefresh makes the account's refresh tokens invalid: refreshing answers
// invalid_grant until someone logs in anew.
func (s *Simulator) KillRefresh(name string) {
	a := s.mustFind(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.grants {
		g.dead = true
	}
}

// Hold puts the account's organization on hold: neither calls nor refreshes are
// served until Release.
func (s *Simulator) Hold(name string) { s.mustFind(name).held.Store(true) }

// Release ends a Hold.
func (s *Simulator) Release(name string) { s.mustFind(name).held.Store(false) }

// Refreshes returns how often the account's tokens were refreshed.
func (s *Simulator) Refreshes(name string) int { return int(s.mustFind(name).refreshes.Load()) }

// Reuses returns how often a spent refresh token of the account was presented.
func (s *Simulator) Reuses(name string) int { return int(s.mustFind(name).reuses.Load()) }

// issue gives the account a new pair of tokens on a grant. a.mu is held.
func (s *Simulator) issue(a *account, g *grant) {
	if !slices.Contains(a.grants, g) {
		a.grants = append(a.grants, g)
	}
	access := &credential{kind: accessToken, account: a, grant: g, value: s.token("sk-ant-oat01-", a)}
	access.expires.Store(s.now().Add(a.TokenLife).UnixNano())
	a.access = append(a.access, access)
	if len(a.access) > keptTokens {
		s.credentials.Delete(a.access[0].value)
		a.access = slices.Delete(a.access, 0, 1)
	}
	g.refresh = s.token("sk-ant-ort01-", a)
	s.credentials.Store(access.value, access)
	s.credentials.Store(g.refresh, &credential{kind: refreshToken, account: a, grant: g, value: g.refresh})
}

// credentials returns the newest ones. a.mu is held.
func (a *account) credentials() Credentials {
	c := Credentials{AccountUUID: a.uuid}
	if a.Plan == PlanAPI {
		c.APIKey = secret.New(a.apiKey)
		return c
	}
	last := a.access[len(a.access)-1]
	c.Access = secret.New(last.value)
	c.Refresh = secret.New(last.grant.refresh)
	c.ExpiresAt = time.Unix(0, last.expires.Load())
	return c
}

func (s *Simulator) eachAccess(name string, do func(*credential)) {
	a := s.mustFind(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.access {
		do(c)
	}
}

func (s *Simulator) account(name string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.accounts, func(a *account) bool { return a.Name == name }); i >= 0 {
		return s.accounts[i]
	}
	return nil
}

func (s *Simulator) mustFind(name string) *account {
	a := s.account(name)
	if a == nil {
		panic(fmt.Sprintf("simulator: there is no account %q", name))
	}
	return a
}

// lookup returns what is known about a raw credential, or nil.
func (s *Simulator) lookup(raw string) *credential {
	if c, ok := s.credentials.Load(raw); ok {
		return c.(*credential)
	}
	return nil
}

// token makes an account's next credential, as long as a real one. a.mu is held.
func (s *Simulator) token(prefix string, a *account) string {
	a.issued++
	sum := sha512.Sum512(fmt.Appendf(nil, "%d\x00%s\x00%s\x00%d", s.opts.Seed, prefix, a.Name, a.issued))
	return prefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

// uuid derives a version 4 UUID from what it is for.
func (s *Simulator) uuid(what, name string) string {
	b := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", s.opts.Seed, what, name))
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// newID makes an id such as msg_…, unique in this simulator.
func (s *Simulator) newID(prefix string) string {
	n := s.ids.Add(1)
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%d", s.opts.Seed, prefix, n))
	return fmt.Sprintf("%s01%x", prefix, sum[:11])
}
