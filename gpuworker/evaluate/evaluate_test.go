package evaluate_test

import (
	"encoding/json"
	"math"
	"os"
	"reflect"
	"testing"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/script"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/train/traintest"
	"github.com/tunefleet/tunefleet/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tokenizerFile = "../../producer/examples/contract-review/tokenizer/tokenizer.json"

func report(t *testing.T, s *traintest.Stack, stage string, slices int) *evaluate.Report {
	t.Helper()
	for part := range slices {
		s.Part(evaluate.Handle, stage, part, slices)
	}
	return reduced(t, s, stage, slices)
}

// reduced is the report of slices that are done.
func reduced(t *testing.T, s *traintest.Stack, stage string, slices int) *evaluate.Report {
	t.Helper()
	res := s.Part(evaluate.Handle, stage, slices, slices)
	if len(res.Objects) != 1 || res.Objects[0].Name != evaluate.ReportName {
		t.Fatalf("the reducer stored %+v", res.Objects)
	}
	raw, _, err := s.Objects.Get(t.Context(), res.Objects[0].Key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var r evaluate.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestTunedModelIsScoredAboveItsBase(t *testing.T) {
	tok, err := os.ReadFile(tokenizerFile)
	if err != nil {
		t.Fatal(err)
	}
	const count = `sh -c 'n=$(grep -c reference); echo "{\"rows\": $n}"'`
	t.Setenv(script.Variable, "sh -c")
	s := traintest.New(t)
	stages := s.Stages(traintest.Clauses(240), tok, traintest.Config(""), 30, 220)
	models := []schemas.EvalModel{{Name: "base", From: "stage:base"}, {Name: "tuned", From: "stage:tuned"}}
	eval := func(name string, slices int) schemas.Stage {
		return schemas.Stage{Name: name, Kind: schemas.KindEval, Eval: &schemas.EvalStage{Models: models, Data: "prep/test", Slices: slices, MaxNewTokens: 12, GenerateRows: 10,
			Scripts: []schemas.EvalScript{{Name: "count", Command: count}}}}
	}
	s.Start(append(stages, eval("one", 1), eval("three", 3))...)
	for part := range 2 {
		s.Part(prep.Handle, "prep", part, 2)
	}
	s.Train(train.Handle, "base", 1)
	m := s.Train(train.Handle, "tuned", 2)
	if m.State["eval_loss"] == "" {
		t.Error("the evaluation loss is not in the final manifest")
	}
	one := report(t, s, "one", 1)
	if one.Rows < 30 || len(one.Models) != 2 || one.Majority == "" || one.MajorityShare < 1./3 || one.MajorityShare > 0.7 {
		t.Fatalf("report %+v", one)
	}
	base, tuned := one.Models[0], one.Models[1]
	if tuned.Accuracy < 0.9 || tuned.Accuracy < base.Accuracy+0.2 {
		t.Errorf("accuracy %.2f, of the base %.2f", tuned.Accuracy, base.Accuracy)
	}
	if !(tuned.Perplexity < base.Perplexity) || !(tuned.ROUGEL > base.ROUGEL) || !(tuned.BLEU4 > base.BLEU4) || tuned.Generated != 10 || len(tuned.Samples) == 0 {
		t.Errorf("tuned %+v\nbase %+v", tuned, base)
	}
	if tuned.Scripts["count"]["rows"] != float64(one.Rows) || !(tuned.ChrF > base.ChrF) || !(tuned.F1 > base.F1) || !(tuned.MCC > base.MCC) || tuned.SacreBLEU < 0 || tuned.SacreBLEU > 100.1 {
		t.Errorf("tuned %+v\nbase %+v", tuned, base)
	}
	if one.BagOfWords == nil || one.BagOfWords.Accuracy < 0.9 || one.BagOfWords.TrainRows < 100 {
		t.Errorf("bag of words %+v", one.BagOfWords)
	}
	// The number of slices changes nothing but the speed.
	three := report(t, s, "three", 3)
	for i := range one.Models {
		a, b := one.Models[i], three.Models[i]
		a.TokensPerSecond, b.TokensPerSecond = 0, 0
		if math.Abs(a.Perplexity-b.Perplexity) > 1e-9*a.Perplexity {
			t.Errorf("%s: perplexity %v in one slice, %v in three", a.Name, a.Perplexity, b.Perplexity)
		}
		a.Perplexity, b.Perplexity = 0, 0
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: one slice %+v\nthree slices %+v", a.Name, a, b)
		}
	}
}

func TestRowsAreNeeded(t *testing.T) {
	tok, err := os.ReadFile(tokenizerFile)
	if err != nil {
		t.Fatal(err)
	}
	s := traintest.New(t)
	stages := s.Stages(traintest.Clauses(60), tok, traintest.Config(""), 1, 1)
	s.Start(append(stages, schemas.Stage{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Data: "prep/text", Slices: 1,
		Models: []schemas.EvalModel{{Name: "base", From: "stage:base"}}}})...)
	for part := range 2 {
		s.Part(prep.Handle, "prep", part, 2)
	}
	if err := evaluate.Handle(t.Context(), s.Task("eval", 0, 1)); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("an output without rows: %v", err)
	}
	s.Spec.Stages[3].Eval.Data = "prep/test"
	if err := evaluate.Handle(t.Context(), s.Task("eval", 0, 1)); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Errorf("a stage that has not ended: %v", err)
	}
}
