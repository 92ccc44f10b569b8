package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// TestPolicyAndConditions: what keeps a run from starting, growing and going on.
func TestPolicyAndConditions(t *testing.T) {
	const now = 10 * time.Minute
	limits := Limits{}.WithDefaults()
	wall := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	spec := trainSpec("aaaaaaaa", 1, 2, 4)
	policy := func(q schemas.Quota) *schemas.Policy {
		return &schemas.Policy{Pool: "cpu", Tenants: map[string]schemas.Quota{schemas.AnyTenant: q}}
	}
	later, after, bounded := *spec, *spec, *spec
	later.NotBefore = wall.Add(time.Minute)
	after.After = []schemas.Dependency{{Run: "pppppppp"}}
	bounded.MaxRuntimeS = 60
	any := after
	any.After = []schemas.Dependency{{Run: "pppppppp", On: "any"}}
	parent := func(s *schemas.RunSpec, state schemas.RunState) Run {
		return Run{Spec: s, Parents: map[string]schemas.RunState{"pppppppp": state}}
	}
	growing := func(holders ...int) Run {
		r := gangRun(spec, true, 1, 1)
		for seat := 2; seat < 4; seat++ {
			s := schemas.Seat{Seat: seat, Issue: 2}
			r.Head.Seats = append(r.Head.Seats, s)
			c := Claim{Known: now, WasPublished: true, Published: now}
			if slices.Contains(holders, seat) {
				c.Holder, c.Seen, c.Ever = &lease.Owner{Issue: 2}, now, true
			}
			r.Claims[ClaimKey{"tune", seat, 2}] = c
		}
		r.Head.LastIssue = 2
		return r
	}
	steady := func() Run {
		r := gangRun(spec, true, 1, 1)
		r.Steady = limits.Grow
		return r
	}
	with := func(v *View, edit func(v *View)) *View {
		edit(v)
		return v
	}
	tests := []struct {
		name   string
		view   *View
		want   []Kind
		reason string
	}{
		{"not before its time", viewOf(4, Run{Spec: &later}), nil, "waiting until 2026-11-25T12:01:00Z"},
		{"at its time", with(viewOf(4, Run{Spec: &later}), func(v *View) { v.Wall = wall.Add(time.Minute) }), []Kind{ActTurn}, ""},
		{"parent unknown", viewOf(4, Run{Spec: &after}), nil, "waiting for run pppppppp"},
		{"parent running", viewOf(4, parent(&after, schemas.RunRunning)), nil, "waiting for run pppppppp"},
		{"parent succeeded", viewOf(4, parent(&after, schemas.RunSucceeded)), []Kind{ActTurn}, ""},
		{"parent failed", viewOf(4, parent(&after, schemas.RunFailed)), []Kind{ActSkip}, "run pppppppp, which must succeed first, is failed"},
		{"parent failed, any end will do", viewOf(4, parent(&any, schemas.RunFailed)), []Kind{ActTurn}, ""},
		{"parent skipped", viewOf(4, parent(&after, schemas.RunSkipped)), []Kind{ActSkip}, ""},
		{"the bound of the running time", with(viewOf(2, gangRun(&bounded, true, 1, 1)), func(v *View) { v.Runs[0].Age = time.Minute }), []Kind{ActFail}, "max_runtime_s"},
		{"within it", with(viewOf(2, gangRun(&bounded, true, 1, 1)), func(v *View) { v.Runs[0].Age = time.Minute - 1 }), nil, "training"},
		{"a cordoned pool", with(viewOf(4, Run{Spec: spec}), func(v *View) { v.Policy = &schemas.Policy{Cordon: true} }), nil, "is cordoned"},
		{"a cordoned pool and a gang", with(viewOf(4, steady()), func(v *View) { v.Policy = &schemas.Policy{Cordon: true} }), nil, "training"},
		{"a drained pool", with(viewOf(2, steady()), func(v *View) { v.Policy = &schemas.Policy{Drain: true} }), []Kind{ActPreempt}, "the pool is drained"},
		{"running runs", with(viewOf(9, Run{Spec: spec}, gangRun(trainSpec("bbbbbbbb", 1, 1, 1), true, 1)), func(v *View) { v.Policy = policy(schemas.Quota{Running: 1}) }),
			nil, "tenant t runs 1 of at most 1 runs"},
		{"devices", with(viewOf(9, Run{Spec: spec}, gangRun(trainSpec("bbbbbbbb", 1, 1, 1), true, 1)), func(v *View) { v.Policy = policy(schemas.Quota{Devices: 2}) }),
			nil, "tenant t has 1 of at most 2 devices"},
		{"devices bound the gang", with(viewOf(9, Run{Spec: spec}), func(v *View) { v.Policy = policy(schemas.Quota{Devices: 3}) }), []Kind{ActTurn}, "has the turn for 3 seats"},
		{"device-hours of the month", with(viewOf(9, Run{Spec: spec}), func(v *View) {
			v.Policy = policy(schemas.Quota{DeviceHours: 2})
			v.Ledger.Month, v.Ledger.Spent = "2026-11", map[string]float64{"t": 7200}
		}), nil, "has used its 2 device-hours of 2026-11"},
		{"device-hours of another month", with(viewOf(9, Run{Spec: spec}), func(v *View) {
			v.Policy = policy(schemas.Quota{DeviceHours: 2})
			v.Ledger.Month, v.Ledger.Spent = "2026-10", map[string]float64{"t": 7200}
		}), []Kind{ActTurn}, ""},
		{"a gang is offered idle workers", viewOf(4, steady()), []Kind{ActGrow}, "2 more workers are offered"},
		{"not while another waits for more", viewOf(4, steady(), Run{Spec: trainSpec("bbbbbbbb", 3, 3, 3)}), nil, ""},
		{"not before it is steady", viewOf(4, gangRun(spec, true, 1, 1)), nil, ""},
		{"offered seats wait for holders", viewOf(4, growing(2)), nil, "training"},
		{"all offered seats have one", viewOf(4, growing(2, 3)), []Kind{ActRegroup}, "asked to form again with 4 seats instead of 2"},
		{"offered seats find nobody", with(viewOf(4, growing(2)), func(v *View) { v.Runs[0].Growing = limits.Forming }), []Kind{ActShed}, "1 offered seats found no worker"},
		{"the gang has committed", with(viewOf(4, growing(2, 3)), func(v *View) {
			v.Runs[0].Head.Control, v.Runs[0].Head.Members = schemas.ControlRegroup, nil
		}), []Kind{ActRegrouped}, "forms again with 4 seats"},
		{"the gang has not committed yet", with(viewOf(4, growing(2, 3)), func(v *View) { v.Runs[0].Head.Control = schemas.ControlRegroup }), nil, ""},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if c.view.Wall.IsZero() {
				c.view.Wall = wall
			}
			for i := range c.view.Runs {
				c.view.Runs[i].CountHeld()
			}
			d := Decide(c.view, now)
			if !slices.Equal(kinds(d), c.want) {
				t.Fatalf("actions %v, want %v; reasons %v", kinds(d), c.want, d.Reasons)
			}
			if why := d.Reasons["t/aaaaaaaa"]; !strings.Contains(why, c.reason) {
				t.Fatalf("reason %q, want %q", why, c.reason)
			}
			for _, a := range d.Actions {
				if r := c.view.Runs[0]; r.Head != nil && a.Run == r.Spec.ID && a.Kind != ActTurn {
					if err := Transition(clone(r.Head), a, wall); err != nil {
						t.Fatalf("%s does not apply: %v", a.Kind, err)
					}
				}
			}
		})
	}
}

