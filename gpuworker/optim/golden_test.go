package optim

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// The parameters, values and gradients of testdata/golden.py.
const goldenSteps = 20

func goldenParams() []*autograd.Param {
	return []*autograd.Param{
		{Name: "model.embed_tokens.weight", Shape: []int64{11, 6}, Role: autograd.RoleEmbedding},
		{Name: "model.layers.0.self_attn.q_proj.weight", Shape: []int64{16, 8}},
		{Name: "model.layers.0.self_attn.k_proj.weight", Shape: []int64{8, 8}},
		{Name: "model.layers.0.mlp.up_proj.weight", Shape: []int64{6, 10}},
		{Name: "model.layers.0.mlp.down_proj.weight", Shape: []int64{70, 60}},
		{Name: "model.layers.0.mlp.up_proj.bias", Shape: []int64{7}, Role: autograd.RoleBias},
		{Name: "model.layers.1.self_attn.o_proj.weight", Shape: []int64{12, 5}},
		{Name: "model.layers.1.input_layernorm.weight", Shape: []int64{9}, Role: autograd.RoleNorm},
		{Name: "model.norm.weight", Shape: []int64{9}, Role: autograd.RoleNorm},
		{Name: "lm_head.weight", Shape: []int64{11, 6}},
	}
}

func goldenUnits(ps []*autograd.Param) []*autograd.Unit {
	var out []*autograd.Unit
	for _, p := range ps {
		name, block := p.Name, -1
		for b := range 2 {
			if strings.HasPrefix(p.Name, fmt.Sprintf("model.layers.%d.", b)) {
				name, block = fmt.Sprintf("model.layers.%d", b), b
			}
		}
		if n := len(out); n > 0 && block >= 0 && out[n-1].Block == block {
			out[n-1].Params = append(out[n-1].Params, p)
			continue
		}
		out = append(out, &autograd.Unit{Name: name, Block: block, Params: []*autograd.Param{p}})
	}
	return out
}

func series(n, a, b int64, scale float64) []float32 {
	out := make([]float32, n)
	for i := range n {
		r := (i*i*7 + i*7919 + a*104729 + b*1299709 + a*i*31) % 2003
		if r < 0 {
			r += 2003 // as Python's remainder
		}
		out[i] = float32(float64(r-1001) / 1001 * scale)
	}
	return out
}

func goldenGrad(step, k int64, shape []int64) []float32 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	g := series(n, step, k, 0.02)
	if len(shape) != 2 {
		return g
	}
	for r := range int64(3) {
		u, v := series(shape[0], 50+r, k, 1/float64(int64(1)<<r)), series(shape[1], 90+r, k, 1)
		for i := range g {
			g[i] += float32(u[i/int(shape[1])] * v[i%int(shape[1])])
		}
	}
	return g
}

func device(t *testing.T, backend string) *kernels.Queue {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Backend: backend, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// bench holds parameters with state as an engine would.
type bench struct {
	q         *kernels.Queue
	opt       Optimizer
	stretches []Stretch
	arena     *kernels.Arena
	name      string // of the backend
	clip      float32
}

func newBench(t *testing.T, backend string, c Config, ps []*autograd.Param) *bench {
	t.Helper()
	q := device(t, backend)
	opt, err := New(c, goldenUnits(ps))
	if err != nil {
		t.Fatal(err)
	}
	arena, err := q.Device().NewArena("test", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opt.Close(); arena.Close() })
	take := func(dt kernels.DType, n int64) kernels.Tensor {
		x, err := arena.New(dt, n)
		if err != nil {
			t.Fatal(err)
		}
		q.Fill(kernels.Fill{Y: x})
		return x
	}
	info, err := q.Device().Info()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{q: q, opt: opt, arena: arena, name: info.Backend, clip: 1}
	for k, p := range ps {
		n := p.Len()
		s := Stretch{Param: p, Len: n, Group: opt.Group(p), P: take(kernels.F32, n), G: take(kernels.F32, n)}
		for _, d := range opt.State(p) {
			s.State = append(s.State, take(d.DType, d.Len(n)))
		}
		if err := kernels.Upload(q, s.P, series(n, int64(-1-k), 17, 0.5)); err != nil {
			t.Fatal(err)
		}
		b.stretches = append(b.stretches, s)
	}
	return b
}

