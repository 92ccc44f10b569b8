package consume

import (
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

func TestMuster(t *testing.T) {
	m := schemas.Message{Tenant: "t", Run: "r", Stage: "tune"}
	head := &schemas.Head{Generation: 3, Seats: []schemas.Seat{{Seat: 1, Issue: 5}, {Seat: 0, Issue: 2}}}
	a := lease.Owner{Worker: "a", Incarnation: "ia", Issue: 2}
	b := lease.Owner{Worker: "b", Incarnation: "ib", Issue: 5}
	good := func() ([]lease.Address, map[string]lease.Owner) {
		return []lease.Address{{Owner: b, Seat: 1, Addr: "b:1", After: 3}, {Owner: a, Seat: 0, Addr: "a:1", After: 4}},
			map[string]lease.Owner{schemas.LeaseKey("t", "r", "tune", 0): a, schemas.LeaseKey("t", "r", "tune", 1): b}
	}
	offers, holders := good()
	members, _, ok := muster(head, offers, holders, m)
	if !ok || len(members) != 2 || members[0].Addr != "a:1" || members[0].Rank != 0 || members[1].Seat != 1 || members[1].Issue != 5 {
		t.Fatalf("members %+v, %v", members, ok)
	}
	for name, spoil := range map[string]func(o []lease.Address, h map[string]lease.Owner) []lease.Address{
		"a seat is missing":        func(o []lease.Address, _ map[string]lease.Owner) []lease.Address { return o[:1] },
		"an offer is of old issue": func(o []lease.Address, _ map[string]lease.Owner) []lease.Address { o[0].Owner.Issue = 4; return o },
		"an offer is from before":  func(o []lease.Address, _ map[string]lease.Owner) []lease.Address { o[1].After = 2; return o },
		"a holder is gone": func(o []lease.Address, h map[string]lease.Owner) []lease.Address {
			delete(h, schemas.LeaseKey("t", "r", "tune", 1))
			return o
		},
		"the offer is of a dead incarnation": func(o []lease.Address, h map[string]lease.Owner) []lease.Address {
			o[0].Owner.Incarnation = "before"
			return o
		},
		"arithmetic differs": func(o []lease.Address, _ map[string]lease.Owner) []lease.Address { o[1].Numerics = "other"; return o },
	} {
		offers, holders := good()
		if _, _, ok := muster(head, spoil(offers, holders), holders, m); ok {
			t.Errorf("a gang was mustered although %s", name)
		}
	}
}

func TestOutdated(t *testing.T) {
	m := schemas.Message{Tenant: "t", Run: "r", Stage: "tune", Seat: 1, Issue: 5}
	fresh := func() *schemas.Head {
		return &schemas.Head{State: schemas.RunRunning, Stage: "tune", Generation: 3, Seats: []schemas.Seat{{Seat: 0, Issue: 2}, {Seat: 1, Issue: 5}},
			Members: []schemas.Member{{Rank: 0, Seat: 0, Issue: 2, Incarnation: "a"}, {Rank: 1, Seat: 1, Issue: 5, Incarnation: "b"}}}
	}
	own := fresh()
	if r := outdated(fresh(), own, m, "b"); r != "" {
		t.Fatalf("a current generation is called outdated: %s", r)
	}
	for name, change := range map[string]func(h *schemas.Head){
		"cancelled":             func(h *schemas.Head) { h.State = schemas.RunCancelled },
		"seat issued again":     func(h *schemas.Head) { h.Seats[1].Issue = 6 },
		"seat not wanted":       func(h *schemas.Head) { h.Seats = h.Seats[:1] },
		"peer's seat reissued":  func(h *schemas.Head) { h.Seats[0].Issue = 7 },
		"newer generation":      func(h *schemas.Head) { h.Generation = 4 },
		"generation ended":      func(h *schemas.Head) { h.Members = nil },
		"another incarnation":   func(h *schemas.Head) { h.Members[1].Incarnation = "c" },
		"members are malformed": func(h *schemas.Head) { h.Members[0].Rank = 9 },
	} {
		h := fresh()
		change(h)
		if r := outdated(h, own, m, "b"); r == "" {
			t.Errorf("%s: not noticed", name)
		}
	}
}
