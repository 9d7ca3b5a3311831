package simulator

// Scripted answers: which request gets which behaviour.

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Step says how the next matching requests are answered: by Do if it is set,
// else with Status, Header and Body if Status is set, else as usual, with Header
// added to the answer.
type Step struct {
	// Path is a prefix of the paths that match. "" matches the API but no login
	// or refresh: those must be named, as OAuthTokenPath.
	Path string

	Times  int // how many requests; 0 is one, below 0 all from now on
	Status int
	Header http.Header
	Body   string        // "" with a Status from 400 on: the status's usual error
	Delay  time.Duration // before the answer, in real time
	Do     Behaviour
}

// A Behaviour answers a request. Calling Next on the exchange gives the usual
// answer, so a Behaviour can also do something before or after it.
type Behaviour func(*Exchange)

// scripted is a Step that waits for its requests.
type scripted struct {
	Step
	account string
	left    int // below 0: no end
}

// Script appends steps for an account's requests, or for everyone's if account
// is "". A request takes the first step that matches it, the account's own steps
// before everyone's.
func (s *Simulator) Script(account string, steps ...Step) {
	if account != "" {
		s.mustFind(account)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range steps {
		left := step.Times
		if left == 0 {
			left = 1
		}
		s.scripts = append(s.scripts, &scripted{step, account, left})
	}
	s.pending.Store(int64(len(s.scripts)))
}

// Unscript removes the steps of an account, or everyone's if account is "".
func (s *Simulator) Unscript(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeScripts(func(c *scripted) bool { return c.account == account })
}

// removeScripts drops steps. s.mu is held.
func (s *Simulator) removeScripts(drop func(*scripted) bool) {
	s.scripts = slices.DeleteFunc(s.scripts, drop)
	s.pending.Store(int64(len(s.scripts)))
}

// nextStep takes the step that a request gets, or nil.
func (s *Simulator) nextStep(x *Exchange) *Step {
	if s.pending.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.firstMatch(x.Account, x.Request.URL.Path)
	if c == nil && x.Account != "" {
		c = s.firstMatch("", x.Request.URL.Path)
	}
	if c == nil {
		return nil
	}
	if c.left > 0 {
		c.left--
	}
	if c.left == 0 {
		s.removeScripts(func(other *scripted) bool { return other == c })
	}
	return &c.Step
}

func (s *Simulator) firstMatch(account, path string) *scripted {
	for _, c := range s.scripts {
		if c.account == account && c.matches(path) {
			return c
		}
	}
	return nil
}

func (c *scripted) matches(path string) bool {
	if c.Path == "" {
		return !isOAuth(path)
	}
	return strings.HasPrefix(path, c.Path)
}

// run answers a request as the step says.
func (step *Step) run(x *Exchange) {
	if step.Delay > 0 && !x.wait(step.Delay) {
		return
	}
	x.AddHeader(step.Header)
	switch {
	case step.Do != nil:
		step.Do(x)
	case step.Status == 0:
		x.Next()
	case step.Body != "" || step.Status < 400:
		x.send(step.Status, "application/json", []byte(step.Body))
	default:
		x.fail(errorFor(step.Status))
	}
}