func (b *bench) step(t *testing.T, n int, lr float64) {
	t.Helper()
	for k, s := range b.stretches {
		if err := kernels.Upload(b.q, s.G, goldenGrad(int64(n), int64(k), s.Param.Shape)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.opt.Update(b.q, Step{LR: lr, N: int64(n + 1), Clip: b.clip}, b.stretches); err != nil {
		t.Fatal(err)
	}
}

func golden(t *testing.T, dir string) *safetensors.File {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(root, "golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); root.Close() })
	return f
}

// Every optimizer ends where its reference implementation ended after 20 steps, when the values in testdata were made.
func TestOptimizersEqualTheirReferences(t *testing.T) { equalReferences(t, golden(t, "testdata")) }

// TestOptimizersEqualInstalledReferences runs the reference implementations as they are installed (torch, transformers, bitsandbytes, Lion,
// GaLore, APOLLO, Adam-mini, BAdam) for the same 20 steps.
func TestOptimizersEqualInstalledReferences(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the reference implementations")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), fixturetest.Python(t), "golden.py", filepath.Join(dir, "golden.safetensors"))
	cmd.Dir, cmd.Env = "testdata", append(os.Environ(), "CUDA_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v (does \"go tool task python\" have something to install?)\n%s", err, out)
	}
	f := golden(t, dir)
	equalReferences(t, f)
	equalDynamicMaps(t, f)
}

func equalReferences(t *testing.T, f *safetensors.File) {
	t.Helper()
	base := Config{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-7, WeightDecay: 0.1, SkipDecay: true}
	with := func(name string, change func(c *Config)) Config {
		c := base
		c.Name = name
		if change != nil {
			change(&c)
		}
		return c
	}
	low := func(name, proj string) Config {
		return with(name, func(c *Config) { c.LowRank = LowRankConfig{Rank: 3, Every: 7, Scale: 2, Proj: proj} })
	}
	cases := map[string]struct {
		c   Config
		tol float64 // of the move, relative
	}{
		"adamw":        {with(AdamW, nil), 1e-5},
		"sgd":          {with(SGD, nil), 1e-5},
		"sgd_momentum": {with(SGD, func(c *Config) { c.Momentum = 0.9 }), 1e-5},
		"sgd_nesterov": {with(SGD, func(c *Config) { c.Momentum, c.Nesterov = 0.9, true }), 1e-5},
		"lion":         {with(Lion, nil), 1e-5},
		"adamw_8bit":   {with(AdamW8bit, nil), 1e-5},
		"adafactor":    {with(Adafactor, nil), 1e-5},
		"adafactor_relative": {with(Adafactor, func(c *Config) {
			c.Adafactor = AdafactorConfig{ScaleParameter: true, RelativeStep: true, WarmupInit: true, FirstMoment: true}
		}), 1e-5},
		"adam_mini":          {with(AdamMini, func(c *Config) { c.HeadDim = 2 }), 1e-5},
		"muon":               {with(Muon, func(c *Config) { c.Nesterov = true }), 1e-4},
		"muon_bf16":          {with(Muon, func(c *Config) { c.Nesterov = true }), 0.1},
		"muon_original":      {with(Muon, func(c *Config) { c.Momentum = 0.8; c.Muon.AdjustLR = "original" }), 1e-4},
		"galore_std":         {low(GaLore, "std"), 1e-4},
		"galore_reverse_std": {low(GaLore, "reverse_std"), 1e-4},
		"galore_left":        {low(GaLore, "left"), 1e-4},
		"galore_right":       {low(GaLore, "right"), 1e-4},
		"apollo_channel":     {with(Apollo, func(c *Config) { c.LowRank = LowRankConfig{Rank: 3, Every: 7, Scale: 4, Torch: true} }), 1e-4},
		"apollo_tensor": {with(Apollo, func(c *Config) {
			c.LowRank = LowRankConfig{Rank: 3, Every: 7, Scale: 4, ScaleType: "tensor", ScaleFront: true, Torch: true}
		}), 1e-4},
		"badam_ascending":  {with(BAdam, func(c *Config) { c.Blocks, c.SkipDecay = BlockConfig{Every: 4}, false }), 1e-5},
		"badam_descending": {with(BAdam, func(c *Config) { c.Blocks, c.SkipDecay = BlockConfig{Every: 4, Mode: "descending"}, false }), 1e-5},
	}
	for tag, c := range cases {
		t.Run(tag, func(t *testing.T) {
			ps := goldenParams()
			b := newBench(t, kernels.CPU, c.c, ps)
			for step := range goldenSteps {
				b.step(t, step, c.c.LR)
			}
			for k, s := range b.stretches {
				got := make([]float32, s.Len)
				if err := kernels.Download(b.q, got, s.P); err != nil {
					t.Fatal(err)
				}
				want, _, err := f.Float32(tag + "/" + s.Param.Name)
				if err != nil {
					t.Fatal(err)
				}
				begin := series(s.Len, int64(-1-k), 17, 0.5)
				if d, moved := distance(got[:len(want)], want), distance(want, begin); !(d <= c.tol*moved+1e-7) {
					t.Errorf("%s: differs by %.3g from the reference, which moved %.3g", s.Param.Name, d, moved)
				}
			}
		})
	}
}

func TestDynamicMapEqualsBitsandbytes(t *testing.T) { equalDynamicMaps(t, golden(t, "testdata")) }

func equalDynamicMaps(t *testing.T, f *safetensors.File) {
	t.Helper()
	for name, got := range map[string][256]float32{"map_signed": oracle.DynamicMap(true), "map_unsigned": oracle.DynamicMap(false)} {
		want, _, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s[%d] is %v, bitsandbytes has %v", name, i, got[i], want[i])
			}
		}
	}
}

