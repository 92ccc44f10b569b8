package verifye2e_test

import (
	"compress/gzip"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote/remotetest"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/services/config"
)

// TestDataOfManyFilesFromModelScope: a configuration names a data set of ModelScope; its files, some of them compressed, are fetched from a server
// that speaks the hub's protocol, and become the same sequences, in the files' order, as one local file of all rows.
func TestDataOfManyFilesFromModelScope(t *testing.T) {
	root, hub := fixtures(t), remotetest.New(t)
	files, all := map[string]string{}, ""
	for i := range 4 {
		var b strings.Builder
		for k := range 3 {
			fmt.Fprintf(&b, "{\"instruction\": \"question %d of file %d\", \"input\": \"\", \"output\": \"answer %d\"}\n", k, i, 10*i+k)
		}
		all += b.String()
		if name := fmt.Sprintf("data/train-%05d-of-00004.jsonl", i); i%2 == 0 {
			files[name] = b.String()
		} else {
			files[name+".gz"] = gzipped(t, b.String())
		}
	}
	files["data/test-00000-of-00001.jsonl"] = "{\"instruction\": \"held out\", \"output\": \"no\"}\n"
	hub.Repo("datasets", "acme/many", "master", files)
	sequences := func(overrides ...string) (out []string) {
		dir, o := t.TempDir(), options()
		write(t, dir, "train.yaml", []byte(strings.ReplaceAll(effectsBase, "ROOT", root)))
		write(t, dir, "all.jsonl", []byte(all))
		f, err := remote.New(remote.Config{Dir: filepath.Join(dir, "cache"), MS: hub.URL, Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		r, err := config.Load(t.Context(), filepath.Join(dir, "train.yaml"), config.Options{Overrides: append(overrides, "max_samples=100"), Remote: f})
		if err != nil {
			t.Fatal(err)
		}
		var inputs []localrun.Input
		for _, x := range r.Inputs {
			inputs = append(inputs, localrun.Input{Local: x.Local, File: x.File})
		}
		run, err := localrun.New(t.Context(), localrun.Config{Spec: r.Spec, Inputs: inputs, Handlers: o.Handlers, Dir: dir, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Stage(t.Context(), "prep"); err != nil {
			t.Fatal(err)
		}
		d, err := data.OpenDataset(t.Context(), run.Objects(), r.Spec, "prep/train", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for i := range d.Len() {
			s, err := d.Sequence(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprint(s.IDs, s.Labels))
		}
		return out
	}
	want := sequences("dataset_dir={all: {file_name: all.jsonl}}", "dataset=all")
	for name, overrides := range map[string][]string{"address": {"dataset=ms://acme/many"}, "description": {"dataset_dir={many: {ms_hub_url: acme/many}}", "dataset=many", "use_modelscope_hub=true"}} {
		if got := sequences(overrides...); len(want) != 12 || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %d sequences of the hub's files are not the %d of one file", name, len(got), len(want))
		}
	}
}

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
