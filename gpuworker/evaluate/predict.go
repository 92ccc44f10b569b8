package evaluate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

// Names of the objects of a prediction stage's result.
const (
	PredictionsName    = "generated_predictions.jsonl"
	PredictResultsName = "predict_results.json"
)

// prediction is one row of generated_predictions.jsonl. Predict and Label are as the spec wants them; Scored are the texts that are
// compared, without special tokens.
type prediction struct {
	Prompt  string    `json:"prompt"`
	Predict string    `json:"predict"`
	Label   string    `json:"label"`
	Scored  [2]string `json:"scored"`
	// IDs are there where the texts keep special tokens: padding is one of them, and how much there is depends on all rows.
	IDs *predictedIDs `json:"ids,omitempty"`
}

// predictedIDs are what the texts of a row are made of.
type predictedIDs struct {
	Prompt  int     `json:"prompt"` // its length
	Predict []int32 `json:"predict"`
	Label   []int32 `json:"label"`
}

// predictionSlice is the content of a part's object.
type predictionSlice struct {
	Rows    []prediction `json:"rows"`
	Tokens  int64        `json:"new_tokens"`
	Seconds float64      `json:"seconds"`
}

// predictEncoder is the encoder of the data that are answered, and their preparation.
func predictEncoder(ctx context.Context, t *consume.Task, ref string) (*chat.Encoder, *schemas.PrepStage, error) {
	_, name, ps, err := data.FindOutput(t.Spec, ref)
	if err != nil {
		return nil, nil, err
	}
	tok, err := prep.OpenChatTokenizer(ctx, prep.Files{Objects: t.Objects, Tenant: t.Message.Tenant}, ps.Tokenizer)
	if err != nil {
		return nil, nil, err
	}
	enc, err := prep.NewChatEncoder(tok, data.Output(ps, name), ps.Factory)
	return enc, ps, err
}

// answerScorer scores answers that a model gives while it trains.
type answerScorer struct{ enc *chat.Encoder }

// TrainAnswers opens what scores the answers to an evaluation set while a model trains; it is train.Options.Answers.
func TrainAnswers(ctx context.Context, t *consume.Task, ref string) (train.Answers, error) {
	enc, _, err := predictEncoder(ctx, t, ref)
	if err != nil {
		return nil, err
	}
	return &answerScorer{enc}, nil
}

// Stops implements train.Answers.
func (s *answerScorer) Stops() []int32 { return stopsOf(s.enc) }

// Score implements train.Answers.
func (s *answerScorer) Score(prefix string, answers, references [][]int32) (map[string]float64, error) {
	texts := make([][2]string, len(answers))
	for i := range answers {
		texts[i] = [2]string{decoded(s.enc, answers[i], true), decoded(s.enc, references[i], true)}
	}
	return scoreTexts(prefix, texts)
}

// predict answers the prompts of one slice: a contiguous range of the data.
func predict(ctx context.Context, t *consume.Task) (err error) {
	t.Phase(consume.PhaseLoad, 0, 0)
	p, e := t.Stage.Eval.Predict, t.Stage.Eval
	enc, _, err := predictEncoder(ctx, t, e.Data)
	if err != nil {
		return err
	}
	d, err := data.OpenDataset(ctx, t.Objects, t.Spec, e.Data, t.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	n, parts := d.Len(), t.Message.Parts
	var out *predictionSlice
	err = answering(ctx, t, &p.Model, p.Adapters, func(loaded *train.Loaded, tape *autograd.Tape) (err error) {
		a := &answerer{t: t, d: d, enc: enc, loaded: loaded, tape: tape, p: p}
		out, err = a.rows(ctx, n*t.Message.Part/parts, n*(t.Message.Part+1)/parts)
		return err
	})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("cannot encode the predictions: %w", err)
	}
	w := partresult.New(t)
	if err := w.Put(ctx, sliceName(t.Message.Part), raw); err != nil {
		return err
	}
	return w.Commit(ctx)
}

// answerer generates and decodes.
type answerer struct {
	t      *consume.Task
	d      *data.Dataset
	enc    *chat.Encoder
	loaded *train.Loaded
	tape   *autograd.Tape
	p      *schemas.Prediction
}

