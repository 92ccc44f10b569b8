package config

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// prep makes the preparation of all data sets.
func (b *factoryBuilder) prep(ctx context.Context) (*schemas.PrepStage, error) {
	v := b.v
	f := &schemas.FactorySpec{Stage: v.text("stage"), EvalOnEach: v.truth("eval_on_each_dataset"), Mix: v.text("mix_strategy"), MaxSamples: v.whole("max_samples"),
		ValSize: v.number("val_size"), BatchSize: v.whole("preprocessing_batch_size"), Workers: v.whole("preprocessing_num_workers"), TrainOnPrompt: v.truth("train_on_prompt"),
		MaskHistory: v.truth("mask_history"), ToolFormat: v.text("tool_format"), PreserveThinking: v.truth("preserve_thinking"), OnBadRow: v.text("on_bad_row")}
	for _, s := range v.list("interleave_probs") {
		var p float64
		if _, err := fmt.Sscan(s, &p); err != nil || p < 0 {
			v.bad("interleave_probs", "%q is no share", s)
		}
		f.Probs = append(f.Probs, p)
	}
	f.DefaultSystem, f.EnableThinking = v.system(), v.thinking()
	if v.truth("streaming") {
		f.Buffer = v.whole("buffer_size")
		world, err := b.world()
		if err != nil {
			return nil, err
		}
		if v.truth("do_train") {
			f.Use = &schemas.StreamUse{Steps: int64(v.number("max_steps")), Leaves: v.whole("gradient_accumulation_steps") * world.Nominal, Micro: v.whole("per_device_train_batch_size")}
		}
	}
	if f.Save = v.savesTokens(b.c.resolve(b.path(v.text("tokenized_path")))); f.Save {
		b.saved = b.c.resolve(b.path(v.text("tokenized_path")))
		b.notes = append(b.notes, "tokenized data are written to "+b.saved+" when the run has succeeded; the next run reads them there")
	} else if v.given("tokenized_path") {
		if err := b.tokenized(ctx, f); err != nil {
			return nil, err
		}
		return &schemas.PrepStage{Factory: f, Tokenizer: b.tokenizer, Outputs: b.outputs(f), Parts: 1}, nil
	}
	find, err := b.finder(ctx)
	if err != nil {
		return nil, err
	}
	var draws []int
	twice := false
	for _, x := range []struct {
		key string
		out *[]schemas.DataSet
	}{{"dataset", &f.Train}, {"eval_dataset", &f.Eval}} {
		sets, order, err := b.sets(ctx, x.key, find, f.Buffer > 0)
		if err != nil {
			return nil, err
		}
		for _, k := range order {
			draws = append(draws, len(f.Train)+k) // Train is empty yet, or all of it
		}
		twice = twice || len(order) > len(sets)
		*x.out = sets
	}
	draw := func(s schemas.DataSet) bool { return s.NumSamples > 0 }
	if twice && slices.ContainsFunc(slices.Concat(f.Train, f.Eval), draw) {
		f.Draws = draws
	}
	q, err := b.curation(ctx)
	if err != nil {
		return nil, err
	}
	p := &schemas.PrepStage{Factory: f, Tokenizer: b.tokenizer, Outputs: b.outputs(f), Parts: parts(f)}
	q.apply(p, true)
	return p, nil
}

