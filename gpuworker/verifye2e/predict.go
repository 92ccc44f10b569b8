package verifye2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

// minMargin is the difference of the two largest logits below which a greedy choice may differ (README of the fixtures).
const minMargin = 1e-3

// maxOutput bounds a result file.
const maxOutput = 4 << 30

// predict repeats a run of predict_with_generate.
func (v *verification) predict(ctx context.Context) error {
	run, err := v.start(ctx, "predict.yaml", nil)
	if err != nil {
		return err
	}
	for _, stage := range []string{"prep", "predict"} {
		if err := run.Stage(ctx, stage); err != nil {
			return err
		}
	}
	for _, name := range []string{evaluate.PredictionsName, evaluate.PredictResultsName} {
		b, err := output(ctx, run, "predict", 1, name)
		if err != nil {
			return err
		}
		if v.o.Emit != "" {
			if err := v.emit(name, b); err != nil {
				return err
			}
		}
		if name == evaluate.PredictionsName {
			err = v.comparePredictions(b)
		} else {
			err = v.compareScores(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// output reads an object of a stage's result.
func output(ctx context.Context, run *localrun.Run, stage string, part int, name string) ([]byte, error) {
	spec := run.Spec()
	raw, _, err := run.Objects().Get(ctx, schemas.ResultKey(spec.Tenant, spec.ID, stage, part), 16<<20)
	if err != nil {
		return nil, fmt.Errorf("cannot read the result of stage %s: %w", stage, err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, stage, "is no result: %v", err)
	}
	i := slices.IndexFunc(r.Objects, func(o schemas.Object) bool { return o.Name == name || strings.HasSuffix(o.Name, "/"+name) })
	if i < 0 {
		return nil, schemas.Errorf(schemas.CodeInternal, stage, "wrote no %s", name)
	}
	b, _, err := run.Objects().Get(ctx, r.Objects[i].Key, maxOutput)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return b, nil
}

type predictionLine struct {
	Prompt  *string `json:"prompt"`
	Predict *string `json:"predict"`
	Label   *string `json:"label"`
}

// expected finds a file that the folder holds under out/ or beside the configuration.
func (v *verification) expected(name string) string {
	if p := filepath.Join(v.dir, "out", name); isFile(p) {
		return p
	}
	return filepath.Join(v.dir, name)
}

// comparePredictions compares texts where the choices of the reference were not close.
func (v *verification) comparePredictions(b []byte) error {
	var margins []float64
	if _, err := readLines(filepath.Join(v.dir, "predict_detail.jsonl"), func(_ int, raw []byte) error {
		d := struct {
			Margin *float64 `json:"min_margin"`
		}{}
		if err := json.Unmarshal(raw, &d); err != nil {
			return schemas.Errorf(schemas.CodeData, "predict_detail.jsonl", "cannot parse JSON: %v", err)
		}
		m := math.Inf(1)
		if d.Margin != nil {
			m = *d.Margin
		}
		margins = append(margins, m)
		return nil
	}); err != nil {
		return err
	}
	got := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	n := 0
	found, err := readLines(v.expected(evaluate.PredictionsName), func(_ int, raw []byte) error {
		i := n
		n++
		place := fmt.Sprintf("%s:%d", evaluate.PredictionsName, i+1)
		var want, have predictionLine
		if err := json.Unmarshal(raw, &want); err != nil {
			return schemas.Errorf(schemas.CodeData, place, "cannot parse JSON: %v", err)
		}
		readable := i < len(got)
		if readable {
			readable = json.Unmarshal(got[i], &have) == nil
		}
		if !readable {
			v.rep.Fail(place, "was not computed")
			return nil
		}
		for _, f := range []struct {
			key        string
			have, want *string
		}{{"prompt", have.Prompt, want.Prompt}, {"label", have.Label, want.Label}, {"predict", have.Predict, want.Predict}} {
			if f.want == nil {
				continue
			}
			same := f.have != nil && *f.have == *f.want
			if !same && f.key == "predict" && i < len(margins) && margins[i] <= minMargin {
				continue // the reference itself chose between equals
			}
			if !same {
				v.rep.Fail(place+" "+f.key, fmt.Sprintf("is %.60q, the reference %.60q", deref(f.have), *f.want))
				continue
			}
			v.rep.Relative(place+" "+f.key, 0, 0, 0)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case !found && v.o.Emit != "":
		v.rep.Absent = append(v.rep.Absent, evaluate.PredictionsName)
	case !found || n == 0:
		v.rep.Fail(evaluate.PredictionsName, "the reference is missing")
	case n != len(got):
		v.rep.Fail(evaluate.PredictionsName, fmt.Sprintf("%d rows were answered, the reference has %d", len(got), n))
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// compareScores compares predict_results.json.
func (v *verification) compareScores(b []byte) error {
	var got line
	if err := json.Unmarshal(b, &got); err != nil {
		return schemas.Errorf(schemas.CodeInternal, evaluate.PredictResultsName, "cannot parse: %v", err)
	}
	raw, err := os.ReadFile(v.expected(evaluate.PredictResultsName))
	if errors.Is(err, os.ErrNotExist) {
		if v.o.Emit == "" {
			v.rep.Fail(evaluate.PredictResultsName, "the reference is missing")
		} else {
			v.rep.Absent = append(v.rep.Absent, evaluate.PredictResultsName)
		}
		return nil
	}
	if err != nil {
		return schemas.Errorf(schemas.CodeData, evaluate.PredictResultsName, "cannot read: %v", err)
	}
	var want map[string]any
	if err := json.Unmarshal(raw, &want); err != nil {
		return schemas.Errorf(schemas.CodeData, evaluate.PredictResultsName, "cannot parse JSON: %v", err)
	}
	for _, k := range sortedKeys(want) {
		if w, ok := want[k].(float64); ok && (strings.Contains(k, "rouge") || strings.Contains(k, "bleu")) {
			v.compare(evaluate.PredictResultsName+" "+k, got, k, w, finalRel)
		}
	}
	return nil
}

// export repeats a merge of adapters: the weights must be the same to the bit.
func (v *verification) export(ctx context.Context) error {
	run, err := v.start(ctx, "export.yaml", nil)
	if err != nil {
		return err
	}
	if err := run.Stage(ctx, "export"); err != nil {
		return err
	}
	const name = "model.safetensors"
	b, err := output(ctx, run, "export", 0, name)
	if err != nil {
		return err
	}
	if v.o.Emit != "" {
		if err := v.emit(name, b); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(v.scratch, name), b, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return v.compareWeights(filepath.Join(v.dir, "merged"))
}

func (v *verification) compareWeights(dir string) (err error) {
	if !isFile(filepath.Join(dir, "config.json")) {
		if v.o.Emit == "" {
			v.rep.Fail("merged", "the reference is missing")
		}
		v.rep.Absent = append(v.rep.Absent, "merged")
		return nil
	}
	wantRoot, err := os.OpenRoot(dir)
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, dir, "cannot open: %v", err)
	}
	defer wantRoot.Close()
	gotRoot, err := os.OpenRoot(v.scratch)
	if err != nil {
		return fmt.Errorf("cannot open the scratch folder: %w", err)
	}
	defer gotRoot.Close()
	want, err := safetensors.OpenModel(wantRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, want.Close()) }()
	got, err := safetensors.OpenModel(gotRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, got.Close()) }()
	return v.sameTensors(got, want)
}

func (v *verification) sameTensors(got, want *safetensors.Set) error {
	for _, name := range want.Names() {
		w, ok := want.Info(name)
		g, has := got.Info(name)
		if !ok || !has || !slices.Equal(w.Shape, g.Shape) {
			v.rep.Fail("merged."+name, "is missing or has another shape")
			continue
		}
		n := int64(1)
		for _, d := range w.Shape {
			n *= d
		}
		a, b := make([]float32, n), make([]float32, n)
		if err := errors.Join(got.ReadFloat32(name, 0, a), want.ReadFloat32(name, 0, b)); err != nil {
			return err
		}
		worst := 0.0
		for i := range a {
			worst = max(worst, math.Abs(float64(a[i])-float64(b[i])))
		}
		v.rep.Relative("merged."+name, worst, 0, 0)
	}
	return nil
}
