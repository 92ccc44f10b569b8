package verifydata

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

func processorSuite() Suite {
	return Suite{
		Name: "processors",
		Match: func(p string) bool {
			for _, d := range []string{"sft", "pt", "pairwise", "kto"} {
				if ok, _ := path.Match(d+"/*.jsonl", p); ok && p != "pt/texts.jsonl" {
					return true
				}
			}
			return false
		},
		Input: func(p string) bool { return p == "pt/texts.jsonl" },
		Run: func(ctx context.Context, env *Env, f *File) ([]Case, error) {
			out := make([]Case, len(f.Rows))
			for i := range f.Rows {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				out[i] = processorCase(env, f, f.Row(i))
			}
			return out, nil
		},
	}
}

func processorCase(env *Env, f *File, row *pyjson.Object) Case {
	switch base := path.Base(f.Path); base {
	case "examples.jsonl":
		return exampleCase(row, path.Dir(f.Path) == "sft")
	case "aligned.jsonl":
		return alignedCase(env, row)
	}
	j := &rowJob{env: env, dir: path.Dir(f.Path), row: row}
	kind, _ := row.Value("kind").(string)
	run := map[string]func(*rowJob) Case{"supervised": (*rowJob).supervised, "packed": (*rowJob).packed, "unsupervised": (*rowJob).unsupervised,
		"infer_seqlen": (*rowJob).inferSeqlen, "greedy_knapsack": (*rowJob).knapsack, "sft_collator": (*rowJob).collator, "neat_packing_collator": (*rowJob).neatCollator,
		"pt": (*rowJob).pretrain, "pairwise": (*rowJob).pairwise, "pairwise_collator": (*rowJob).pairwiseCollator, "kto": (*rowJob).kto, "kto_collator": (*rowJob).ktoCollator}[kind]
	if run == nil {
		return Case{Err: errUnknown("kind", kind)}
	}
	return run(j)
}

// attrOf reads dataset_attr.
func attrOf(o *pyjson.Object) *align.Attr {
	a := &align.Attr{Columns: map[string]string{}, Tags: map[string]string{}, Strict: true}
	a.Formatting, _ = o.Value("formatting").(string)
	a.Ranking, _ = o.Value("ranking").(bool)
	for _, k := range o.Keys() {
		s, ok := o.Value(k).(string)
		switch {
		case !ok || k == "formatting":
		case len(k) > 4 && k[len(k)-4:] == "_tag" && k != "kto_tag":
			a.Tags[k] = s
		default:
			a.Columns[k] = s
		}
	}
	return a
}

func turnsValue(turns []align.Turn) any {
	out := []any{}
	for _, t := range turns {
		out = append(out, pyjson.NewObject("role", t.Role, "content", t.Content))
	}
	return out
}

func alignedValue(r *align.Row) any {
	return pyjson.NewObject("_prompt", turnsValue(r.Prompt), "_response", turnsValue(r.Response), "_system", r.System, "_tools", r.Tools,
		"_images", r.Images, "_videos", r.Videos, "_audios", r.Audios)
}

func exampleCase(row *pyjson.Object, withError bool) Case {
	c := Case{Order: []string{"id", "dataset_attr", "raw", "aligned", "error"}, Results: []string{"aligned"}}
	attr, _ := row.Value("dataset_attr").(*pyjson.Object)
	raw, _ := row.Value("raw").(*pyjson.Object)
	var r *align.Row
	if r, c.Err = align.Convert(raw, attrOf(attr)); c.Err != nil {
		return c
	}
	c.Fields = []Field{{Key: "aligned", Value: alignedValue(r)}}
	if withError {
		c.Fields = append(c.Fields, Field{Key: "error", Value: nil})
	}
	return c
}

func alignedCase(env *Env, row *pyjson.Object) Case {
	c := Case{Order: []string{"id", "dataset_attr", "aligned", "error"}, Results: []string{"aligned"}}
	texts, err := env.texts("pt")
	if err != nil {
		c.Err = err
		return c
	}
	attr, _ := row.Value("dataset_attr").(*pyjson.Object)
	id, _ := row.Value("id").(int64)
	text, ok := texts[id]
	if !ok {
		c.Err = errUnknown("text", fmt.Sprint(id))
		return c
	}
	a := attrOf(attr)
	r, err := align.Convert(pyjson.NewObject(a.Columns["prompt"], text), a)
	if err != nil {
		c.Err = err
		return c
	}
	c.Fields = []Field{{Key: "aligned", Value: alignedValue(r)}}
	return c
}

