package zoo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

func config(tied bool) []byte {
	return fmt.Appendf(nil, `{"architectures":["LlamaForCausalLM"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":3,"num_attention_heads":4,
"num_key_value_heads":2,"vocab_size":50,"max_position_embeddings":128,"initializer_range":0.2,"tie_word_embeddings":%v}`, tied)
}

type rig struct {
	model zoo.Model
	tape  *autograd.Tape
	queue *kernels.Queue
	dev   *kernels.Device
	lora  *adapter.Adapters
	// away, set by prepare, keeps the inputs of blocks in the host's memory.
	away bool
}

// newRig makes a model with random weights and gradients on the CPU.
func newRig(t *testing.T, tied bool, cfg autograd.Config, prepare func(*rig)) *rig {
	t.Helper()
	m, err := zoo.New(config(tied))
	if err != nil {
		t.Fatal(err)
	}
	return newModelRig(t, m, cfg, prepare)
}

func newModelRig(t *testing.T, m zoo.Model, cfg autograd.Config, prepare func(*rig)) *rig {
	t.Helper()
	r := &rig{model: m}
	var err error
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if prepare != nil {
		prepare(r)
	}
	r.dev, err = kernels.Open(kernels.Options{Threads: 2})
	check(err)
	r.queue, err = r.dev.NewQueue(kernels.Compute)
	check(err)
	store, err := nn.NewStorage(r.dev, r.queue, r.model.Units(), true)
	check(err)
	for _, u := range r.model.Units() {
		check(nn.InitRandom(r.queue, u.Params, 3))
		for _, p := range u.Params {
			if p.Role == autograd.RoleLoRAB {
				// PEFT's zero B would make the gradient of A zero.
				r.queue.Random(kernels.Random{Y: p.Data, Seed: 9, Stream: nn.Stream(p.Name), B: 0.1, Kind: kernels.Normal})
			}
		}
	}
	mem := autograd.NewMemory(r.dev, r.queue, 0)
	if r.away {
		cfg.Offload, err = autograd.NewOffload(r.dev)
		check(err)
	}
	r.tape = autograd.New(mem, cfg)
	t.Cleanup(func() {
		if r.away {
			check(cfg.Offload.Close())
		}
		check(mem.Close())
		store.Close()
		check(r.dev.Close())
	})
	return r
}

func leaf(seed uint64, rows, seq int) *nn.Batch {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := &nn.Batch{Rows: rows, Seq: seq}
	for range rows * seq {
		b.IDs = append(b.IDs, int32(rng.IntN(50)))
	}
	b.Labels = slices.Clone(b.IDs)
	return b
}