// stopsOf are the ids that end an answer: the end of a sequence and all additional special tokens, as LLaMA-Factory has it.
func stopsOf(enc *chat.Encoder) []int32 {
	tok := enc.Tokenizer
	var out []int32
	if id := enc.EOSID(); id != chat.NoID {
		out = append(out, id)
	}
	roles := map[string]bool{}
	for _, r := range []hftok.Special{hftok.BOS, hftok.EOS, hftok.Unk, hftok.Sep, hftok.Pad, hftok.Cls, hftok.Mask} {
		if s, ok := tok.Special(r); ok {
			roles[s] = true
		}
	}
	for _, s := range tok.SpecialTokens() {
		if id, ok := tok.TokenID(s); ok && !roles[s] && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// rows answers rows from (included) to to (excluded).
func (a *answerer) rows(ctx context.Context, from, to int) (*predictionSlice, error) {
	out := &predictionSlice{Rows: []prediction{}}
	g := a.p.Generation
	stops := stopsOf(a.enc)
	batch := cmp.Or(a.p.Batch, generateRows)
	start := time.Now()
	for at := from; at < to; at += batch {
		var prompts, answers [][]int32
		var ids []int64
		for i := at; i < min(at+batch, to); i++ {
			s, err := a.d.Sequence(ctx, i)
			if err != nil {
				return nil, err
			}
			n := len(s.IDs) - s.Trained()
			prompts, answers, ids = append(prompts, s.IDs[:n]), append(answers, s.IDs[n:]), append(ids, int64(i))
		}
		made, err := generate.Answer(ctx, a.tape, a.loaded.Model, prompts, ids, &g, stops, a.t.Spec.Seed)
		if err != nil {
			return nil, err
		}
		for i := range made {
			out.Tokens += int64(len(made[i]))
			row := prediction{Prompt: decoded(a.enc, prompts[i], false), Predict: decoded(a.enc, made[i], true), Label: decoded(a.enc, answers[i], true)}
			if row.Scored = [2]string{row.Predict, row.Label}; g.KeepSpecial {
				row.IDs = &predictedIDs{len(prompts[i]), made[i], answers[i]}
			}
			out.Rows = append(out.Rows, row)
		}
		a.t.Phase("generate", int64(min(at+batch, to)-from), int64(to-from))
	}
	out.Seconds = time.Since(start).Seconds()
	return out, nil
}

// decoded decodes as transformers' batch_decode does, with the tokenizer's own clean-up.
func decoded(enc *chat.Encoder, ids []int32, skip bool) string {
	s := enc.Tokenizer.Decode(ids, skip)
	if enc.Tokenizer.CleanUpSpaces() {
		s = hftok.CleanUp(s)
	}
	return s
}

// reducePredictions merges the slices, scores all rows, and writes the two files.
func reducePredictions(ctx context.Context, t *consume.Task) error {
	var all predictionSlice
	for part := range t.Message.Parts {
		res, err := partresult.Read(ctx, t, part)
		if err != nil {
			return err
		}
		raw, err := partresult.Object(ctx, t, res, sliceName(part), maxSliceBytes)
		if err != nil {
			return err
		}
		var s predictionSlice
		if err := json.Unmarshal(raw, &s); err != nil {
			return schemas.Errorf(schemas.CodeData, sliceName(part), "is no slice of predictions: %v", err)
		}
		all.Rows, all.Tokens, all.Seconds = append(all.Rows, s.Rows...), all.Tokens+s.Tokens, all.Seconds+s.Seconds
	}
	if t.Stage.Eval.Predict.Generation.KeepSpecial {
		if err := padPredictions(ctx, t, all.Rows); err != nil {
			return err
		}
	}
	values, err := scorePredictions(all.Rows)
	if err != nil {
		return err
	}
	if err := predictScripts(ctx, t, all.Rows, values); err != nil {
		return err
	}
	values["predict_runtime"] = all.Seconds
	batch := max(1, t.Stage.Eval.Predict.Batch)
	values["predict_samples_per_second"] = float64(len(all.Rows)) / max(1e-9, all.Seconds)
	values["predict_steps_per_second"] = float64((len(all.Rows)+batch-1)/batch) / max(1e-9, all.Seconds)
	results, err := json.MarshalIndent(values, "", "    ")
	if err != nil {
		return fmt.Errorf("cannot encode the results: %w", err)
	}
	file, err := encodePredictions(all.Rows)
	if err != nil {
		return err
	}
	w := partresult.New(t)
	for k, v := range values {
		w.Value(k, v)
	}
	w.Count("rows", int64(len(all.Rows)))
	w.Count("new_tokens", all.Tokens)
	for name, b := range map[string][]byte{PredictionsName: file, PredictResultsName: results} {
		if err := w.Put(ctx, name, b); err != nil {
			return err
		}
	}
	t.Report(schemas.Event{At: time.Now().UTC(), Type: schemas.EventReport, Tenant: t.Message.Tenant, Run: t.Message.Run, Stage: t.Message.Stage, Worker: t.Worker, Values: values})
	return w.Commit(ctx)
}

// scorePredictions averages LLaMA-Factory's four scores over the rows.
func scorePredictions(rows []prediction) (map[string]float64, error) {
	texts := make([][2]string, len(rows))
	for i, r := range rows {
		texts[i] = r.Scored
	}
	return scoreTexts("predict_", texts)
}

// scoreTexts averages LLaMA-Factory's four scores over pairs of an answer and what it should have been; their names begin with prefix.
func scoreTexts(prefix string, texts [][2]string) (map[string]float64, error) {
	if len(texts) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, "predict", "there are no rows")
	}
	cutter, err := jieba.Default()
	if err != nil {
		return nil, fmt.Errorf("cannot load jieba's tables: %w", err)
	}
	scores := make([]metrics.Similarity, len(texts))
	for i, x := range texts {
		scores[i], _, _ = metrics.ComputeSimilarity(cutter, x[0], x[1])
	}
	m := metrics.MeanSimilarity(scores)
	return map[string]float64{prefix + "rouge-1": m.Rouge1, prefix + "rouge-2": m.Rouge2, prefix + "rouge-l": m.RougeL, prefix + "bleu-4": m.BLEU4}, nil
}

// encodePredictions writes {prompt, predict, label} a line, spaced as Python's json does.
func encodePredictions(rows []prediction) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, r := range rows {
		b.WriteByte('{')
		for i, f := range []struct{ key, text string }{{"prompt", r.Prompt}, {"predict", r.Predict}, {"label", r.Label}} {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%q: ", f.key)
			if err := e.Encode(f.text); err != nil {
				return nil, fmt.Errorf("cannot encode a prediction: %w", err)
			}
			b.Truncate(b.Len() - 1)
		}
		b.WriteString("}\n")
	}
	return b.Bytes(), nil
}
