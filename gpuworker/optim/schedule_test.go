package optim

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// fixture reads a JSON file of the reference sets, or skips.
func fixture(t *testing.T, v any, path ...string) {
	t.Helper()
	raw, err := os.ReadFile(fixturetest.Dir(t, path...))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func sameRate(got, want float64) bool { return math.Abs(got-want) <= 1e-12*math.Abs(want)+1e-18 }

// Every schedule with every argument gives transformers' learning rates, past the end too.
func TestSchedulesEqualTransformers(t *testing.T) {
	t.Parallel()
	var cases []struct {
		Name   string               `json:"name"`
		LR     float64              `json:"base_lr"`
		Warmup int64                `json:"num_warmup_steps"`
		Total  int64                `json:"num_training_steps"`
		Args   schemas.ScheduleArgs `json:"kwargs"`
		Rates  []float64            `json:"lr"`
	}
	fixture(t, &cases, "data", "sched", "schedulers.json")
	seen := map[string]bool{}
	for _, c := range cases {
		s := Schedule{Name: c.Name, Warmup: c.Warmup, Total: c.Total, LR: c.LR, Args: c.Args}
		if c.Name == "constant" {
			s.Warmup = 0
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", c.Args, err)
			continue
		}
		seen[c.Name] = true
		for k, want := range c.Rates {
			if got := c.LR * s.Factor(int64(k)); !sameRate(got, want) {
				t.Errorf("%s warmup %d step %d: %g, want %g", c.Name, c.Warmup, k, got, want)
				break
			}
		}
	}
	for _, n := range Schedules() {
		if !seen[n] {
			t.Errorf("%s was not compared", n)
		}
	}
}

func TestWarmupStepsEqualTransformers(t *testing.T) {
	t.Parallel()
	var cases []struct {
		Ratio float64 `json:"warmup_ratio"`
		Total int64   `json:"num_training_steps"`
		Want  int64   `json:"warmup_steps"`
	}
	fixture(t, &cases, "data", "sched", "warmup_steps.json")
	for _, c := range cases {
		if got := WarmupSteps(0, c.Ratio, c.Total); got != c.Want {
			t.Errorf("ratio %g of %d: %d, want %d", c.Ratio, c.Total, got, c.Want)
		}
	}
	if WarmupSteps(7, 0.5, 100) != 7 {
		t.Error("steps do not win over the ratio")
	}
}

func TestTrainingSchedulesEqualTransformers(t *testing.T) {
	t.Parallel()
	var f struct {
		LR     float64              `json:"base_lr"`
		Total  int64                `json:"total_steps"`
		Warmup int64                `json:"warmup"`
		Rates  map[string][]float64 `json:"lr"`
	}
	fixture(t, &f, "train", "lr_schedules.json")
	num := func(v float64) *float64 { return &v }
	known := map[string]struct {
		name string
		args schemas.ScheduleArgs
	}{
		"cosine_with_restarts_2":         {"cosine_with_restarts", schemas.ScheduleArgs{NumCycles: num(2)}},
		"polynomial_p2_end1e_7":          {"polynomial", schemas.ScheduleArgs{Power: num(2), LREnd: num(1e-7)}},
		"cosine_with_min_lr_0p1":         {"cosine_with_min_lr", schemas.ScheduleArgs{MinLRRate: num(0.1)}},
		"warmup_stable_decay_wu4_decay6": {"warmup_stable_decay", schemas.ScheduleArgs{NumDecaySteps: num(6)}},
	}
	for tag, rates := range f.Rates {
		s := Schedule{Name: tag, Warmup: f.Warmup, Total: f.Total, LR: f.LR}
		if k, ok := known[tag]; ok {
			s.Name, s.Args = k.name, k.args
		}
		if tag == "constant" {
			s.Warmup = 0
		}
		if err := s.Validate(); err != nil {
			t.Error(err)
			continue
		}
		for k, want := range rates {
			if got := f.LR * s.Factor(int64(k)); !sameRate(got, want) {
				t.Errorf("%s step %d: %g, want %g", tag, k, got, want)
				break
			}
		}
	}
}

func TestScheduleRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	v := 0.5
	for _, s := range []Schedule{
		{Name: "zigzag"}, {Name: "linear", Warmup: -1}, {Name: "cosine_with_min_lr"}, {Name: "linear", Args: schemas.ScheduleArgs{Power: &v}},
		{Name: "warmup_stable_decay"}, {Name: "polynomial", LR: 1e-8}, {Name: "cosine_with_min_lr", Args: schemas.ScheduleArgs{MinLR: &v, MinLRRate: &v}},
	} {
		if s.Validate() == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
	if f := (Schedule{Name: "linear"}).Factor(0); f != 0 {
		t.Errorf("linear without steps: %g", f)
	}
}

// TestThirds: LLaMA-Factory's defaults of warmup_stable_decay for 12 steps of which 2 warm up: 3 stable, 7 of decay.
func TestThirds(t *testing.T) {
	s := Schedule{Name: "warmup_stable_decay", Warmup: 2, Total: 12, LR: 1, Args: schemas.ScheduleArgs{Thirds: true}}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	for step, want := range map[int64]float64{0: 0, 1: 0.5, 2: 1, 4: 1, 5: 1, 6: 0.5 * (1 + math.Cos(math.Pi/7)), 12: 0} {
		if got := s.Factor(step); math.Abs(got-want) > 1e-12 {
			t.Errorf("step %d has the factor %g, want %g", step, got, want)
		}
	}
	decay := 4.0
	s.Args.NumDecaySteps = &decay
	if got := s.Factor(9); got != 0 {
		t.Errorf("after 3 stable steps and 4 of decay the factor is %g", got)
	}
}
