package simulate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// sizes are the gangs that people ask for, with their frequency.
func sizes() []struct {
	min, max int
	share    float64
} {
	return []struct {
		min, max int
		share    float64
	}{{1, 1, 0.50}, {2, 2, 0.16}, {4, 4, 0.12}, {2, 8, 0.10}, {8, 8, 0.08}, {16, 16, 0.03}, {32, 32, 0.009}, {64, 64, 0.001}}
}

// priorities are the shares of the four classes.
func priorities() [4]float64 { return [4]float64{0.02, 0.18, 0.60, 0.20} }

// generate makes the runs: sizes and priorities as above, lengths log-normal (sigma 1), all scaled to the load and cut at the largest. Heavy tenants bring six
// times as many runs as others, and all in the first tenth of the time.
func (w *world) generate() {
	heavy := int(math.Round(float64(w.cfg.Tenants) * w.cfg.Heavy))
	weights := make([]float64, w.cfg.Tenants)
	total := 0.0
	for i := range weights {
		weights[i] = 1
		if i < heavy {
			weights[i] = 6
		}
		total += weights[i]
		weights[i] = total
	}
	var sum float64
	runs := make([]*run, 0, w.cfg.Runs)
	for i := range w.cfg.Runs {
		t, _ := slices.BinarySearch(weights, w.rng.Float64()*total)
		t = min(t, w.cfg.Tenants-1)
		at := w.rng.Float64()
		if t < heavy {
			at *= 0.1
		}
		r := w.newRun(i, fmt.Sprintf("tenant%04d", t), time.Duration(at*float64(w.cfg.Duration)))
		r.heavy = t < heavy
		sum += r.work
		runs = append(runs, r)
	}
	w.scale(runs, sum)
	for _, r := range runs {
		w.byID[r.view.Spec.ID] = r
	}
	slices.SortStableFunc(runs, func(a, b *run) int { return cmp.Compare(a.submitted, b.submitted) })
	w.arrivals = runs
}

// scale makes the runs' work add up to the load, with none over the largest: what is cut off goes to the others, as far as they have room.
func (w *world) scale(runs []*run, sum float64) {
	want := w.cfg.Load * float64(w.cfg.Workers) * w.cfg.Duration.Seconds()
	for range 20 {
		f := want / sum
		sum = 0
		for _, r := range runs {
			r.work = min(r.work*f, w.cfg.Largest.Seconds())
			sum += r.work
		}
		if sum > 0.999*want {
			return
		}
	}
}

func (w *world) newRun(i int, tenant string, at time.Duration) *run {
	x := w.rng.Float64()
	world := schemas.World{Min: 1, Max: 1}
	for _, s := range sizes() {
		if x -= s.share; x < 0 {
			world = schemas.World{Min: min(s.min, w.cfg.Workers), Max: min(s.max, w.cfg.Workers)}
			break
		}
	}
	prio := 3
	x = w.rng.Float64()
	for p, share := range priorities() {
		if x -= share; x < 0 {
			prio = p
			break
		}
	}
	spec := &schemas.RunSpec{Version: 1, ID: fmt.Sprintf("run%08d", i), Tenant: tenant, Pool: pool, AuxPool: pool, Priority: prio, Stages: []schemas.Stage{
		{Name: "train", Kind: schemas.KindTrain, Train: &schemas.TrainStage{World: world}}}}
	return &run{submitted: at, work: float64(world.Min) * math.Exp(min(w.rng.NormFloat64(), 3)), workers: map[schemas.Seat]int{},
		view: control.Run{Spec: spec, Submitted: w.start.Add(at), Claims: map[control.ClaimKey]control.Claim{}, Stages: map[string]control.StageView{}}}
}
