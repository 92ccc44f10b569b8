package verify

import (
	"context"
	"encoding/json"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

var update = flag.Bool("update", false, "write testdata anew from the float64 reference")

const ownConfig = `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":12,"intermediate_size":18,"num_hidden_layers":2,
"num_attention_heads":3,"num_key_value_heads":1,"head_dim":4,"vocab_size":19,"max_position_embeddings":64,"rms_norm_eps":1e-5,"hidden_act":"silu",
"rope_theta":10000.0,"tie_word_embeddings":false}`

// ownReference makes the reference model of this package's own fixture.
func ownReference(t *testing.T) *refModel { return reference(t, ownConfig) }

// reference draws the weights of a configuration.
func reference(t *testing.T, config string) *refModel {
	t.Helper()
	m := &refModel{w: map[string][]float64{}, c: refConfig{Eps: 1e-6, RopeTheta: 10000}}
	if err := json.Unmarshal([]byte(config), &m.c); err != nil {
		t.Fatal(err)
	}
	if m.c.HeadDim == 0 {
		m.c.HeadDim = m.c.Hidden / m.c.Heads
	}
	if m.c.KVHeads == 0 {
		m.c.KVHeads = m.c.Heads
	}
	model, err := zoo.New([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for _, u := range model.Units() {
		for _, p := range u.Params {
			w := make([]float64, p.Len())
			for i := range w {
				// Rounded to float32, since that is what the checkpoint holds.
				w[i] = float64(float32(0.4 * rng.NormFloat64()))
				if len(p.Shape) == 1 {
					w[i] = float64(float32(1 + 0.1*rng.NormFloat64()))
				}
			}
			m.w[p.Name] = w
		}
	}
	return m
}

func names(m map[string][]float64) []string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func f32(v []float64) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x)
	}
	return out
}

func l2norm(gs map[string][]float64) float64 {
	var s float64
	for _, n := range names(gs) {
		for _, v := range gs[n] {
			s += v * v
		}
	}
	return math.Sqrt(s)
}

func writeOwn(t *testing.T, dir, name string, es []safetensors.Entry) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := safetensors.WriteFile(root, name, es, nil); err != nil {
		t.Fatal(err)
	}
}

