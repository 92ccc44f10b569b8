package train

import (
	"bytes"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestBaseIsStretched opens a base model whose positions the stage stretches: the configuration that is trained and exported says so,
// and such a base is no longer just the files that were uploaded.
func TestBaseIsStretched(t *testing.T) {
	config := []byte(`{"architectures":["LlamaForCausalLM"],"hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":11,
"max_position_embeddings":16,"tie_word_embeddings":true}`)
	objects, ref := uploadModel(t, config, func(*nn.Param, int) float32 { return 0 })
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	r := &Recipe{Tenant: "acme", Base: ref, Stretch: &schemas.RopeScaling{Type: "yarn", Length: 40}, Layers: nil}
	src, err := openSource(t.Context(), objects, q, r, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	want, err := zoo.Stretch(config, "yarn", 40)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Config, want) || bytes.Equal(want, config) {
		t.Errorf("the configuration is %s, expected %s", r.Config, want)
	}
	stage := schemas.Stage{Train: &schemas.TrainStage{}}
	r.Layers = []Layer{{Stage: &stage}}
	if r.Uploaded() {
		t.Error("a stretched base counts as the files that were uploaded")
	}
	r.Stretch = nil
	if !r.Uploaded() {
		t.Error("a base that nothing changed does not count as the files that were uploaded")
	}
}
