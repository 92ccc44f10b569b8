package schemas_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/quick"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestRunStateMachine goes through every (state, event) pair: listed ones lead where the table says, all others are refused.
func TestRunStateMachine(t *testing.T) {
	t.Parallel()
	want := map[schemas.RunState]map[schemas.RunEvent]schemas.RunState{
		schemas.RunQueued: {schemas.RunStart: schemas.RunRunning, schemas.RunCancel: schemas.RunCancelled, schemas.RunFail: schemas.RunFailed,
			schemas.RunPause: schemas.RunPaused, schemas.RunSkip: schemas.RunSkipped},
		schemas.RunRunning: {schemas.RunPause: schemas.RunPaused, schemas.RunSucceed: schemas.RunSucceeded, schemas.RunFail: schemas.RunFailed,
			schemas.RunCancel: schemas.RunCancelled},
		schemas.RunPaused: {schemas.RunResume: schemas.RunRunning, schemas.RunCancel: schemas.RunCancelled, schemas.RunFail: schemas.RunFailed},
	}
	for _, s := range schemas.RunStates() {
		if s.Terminal() != (len(want[s]) == 0) {
			t.Errorf("%s.Terminal() = %v", s, s.Terminal())
		}
		for _, e := range schemas.RunEvents() {
			got, err := s.Next(e)
			to, ok := want[s][e]
			switch {
			case ok && (err != nil || got != to):
				t.Errorf("%s + %s = %s, %v; want %s", s, e, got, err, to)
			case !ok && (err == nil || !schemas.IsCode(err, schemas.CodeConflict)):
				t.Errorf("%s + %s = %s, %v; want a conflict", s, e, got, err)
			}
		}
	}
}

func TestEveryCodeHasAnExitCode(t *testing.T) {
	t.Parallel()
	for code, exit := range schemas.ExitCodes() {
		if exit <= 0 || exit > 255 {
			t.Errorf("%s exits with %d", code, exit)
		}
		if got := schemas.Errorf(code, "", "x").ExitCode(); got != exit {
			t.Errorf("%s: %d, want %d", code, got, exit)
		}
	}
}

