package record_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/tunefleet/tunefleet/kernels/bench/record"
)

func TestSaveMakesTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path, err := record.Save(dir, "queue", map[string]int{"runs": 3})
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(path) != dir || !regexp.MustCompile(`^queue-\d{8}-\d{6}\.json$`).MatchString(filepath.Base(path)) {
		t.Errorf("written to %s", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := json.Unmarshal(b, &got); err != nil || got["runs"] != 3 {
		t.Errorf("read back %v, %v", got, err)
	}
}

func TestCommitOutsideARepository(t *testing.T) {
	t.Chdir(t.TempDir())
	if got := record.Commit(t.Context()); got != "unknown" {
		t.Errorf("commit %q in a folder that is no repository", got)
	}
}
