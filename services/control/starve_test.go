package control

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
)

// seeded gives the property tests a seed where none was asked for, and prints it: -rapid.seed with it repeats what was tried, also when
// nothing failed.
func seeded(t *testing.T) {
	t.Helper()
	f := flag.Lookup("rapid.seed")
	if f == nil {
		t.Fatal("rapid has no flag for its seed")
	}
	if f.Value.String() == "0" {
		seed := 1 + rand.Uint64N(1<<62) //nolint:gosec // not a secret
		if err := f.Value.Set(strconv.FormatUint(seed, 10)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Value.Set("0") })
	}
	t.Logf("random worlds of -rapid.seed=%s", f.Value)
}

// oneSeat checks that nobody is in two places: no worker holds two members' seats, no seat has two members, and no more seats have members
// than there are workers.
func (s *sim) oneSeat() {
	at := map[string]string{}
	for _, r := range s.runs {
		if r.head == nil || r.head.State.Terminal() {
			continue
		}
		taken := map[int]bool{}
		for _, m := range r.head.Members {
			if taken[m.Seat] {
				s.t.Fatalf("seat %d of run %s has two members", m.Seat, r.spec.ID)
			}
			taken[m.Seat] = true
			if s.holder(r, ClaimKey{r.head.Stage, m.Seat, m.Issue}) == nil {
				continue // dead: its lease has not lapsed yet
			}
			if other := at[m.Worker]; other != "" {
				s.t.Fatalf("worker %s is a member of %s and of %s", m.Worker, other, r.spec.ID)
			}
			at[m.Worker] = r.spec.ID
		}
	}
}

// TestNoGangStarves: whatever small gangs keep coming, of the same priority or a lower one and of any tenant, a gang that wants every worker
// starts within a bound: what is kept free for it after Reserve, and the yield of those that started meanwhile. The small ones start as
// well, and no worker is ever booked twice.
func TestNoGangStarves(t *testing.T) {
	seeded(t)
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t)
		workers := rapid.IntRange(2, 5).Draw(t, "workers")
		for range workers {
			s.addWorker()
		}
		prio := rapid.IntRange(0, 3).Draw(t, "priority")
		small := func(i int) {
			n := rapid.IntRange(1, workers-1).Draw(t, "world")
			spec := simSpec(fmt.Sprintf("small%05d", i), rapid.IntRange(prio, 3).Draw(t, "lower"), n, n)
			spec.Tenant = fmt.Sprintf("t%d", i%3)
			spec.Stages = spec.Stages[1:2]
			spec.Stages[0].Needs = nil
			s.submit(spec)
		}
		next := 0
		for range workers {
			small(next)
			next++
		}
		slow := rapid.IntRange(2, 20).Draw(t, "ticks a commit")
		beat := func(i int) {
			s.tick(0)
			for _, n := range s.names() {
				s.pull(n)
				// A gang commits now and then; what holds an obsolete message, or forms, does so at once.
				if m := s.workers[n]; m != nil {
					if r := s.find(m.Run); s.obsolete(r, *m) || len(r.head.Members) == 0 || i%slow == 0 {
						s.work(n, false)
					}
				}
			}
			s.oneSeat()
			s.invariants()
			if s.ledger.Usage == nil {
				s.ledger.Usage = map[string]float64{}
			}
			for _, r := range s.runs {
				if r.head != nil {
					s.ledger.Usage[r.spec.Tenant] += simTick.Seconds() * float64(len(r.head.Members))
				}
			}
		}
		for i := range 20 {
			beat(i)
		}
		big := simSpec("big00000", prio, workers, workers)
		big.Tenant = "patient"
		big.Stages = big.Stages[1:2]
		big.Stages[0].Needs = nil
		s.submit(big)
		r := s.find(big.ID)
		since, started := s.now, false
		bound := s.limits.Reserve + s.limits.PauseGrace + s.limits.Forming + time.Duration(8*slow)*simTick
		for i := 0; !started && s.now-since <= bound; i++ {
			if open := s.openSmall(); open < 2*workers {
				small(next)
				next++
			}
			beat(i)
			started = r.head != nil && (len(r.head.Members) > 0 || r.head.Step > 0)
		}
		if !started {
			t.Fatalf("the gang of %d waits for over %s: HEAD %+v, turn %+v", workers, bound, r.head, s.ledger.Turn)
		}
		// Nobody is left behind when no more come.
		for i := range 1500 {
			beat(i)
		}
		for _, r := range s.runs {
			if r.head == nil || r.head.State != schemas.RunSucceeded {
				t.Fatalf("run %s does not end: HEAD %+v, turn %+v", r.spec.ID, r.head, s.ledger.Turn)
			}
		}
	})
}

// openSmall counts the runs that are not over.
func (s *sim) openSmall() int {
	n := 0
	for _, r := range s.runs {
		if r.open {
			n++
		}
	}
	return n
}
