package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestForkedSpec: a fork keeps preparation, the stage and what needs it; what the stage began with is the old run's result, and so is what others
// of the old run's stages are named for.
func TestForkedSpec(t *testing.T) {
	spec := &schemas.RunSpec{Version: 1, ID: "old", Tenant: "acme", Key: "k", Name: "n", Pool: "cpu", Stages: []schemas.Stage{
		{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{}},
		{Name: "base", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: &schemas.TrainStage{Model: schemas.ModelSpec{Config: json.RawMessage(`{}`)}}},
		{Name: "side", Kind: schemas.KindExport, Needs: []string{"base"}, Export: &schemas.ExportStage{From: "stage:base"}},
		{Name: "tuned", Kind: schemas.KindTrain, Needs: []string{"base", "prep"}, Train: &schemas.TrainStage{Model: schemas.ModelSpec{From: "stage:base"}}},
		{Name: "eval", Kind: schemas.KindEval, Needs: []string{"tuned", "base"}, Eval: &schemas.EvalStage{Models: []schemas.EvalModel{{Name: "base", From: "stage:base"}, {Name: "tuned", From: "stage:tuned"}}}},
	}}
	done := &schemas.ManifestRef{Step: 9}
	v := &schemas.RunView{Tenant: "acme", Run: "old", Spec: spec, Stages: []schemas.StageState{{Name: "prep", Kind: schemas.KindPrep, State: schemas.StageSucceeded},
		{Name: "base", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Manifest: done}, {Name: "side", Kind: schemas.KindExport, State: schemas.StageSucceeded},
		{Name: "tuned", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Manifest: done}, {Name: "eval", Kind: schemas.KindEval, State: schemas.StageFailed}}}
	names := func(s *schemas.RunSpec) (out []string) {
		for _, st := range s.Stages {
			out = append(out, st.Name)
		}
		return out
	}
	got, err := forked(v, "")
	if err != nil {
		t.Fatal(err)
	}
	if n := names(got); !slices.Equal(n, []string{"prep", "tuned", "eval"}) || got.ID != "" || got.Key != "" {
		t.Errorf("stages %v of %+v", n, got)
	}
	tuned, eval := got.Stages[1], got.Stages[2]
	if tuned.Train.Model.From != "run:acme/old/tuned" || !slices.Equal(tuned.Needs, []string{"prep"}) {
		t.Errorf("tuned: %+v needs %v", tuned.Train.Model, tuned.Needs)
	}
	if m := eval.Eval.Models; m[0].From != "run:acme/old/base" || m[1].From != "stage:tuned" || !slices.Equal(eval.Needs, []string{"tuned"}) {
		t.Errorf("eval: %+v needs %v", m, eval.Needs)
	}
	if spec.Stages[3].Train.Model.From != "stage:base" || len(spec.Stages) != 5 {
		t.Error("the old run's spec was changed")
	}
	if got, err = forked(v, "base"); err != nil || !slices.Equal(names(got), []string{"prep", "base", "side", "tuned", "eval"}) || got.Stages[1].Train.Model.From != "run:acme/old/base" {
		t.Errorf("of base: %v %v", names(got), err)
	}
	v.Stages[3].State = schemas.StageRunning
	for name, code := range map[string]schemas.Code{"tuned": schemas.CodeConflict, "nothing": schemas.CodeNotFound, "prep": schemas.CodeNotFound} {
		if _, err := forked(v, name); !schemas.IsCode(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCombinations(t *testing.T) {
	keys, rows, err := combinations([]string{"a=1,2", "b=x", "c=3,4"})
	if err != nil || !slices.Equal(keys, []string{"a", "b", "c"}) || len(rows) != 4 || !slices.Equal(rows[1], []string{"1", "x", "4"}) {
		t.Errorf("%v %v %v", keys, rows, err)
	}
	for _, bad := range [][]string{{"a"}, {"=1"}, {"a=1", "a=2"}, {"a=" + strings.Repeat("1,", maxSweep)}} {
		if _, _, err := combinations(bad); !schemas.IsCode(err, schemas.CodeUsage) {
			t.Errorf("%.20v: %v", bad, err)
		}
	}
}

// TestForkExportSweep runs the commands that make runs from others: a fork goes on with the loss where the old run ended, its weights are exported,
// and a sweep hands in each combination.
func TestForkExportSweep(t *testing.T) {
	dir := up(t, nil, "--workers", "1")
	p := project(t)
	do := func(args ...string) result { return cli(t, nil, append(args, "--dir", dir)...) }
	first := do("submit", filepath.Join(p, "run.yaml"), "stages.base.train.steps=40", "stages.base.train.optim.lr=1e-2", "--follow")
	first.want(t, 0)
	old := runID(t, first.err)
	do("fork", old, "stages.base.train.stepz=4").want(t, schemas.ExitCodes()[schemas.CodeInvalid], "steps")
	r := do("fork", old, "stages.base.train.steps=4")
	r.want(t, 0)
	id := strings.TrimSpace(r.out)
	do("watch", id).want(t, 0)
	before, after := losses(t, do("logs", old, "--json").out), losses(t, do("logs", id, "--json").out)
	if len(after) != 4 || after[0] > (before[0]+before[len(before)-1])/2 {
		t.Errorf("the fork's losses are %v, the old run's went from %g to %g", after, before[0], before[len(before)-1])
	}
	to := filepath.Join(t.TempDir(), "out")
	do("export", id, "--to", to).want(t, 0)
	for _, f := range []string{"config.json", "model.safetensors", "tokenizer.json"} {
		if _, err := os.Stat(filepath.Join(to, f)); err != nil {
			t.Error(err)
		}
	}
	do("export", id).want(t, schemas.ExitCodes()[schemas.CodeUsage], "--to")
	do("export", filepath.Join(p, "run.yaml"), "--to", to).want(t, schemas.ExitCodes()[schemas.CodeUsage], "tunefleet train")
	r = do("sweep", filepath.Join(p, "run.yaml"), "stages.base.train.steps=2,3", "seed=5", "--json")
	r.want(t, 0)
	if n := strings.Count(r.out, `"seed":"5"`); n != 2 {
		t.Errorf("%d runs in %s", n, r.out)
	}
	cli(t, []string{"TUNEFLEET_DATA_DIR=" + dir}, "__complete", "watch", "").want(t, 0, id+"\ttiny succeeded")
	do("eval").want(t, schemas.ExitCodes()[schemas.CodeUsage], "needs a configuration, a run or a model")
}

// losses are those of the steps among events, one JSON object a line.
func losses(t *testing.T, lines string) (out []float64) {
	t.Helper()
	for l := range strings.Lines(lines) {
		var e schemas.Event
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == schemas.EventStep {
			out = append(out, e.Values["loss"])
		}
	}
	return out
}
