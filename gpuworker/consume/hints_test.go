package consume

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
)

// offered is a delivery of a seat that names who held it.
type offered struct {
	queue.Delivery
	m    schemas.Message
	warm string
}

func (o offered) Message() schemas.Message  { return o.m }
func (o offered) Header() map[string]string { return map[string]string{schemas.HeaderWarm: o.warm} }

func seatOf(run string, seat int, issue uint64, warm string) offered {
	return offered{warm: warm, m: schemas.Message{Kind: schemas.KindTrain, Tenant: "t", Run: run, Stage: "tune", Seat: seat, Issue: issue}}
}

func TestHints(t *testing.T) {
	now := time.Unix(1000, 0)
	const hintDelay = time.Second
	h := hints{delay: hintDelay}
	part := seatOf("r", 0, 1, "a,b")
	part.m.Kind = schemas.KindPrep
	for name, c := range map[string]struct {
		d      offered
		worker string
		want   bool
	}{
		"a seat that nobody held":   {seatOf("r", 0, 1, ""), "c", false},
		"one of those who held it":  {seatOf("r", 0, 1, "a,b"), "b", false},
		"a name that is a part":     {seatOf("r1", 0, 1, "worker-10,b"), "worker-1", true},
		"a part of another stage":   {part, "c", false},
		"somebody else, first seen": {seatOf("r", 0, 2, "a,b"), "c", true},
	} {
		if got := h.leave(c.d, c.worker, now); got != c.want {
			t.Errorf("%s: left to others %v, want %v", name, got, c.want)
		}
	}
	if !h.leave(seatOf("r", 1, 2, "a,b"), "c", now.Add(hintDelay-1)) {
		t.Error("another seat of the offer was taken before those who held it had their time")
	}
	if h.leave(seatOf("r", 1, 2, "a,b"), "c", now.Add(hintDelay)) {
		t.Error("an offer was left for longer than its time")
	}
	if !h.leave(seatOf("r", 1, 3, "a,b"), "c", now.Add(hintDelay)) {
		t.Error("seats that were given out anew are no new offer")
	}
	for i := range uint64(3 * maxHints) {
		h.leave(seatOf("r", 0, 10+i, "a"), "c", now)
	}
	if len(h.since) > maxHints {
		t.Errorf("%d offers are remembered, at most %d may be", len(h.since), maxHints)
	}
}

// TestHintsStarveNobody: whoever held seats and whoever is left, each seat is taken, by one worker, at most two delays after it was offered; by
// one of those who held it when enough of them are there.
func TestHintsStarveNobody(t *testing.T) {
	const hintDelay = 300 * time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		seats := rapid.IntRange(1, 5).Draw(t, "seats")
		workers := rapid.IntRange(seats, 8).Draw(t, "workers")
		warm := rapid.SliceOfNDistinct(rapid.IntRange(0, 12), seats, seats, rapid.ID[int]).Draw(t, "warm") // some of them are gone
		names, there := "", 0
		for _, w := range warm {
			names += fmt.Sprintf(",w%d", w)
			if w < workers {
				there++
			}
		}
		type puller struct {
			hints hints
			until time.Time // pauses
			holds bool
		}
		pull := make([]puller, workers)
		for i := range pull {
			pull[i].hints.delay = hintDelay
		}
		queued := map[int]bool{}
		for s := range seats {
			queued[s] = true
		}
		start := time.Unix(0, 0)
		held := map[int]int{}
		for now := start; len(queued) > 0; now = now.Add(time.Millisecond) {
			if now.Sub(start) > 2*hintDelay {
				t.Fatalf("seats %v of %d are not taken after %s; %d workers, %d of those who held them are there", queued, seats, now.Sub(start), workers, there)
			}
			for _, w := range rapid.Permutation(indices(workers)).Draw(t, "order")[:1] { // who pulls in this millisecond
				for s := range queued {
					p := &pull[w]
					if p.holds || p.until.After(now) {
						break
					}
					if p.hints.leave(seatOf("r", s, 1, names), fmt.Sprintf("w%d", w), now) {
						p.until = now.Add(hintDelay)
						break
					}
					p.holds = true
					delete(queued, s)
					held[w]++
				}
			}
		}
		for w, n := range held {
			if n != 1 {
				t.Fatalf("worker %d holds %d seats", w, n)
			}
		}
	})
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
