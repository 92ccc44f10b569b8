package zero_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vocab = 203

func config(hidden, layers int, tied bool) []byte {
	return fmt.Appendf(nil, `{"architectures":["LlamaForCausalLM"],"vocab_size":%d,"hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"tie_word_embeddings":%v}`, vocab, hidden, hidden*5/2, layers, tied)
}

// setup is one training to run in any world.
type setup struct {
	hidden, layers int
	// experts, when not 0, makes it a mixture of so many, one a token.
	experts       int
	tied, lora    bool
	freeze        int
	sharding      string
	leaves, steps int
	bucket        int64
	checkpoint    bool
	backend       string
	optim         string
	threads       int // default 1
	isa           kernels.ISA
	fast          bool
	// first is the step to begin with; restore, when not nil, the state to begin from.
	first   int
	restore map[string][]float32
	// pattern is the number of leaves of each step, in place of leaves; lend gives the engine the tape's memory for gradients.
	pattern []int
	lend    bool
	// devices has the ranks copy from each other's device memory.
	devices bool
	// overlap is as zero.Config has it.
	overlap string
	// hold gathers the whole model before each step, for passes of which every rank makes another number.
	hold bool
	// snapshots takes one after each step, written while the next is computed; staging is the bytes of a slot that they go through, store the
	// type that values are held in.
	snapshots bool
	staging   int64
	offload   bool
	// away keeps the inputs of blocks in the host's memory.
	away  bool
	store kernels.DType
}

// outcome is what must not depend on the world.
type outcome struct {
	hash     string
	losses   []float64
	norms    []float64
	resident zero.Resident
	state    map[string][]float32
	// states are the snapshots after each step.
	states []map[string][]float32
	// overlap is whether exchanges overlapped at the end, and why.
	overlap bool
	why     string
}

// leafOf is the content of a leaf: it depends on (step, leaf) only.
func leafOf(step, leaf int) *nn.Batch {
	r := rand.New(rand.NewPCG(uint64(step), uint64(leaf)))
	b := &nn.Batch{Rows: 2, Seq: 5 + r.IntN(6)}
	for i := range b.Rows * b.Seq {
		b.IDs = append(b.IDs, int32(r.IntN(vocab)))
		b.Labels = append(b.Labels, b.IDs[i])
		if r.IntN(4) == 0 {
			b.Labels[i] = nn.IgnoreLabel
		}
	}
	return b
}

// collect writes a snapshot to a map.
func collect(snap *zero.Snapshot, state map[string][]float32) error {
	return snap.Write(func(tensor string, _ []int64, from int64, data []float32) error {
		state[fmt.Sprintf("%s@%d", tensor, from)] = append([]float32(nil), data...)
		return nil
	})
}

