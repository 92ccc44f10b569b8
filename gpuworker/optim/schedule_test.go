package optim

import (
	"math"
	"testing"
)

// The reference values are those of transformers' get_scheduler for 20 steps with 4 warmup steps and a base rate of 1e-3.
func TestScheduleEqualsTransformers(t *testing.T) {
	t.Parallel()
	cases := map[string]map[int64]float64{
		"linear":               {0: 0, 1: 0.00025, 4: 0.001, 5: 0.0009375, 16: 0.00025, 19: 6.25e-05},
		"cosine":               {0: 0, 3: 0.00075, 4: 0.001, 16: 0.00014644660940672628, 17: 8.426519384872733e-05, 18: 3.806023374435663e-05, 19: 9.607359798384786e-06},
		"constant_with_warmup": {0: 0, 2: 0.0005, 4: 0.001, 19: 0.001},
	}
	for name, want := range cases {
		s := Schedule{Name: name, Warmup: 4, Total: 20}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		for k, lr := range want {
			if got := 1e-3 * s.Factor(k); math.Abs(got-lr) > 1e-12*math.Abs(lr)+1e-18 {
				t.Errorf("%s step %d: %g, want %g", name, k, got, lr)
			}
		}
	}
	if f := (Schedule{Name: "linear", Total: 0}).Factor(0); f != 0 {
		t.Errorf("linear without steps: %g", f)
	}
	if err := (Schedule{Name: "polynomial"}).Validate(); err == nil {
		t.Error("unknown schedule accepted")
	}
}