// TestAsErrorInfoKeepsTheHint: what wraps an error goes before its message, and what to do stays a hint.
func TestAsErrorInfoKeepsTheHint(t *testing.T) {
	row := schemas.Errorf(schemas.CodeData, "rows.jsonl:4", "broken JSON").WithHint("mend the row")
	for err, want := range map[error]schemas.ErrorInfo{
		row: *row,
		fmt.Errorf("cannot prepare part 0: %w", row): {Code: schemas.CodeData, Message: "cannot prepare part 0: rows.jsonl:4: broken JSON", Hint: "mend the row", Permanent: true},
		fmt.Errorf("%w, again", row):                 {Code: schemas.CodeData, Message: "rows.jsonl:4: broken JSON (mend the row), again", Permanent: true},
	} {
		if got := schemas.AsErrorInfo(err); *got != want {
			t.Errorf("%v became %+v", err, *got)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	m := schemas.Message{Kind: schemas.KindTrain, Pool: "cpu", Tenant: "acme", Run: "r1", Stage: "tune", Seat: 3, Issue: 9}
	for got, want := range map[string]string{
		schemas.OpenKey("cpu", 1, "acme", "r1"):         "open/cpu/1-acme-r1.json",
		schemas.HeadKey("acme", "r1"):                   "runs/acme/r1/HEAD.json",
		schemas.ManifestKey("acme", "r1", 40, 2):        "runs/acme/r1/ckpt/000000000040-000002/manifest.json",
		schemas.LogKey("acme", "r1", 40, 2):             "runs/acme/r1/log/000000000040-000002.jsonl",
		schemas.LedgerKey("cpu"):                        "pools/cpu/LEDGER.json",
		schemas.WorkSubject(m):                          "tf.work.train.cpu.acme.r1.tune.3.9",
		schemas.WorkFilter(schemas.KindTrain, "cpu"):    "tf.work.train.cpu.>",
		schemas.LeaseKey("acme", "r1", "tune", 3):       "tf:{acme/r1}:lease:tune:3",
		schemas.ResultKey("acme", "r1", "prep", 2):      "runs/acme/r1/stages/prep/part-00002.json",
		schemas.CacheKey("acme", "abc", "shard.tfs"):    "cache/acme/abc/shard.tfs",
		schemas.OutputKey("acme", "r1", "ship", "a/b"):  "runs/acme/r1/output/ship/a/b",
		schemas.FailureKey("acme", "r1", "prep", 2, 11): "runs/acme/r1/stages/prep/fail-00002-000011.json",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRunIDDependsOnTenantAndKey(t *testing.T) {
	t.Parallel()
	f := func(a, b string) bool {
		id := schemas.RunID(a, b)
		return schemas.ValidName(id) && id == schemas.RunID(a, b) && (a == "" || id != schemas.RunID("", a+b))
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}

func TestWantsSeat(t *testing.T) {
	t.Parallel()
	h := &schemas.Head{State: schemas.RunRunning, Stage: "tune", Seats: []schemas.Seat{{Seat: 0, Issue: 4}, {Seat: 1, Issue: 7}}}
	if !h.WantsSeat("tune", 1, 7) {
		t.Error("a current seat is not wanted")
	}
	for name, wanted := range map[string]bool{
		"older issue": h.WantsSeat("tune", 1, 6), "newer issue": h.WantsSeat("tune", 1, 8), "unknown seat": h.WantsSeat("tune", 2, 7),
		"other stage": h.WantsSeat("base", 1, 7),
	} {
		if wanted {
			t.Errorf("%s is wanted", name)
		}
	}
	h.Manifest = &schemas.ManifestRef{Stage: "tune", Final: true}
	if h.WantsSeat("tune", 1, 7) {
		t.Error("a seat of a finished stage is wanted")
	}
	h.Manifest, h.State = nil, schemas.RunCancelled
	if h.WantsSeat("tune", 1, 7) {
		t.Error("a seat of a cancelled run is wanted")
	}
	if !(*schemas.Head)(nil).WantsSeat("tune", 1, 7) {
		t.Error("without HEAD nothing says that the seat is obsolete")
	}
}

const sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func goodSpec() *schemas.RunSpec {
	ref := schemas.Ref{Files: []schemas.File{{Path: "clauses.jsonl", SHA256: sha, Bytes: 3}}}
	s := &schemas.RunSpec{Tenant: "acme", Stages: []schemas.Stage{
		{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{Data: ref, Tokenizer: ref, Parts: 2,
			Outputs: []schemas.PrepOutput{{Name: "text", Form: "pt", Split: "train", CutoffLen: 64}}}},
		{Name: "base", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: &schemas.TrainStage{Objective: "pt", Data: "prep/text", Epochs: 1,
			Model: schemas.ModelSpec{Config: json.RawMessage(`{"a":1}`)}, Optim: schemas.OptimSpec{LR: 1e-3}}},
		{Name: "tune", Kind: schemas.KindTrain, Needs: []string{"base"}, Train: &schemas.TrainStage{Objective: "sft", Data: "prep/text", Steps: 3,
			Model: schemas.ModelSpec{From: "stage:base"}, Method: "lora", LoRA: &schemas.LoRA{Rank: 4}, Leaves: 2, Optim: schemas.OptimSpec{LR: 1e-3},
			World: schemas.World{Min: 2, Max: 2}}},
		{Name: "eval", Kind: schemas.KindEval, Needs: []string{"tune"}, Eval: &schemas.EvalStage{Data: "prep/text",
			Models: []schemas.EvalModel{{Name: "base", From: "stage:base"}, {Name: "tuned", From: "stage:tune"}}}},
		{Name: "ship", Kind: schemas.KindExport, Needs: []string{"eval"}, Export: &schemas.ExportStage{From: "stage:tune", Formats: []string{"peft"}}},
	}}
	return s.WithDefaults()
}

func TestValidateAcceptsAGoodSpec(t *testing.T) {
	t.Parallel()
	s := goodSpec()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	back, err := schemas.DecodeSpec(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	t.Parallel()
	s := goodSpec()
	s.Pool = "CPU!"
	s.Priority = 9
	s.Stages[0].Prep.Data.Files[0].Path = "../etc/passwd"
	s.Stages[1].Train.Data = "prep/nothing"
	s.Stages[2].Train.World = schemas.World{Min: 3, Max: 2}
	s.Stages[3].Needs = nil
	s.Stages[4].Export.From = "stage:prep"
	err := s.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, place := range []string{"pool", "priority", "stages[0].prep.data", "stages[1].train.data", "stages[2].train.world", "stages[3].eval.data",
		"stages[4].export.from"} {
		if !strings.Contains(err.Error(), place+":") {
			t.Errorf("%s is not named in:\n%v", place, err)
		}
	}
	if !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Error("not CodeInvalid")
	}
}

// TestValidateManyNeeds: a dense DAG must not take exponential time.
func TestValidateManyNeeds(t *testing.T) {
	t.Parallel()
	s := goodSpec()
	prep := s.Stages[0]
	s.Stages = nil
	var names []string
	for i := range 60 {
		p := prep
		p.Name = "p" + strings.Repeat("x", i+1)
		p.Needs = slices.Clone(names)
		names = append(names, p.Name)
		s.Stages = append(s.Stages, p)
	}
	tr := goodSpec().Stages[1]
	tr.Needs, tr.Train.Data = []string{names[len(names)-1]}, names[0]+"/text"
	s.Stages = append(s.Stages, tr)
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func TestDecodeSpecIsStrict(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"verzion":1}`: `verzion: unknown key "verzion" (did you mean "version"?)`,
		`{"stages":[{"train":{"optim":{"lrr":1}}}]}`:      `stages[0].train.optim.lrr: unknown key "lrr" (did you mean "lr"?)`,
		`{"tenant":"a","tenant":"b"}`:                     `tenant: key appears twice`,
		`{"version":1} {}`:                                `more after`,
		`{"version":"x"}`:                                 `version`,
		strings.Repeat("[", 100):                          `deeper than`,
		`{"name":"` + strings.Repeat("x", 256<<10) + `"}`: `the limit is`,
		`{"version":1`:                                    `cannot read JSON`,
	} {
		_, err := schemas.DecodeSpec([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %q", in, err, want)
		}
		var e *schemas.ErrorInfo
		if !errors.As(err, &e) || e.Code != schemas.CodeInvalid {
			t.Errorf("%.40s: not CodeInvalid", in)
		}
	}
	if _, err := schemas.DecodeSpec([]byte(`{"stages":[{"train":{"model":{"config":{"anything":{"goes":1}}}}}]}`)); err != nil {
		t.Errorf("a model's config.json must be opaque: %v", err)
	}
}

func FuzzDecodeSpec(f *testing.F) {
	b, err := json.Marshal(goodSpec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"stages":[{"needs":["a"],"kind":"prep"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := schemas.DecodeSpec(in)
		if err != nil {
			return
		}
		_ = s.WithDefaults().Validate()
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("accepted but cannot be written: %v", err)
		}
		if len(out) <= schemas.MaxSpecBytes {
			if _, err := schemas.DecodeSpec(out); err != nil {
				t.Fatalf("accepted but not read back: %v", err)
			}
		}
	})
}

func FuzzDecodeHead(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"running","seats":[{"seat":0,"issue":1}]}`))
	f.Fuzz(func(_ *testing.T, in []byte) {
		var h schemas.Head
		if schemas.DecodeStrict(in, &h, 1<<20) == nil {
			h.WantsSeat("s", 0, 1)
		}
		var m schemas.Manifest
		_ = schemas.DecodeStrict(in, &m, 1<<20)
	})
}
