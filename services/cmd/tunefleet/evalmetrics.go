package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// evalMetric is a figure of a report.
type evalMetric struct {
	name, head string
	// measure is the part of an evaluation that computes it.
	measure string
	digits  int
	// lower says that less is better.
	lower bool
	value func(m *evaluate.ModelReport) float64
}

// evalMetrics are the figures that tunefleet eval knows, in the order of its table.
func evalMetrics() []evalMetric {
	return []evalMetric{
		{"accuracy", "ACCURACY", schemas.MeasureClassification, 3, false, func(m *evaluate.ModelReport) float64 { return m.Accuracy }},
		{"macro_f1", "MACRO-F1", schemas.MeasureClassification, 3, false, func(m *evaluate.ModelReport) float64 { return m.MacroF1 }},
		{"mcc", "MCC", schemas.MeasureClassification, 3, false, func(m *evaluate.ModelReport) float64 { return m.MCC }},
		{"exact_match", "EXACT", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.ExactMatch }},
		{"f1", "F1", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.F1 }},
		{"bleu4", "BLEU-4", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.BLEU4 }},
		{"rouge1", "ROUGE-1", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.ROUGE1 }},
		{"rouge2", "ROUGE-2", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.ROUGE2 }},
		{"rougeL", "ROUGE-L", schemas.MeasureGeneration, 3, false, func(m *evaluate.ModelReport) float64 { return m.ROUGEL }},
		{"chrf", "CHRF", schemas.MeasureGeneration, 1, false, func(m *evaluate.ModelReport) float64 { return m.ChrF }},
		{"sacrebleu", "SACREBLEU", schemas.MeasureGeneration, 1, false, func(m *evaluate.ModelReport) float64 { return m.SacreBLEU }},
		{"perplexity", "PERPLEXITY", schemas.MeasurePerplexity, 2, true, func(m *evaluate.ModelReport) float64 { return m.Perplexity }},
	}
}

// usualMetrics are shown where none are named.
func usualMetrics() []string {
	return []string{"accuracy", "macro_f1", "exact_match", "f1", "bleu4", "rouge1", "rouge2", "rougeL", "perplexity"}
}

// metricsByName finds figures by their names; bleu and rouge stand for all of theirs.
func metricsByName(place string, names []string) ([]evalMetric, error) {
	var known []string
	for _, m := range evalMetrics() {
		known = append(known, m.name)
	}
	wanted := map[string]bool{}
	for _, n := range names {
		switch low := strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(n)); low {
		case "rouge":
			wanted["rouge1"], wanted["rouge2"], wanted["rougeL"] = true, true, true
		case "bleu":
			wanted["bleu4"] = true
		default:
			at := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(strings.ReplaceAll(k, "_", ""), low) })
			if at < 0 {
				e := schemas.Errorf(schemas.CodeUsage, place, "%q is no metric (%s, or bleu and rouge for all of theirs)", n, strings.Join(known, ", "))
				if near := config.Nearest(n, known, 1); len(near) > 0 {
					return nil, e.WithHint("did you mean %s?", near[0])
				}
				return nil, e
			}
			wanted[known[at]] = true
		}
	}
	var out []evalMetric
	for _, m := range evalMetrics() {
		if wanted[m.name] {
			out = append(out, m)
		}
	}
	return out, nil
}

// measures are the parts of an evaluation that compute the metrics.
func measures(list []evalMetric) (out []string) {
	for _, m := range list {
		if !slices.Contains(out, m.measure) {
			out = append(out, m.measure)
		}
	}
	return out
}

// has says whether a report has a figure: classes need labelled rows, texts generated ones.
func (m evalMetric) has(r *evaluate.ModelReport) bool {
	switch m.measure {
	case schemas.MeasureClassification:
		return len(r.PerClass) > 0
	case schemas.MeasureGeneration:
		return r.Generated > 0
	}
	return r.Perplexity > 0
}

// gate is a condition that the first model has to meet: metric, comparison, and a number, the baseline's figure, or that with a number added,
// subtracted, or as its factor.
type gate struct {
	text   string
	metric evalMetric
	op     string
	// relative says that bound is baseline arith number, arith one of + - and *.
	relative bool
	arith    byte
	number   float64
}

// gateResult is what became of a gate.
type gateResult struct {
	Gate string `json:"gate"`
	// Value is the model's figure, Bound what it is compared with.
	Value  float64 `json:"value"`
	Bound  float64 `json:"bound"`
	Passed bool    `json:"passed"`
}

