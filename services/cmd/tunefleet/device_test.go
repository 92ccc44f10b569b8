package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

func TestDevices(t *testing.T) {
	emulated, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	driver := filepath.Join(t.TempDir(), "version")
	if err := os.WriteFile(driver, []byte("NVRM version: NVIDIA 535.1\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, library, fake, driver   string
		backend, said, status, detail string
	}{
		{"gpu", emulated, "13000", driver, kernels.CUDA, "emulated, cuDNN 9.19.0 sm_90 (CUDA)", "ok",
			"0: emulated, cuDNN 9.19.0 sm_90, 64 GiB; 1: emulated, cuDNN 9.19.0 sm_90, 64 GiB (" + emulated},
		{"old driver", emulated, "12020", driver, kernels.CPU, "the driver is too old", "warn", "NVRM version: NVIDIA 535.1"},
		{"no library", "/nowhere.so", "", "/nowhere", kernels.CPU, "the CPU (auto: the CUDA backend's library is not there; tunefleet doctor", "ok", "training runs on the CPU"},
		{"driver but no library", "/nowhere.so", "", driver, kernels.CPU, "library is not there", "warn", "/nowhere.so"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(kernels.CUDAVariable, c.library)
			t.Setenv("TUNEFLEET_FAKE_DRIVER", c.fake)
			d, err := resolveDevice("auto")
			if err != nil || d.backend != c.backend || !strings.Contains(strings.ReplaceAll(d.String(), "NVIDIA ", ""), c.said) {
				t.Errorf("auto is %q (%s), %v", d, d.backend, err)
			}
			if strings.HasPrefix(d.numerics(), kernels.ABIHash()+" cpu") != (c.backend == kernels.CPU) {
				t.Errorf("numerics are %q", d.numerics())
			}
			if f := cudaFinding(kernels.CUDALibraries(), c.driver); f.Status != c.status || !strings.Contains(f.Detail, c.detail) || (f.Status == "warn") != (f.Fix != "") {
				t.Errorf("doctor: %+v", f)
			}
			nccl := ncclFindings()
			if (len(nccl) == 1) != (c.backend == kernels.CUDA) || len(nccl) == 1 && (nccl[0].Status != "ok" || nccl[0].Detail != "2.28.9") {
				t.Errorf("doctor: %+v", nccl)
			}
			if d, err := resolveDevice("cpu"); err != nil || d.backend != kernels.CPU || d.why != "" {
				t.Errorf("cpu is %+v, %v", d, err)
			}
		})
	}
	if got := deviceEnv([]string{"CUDA_VISIBLE_DEVICES=1", "AWS_SECRET_ACCESS_KEY=x", "TUNEFLEET_CUDA_LIB=/a=b"}); len(got) != 2 || got[1] != "TUNEFLEET_CUDA_LIB=/a=b" {
		t.Errorf("ranks get %q", got)
	}
	if _, err := resolveDevice("tpu"); err == nil {
		t.Error("tpu was taken")
	}
}

// TestDoctorTriesTheGPU: doctor says whose products and attention a GPU has, and why not cuDNN's.
func TestDoctorTriesTheGPU(t *testing.T) {
	emulated, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(kernels.CUDAVariable, emulated)
	for name, c := range map[string]struct {
		variable, value string
		want            []string // status and part of what is said, of products, forward and backward
	}{
		"all there":   {"TUNEFLEET_FAKE_CUDNN_VERSION", "", []string{"ok by cuBLASLt", "ok by cuDNN", "ok by cuDNN"}},
		"old cuDNN":   {"TUNEFLEET_FAKE_CUDNN_VERSION", "90800", []string{"ok by cuBLASLt", "warn cuDNN 9.8.0 is too old", "warn cuDNN 9.8.0 is too old"}},
		"no cuDNN":    {"TUNEFLEET_FAKE_CUDNN", "libcudnn.so.nowhere", []string{"ok by cuBLASLt", "warn install cuDNN 9 for CUDA 13", "warn libcudnn.so.nowhere"}},
		"own":         {attentionVariable, "tiles", []string{"ok by cuBLASLt", "ok own kernels, as"}},
		"no cuBLASLt": {"TUNEFLEET_FAKE_CUBLASLT", "libcublasLt.so.nowhere", []string{"fail cuBLASLt cannot be opened", "ok by cuDNN", "ok by cuDNN"}},
		"blackwell":   {"TUNEFLEET_FAKE_CC", "100", []string{"ok by cuBLASLt", "ok by cuDNN", "ok own kernels on cards of sm_100"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			got := mathFindings()
			if len(got) != len(c.want) {
				t.Fatalf("%+v", got)
			}
			for i, f := range got {
				status, detail, _ := strings.Cut(c.want[i], " ")
				if f.Status != status || !strings.Contains(f.Detail, detail) || (f.Status == "ok") != (f.Fix == "") {
					t.Errorf("%+v, want %s", f, c.want[i])
				}
			}
			if v := os.Getenv(attentionVariable); v != "" && v != "tiles" {
				t.Errorf("%s stays %q", attentionVariable, v)
			}
		})
	}
	t.Setenv(kernels.CUDAVariable, "/nowhere.so")
	if got := mathFindings(); len(got) != 0 {
		t.Errorf("no GPU: %+v", got)
	}
}

func TestNCCLIsMissedBySeveralGPUsOnly(t *testing.T) {
	why := errors.New("libnccl.so.2: cannot open shared object file")
	for devices, status := range map[int]string{1: "ok", 2: "warn"} {
		f := ncclFinding(devices, 0, why)
		if f.Status != status || !strings.Contains(f.Detail, why.Error()) || !strings.Contains(f.Detail+f.Fix, "TUNEFLEET_CUDA_EXCHANGE=host") {
			t.Errorf("%d GPUs: %+v", devices, f)
		}
	}
}