// step runs forward and backward and returns the loss and all gradients by name.
func (r *rig) step(t *testing.T, b *nn.Batch) (float64, map[string][]float32) {
	t.Helper()
	res, err := objective.Backward(context.Background(), r.tape, r.model, b, b.LabelTokens())
	if err != nil {
		t.Fatal(err)
	}
	g := map[string][]float32{}
	for _, u := range r.model.Units() {
		for _, p := range u.Params {
			if !p.Frozen {
				if g[p.Name], err = nn.Read(r.queue, p.Grad); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return res.Sum, g
}

func sameGrads(t *testing.T, what string, a, b map[string][]float32) {
	t.Helper()
	if len(a) != len(b) || len(a) == 0 {
		t.Fatalf("%s: %d and %d gradients", what, len(a), len(b))
	}
	for n := range a {
		if !slices.Equal(a[n], b[n]) {
			t.Errorf("%s: gradient of %s differs", what, n)
		}
	}
}

// TestRecomputeGivesEqualBits: what is saved, recomputed by block, or rematerialized must not change a bit, and recomputing saves memory.
func TestRecomputeGivesEqualBits(t *testing.T) {
	for _, tied := range []bool{false, true} {
		b := leaf(1, 3, 40)
		ref := newRig(t, tied, autograd.Config{KeepCheap: true}, nil)
		loss, grads := ref.step(t, b)
		for _, cfg := range []autograd.Config{{}, {Checkpoint: true}, {Checkpoint: true, KeepCheap: true}} {
			r := newRig(t, tied, cfg, nil)
			for range 2 { // the second pass reuses memory
				l, g := r.step(t, b)
				if l != loss {
					t.Errorf("%+v: loss %v, want %v", cfg, l, loss)
				}
				sameGrads(t, fmt.Sprintf("%+v tied %v", cfg, tied), g, grads)
			}
			if got, full := r.tape.Memory().Peak(), ref.tape.Memory().Peak(); got >= full {
				t.Errorf("%+v: %d bytes at most, saving everything takes %d", cfg, got, full)
			}
			r.tape.Reset(context.Background(), false)
			if u := r.tape.Memory().Used(); u != 0 {
				t.Errorf("%+v: %d bytes are lost after a pass", cfg, u)
			}
		}
	}
}

// TestBackwardFreesEverything: after a backward pass only the losses remain.
func TestBackwardFreesEverything(t *testing.T) {
	for _, cfg := range []autograd.Config{{}, {Checkpoint: true}, {KeepCheap: true}} {
		r := newRig(t, false, cfg, nil)
		b := leaf(2, 2, 24)
		r.step(t, b)
		// ids, targets, positions and the log-probabilities: well under one activation of the hidden size.
		if u := r.tape.Memory().Used(); u > 2*24*32*4 {
			t.Errorf("%+v: %d bytes are still lent after backward", cfg, u)
		}
	}
}

type recorder struct {
	events []string
	fail   string
}

func (r *recorder) on(what string, u *nn.Unit) error {
	e := what + " " + strings.TrimPrefix(u.Name, "model.")
	r.events = append(r.events, e)
	if e == r.fail {
		return errors.New("link is down")
	}
	return nil
}

func (r *recorder) BeforeForward(_ context.Context, u *nn.Unit) error  { return r.on("+f", u) }
func (r *recorder) AfterForward(_ context.Context, u *nn.Unit) error   { return r.on("-f", u) }
func (r *recorder) BeforeBackward(_ context.Context, u *nn.Unit) error { return r.on("+b", u) }
func (r *recorder) AfterBackward(_ context.Context, u *nn.Unit) error  { return r.on("-b", u) }

func TestHookOrder(t *testing.T) {
	forward := "+f embed_tokens,-f embed_tokens,+f layers.0,-f layers.0,+f layers.1,-f layers.1,+f layers.2,-f layers.2,+f norm,-f norm,+f lm_head,+b lm_head,-f lm_head"
	backward := "-b lm_head,+b norm,-b norm,+b layers.2,-b layers.2,+b layers.1,-b layers.1,+b layers.0,-b layers.0,+b embed_tokens,-b embed_tokens"
	cases := []struct {
		name    string
		tied    bool
		prepare func(*rig)
		want    string
	}{
		{"full", false, nil, forward + "," + backward},
		{"tied", true, nil, "+f embed_tokens,+f layers.0,-f layers.0,+f layers.1,-f layers.1,+f layers.2,-f layers.2,+f norm,-f norm,+b embed_tokens,-f embed_tokens," +
			"+b norm,-b norm,+b layers.2,-b layers.2,+b layers.1,-b layers.1,+b layers.0,-b layers.0,-b embed_tokens"},
		{"last block", false, func(r *rig) {
			if err := adapter.TrainLast(r.model, 1); err != nil {
				t.Fatal(err)
			}
		}, forward + ",-b lm_head,+b norm,-b norm,+b layers.2,-b layers.2"},
		{"lora without block 0", false, func(r *rig) {
			var err error
			if r.lora, err = adapter.Apply(r.model, adapter.Config{Rank: 2, Alpha: 4, Layers: func(b int) bool { return b > 0 }}); err != nil {
				t.Fatal(err)
			}
		}, forward + ",-b lm_head,+b norm,-b norm,+b layers.2,-b layers.2,+b layers.1,-b layers.1"},
	}
	for _, c := range cases {
		for _, ckpt := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s checkpoint %v", c.name, ckpt), func(t *testing.T) {
				h := &recorder{}
				r := newRig(t, c.tied, autograd.Config{Hooks: h, Checkpoint: ckpt}, c.prepare)
				r.step(t, leaf(3, 1, 8))
				if got := strings.Join(h.events, ","); got != c.want {
					t.Errorf("\n got %s\nwant %s", got, c.want)
				}
			})
		}
	}
}

