package evaluate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/schemas"
)

// ReportName is the object of the report within the stage's result.
const ReportName = "report.json"

// maxSliceBytes bounds one slice's object.
const maxSliceBytes = 1 << 30

// Report compares models on one split.
type Report struct {
	Version int    `json:"version"`
	Run     string `json:"run"`
	Stage   string `json:"stage"`
	Data    string `json:"data"`
	Rows    int    `json:"rows"`
	// MajorityShare is the share of the most frequent label, Majority; 0 without labels.
	Majority      string  `json:"majority,omitempty"`
	MajorityShare float64 `json:"majority_share"`
	// Models are in the order of the spec.
	Models []ModelReport `json:"models"`
	// BagOfWords is a logistic regression over word counts, trained on the training rows and scored on the same split; nil when the
	// training rows were not stored or have no labels.
	BagOfWords *Baseline `json:"bag_of_words,omitempty"`
}

// Baseline is a classifier to compare with.
type Baseline struct {
	Accuracy  float64 `json:"accuracy"`
	MacroF1   float64 `json:"macro_f1"`
	TrainRows int     `json:"train_rows"`
}

// ModelReport is one model's scores. Shares are 0 to 1; BLEU and ROUGE are means over the generated rows, 0 to 1.
type ModelReport struct {
	Name     string  `json:"name"`
	From     string  `json:"from"`
	Accuracy float64 `json:"accuracy"`
	MacroF1  float64 `json:"macro_f1"`
	// Perplexity is exp of the mean -log p of a token of the reference answers.
	Perplexity float64 `json:"perplexity"`
	BLEU4      float64 `json:"bleu4"`
	ROUGE1     float64 `json:"rouge1"`
	ROUGE2     float64 `json:"rouge2"`
	ROUGEL     float64 `json:"rougeL"`
	// ExactMatch and F1 compare generated answers with their references as SQuAD does, means of 0 to 1; ChrF and SacreBLEU are sacrebleu's scores
	// of all of them together, 0 to 100 (BLEU with the zh tokenizer, which cuts Western text as 13a does).
	ExactMatch float64 `json:"exact_match"`
	F1         float64 `json:"f1"`
	ChrF       float64 `json:"chrf"`
	SacreBLEU  float64 `json:"sacrebleu"`
	// MCC is Matthews' correlation coefficient of the classification.
	MCC float64 `json:"mcc"`
	// Scripts are the numbers of the user's own scripts, by script and metric.
	Scripts map[string]map[string]float64 `json:"scripts,omitempty"`
	// Generated is the number of rows with a generated answer; TokensPerSecond the speed of generating them on one worker.
	Generated       int     `json:"generated"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	// PerClass has precision, recall, F1 and support of every label.
	PerClass  []metrics.ClassScore `json:"per_class,omitempty"`
	Confusion [][]int              `json:"confusion,omitempty"`
	// Samples are the first generated answers.
	Samples []Sample `json:"samples,omitempty"`
}

// Sample is one generated answer beside its reference.
type Sample struct {
	Index     int    `json:"index"`
	Label     string `json:"label,omitempty"`
	Predicted string `json:"predicted,omitempty"`
	Text      string `json:"text"`
	Reference string `json:"reference"`
}

const maxSamples = 5

// reduce merges the slices to the report.
func reduce(ctx context.Context, t *consume.Task) error {
	e := t.Stage.Eval
	all := make([]modelSlice, len(e.Models))
	for part := range t.Message.Parts {
		res, err := partresult.Read(ctx, t, part)
		if err != nil {
			return err
		}
		raw, err := partresult.Object(ctx, t, res, sliceName(part), maxSliceBytes)
		if err != nil {
			return err
		}
		s, err := decodeSlice(raw)
		if err != nil {
			return err
		}
		if len(s.Models) != len(all) {
			return schemas.Errorf(schemas.CodeInternal, sliceName(part), "has %d models, the spec names %d", len(s.Models), len(all))
		}
		for i, m := range s.Models {
			all[i].Name = m.Name
			all[i].Records = append(all[i].Records, m.Records...)
			all[i].NewTokens += m.NewTokens
			all[i].Seconds += m.Seconds
		}
		t.Phase("reduce", int64(part+1), int64(t.Message.Parts))
	}
	rep := &Report{Version: 1, Run: t.Message.Run, Stage: t.Message.Stage, Data: e.Data}
	for i, m := range all {
		slices.SortFunc(m.Records, func(a, b record) int { return a.Index - b.Index })
		r, err := score(m)
		if err != nil {
			return fmt.Errorf("cannot score model %s: %w", m.Name, err)
		}
		r.From = e.Models[i].From
		if err := runScripts(ctx, t, m, r); err != nil {
			return fmt.Errorf("cannot score model %s: %w", m.Name, err)
		}
		rep.Models = append(rep.Models, *r)
	}
	rep.Rows = len(all[0].Records)
	rep.Majority, rep.MajorityShare = majority(all[0].Records)
	var err error
	if rep.BagOfWords, err = baseline(ctx, t); err != nil {
		return fmt.Errorf("cannot train the bag-of-words baseline: %w", err)
	}
	raw, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the report: %w", err)
	}
	out := partresult.New(t)
	if err := out.Put(ctx, ReportName, append(raw, '\n')); err != nil {
		return err
	}
	out.Value("report", rep)
	if err := out.Commit(ctx); err != nil {
		return err
	}
	for _, m := range rep.Models {
		t.Report(schemas.Event{Type: schemas.EventReport, Message: m.Name, Values: map[string]float64{"accuracy": m.Accuracy, "macro_f1": m.MacroF1,
			"perplexity": m.Perplexity, "bleu4": m.BLEU4, "rouge1": m.ROUGE1, "rouge2": m.ROUGE2, "rougeL": m.ROUGEL, "tokens_per_second": m.TokensPerSecond,
			"majority_share": rep.MajorityShare, "rows": float64(rep.Rows)}})
	}
	return nil
}

// score turns a model's records into its report.
func score(m modelSlice) (*ModelReport, error) {
	out := &ModelReport{Name: m.Name}
	var truth, predicted []string
	var nll float64
	tokens := 0
	var texts []string
	var references [][]string
	for _, r := range m.Records {
		if r.Label != "" && r.Predicted != "" {
			truth, predicted = append(truth, r.Label), append(predicted, r.Predicted)
		}
		nll += r.NLL
		tokens += r.Tokens
		if !r.Generated {
			continue
		}
		out.Generated++
		text := written(r.Text, r.Label != "")
		rouge := metrics.RougeScore(text, r.Reference)
		out.BLEU4 += metrics.BLEU4(text, r.Reference)
		exact, f1 := metrics.SQuAD(text, []string{r.Reference})
		if exact {
			out.ExactMatch++
		}
		out.F1 += f1
		texts, references = append(texts, text), append(references, []string{r.Reference})
		out.ROUGE1 += rouge.R1.F
		out.ROUGE2 += rouge.R2.F
		out.ROUGEL += rouge.RL.F
		if len(out.Samples) < maxSamples {
			out.Samples = append(out.Samples, Sample{Index: r.Index, Label: r.Label, Predicted: r.Predicted, Text: strings.TrimSpace(r.Text), Reference: r.Reference})
		}
	}
	if n := float64(out.Generated); n > 0 {
		out.ExactMatch, out.F1 = out.ExactMatch/n, out.F1/n
		if err := out.corpus(texts, references); err != nil {
			return nil, err
		}
		out.BLEU4, out.ROUGE1, out.ROUGE2, out.ROUGEL = out.BLEU4/n, out.ROUGE1/n, out.ROUGE2/n, out.ROUGEL/n
	}
	if tokens > 0 {
		out.Perplexity = math.Exp(min(nll/float64(tokens), 700)) // of a token: beyond this a float64, and JSON, has no number
	}
	if m.Seconds > 0 {
		out.TokensPerSecond = float64(m.NewTokens) / m.Seconds
	}
	if len(truth) > 0 {
		c, err := metrics.Classification(truth, predicted)
		if err != nil {
			return nil, err
		}
		out.Accuracy, out.MacroF1, out.PerClass, out.Confusion, out.MCC = c.Accuracy, c.Macro.F1, c.PerClass, c.Confusion, c.MCC
	}
	return out, nil
}

// majority is the most frequent label and its share.
func majority(records []record) (label string, share float64) {
	counts, total := map[string]int{}, 0
	for _, r := range records {
		if r.Label != "" {
			counts[r.Label]++
			total++
		}
	}
	for l, n := range counts {
		if n > counts[label] || n == counts[label] && (label == "" || l < label) {
			label = l
		}
	}
	if total == 0 {
		return "", 0
	}
	return label, float64(counts[label]) / float64(total)
}

// baseline trains bag-of-words logistic regression on the training rows that the same prep stage stored.
func baseline(ctx context.Context, t *consume.Task) (*Baseline, error) {
	stage, _, p, err := data.FindOutput(t.Spec, t.Stage.Eval.Data)
	if err != nil {
		return nil, err
	}
	if _, name, _, err := data.FindOutput(t.Spec, t.Stage.Eval.Data); err != nil || data.Output(p, name).Split == "train" {
		return nil, err // rows that it would be trained on
	}
	at := slices.IndexFunc(p.Outputs, func(o schemas.PrepOutput) bool { return o.Split == "train" && o.Rows })
	if at < 0 {
		return nil, nil
	}
	labelled := func(ref string) (texts, labels []string, err error) {
		type labelled struct {
			text, label string
			place       int
		}
		var rows []labelled
		err = data.EachRow(ctx, t.Objects, t.Spec, ref, func(place int, r *data.Row) error {
			if r.Label != "" {
				rows = append(rows, labelled{r.User(), r.Label, place})
			}
			return nil
		})
		slices.SortFunc(rows, func(a, b labelled) int { return cmp.Compare(a.place, b.place) })
		for _, r := range rows {
			texts, labels = append(texts, r.text), append(labels, r.label)
		}
		return texts, labels, err
	}
	texts, labels, err := labelled(stage + "/" + p.Outputs[at].Name)
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	test, truth, err := labelled(t.Stage.Eval.Data)
	if err != nil || len(test) == 0 {
		return nil, err
	}
	predicted, err := metrics.BagOfWords(texts, labels, test)
	if err != nil {
		return nil, err
	}
	c, err := metrics.Classification(truth, predicted)
	if err != nil {
		return nil, err
	}
	return &Baseline{Accuracy: c.Accuracy, MacroF1: c.Macro.F1, TrainRows: len(texts)}, nil
}
