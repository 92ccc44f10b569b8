package safetensors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestCheckFolder: headers alone tell files that are short or long, and shards that are away or hold other tensors than the index says.
func TestCheckFolder(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	write := func(name, tensor string) {
		t.Helper()
		if err := WriteFile(root, name, []Entry{{Name: tensor, Shape: []int64{4}, Float32: []float32{1, 2, 3, 4}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	index := func(s string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, indexName), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string, names ...string) {
		t.Helper()
		err := CheckFolder(dir, names)
		if want == "" && err != nil || want != "" && (!schemas.IsCode(err, schemas.CodeModel) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, expected %q", names, err, want)
		}
	}
	write("model.safetensors", "a")
	check("", "config.json", "model.safetensors")
	resize := func(name string, by int64) {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), info.Size()+by); err != nil {
			t.Fatal(err)
		}
	}
	resize("model.safetensors", -1)
	check(filepath.Join(dir, "model.safetensors")+": cannot read safetensors: data section has 15 bytes, the header describes 16", "model.safetensors")
	resize("model.safetensors", 2)
	check("data section has 17 bytes", "model.safetensors")
	resize("model.safetensors", -1)
	check("", "model.safetensors")

	write("model-1.safetensors", "a")
	write("model-2.safetensors", "b")
	index(`{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}`)
	shards := []string{indexName, "model-1.safetensors", "model-2.safetensors"}
	check("", shards...)
	resize("model-2.safetensors", -4)
	check("model-2.safetensors: cannot read safetensors: data section has 12 bytes", shards...)
	if err := os.Remove(filepath.Join(dir, "model-2.safetensors")); err != nil {
		t.Fatal(err)
	}
	check("model-2.safetensors: this shard is named in "+indexName+" and is not there", shards...)
	write("model-2.safetensors", "c")
	check(`tensor "b" is not in shard model-2.safetensors`, shards...)
	index(`{"weight_map":{`)
	check("cannot parse weight index", shards...)

	// The files of a hub's cache are links that lead out of their folder.
	other := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "model.safetensors"), filepath.Join(other, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if err := CheckFolder(other, []string{"model.safetensors"}); err != nil {
		t.Error(err)
	}
}
