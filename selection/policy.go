package selection

import (
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// Policy chooses among candidates. It is a pure function: what it needs to
// remember between picks, the pool counts in Candidate, and time and chance
// come in with the Request, so a reload or a second site changes nothing.
type Policy interface {
	// Select returns the index of the candidate to use. There is at least one.
	Select(r *Request, candidates []*Candidate) int
}

// Scorer is a Policy that ranks by a number; the candidate with the lowest is
// chosen. It makes explanations richer.
type Scorer interface {
	Score(r *Request, c *Candidate) float64
}

// Candidate is what a policy sees of an account that may serve the request. It
// is the pool's: read it during Select only, and do not change it.
type Candidate struct {
	Tries    int      // in the rolling five hours
	InFlight int      // running now
	LastUsed int64    // start of the last try, nanoseconds since the epoch; 0 = never
	Turn     float64  // its place in a weighted round: grows by 1/Weight with each try
	Weight   int      // at least 1
	Priority int      // lower first
	Windows  []Window // as last told; some may be over
	Tier     string   // the provider's name for the size of its windows; "" = unknown
	Name     string

	member *member
}

// Request is what selection needs to know of a request. One that waits or holds
// a ticket is the pool's: do not change it meanwhile.
type Request struct {
	Model   string // "" = none named
	Family  anthropic.Family
	Session string // affinity key; "" = none
	// Keep is how long an unused session stays with its account.
	Keep time.Duration
	// WaitUntil is how long the session rather waits for its account, when that
	// rests after a burst, than lose its prompt cache elsewhere; zero = it does not.
	WaitUntil time.Time
	// Generative requests draw on usage windows and so respect limits; lists,
	// files and batches do not.
	Generative bool
	Owner      string            // id of the account that owns the named resource; "" = any
	Client     string            // name of the client key, for fair queueing
	Allowed    func(string) bool // by account name; nil = all

	// Set by the pool for each pick.
	Now  time.Time
	Rand uint64

	access *modelAccess
	first  Ticket // room for the first one; few requests get another
}