// TestGrowthKeepsTheGeneration: seats that are offered and dropped again touch neither members nor issues of the others.
func TestGrowthKeepsTheGeneration(t *testing.T) {
	r := gangRun(trainSpec("aaaaaaaa", 1, 1, 3), true, 7)
	h := clone(r.Head)
	grow := Action{Kind: ActGrow, Stage: "tune", Rev: h.Rev, Seats: []schemas.Seat{{Seat: 1, Issue: 8}, {Seat: 2, Issue: 8}}}
	if err := Transition(h, grow, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if len(h.Seats) != 3 || h.LastIssue != 8 || len(h.Members) != 1 || len(h.Ended) != 0 || len(r.Head.Seats) != 1 {
		t.Fatalf("HEAD %+v, before %+v", h, r.Head)
	}
	shed := Action{Kind: ActShed, Stage: "tune", Rev: h.Rev, Seats: grow.Seats[:1]}
	if err := Transition(h, shed, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.Seats, []schemas.Seat{{Seat: 0, Issue: 7}, {Seat: 2, Issue: 8}}) || len(h.Members) != 1 || len(h.Ended) != 0 {
		t.Fatalf("HEAD %+v", h)
	}
}

// TestOrderIsFair: within a priority the tenants take turns as their shares and their use say, whoever submitted first.
func TestOrderIsFair(t *testing.T) {
	var runs []Run
	add := func(tenant string, prio, n int) {
		for i := range n {
			s := trainSpec(fmt.Sprintf("%s%07d", tenant, i), prio, 1, 1)
			s.Tenant = tenant
			runs = append(runs, Run{Spec: s, Submitted: time.Unix(int64(len(runs)), 0)})
		}
	}
	add("a", 1, 6)
	add("b", 1, 6)
	add("c", 0, 1)
	v := viewOf(0, runs...)
	v.Policy = &schemas.Policy{Tenants: map[string]schemas.Quota{"b": {Share: 2}}}
	v.Ledger.Usage = map[string]float64{"c": 1e9}
	d := newDecider(v, 0)
	got := ""
	for _, r := range d.order() {
		got += r.Spec.Tenant
	}
	if want := "cabbabbabbaa" + "a"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	v.Ledger.Usage["a"] = 3 * v.Limits.Quantum.Seconds()
	if got := newDecider(v, 0).order()[1:7]; got[5].Spec.Tenant != "b" {
		t.Errorf("a tenant that has used much is served before one that has used nothing: %v", got[5].Spec.Tenant)
	}
}
