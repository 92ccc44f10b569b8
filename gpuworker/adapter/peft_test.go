package adapter_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

const (
	tinyLlama = `{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":53,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-6,"initializer_range":0.2,"tie_word_embeddings":false}`
	tinyQwen = `{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","vocab_size":53,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":2,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-6,"initializer_range":0.2,"tie_word_embeddings":true}`
)

// python is the reference's: TUNEFLEET_PYTHON, or the one that "go tool task python" makes.
func python(t *testing.T) string {
	t.Helper()
	return fixturetest.Python(t)
}

// rig is a small model with adapters on a device.
type rig struct {
	t       *testing.T
	q       *kernels.Queue
	tape    *autograd.Tape
	model   zoo.Model
	base    []*nn.Param
	a       *adapter.Adapters
	storage *nn.Storage
}

// newRig makes a model with random weights; c, when not nil, is applied.
func newRig(t *testing.T, config string, c *adapter.Config) *rig {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, q: q}
	if r.model, err = zoo.New([]byte(config)); err != nil {
		t.Fatal(err)
	}
	r.base = nn.Params(r.model.Root())
	if c != nil {
		if r.a, err = adapter.Apply(r.model, *c); err != nil {
			t.Fatal(err)
		}
	}
	if r.storage, err = nn.NewStorage(dev, q, r.model.Units(), true); err != nil {
		t.Fatal(err)
	}
	mem := autograd.NewMemory(dev, q, 0)
	r.tape = autograd.New(mem, autograd.Config{})
	t.Cleanup(func() {
		err := mem.Close()
		r.storage.Close()
		if err := errors.Join(err, dev.Close()); err != nil {
			t.Error(err)
		}
	})
	r.fill()
	return r
}

// original reads the base's values: drawn, before anything changes them.
func (r *rig) original() adapter.Reader {
	return func(_ context.Context, p *nn.Param, start int64, dst []float32) error {
		arena, err := r.q.Device().NewArena("original", 4*p.Len()+512)
		if err != nil {
			return err
		}
		defer arena.Close()
		x, err := arena.New(kernels.F32, p.Len())
		if err != nil {
			return err
		}
		nn.InitRange(r.q, p, x, 0, 3)
		return kernels.Download(r.q, dst, x.Slice(0, start, start+int64(len(dst))))
	}
}

