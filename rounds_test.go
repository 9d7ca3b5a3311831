package claudebalancer

import (
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// A round must not wait for accounts that it has tried already: they come with
// the next one.
func TestABurstOfEveryAccountIsWaitedOutAndNoLonger(t *testing.T) {
	t.Parallel()
	r := preferring(t, "a", "b")
	r.sim.Script("", simulator.Step{Times: 2, Do: simulator.Burst(time.Second)})
	begin := time.Now()
	r.message(sonnet).mustBe(t, 200)
	if took := time.Since(begin); took < time.Second || took > 30*time.Second {
		t.Errorf("answered after %s, but the burst was over after a second", took)
	}
	if row := r.last(); len(row.Attempts) != 3 {
		t.Errorf("attempts %+v, want both accounts and one of them again", row.Attempts)
	}
}
