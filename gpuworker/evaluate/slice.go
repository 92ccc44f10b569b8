package evaluate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// generateRows is the number of rows of one generated batch.
	generateRows = 16
	// defaultNewTokens bounds an explanation where the spec does not.
	defaultNewTokens = 64
)

// record is what one model says about one row.
type record struct {
	Index     int    `json:"index"`
	Label     string `json:"label,omitempty"`
	Predicted string `json:"predicted,omitempty"`
	// NLL is the sum of -log p over the Tokens of the reference answer.
	NLL    float64 `json:"nll"`
	Tokens int     `json:"tokens"`
	// Generated is what the model wrote (Text whole, Explanation after the label), Reference what it is compared with.
	Generated bool   `json:"generated,omitempty"`
	Text      string `json:"text,omitempty"`
	Reference string `json:"reference,omitempty"`
}

// sliceOf is the content of a slice's object: records by model name, and the time spent generating.
type sliceOf struct {
	Models []modelSlice `json:"models"`
}

type modelSlice struct {
	Name    string   `json:"name"`
	Records []record `json:"records"`
	// NewTokens were generated in Seconds.
	NewTokens int64   `json:"new_tokens"`
	Seconds   float64 `json:"seconds"`
}

// sliceName is the object of a slice.
func sliceName(part int) string { return fmt.Sprintf("slices/%05d.json", part) }

// Handle runs one slice of an evaluation stage, or its reducer. It returns as consume.Handler says.
func Handle(ctx context.Context, t *consume.Task) error {
	if t.Stage.Eval == nil {
		return schemas.Errorf(schemas.CodeInternal, t.Message.Stage, "an evaluation message came without an evaluation stage")
	}
	switch last := t.Message.Part >= t.Message.Parts; {
	case t.Stage.Eval.Choice != nil && last:
		return reduceChoices(ctx, t)
	case t.Stage.Eval.Choice != nil:
		return choose(ctx, t)
	case t.Stage.Eval.Predict != nil && last:
		return reducePredictions(ctx, t)
	case t.Stage.Eval.Predict != nil:
		return predict(ctx, t)
	case last:
		return reduce(ctx, t)
	}
	return slice(ctx, t)
}

// input is the rows that a slice scores and how they are written as tokens.
type input struct {
	rows []data.Row
	// place[i] is the place of rows[i] among all rows of the split.
	place    []int
	tok      data.Tokenizer
	template data.Template
	cutoff   int
	labels   []string
	// text says that rows are plain text, which has no answer to classify or to generate.
	text bool
}

func (in *input) close() error { return in.tok.Close() }

// measured says whether something is measured: what the stage names (nothing: all), as far as the rows allow it.
func (in *input) measured(e *schemas.EvalStage, what string) bool {
	if len(e.Measures) > 0 && !slices.Contains(e.Measures, what) {
		return false
	}
	return what == schemas.MeasurePerplexity || !in.text && (what != schemas.MeasureClassification || len(in.labels) > 1)
}

// generated are the rows that the model answers.
func (in *input) generated(e *schemas.EvalStage) (at []int) {
	for i := range in.rows {
		if e.GenerateRows == 0 || in.place[i] < e.GenerateRows {
			at = append(at, i)
		}
	}
	return at
}

// work is the number of rows that one model is measured on, counted once for each measure.
func (in *input) work(e *schemas.EvalStage) (n int) {
	for _, what := range []string{schemas.MeasureClassification, schemas.MeasurePerplexity} {
		if in.measured(e, what) {
			n += len(in.rows)
		}
	}
	if in.measured(e, schemas.MeasureGeneration) {
		n += len(in.generated(e))
	}
	return n
}

// openInput reads the rows of a part. labels are the candidate strings: the spec's, else all that occur.
func openInput(ctx context.Context, t *consume.Task) (_ *input, err error) {
	e := t.Stage.Eval
	_, name, p, err := data.FindOutput(t.Spec, e.Data)
	if err != nil {
		return nil, err
	}
	o := data.Output(p, name)
	in := &input{cutoff: o.CutoffLen, labels: slices.Clone(e.Labels), text: o.Form == "pt"}
	// Rows that were stored for their text need a template only when they are answered.
	if in.template, err = data.TemplateByName(cmp.Or(o.Template, "default")); err != nil {
		return nil, err
	}
	if err := in.read(ctx, t); err != nil {
		return nil, err
	}
	if in.tok, err = prep.OpenTokenizer(ctx, t.Objects, t.Message.Tenant, p.Tokenizer); err != nil {
		return nil, err
	}
	return in, nil
}

