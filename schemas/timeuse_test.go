package schemas_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestTimeOfARunAddsUp: whatever swaps a run's HEAD sees, in whatever order, by clocks that jump, its causes add up to its wall time and
// none is negative.
func TestTimeOfARunAddsUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		submitted := created.Add(-time.Duration(r.IntN(1e9)))
		h := &schemas.Head{State: schemas.RunRunning, Created: created, Updated: created,
			Stages: []schemas.StageState{{Name: "a", Kind: schemas.KindPrep, State: schemas.StagePending}, {Name: "b", Kind: schemas.KindTrain, State: schemas.StagePending}}}
		clock := created
		for range r.IntN(40) {
			clock = clock.Add(time.Duration(r.Int64N(int64(20*time.Second)) - int64(2*time.Second)))
			before := *h
			next := *h
			next.Stages = append([]schemas.StageState(nil), h.Stages...)
			var commit *schemas.Manifest
			switch r.IntN(7) {
			case 0:
				next.Stages[r.IntN(2)].State = []schemas.StagePhase{schemas.StageRunning, schemas.StageSucceeded}[r.IntN(2)]
			case 1:
				next.Seats = []schemas.Seat{{Seat: 0, Issue: 1}}
				next.Stage, next.Stages[1].State = "b", schemas.StageRunning
			case 2:
				next.Generation++
				next.Members = []schemas.Member{{Seat: 0, Issue: 1}}
			case 3:
				if len(h.Members) > 0 {
					commit = &schemas.Manifest{Closing: r.IntN(4) == 0, Spent: map[string]float64{schemas.TimeStep: 10 * r.Float64(), schemas.TimeCheckpoint: r.Float64()}}
					if r.IntN(3) == 0 {
						commit.Spent = nil
					}
					commit.Taken = time.Now().Add(-time.Duration(r.IntN(3e9)))
				}
			case 4:
				next.Members = nil
				next.Ended = append(next.Ended, schemas.GenerationEnd{At: clock})
			case 5:
				next.State = []schemas.RunState{schemas.RunPaused, schemas.RunRunning}[r.IntN(2)]
			case 6:
				next.Generation++
				next.Members = nil
			}
			next.Account(&before, commit, clock)
			h = &next
		}
		got := h.TimeOf(submitted, h.Updated)
		sum := 0.0
		for cause, s := range got.Seconds {
			if sum += s; s < -1e-9 {
				t.Fatalf("%g seconds of %s: %+v", s, cause, got)
			}
		}
		if wall := h.Updated.Sub(submitted).Seconds(); math.Abs(sum-wall) > 1e-6 || math.Abs(got.Wall-wall) > 1e-6 {
			t.Fatalf("causes add up to %v, the account says %v, the wall time is %v: %+v", sum, got.Wall, wall, got)
		}
		if got.Goodput < 0 || got.Goodput > 1+1e-9 || got.Training < 0 || got.Training > 1+1e-9 {
			t.Fatalf("goodput %v, training %v", got.Goodput, got.Training)
		}
	}
}

// TestTimeIsSettled follows a gang that loses what came after a commit, waits for a last commit, and yields.
func TestTimeIsSettled(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := &schemas.Head{State: schemas.RunRunning, Created: at, Updated: at, Stage: "t", Seats: []schemas.Seat{{Seat: 0, Issue: 1}},
		Stages: []schemas.StageState{{Name: "t", Kind: schemas.KindTrain, State: schemas.StageRunning, Started: at}}}
	swap := func(seconds int, commit *schemas.Manifest, change func(h *schemas.Head)) {
		at = at.Add(time.Duration(seconds) * time.Second)
		before := *h
		next := *h
		change(&next)
		next.Account(&before, commit, at)
		h = &next
	}
	form := func(h *schemas.Head) { h.Generation++; h.Members = []schemas.Member{{Seat: 0, Issue: 1}} }
	end := func(h *schemas.Head) {
		h.Members = nil
		h.Ended = append(h.Ended, schemas.GenerationEnd{Generation: h.Generation, At: at})
	}
	same := func(*schemas.Head) {}
	swap(7, nil, form)                                                                                                    // 7 queue
	swap(20, &schemas.Manifest{Spent: map[string]float64{schemas.TimeLoad: 4, schemas.TimeStep: 13}}, same)               // 3 start, 4 load, 13 step
	swap(30, &schemas.Manifest{Spent: map[string]float64{schemas.TimeStep: 29, schemas.TimeCheckpoint: 1}}, same)         // 29 step, 1 checkpoint
	swap(11, nil, end)                                                                                                    // 11 lost
	swap(5, nil, form)                                                                                                    // 5 regroup
	swap(10, &schemas.Manifest{Closing: true, Spent: map[string]float64{schemas.TimeStep: 9, schemas.TimeLoad: 1}}, same) // 9 step, 1 load
	swap(2, nil, func(h *schemas.Head) { end(h); h.Seats = nil })                                                         // 2 checkpoint: the wait for the last commit
	swap(6, nil, func(h *schemas.Head) { h.State = schemas.RunPaused })                                                   // 6 queue: the workers were given back
	got := h.TimeOf(at.Add(-91*time.Second-2*time.Second), at.Add(9*time.Second))                                         // 2 queue before HEAD, 9 paused
	want := map[string]float64{schemas.TimeQueue: 15, schemas.TimeStart: 3, schemas.TimeLoad: 5, schemas.TimeStep: 51, schemas.TimeCheckpoint: 3, schemas.TimeLost: 11,
		schemas.TimeRegroup: 5, schemas.TimePaused: 9}
	for cause, s := range want {
		if math.Abs(got.Seconds[cause]-s) > 1e-9 {
			t.Errorf("%s: %v seconds, want %v", cause, got.Seconds[cause], s)
		}
	}
	if len(got.Seconds) != len(want) || math.Abs(got.Goodput-51.0/102) > 1e-9 || math.Abs(got.Training-51.0/78) > 1e-9 {
		t.Errorf("%+v", got)
	}
}
