package schemas

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// DataSet is one data set in LLaMA-Factory's terms: files, their format, and which column or tag plays which role.
type DataSet struct {
	// Name is what dataset_info.json calls it.
	Name string `json:"name"`
	// Data holds the files, all of one format, in order.
	Data Ref `json:"data"`
	// Format is json, jsonl, csv, tsv, txt, parquet or arrow; empty: by file name. Encoding is utf-8, utf-16le, utf-16be or gb18030; empty: found out.
	Format   string `json:"format,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	// Sharded says that each file is a shard of its own in a stream (FactorySpec.Buffer), as a hub's data sets are: shards come in a drawn order.
	Sharded bool `json:"sharded,omitempty"`
	// Formatting is alpaca, sharegpt or openai.
	Formatting string `json:"formatting" jsonschema:"enum=alpaca,enum=sharegpt,enum=openai"`
	// Ranking says that rows hold a chosen and a rejected answer.
	Ranking bool `json:"ranking,omitempty"`
	// Columns and Tags map roles (prompt, messages, ...; role_tag, user_tag, ...) to names. A role that is not there has no column: the
	// defaults were filled in by whoever read dataset_info.json.
	Columns map[string]string `json:"columns"`
	Tags    map[string]string `json:"tags"`
	// NumSamples, when positive, draws that many rows (with repetition when there are fewer).
	NumSamples int `json:"num_samples,omitempty"`
	// Split, when not empty, chooses parts of the rows before anything else does: "train[:10%]+train[-5:]", as datasets writes it.
	Split string `json:"split,omitempty"`
}

// FactorySpec is the data preparation of a LLaMA-Factory configuration: its orders, splits and batches, exactly. With it a prep stage has
// the outputs "train", and "eval" or "eval-<number>" for each of several evaluation sets; its Data, Columns, Clean and Split are unused.
type FactorySpec struct {
	// Stage is pt, sft, rm, dpo or kto.
	Stage string    `json:"stage" jsonschema:"enum=pt,enum=sft,enum=rm,enum=dpo,enum=kto"`
	Train []DataSet `json:"train,omitempty"`
	Eval  []DataSet `json:"eval,omitempty"`
	// Draws, when not empty, is the order in which the sets (those of Train, then of Eval, from 0) draw their NumSamples: a set that is named
	// twice draws twice, and keeps what it drew last.
	Draws []int `json:"draws,omitempty"`
	// EvalOnEach measures each evaluation set by itself.
	EvalOnEach bool `json:"eval_on_each,omitempty"`
	// Mix is concat, interleave_under, interleave_over or interleave_once; Probs are the shares of the interleaved sets.
	Mix   string    `json:"mix,omitempty"`
	Probs []float64 `json:"probs,omitempty"`
	// MaxSamples keeps the first rows of each set (0: all); ValSize is a share below 1 or a number of rows above.
	MaxSamples int     `json:"max_samples,omitempty"`
	ValSize    float64 `json:"val_size,omitempty"`
	// BatchSize and Workers are those of the preprocessing: packing, blocks of text and KTO's pairs are made within a batch of a worker.
	BatchSize int `json:"batch_size,omitempty"`
	Workers   int `json:"workers,omitempty"`
	// Buffer, when positive, orders rows as LLaMA-Factory's streaming does: through a shuffle buffer of so many rows. ValSize is a number of
	// rows then, the first of the stream.
	Buffer int `json:"buffer,omitempty"`
	// Use, with Buffer, is what training takes of the stream: its passes, each in an order of its own, are prepared until it is there. nil: one
	// pass.
	Use *StreamUse `json:"use,omitempty"`
	// Tokenized says that the rows are tokenized already, as LLaMA-Factory saves them (tokenized_path).
	Tokenized bool `json:"tokenized,omitempty"`
	// Save also writes what was tokenized among the run's outputs, in the form that LLaMA-Factory saves and Tokenized reads.
	Save bool `json:"save,omitempty"`
	// TrainOnPrompt and MaskHistory choose labels, see LLaMA-Factory.
	TrainOnPrompt bool `json:"train_on_prompt,omitempty"`
	MaskHistory   bool `json:"mask_history,omitempty"`
	// DefaultSystem, ToolFormat, EnableThinking (nil: neither) and PreserveThinking change the template.
	DefaultSystem    *string `json:"default_system,omitempty"`
	ToolFormat       string  `json:"tool_format,omitempty"`
	EnableThinking   *bool   `json:"enable_thinking,omitempty"`
	PreserveThinking bool    `json:"preserve_thinking,omitempty"`
	// Date is the day of submission as YYYY-MM-DD, which some prompts tell; a part that is repeated on another day has the same bytes.
	Date string `json:"date,omitempty"`
	// OnBadRow is fail, skip or quarantine; default fail.
	OnBadRow string `json:"on_bad_row,omitempty" jsonschema:"enum=,enum=fail,enum=skip,enum=quarantine"`
}

// StreamUse is how many steps are made of a stream, of so many leaves of so many samples.
type StreamUse struct {
	Steps  int64 `json:"steps"`
	Leaves int   `json:"leaves"`
	Micro  int   `json:"micro"`
}

// WithDefaults fills mix, batch size and workers.
func (f *FactorySpec) WithDefaults() *FactorySpec {
	if f.Mix == "" {
		f.Mix = "concat"
	}
	if f.BatchSize == 0 {
		f.BatchSize = 1000
	}
	f.Workers = max(1, f.Workers)
	if f.OnBadRow == "" {
		f.OnBadRow = "fail"
	}
	return f
}

// Day is Date, now when there is none.
func (f *FactorySpec) Day(now time.Time) time.Time {
	if f != nil {
		if t, err := time.Parse(time.DateOnly, f.Date); err == nil {
			return t
		}
	}
	return now
}

// FreezeDate writes the day of submission into the preparations, and the stages of multiple choice, that have none.
func (s *RunSpec) FreezeDate(now time.Time) {
	for i := range s.Stages {
		if p := s.Stages[i].Prep; p != nil && p.Factory != nil && p.Factory.Date == "" {
			p.Factory.Date = now.Format(time.DateOnly)
		}
		if e := s.Stages[i].Eval; e != nil && e.Choice != nil && e.Choice.Date == "" {
			e.Choice.Date = now.Format(time.DateOnly)
		}
	}
}

// factory checks the LLaMA-Factory part of a prep stage.
func (p *problems) factory(f *FactorySpec, at string) {
	p.check(slices.Contains([]string{"pt", "sft", "rm", "ppo", "dpo", "kto"}, f.Stage), at+".stage", "%q is unknown (pt, sft, rm, ppo, dpo, kto)", f.Stage)
	p.check(slices.Contains([]string{"concat", "interleave_under", "interleave_over", "interleave_once"}, f.Mix), at+".mix",
		"%q is unknown (concat, interleave_under, interleave_over, interleave_once)", f.Mix)
	p.check(f.Buffer >= 0 && f.Buffer < 1<<31, at+".buffer", "%d is not between 0 and 2^31", f.Buffer)
	p.check(f.Buffer == 0 || f.Mix != "interleave_once" && f.MaxSamples == 0 && f.Workers == 1 && f.ValSize == float64(int(f.ValSize)), at+".buffer",
		"streams are whole, prepared by one worker, mixed by another strategy than interleave_once, and val_size is a number of rows")
	if u := f.Use; u != nil {
		p.check(f.Buffer > 0 && u.Steps > 0 && u.Leaves > 0 && u.Micro > 0, at+".use", "is of streams (buffer), with steps, leaves and micro above 0")
	}
	_, derr := time.Parse(time.DateOnly, f.Date)
	p.check(f.Date == "" || derr == nil, at+".date", "%q is no date (YYYY-MM-DD)", f.Date)
	p.check(slices.Contains([]string{"fail", "skip", "quarantine"}, f.OnBadRow), at+".on_bad_row", "%q is unknown (fail, skip, quarantine)", f.OnBadRow)
	p.check(len(f.Train)+len(f.Eval) > 0, at, "names no data set")
	p.check(f.MaxSamples >= 0, at+".max_samples", "is %d, must not be negative", f.MaxSamples)
	p.check(finite(f.ValSize) && f.ValSize >= 0 && (f.ValSize != 1 || f.Buffer > 0), at+".val_size", "is %g: a share below 1 or a number of rows above it", f.ValSize)
	p.check(f.ValSize == 0 || len(f.Eval) == 0, at+".val_size", "cannot be given together with evaluation sets")
	p.check(f.BatchSize >= 1 && f.Workers >= 1 && f.Workers <= 1024, at+".batch_size", "batch size %d and workers %d must be positive", f.BatchSize, f.Workers)
	p.check(len(f.Probs) == 0 || len(f.Probs) == len(f.Train), at+".probs", "has %d shares for %d data sets", len(f.Probs), len(f.Train))
	p.check(!f.TrainOnPrompt || !f.MaskHistory, at+".mask_history", "cannot be combined with train_on_prompt")
	for i, k := range f.Draws {
		p.check(k >= 0 && k < len(f.Train)+len(f.Eval), fmt.Sprintf("%s.draws[%d]", at, i), "there is no data set %d", k)
	}
	ranked := f.Stage == "rm" || f.Stage == "dpo"
	for side, sets := range map[string][]DataSet{"train": f.Train, "eval": f.Eval} {
		for i, s := range sets {
			sp := fmt.Sprintf("%s.%s[%d]", at, side, i)
			p.ref(s.Data, sp+".data")
			p.check(slices.Contains([]string{"alpaca", "sharegpt", "openai"}, s.Formatting), sp+".formatting", "%q is unknown (alpaca, sharegpt, openai)", s.Formatting)
			p.check(s.Ranking == ranked, sp+".ranking", "data set %q has ranking: %t, which stage %s cannot train on", s.Name, s.Ranking, f.Stage)
			p.check(s.NumSamples >= 0, sp+".num_samples", "is %d, must not be negative", s.NumSamples)
		}
	}
}

// EvalSet is an evaluation set with a name of its own: its loss is eval_<name>_loss.
type EvalSet struct {
	Name string `json:"name"`
	// Data is "<prep stage>/<output>".
	Data string `json:"data"`
}

// SampleOrder deals samples as transformers' Trainer with accelerate does.
type SampleOrder struct {
	// Kind is "torch": an epoch's order is torch.randperm(n) seeded with Seed + epoch; "torch_global": it is drawn from the one generator that
	// the trainer seeds with Seed at its start, as where samples are grouped by length; or "sequential".
	Kind string `json:"kind" jsonschema:"enum=torch,enum=torch_global,enum=sequential"`
	Seed uint64 `json:"seed"`
	// Deal is the number of devices that micro-batches are dealt to in turn: when they do not come out even, the epoch's last turn is
	// filled with samples from its beginning. The world size that trains does not matter.
	Deal int `json:"deal,omitempty"`
	// DropLast leaves an epoch's short last micro-batch out.
	DropLast bool `json:"drop_last,omitempty"`
	// Stream takes samples as transformers' Trainer takes a stream whose length it does not know: micro-batches that are left at the end of a
	// pass make no step, their gradients are added to the next pass's first step, divided by their own labels.
	Stream bool `json:"stream,omitempty"`
}

// InitialDraw draws the initial values of new parameters.
type InitialDraw struct {
	// Kind is "torch": the numbers that PEFT and TRL draw after torch.manual_seed(Seed), in the order of modules.
	Kind string `json:"kind" jsonschema:"enum=torch"`
	Seed uint64 `json:"seed"`
}

// order checks how samples are dealt and evaluated, and how new parameters are drawn.
func (p *problems) order(st *Stage, t *TrainStage, at string, before map[string]*Stage) {
	if i := t.Init; i != nil {
		p.check(i.Kind == "torch", at+".init.kind", "%q is unknown (torch)", i.Kind)
	}
	if o := t.Order; o != nil {
		p.check(!o.Stream || o.Kind == "sequential" && t.Steps > 0, at+".order.stream", "needs the kind sequential and a number of steps")
		p.check(slices.Contains([]string{"torch", "torch_global", "sequential"}, o.Kind), at+".order.kind", "%q is unknown (torch, torch_global, sequential)", o.Kind)
		p.check(o.Deal >= 0 && o.Deal <= maxWorld && t.Leaves%max(1, o.Deal) == 0, at+".order.deal", "is %d: the %d leaves of a step must be a multiple of it", o.Deal, t.Leaves)
	}
	p.check(!t.EvalOnStart && !t.EvalOnly || t.Eval != "" || len(t.Evals) > 0, at+".eval", "eval_on_start and eval_only need data to evaluate on")
	seen := map[string]bool{}
	for i, e := range t.Evals {
		ep := fmt.Sprintf("%s.evals[%d]", at, i)
		p.data(st, e.Data, ep+".data", before)
		p.check(e.Name != "" && !seen[e.Name], ep+".name", "%q is empty or appears twice", e.Name)
		seen[e.Name] = true
	}
	p.check(t.EvalBatch >= 0 && t.EvalBatch <= 1<<16, at+".eval_batch", "is %d, must be 1 to 65536", t.EvalBatch)
	p.check(slices.Contains([]string{"", "tokens", "batches", "rows"}, t.EvalReduce), at+".eval_reduce", "%q is unknown (tokens, batches, rows)", t.EvalReduce)
}

// output checks form and split of a prep output.
func (p *problems) output(s *PrepStage, o *PrepOutput, at string) {
	forms, splits := []string{"pt", "sft"}, []string{"train", "eval", "test"}
	if f := s.Factory; f != nil {
		forms, splits = []string{"pt", "sft", "pairwise", "kto", "predict"}, []string{"train", "eval"}
		for i := range f.Eval {
			splits = append(splits, fmt.Sprintf("eval-%d", i))
		}
	}
	p.check(slices.Contains(forms, o.Form), at+".form", "%q is unknown (%s)", o.Form, strings.Join(forms, ", "))
	p.check(slices.Contains(splits, o.Split), at+".split", "%q is unknown (%s)", o.Split, strings.Join(splits, ", "))
}
