package evaluate

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// defaultMaxLength is transformers' max_length of a generation_config.json that names none.
	defaultMaxLength = 20
	// trainedMultiple is what LLaMA-Factory's collator rounds the lengths of a batch up to in a run that trains.
	trainedMultiple     = 8
	maxGenerationConfig = 1 << 20
)

// padding is how wide LLaMA-Factory's arrays of predictions are.
type padding struct {
	// batch is the number of rows that are answered together, multiple what lengths are rounded up to, least the least width.
	batch, multiple, least int
	id                     int32
}

// padPredictions writes texts that keep special tokens as LLaMA-Factory does: they end with the padding of the arrays that all predictions, and
// all labels, are gathered in.
func padPredictions(ctx context.Context, t *consume.Task, rows []prediction) error {
	enc, ps, err := predictEncoder(ctx, t, t.Stage.Eval.Data)
	if err != nil {
		return err
	}
	p := padding{batch: cmp.Or(t.Stage.Eval.Predict.Batch, generateRows), multiple: 1, least: defaultMaxLength, id: enc.PadID()}
	if t.Stage.Eval.Predict.Model.From != "" {
		p.multiple = trainedMultiple
	}
	for _, f := range ps.Tokenizer.Files {
		if f.Path != "generation_config.json" {
			continue
		}
		raw, err := data.ReadInput(ctx, t.Objects, t.Message.Tenant, f, maxGenerationConfig)
		if err != nil {
			return err
		}
		var c struct {
			MaxLength int `json:"max_length"`
		}
		if json.Unmarshal(raw, &c) == nil && c.MaxLength > 0 {
			p.least = c.MaxLength
		}
	}
	return p.write(enc, rows)
}

func (p padding) write(enc *chat.Encoder, rows []prediction) error {
	for i := range rows {
		if rows[i].IDs == nil {
			return schemas.Errorf(schemas.CodeInternal, PredictionsName, "row %d came without its tokens", i+1)
		}
	}
	if p.id == chat.NoID {
		p.id = 0
	}
	predictions, labels := p.arrays(rows)
	for i := range rows {
		rows[i].Predict, rows[i].Label = decoded(enc, predictions[i], false), decoded(enc, labels[i], false)
	}
	return nil
}

// arrays are the rows of LLaMA-Factory's arrays. A batch's prompts are as long as the longest, before them is padding; what is generated stands
// behind, its prompt is padding, too, which is moved to the end; labels have padding before them up to the longest of the batch.
func (p padding) arrays(rows []prediction) (predictions, labels [][]int32) {
	up := func(n int) int { return (n + p.multiple - 1) / p.multiple * p.multiple }
	width, labelWidth := 0, 0
	var before []int // the width of each row's batch of labels
	for batch := range slices.Chunk(rows, p.batch) {
		prompt, made, label := 0, 0, 0
		for i := range batch {
			x := batch[i].IDs
			prompt, made, label = max(prompt, x.Prompt), max(made, len(x.Predict)), max(label, len(x.Label))
		}
		label = up(label)
		width, labelWidth = max(width, up(prompt)+made, p.least), max(labelWidth, label)
		for range batch {
			before = append(before, label)
		}
	}
	fill := func(n int) []int32 { return slices.Repeat([]int32{p.id}, n) }
	for i := range rows {
		x := rows[i].IDs
		text := x.Predict
		for len(text) > 0 && text[0] == p.id {
			text = text[1:]
		}
		predictions = append(predictions, slices.Concat(text, fill(width-len(text))))
		labels = append(labels, slices.Concat(fill(before[i]-len(x.Label)), x.Label, fill(labelWidth-before[i])))
	}
	return predictions, labels
}
