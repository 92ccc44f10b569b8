package control_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

// gang makes a run of prep and one train stage ("tune" ends after 4 steps, "long" never) in a pool.
func gang(t *testing.T, key, pool, stage string, least, most int) *schemas.RunSpec {
	t.Helper()
	s := spec(t, key, "prep", stage)
	s.Pool, s.AuxPool = pool, pool
	s.Stages[1].Train.World, s.Stages[1].Train.Leaves = schemas.World{Min: least, Max: most}, most
	return s
}

func formed(v *schemas.RunView) bool { return len(v.Members) > 0 }

// TestLargeGangWaitsWhileSmallOnesStart: a gang of 32 in a pool of 32 waits while gangs of 2 start before it, and starts within its bound: what
// it lets others start (Limits.Reserve), the time that they have to yield, and the time that a gang may take to form.
func TestLargeGangWaitsWhileSmallOnesStart(t *testing.T) {
	const workers = 32
	w := newWorld(t)
	l := limits()
	l.Reserve = 5 * time.Second // as long as a gang of two may take, from its submission on, on a busy machine
	for i := range workers {
		w.worker(fmt.Sprintf("w%02d", i))
	}
	// Data are prepared elsewhere: a gang that waits comes before the parts of its own pool.
	w.workerOf("prep", "p1")
	w.workerOf("prep", "p2")
	gang := func(t *testing.T, key, pool, stage string, least, most int) *schemas.RunSpec {
		s := gang(t, key, pool, stage, least, most)
		s.AuxPool = "prep"
		return s
	}
	w.controlWith("c1", w.objects, l)
	// Gangs that never end by themselves hold half of the pool before; they are not asked to yield, so they are cancelled later.
	var early []string
	for i := range workers / 4 {
		early = append(early, w.submit(gang(t, fmt.Sprint("early", i), "cpu", "long", 2, 2)))
	}
	for _, run := range early {
		w.until(run, "gang", formed)
	}
	big := w.submit(gang(t, "big", "cpu", "tune", workers, workers))
	w.until(big, "prepared data", func(v *schemas.RunView) bool { return v.Stages[0].State == schemas.StageSucceeded })
	submitted := time.Now()
	started := 0
	for i := 0; i < 6 && started < 2; i++ {
		run := w.submit(gang(t, fmt.Sprint("small", i), "cpu", "tune", 2, 2))
		v := w.until(run, "gang, or the large one's", func(v *schemas.RunView) bool {
			big := w.until(big, "view", func(*schemas.RunView) bool { return true })
			return formed(v) || v.Generation > 0 || len(big.Members) > 0 || time.Since(submitted) > l.Reserve
		})
		if v.Generation > 0 && v.Stages[1].Started.Before(submitted.Add(l.Reserve)) {
			started++
		}
	}
	if started == 0 {
		t.Error("no gang of two started while the large one waited")
	}
	if v := w.until(big, "view", func(*schemas.RunView) bool { return true }); v.Generation > 0 {
		t.Fatal("a gang of the whole pool started while others hold half of it")
	}
	for _, run := range early {
		if _, err := w.service.Cancel(t.Context(), "acme", run, ""); err != nil {
			t.Fatal(err)
		}
	}
	freed := time.Now()
	// More small ones come all the time: they must not keep the large one waiting.
	for i := range 10 {
		w.submit(gang(t, fmt.Sprint("late", i), "cpu", "tune", 2, 2))
	}
	w.until(big, "the large gang", func(v *schemas.RunView) bool { return v.Generation > 0 })
	took, bound := time.Since(freed), l.Reserve+l.PauseGrace+l.Forming
	t.Logf("%d gangs of two started before it; formed %s after the last of the gangs that were there before had gone", started, took.Round(time.Millisecond))
	if took > bound {
		t.Errorf("the large gang started after %s, its bound is %s", took, bound)
	}
	w.ends(big, schemas.RunSucceeded)
}

// cutAtTurn is a store whose connection is cut some writes after a turn of the given pool was recorded.
type cutAtTurn struct {
	store.Objects
	pool  string
	extra int
	mu    sync.Mutex
	turn  bool
	done  chan struct{}
}

