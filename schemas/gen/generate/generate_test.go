package generate_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/schemas/gen/generate"
)

func TestSchemasAreCurrent(t *testing.T) {
	t.Parallel()
	files, err := generate.All()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", "..", "jsonschema", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("schemas/jsonschema/%s is not current: run go tool task gen", name)
		}
	}
}