func writeJSON(t *testing.T, file string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeOwnModel writes testdata/models/tiny from the reference.
func writeOwnModel(t *testing.T, dir string, m *refModel, shapes map[string][]int64) {
	t.Helper()
	var weights, golden []safetensors.Entry
	b := refBatch(rand.New(rand.NewPCG(3, 3)), 2, 9, m.c.Vocab)
	grads := map[string][]float64{}
	for _, n := range names(m.w) {
		weights = append(weights, safetensors.Entry{Name: n, Shape: shapes[n], Float32: f32(m.w[n])})
		grads[n] = m.gradient(b, m.w[n])
		golden = append(golden, safetensors.Entry{Name: "grad." + n, Shape: shapes[n], Float32: f32(grads[n])})
	}
	mean, rows, logits := m.loss(b)
	var prompt, gen []int64
	for seed := uint64(0); ; seed++ {
		rng := rand.New(rand.NewPCG(seed, 5))
		prompt = nil
		for range 4 {
			prompt = append(prompt, int64(rng.IntN(m.c.Vocab)))
		}
		var margin float64
		if gen, margin = m.greedy(prompt, newTokens); margin > 0.01 {
			break
		}
	}
	ids := []int64{int64(b.rows), int64(b.seq)}
	golden = append(golden,
		safetensors.Entry{Name: "input_ids", Shape: ids, Int64: b.ids}, safetensors.Entry{Name: "attention_mask", Shape: ids, Int64: b.mask},
		safetensors.Entry{Name: "labels", Shape: ids, Int64: b.labels},
		safetensors.Entry{Name: "logits", Shape: append(slices.Clone(ids), int64(m.c.Vocab)), Float32: f32(slices.Concat(logits...))},
		safetensors.Entry{Name: "loss", Float32: []float32{float32(mean)}}, safetensors.Entry{Name: "row_loss_sum", Shape: []int64{2}, Float32: f32(rows)},
		safetensors.Entry{Name: "grad_norm", Float32: []float32{float32(l2norm(grads))}},
		safetensors.Entry{Name: "gen.prompt_ids", Shape: []int64{1, 4}, Int64: prompt}, safetensors.Entry{Name: "gen.ids", Shape: []int64{1, newTokens}, Int64: gen})
	writeOwn(t, dir, "model.safetensors", weights)
	writeOwn(t, dir, goldenName, golden)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(ownConfig+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeOwnTrain writes testdata/train/tiny: full AdamW and LoRA, by float64 central differences.
func writeOwnTrain(t *testing.T, dir string, base func() *refModel, shapes map[string][]int64) {
	t.Helper()
	var s summary
	h := &s.HParams
	h.LR, h.WD, h.Betas, h.Eps, h.Clip, h.Steps, h.Warmup, h.LoRALR, h.R, h.Alpha = 2e-3, 0.05, [2]float64{0.9, 0.98}, 1e-8, 0.5, 5, 2, 5e-3, 2, 3
	s.BaseModel = "../../models/tiny"
	writeJSON(t, filepath.Join(dir, "summary.json"), s)
	rng := rand.New(rand.NewPCG(11, 11))
	var bs []batch
	var ids, mask, labels []int64
	for range h.Steps {
		b := refBatch(rng, 2, 8, 19)
		bs = append(bs, b)
		ids, mask, labels = append(ids, b.ids...), append(mask, b.mask...), append(labels, b.labels...)
	}
	shape := []int64{int64(h.Steps), 2, 8}
	writeOwn(t, dir, "batches.safetensors", []safetensors.Entry{{Name: "input_ids", Shape: shape, Int64: ids},
		{Name: "attention_mask", Shape: shape, Int64: mask}, {Name: "labels", Shape: shape, Int64: labels}})
	full := base()
	refTrain(t, filepath.Join(dir, "full_adamw"), full, &s, bs, h.LR, full.w)
	var es []safetensors.Entry
	for _, n := range names(full.w) {
		es = append(es, safetensors.Entry{Name: n, Shape: shapes[n], Float32: f32(full.w[n])})
	}
	writeOwn(t, dir, "full_adamw/final.safetensors", es)

	m := base()
	m.rank, m.scale, m.lora = h.R, h.Alpha/float64(h.R), map[string][2][]float64{}
	train := map[string][]float64{}
	for _, l := range []string{"0", "1"} {
		for _, mod := range []string{"self_attn.q_proj", "mlp.down_proj"} {
			path := "model.layers." + l + "." + mod
			out, in := int(shapes[path+".weight"][0]), int(shapes[path+".weight"][1])
			ab := [2][]float64{make([]float64, m.rank*in), make([]float64, out*m.rank)}
			for _, x := range ab {
				for i := range x {
					x[i] = float64(float32(0.2 * rng.NormFloat64()))
				}
			}
			m.lora[path] = ab
			train["base_model.model."+path+".lora_A.weight"], train["base_model.model."+path+".lora_B.weight"] = ab[0], ab[1]
		}
	}
	peft := map[string]any{"peft_type": "LORA", "r": h.R, "lora_alpha": h.Alpha, "target_modules": []string{"q_proj", "down_proj"}, "bias": "none"}
	save := func(sub string) {
		var es []safetensors.Entry
		for _, n := range names(train) {
			es = append(es, safetensors.Entry{Name: n, Shape: []int64{int64(len(train[n]))}, Float32: f32(train[n])})
			last := &es[len(es)-1]
			if r := int64(m.rank); n[len(n)-len("A.weight")] == 'A' {
				last.Shape = []int64{r, last.Shape[0] / r}
			} else {
				last.Shape = []int64{last.Shape[0] / r, r}
			}
		}
		writeOwn(t, dir, "lora/"+sub+"/adapter_model.safetensors", es)
		writeJSON(t, filepath.Join(dir, "lora", sub, "adapter_config.json"), peft)
	}
	save("init")
	refTrain(t, filepath.Join(dir, "lora"), m, &s, bs, h.LoRALR, train)
	save("final")
}

// refTrain trains what train names and writes the trajectory.
func refTrain(t *testing.T, dir string, m *refModel, s *summary, bs []batch, lr float64, train map[string][]float64) {
	t.Helper()
	opt := refAdamW{m: map[string][]float64{}, v: map[string][]float64{}}
	sched := optim.Schedule{Name: "cosine", Warmup: s.HParams.Warmup, Total: int64(s.HParams.Steps)}
	var traj trajectory
	for k, b := range bs {
		loss, _, _ := m.loss(b)
		grads := map[string][]float64{}
		for n, w := range train {
			grads[n] = m.gradient(b, w)
		}
		norm := l2norm(grads)
		at := lr * sched.Factor(int64(k))
		opt.step++
		for n, w := range train {
			opt.update(n, w, grads[n], s, at, min(1, s.HParams.Clip/(norm+1e-6)))
		}
		traj.Log = append(traj.Log, stepLog{Step: k, Loss: loss, GradNorm: norm, LR: at, Tokens: b.tokens()})
	}
	final, _, _ := m.loss(bs[0])
	traj.FinalLoss = &final
	writeJSON(t, filepath.Join(dir, "trajectory.json"), traj)
}

// TestOwnFixture verifies the committed fixture, which a float64 model without any of the engine's code has computed; with -update it
// is computed anew.
func TestOwnFixture(t *testing.T) {
	model, train := filepath.Join("testdata", "models", "tiny"), filepath.Join("testdata", "train", "tiny")
	if *update {
		shapes := map[string][]int64{}
		m, err := zoo.New([]byte(ownConfig))
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range m.Units() {
			for _, p := range u.Params {
				shapes[p.Name] = p.Shape
			}
		}
		writeOwnModel(t, model, ownReference(t), shapes)
		writeOwnTrain(t, train, func() *refModel { return ownReference(t) }, shapes)
	}
	for _, o := range []Options{{Threads: 1}, {Threads: 2, Checkpoint: true}} {
		rep, err := VerifyModel(context.Background(), model, o)
		mustPass(t, rep, err)
		rep, err = VerifyTrain(context.Background(), train, o)
		mustPass(t, rep, err)
	}
}

// TestOwnFixtureOnHostileBackend: the same on a backend whose memory Go cannot touch and whose queues run behind the caller; what it
// emits is equal byte for byte.
func TestOwnFixtureOnHostileBackend(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	model, train := filepath.Join("testdata", "models", "tiny"), filepath.Join("testdata", "train", "tiny")
	for _, ckpt := range []bool{false, true} {
		cpu, bad := t.TempDir(), t.TempDir()
		for _, o := range []Options{{Emit: cpu, Checkpoint: ckpt}, {Emit: bad, Checkpoint: ckpt, Backend: so, Threads: 2}} {
			rep, err := VerifyModel(context.Background(), model, o)
			mustPass(t, rep, err)
			rep, err = VerifyTrain(context.Background(), train, o)
			mustPass(t, rep, err)
		}
		for _, f := range []string{goldenName, "full_adamw/final.safetensors", "lora/final/adapter_model.safetensors"} {
			sameFile(t, cpu, bad, f)
		}
	}
}

// TestOwnFixtureOnCUDAHost: the same through the CUDA kernels on their emulation. It runs threads in another order from one launch to the
// next, so that two runs whose bytes are equal depend on no order.
func TestOwnFixtureOnCUDAHost(t *testing.T) {
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	model, train := filepath.Join("testdata", "models", "tiny"), filepath.Join("testdata", "train", "tiny")
	first, second := t.TempDir(), t.TempDir()
	for _, o := range []Options{{Emit: first, Backend: so}, {Emit: second, Backend: so}} {
		rep, err := VerifyModel(t.Context(), model, o)
		mustPass(t, rep, err)
		rep, err = VerifyTrain(t.Context(), train, o)
		mustPass(t, rep, err)
	}
	for _, f := range []string{goldenName, "full_adamw/final.safetensors", "lora/final/adapter_model.safetensors"} {
		sameFile(t, first, second, f)
	}
}

// TestOddShapes: sizes that are multiples of nothing, against the float64 reference; gradients at single elements of every tensor.
func TestOddShapes(t *testing.T) {
	const config = `{"architectures":["LlamaForCausalLM"],"hidden_size":42,"intermediate_size":74,"num_hidden_layers":3,"num_attention_heads":6,
"num_key_value_heads":3,"head_dim":10,"vocab_size":307,"max_position_embeddings":64,"rms_norm_eps":1e-6}`
	m := reference(t, config)
	model, err := zoo.New([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var es []safetensors.Entry
	for _, p := range nn.Params(model.Root()) {
		es = append(es, safetensors.Entry{Name: p.Name, Shape: p.Shape, Float32: f32(m.w[p.Name])})
	}
	writeOwn(t, dir, "model.safetensors", es)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := openSession(context.Background(), root, Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	b := refBatch(rand.New(rand.NewPCG(1, 2)), 2, 37, 307)
	_, _, logits := m.loss(b)
	got, err := s.logits(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	if row := l2("logits", got, f32(slices.Concat(logits...)), func(i int) bool { return b.mask[i/307] == 1 }, 1e-5, 0); !row.OK {
		t.Errorf("logits: %g of %g", row.Error, row.Limit)
	}
	if _, err := objective.Backward(context.Background(), s.tape, s.model, b.leaf(), int64(b.shiftedTokens())); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for _, p := range s.trainable() {
		g, err := nn.Read(s.queue, p.Grad)
		if err != nil {
			t.Fatal(err)
		}
		norm := 0.0
		for _, v := range g {
			norm = max(norm, math.Abs(float64(v)))
		}
		w, i := m.w[p.Name], rng.IntN(len(g))
		const eps = 1e-4
		v := w[i]
		w[i] = v + eps
		up, _, _ := m.loss(b)
		w[i] = v - eps
		down, _, _ := m.loss(b)
		w[i] = v
		if want := (up - down) / (2 * eps); math.Abs(want-float64(g[i])) > 1e-4*norm+1e-8 {
			t.Errorf("%s[%d]: gradient %g, central difference %g", p.Name, i, g[i], want)
		}
	}
}

func TestOwnModelTwinsFail(t *testing.T) { modelTwins(t, filepath.Join("testdata", "models", "tiny")) }

func TestOwnTrainTwinsFail(t *testing.T) { trainTwins(t, filepath.Join("testdata", "train", "tiny")) }

func TestOwnEmit(t *testing.T) { emitsFromInputs(t, filepath.Join("testdata", "models", "tiny")) }
