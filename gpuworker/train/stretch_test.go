package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// TestBaseIsStretched opens a base model whose positions the stage stretches: the configuration that is trained and exported says so,
// and such a base is no longer just the files that were uploaded.
func TestBaseIsStretched(t *testing.T) {
	config := []byte(`{"architectures":["LlamaForCausalLM"],"hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":11,
"max_position_embeddings":16,"tie_word_embeddings":true}`)
	m, err := zoo.New(config)
	if err != nil {
		t.Fatal(err)
	}
	var es []safetensors.Entry
	for _, p := range nn.Params(m.Root()) {
		es = append(es, safetensors.Entry{Name: p.Name, Shape: p.Shape, Float32: make([]float32, p.Len())})
	}
	var weights bytes.Buffer
	if err := safetensors.Write(&weights, es, nil); err != nil {
		t.Fatal(err)
	}
	objects, ref := memstore.New(), &schemas.Ref{}
	for name, raw := range map[string][]byte{"config.json": config, "model.safetensors": weights.Bytes()} {
		sum := sha256.Sum256(raw)
		f := schemas.File{Path: name, SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(raw))}
		ref.Files = append(ref.Files, f)
		if _, err := objects.Put(t.Context(), schemas.InputKey("acme", f.SHA256), raw, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
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
