package verifye2e_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/schemas"
)

// loadingCase is a line of testdata/loading/cases.jsonl: files and configuration, and the rows that LLaMA-Factory made of them.
type loadingCase struct {
	Seed  int
	YAML  map[string]any `json:"yaml"`
	Files map[string]json.RawMessage
	Pad   int32
	Train []loadedRow
	Evals map[string][]loadedRow
	Error string
}

// loadedRow is a row as one of LLaMA-Factory's processors makes it; which columns it has depends on the processor.
type loadedRow struct {
	IDs            []int32 `json:"input_ids"`
	Labels         []int32 `json:"labels"`
	Mask           []int32 `json:"attention_mask"`
	Positions      []int32 `json:"position_ids"`
	ChosenIDs      []int32 `json:"chosen_input_ids"`
	ChosenLabels   []int32 `json:"chosen_labels"`
	RejectedIDs    []int32 `json:"rejected_input_ids"`
	RejectedLabels []int32 `json:"rejected_labels"`
	KLIDs          []int32 `json:"kl_input_ids"`
	KLLabels       []int32 `json:"kl_labels"`
	Desired        *bool   `json:"kto_tags"`
}

// TestLoadingAsLLaMAFactory loads random data sets by random configurations and compares every row with those of LLaMA-Factory's get_dataset.
// TUNEFLEET_LOADING_CASES names another file of cases (testdata/loading/make.py).
func TestLoadingAsLLaMAFactory(t *testing.T) {
	models, file := fixtures(t), "testdata/loading/cases.jsonl"
	if f := os.Getenv("TUNEFLEET_LOADING_CASES"); f != "" {
		file = f
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 64<<20)
	compared := 0
	for sc.Scan() {
		var c loadingCase
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprint("seed", c.Seed), func(t *testing.T) { compared += c.check(t, models) })
	}
	if err := sc.Err(); err != nil || compared < 100 {
		t.Errorf("%d rows compared, %v", compared, err)
	}
}

// check loads a case and compares its rows; it returns how many.
func (c *loadingCase) check(t *testing.T, models string) int {
	t.Helper()
	run, err := c.load(t, models)
	if c.Error != "" {
		if err == nil && !c.lenient() {
			t.Errorf("loaded, LLaMA-Factory does not: %s", c.Error)
		}
		return 0
	}
	if err != nil {
		t.Errorf("cannot load: %v", err)
		return 0
	}
	st, err := run.Spec().StageOf("prep")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range st.Prep.Outputs {
		o := &st.Prep.Outputs[i]
		want := c.Train
		if o.Name != "train" {
			want = c.eval(o.Name, st.Prep.Factory)
		}
		if err := c.compare(t, run, st, o, want); err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
		n += len(want)
	}
	if held := len(c.Evals); len(st.Prep.Outputs) != held+1 {
		t.Errorf("%d outputs for training and %d evaluations", len(st.Prep.Outputs), held)
	}
	return n
}

// lenient reports whether the error is one that need not be raised: of rows that a stream or a mixture does not reach, and of Arrow, which does not join
// a column that holds nothing in one data set with one of text, or a mixture that only newer versions of datasets know.
func (c *loadingCase) lenient() bool {
	if mix, _ := c.YAML["mix_strategy"].(string); c.YAML["streaming"] == true || strings.HasPrefix(mix, "interleave") {
		return true
	}
	for _, s := range []string{"ValueError: The features can't be aligned", "ValueError: Schema and number of arrays unequal", "TypeError: Couldn't cast array of type", "ValueError: all_exhausted_without_replacement"} {
		if strings.HasPrefix(c.Error, s) {
			return true
		}
	}
	return false
}

// load writes the files, and runs the preparation.
func (c *loadingCase) load(t *testing.T, models string) (*localrun.Run, error) {
	t.Helper()
	dir, o := t.TempDir(), options()
	for name, raw := range c.Files {
		write(t, dir, name, fileBytes(t, raw))
	}
	y := maps.Clone(c.YAML)
	for _, k := range []string{"model_name_or_path"} {
		if m, ok := y[k].(string); ok {
			y[k] = filepath.Join(models, m)
		}
	}
	y["dataset_dir"], y["output_dir"], y["report_to"] = dir, filepath.Join(dir, "out"), "none"
	b, err := json.Marshal(y)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "train.json", b)
	spec, inputs, err := o.Load(t.Context(), filepath.Join(dir, "train.json"), nil)
	if err != nil {
		return nil, err
	}
	for i := range spec.Stages {
		if p := spec.Stages[i].Prep; p != nil {
			p.Factory.Date = "2025-01-02" // which make.py tells LLaMA-Factory
		}
	}
	run, err := localrun.New(t.Context(), localrun.Config{Spec: spec, Inputs: inputs, Handlers: o.Handlers, Dir: dir, Threads: 1})
	if err != nil {
		return nil, err
	}
	return run, run.Stage(t.Context(), "prep")
}