// fill gives the base its drawn values, adapters what they start from, and then moves the adapters a little.
func (r *rig) fill() {
	r.t.Helper()
	for _, u := range r.model.Units() {
		for _, p := range u.Params {
			own := r.a != nil && strings.HasPrefix(p.Name, adapter.Prefix)
			if !r.a.Derived(p) {
				if own {
					p.Init = autograd.Init{Kind: autograd.InitNormal, Std: 0.05}
				}
				nn.InitRange(r.q, p, p.Data, 0, 3)
				continue
			}
			v := make([]float32, p.Len())
			if _, err := r.a.Initial(r.t.Context(), p, 0, v, r.original()); err != nil {
				r.t.Fatal(err)
			}
			for i := range v {
				if own {
					v[i] += 0.02 * float32(math.Sin(float64(i)+float64(len(p.Name))))
				}
			}
			if err := kernels.Upload(r.q, p.Data.Reshape(p.Len()), v); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func testBatch() *nn.Batch {
	b := &nn.Batch{Rows: 2, Seq: 9}
	for i := range b.Rows * b.Seq {
		b.IDs = append(b.IDs, int32(i*i*7%53))
		label := b.IDs[i]
		if i%b.Seq == 0 || i%5 == 0 {
			label = nn.IgnoreLabel
		}
		b.Labels = append(b.Labels, label)
	}
	return b
}

func (r *rig) logits() []float32 {
	r.t.Helper()
	r.tape.Reset(r.t.Context(), false)
	v, err := r.tape.Read(r.model.Logits(r.tape, testBatch()))
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) backward() {
	r.t.Helper()
	b := testBatch()
	if _, err := objective.Backward(r.t.Context(), r.tape, r.model, b, b.LabelTokens()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) set(p *nn.Param, v []float32) {
	r.t.Helper()
	if err := kernels.Upload(r.q, p.Data.Reshape(p.Len()), v); err != nil {
		r.t.Fatal(err)
	}
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// near compares by relative L2.
func near(t *testing.T, name string, got, want []float32, limit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d elements, want %d", name, len(got), len(want))
		return
	}
	var d, g float64
	for i := range want {
		e := float64(got[i]) - float64(want[i])
		d, g = d+e*e, g+float64(want[i])*float64(want[i])
	}
	if !(math.Sqrt(d) <= limit*math.Sqrt(g)+1e-7) {
		t.Errorf("%s: differs by %.3g of %.3g", name, math.Sqrt(d), math.Sqrt(g))
	}
}

type peftCase struct {
	Name  string `json:"name"`
	Base  string `json:"base"`
	Kind  string `json:"kind"`
	R     int    `json:"r"`
	Alpha int    `json:"alpha"`

	config adapter.Config
	rig    *rig
}

func peftCases() []*peftCase {
	qv := []string{"q_proj", "v_proj", "down_proj"}
	return []*peftCase{
		{Name: "lora", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv}},
		{Name: "rslora", config: adapter.Config{Rank: 5, Alpha: 6, RSLoRA: true}},
		{Name: "dora", config: adapter.Config{Rank: 3, Alpha: 7, DoRA: true}},
		{Name: "dora-bias", Base: "qwen", config: adapter.Config{Rank: 3, Alpha: 7, DoRA: true, RSLoRA: true}},
		{Name: "patterns", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, RankPattern: map[string]int{`layers\.1\.self_attn\.q_proj`: 7, "down_proj": 2},
			AlphaPattern: map[string]float64{"v_proj": 3}}},
		{Name: "regular-expression", config: adapter.Config{Rank: 4, Alpha: 6, Pattern: `.*\.[12]\.self_attn\.(q|k)_proj`}},
		{Name: "some-layers", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Layers: func(b int) bool { return b > 0 }}},
		{Name: "llama-pro", config: adapter.Config{Rank: 4, Alpha: 6, Spread: 1}},
		{Name: "llama-pro-parts", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 4}, Spread: 3, Targets: []string{"v_pro", "mlp.up", "lm_head"}}},
		{Name: "exclude", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Exclude: []string{"layers.1.self_attn.q_proj"}}},
		{Name: "embedding-and-head", config: adapter.Config{Rank: 4, Alpha: 6, Targets: []string{"embed_tokens", "lm_head", "q_proj"}}},
		{Name: "dora-head", config: adapter.Config{Rank: 4, Alpha: 6, DoRA: true, Targets: []string{"lm_head", "q_proj"}}},
		{Name: "embedding-some-layers", config: adapter.Config{Rank: 4, Alpha: 6, Targets: []string{"embed_tokens", "q_proj"}, Layers: func(b int) bool { return b == 2 }}},
		{Name: "modules-to-save", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Save: []string{"embed_tokens", "lm_head"}}},
		{Name: "modules-to-save-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Save: []string{"embed_tokens"}}},
		{Name: "head-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, Targets: []string{"lm_head", "q_proj"}}},
		{Name: "head-and-embedding-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, RSLoRA: true, Targets: []string{"lm_head", "embed_tokens"}}},
		{Name: "dora-head-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, DoRA: true, Targets: []string{"lm_head", "v_proj"}}},
		{Name: "head-saved-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Save: []string{"lm_head"}}},
		{Name: "both-saved-tied", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, Targets: qv, Save: []string{"embed_tokens", "lm_head"}}},
		{Name: "head-with-embedding-saved", Base: "qwen", config: adapter.Config{Rank: 4, Alpha: 6, Targets: []string{"lm_head", "q_proj"}, Save: []string{"embed_tokens"}}},
		{Name: "oft-head-tied", Base: "qwen", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 8}, Targets: []string{"lm_head", "o_proj"}}},
		{Name: "oft", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 8}, Targets: qv}},
		{Name: "oft-by-rank", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{Rank: 5}}},
		{Name: "oft-shared", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 4, Share: true, Terms: 4}, Targets: qv}},
		{Name: "houlsby", Kind: "bottleneck", config: adapter.Config{Kind: adapter.KindBottleneck, Bottleneck: adapter.Houlsby(6, "gelu")}},
		{Name: "pfeiffer", Kind: "bottleneck", Base: "qwen", config: adapter.Config{Kind: adapter.KindBottleneck, Bottleneck: adapter.Pfeiffer(6, "silu")}},
		{Name: "pissa-converted", config: adapter.Config{Rank: 3, Alpha: 7, PiSSA: true, PiSSAIter: -1, Targets: []string{"q_proj", "down_proj"}}},
		{Name: "pissa-rslora", config: adapter.Config{Rank: 3, Alpha: 7, RSLoRA: true, PiSSA: true, PiSSAIter: 8, Targets: []string{"q_proj", "down_proj"}}},
	}
}

