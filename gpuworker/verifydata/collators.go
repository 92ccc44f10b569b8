package verifydata

import (
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// features are the rows that a collator is given.
func (j *rowJob) features() (ids, attention, labels, positions [][]int32) {
	list, _ := j.row.Value("features").([]any)
	for _, x := range list {
		o, _ := x.(*pyjson.Object)
		ids, attention = append(ids, idsOf(o.Value("input_ids"))), append(attention, idsOf(o.Value("attention_mask")))
		labels, positions = append(labels, idsOf(o.Value("labels"))), append(positions, idsOf(o.Value("position_ids")))
	}
	return ids, attention, labels, positions
}

func collatorOrder(more ...string) []string {
	return append([]string{"kind", "template", "tokenizer", "pad_to_multiple_of", "padding_side", "pad_token_id"}, more...)
}

// openPad finds the padding id of the row's template and tokenizer.
func (j *rowJob) openPad(c *Case) int32 {
	if j.row.Value("cutoff_len") == nil {
		j.row = j.row.Clone()
		j.row.Set("cutoff_len", int64(1)) // the collator needs none
	}
	if c.Err = j.open(); c.Err != nil {
		return 0
	}
	c.Fields = append(c.Fields, j.ids(hftok.Pad)...)
	return j.enc.PadID()
}

func batchValue(b process.Batch, prefix string) []any {
	return []any{prefix + "input_ids", idRows(b.IDs), prefix + "attention_mask", idRows(b.Attention), prefix + "labels", idRows(b.Labels)}
}

func (j *rowJob) collator() Case {
	c := Case{Order: collatorOrder("features", "batch"), Results: []string{"batch"}}
	pad := j.openPad(&c)
	if c.Err != nil {
		return c
	}
	ids, attention, labels, _ := j.features()
	b := process.Collate(ids, attention, labels, pad, j.int("pad_to_multiple_of"), j.row.Value("padding_side") == "left")
	c.Fields = append(c.Fields, Field{Key: "batch", Value: pyjson.NewObject(batchValue(b, "")...)})
	return c
}

func (j *rowJob) neatCollator() Case {
	c := Case{Order: collatorOrder("features", "attention_mask_4d_allowed", "batch"), Results: []string{"batch"}}
	pad := j.openPad(&c)
	if c.Err != nil {
		return c
	}
	ids, attention, labels, positions := j.features()
	b := process.Collate(ids, attention, labels, pad, j.int("pad_to_multiple_of"), false)
	masks := []any{}
	for _, a := range b.Attention {
		var rows [][]int32
		for _, q := range process.MayAttend(a) {
			row := make([]int32, len(q))
			for k, ok := range q {
				if ok {
					row[k] = 1
				}
			}
			rows = append(rows, row)
		}
		masks = append(masks, idRows(rows))
	}
	// Positions are padded with 0 like attention.
	p := process.Collate(positions, positions, positions, 0, j.int("pad_to_multiple_of"), false)
	c.Fields = append(c.Fields, Field{Key: "attention_mask_4d_allowed", Value: masks},
		Field{Key: "batch", Value: pyjson.NewObject("input_ids", idRows(b.IDs), "position_ids", idRows(p.IDs), "labels", idRows(b.Labels))})
	return c
}

func prefOrder() []string {
	return []string{"kind", "template", "tokenizer", "pad_to_multiple_of", "pad_token_id", "examples", "cutoff_len", "batch"}
}

func (j *rowJob) pairwiseCollator() Case {
	c := Case{Order: prefOrder(), Results: []string{"batch"}}
	pad := j.openPad(&c)
	list, err := j.start(&c)
	if err != nil {
		return c
	}
	batch, err := exampleValues(list)
	if err != nil {
		c.Err = err
		return c
	}
	var chosen, rejected []process.Sample
	for i := range batch {
		if !batch[i].Pairs() {
			continue
		}
		x, y, err := j.proc.Pairwise(&batch[i])
		if err != nil {
			c.Err = err
			return c
		}
		chosen, rejected = append(chosen, x), append(rejected, y)
	}
	b := process.CollateSamples(append(chosen, rejected...), pad, j.int("pad_to_multiple_of"), false)
	c.Fields = append(c.Fields, Field{Key: "batch", Value: pyjson.NewObject(batchValue(b, "")...)})
	return c
}

func (j *rowJob) ktoCollator() Case {
	c := Case{Order: prefOrder(), Results: []string{"batch"}}
	pad := j.openPad(&c)
	samples := j.judged(&c)
	if c.Err != nil {
		return c
	}
	var real, kl []process.Sample
	tags := []any{}
	for _, s := range samples {
		real, kl, tags = append(real, s.Sample), append(kl, s.KL), append(tags, s.Desired)
	}
	m := j.int("pad_to_multiple_of")
	o := pyjson.NewObject(batchValue(process.CollateSamples(real, pad, m, false), "")...)
	k := batchValue(process.CollateSamples(kl, pad, m, false), "kl_")
	for i := 0; i < len(k); i += 2 {
		o.Set(k[i].(string), k[i+1]) //nolint:forcetypeassert // batchValue's keys
	}
	o.Set("kto_tags", tags)
	c.Fields = append(c.Fields, Field{Key: "batch", Value: o})
	return c
}