// sets are the data sets that a key names, and the places among them of all names in their order. One that is named twice is there once, as it
// is upstream.
func (b *factoryBuilder) sets(ctx context.Context, key string, find func(context.Context, string) (*schemas.DataSet, error), stream bool) (out []schemas.DataSet, order []int, err error) {
	seen := map[string]int{}
	for _, name := range b.v.list(key) {
		set, err := find(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if k, ok := seen[name]; ok {
			order = append(order, k)
			b.notes = append(b.notes, fmt.Sprintf("%s names %s twice; it is used once", key, name))
			continue
		}
		seen[name] = len(out)
		order = append(order, len(out))
		if stream {
			// A hub's data set is streamed file by file; local files are read to one data set first, which is streamed then.
			set.Sharded = remote.IsHub(set.Data.Origin) && len(set.Data.Files) > 1
			set.NumSamples = 0 // upstream takes no samples of streams
			if set.Split != "" && remote.IsHub(set.Data.Origin) {
				return nil, nil, schemas.Errorf(schemas.CodeUnsupported, set.Name, "split %q: datasets takes no parts of a hub's stream", set.Split)
			}
		}
		out = append(out, *set)
	}
	return out, order, nil
}

// partBytes is how much data one message of the preparation stands for: what is done again when a worker is lost.
const (
	partBytes = 64 << 20
	maxParts  = 256
)

// parts is the number of messages of the preparation. What training takes of a stream, pass after pass, is one.
func parts(f *schemas.FactorySpec) int {
	if f.Buffer > 0 && f.Use != nil {
		return 1
	}
	var total int64
	for _, sets := range [][]schemas.DataSet{f.Train, f.Eval} {
		for _, s := range sets {
			for _, file := range s.Data.Files {
				total += file.Bytes
			}
		}
	}
	return int(min(maxParts, 1+total/partBytes))
}

// outputs are the token data sets: the training set, and one or several to evaluate on.
func (b *factoryBuilder) outputs(f *schemas.FactorySpec) []schemas.PrepOutput {
	v := b.v
	o := schemas.PrepOutput{Form: map[string]string{"pt": "pt", "sft": "sft", "rm": "pairwise", "ppo": "predict", "dpo": "pairwise", "kto": "kto"}[f.Stage], Template: b.template, CutoffLen: v.whole("cutoff_len")}
	o.Neat = v.truth("neat_packing")
	// Packing that is asked for takes a token less, which upstream keeps free; what it does by itself for pt does not.
	asked := v.truth("packing") || o.Neat
	o.Packing = asked || f.Stage == "pt" && !v.given("packing")
	if asked {
		o.CutoffLen--
	}
	var out []schemas.PrepOutput
	add := func(name, split string) {
		o.Name, o.Split = name, split
		out = append(out, o)
	}
	if v.truth("do_train") {
		add("train", "train")
	}
	held := f.ValSize > 0 || len(f.Eval) > 0
	predict := v.generates()
	if !held || !v.doEval() && !predict {
		return out
	}
	if predict {
		o.Form, o.Packing, o.Neat = "predict", false, false
	}
	if f.EvalOnEach && len(f.Eval) > 0 {
		for i := range f.Eval {
			add(fmt.Sprintf("eval-%d", i), fmt.Sprintf("eval-%d", i))
		}
		return out
	}
	add("eval", "eval")
	return out
}

// finder looks data sets up in dataset_info.json, in an inline description, or, with ONLINE, on a hub.
func (b *factoryBuilder) finder(ctx context.Context) (func(ctx context.Context, name string) (*schemas.DataSet, error), error) {
	v := b.v
	n := v.node("dataset_dir")
	if n != nil && n.isMap {
		entries := map[string]json.RawMessage{}
		for k, e := range n.values {
			raw, err := json.Marshal(plain(e))
			if err != nil {
				return nil, schemas.Errorf(schemas.CodeInvalid, "dataset_dir."+k, "cannot be read: %v", err)
			}
			entries[k] = raw
		}
		raw, err := json.Marshal(entries)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, "dataset_dir", "cannot be read: %v", err)
		}
		info, err := source.ParseInfo("dataset_dir", raw)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, name string) (*schemas.DataSet, error) {
			return b.dataSet(ctx, info, ".", name)
		}, nil
	}
	dir := v.text("dataset_dir")
	if dir == "ONLINE" {
		return func(ctx context.Context, name string) (*schemas.DataSet, error) {
			return b.fromHub(ctx, name, plainEntry(name))
		}, nil
	}
	if repo, ok := strings.CutPrefix(dir, "REMOTE:"); ok {
		f, err := b.c.fetcher()
		if err != nil {
			return nil, err
		}
		found, err := f.Data(ctx, remote.DataQuery{Address: "hf://" + repo + "/" + source.InfoName})
		if err != nil {
			return nil, err
		}
		dir = found.Dir
		b.notes = append(b.notes, "data sets by "+found.Origin)
	}
	dir = b.path(dir)
	local := b.c.resolve(dir)
	raw, err := readLimited(filepath.Join(local, source.InfoName), source.MaxInfoBytes)
	if os.IsNotExist(err) {
		return nil, schemas.Errorf(schemas.CodeNotFound, filepath.Join(local, source.InfoName), "no such file").WithHint("dataset_dir names the folder that holds it")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, local, "cannot read %s: %v", source.InfoName, err)
	}
	info, err := source.ParseInfo(filepath.Join(local, source.InfoName), raw)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, name string) (*schemas.DataSet, error) {
		return b.dataSet(ctx, info, dir, name)
	}, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// dataSet finds one data set's files.