// The vectors that singular gives are orthonormal and span what the matrix stretches most, on both sides.
func TestSingularVectors(t *testing.T) {
	const rows, cols, rank = 9, 14, 4
	a := goldenGrad(3, 5, []int64{rows, cols})
	left := singular(a, rows, cols, rank, false)
	right := singular(a, rows, cols, rank, true)
	for x := range rank {
		for y := range rank {
			var l, r, s float64
			for i := range rows {
				l += float64(left[i*rank+x]) * float64(left[i*rank+y])
				for j := range cols {
					s += float64(left[i*rank+x]) * float64(a[i*cols+j]) * float64(right[y*cols+j])
				}
			}
			for j := range cols {
				r += float64(right[x*cols+j]) * float64(right[y*cols+j])
			}
			want := 0.0
			if x == y {
				want = 1
			}
			if math.Abs(l-want) > 1e-6 || math.Abs(r-want) > 1e-6 || x != y && math.Abs(s) > 1e-5 {
				t.Errorf("vectors %d and %d: %g left, %g right, u A v = %g", x, y, l, r, s)
			}
		}
	}
}

// Group makes the parameter groups of transformers' Trainer and of LoRA+.
func TestGroups(t *testing.T) {
	c := Config{LR: 1e-4, WeightDecay: 0.1, SkipDecay: true, LoRAPlusRatio: 16, LoRAPlusEmbeddingLR: 1e-6}
	for _, x := range []struct {
		p    autograd.Param
		want Group
	}{
		{autograd.Param{Name: "w", Shape: []int64{2, 2}}, Group{1, 0.1}},
		{autograd.Param{Name: "b", Shape: []int64{2}, Role: autograd.RoleBias}, Group{16, 0}},
		{autograd.Param{Name: "n", Shape: []int64{2}, Role: autograd.RoleNorm}, Group{16, 0}},
		{autograd.Param{Name: "lora_A", Shape: []int64{2, 2}, Role: autograd.RoleLoRAA}, Group{1, 0.1}},
		{autograd.Param{Name: "lora_B", Shape: []int64{2, 2}, Role: autograd.RoleLoRAB}, Group{16, 0.1}},
		{autograd.Param{Name: "e.lora_embedding_B", Shape: []int64{2, 2}, Role: autograd.RoleLoRAB}, Group{0.01, 0.1}},
	} {
		if got := c.Group(&x.p); math.Abs(got.LRScale-x.want.LRScale) > 1e-12 || got.Decay != x.want.Decay {
			t.Errorf("%s: group %+v, want %+v", x.p.Name, got, x.want)
		}
	}
}

// Everything that is wrong is reported at once, and every optimizer's name is known.
func TestConfigReportsAll(t *testing.T) {
	err := Config{Name: "adamx", Beta1: 1, Beta2: -1, WeightDecay: -1, Momentum: 2, LowRank: LowRankConfig{Proj: "up"}, Muon: MuonConfig{AdjustLR: "x"}}.Validate()
	for _, key := range []string{"name", "beta1", "beta2", "weight_decay", "momentum", "proj_type", "adjust_lr"} {
		if err == nil || !strings.Contains(err.Error(), "optim."+key) {
			t.Errorf("%s is not reported: %v", key, err)
		}
	}
	for _, n := range Names() {
		if err := (Config{Name: n, Beta1: 0.9, Beta2: 0.99}).Validate(); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
}

// TestTargetsOfLowRank: "all" is every matrix but the head's, as no targets are; others are parts of names, as upstream compares them.
func TestTargetsOfLowRank(t *testing.T) {
	matrix := func(name string) *autograd.Param {
		return &autograd.Param{Name: name, Shape: []int64{4, 4}, Role: autograd.RoleMatrix}
	}
	for _, c := range []struct {
		targets []string
		want    string
	}{{nil, "qd"}, {[]string{"all"}, "qd"}, {[]string{"q_proj"}, "q"}, {[]string{"mlp"}, "d"}, {[]string{"self_attn", "down_proj"}, "qd"}, {[]string{"none"}, ""}} {
		o := &lowRank{Config: Config{LowRank: LowRankConfig{Targets: c.targets}}}
		got := ""
		for _, p := range []*autograd.Param{matrix("model.layers.0.self_attn.q_proj.weight"), matrix("model.layers.0.mlp.down_proj.weight"), matrix("lm_head.weight")} {
			if o.projected(p) {
				got += strings.NewReplacer("model.layers.0.self_attn.", "", "model.layers.0.mlp.", "").Replace(p.Name)[:1]
			}
		}
		if got != c.want {
			t.Errorf("%q project %q, want %q", c.targets, got, c.want)
		}
	}
}
