package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestDamagedFilesOfAHub: a file of the right size with other bytes than the hub told of is refused, in the hub client's cache and in a folder it
// downloaded into; a file that its user changed, or that no hub told of, is not.
func TestDamagedFilesOfAHub(t *testing.T) {
	const good, bad = "weights as they were", "weights as they wEre"
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	dir := t.TempDir()
	write(t, dir, "hub/blobs/"+sum(good), bad)
	write(t, dir, "hub/snapshots/rev/config.json", "{}")
	link := filepath.Join(dir, "hub", "snapshots", "rev", "model.safetensors")
	if err := os.Symlink("../../blobs/"+sum(good), link); err != nil {
		t.Fatal(err)
	}
	meta := func(at time.Time, etag string) string {
		return fmt.Sprintf("0123456789abcdef\n%s\n%.3f\n", etag, float64(at.UnixMilli())/1000)
	}
	local := write(t, dir, "model/sub/model.safetensors", bad)
	now := time.Now()
	for _, c := range []struct {
		name, file, meta string
		want             bool
	}{
		{"cache", link, "", true},
		{"downloaded", local, meta(now, sum(good)), true},
		{"downloaded whole", local, meta(now, sum(bad)), false},
		{"changed since", local, meta(now.Add(-time.Hour), sum(good)), false},
		{"a small file's ETag", local, meta(now, "a5c3f0e1"), false},
		{"broken metadata", local, "what", false},
	} {
		write(t, dir, "model/.cache/huggingface/download/sub/model.safetensors.metadata", c.meta)
		_, err := newCollector(dir, Options{}).add(t.Context(), c.file, "model.safetensors")
		if c.want != (schemas.IsCode(err, schemas.CodeModel) && strings.Contains(err.Error(), sum(bad))) || !c.want && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
