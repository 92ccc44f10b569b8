package control

import (
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestDrainedWorker: a gang with a member on a drained worker is asked to yield, whatever else it does; others are left alone, and so is a
// gang whose worker is only cordoned.
func TestDrainedWorker(t *testing.T) {
	const now = 10 * time.Minute
	gang := func() *View {
		r := gangRun(trainSpec("aaaaaaaa", 1, 2, 2), true, 1, 1)
		for i := range r.Head.Members {
			r.Head.Members[i].Worker = []string{"a", "b"}[i]
		}
		v := viewOf(2, r)
		v.Runs[0].CountHeld()
		return v
	}
	for _, c := range []struct {
		name   string
		policy schemas.Policy
		asks   bool
	}{
		{"drained", schemas.Policy{DrainedWorkers: []string{"b"}}, true},
		{"another one", schemas.Policy{DrainedWorkers: []string{"c"}}, false},
		{"cordoned", schemas.Policy{Workers: []string{"b"}}, false},
	} {
		v := gang()
		v.Policy = &c.policy
		d := Decide(v, now)
		if asks := len(d.Actions) == 1 && d.Actions[0].Kind == ActPreempt && strings.Contains(d.Actions[0].Reason, "worker b is drained"); asks != c.asks || !asks && len(d.Actions) > 0 {
			t.Errorf("%s: %+v", c.name, d.Actions)
		}
		if !c.policy.Cordons("b") && c.asks {
			t.Errorf("%s: the worker may get new work", c.name)
		}
	}
	// Asked already: nothing more until it has committed, then it gives its seats back.
	v := gang()
	v.Policy = &schemas.Policy{DrainedWorkers: []string{"a"}}
	v.Runs[0].Head.Control = schemas.ControlPreempt
	if d := Decide(v, now); len(d.Actions) != 0 || !strings.Contains(d.Reasons["t/aaaaaaaa"], "worker a is drained") {
		t.Errorf("%+v, reasons %v", d.Actions, d.Reasons)
	}
	v.Runs[0].Head.Members = nil
	if d := Decide(v, now); len(d.Actions) == 0 || d.Actions[0].Kind != ActGiveBack {
		t.Errorf("%+v", d.Actions)
	}
}