func train(ctx context.Context, c zero.Collective, s setup) (out outcome, err error) {
	dev, err := kernels.Open(kernels.Options{Threads: max(1, s.threads), Backend: s.backend, ISA: s.isa})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return out, err
	}
	raw := config(s.hidden, s.layers, s.tied)
	if s.experts > 0 {
		raw = mixture(s.hidden, s.layers, s.experts)
	}
	m, err := zoo.New(raw)
	if err != nil {
		return out, err
	}
	if s.lora {
		_, err = adapter.Apply(m, adapter.Config{Rank: 4, Alpha: 8, Layers: func(b int) bool { return b >= s.freeze }})
	} else {
		err = adapter.FreezeFirst(m, s.freeze)
	}
	if err != nil {
		return out, err
	}
	mem := autograd.NewMemory(dev, q, 0)
	defer func() { err = errors.Join(err, mem.Close()) }()
	var scratch *autograd.Memory
	if s.lend {
		scratch = mem
	}
	var devices zero.Devices
	closeDevices := func(error) error { return nil }
	if s.devices {
		l, err := exchange.NewLocal(dev, c.(*collective.Local))
		if err != nil {
			return out, err
		}
		devices, closeDevices = l, l.Close
	}
	var hosts []int
	if s.sharding == zero.Hybrid && c.World()%2 == 0 {
		for r := range c.World() {
			hosts = append(hosts, []int{r % 2, r / (c.World() / 2)}[s.layers%2]) // side by side, or by turns
		}
	}
	e, err := zero.New(q, m.Units(), c, zero.Config{Hosts: hosts, Overlap: s.overlap, Store: s.store, Offload: s.offload, HostThreads: 1, Devices: devices, Scratch: scratch, Sharding: s.sharding, Fast: s.fast, BucketElements: s.bucket,
		Optim: optim.Config{Name: s.optim, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, SkipDecay: true, HeadDim: int64(s.hidden / 4),
			LowRank: optim.LowRankConfig{Rank: 3, Every: 2}, Blocks: optim.BlockConfig{Every: 2}}})
	if err != nil {
		return out, errors.Join(err, closeDevices(err))
	}
	defer func() { err = errors.Join(err, closeDevices(err), e.Close()) }()
	err = e.Load(ctx, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		if p.Role == autograd.RoleLoRAB {
			p.Init = autograd.Init{Kind: autograd.InitNormal, Std: 0.02} // so that gradients of A are not zero
		}
		if dst.DType != kernels.F32 {
			r := rand.New(rand.NewPCG(uint64(start), uint64(len(p.Name))))
			values := make([]float32, dst.Numel())
			for i := range values {
				values[i] = 0.02 * float32(r.NormFloat64())
			}
			return kernels.UploadFloats(q, dst, values)
		}
		nn.InitRange(q, p, dst, start, 42)
		return q.Err()
	})
	if err != nil {
		return out, err
	}
	var off *autograd.Offload
	if s.away {
		if off, err = autograd.NewOffload(dev); err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, off.Close()) }()
	}
	tape := autograd.New(mem, autograd.Config{Hooks: e, Checkpoint: s.checkpoint, Offload: off})
	if s.restore != nil {
		err := e.Restore(ctx, func(_ context.Context, tensor string, from int64, dst []float32) error {
			whole, ok := s.restore[tensor+"@0"]
			if !ok || int(from)+len(dst) > len(whole) {
				return fmt.Errorf("%s has no elements %d to %d", tensor, from, int(from)+len(dst))
			}
			copy(dst, whole[from:])
			return nil
		})
		if err == nil {
			has := func(tensor string) bool { return s.restore[tensor+"@0"] != nil }
			err = e.RestoreSkips(ctx, has, func(_ context.Context, tensor string, _ int64, dst []float32) error {
				copy(dst, s.restore[tensor+"@0"])
				return nil
			})
		}
		if err != nil {
			return out, err
		}
	}
	e.SetStaging(s.staging)
	w, rank := c.World(), c.Rank()
	written := make(chan error, 1)
	written <- nil
	var old *zero.Snapshot
	defer func() { err = errors.Join(err, <-written) }()
	for step := s.first; step < s.steps; step++ {
		if s.pattern != nil {
			s.leaves = s.pattern[step]
		}
		tokens := int64(0)
		for l := range s.leaves {
			tokens += leafOf(step, l).LabelTokens()
		}
		if s.hold {
			if err := holdAndPass(ctx, e, tape, m, rank); err != nil {
				return out, err
			}
		}
		var meta []byte
		for micro := 0; micro*w < s.leaves; micro++ {
			if err := e.BeginLeaf(micro, s.leaves); err != nil {
				return out, err
			}
			b := leafOf(1000, 0) // any tokens
			has := e.HasLeaf(micro, s.leaves, rank)
			if has {
				b = leafOf(step, micro*w+rank)
			}
			r, err := objective.Backward(ctx, tape, m, b, tokens)
			if err != nil {
				return out, err
			}
			if err := e.EndLeaf(ctx); err != nil {
				return out, err
			}
			if !has {
				r.Sum = 0
			}
			meta = binary.LittleEndian.AppendUint64(meta, math.Float64bits(r.Sum))
		}
		sumsq, metas, err := e.Finish(ctx, meta)
		if err != nil {
			return out, err
		}
		loss := 0.0
		for l := range s.leaves {
			loss += math.Float64frombits(binary.LittleEndian.Uint64(metas[l%w][8*(l/w):])) / float64(tokens)
		}
		norm := zero.Norm(sumsq)
		out.losses, out.norms = append(out.losses, loss), append(out.norms, norm)
		if err := e.Update(ctx, 1e-2, int64(step+1), zero.ClipFactor(norm, 0.5)); err != nil {
			return out, err
		}
		if s.snapshots {
			err := <-written
			written <- nil
			if err != nil {
				return out, err
			}
			if old, err = e.Snapshot(old); err != nil {
				return out, err
			}
			<-written
			state := map[string][]float32{}
			out.states = append(out.states, state)
			go func(snap *zero.Snapshot) { written <- collect(snap, state) }(old)
		}
	}
	out.resident = e.Resident()
	out.overlap, out.why = e.Overlap()
	snap, err := e.Snapshot(nil)
	if err != nil {
		return out, err
	}
	out.state = map[string][]float32{}
	if err := collect(snap, out.state); err != nil {
		return out, err
	}
	out.hash, err = e.StateHash(ctx)
	return out, err
}