// texts are the texts of pt/texts.jsonl by id.
func (e *Env) texts(dir string) (map[int64]string, error) {
	v, err := e.Shared("texts "+dir, func() (any, error) {
		f, err := e.ReadFile(dir + "/texts.jsonl")
		if err != nil {
			return nil, err
		}
		out := map[int64]string{}
		for i := range f.Rows {
			id, _ := f.Row(i).Value("id").(int64)
			out[id], _ = f.Row(i).Value("text").(string)
		}
		return out, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(map[int64]string), nil //nolint:forcetypeassert // made above
}

type example struct {
	id int64
	ex *process.Example
	// err is why the row cannot be converted or encoded.
	err error
}

// dropped reports whether a converted row is left out before anything of it is encoded: what is wrong with its contents is not looked at then.
func (x example) dropped(usable func(*process.Example) bool) bool {
	return x.ex != nil && !usable(x.ex)
}

// examples are the converted rows of a folder's examples.jsonl, in order.
func (e *Env) examples(dir string) ([]example, error) {
	v, err := e.Shared("examples "+dir, func() (any, error) {
		f, err := e.ReadFile(dir + "/examples.jsonl")
		if err != nil {
			return nil, err
		}
		var out []example
		for i := range f.Rows {
			attr, _ := f.Row(i).Value("dataset_attr").(*pyjson.Object)
			raw, _ := f.Row(i).Value("raw").(*pyjson.Object)
			x := example{}
			x.id, _ = f.Row(i).Value("id").(int64)
			r, err := align.Convert(raw, attrOf(attr))
			if err == nil {
				x.ex, err = r.Example()
			}
			x.err = err
			out = append(out, x)
		}
		return out, nil
	})
	if err != nil {
		return nil, err
	}
	return v.([]example), nil //nolint:forcetypeassert // made above
}

// rowJob is the work on one row of a processor's file.
type rowJob struct {
	env  *Env
	dir  string
	row  *pyjson.Object
	enc  *chat.Encoder
	proc *process.Processor
}

func (j *rowJob) int(key string) int {
	n, _ := j.row.Value(key).(int64)
	return int(n)
}

// open makes the processor that the row's args ask for.
func (j *rowJob) open() error {
	args, _ := j.row.Value("args").(*pyjson.Object)
	if args == nil { // rows of collators and of pt name what they need themselves
		args = pyjson.NewObject("cutoff_len", j.row.Value("cutoff_len"), "enable_thinking", true)
	}
	o := chat.Options{EnableThinking: boolOf(args.Value("enable_thinking"))}
	o.PreserveThinking, _ = args.Value("preserve_thinking").(bool)
	o.ToolFormat, _ = args.Value("tool_format").(string)
	if s, ok := args.Value("default_system").(string); ok {
		o.DefaultSystem = &s
	}
	var err error
	if j.enc, err = j.env.encoder(j.row, o); err != nil {
		return err
	}
	cutoff, _ := args.Value("cutoff_len").(int64)
	set := process.Settings{Cutoff: int(cutoff)}
	set.TrainOnPrompt, _ = args.Value("train_on_prompt").(bool)
	set.MaskHistory, _ = args.Value("mask_history").(bool)
	j.proc, err = process.New(j.enc, set)
	return err
}

// ids are the fields of special tokens that rows have.
func (j *rowJob) ids(keys ...hftok.Special) []Field {
	var out []Field
	for _, r := range keys {
		_, id := specialValues(j.enc.Tokenizer, r)
		out = append(out, Field{Key: string(r) + "_id", Value: id})
	}
	return out
}

// wanted are the examples that a row is about: those it lists, or those of its outputs, or all.
func (j *rowJob) wanted() ([]example, error) {
	all, err := j.env.examples(j.dir)
	if err != nil {
		return nil, err
	}
	var ids []int64
	list, listed := j.row.Value("examples").([]any)
	if !listed {
		var outputs []any
		if outputs, listed = j.row.Value("outputs").([]any); listed {
			for _, o := range outputs {
				x, _ := o.(*pyjson.Object)
				list = append(list, x.Value("example"))
			}
		}
	}
	for _, v := range list {
		id, _ := v.(int64)
		ids = append(ids, id)
	}
	if !listed {
		return all, nil
	}
	var out []example
	for _, id := range ids {
		i := slices.IndexFunc(all, func(x example) bool { return x.id == id })
		if i < 0 {
			return nil, errUnknown("example", fmt.Sprint(id))
		}
		out = append(out, all[i])
	}
	return out, nil
}

func commonOrder(more ...string) []string {
	return append([]string{"kind", "template", "tokenizer", "args", "bos_token_id", "eos_token_id", "pad_token_id"}, more...)
}

// outputs computes one output for each example: fields, or that it is dropped since it cannot be used.
func (j *rowJob) outputs(c Case, usable func(e *process.Example) bool, f func(e *process.Example) ([]any, error)) Case {
	if c.Err = j.open(); c.Err != nil {
		return c
	}
	list, err := j.wanted()
	if err != nil {
		c.Err = err
		return c
	}
	out := []any{}
	for _, x := range list {
		o := pyjson.NewObject("example", x.id)
		var pairs []any
		err := x.err
		switch {
		case x.dropped(usable):
			o.Set("dropped", true)
			err = nil
		case err == nil:
			pairs, err = f(x.ex)
		}
		if err != nil {
			pairs = nil
			o.Set("error", err.Error())
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			k, _ := pairs[i].(string)
			o.Set(k, pairs[i+1])
		}
		out = append(out, o)
	}
	j.sameErrors(out)
	c.Fields = append(j.ids(hftok.BOS, hftok.EOS, hftok.Pad), Field{Key: "outputs", Value: out})
	return c
}

// sameErrors takes over the text of expected errors where computing failed, too: their text is not compared.
func (j *rowJob) sameErrors(out []any) {
	want, _ := j.row.Value("outputs").([]any)
	for i := range min(len(want), len(out)) {
		w, _ := want[i].(*pyjson.Object)
		o, _ := out[i].(*pyjson.Object)
		if s, ok := w.Get("error"); ok && o.Value("error") != nil {
			o.Set("error", s)
		}
	}
}

func (j *rowJob) supervised() Case {
	c := j.outputs(Case{Order: commonOrder("efficient_eos", "outputs", "error"), Results: []string{"outputs"}}, (*process.Example).Supervised, func(e *process.Example) ([]any, error) {
		s, err := j.proc.Supervised(e)
		return []any{"input_ids", idValues(s.IDs), "labels", idValues(s.Labels)}, err
	})
	if c.Err == nil {
		c.Fields = append(c.Fields, Field{Key: "efficient_eos", Value: j.enc.Template.EfficientEOS})
	}
	return c
}

func (j *rowJob) unsupervised() Case {
	return j.outputs(Case{Order: commonOrder("outputs", "error"), Results: []string{"outputs"}}, (*process.Example).Prompted, func(e *process.Example) ([]any, error) {
		prompt, answer, err := j.proc.Unsupervised(e)
		return []any{"input_ids", idValues(prompt), "labels", idValues(answer)}, err
	})
}

func (j *rowJob) pairwise() Case {
	return j.outputs(Case{Order: commonOrder("outputs", "error"), Results: []string{"outputs"}}, (*process.Example).Pairs, func(e *process.Example) ([]any, error) {
		x, y, err := j.proc.Pairwise(e)
		return []any{"chosen_input_ids", idValues(x.IDs), "chosen_labels", idValues(x.Labels), "rejected_input_ids", idValues(y.IDs), "rejected_labels", idValues(y.Labels)}, err
	})
}

// idRows writes rows of ids.
func idRows(rows [][]int32) any {
	out := []any{}
	for _, r := range rows {
		out = append(out, idValues(r))
	}
	return out
}

func (j *rowJob) packed() Case {
	c := Case{Order: commonOrder("examples", "input_ids", "labels", "attention_mask", "position_ids", "packing_params", "error"), Results: []string{"input_ids"}}
	list, err := j.start(&c)
	if err != nil {
		return c
	}
	args, _ := j.row.Value("args").(*pyjson.Object)
	neat, _ := args.Value("neat_packing").(bool)
	cutoff, _ := args.Value("cutoff_len").(int64)
	var samples []process.Sample
	used := []any{}
	_, listed := j.row.Get("examples")
	for _, x := range list {
		if x.dropped((*process.Example).Supervised) {
			used = append(used, x.id) // given, but dropped
			continue
		}
		var s process.Sample
		err := x.err
		if err == nil {
			s, err = j.proc.Supervised(x.ex)
		}
		if err != nil {
			if listed {
				c.Err = err
				return c
			}
			continue // the reference packs the usable examples
		}
		used = append(used, x.id)
		samples = append(samples, s)
	}
	var cols [4][][]int32
	params := []any{}
	for _, p := range process.Pack(samples, int(cutoff), neat, j.enc.PadID()) {
		for i, v := range [][]int32{p.IDs, p.Labels, p.Attention, p.Positions} {
			cols[i] = append(cols[i], v)
		}
		// 2^32 stands for "no media" upstream.
		none := []any{int64(1) << 32}
		params = append(params, pyjson.NewObject("sequence_boundaries", anys(p.Bounds), "image_subseq_ids", none, "video_subseq_ids", none, "audio_subseq_ids", none,
			"right_padding_length", p.Padding))
	}
	c.Fields = append(j.ids(hftok.BOS, hftok.EOS, hftok.Pad), Field{Key: "examples", Value: used}, Field{Key: "input_ids", Value: idRows(cols[0])},
		Field{Key: "labels", Value: idRows(cols[1])}, Field{Key: "attention_mask", Value: idRows(cols[2])}, Field{Key: "position_ids", Value: idRows(cols[3])})
	if neat {
		c.Fields = append(c.Fields, Field{Key: "packing_params", Value: params})
	} else {
		c.Fields = append(c.Fields, Field{Key: "packing_params", Value: nil})
	}
	return c
}

// start opens the processor and finds the examples.
func (j *rowJob) start(c *Case) ([]example, error) {
	if c.Err = j.open(); c.Err != nil {
		return nil, c.Err
	}
	var list []example
	list, c.Err = j.wanted()
	return list, c.Err
}

func (j *rowJob) pretrain() Case {
	c := Case{Order: []string{"kind", "template", "tokenizer", "cutoff_len", "packing", "add_bos_token", "bos_token_id", "eos_token_id", "pad_token_id", "eos_text", "input_ids", "keys", "error"},
		Results: []string{"input_ids"}}
	if c.Err = j.open(); c.Err != nil {
		return c
	}
	f, err := j.env.ReadFile(j.dir + "/texts.jsonl")
	if err != nil {
		c.Err = err
		return c
	}
	var texts []string
	for i := range f.Rows {
		s, _ := f.Row(i).Value("text").(string)
		texts = append(texts, s)
	}
	packing, _ := j.row.Value("packing").(bool)
	var rows [][]int32
	for _, s := range j.proc.Pretrain(texts, packing) {
		rows = append(rows, s.IDs)
	}
	c.Fields = append(j.ids(hftok.BOS, hftok.EOS, hftok.Pad), Field{Key: "add_bos_token", Value: j.enc.Tokenizer.AddBOS()},
		Field{Key: "eos_text", Value: j.proc.TextEnd()}, Field{Key: "input_ids", Value: idRows(rows)}, Field{Key: "keys", Value: []any{"attention_mask", "input_ids"}})
	return c
}

func exampleValues(list []example) ([]process.Example, error) {
	out := make([]process.Example, len(list))
	for i, x := range list {
		if x.err != nil && !x.dropped((*process.Example).Pairs) {
			return nil, x.err
		}
		out[i] = *x.ex
	}
	return out, nil
}

// judged makes the KTO samples of the row's examples.
func (j *rowJob) judged(c *Case) []process.Judged {
	list, err := j.start(c)
	if err != nil {
		return nil
	}
	batch, err := exampleValues(list)
	if err != nil {
		c.Err = err
		return nil
	}
	var out []process.Judged
	out, _, c.Err = j.proc.KTO(batch)
	return out
}

func (j *rowJob) kto() Case {
	c := Case{Order: commonOrder("examples", "input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tags", "error"), Results: []string{"input_ids"}}
	samples := j.judged(&c)
	if c.Err != nil {
		return c
	}
	list, _ := j.wanted() // found before
	used := []any{}
	for _, x := range list {
		used = append(used, x.id)
	}
	var cols [4][][]int32
	tags := []any{}
	for _, s := range samples {
		for i, v := range [][]int32{s.Sample.IDs, s.Sample.Labels, s.KL.IDs, s.KL.Labels} {
			cols[i] = append(cols[i], v)
		}
		tags = append(tags, s.Desired)
	}
	c.Fields = append(j.ids(hftok.BOS, hftok.EOS, hftok.Pad), Field{Key: "examples", Value: used}, Field{Key: "input_ids", Value: idRows(cols[0])},
		Field{Key: "labels", Value: idRows(cols[1])}, Field{Key: "kl_input_ids", Value: idRows(cols[2])}, Field{Key: "kl_labels", Value: idRows(cols[3])},
		Field{Key: "kto_tags", Value: tags})
	return c
}

func (j *rowJob) inferSeqlen() Case {
	s, t := process.InferLengths(j.int("source_len"), j.int("target_len"), j.int("cutoff_len"))
	return Case{Order: []string{"kind", "source_len", "target_len", "cutoff_len", "result"}, Results: []string{"result"}, Fields: []Field{{Key: "result", Value: []any{s, t}}}}
}

func (j *rowJob) knapsack() Case {
	var numbers []int
	for _, n := range idsOf(j.row.Value("numbers")) {
		numbers = append(numbers, int(n))
	}
	return Case{Order: []string{"kind", "numbers", "capacity", "result"}, Results: []string{"result"},
		Fields: []Field{{Key: "result", Value: sacks(numbers, j.int("capacity"))}}}
}

// sacks are the lengths in each sack.
func sacks(numbers []int, capacity int) any {
	out := []any{}
	for _, sack := range process.Knapsack(numbers, capacity) {
		var lengths []any
		for _, i := range sack {
			lengths = append(lengths, numbers[i])
		}
		out = append(out, lengths)
	}
	return out
}