// read keeps the rows of this slice, and the labels of all where the spec names none.
func (in *input) read(ctx context.Context, t *consume.Task) error {
	found := map[string]bool{}
	type placed struct {
		row   data.Row
		place int
	}
	var own []placed
	err := data.EachRow(ctx, t.Objects, t.Spec, t.Stage.Eval.Data, func(place int, r *data.Row) error {
		if r.Label != "" {
			found[r.Label] = true
		}
		if place%t.Message.Parts == t.Message.Part {
			own = append(own, placed{*r, place})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(own, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	for _, p := range own {
		in.rows, in.place = append(in.rows, p.row), append(in.place, p.place)
	}
	if len(in.labels) == 0 {
		in.labels = slices.Sorted(maps.Keys(found))
	}
	return nil
}

func slice(ctx context.Context, t *consume.Task) (err error) {
	t.Phase(consume.PhaseLoad, 0, 0)
	in, err := openInput(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	dev, err := kernels.Open(kernels.Options{Backend: t.Backend, Threads: t.Threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	out := partresult.New(t)
	var result sliceOf
	for i, m := range t.Stage.Eval.Models {
		s := &scoring{t: t, in: in, dev: dev, queue: q, done: i * in.work(t.Stage.Eval), total: len(t.Stage.Eval.Models) * in.work(t.Stage.Eval)}
		r, err := s.model(ctx, m)
		if err != nil {
			return fmt.Errorf("cannot score model %s: %w", m.Name, err)
		}
		result.Models = append(result.Models, *r)
	}
	raw, err := json.Marshal(&result)
	if err != nil {
		return fmt.Errorf("cannot encode the slice: %w", err)
	}
	if err := out.Put(ctx, sliceName(t.Message.Part), raw); err != nil {
		return err
	}
	out.Count("rows", int64(len(in.rows)))
	return out.Commit(ctx)
}

// scoring is the work of one model on one slice.
type scoring struct {
	t           *consume.Task
	in          *input
	dev         *kernels.Device
	queue       *kernels.Queue
	tape        *autograd.Tape
	loaded      *train.Loaded
	done, total int
}

func (s *scoring) advance(n int) {
	s.done += n
	s.t.Phase("score", int64(s.done), int64(s.total))
	s.t.Report(schemas.Event{Type: schemas.EventProgress, Values: map[string]float64{"rows": float64(s.done), "total": float64(s.total), "part": float64(s.t.Message.Part)}})
}

func (s *scoring) model(ctx context.Context, m schemas.EvalModel) (_ *modelSlice, err error) {
	s.loaded, err = loadPredicted(ctx, s.t, s.queue, &schemas.ModelSpec{From: m.From, Base: m.Base}, m.Adapters)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, s.queue.Sync())
		s.loaded.Close()
	}()
	if v, has := s.in.tok.VocabSize(), s.loaded.Model.Info().Vocab; v > has {
		return nil, schemas.Errorf(schemas.CodeModel, m.Name, "the tokenizer has %d ids, the model only %d", v, has)
	}
	mem := autograd.NewMemory(s.dev, s.queue, 0)
	defer func() { err = errors.Join(err, mem.Close()) }()
	s.tape = autograd.New(mem, autograd.Config{Compute: s.loaded.Compute})
	out := &modelSlice{Name: m.Name, Records: make([]record, len(s.in.rows))}
	for i := range s.in.rows {
		out.Records[i] = record{Index: s.in.rows[i].Index, Label: s.in.rows[i].Label}
	}
	for _, step := range []struct {
		name string
		run  func(context.Context, *modelSlice) error
	}{{schemas.MeasureClassification, s.classify}, {schemas.MeasurePerplexity, s.perplexity}, {schemas.MeasureGeneration, s.explain}} {
		if !s.in.measured(s.t.Stage.Eval, step.name) {
			continue
		}
		if err := step.run(ctx, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// limit is the most tokens of a prompt when room more follow.
func (s *scoring) limit(room int) int {
	n := s.loaded.Model.Info().MaxPositions
	if s.in.cutoff > 0 {
		n = min(n, s.in.cutoff)
	}
	return max(1, n-room)
}

// prompt encodes what stands before a row's answer; of one that is too long the end is kept, which holds the turn's marker.
func (s *scoring) prompt(r *data.Row, room int) []int32 {
	ids := s.in.template.EncodePrompt(s.in.tok, r.System, r.User(), "")
	return ids[max(0, len(ids)-s.limit(room)):]
}

// candidates encodes the labels as an answer begins: with the line's end where an explanation follows, else with the end of the answer,
// so that no label is merely the beginning of another.
func (s *scoring) candidates() [][]int32 {
	explained := slices.ContainsFunc(s.in.rows, func(r data.Row) bool { return r.Explanation != "" })
	var out [][]int32
	for _, l := range s.in.labels {
		ids := s.in.template.EncodeResponse(s.in.tok, l)
		if explained {
			// The answer goes on after the line break: what the template puts after the answer is taken off again.
			ids = s.in.template.EncodeResponse(s.in.tok, l+"\n")
			end := s.in.template.EncodeResponse(s.in.tok, "")
			for len(end) > 0 && len(ids) > 1 && ids[len(ids)-1] == end[len(end)-1] {
				ids, end = ids[:len(ids)-1], end[:len(end)-1]
			}
		}
		out = append(out, ids)
	}
	return out
}

func (s *scoring) classify(ctx context.Context, out *modelSlice) error {
	cands := s.candidates()
	room := 0
	for _, c := range cands {
		room = max(room, len(c))
	}
	scorer := generate.NewScorer(s.tape, s.loaded.Model)
	defer scorer.Close()
	for i := range s.in.rows {
		scores, err := scorer.Score(ctx, s.prompt(&s.in.rows[i], room), cands)
		if err != nil {
			return err
		}
		best := 0
		for c := range scores {
			if scores[c].Sum > scores[best].Sum {
				best = c
			}
		}
		out.Records[i].Predicted = s.in.labels[best]
		s.advance(1)
	}
	return s.queue.Sync()
}

// perplexity measures the reference answers, a few rows at a time.
func (s *scoring) perplexity(ctx context.Context, out *modelSlice) error {
	cutoff := s.limit(0)
	for i := range s.in.rows {
		var q data.Sequence
		if s.in.text {
			q = data.EncodeText(s.in.tok, s.in.template, &s.in.rows[i])
			q.IDs, q.Labels = q.IDs[:min(cutoff, len(q.IDs))], q.Labels[:min(cutoff, len(q.IDs))]
		} else {
			q = data.EncodeChat(s.in.tok, s.in.template, &s.in.rows[i], cutoff)
		}
		s.t.Phase("perplexity", int64(i+1), int64(len(s.in.rows)))
		s.advance(1)
		if q.Trained() == 0 || len(q.IDs) < 2 {
			continue
		}
		b := &nn.Batch{Rows: 1, Seq: len(q.IDs), IDs: q.IDs, Labels: q.Labels}
		r, err := objective.Loss(ctx, s.tape, s.loaded.Model, b)
		if err != nil {
			return err
		}
		out.Records[i].NLL, out.Records[i].Tokens = r.Sum, r.Targets
	}
	return nil
}

// explain lets the model write answers and keeps what follows the label.
func (s *scoring) explain(ctx context.Context, out *modelSlice) error {
	e := s.t.Stage.Eval
	most := cmp.Or(e.MaxNewTokens, defaultNewTokens)
	at := s.in.generated(e)
	opts := generate.Options{MaxNewTokens: most, Stop: s.in.template.StopIDs(s.in.tok)}
	for group := range slices.Chunk(at, generateRows) {
		var prompts [][]int32
		for _, i := range group {
			prompts = append(prompts, s.prompt(&s.in.rows[i], most))
		}
		start := time.Now()
		answers, err := generate.Generate(ctx, s.tape, s.loaded.Model, prompts, opts, nil)
		if err != nil {
			return err
		}
		out.Seconds += time.Since(start).Seconds()
		for k, i := range group {
			out.NewTokens += int64(len(answers[k]))
			r := &out.Records[i]
			r.Generated, r.Text, r.Reference = true, s.in.tok.Decode(answers[k]), reference(&s.in.rows[i])
		}
		s.t.Phase("generate", int64(group[len(group)-1]+1), int64(len(s.in.rows)))
		s.advance(len(group))
	}
	return nil
}

// reference is what a generated text is compared with: the explanation, or the whole answer of a row without one.
func reference(r *data.Row) string {
	if r.Explanation != "" {
		return r.Explanation
	}
	return r.Answer()
}

// written is the part of a generated text that is compared: what follows the first line when the answer is label and explanation.
func written(text string, labelled bool) string {
	text = strings.TrimSpace(text)
	if !labelled {
		return text
	}
	_, rest, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(rest)
}

func decodeSlice(raw []byte) (*sliceOf, error) {
	var s sliceOf
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&s); err != nil {
		return nil, schemas.Errorf(schemas.CodeInternal, "slice", "cannot be read: %v", err)
	}
	return &s, nil
}