// bases are the configurations of the models.
func bases() map[string]string {
	out := map[string]string{"llama": tinyLlama, "qwen": tinyQwen}
	maps.Copy(out, tinyMixtures)
	return out
}

// save writes a case's adapter: one that began with PiSSA as the plain one that it is converted to.
func (c *peftCase) save(t *testing.T, dir string) {
	t.Helper()
	r, root := c.rig, openRoot(t, dir)
	if !c.config.PiSSA {
		if err := r.a.Save(r.q, root, ""); err != nil {
			t.Fatal(err)
		}
		return
	}
	own := memory{}
	for _, p := range r.a.Params() {
		v, err := nn.Read(r.q, p.Data)
		if err != nil {
			t.Fatal(err)
		}
		own[p.Name] = v
	}
	plain, stored := adapter.Plain(c.config, own, r.original(), func(path string) *nn.Param {
		for _, p := range r.base {
			if p.Name == path+".weight" {
				return p
			}
		}
		return nil
	})
	twin := newRig(t, tinyLlama, &plain)
	for _, p := range twin.a.Params() {
		v := make([]float32, p.Len())
		if err := errors.Join(stored.Read(t.Context(), p.Name, 0, v), kernels.Upload(twin.q, p.Data.Reshape(p.Len()), v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := twin.a.Save(twin.q, root, ""); err != nil {
		t.Fatal(err)
	}
}

// memory is an adapter in memory.
type memory map[string][]float32

func (m memory) Has(name string) bool { return m[name] != nil }

func (m memory) Read(_ context.Context, name string, start int64, dst []float32) error {
	copy(dst, m[name][start:])
	return nil
}

// Every method against PEFT: it loads what we write and computes the same logits and gradients, and we load what it writes.
func TestPEFTAgrees(t *testing.T) {
	py := python(t)
	dir := t.TempDir()
	for name, config := range bases() {
		r, root := newRig(t, config, nil), openRoot(t, filepath.Join(dir, name))
		err := safetensors.WriteFile(root, "model.safetensors", nn.Entries(r.q, r.base), map[string]string{"format": "pt"})
		if err := errors.Join(err, root.WriteFile("config.json", []byte(config), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	b := testBatch()
	ints := func(v []int32) (out []int64) {
		for _, x := range v {
			out = append(out, int64(x))
		}
		return out
	}
	shape := []int64{int64(b.Rows), int64(b.Seq)}
	top := openRoot(t, dir)
	if err := safetensors.WriteFile(top, "batch.safetensors", []safetensors.Entry{
		{Name: "ids", Shape: shape, Int64: ints(b.IDs)}, {Name: "labels", Shape: shape, Int64: ints(b.Labels)}}, nil); err != nil {
		t.Fatal(err)
	}
	cases := append(peftCases(), mixtureCases()...)
	list := slices.Clone(cases)
	for _, c := range cases {
		if c.Base == "" {
			c.Base = "llama"
		}
		c.rig = newRig(t, bases()[c.Base], &c.config)
		c.save(t, filepath.Join(dir, c.Name))
	}
	start := &peftCase{Name: "pissa-start", Base: "llama", Kind: "pissa", R: 3, Alpha: 7}
	openRoot(t, filepath.Join(dir, start.Name))
	raw, err := json.Marshal(append(list, start))
	if err != nil {
		t.Fatal(err)
	}
	if err := top.WriteFile("cases.json", raw, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), py, filepath.Join("testdata", "peft.py"), dir)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_VERBOSITY=error")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.compare(t, filepath.Join(dir, c.Name)) })
	}
	t.Run(start.Name, func(t *testing.T) { comparePissa(t, filepath.Join(dir, start.Name)) })
}

func (c *peftCase) compare(t *testing.T, dir string) {
	f, err := safetensors.OpenPath(dir, "result.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, _, err := f.Float32("logits")
	if err != nil {
		t.Fatal(err)
	}
	got := c.rig.logits()
	near(t, "logits", got, want, 2e-5)
	if c.Kind != "bottleneck" {
		c.again(t, filepath.Join(dir, "again"), got)
	}
	if c.config.PiSSA {
		return // the gradients are those of the converted adapter
	}
	c.rig.backward()
	seen := 0
	for _, p := range c.rig.a.Params() {
		if p.Frozen {
			continue // a buffer in the reference
		}
		want, shape, err := f.Float32("grad." + p.Name)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		seen++
		g, err := nn.Read(c.rig.q, p.Grad)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(p.Name, ".lora_embedding_A") {
			turned := make([]float32, len(g))
			for i := range g {
				turned[i%int(shape[0])*int(shape[1])+i/int(shape[0])] = g[i]
			}
			g = turned
		}
		near(t, "gradient of "+p.Name, g, want, 1e-4)
	}
	if n := len(f.Infos()) - 2; seen != n {
		t.Errorf("%d gradients were compared, PEFT has %d", seen, n)
	}
}

// again reads the folder as PEFT wrote it.
func (c *peftCase) again(t *testing.T, dir string, want []float32) {
	root := openRoot(t, dir)
	config, err := adapter.ReadConfig(root)
	if err != nil {
		t.Fatal(err)
	}
	model := bases()[c.Base]
	r := newRig(t, model, &config)
	if err := r.a.Load(t.Context(), r.q, root); err != nil {
		t.Fatal(err)
	}
	limit := 1e-7
	if c.config.PiSSA {
		limit = 2e-5
	}
	near(t, "logits of the folder that PEFT wrote", r.logits(), want, limit)
	// Merged, and switched off.
	off := newRig(t, model, nil).logits()
	r.a.Enable(false)
	near(t, "logits without adapters", r.logits(), off, 1e-7)
	r.a.Enable(true)
	err = r.a.Merge(t.Context(), r.q)
	shared := slices.ContainsFunc(config.Targets, func(n string) bool { return n == "lm_head" || n == "embed_tokens" })
	if shared && r.a.Untied() != nil {
		if !schemas.IsCode(err, schemas.CodeUnsupported) {
			t.Errorf("half of a shared weight was merged on the device: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	near(t, "merged logits", r.logits(), want, 2e-5)
}

// comparePissa compares the principal part of the weights with PEFT's.
func comparePissa(t *testing.T, dir string) {
	f, err := safetensors.OpenPath(dir, "result.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, iters := range []int{-1, 60} {
		r := newRig(t, tinyLlama, &adapter.Config{Rank: 3, Alpha: 7, PiSSA: true, PiSSAIter: iters, Targets: []string{"q_proj", "down_proj"}})
		params := r.a.Params()
		for i := 0; i < len(params); i += 2 {
			a, b := params[i], params[i+1]
			av, bv := make([]float32, a.Len()), make([]float32, b.Len())
			_, err1 := r.a.Initial(t.Context(), a, 0, av, r.original())
			_, err2 := r.a.Initial(t.Context(), b, 0, bv, r.original())
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			rank, in, out := a.Shape[0], a.Shape[1], b.Shape[0]
			got := make([]float32, out*in)
			for o := range out {
				for k := range rank {
					for j := range in {
						got[o*in+j] += bv[o*rank+k] * av[k*in+j]
					}
				}
			}
			name := strings.TrimSuffix(strings.TrimPrefix(a.Name, adapter.Prefix), ".lora_A.weight")
			want, _, err := f.Float32("product." + name)
			if err != nil {
				t.Fatal(err)
			}
			if iters < 0 {
				near(t, "principal part of "+name, got, want, 1e-4)
				continue
			}
			// Neighbouring singular values of random weights are so close that their vectors mix; what counts is how much they hold.
			if g, w := norm(got), norm(want); math.Abs(g-w) > 5e-3*w {
				t.Errorf("the principal part of %s has norm %v after %d iterations, %v is the best", name, g, iters, w)
			}
		}
	}
}

func norm(v []float32) float64 {
	var s float64
	for _, x := range v {
		s += float64(x) * float64(x)
	}
	return math.Sqrt(s)
}