func TestHookFailureSticksAndNamesTheUnit(t *testing.T) {
	for _, fail := range []string{"+f layers.1", "-f layers.2", "+b lm_head", "+b layers.1", "-b norm"} {
		h := &recorder{fail: fail}
		r := newRig(t, false, autograd.Config{Hooks: h}, nil)
		b := leaf(3, 1, 8)
		_, err := objective.Backward(context.Background(), r.tape, r.model, b, b.LabelTokens())
		if err == nil || !strings.Contains(err.Error(), "link is down") || !strings.Contains(err.Error(), fail[3:]) {
			t.Errorf("%s: %v", fail, err)
		}
		if last := h.events[len(h.events)-1]; last != fail {
			t.Errorf("hooks went on after the failure: %s", last)
		}
		h.fail = ""
		r.step(t, b) // the tape is usable again
	}
}

func TestCancelledContextStopsThePass(t *testing.T) {
	r := newRig(t, false, autograd.Config{}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := leaf(3, 1, 8)
	if _, err := objective.Backward(ctx, r.tape, r.model, b, b.LabelTokens()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestBadBatchIsAnErrorNotACrash(t *testing.T) {
	r := newRig(t, false, autograd.Config{}, nil)
	b := leaf(3, 1, 8)
	b.IDs[2] = 50
	if _, err := objective.Backward(context.Background(), r.tape, r.model, b, 7); err == nil || !strings.Contains(err.Error(), "vocabulary") {
		t.Fatal(err)
	}
}

// TestPackedDocumentsEqualSeparateRows: documents packed into one row give the log-probabilities that they have alone.
func TestPackedDocumentsEqualSeparateRows(t *testing.T) {
	r := newRig(t, false, autograd.Config{}, nil)
	lengths := []int{5, 9, 1, 7}
	packed := &nn.Batch{Rows: 1, Docs: []int32{0}}
	var want []float32
	for i, n := range lengths {
		one := leaf(uint64(10+i), 1, n)
		r.tape.Reset(context.Background(), false)
		lp, err := r.tape.Read(r.model.LogProbs(r.tape, one, 1))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, lp...)
		packed.IDs, packed.Labels = append(packed.IDs, one.IDs...), append(packed.Labels, one.Labels...)
		packed.Seq += n
		packed.Docs = append(packed.Docs, int32(packed.Seq))
	}
	r.tape.Reset(context.Background(), false)
	got, err := r.tape.Read(r.model.LogProbs(r.tape, packed, 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if d := got[i] - want[i]; d > 1e-5 || d < -1e-5 {
			t.Fatalf("position %d: %g, alone %g", i, got[i], want[i])
		}
	}
}

// TestCachedGenerationEqualsFullPasses: decoding with a cache, alone or as a padded batch, picks what full passes pick, and Scorer
// agrees with the log-probabilities of a full pass.
func TestCachedGenerationEqualsFullPasses(t *testing.T) {
	r := newRig(t, true, autograd.Config{}, nil)
	prompts := [][]int32{{3, 1, 4}, {1, 5, 9, 2, 6, 5}, {3}}
	const n = 10
	full := make([][]int32, len(prompts))
	for i, p := range prompts {
		ids := slices.Clone(p)
		for range n {
			r.tape.Reset(context.Background(), false)
			z, err := r.tape.Read(r.model.Logits(r.tape, &nn.Batch{Rows: 1, Seq: len(ids), IDs: ids}))
			if err != nil {
				t.Fatal(err)
			}
			last := z[len(z)-50:]
			ids = append(ids, int32(slices.Index(last, slices.Max(last))))
		}
		full[i] = ids[len(p):]
	}
	batch, err := generate.Generate(context.Background(), r.tape, r.model, prompts, generate.Options{MaxNewTokens: n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range prompts {
		if !slices.Equal(batch[i], full[i]) {
			t.Errorf("row %d: %v, full passes give %v", i, batch[i], full[i])
		}
	}
	stop, err := generate.Generate(context.Background(), r.tape, r.model, prompts[:1], generate.Options{MaxNewTokens: n, Stop: full[0][2:3]}, nil)
	if err != nil || len(stop[0]) > 3 || stop[0][len(stop[0])-1] != full[0][2] {
		t.Errorf("stop id: %v, %v", stop, err)
	}
	s := generate.NewScorer(r.tape, r.model)
	defer s.Close()
	cands := [][]int32{{7}, {8, 9, 10, 11}, {2, 2}}
	for _, p := range prompts {
		scores, err := s.Score(context.Background(), p, cands)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range cands {
			ids := append(slices.Clone(p), c...)
			b := &nn.Batch{Rows: 1, Seq: len(ids), IDs: ids, Labels: slices.Clone(ids)}
			for k := range p {
				b.Labels[k] = nn.IgnoreLabel
			}
			res, err := objective.Loss(context.Background(), r.tape, r.model, b)
			if err != nil {
				t.Fatal(err)
			}
			if d := scores[i].Sum + res.Sum; d > 1e-4 || d < -1e-4 || scores[i].Tokens != len(c) {
				t.Errorf("candidate %d of %v: %g, full pass %g", i, p, scores[i].Sum, -res.Sum)
			}
		}
	}
}

// TestMergedAdapterEqualsAdapter: merging changes logits by rounding only, and takes the adapters off.
func TestMergedAdapterEqualsAdapter(t *testing.T) {
	r := newRig(t, false, autograd.Config{}, func(r *rig) {
		var err error
		if r.lora, err = adapter.Apply(r.model, adapter.Config{Rank: 4, Alpha: 8, Targets: []string{"q_proj", "down_proj"}}); err != nil {
			t.Fatal(err)
		}
	})
	b := leaf(5, 2, 12)
	logits := func() []float32 {
		r.tape.Reset(context.Background(), false)
		z, err := r.tape.Read(r.model.Logits(r.tape, b))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	with := logits()
	if err := r.lora.Merge(t.Context(), r.queue); err != nil {
		t.Fatal(err)
	}
	merged := logits()
	changed := false
	for i := range with {
		if d := with[i] - merged[i]; d > 1e-4 || d < -1e-4 {
			t.Fatalf("logit %d: %g with adapter, %g merged", i, with[i], merged[i])
		}
		changed = changed || with[i] != 0
	}
	if !changed {
		t.Fatal("all logits are zero")
	}
}

// TestMeasureIsExact: what the counting device says is what training takes.
func TestMeasureIsExact(t *testing.T) {
	for _, cfg := range []autograd.Config{{}, {Checkpoint: true}} {
		f, err := objective.Measure(context.Background(), "", config(false), 3, 40, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, false, cfg, nil)
		r.step(t, leaf(1, 3, 40))
		if got := r.tape.Memory().Peak(); got != f.Activations {
			t.Errorf("%+v: activations take %d bytes, measured %d", cfg, got, f.Activations)
		}
		if got := r.queue.Workspace(); got != f.Workspace {
			t.Errorf("%+v: workspace takes %d bytes, measured %d", cfg, got, f.Workspace)
		}
	}
}
