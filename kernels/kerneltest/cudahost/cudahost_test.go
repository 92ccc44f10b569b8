package cudahost_test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

// TestOperations: the operations that the CUDA backend has, against the oracle and central differences, in every element type; attention by its
// own kernels.
func TestOperations(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_ATTENTION", "tiles")
	d := cudahost.Open(t, kernels.Options{})
	for _, dt := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16} {
		for _, mode := range []kerneltest.Mode{kerneltest.Test, kerneltest.Grad} {
			rs, err := kerneltest.Run(d, mode, kerneltest.Options{DType: dt})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				if r.Status == kerneltest.Failed {
					t.Errorf("%s (%s, %s, %s): %s", r.Op, r.Case, r.DType, mode, r.Error)
				}
			}
		}
	}
}

// TestOpen: what is missing on a machine is said, before anything is run.
func TestOpen(t *testing.T) {
	path, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, value, want string }{
		{"TUNEFLEET_FAKE_LIBCUDA", "/nonexistent/libcuda.so.1", "no NVIDIA driver on this machine"},
		{"TUNEFLEET_FAKE_DRIVER", "12040", "driver is too old: it supports CUDA 12.4, this library needs 13.0"},
		{"TUNEFLEET_FAKE_DRIVER", "12040", "use libtunefleet_cuda12.so"},
		{"TUNEFLEET_FAKE_DRIVER", "0", "does not tell its version"},
		{"TUNEFLEET_FAKE_DEVICES", "0", "but no device"},
		{"TUNEFLEET_FAKE_DEVICES", "1", "there is no device 1, only 1"},
		{"TUNEFLEET_FAKE_CC", "75", "compute capability 7.5, 8.0 is the least"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			d, err := kernels.Open(kernels.Options{Backend: path, Index: 1})
			if err == nil {
				_ = d.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want it to contain %q", err, c.want)
			}
		})
	}
}

