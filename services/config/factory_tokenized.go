package config

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// tokenized finds the data of tokenized_path: what LLaMA-Factory tokenized and saved (datasets' save_to_disk), a folder for each split. As
// upstream it takes the place of all other data.
func (b *factoryBuilder) tokenized(ctx context.Context, f *schemas.FactorySpec) error {
	folder := b.c.resolve(b.path(b.v.text("tokenized_path")))
	fail := func(code schemas.Code, place, format string, args ...any) error {
		return schemas.Errorf(code, place, format, args...).WithHint("tokenized_path is a folder that LLaMA-Factory has saved; without the key data are prepared, and found again by their content")
	}
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return fail(schemas.CodeNotFound, folder, "there is no such folder")
	}
	var splits struct {
		Splits []string `json:"splits"`
	}
	if err := readJSON(filepath.Join(folder, "dataset_dict.json"), &splits); err != nil {
		return fail(schemas.CodeData, folder, "holds no saved data set with splits: %v", err)
	}
	f.Tokenized, f.ValSize, f.MaxSamples, f.Mix, f.Probs = true, 0, 0, "concat", nil
	for _, split := range splits.Splits {
		set, err := b.savedSplit(ctx, folder, split)
		if err != nil {
			return err
		}
		set.Ranking = f.Stage == "rm" || f.Stage == "dpo"
		name, each := strings.CutPrefix(split, "validation_")
		switch {
		case split == "train":
			f.Train = append(f.Train, *set)
		case split == "validation":
			f.Eval, f.EvalOnEach = append(f.Eval, *set), false
		case each:
			set.Name, f.EvalOnEach = name, true
			f.Eval = append(f.Eval, *set)
		}
	}
	if b.v.truth("do_train") && len(f.Train) == 0 {
		return fail(schemas.CodeData, folder, "has no split to train on (train)")
	}
	if (b.v.doEval() || b.v.truth("do_predict")) && len(f.Eval) == 0 {
		return fail(schemas.CodeData, folder, "has no split to evaluate on (validation)")
	}
	return nil
}

// savesTokens says that tokenized_path names a folder that holds nothing yet: data are prepared as ever, and saved there.
func (v *factoryValues) savesTokens(folder string) bool {
	if !v.given("tokenized_path") {
		return false
	}
	if list, err := os.ReadDir(folder); err == nil && len(list) > 0 || err != nil && !os.IsNotExist(err) {
		return false
	}
	return true
}

// savedSplit is the Arrow files of a split, in order.
func (b *factoryBuilder) savedSplit(ctx context.Context, folder, split string) (*schemas.DataSet, error) {
	if split != filepath.Base(split) || split == ".." {
		return nil, schemas.Errorf(schemas.CodeData, folder, "names a split %q outside of it", split)
	}
	var state struct {
		Files []struct {
			Name string `json:"filename"`
		} `json:"_data_files"`
	}
	dir := filepath.Join(folder, split)
	if err := readJSON(filepath.Join(dir, "state.json"), &state); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, dir, "is no saved split: %v", err)
	}
	e := source.DefaultEntry(split)
	set := &schemas.DataSet{Name: split, Format: "arrow", Formatting: e.Formatting, Columns: e.Columns, Tags: e.Tags}
	for _, f := range state.Files {
		if f.Name != filepath.Base(f.Name) || f.Name == ".." {
			return nil, schemas.Errorf(schemas.CodeData, dir, "names a file %q outside of it", f.Name)
		}
		file, err := b.c.add(ctx, filepath.Join(dir, f.Name), f.Name)
		if err != nil {
			return nil, err
		}
		set.Data.Files = append(set.Data.Files, file)
	}
	if len(set.Data.Files) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, dir, "names no files")
	}
	return set, nil
}

// maxSavedBytes bounds the descriptions of a saved data set.
const maxSavedBytes = 16 << 20

func readJSON(path string, into any) error {
	raw, err := readLimited(path, maxSavedBytes)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
