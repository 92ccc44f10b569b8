package train

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
)

// hurt changes numbers of the gradient that a rank sends to another while it computes one step.
type hurt struct {
	consume.Collective
	step *atomic.Int64
	at   int64
	// times is how often, 0 for always; change gets the bits of a number and how often it was called.
	times  int64
	change func(bits uint32, n int64) uint32
	n      int64
}

func (h *hurt) AllToAll(ctx context.Context, send, recv [][]byte) error {
	if h.step.Load() != h.at || h.times > 0 && h.n >= h.times {
		return h.Collective.AllToAll(ctx, send, recv)
	}
	bad := slices.Clone(send)
	for to, b := range send {
		if to == h.Rank() || len(b) == 0 {
			continue
		}
		for i := 0; i+4 <= len(b); i += 4 {
			bits := binary.LittleEndian.Uint32(b[i:])
			if v := math.Abs(float64(math.Float32frombits(bits))); v == 0 || v >= 1 {
				continue
			}
			bad[to] = slices.Clone(b)
			binary.LittleEndian.PutUint32(bad[to][i:], h.change(bits, h.n))
			h.n++
			return h.Collective.AllToAll(ctx, bad, recv)
		}
	}
	return h.Collective.AllToAll(ctx, send, recv)
}

func hurting(at, times int64, change func(uint32, int64) uint32) func(int, *atomic.Int64, consume.Collective) consume.Collective {
	return func(rank int, step *atomic.Int64, c consume.Collective) consume.Collective {
		if rank != 1 {
			return c
		}
		return &hurt{Collective: c, step: step, at: at, times: times, change: change}
	}
}

func flipExponent(bits uint32, _ int64) uint32 { return bits ^ 1<<30 }

func notANumber(uint32, int64) uint32 { return math.Float32bits(float32(math.NaN())) }

func longStage(policy string) schemas.Stage {
	s := toyStage("train", "full")
	s.Train.Epochs, s.Train.Steps, s.Train.CommitEvery = 0, 30, 5
	s.Train.Features = &schemas.TrainFeatures{OnAnomaly: policy}
	return s
}

// A bit of a gradient that flips once is found, the step is computed again, and the weights are those of a run that nothing happened to.
func TestAFlippedBitVanishesWhenTheStepIsComputedAgain(t *testing.T) {
	want := newFleet(t, longStage("keep")).complete("train", 2).StateHash
	for name, change := range map[string]func(uint32, int64) uint32{"a flipped bit": flipExponent, "no number": notANumber} {
		f := newFleet(t, longStage("keep"))
		if err := errors.Join(f.generation("train", plan{world: 2, wrap: hurting(24, 1, change)})...); err != nil {
			t.Fatal(err)
		}
		if seen := f.anomalies(); len(seen) != 1 || !strings.HasPrefix(seen[0], "gradient_") || !strings.HasSuffix(seen[0], ": gone when computed again") {
			t.Errorf("%s: events %v", name, seen)
		}
		if m := f.manifest(); !m.Final || m.StateHash != want {
			t.Errorf("%s: final %v, the undisturbed weights %v", name, m.Final, m.StateHash == want)
		}
	}
}

// A step that gives no number twice ends the run with an error that names step and rows and is not retried; where the second result is
// another one, the machine is suspect, and others may try.
func TestAStepThatGivesNoNumberNamesItsRows(t *testing.T) {
	sent := int64(0) // exchanges of gradients of the step, when it is computed once
	calm := newFleet(t, longStage("keep"))
	calm.generation("train", plan{world: 2, wrap: hurting(12, 0, func(bits uint32, n int64) uint32 { sent = n + 1; return bits })})
	want := calm.manifest().StateHash
	if sent == 0 {
		t.Fatal("no gradient was exchanged")
	}
	for name, c := range map[string]struct {
		change    func(bits uint32, n int64) uint32
		permanent bool
		hint      string
	}{
		"the same twice": {notANumber, true, "look at the data"},
		"differently": {func(bits uint32, n int64) uint32 {
			if n < sent {
				return math.Float32bits(float32(math.Inf(1)))
			}
			return notANumber(bits, n)
		}, false, "suspect this machine"},
	} {
		f := newFleet(t, longStage("keep"))
		for r, err := range f.generation("train", plan{world: 2, wrap: hurting(12, 0, c.change)}) {
			info := schemas.AsErrorInfo(err)
			if info == nil || info.Code != schemas.CodeNumeric || info.Permanent != c.permanent || !strings.Contains(err.Error(), c.hint) ||
				!strings.Contains(err.Error(), "step 13") || !strings.Contains(err.Error(), "over rows ") || !strings.Contains(err.Error(), "prep/train") {
				t.Fatalf("%s: rank %d: %v (permanent %v)", name, r, err, info != nil && info.Permanent)
			}
		}
		if h := f.head(); h.Step > 12 {
			t.Errorf("%s: step %d was committed", name, h.Step)
		}
		// On a machine that is sound the run ends as if nothing had happened.
		if m := f.complete("train", 2); m.StateHash != want {
			t.Errorf("%s: other weights afterwards", name)
		}
	}
}

func TestRowsOfAStepAreBounded(t *testing.T) {
	t.Parallel()
	for micro, want := range map[int]string{3: "rows 3, 4, 5 of prep/train", 20: "rows 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35 and 4 more of prep/train"} {
		p, err := NewPlanner(1, 100, micro, 1, 1, 0, &schemas.SampleOrder{Kind: "sequential"})
		if err != nil {
			t.Fatal(err)
		}
		stage := toyStage("train", "full")
		s := &session{stage: stage.Train, plan: p}
		if got := s.rowsOf(1); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