// parseGate reads accuracy>=0.9, perplexity<=baseline, f1>baseline+0.02 and perplexity<=baseline*1.05.
func parseGate(text string) (gate, error) {
	bad := func(why string, args ...any) (gate, error) {
		return gate{}, schemas.Errorf(schemas.CodeUsage, "--gate", "%q %s", text, fmt.Sprintf(why, args...)).
			WithHint("such as accuracy>=0.9, perplexity<=baseline*1.05 or f1>=baseline-0.01, in quotes for the shell")
	}
	s := strings.ReplaceAll(text, " ", "")
	at := strings.IndexAny(s, "<>")
	if at < 1 {
		return bad("has no comparison (>=, <=, >, <)")
	}
	g := gate{text: text, op: s[at : at+1]}
	rest := s[at+1:]
	if after, ok := strings.CutPrefix(rest, "="); ok {
		g.op, rest = g.op+"=", after
	}
	list, err := metricsByName("--gate", []string{s[:at]})
	if err != nil {
		return gate{}, err
	}
	if len(list) != 1 {
		return bad("names %d metrics, expected one", len(list))
	}
	g.metric = list[0]
	if after, ok := strings.CutPrefix(rest, "baseline"); ok {
		g.relative, g.arith = true, '+'
		if after == "" {
			return g, nil
		}
		if !strings.ContainsRune("+-*", rune(after[0])) {
			return bad("goes on with %q after baseline, expected +, - or * and a number", after)
		}
		g.arith, rest = after[0], after[1:]
	}
	if g.number, err = strconv.ParseFloat(rest, 64); err != nil || math.IsNaN(g.number) || math.IsInf(g.number, 0) {
		return bad("compares with %q, which is no number", rest)
	}
	return g, nil
}

// check compares the model with the bound; baseline may be nil where the gate needs none.
func (g gate) check(model, baseline *evaluate.ModelReport) (gateResult, error) {
	r := gateResult{Gate: g.text, Bound: g.number}
	for _, m := range []*evaluate.ModelReport{model, baseline} {
		if m != nil && (m == model || g.relative) && !g.metric.has(m) {
			return r, schemas.Errorf(schemas.CodeUsage, "--gate", "%q: the report has no %s of %s", g.text, g.metric.name, m.Name).WithHint("%s", g.metric.needs())
		}
	}
	if r.Value = g.metric.value(model); g.relative {
		switch base := g.metric.value(baseline); g.arith {
		case '*':
			r.Bound = base * g.number
		case '-':
			r.Bound = base - g.number
		default:
			r.Bound = base + g.number
		}
	}
	switch g.op {
	case ">":
		r.Passed = r.Value > r.Bound
	case ">=":
		r.Passed = r.Value >= r.Bound
	case "<":
		r.Passed = r.Value < r.Bound
	default:
		r.Passed = r.Value <= r.Bound
	}
	return r, nil
}

// needs says what a metric is computed from.
func (m evalMetric) needs() string {
	return map[string]string{schemas.MeasureClassification: "classes are told from rows with a label: --column label=NAME",
		schemas.MeasureGeneration: "texts are compared where rows have a response, and --generate-rows leaves some"}[m.measure]
}

// evalTable is the table of a report: a row a model; of two also what the first has more than the second.
func evalTable(rep *evaluate.Report, list []evalMetric) *table {
	var shown []evalMetric
	head := []string{"MODEL"}
	for _, m := range list {
		if slices.ContainsFunc(rep.Models, func(r evaluate.ModelReport) bool { return m.has(&r) }) {
			shown, head = append(shown, m), append(head, m.head)
		}
	}
	generated := slices.ContainsFunc(rep.Models, func(r evaluate.ModelReport) bool { return r.TokensPerSecond > 0 })
	if generated {
		head = append(head, "TOKENS/S")
	}
	t := newTable(head...)
	for i := range rep.Models {
		r := &rep.Models[i]
		cells := []string{r.Name}
		for _, m := range shown {
			if m.has(r) {
				cells = append(cells, fmt.Sprintf("%.*f", m.digits, m.value(r)))
			} else {
				cells = append(cells, "")
			}
		}
		if generated {
			cells = append(cells, fmt.Sprintf("%.0f", r.TokensPerSecond))
		}
		t.row(cells...)
	}
	if len(rep.Models) == 2 {
		cells := []string{"difference"}
		for _, m := range shown {
			a, b := &rep.Models[0], &rep.Models[1]
			if !m.has(a) || !m.has(b) {
				cells = append(cells, "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%+.*f", m.digits, m.value(a)-m.value(b)))
		}
		t.row(cells...)
	}
	if b := rep.BagOfWords; b != nil && len(shown) > 1 && shown[0].name == "accuracy" && shown[1].name == "macro_f1" {
		t.row("bag of words (logistic regression)", fmt.Sprintf("%.3f", b.Accuracy), fmt.Sprintf("%.3f", b.MacroF1))
	}
	if rep.Majority != "" && len(shown) > 0 && shown[0].name == "accuracy" {
		t.row(fmt.Sprintf("majority class (%s)", rep.Majority), fmt.Sprintf("%.3f", rep.MajorityShare))
	}
	return t
}
