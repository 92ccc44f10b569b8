package evaluate_test

import (
	"bytes"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/train/traintest"
	"github.com/tunefleet/tunefleet/schemas"
)

// A model is scored in the precision that it was trained in, unless the stage names another.
func TestModelsAreScoredInTheirPrecision(t *testing.T) {
	tok, err := os.ReadFile(tokenizerFile)
	if err != nil {
		t.Fatal(err)
	}
	s := traintest.New(t)
	stages := s.Stages(traintest.Clauses(80), tok, traintest.Config(""), 3, 3)
	stages[2].Train.DType = "bf16"
	eval := func(name, from, dtype string) schemas.Stage {
		return schemas.Stage{Name: name, Kind: schemas.KindEval, Eval: &schemas.EvalStage{Models: []schemas.EvalModel{{Name: "m", From: from}}, Data: "prep/test", Slices: 1,
			MaxNewTokens: 2, GenerateRows: 1, DType: dtype}}
	}
	cases := []struct{ name, from, dtype, want string }{
		{"plain", "stage:base", "", "fp32"}, {"base-auto", "stage:base", "auto", "fp32"}, {"base-bf16", "stage:base", "bf16", "bf16"}, {"base-fp16", "stage:base", "fp16", "fp16"},
		{"as-trained", "stage:tuned", "", "bf16"}, {"tuned-fp32", "stage:tuned", "fp32", "fp32"},
	}
	for _, c := range cases {
		stages = append(stages, eval(c.name, c.from, c.dtype))
	}
	s.Start(stages...)
	for part := range 2 {
		s.Part(prep.Handle, "prep", part, 2)
	}
	s.Train(train.Handle, "base", 1)
	s.Train(train.Handle, "tuned", 2)
	perplexity := map[string]float64{}
	for _, c := range cases {
		task := s.Task(c.name, 0, 1)
		var log bytes.Buffer
		task.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if err := evaluate.Handle(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "dtype="+c.want+" ") {
			t.Errorf("%s: %s, want %s", c.name, log.String(), c.want)
		}
		perplexity[c.name] = reduced(t, s, c.name, 1).Models[0].Perplexity
	}
	for _, pair := range [][2]string{{"plain", "base-bf16"}, {"plain", "base-fp16"}, {"tuned-fp32", "as-trained"}} {
		a, b := perplexity[pair[0]], perplexity[pair[1]]
		if a == b || math.Abs(a-b) > 0.05*a {
			t.Errorf("perplexity %v in fp32, %v in 16 bits: close, but not the same, was expected", a, b)
		}
	}
	if perplexity["plain"] != perplexity["base-auto"] {
		t.Error("auto differs from the default")
	}
}
