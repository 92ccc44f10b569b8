package evaluate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/choice"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Names of the objects of a multiple-choice stage's result: ChoiceResultsName and ChoiceLogName are LLaMA-Factory's files, ChoiceReportName is a
// ChoiceReport.
const (
	ChoiceResultsName = "results.json"
	ChoiceLogName     = "results.log"
	ChoiceReportName  = "report.json"
)

// defaultQuestions are answered at a time where the spec does not say how many.
const defaultQuestions = 4

// ChoiceReport counts the right answers of a model.
type ChoiceReport struct {
	Version int    `json:"version"`
	Run     string `json:"run"`
	Stage   string `json:"stage"`
	// Task, Split, Lang, Shots and Seed say what was asked.
	Task  string `json:"task"`
	Split string `json:"split"`
	Lang  string `json:"lang"`
	Shots int    `json:"shots"`
	Seed  uint64 `json:"seed"`
	// Categories begin with Average, over all questions; those without questions are left out.
	Categories []choice.Score `json:"categories"`
	Subjects   []choice.Score `json:"subjects"`
}

// inputFolder reads the uploaded files of a task.
type inputFolder struct {
	ctx     context.Context
	objects store.Objects
	tenant  string
	files   []schemas.File
}

// Read implements choice.Folder.
func (f inputFolder) Read(name string, limit int64) ([]byte, bool, error) {
	i := slices.IndexFunc(f.files, func(x schemas.File) bool { return x.Path == name })
	if i < 0 {
		return nil, false, nil
	}
	b, err := data.ReadInput(f.ctx, f.objects, f.tenant, f.files[i], limit)
	return b, err == nil, err
}

func openTask(ctx context.Context, t *consume.Task) (*choice.Task, choice.Settings, error) {
	c := t.Stage.Eval.Choice
	task, err := choice.Open(c.Task, inputFolder{ctx, t.Objects, t.Message.Tenant, c.Files.Files})
	return task, choice.Settings{Split: c.Split, Lang: c.Lang, Shots: c.Shots, Seed: t.Spec.Seed}, err
}

// asked is a question as the model reads it.
type asked struct {
	ids  []int32
	what choice.Answered
}

// choose answers the questions of one slice.
func choose(ctx context.Context, t *consume.Task) error {
	t.Phase(consume.PhaseLoad, 0, 0)
	c := t.Stage.Eval.Choice
	tok, err := prep.OpenChatTokenizer(ctx, prep.Files{Objects: t.Objects, Tenant: t.Message.Tenant}, c.Tokenizer)
	if err != nil {
		return err
	}
	enc, err := prep.NewChatEncoder(tok, &schemas.PrepOutput{Form: "sft", Template: c.Template},
		&schemas.FactorySpec{DefaultSystem: c.DefaultSystem, EnableThinking: c.EnableThinking, PreserveThinking: c.PreserveThinking, Date: c.Date})
	if err != nil {
		return err
	}
	letters, err := letterTokens(tok)
	if err != nil {
		return err
	}
	questions, total, err := readQuestions(ctx, t, enc)
	if err != nil {
		return err
	}
	var answers []choice.Answered
	err = answering(ctx, t, &c.Model, c.Adapters, func(loaded *train.Loaded, tape *autograd.Tape) (err error) {
		ch := &chooser{t: t, loaded: loaded, tape: tape, letters: letters, total: total}
		if err := ch.fits(questions); err != nil {
			return err
		}
		answers, err = ch.answer(ctx, questions)
		return err
	})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(answers)
	if err != nil {
		return fmt.Errorf("cannot encode the answers: %w", err)
	}
	w := partresult.New(t)
	if err := w.Put(ctx, sliceName(t.Message.Part), raw); err != nil {
		return err
	}
	w.Count("questions", int64(len(answers)))
	return w.Commit(ctx)
}

// letterTokens are the tokens whose logits are compared: the last one that each letter is written with, by itself.
func letterTokens(tok *hftok.Tokenizer) ([]int32, error) {
	var out []int32
	for _, l := range choice.Letters() {
		ids := tok.Encode(l)
		if len(ids) == 0 {
			return nil, schemas.Errorf(schemas.CodeModel, "tokenizer", "has no token for the answer %s", l)
		}
		out = append(out, ids[len(ids)-1])
	}
	return out, nil
}

