package selection

import (
	"time"

	"github.com/claude-balancer/claude-balancer/anthropic"
)

// Policy chooses among candidates. It is a pure function: what it needs to
// remember between picks, the pool counts in Candidate, and chance comes in
// as Request.Rand, so a reload or a second site changes nothing.
type Policy interface {
	// Select returns the index of the candidate to use. There is at least one.
	Select(r *Request, candidates []Candidate) int
}

// Scorer is a Policy that ranks by a number; the candidate with the lowest is
// chosen. It makes explanations richer.
type Scorer interface {
	Score(r *Request, c *Candidate) float64
}

// Candidate is what a policy sees of an account that may serve the request.
type Candidate struct {
	Name     string
	Tries    int     // in the rolling five hours
	InFlight int     // running now
	LastUsed int64   // start of the last try, nanoseconds since the epoch; 0 = never
	Turn     float64 // its place in a weighted round: grows by 1/Weight with each try
	Priority int     // lower first
	Weight   int     // at least 1
	// Headroom is what is left of the account's tightest window per second to
	// that window's reset, times the tier's factor; +Inf when no window is known.
	Headroom float64

	member *member
}

// Request is what selection needs to know of a request.
type Request struct {
	Model   string // "" = none named
	Family  anthropic.Family
	Session string // affinity key; "" = none
	// Keep is how long an unused session stays with its account.
	Keep time.Duration
	// Generative requests draw on usage windows and so respect limits; lists,
	// files and batches do not.
	Generative bool
	Owner      string            // id of the account that owns the named resource; "" = any
	Client     string            // name of the client key, for fair queueing
	Allowed    func(string) bool // by account name; nil = all
	Rand       uint64            // drawn once for each pick by the pool

	access *modelAccess
}