func (c *cutAtTurn) Put(ctx context.Context, key string, data []byte, cond store.Condition) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn && c.extra == 0 {
		return "", fmt.Errorf("cannot put %s: %w", key, store.ErrUnavailable)
	}
	if c.turn {
		c.extra--
	}
	etag, err := c.Objects.Put(ctx, key, data, cond)
	if err == nil && key == schemas.LedgerKey(c.pool) && bytes.Contains(data, []byte(`"turn":`)) {
		c.turn = true
	}
	if c.turn && c.extra == 0 {
		select {
		case <-c.done:
		default:
			close(c.done)
		}
	}
	return etag, err
}

// TestControlKilledMidTurn: two controls share two pools; the one that gave a turn dies at that write or one of the next ones, and the other
// finishes or clears what it left, in both pools.
func TestControlKilledMidTurn(t *testing.T) {
	for extra := range 6 {
		t.Run(fmt.Sprint(extra), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, pool := range []string{"cpu", "gpu"} {
				for i := range 2 {
					w.workerOf(pool, fmt.Sprint(pool, i))
				}
			}
			first := &cutAtTurn{Objects: w.objects, pool: []string{"cpu", "gpu"}[extra%2], extra: extra, done: make(chan struct{})}
			var runs []string
			for i, pool := range []string{"cpu", "gpu", "cpu", "gpu"} {
				runs = append(runs, w.submit(gang(t, fmt.Sprint("k", i), pool, "tune", 2, 2)))
			}
			w.controlOn("c1", first)
			select {
			case <-first.done:
			case <-time.After(20 * time.Second):
				t.Fatal("the first control gives no turn")
			}
			w.control("c2")
			for _, run := range runs {
				v := w.ends(run, schemas.RunSucceeded)
				if m := v.Stages[1].Manifest; m == nil || m.Step != 4 {
					t.Errorf("run %+v", v)
				}
			}
			for _, pool := range []string{"cpu", "gpu"} {
				raw, _, err := w.objects.Get(t.Context(), schemas.LedgerKey(pool), 1<<20)
				if err != nil || !bytes.Contains(raw, []byte(`"owner":"c2"`)) {
					t.Errorf("ledger of %s: %s (%v), want it owned by c2", pool, raw, err)
				}
			}
		})
	}
}

// TestElasticGangLosesAMemberWhileAnotherForms: both end up complete: there are no two half-filled gangs.
func TestElasticGangLosesAMemberWhileAnotherForms(t *testing.T) {
	w := newWorld(t)
	kills := map[string]func(){}
	for _, n := range []string{"w1", "w2", "w3"} {
		kills[n] = w.worker(n)
	}
	w.control("c1")
	elastic := w.submit(gang(t, "elastic", "cpu", "long", 1, 3))
	before := w.until(elastic, "gang of three", func(v *schemas.RunView) bool { return len(v.Members) == 3 && v.Step > 2 })
	// w4 works; w5 is there but does not pull yet, so that the second gang is seen forming.
	w.worker("w4")
	if err := w.leases.Register(t.Context(), lease.Worker{Name: "w5", Incarnation: "w5", Pool: "cpu"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	second := w.submit(gang(t, "second", "cpu", "tune", 2, 2))
	w.until(second, "seats", func(v *schemas.RunView) bool {
		h, _, err := w.heads.Read(t.Context(), "acme", second)
		return err == nil && len(h.Seats) == 2 && len(h.Members) == 0
	})
	kills["w1"]()
	w.worker("w5")
	w.ends(second, schemas.RunSucceeded)
	after := w.until(elastic, "gang without the lost member", func(v *schemas.RunView) bool {
		return v.Generation > before.Generation && len(v.Members) > 0 && !slices.ContainsFunc(v.Members, func(m schemas.Member) bool { return m.Worker == "w1" })
	})
	step := after.Step
	w.until(elastic, "progress", func(v *schemas.RunView) bool { return v.Step > step+2 })
	if after.Step < before.Step {
		t.Errorf("committed step %d after %d", after.Step, before.Step)
	}
	if _, err := w.service.Cancel(t.Context(), "acme", elastic, ""); err != nil {
		t.Fatal(err)
	}
	w.ends(elastic, schemas.RunCancelled)
}
