package nvml_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels/nvml"
)

func fake(t *testing.T) string {
	t.Helper()
	so := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-o", so, "testdata/fake.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return so
}

func TestRead(t *testing.T) {
	n, err := nvml.Open(fake(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := n.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := nvml.Sample{Name: "device", UUID: "GPU-1", GPUPercent: 97, MemoryPercent: 41, MemoryUsed: 1 << 30, MemoryTotal: 80 << 30,
		PowerMilliwatts: 412345, TemperatureC: 61, SMMegahertz: nvml.Unknown, ECCUncorrected: 2, Throttle: 0x45}
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n.Driver() != "580.95.05" {
		t.Errorf("the driver is %q", n.Driver())
	}
	if r := nvml.Reasons(got[0].Throttle); !slices.Equal(r, []string{"power cap", "heat (hardware)"}) {
		t.Errorf("it is slow for %q", r)
	}
	n.Close()
	n.Close()
	if _, err := n.Read(); err == nil {
		t.Error("a closed library was read")
	}
}

func TestOpen(t *testing.T) {
	if _, err := nvml.Open("/nowhere/libnvidia-ml.so.1"); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("got %v", err)
	}
	so := fake(t)
	t.Setenv("FAKE_NVML_BROKEN", "1")
	if _, err := nvml.Open(so); err == nil || !strings.Contains(err.Error(), "Driver Not Loaded") {
		t.Errorf("got %v", err)
	}
	if nvml.Reasons(nvml.Unknown) != nil {
		t.Error("unknown has reasons")
	}
}
