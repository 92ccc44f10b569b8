package export_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/export"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/train/traintest"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// uploadedModel uploads a model with random weights: matrices in the type, norms in float32. It returns the file, too.
func uploadedModel(t *testing.T, s *traintest.Stack, config []byte, dt safetensors.DType) (*schemas.Ref, []byte) {
	t.Helper()
	m, err := zoo.New(config)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	var entries []safetensors.Entry
	for _, p := range nn.Params(m.Root()) {
		d := dt
		if strings.Contains(p.Name, "norm") {
			d = safetensors.F32
		}
		entries = append(entries, nn.ReadEntry(p, d, func(_ int64, dst []float32) error {
			for i := range dst {
				dst[i] = float32(r.NormFloat64()) / 8
			}
			return nil
		}))
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, entries, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	return &schemas.Ref{Files: []schemas.File{s.Upload("config.json", config), s.Upload("model.safetensors", b.Bytes())}}, b.Bytes()
}

// tensors opens the weights of a fetched folder.
func tensors(t *testing.T, dir string) *safetensors.File {
	t.Helper()
	f, err := safetensors.OpenPath(dir, "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// An export holds each tensor in the type that the base's files hold it in, whether adapters are merged into it or it was trained whole, and
// config.json says so; an export that nothing was done to is the same bytes. A named type is for all tensors.
func TestElementTypesOfTheBaseAreKept(t *testing.T) {
	tok, err := os.ReadFile(tokenizerFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, architecture := range []string{"llama", "gpt2"} { // gpt2 holds its matrices transposed
		config := traintest.Config(`,"torch_dtype":"bfloat16"`)
		if architecture == "gpt2" {
			config = []byte(`{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","vocab_size":2048,"n_embd":48,"n_layer":2,"n_head":4,"n_positions":128,"torch_dtype":"bfloat16"}`)
		}
		for _, method := range []string{"lora", "full"} {
			t.Run(architecture+" "+method, func(t *testing.T) {
				s := traintest.New(t)
				stages := s.Stages(traintest.Clauses(80), tok, config, 1, 3)
				base, file := uploadedModel(t, s, config, safetensors.BF16)
				tuned := stages[2]
				tuned.Train.Model = schemas.ModelSpec{Base: base}
				tuned.Train.Method = method
				if tuned.Train.LoRA.Targets = nil; method == "full" {
					tuned.Train.LoRA = nil
				}
				x := func(name string, e schemas.ExportStage) schemas.Stage {
					e.Formats = []string{"merged"}
					return schemas.Stage{Name: name, Kind: schemas.KindExport, Export: &e}
				}
				s.Start(stages[0], tuned, x("out", schemas.ExportStage{From: "stage:tuned"}), x("whole", schemas.ExportStage{From: "stage:tuned", DType: "fp32"}),
					x("as-is", schemas.ExportStage{Model: &schemas.ModelSpec{Base: base}}), x("half", schemas.ExportStage{Model: &schemas.ModelSpec{Base: base}, DType: "fp16"}))
				for part := range 2 {
					s.Part(prep.Handle, "prep", part, 2)
				}
				s.Train(train.Handle, "tuned", 2)
				folder := func(stage string) string {
					return filepath.Join(fetch(t, s, s.Part(export.Handle, stage, 0, 1)), "merged")
				}
				plain := folder("as-is")
				if got, err := os.ReadFile(filepath.Join(plain, "model.safetensors")); err != nil || !bytes.Equal(got, file) {
					t.Errorf("a model that nothing was done to is exported as other bytes (%v)", err)
				}
				before, out, whole := tensors(t, plain), folder("out"), tensors(t, folder("whole"))
				changed := 0
				for _, i := range before.Infos() {
					got, ok := tensors(t, out).Info(i.Name)
					if !ok || got.DType != i.DType {
						t.Errorf("%s is exported as %s, the base has %s", i.Name, got.DType, i.DType)
						continue
					}
					exact, _, err := whole.Float32(i.Name)
					if err != nil {
						t.Fatal(err)
					}
					want := make([]byte, got.End-got.Begin)
					if err := safetensors.Encode(got.DType, exact, want); err != nil {
						t.Fatal(err)
					}
					have, err := tensors(t, out).Bytes(i.Name)
					if err != nil || !bytes.Equal(have, want) {
						t.Errorf("%s is not the exact weight, rounded (%v)", i.Name, err)
					}
					if old, err := before.Bytes(i.Name); err == nil && !bytes.Equal(old, have) {
						changed++
					}
				}
				if changed == 0 {
					t.Error("training changed nothing")
				}
				for dir, want := range map[string]string{out: "bfloat16", plain: "bfloat16", folder("half"): "float16"} {
					raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
					var c struct {
						Type string `json:"torch_dtype"`
					}
					if err != nil || json.Unmarshal(raw, &c) != nil || c.Type != want {
						t.Errorf("config.json says %q, want %q (%v)", c.Type, want, err)
					}
					if want != "float16" {
						continue
					}
					if i := slices.IndexFunc(tensors(t, dir).Infos(), func(i safetensors.Info) bool { return i.DType != safetensors.F16 }); i >= 0 {
						t.Errorf("%+v is not float16", tensors(t, dir).Infos()[i])
					}
				}
			})
		}
	}
}