func (b *factoryBuilder) dataSet(ctx context.Context, info *source.Info, dir, name string) (*schemas.DataSet, error) {
	if remote.IsAddress(name) {
		return b.fromHub(ctx, name, plainEntry(name))
	}
	e, err := info.Entry(name)
	if err != nil {
		return nil, err
	}
	if e.Remote() {
		return b.fromHub(ctx, name, e)
	}
	if parts, err := source.ParseSlices(e.Split); err != nil {
		return nil, err
	} else if split, one := parts.Name(); !one || split != "train" {
		return nil, schemas.Errorf(schemas.CodeInvalid, name, "split %q: the files are of the split train", e.Split)
	}
	base, files, err := source.Locate(b.c.resolve(dir), e.File)
	if err != nil {
		return nil, err
	}
	return b.set(ctx, e, base, files)
}

// plainEntry describes a data set that dataset_info.json does not: alpaca's columns.
func plainEntry(name string) *source.Entry {
	e := source.DefaultEntry(name)
	e.HFHub, e.MSHub = name, name
	return e
}

// fromHub fetches a data set of a hub or of another server.
func (b *factoryBuilder) fromHub(ctx context.Context, name string, e *source.Entry) (*schemas.DataSet, error) {
	f, err := b.c.fetcher()
	if err != nil {
		return nil, err
	}
	q, err := remote.QueryOf(e, b.c.hub(f) == "ms")
	if err != nil {
		return nil, err
	}
	found, err := f.Data(ctx, q)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, x := range found.Files {
		files = append(files, x.Path)
	}
	b.notes = append(b.notes, fmt.Sprintf("data set %s: %s", name, found.Origin))
	set, err := b.set(ctx, e, found.Dir, files)
	if err == nil {
		set.Data.Origin = found.Origin
	}
	return set, err
}

// set collects the files of a data set.
func (b *factoryBuilder) set(ctx context.Context, e *source.Entry, base string, files []string) (*schemas.DataSet, error) {
	set := &schemas.DataSet{Name: e.Name, Formatting: e.Formatting, Ranking: e.Ranking, Columns: e.Columns, Tags: e.Tags, NumSamples: e.NumSamples}
	parts, err := source.ParseSlices(e.Split)
	if err != nil {
		return nil, err
	}
	if e.Cloud == "" && !parts.Whole() { // upstream takes a cloud file's split for its name
		set.Split = e.Split
	}
	for _, f := range files {
		file, err := b.c.add(ctx, filepath.Join(base, filepath.FromSlash(f)), f)
		if err != nil {
			return nil, err
		}
		set.Data.Files = append(set.Data.Files, file)
	}
	if format := source.FormatOf(files[0]); format == "" {
		return nil, schemas.Errorf(schemas.CodeData, files[0], "the file's name does not say its format").WithHint("known endings: .%s", strings.Join(source.Formats(), ", ."))
	}
	return set, nil
}