// holdAndPass makes rank+1 passes through a model that is held whole.
func holdAndPass(ctx context.Context, e *zero.Engine, tape *autograd.Tape, m zoo.Model, rank int) error {
	if err := e.Hold(ctx); err != nil {
		return err
	}
	for range rank + 1 {
		tape.Reset(ctx, false)
		if _, err := tape.Read(m.Logits(tape, leafOf(2000, rank))); err != nil {
			return err
		}
	}
	return e.Release()
}

// runWorld trains on ranks that are goroutines and returns every rank's outcome.
func runWorld(t *testing.T, world int, s setup) []outcome {
	t.Helper()
	outs, errs := make([]outcome, world), make([]error, world)
	var wg sync.WaitGroup
	for r, c := range collective.NewLocal(world) {
		wg.Go(func() {
			outs[r], errs[r] = train(t.Context(), c, s)
			if errs[r] != nil {
				c.Close()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("world %d: %v", world, err)
	}
	return outs
}

func TestSameBitsForAnyWorldAndSharding(t *testing.T) {
	for _, c := range []struct {
		name string
		s    setup
	}{
		{"full", setup{hidden: 64, layers: 2}},
		{"tied, small buckets", setup{hidden: 64, layers: 2, tied: true, bucket: 1}},
		{"frozen blocks, recomputed", setup{hidden: 48, layers: 3, freeze: 1, checkpoint: true}},
		{"LoRA", setup{hidden: 64, layers: 3, lora: true, freeze: 1}},
		{"LoRA tied", setup{hidden: 48, layers: 2, lora: true, tied: true, bucket: 3000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.leaves, c.s.steps = 5, 3
			c.s.sharding = zero.None
			want := runWorld(t, 1, c.s)[0]
			if want.hash == "" || want.norms[0] == 0 || want.losses[0] == want.losses[2] {
				t.Fatalf("nothing was trained: %+v", want.losses)
			}
			for _, world := range []int{1, 2, 3, 4, 5, 6} {
				for _, sharding := range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
					c.s.sharding, c.s.hold = sharding, world%2 == 0
					outs := runWorld(t, world, c.s)
					if outs[0].hash != want.hash {
						t.Errorf("world %d, %s: weights differ", world, sharding)
					}
					for r, o := range outs {
						for i := range want.losses {
							if o.losses[i] != want.losses[i] || o.norms[i] != want.norms[i] {
								t.Errorf("world %d, %s, rank %d, step %d: loss %v norm %v, on one rank %v and %v", world, sharding, r, i, o.losses[i], o.norms[i], want.losses[i], want.norms[i])
							}
						}
					}
				}
			}
		})
	}
}

// A group of small units, and of everything, gives the same bits as an exchange a unit.
func TestBucketsDoNotChangeBits(t *testing.T) {
	s := setup{hidden: 48, layers: 2, sharding: zero.Zero3, leaves: 4, steps: 2, bucket: 1}
	want := runWorld(t, 2, s)[0].hash
	for _, b := range []int64{20000, 1 << 30} {
		s.bucket = b
		if got := runWorld(t, 2, s)[0].hash; got != want {
			t.Errorf("buckets of %d elements: weights differ", b)
		}
	}
}

func TestResidentBytesOfFourRanks(t *testing.T) {
	for _, lora := range []bool{false, true} {
		s := setup{hidden: 256, layers: 2, lora: lora, sharding: zero.Zero3, leaves: 4, steps: 1}
		one := runWorld(t, 1, s)[0].resident
		for r, o := range runWorld(t, 4, s) {
			share := float64(o.resident.Total()) / float64(one.Total())
			t.Logf("lora %v rank %d: %d of %d bytes resident (%.1f %%), window %d", lora, r, o.resident.Total(), one.Total(), 100*share, o.resident.Window)
			if share > 0.30 {
				t.Errorf("lora %v: rank %d of 4 holds %.1f %% of one rank's bytes, at most 30 %% are allowed", lora, r, 100*share)
			}
		}
	}
}

// Every element of every trainable tensor is written by exactly one rank.
func TestSnapshotsOfAllRanksCoverTheState(t *testing.T) {
	for _, sharding := range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
		s := setup{hidden: 64, layers: 2, sharding: sharding, leaves: 3, steps: 1}
		whole := runWorld(t, 1, s)[0].state
		covered := map[string]int64{}
		for _, o := range runWorld(t, 3, s) {
			for key, data := range o.state {
				var name string
				var from int64
				for i := len(key) - 1; i >= 0; i-- {
					if key[i] == '@' {
						name = key[:i]
						fmt.Sscan(key[i+1:], &from)
						break
					}
				}
				full := whole[name+"@0"]
				for i, v := range data {
					if math.Float32bits(full[from+int64(i)]) != math.Float32bits(v) {
						t.Fatalf("%s: %s element %d is %v, on one rank %v", sharding, name, from+int64(i), v, full[from+int64(i)])
					}
				}
				covered[name] += int64(len(data))
			}
		}
		for key, data := range whole {
			if name := key[:len(key)-2]; covered[name] != int64(len(data)) {
				t.Errorf("%s: %d of %d elements of %s are written", sharding, covered[name], len(data), name)
			}
		}
	}
}

func TestARankThatFailsStopsTheOthers(t *testing.T) {
	ranks := collective.NewLocal(2)
	done := make(chan error, 1)
	go func() {
		_, err := train(t.Context(), ranks[0], setup{hidden: 48, layers: 2, sharding: zero.Zero3, leaves: 2, steps: 50})
		done <- err
	}()
	ranks[1].Close()
	if err := <-done; !errors.Is(err, collective.ErrPeerLost) {
		t.Fatalf("got %v, want a lost peer", err)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, c := range []zero.Config{{Sharding: "zero9"}, {Sharding: zero.None, Optim: optim.Config{Beta1: 1}}, {Sharding: zero.None, Optim: optim.Config{Name: "adamw_9bit"}},
		{Sharding: zero.None, Optim: optim.Config{WeightDecay: -1}}} {
		if err := c.WithDefaults().Validate(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// Gradients that borrow the tape's memory give the same bits, and a step of several leaves finds a place for them.
func TestBorrowedGradientsGiveTheSameBits(t *testing.T) {
	for _, lora := range []bool{false, true} {
		for _, pattern := range [][]int{{1, 1, 1}, {1, 3, 1, 2}} {
			s := setup{hidden: 64, layers: 3, lora: lora, sharding: zero.None, steps: len(pattern), pattern: pattern}
			want := runWorld(t, 1, s)[0]
			s.lend = true
			got := runWorld(t, 1, s)[0]
			if got.hash != want.hash || got.norms[2] != want.norms[2] {
				t.Errorf("lora %v, leaves %v: weights differ", lora, pattern)
			}
			if own := got.resident.Grads; (own == 0) != (pattern[1] == 1) {
				t.Errorf("lora %v, leaves %v: %d bytes of gradients are resident", lora, pattern, own)
			}
			// Several ranks never borrow.
			s.pattern, s.leaves, s.steps = nil, 4, 2
			two := runWorld(t, 2, s)[0]
			s.lend = false
			if one := runWorld(t, 1, s)[0]; one.hash != two.hash {
				t.Errorf("lora %v: weights of two ranks differ", lora)
			}
		}
	}
}

// With zero2 a rank of four holds all values, and its share of gradients and optimizer state; with hybrid, on two hosts, half of the values and of
// the optimizer's state.
func TestResidentBytesOfOtherShardings(t *testing.T) {
	s := setup{hidden: 256, layers: 2, leaves: 4, steps: 1, sharding: zero.None}
	one := runWorld(t, 1, s)[0].resident
	for sharding, most := range map[string]zero.Resident{zero.Zero2: {Params: 100, Grads: 30, Optimizer: 30}, zero.Hybrid: {Params: 55, Grads: 80, Optimizer: 55}} {
		s.sharding = sharding
		for r, o := range runWorld(t, 4, s) {
			got := o.resident
			t.Logf("%s, rank %d: %+v of %+v", sharding, r, got, one)
			if 100*got.Params > most.Params*one.Params || 100*got.Grads > most.Grads*one.Grads || 100*got.Optimizer > most.Optimizer*one.Optimizer {
				t.Errorf("%s: rank %d holds %+v, one rank alone %+v", sharding, r, got, one)
			}
		}
	}
}

// Hosts with different numbers of ranks have no hybrid sharding.
func TestHybridNeedsEqualHosts(t *testing.T) {
	dev, err := kernels.Open(kernels.Options{Counting: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	m, err := zoo.New(config(32, 1, false))
	if err != nil {
		t.Fatal(err)
	}
	c := collective.NewLocal(3)[0]
	defer c.Close()
	for _, hosts := range [][]int{{0, 0, 1}, {0, 1}} {
		if e, err := zero.New(q, m.Units(), c, zero.Config{Sharding: zero.Hybrid, Hosts: hosts, Optim: optim.Config{Beta1: 0.9, Beta2: 0.99, Eps: 1e-8}}); err == nil {
			t.Errorf("hosts %v were accepted", hosts)
			_ = e.Close()
		}
	}
}
