package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// uploadModel puts a model of a configuration into a store; value gives its elements.
func uploadModel(t *testing.T, config []byte, value func(p *nn.Param, i int) float32) (store.Objects, *schemas.Ref) {
	t.Helper()
	m, err := zoo.New(config)
	if err != nil {
		t.Fatal(err)
	}
	var es []safetensors.Entry
	for _, p := range nn.Params(m.Root()) {
		v := make([]float32, p.Len())
		for i := range v {
			v[i] = value(p, i)
		}
		es = append(es, safetensors.Entry{Name: p.Name, Shape: p.Shape, Float32: v})
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
	return objects, ref
}

// TestVocabularyOfABaseGrows: old rows stay, new ones are the mean of the old ones with noise of 1/sqrt(width), the same for every range that
// is read.
func TestVocabularyOfABaseGrows(t *testing.T) {
	const old, rows, width = 11, 1024, 16
	config := []byte(`{"model_type":"phi","hidden_size":16,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":11,"max_position_embeddings":16}`)
	value := func(p *nn.Param, i int) float32 {
		return float32(i%width) + float32(i/width)/old + float32(len(p.Name))
	}
	objects, ref := uploadModel(t, config, value)
	_, q := device(t)
	r := &Recipe{Tenant: "acme", Base: ref, Vocab: rows, Seed: 7}
	src, err := openSource(t.Context(), objects, q, r, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m, err := zoo.New(r.Config)
	if err != nil {
		t.Fatal(err)
	}
	if m.Info().Vocab != rows || r.Uploaded() {
		t.Errorf("the configuration has %d tokens", m.Info().Vocab)
	}
	if got := src.vocab.modules(); !slices.Equal(got, []string{"embed_tokens", "lm_head"}) {
		t.Errorf("modules %v have grown", got)
	}
	for _, p := range nn.Params(m.Root()) {
		if p.Shape[0] != rows {
			continue
		}
		whole := make([]float32, p.Len())
		if err := src.base(t.Context(), p, 0, whole); err != nil {
			t.Fatal(err)
		}
		was := old * int(p.Len()) / rows
		mean := make([]float64, int(p.Len())/rows)
		for i := range was {
			if whole[i] != value(p, i) {
				t.Fatalf("%s: element %d is %g", p.Name, i, whole[i])
			}
			mean[i%len(mean)] += float64(whole[i]) / old
		}
		part := make([]float32, 333)
		for _, at := range []int{was - 100, was + 5, len(whole) - 333} {
			at = max(0, min(at, len(whole)-333))
			if err := src.base(t.Context(), p, int64(at), part); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(part, whole[at:at+333]) {
				t.Errorf("%s: elements from %d on differ by how they are read", p.Name, at)
			}
		}
		var sum, square float64
		for i := was; i < len(whole); i++ {
			d := float64(whole[i]) - mean[i%len(mean)]
			sum, square = sum+d, square+d*d
		}
		n := float64(len(whole) - was)
		if len(p.Shape) == 1 {
			if square/n > 1e-10 {
				t.Errorf("%s: new entries are not the mean", p.Name)
			}
			continue
		}
		if std := math.Sqrt(square / n); math.Abs(std-0.25) > 0.01 || math.Abs(sum/n) > 0.01 {
			t.Errorf("%s: noise of mean %g and deviation %g, expected 0 and 0.25", p.Name, sum/n, std)
		}
	}
	r = &Recipe{Tenant: "acme", Base: ref, Vocab: old}
	if _, err := openSource(t.Context(), objects, q, r, t.TempDir(), nil); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Error(err)
	}
}

// TestGrownVocabularyTrains: beside adapters the embedding and the head are trained whole, ranks and losses of ranks change no bit, and what
// was trained is loaded again.
func TestGrownVocabularyTrains(t *testing.T) {
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method)
		stage.Train.Epochs, stage.Train.Steps, stage.Train.FreezeLayers = 0, 4, 0
		objects, ref := uploadModel(t, []byte(toyConfig), func(p *nn.Param, i int) float32 { return float32((i*7919+len(p.Name))%101)/500 - 0.1 })
		stage.Train.Model = schemas.ModelSpec{Base: ref, Vocab: 128}
		run := func(plans ...plan) (string, *fleet) {
			f := newFleet(t, stage)
			copyInputs(t, f.objects, objects, ref)
			for _, p := range plans {
				f.generation("train", p)
			}
			return f.complete("train", 1).StateHash, f
		}
		want, f := run()
		if got, _ := run(plan{world: 3, killAt: 2, kill: 1}); got != want {
			t.Errorf("%s: weights differ after a loss", method)
		}
		_, q := device(t)
		l, err := LoadModel(t.Context(), f.objects, f.spec, "acme", "r1", "stage:train", q, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if n := l.Model.Info().Vocab; n != 128 {
			t.Errorf("%s: the trained model has %d tokens", method, n)
		}
		if l.Adapters != nil {
			trained := 0
			for _, p := range l.Adapters.Params() {
				if p.Shape[0] == 128 {
					trained++
				}
			}
			if trained != 2 {
				t.Errorf("%d of embedding and head are trained beside the adapter", trained)
			}
		}
		l.Close()
	}
}

func copyInputs(t *testing.T, to, from store.Objects, ref *schemas.Ref) {
	t.Helper()
	for _, f := range ref.Files {
		raw, _, err := from.Get(t.Context(), schemas.InputKey("acme", f.SHA256), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Put(t.Context(), schemas.InputKey("acme", f.SHA256), raw, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
}
