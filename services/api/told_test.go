package api

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestToldSteps: spans say what a table of steps would, for steps in any order and generation, and steps in order are one span.
func TestToldSteps(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable
		var spans told
		table := map[int64]uint64{}
		for range 120 {
			e := schemas.Event{Step: 1 + r.Int64N(30), Generation: r.Uint64N(4)}
			if got, want := spans.has(e), table[e.Step] >= max(1, e.Generation); got != want {
				t.Fatalf("seed %d: step %d of generation %d was told: %v, want %v (%v)", seed, e.Step, e.Generation, got, want, spans.spans)
			}
			if !spans.has(e) {
				spans.add(e)
				table[e.Step] = max(1, e.Generation)
			}
		}
		if !slices.IsSortedFunc(spans.spans, func(a, b span) int { return int(a.from - b.from) }) {
			t.Fatalf("seed %d: %v", seed, spans.spans)
		}
		for i := 1; i < len(spans.spans); i++ {
			if a, b := spans.spans[i-1], spans.spans[i]; a.to >= b.from || a.to+1 == b.from && a.generation == b.generation {
				t.Fatalf("seed %d: %v", seed, spans.spans)
			}
		}
	}
	var long told
	for step := range int64(1_000_000) {
		long.add(schemas.Event{Step: step + 1, Generation: 3})
	}
	if len(long.spans) != 1 || long.spans[0] != (span{1, 1_000_000, 3}) {
		t.Errorf("a million steps in order are %d spans", len(long.spans))
	}
}
