package cudahost

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels/kerneltest/source"
)

// Program builds a program of a file of kernels and of the emulation that watches them.
func Program(t *testing.T, file string) string {
	t.Helper()
	b, err := newBuilder(true)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{file}
	for _, f := range []string{"emulate", "runtime", "watch", "watch_order", "watch_report"} {
		files = append(files, filepath.Join(b.kernels, "cuda", "host", f+".cc"))
	}
	return b.locked(t, func(ctx context.Context) (string, error) { return b.link(ctx, files, "planted-*", "-pthread") })
}

// Edited builds the watched backend with a file of kernels/cuda in which one text stands for another, and returns its path. It fails the test
// when the text is not there exactly once.
func Edited(t *testing.T, file, old, new string) string {
	t.Helper()
	b, err := newBuilder(true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(b.kernels, "cuda", file))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), old); n != 1 {
		t.Fatalf("%s has %q %d times", file, old, n)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "cuda"), os.DirFS(filepath.Join(b.kernels, "cuda"))); err != nil {
		t.Fatal(err)
	}
	headers, err := filepath.Glob(filepath.Join(b.kernels, "*.h"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		data, err := os.ReadFile(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cuda", file), []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.kernels = dir
	return b.locked(t, b.library)
}

func (b builder) locked(t *testing.T, f func(context.Context) (string, error)) string {
	t.Helper()
	unlock, err := source.Lock(filepath.Join(b.cache, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	path, err := f(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return path
}