// TestAuto: Auto is CUDA where a device opens, and the CPU with the reason where not.
func TestAuto(t *testing.T) {
	path, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(kernels.CUDAVariable, path)
	for driver, want := range map[string]string{"13000": "cuda-host", "12080": kernels.CPU} {
		t.Setenv("TUNEFLEET_FAKE_DRIVER", driver)
		d, err := kernels.Open(kernels.Options{Backend: kernels.Auto})
		if err != nil {
			t.Fatal(err)
		}
		i, err := d.Info()
		if err != nil || i.Backend != want || strings.Contains(d.Fallback(), "too old") != (want == kernels.CPU) {
			t.Errorf("driver %s: %+v, %q, %v", driver, i, d.Fallback(), err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMain lets this binary be a program beside libraries, see TestLibraryByDriver.
func TestMain(m *testing.M) {
	if os.Getenv("TUNEFLEET_TEST_OPEN") != "" {
		got := map[string]string{}
		d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA})
		if err != nil {
			got["error"] = err.Error()
		} else {
			i, _ := d.Info()
			got["library"], got["isa"] = filepath.Base(d.Library()), i.ISA
			_ = d.Close()
		}
		_ = json.NewEncoder(os.Stdout).Encode(got)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestLibraryByDriver: a program with libraries for CUDA 13 and 12 beside it opens the one that the driver can load, and says what to do where
// there is no driver, an old one, or no library for it.
func TestLibraryByDriver(t *testing.T) {
	emulated, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	driver := t.TempDir() // of a driver that has the version of TUNEFLEET_FAKE_DRIVER
	if out, err := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-o", filepath.Join(driver, "libcuda.so.1"), filepath.Join("testdata", "driver.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const new, old = "libtunefleet_cuda.so", "libtunefleet_cuda12.so"
	for name, c := range map[string]struct {
		files                 []string
		driver, library, said string
	}{
		"driver of CUDA 13":                      {[]string{new, old}, "13000", new, "sm_90"},
		"driver to come":                         {[]string{new, old}, "14010", new, "sm_90"},
		"driver of CUDA 12":                      {[]string{new, old}, "12020", old, "sm_90 cuda12"},
		"driver of CUDA 13, older library":       {[]string{old}, "13000", old, "sm_90 cuda12"},
		"driver of CUDA 12, newer library":       {[]string{new}, "12080", "", "library that the driver (CUDA 12.8) can load is not there: build it with go tool task gpu:build"},
		"driver of CUDA 11":                      {[]string{new, old}, "11080", "", "too old: it supports CUDA 11.8, 12.0 is the least; install driver 525 or later"},
		"driver that does not say":               {[]string{new, old}, "0", "", "does not tell its version"},
		"no driver":                              {[]string{new, old}, "", "", "no NVIDIA driver on this machine: libcuda.so.1: cannot open"},
		"no library":                             {nil, "13000", "", "put it beside the program, or name it in TUNEFLEET_CUDA_LIB"},
		"a file that is not a library, in front": {[]string{"junk " + new, old}, "13000", old, "sm_90 cuda12"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program := filepath.Join(dir, "program")
			link(t, self, program)
			cuda := "13000"
			if c.library == old {
				cuda = "12090"
			}
			for _, f := range c.files {
				if junk, ok := strings.CutPrefix(f, "junk "); ok {
					if err := os.WriteFile(filepath.Join(dir, junk), []byte("junk"), 0o600); err != nil {
						t.Fatal(err)
					}
					continue
				}
				link(t, emulated, filepath.Join(dir, f))
			}
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Env = append(os.Environ(), "TUNEFLEET_TEST_OPEN=1", kernels.CUDAVariable+"=", "TUNEFLEET_FAKE_DRIVER="+c.driver, "TUNEFLEET_FAKE_CUDA="+cuda)
			if c.driver != "" {
				cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+driver)
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]string
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if got["library"] != c.library || !strings.Contains(got["isa"]+got["error"], c.said) {
				t.Errorf("got %v, want %+v", got, c)
			}
		})
	}
}

// link gives a file a second name, or copies it to another file system.
func link(t *testing.T, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestProductsWithoutLibrary: a machine without cuBLASLt says so at the first product, and can do the rest.
func TestProductsWithoutLibrary(t *testing.T) {
	t.Setenv("TUNEFLEET_FAKE_CUBLASLT", "libcublasLt.so.nowhere")
	d := cudahost.Open(t, kernels.Options{})
	for op, want := range map[string]string{"gemm": "cuBLASLt cannot be opened: libcublasLt.so.nowhere", "rmsnorm_fwd": ""} {
		rs, err := kerneltest.Run(d, kerneltest.Test, kerneltest.Options{Op: op})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Case != "inner dimensions differ" && (!strings.Contains(r.Error, want) || want == "" && r.Error != "") {
				t.Errorf("%s (%s): %q, want %q", r.Op, r.Case, r.Error, want)
			}
		}
	}
}

// TestEmulation: what a GPU does not allow is refused with the place, what it leaves open is unlucky, and right kernels are right.
func TestEmulation(t *testing.T) {
	program := filepath.Join(t.TempDir(), "misuse")
	host := filepath.Join("..", "..", "cuda", "host")
	cmd := exec.CommandContext(t.Context(), "g++", "-std=c++17", "-O1", "-DTF_HOST", "-pthread", "-I", filepath.Join("..", ".."), "-I", filepath.Join("..", "..", "cuda"), "-o", program,
		filepath.Join("testdata", "misuse.cc"), filepath.Join(host, "emulate.cc"), filepath.Join(host, "runtime.cc"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := map[string]string{
		"half of a block at a barrier": "some threads wait at __syncthreads",
		"barriers apart":               "others never get there",
		"absent lanes":                 "names lanes that are not there",
		"a lane that left":             "names lanes that are not there",
		"two collectives":              "different collectives",
		"outside of the mask":          "leaves it out",
		"beyond an array":              "beyond the end of an array",
		"too much static memory":       "48 KiB",
		"sums":                         "ok", "order": "ok", "new shared memory": "ok", "halves of a warp": "ok",
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, got, _ := strings.Cut(line, "|")
		w := want[name]
		if w == "" {
			w = "right"
		}
		if !strings.Contains(got, w) {
			t.Errorf("%s: %q, want %q", name, got, w)
		}
	}
	if n := strings.Count(string(out), "\n"); n != 22 {
		t.Errorf("%d lines, want 22:\n%s", n, out)
	}
}
