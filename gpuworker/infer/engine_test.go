package infer

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/infer/infertest"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bare loads a model without a tokenizer.
func bare(t *testing.T, dir, dtype string) *Model {
	t.Helper()
	m := &Model{}
	if err := m.load(t.Context(), Options{Folders: train.Folders{Base: dir}, DType: dtype, Threads: 2}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func engine(t *testing.T, m *Model, o EngineOptions) *Engine {
	t.Helper()
	e, err := NewEngine(m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// answers submits requests together and reads all answers.
func answers(t *testing.T, e *Engine, rs ...Request) ([][]int32, []*Answer) {
	t.Helper()
	list, err := e.Submit(t.Context(), rs...)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]int32, len(list))
	for i, a := range list {
		for {
			id, err := a.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out[i] = append(out[i], id)
		}
	}
	return out, list
}

// Every architecture continues its reference's prompt as transformers does, with answers to other prompts in the same steps, prompts in pieces, and
// again from what the row still holds.
func TestGreedyEqualsTransformers(t *testing.T) {
	t.Parallel()
	dir := fixturetest.Dir(t, "models")
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range list {
		folder := filepath.Join(dir, d.Name())
		raw, err := os.ReadFile(filepath.Join(folder, "config.json"))
		if err != nil {
			continue
		}
		if zoo.Supported(raw) != nil {
			continue
		}
		n++
		t.Run(d.Name(), func(t *testing.T) {
			root, err := os.OpenRoot(folder)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			f, err := safetensors.Open(root, "golden.safetensors")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			prompt, _, err := f.Int64("gen.prompt_ids")
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := f.Int64("gen.ids")
			if err != nil {
				t.Fatal(err)
			}
			m := bare(t, folder, "fp32")
			e := engine(t, m, EngineOptions{Slots: 3, Piece: 3, Context: 64})
			p := ints(prompt)
			info := m.loaded.Model.Info()
			far := info.LengthLimit > 0 && len(p)+len(want) > info.LengthLimit
			if far && info.LengthSwitch > 0 {
				// The reference set has what a cache of old keys gives; generate() computes it again at the switch.
				want = full(t, m, prompt, len(want))
			}
			other := append(slices.Clone(p[3:]), 5, 6, 7, 8, 9, 10, 11)
			rs := []Request{{Prompt: other[:4], MaxNewTokens: 9}, {Prompt: p, MaxNewTokens: len(want)}, {Prompt: other, MaxNewTokens: len(want)}}
			got, _ := answers(t, e, rs...)
			if !slices.Equal(got[1], ints(want)) {
				t.Errorf("got  %v\nwant %v", got[1], want)
			}
			again, list := answers(t, e, rs[1])
			if !slices.Equal(again[0], got[1]) || !far && list[0].Stats().Reused != len(p)-1 {
				t.Errorf("again, with %d tokens from the cache: %v", list[0].Stats().Reused, again[0])
			}
			for _, i := range []int{0, 2} {
				if far {
					break
				}
				alone, err := generate.Generate(t.Context(), m.tape, m.loaded.Model, [][]int32{rs[i].Prompt}, generate.Options{MaxNewTokens: rs[i].MaxNewTokens}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(alone[0], got[i]) {
					t.Errorf("prompt %d alone %v\nbeside others %v", i, alone[0], got[i])
				}
			}
		})
	}
	if n < 60 {
		t.Errorf("%d models were looked at", n)
	}
}

// full continues a prompt by the likeliest token, from nothing at every step.
func full(t *testing.T, m *Model, prompt []int64, n int) []int64 {
	t.Helper()
	ids := ints(prompt)
	for range n {
		m.tape.Reset(t.Context(), false)
		z, err := m.tape.Read(m.loaded.Model.Logits(m.tape, &nn.Batch{Rows: 1, Seq: len(ids), IDs: ids}))
		if err != nil {
			t.Fatal(err)
		}
		z = z[len(z)-m.loaded.Model.Info().Vocab:]
		ids = append(ids, int32(slices.Index(z, slices.Max(z))))
	}
	out := make([]int64, n)
	for i, id := range ids[len(prompt):] {
		out[i] = int64(id)
	}
	return out
}

func ints(v []int64) []int32 {
	out := make([]int32, len(v))
	for i, x := range v {
		out[i] = int32(x)
	}
	return out
}

// Drawn answers do not depend on what is answered at the same time, on the size of pieces, or on what rows held before: not in a bit, since draws
// would differ with the logits.
func TestAnswersDoNotDependOnOthers(t *testing.T) {
	t.Parallel()
	dir := infertest.Folder(t, nil)
	for _, dtype := range []string{"fp32", "bf16"} {
		m := bare(t, dir, dtype)
		rng := rand.New(rand.NewPCG(3, 4))
		var rs []Request
		for i := range 9 {
			r := Request{MaxNewTokens: 5 + rng.IntN(30), Seed: uint64(i), Sampling: generate.Sampling{Temperature: 1.3, TopK: 500, TopP: 0.95, RepetitionPenalty: 1.1}}
			if i%3 == 0 {
				r.Sampling = generate.Sampling{}
			}
			if i > 0 && i%2 == 0 {
				r.Prompt = slices.Clone(rs[i-1].Prompt[:len(rs[i-1].Prompt)/2+1]) // begins as another one does
			}
			for range 1 + rng.IntN(60) {
				r.Prompt = append(r.Prompt, int32(rng.IntN(2048)))
			}
			rs = append(rs, r)
		}
		var alone [][]int32
		for _, r := range rs {
			e, err := NewEngine(m, EngineOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, _ := answers(t, e, r)
			alone = append(alone, got[0])
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		}
		e, err := NewEngine(m, EngineOptions{Slots: 4, Piece: 7})
		if err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			got, _ := answers(t, e, rs...)
			for i := range rs {
				if !slices.Equal(got[i], alone[i]) {
					t.Errorf("%s, round %d, request %d:\nalone  %v\nbeside %v", dtype, round, i, alone[i], got[i])
				}
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A conversation that goes on computes only what is new, and the cache grows as it must.
func TestNextTurnReusesTheCache(t *testing.T) {
	t.Parallel()
	m := bare(t, infertest.Folder(t, nil), "fp32")
	e := engine(t, m, EngineOptions{})
	prompt := []int32{1, 50, 51, 52}
	for turn := range 5 {
		got, list := answers(t, e, Request{Prompt: prompt, MaxNewTokens: 70})
		s := list[0].Stats()
		if turn > 0 && s.Reused < len(prompt)-5 {
			t.Errorf("turn %d: %d of %d tokens were in the cache", turn, s.Reused, len(prompt))
		}
		if s.New != len(got[0]) || s.Prompt != len(prompt) || s.Reason != ReasonLength {
			t.Errorf("turn %d: figures %+v", turn, s)
		}
		fresh, err := NewEngine(m, EngineOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := answers(t, fresh, Request{Prompt: prompt, MaxNewTokens: 70})
		if err := fresh.Close(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[0], want[0]) {
			t.Errorf("turn %d: %v\nfrom nothing: %v", turn, got[0], want[0])
		}
		prompt = append(append(slices.Clone(prompt), got[0]...), 60, 61, 62, 63)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	m := bare(t, infertest.Folder(t, map[string]any{"max_position_embeddings": 100}), "fp32")
	e := engine(t, m, EngineOptions{Slots: 1, Queue: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	long := slices.Repeat([]int32{7}, 60)
	var tooLong *TooLongError
	if _, err := e.Submit(ctx, Request{Prompt: slices.Repeat(long, 2)}); !errors.As(err, &tooLong) || tooLong.Context != 100 {
		t.Errorf("a long prompt: %v", err)
	}
	for name, r := range map[string]Request{"nothing": {}, "a token that is none": {Prompt: []int32{2048}}, "odd sampling": {Prompt: long, Sampling: generate.Sampling{TopP: 2}}} {
		if _, err := e.Submit(ctx, r); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	var list []*Answer
	for range 3 {
		a, err := e.Submit(ctx, Request{Prompt: long})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a...)
	}
	// Answers take a while: the first is not over yet, or else the queue is not full.
	var busy *BusyError
	if _, err := e.Submit(ctx, Request{Prompt: long}, Request{Prompt: long}, Request{Prompt: long}, Request{Prompt: long}); !errors.As(err, &busy) || busy.After < time.Second {
		t.Errorf("more than may wait: %v", err)
	}
	list[2].Cancel()
	if _, err := list[2].Next(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled answer: %v", err)
	}
	n := 0
	for {
		_, err := list[0].Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 40 || list[0].Stats().Reason != ReasonLength {
		t.Errorf("%d tokens in a context of 100 behind 60: %+v", n, list[0].Stats())
	}
	cancel() // whoever asked has left
	for {
		if _, err := list[1].Next(t.Context()); err != nil {
			break
		}
	}
	if got, _ := answers(t, e, Request{Prompt: long, MaxNewTokens: 3}); len(got[0]) != 3 {
		t.Errorf("after others have left: %v", got)
	}
}

func TestCloseEndsAnswers(t *testing.T) {
	t.Parallel()
	m := bare(t, infertest.Folder(t, nil), "fp32")
	e, err := NewEngine(m, EngineOptions{Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.Submit(t.Context(), Request{Prompt: []int32{5}}, Request{Prompt: []int32{6}}, Request{Prompt: []int32{7}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list[0].Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for i, a := range list {
		var err error
		for err == nil {
			_, err = a.Next(t.Context())
		}
		if errors.Is(err, io.EOF) && a.Stats().New < 500 {
			t.Errorf("answer %d ended as if it were whole: %+v", i, a.Stats())
		}
	}
	if _, err := e.Submit(t.Context(), Request{Prompt: []int32{5}}); err == nil {
		t.Error("a closed engine takes requests")
	}
	if _, err := NewEngine(m, EngineOptions{Slots: MostSlots + 1}); err == nil {
		t.Error("too many slots were accepted")
	}
}