func fileBytes(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return []byte(s)
	}
	var x struct{ Base64 string }
	if err := json.Unmarshal(raw, &x); err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(x.Base64)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// eval is what an output for evaluation must hold.
func (c *loadingCase) eval(name string, f *schemas.FactorySpec) []loadedRow {
	var i int
	if _, err := fmt.Sscanf(name, "eval-%d", &i); err == nil && i < len(f.Eval) {
		return c.Evals[f.Eval[i].Name]
	}
	return c.Evals[""]
}

// compare compares the sequences of an output with rows. Of a stream only as many are prepared as training takes.
func (c *loadingCase) compare(t *testing.T, run *localrun.Run, st *schemas.Stage, o *schemas.PrepOutput, rows []loadedRow) error {
	t.Helper()
	d, err := data.OpenDataset(t.Context(), run.Objects(), run.Spec(), "prep/"+o.Name, t.TempDir())
	if err != nil {
		return err
	}
	defer d.Close()
	var want []data.Sequence
	for i := range rows {
		want = append(want, rows[i].sequences(o, c.Pad)...)
	}
	n := d.Len()
	if st.Prep.Factory.Buffer == 0 && n != len(want) || n == 0 {
		return fmt.Errorf("%d sequences, not %d", n, len(want))
	}
	for i := range min(n, len(want)) {
		got, err := d.Sequence(t.Context(), i)
		if err != nil {
			return err
		}
		if o.Packing && o.Form == "sft" {
			err = rows[i].packed(got, c.Pad, o.Neat)
		} else if !slices.Equal(got.IDs, want[i].IDs) || !slices.Equal(got.Labels, want[i].Labels) || got.Tag != want[i].Tag {
			err = fmt.Errorf("is\n%v %v %d, not\n%v %v %d", got.IDs, got.Labels, got.Tag, want[i].IDs, want[i].Labels, want[i].Tag)
		}
		if err != nil {
			return fmt.Errorf("sequence %d of %d %w", i, n, err)
		}
	}
	return nil
}

// sequences are what is stored of a row.
func (r *loadedRow) sequences(o *schemas.PrepOutput, pad int32) []data.Sequence {
	switch o.Form {
	case "pt":
		return []data.Sequence{{IDs: r.IDs, Labels: r.IDs}}
	case "pairwise":
		return []data.Sequence{{IDs: r.ChosenIDs, Labels: r.ChosenLabels}, {IDs: r.RejectedIDs, Labels: r.RejectedLabels}}
	case "kto":
		s := []data.Sequence{{IDs: r.IDs, Labels: r.Labels}, {IDs: r.KLIDs, Labels: r.KLLabels}}
		if *r.Desired {
			s[0].Tag = 1
		}
		return s
	case "sft": // labels can be one more than the tokens, of which the padding bears the last one
		for !o.Packing && len(r.IDs) < len(r.Labels) {
			r.IDs = append(r.IDs, pad)
		}
	case "predict":
		s := data.Sequence{IDs: slices.Concat(r.IDs, r.Labels), Labels: slices.Repeat([]int32{data.IgnoreLabel}, len(r.IDs))}
		s.Labels = append(s.Labels, r.Labels...)
		return []data.Sequence{s}
	}
	return []data.Sequence{{IDs: r.IDs, Labels: r.Labels}}
}

// packed compares a packed row: padding, which is not stored, positions and the mask follow from what is.
func (r *loadedRow) packed(s data.Sequence, pad int32, neat bool) error {
	ids, labels, positions, mask := slices.Clone(s.IDs), slices.Clone(s.Labels), []int32(nil), []int32(nil)
	docs := s.Docs
	if docs == nil {
		docs = []int32{0, int32(len(ids))}
	}
	for k := range docs[1:] {
		for i := range docs[k+1] - docs[k] {
			positions = append(positions, i)
			mask = append(mask, int32(k+1))
		}
	}
	for len(ids) < len(r.IDs) {
		ids, labels, positions, mask = append(ids, pad), append(labels, data.IgnoreLabel), append(positions, 0), append(mask, 0)
	}
	if len(r.Labels) > len(r.IDs) { // upstream cannot train on such a row, whose labels are one more than the tokens
		labels, r.Labels = labels[:len(s.IDs)], r.Labels[:len(s.IDs)]
	}
	if !neat {
		mask = slices.Repeat([]int32{1}, len(mask))
	}
	for _, x := range []struct {
		what      string
		got, want []int32
	}{{"ids", ids, r.IDs}, {"labels", labels, r.Labels}, {"positions", positions, r.Positions}, {"mask", mask, r.Mask}} {
		if !slices.Equal(x.got, x.want) {
			return fmt.Errorf("has the %s\n%v, not\n%v", x.what, x.got, x.want)
		}
	}
	return nil
}
