package prep_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/saved"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
)

// savedFiles are what a run saved, by their names.
func (f *fixture) savedFiles() map[string][]byte {
	f.t.Helper()
	prefix := schemas.RunPrefix("acme", f.spec.ID) + "output/" + prep.SavedFolder + "/"
	out := map[string][]byte{}
	for i, err := range f.objects.List(f.t.Context(), prefix) {
		if err != nil {
			f.t.Fatal(err)
		}
		b, _, err := f.objects.Get(f.t.Context(), i.Key, 1<<30)
		if err != nil {
			f.t.Fatal(err)
		}
		out[strings.TrimPrefix(i.Key, prefix)] = b
	}
	return out
}

// TestSavedDataAreRead: what is saved, by several parts, is read back as the sequences that it was made of, in every form. That datasets and
// LLaMA-Factory read it is shown by testdata of verifye2e.
func TestSavedDataAreRead(t *testing.T) {
	pairs := []byte(strings.Repeat(`{"instruction":"which","chosen":"good answer","rejected":"bad"}`+"\n"+`{"instruction":"and","chosen":"yes","rejected":"no no"}`+"\n", 6))
	kto := []byte(strings.Repeat(`{"instruction":"q one","output":"good","ok":true}`+"\n"+`{"instruction":"q two","output":"not good","ok":false}`+"\n", 6))
	for _, c := range []struct {
		form, stage string
		set         []byte
		columns     map[string]string
	}{{"sft", "sft", alpaca(30), nil}, {"packed", "sft", alpaca(30), nil}, {"neat", "sft", alpaca(30), nil}, {"predict", "sft", alpaca(30), nil}, {"pairwise", "dpo", pairs, map[string]string{"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
		{"kto", "kto", kto, map[string]string{"prompt": "instruction", "response": "output", "kto_tag": "ok"}}, {"pt", "pt", alpaca(30), nil}} {
		t.Run(c.form, func(t *testing.T) {
			outs := []schemas.PrepOutput{sft("train", "train"), sft("eval", "eval")}
			for i := range outs {
				if outs[i].Form = c.form; c.form == "packed" || c.form == "neat" {
					outs[i].Form, outs[i].Packing, outs[i].Neat = "sft", true, c.form == "neat"
				}
			}
			run := func(parts int, spec schemas.FactorySpec, set func(f *fixture)) *fixture {
				f := factory(t, spec, outs, c.set)
				f.spec.Stages[0].Prep.Parts = parts
				set(f)
				for part := range parts {
					if err := f.handle(t.Context(), part); err != nil {
						t.Fatal(err)
					}
				}
				return f
			}
			f := run(3, schemas.FactorySpec{Stage: c.stage, ValSize: 4, BatchSize: 3, Save: true}, func(f *fixture) {
				d := &f.spec.Stages[0].Prep.Factory.Train[0]
				if c.columns != nil {
					d.Columns, d.Ranking = c.columns, c.form == "pairwise"
				}
			})
			files := f.savedFiles()
			var dict struct{ Splits []string }
			if err := json.Unmarshal(files[saved.DictName], &dict); err != nil || !slices.Equal(dict.Splits, []string{"train", "validation"}) {
				t.Fatalf("splits %v, %v", dict.Splits, err)
			}
			again := run(1, schemas.FactorySpec{Stage: c.stage, Tokenized: true}, func(f *fixture) {
				p := f.spec.Stages[0].Prep.Factory
				p.Train = nil
				for split, to := range map[string]*[]schemas.DataSet{"train": &p.Train, "validation": &p.Eval} {
					var state struct {
						Files []struct {
							Name string `json:"filename"`
						} `json:"_data_files"`
					}
					if err := json.Unmarshal(files[split+"/"+saved.StateName], &state); err != nil || len(state.Files) != 3 || files[split+"/"+saved.InfoName] == nil {
						t.Fatalf("the split %s has %d files: %v", split, len(state.Files), err)
					}
					set := schemas.DataSet{Name: split, Format: "arrow", Formatting: "alpaca", Columns: map[string]string{"prompt": "instruction"}}
					for _, x := range state.Files {
						set.Data.Files = append(set.Data.Files, f.upload(split+x.Name, files[split+"/"+x.Name]).Files...)
					}
					*to = append(*to, set)
				}
			})
			for _, o := range outs {
				a, b := texts(t, f, o.Name), texts(t, again, o.Name)
				if len(a) == 0 || !slices.Equal(a, b) {
					t.Errorf("%s: %d sequences, %d of them saved", o.Name, len(a), len(b))
				}
			}
		})
	}
}