// readQuestions encodes the questions of this slice and counts those of all.
func readQuestions(ctx context.Context, t *consume.Task, enc *chat.Encoder) (out []asked, total int, err error) {
	task, settings, err := openTask(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	err = task.Ask(ctx, settings, func(q choice.Question) error {
		mine := total%t.Message.Parts == t.Message.Part
		if total++; !mine {
			return nil
		}
		pair, err := enc.OneTurn(q.Messages, "", "")
		if err != nil {
			return fmt.Errorf("cannot encode question %d of %s: %w", q.Index+1, task.Subjects[q.Subject].Key, err)
		}
		if len(pair.Prompt) == 0 {
			return schemas.Errorf(schemas.CodeData, task.Subjects[q.Subject].Key, "question %d is empty", q.Index+1)
		}
		out = append(out, asked{pair.Prompt, choice.Answered{Subject: q.Subject, Index: q.Index, Answer: q.Answer}})
		t.Phase("read", int64(total), 0)
		return nil
	})
	return out, total, err
}

// chooser lets a model answer.
type chooser struct {
	t       *consume.Task
	loaded  *train.Loaded
	tape    *autograd.Tape
	letters []int32
	total   int
}

// fits refuses tokens that the model does not have, before anything is computed.
func (c *chooser) fits(questions []asked) error {
	vocab := c.loaded.Model.Info().Vocab
	most := slices.Max(c.letters)
	for _, q := range questions {
		most = max(most, slices.Max(q.ids))
	}
	if int(most) >= vocab {
		return schemas.Errorf(schemas.CodeModel, "model", "the questions have token %d, the model's vocabulary is %d", most, vocab).
			WithHint("use the tokenizer and the template that the model was made with")
	}
	return nil
}

// answer chooses a letter for every question, a batch at a time.
func (c *chooser) answer(ctx context.Context, questions []asked) ([]choice.Answered, error) {
	out := make([]choice.Answered, 0, len(questions))
	for batch := range slices.Chunk(questions, cmp.Or(c.t.Stage.Eval.Choice.Batch, defaultQuestions)) {
		prompts := make([][]int32, len(batch))
		longest := 0
		for i, q := range batch {
			prompts[i] = q.ids
			longest = max(longest, len(q.ids))
		}
		var logits []float32
		opts := generate.Options{MaxNewTokens: 1, Observe: func(all []float32) { logits = all }}
		if _, err := generate.Generate(ctx, c.tape, c.loaded.Model, prompts, opts, nil); err != nil {
			return nil, fmt.Errorf("cannot answer questions of up to %d tokens (the model is made for %d): %w", longest, c.loaded.Model.Info().MaxPositions, err)
		}
		vocab := len(logits) / len(batch)
		for i, q := range batch {
			a := q.what
			a.Chosen = choice.Likeliest(logits[i*vocab:(i+1)*vocab], c.letters)
			out = append(out, a)
		}
		c.t.Phase("answer", int64(len(out)), int64(len(questions)))
		c.t.Report(schemas.Event{Type: schemas.EventProgress, Message: "questions", Values: map[string]float64{"done": float64(len(out)), "total": float64(len(questions)),
			"part": float64(c.t.Message.Part)}})
	}
	return out, nil
}

// reduceChoices merges the slices and writes LLaMA-Factory's two files and the report.
func reduceChoices(ctx context.Context, t *consume.Task) error {
	task, settings, err := openTask(ctx, t)
	if err != nil {
		return err
	}
	var all []choice.Answered
	for part := range t.Message.Parts {
		res, err := partresult.Read(ctx, t, part)
		if err != nil {
			return err
		}
		raw, err := partresult.Object(ctx, t, res, sliceName(part), maxSliceBytes)
		if err != nil {
			return err
		}
		var s []choice.Answered
		if err := json.Unmarshal(raw, &s); err != nil {
			return schemas.Errorf(schemas.CodeInternal, sliceName(part), "is no slice of answers: %v", err)
		}
		for _, a := range s {
			if a.Subject < 0 || a.Subject >= len(task.Subjects) {
				return schemas.Errorf(schemas.CodeInternal, sliceName(part), "has an answer of subject %d, the task has %d", a.Subject, len(task.Subjects))
			}
		}
		all = append(all, s...)
		t.Phase("reduce", int64(part+1), int64(t.Message.Parts))
	}
	slices.SortFunc(all, func(a, b choice.Answered) int { return cmp.Or(a.Subject-b.Subject, a.Index-b.Index) })
	rep := &ChoiceReport{Version: 1, Run: t.Message.Run, Stage: t.Message.Stage, Task: task.Name, Split: settings.Split, Lang: settings.Lang, Shots: settings.Shots, Seed: settings.Seed}
	rep.Categories, rep.Subjects = task.Scores(all)
	raw, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the report: %w", err)
	}
	w := partresult.New(t)
	values := map[string]float64{"questions": float64(len(all))}
	for _, c := range rep.Categories {
		values[c.Name] = c.Accuracy
	}
	for name, b := range map[string][]byte{ChoiceResultsName: []byte(task.Results(all)), ChoiceLogName: []byte(choice.Log(rep.Categories)), ChoiceReportName: append(raw, '\n')} {
		if err := w.Put(ctx, name, b); err != nil {
			return err
		}
	}
	w.Value("report", rep)
	w.Count("questions", int64(len(all)))
	t.Report(schemas.Event{Type: schemas.EventReport, Message: task.Name, Values: values})
	return w.Commit(ctx)
}
