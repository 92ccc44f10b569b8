package kernels_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
)

// TestAuto: without the library, Auto is the CPU and says why, and CUDA is an error that says where was looked.
func TestAuto(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "libtunefleet_cuda.so")
	t.Setenv(kernels.CUDAVariable, nowhere)
	d, err := kernels.Open(kernels.Options{Backend: kernels.Auto, Index: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if i, err := d.Info(); err != nil || i.Backend != kernels.CPU || !d.ZeroesMemory() {
		t.Errorf("got %+v, %v", i, err)
	}
	if !strings.Contains(d.Fallback(), nowhere) {
		t.Errorf("the reason is %q, it does not name %s", d.Fallback(), nowhere)
	}
	if _, err := kernels.Open(kernels.Options{Backend: kernels.CUDA}); err == nil || !strings.Contains(err.Error(), nowhere) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(nowhere, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kernels.Open(kernels.Options{Backend: kernels.CUDA}); err == nil || !strings.Contains(err.Error(), "file too short") {
		t.Errorf("a junk file: %v", err)
	}
}
