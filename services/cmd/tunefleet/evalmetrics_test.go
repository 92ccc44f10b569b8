package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/schemas"
)

func TestGates(t *testing.T) {
	class := []metrics.ClassScore{{}}
	model := &evaluate.ModelReport{Name: "model", Accuracy: 0.9, F1: 0.5, Perplexity: 8, Generated: 3, PerClass: class}
	base := &evaluate.ModelReport{Name: "baseline", Accuracy: 0.85, F1: 0.5, Perplexity: 10, Generated: 3, PerClass: class}
	for text, want := range map[string]struct {
		bound  float64
		passed bool
	}{
		"accuracy>=0.9": {0.9, true}, "accuracy > 0.9": {0.9, false}, "accuracy<0.95": {0.95, true}, "perplexity<=7.5": {7.5, false},
		"perplexity<baseline": {10, true}, "perplexity<=baseline*0.75": {7.5, false}, "accuracy>=baseline+0.05": {0.9, true}, "f1>=baseline-0.5": {0, true},
		"F1>baseline": {0.5, false}, "perplexity<=1e1": {10, true},
	} {
		g, err := parseGate(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		r, err := g.check(model, base)
		if err != nil || r.Passed != want.passed || r.Bound-want.bound > 1e-12 || want.bound-r.Bound > 1e-12 || r.Gate != text {
			t.Errorf("%s: %+v, expected %+v (%v)", text, r, want, err)
		}
	}
	for text, want := range map[string]string{
		"accuracy": "no comparison", ">=0.9": "no comparison", "accurac>=0.9": `did you mean accuracy?`, "accuracy>=high": "no number", "rouge>=0.3": "names 3 metrics",
		"accuracy>=baseline/2": "expected +, - or *", "accuracy>=baseline+": "no number", "accuracy==0.9": "no comparison", "accuracy>=NaN": "no number",
	} {
		if _, err := parseGate(text); !schemas.IsCode(err, schemas.CodeUsage) || !strings.Contains(schemas.AsErrorInfo(err).Error()+schemas.AsErrorInfo(err).Hint, want) {
			t.Errorf("%s: %v, expected %q", text, err, want)
		}
	}
	g, err := parseGate("accuracy>=baseline")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.check(model, &evaluate.ModelReport{Name: "baseline"}); !schemas.IsCode(err, schemas.CodeUsage) || !strings.Contains(schemas.AsErrorInfo(err).Hint, "label=") {
		t.Errorf("a figure that is not there: %v", err)
	}
}

func TestMetricNames(t *testing.T) {
	list, err := metricsByName("--metrics", []string{"perplexity", "rouge", "Accuracy", "bleu", "rouge-l"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	if got := strings.Join(names, " "); got != "accuracy bleu4 rouge1 rouge2 rougeL perplexity" {
		t.Error(got)
	}
	if m := measures(list); len(m) != 3 {
		t.Errorf("measures %v", m)
	}
	if _, err := metricsByName("--metrics", []string{"perplexty"}); !schemas.IsCode(err, schemas.CodeUsage) || !strings.Contains(schemas.AsErrorInfo(err).Hint, "perplexity") {
		t.Error(err)
	}
}

func TestEvalTable(t *testing.T) {
	rep := &evaluate.Report{Models: []evaluate.ModelReport{{Name: "tuned", Perplexity: 2.5, Generated: 2, F1: 0.75, ROUGEL: 0.5}, {Name: "baseline", Perplexity: 4, Generated: 2, F1: 0.5, ROUGEL: 0.625}}}
	list, err := metricsByName("", usualMetrics())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := evalTable(rep, list).write(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if len(lines) != 5 || strings.Contains(lines[0], "ACCURACY") || !strings.Contains(lines[0], "ROUGE-L") || !strings.Contains(lines[3], "difference") ||
		!strings.Contains(lines[3], "+0.250") || !strings.Contains(lines[3], "-0.125") || !strings.HasSuffix(lines[3], "-1.50") {
		t.Error(b.String())
	}
}
