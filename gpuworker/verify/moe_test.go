package verify

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// python is the interpreter with torch and transformers: TUNEFLEET_PYTHON, or the one that "go tool task python" makes.
func python(t *testing.T) string {
	t.Helper()
	return fixturetest.Python(t)
}

// TestRandomMoE compares architectures with experts, of sizes that a seed draws, with transformers: logits, losses, every gradient,
// greedy generation, the gradients with the routers' load-balancing loss, and logits of our export there.
func TestRandomMoE(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	names := strings.Fields("mixtral qwen2_moe qwen3_moe olmoe granitemoe granitemoeshared deepseek_v2 deepseek_v3 glm4_moe dots1 ernie4_5_moe flex_olmo gpt_oss hunyuan_v1_moe phimoe")
	for _, seed := range []string{"6", "7"} {
		dir := t.TempDir()
		runReference(t, append([]string{"testdata/moe/make.py", dir, seed}, names...)...)
		for _, name := range names {
			t.Run(name+seed, func(t *testing.T) {
				folder := filepath.Join(dir, name)
				rep, err := VerifyModel(context.Background(), folder, Options{Threads: 2, Checkpoint: seed == "7"})
				mustPass(t, rep, err)
				balanced(t, folder, seed == "7")
				exportModel(t, folder)
			})
		}
		loadsInTransformers(t, dir)
	}
}

// balanced checks the loss that training minimizes when the configuration asks for the load-balancing loss, and its gradients.
func balanced(t *testing.T, dir string, checkpoint bool) {
	t.Helper()
	trained(t, dir, "balanced.", checkpoint, func(m zoo.Model) zoo.Model { return balancing{m} })
}

// trained compares loss and gradients of a training pass with the tensors of that prefix in the golden file, if it has them.
func trained(t *testing.T, dir, prefix string, checkpoint bool, wrap func(zoo.Model) zoo.Model) {
	t.Helper()
	root, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := safetensors.Open(root, goldenName)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.Info(prefix + "loss"); !ok {
		return
	}
	s, err := openSession(context.Background(), root, Options{Threads: 2, Checkpoint: checkpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if wrap != nil {
		s.model = wrap(s.model)
	}
	bs, err := readBatches(f, 2, s.model.Info().Vocab)
	if err != nil {
		t.Fatal(err)
	}
	b := bs[0].leaf()
	tokens := b.LabelTokens()
	got, err := objective.Backward(context.Background(), s.tape, s.model, b, tokens)
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := f.Float32(prefix + "loss")
	if err != nil {
		t.Fatal(err)
	}
	var rep Report
	rep.add(relative(prefix+"loss", got.Sum/float64(tokens), float64(want[0]), 1e-5, 0))
	for _, p := range s.trainable() {
		g, err := nn.Read(s.queue, p.Grad)
		if err != nil {
			t.Fatal(err)
		}
		if want, _, err = f.Float32(prefix + "grad." + p.Name); err != nil {
			t.Fatal(err)
		}
		rep.add(l2(prefix+"grad."+p.Name, g, want, nil, tensorRel, tensorFloor))
	}
	rep.finish()
	mustPass(t, &rep, nil)
}

// balancing is a model whose configuration asks for the load-balancing loss.
type balancing struct{ zoo.Model }

// Info implements zoo.Modules.
func (b balancing) Info() zoo.Info {
	i := b.Model.Info()
	i.RouterAux, i.RouterAuxCoef = true, 0.3
	return i
}
