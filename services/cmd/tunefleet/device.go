package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// device is what ranks compute with.
type device struct {
	backend string // kernels.CPU or kernels.CUDA
	name    string // for people
	why     string // why auto took the CPU
}

func (d device) String() string {
	switch {
	case d.backend == kernels.CUDA:
		return d.name + " (CUDA)"
	case d.why != "":
		return "the CPU (auto: " + shortReason(d.why) + "; tunefleet doctor says more)"
	}
	return "the CPU"
}

// shortReason is the first clause of why a device cannot be opened, without the loader's words and what to do about it.
func shortReason(why string) string {
	for strings.HasPrefix(why, "cannot ") { // open backend "cuda", run open: what was tried, not why it failed
		_, after, ok := strings.Cut(why, ": ")
		if !ok {
			break
		}
		why = after
	}
	why = strings.TrimPrefix(why, "not supported by the backend: ")
	why, _, _ = strings.Cut(why, ": ")
	why, _, _ = strings.Cut(why, "; ")
	return why
}

// deviceEnv picks the variables that decide what a rank finds when it opens its device.
func deviceEnv(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		for _, prefix := range []string{"TUNEFLEET_CUDA_", "TUNEFLEET_FAKE_", "CUDA_", "NVIDIA_", "NCCL_"} {
			if strings.HasPrefix(name, prefix) {
				out = append(out, kv)
				break
			}
		}
	}
	return out
}

// numerics is the fingerprint of the device's arithmetic: what differs in it does not give the same bits.
func (d device) numerics() string {
	if d.backend == kernels.CUDA {
		return kernels.ABIHash() + " " + d.name
	}
	// In fp32 and fp16 every instruction set gives the same bits; in bf16 products by instructions of their own round otherwise.
	path := " cpu"
	if dev, err := kernels.Open(kernels.Options{Threads: 1}); err == nil {
		if info, err := dev.Info(); err == nil && info.MultipliesBF16() {
			path += "+bf16"
		}
		_ = dev.Close() // nothing is allocated on it
	}
	return kernels.ABIHash() + path
}

// resolveDevice turns auto (or nothing), cpu or cuda into what is there. It takes no memory of a GPU.
func resolveDevice(kind string) (device, error) {
	switch kind {
	case "", kernels.Auto, kernels.CPU, kernels.CUDA:
	default:
		return device{}, schemas.Errorf(schemas.CodeUsage, "--device", "%q is no device", kind).WithHint("use auto, cpu or cuda")
	}
	if kind == "" {
		kind = kernels.Auto
	}
	d, err := kernels.Open(kernels.Options{Backend: kind, Threads: 1})
	if err != nil {
		return device{}, schemas.Errorf(schemas.CodeUnsupported, kind, "%v", err).WithHint("tunefleet doctor says what is there; auto instead of cuda takes the CPU where there is no GPU")
	}
	info, err := d.Info()
	if err := errors.Join(err, d.Close()); err != nil {
		return device{}, err
	}
	out := device{backend: kernels.CPU, name: "cpu " + info.ISA, why: d.Fallback()}
	if info.Backend != kernels.CPU {
		out = device{backend: kernels.CUDA, name: info.Name + " " + info.ISA}
	}
	return out, nil
}

// nvidiaDriver is there when the kernel has NVIDIA's module.
const nvidiaDriver = "/proc/driver/nvidia/version"

// cudaFinding says which GPUs the engine can use. A machine without any is fine; one with a driver whose GPUs cannot be used is not.
func cudaFinding(libraries []string, driver string) finding {
	var names []string
	from := ""
	for i := 0; ; i++ {
		d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA, Index: i})
		if err != nil && i > 0 {
			break
		}
		if err != nil {
			text, readErr := os.ReadFile(driver)
			if readErr != nil {
				return finding{Check: "cuda", Status: "ok", Detail: "none, training runs on the CPU: " + err.Error()}
			}
			first, _, _ := strings.Cut(string(text), "\n")
			return finding{Check: "cuda", Status: "warn", Detail: fmt.Sprintf("%v (there is a driver: %s)", err, strings.TrimSpace(first)),
				Fix: "do what it says; the library is made by go tool task gpu:build and looked for as " + strings.Join(libraries, ", ") + ", or as " + kernels.CUDAVariable + " names it"}
		}
		info, infoErr := d.Info()
		from = d.Library()
		_ = d.Close()
		if infoErr != nil {
			return finding{Check: "cuda", Status: "warn", Detail: fmt.Sprintf("device %d does not answer: %v", i, infoErr), Fix: "see nvidia-smi and the kernel's log"}
		}
		names = append(names, fmt.Sprintf("%d: %s %s, %.0f GiB", i, info.Name, info.ISA, float64(info.MemoryTotal)/(1<<30)))
	}
	if v, err := kernels.CUDADriver(); err == nil {
		from += fmt.Sprintf(", driver for CUDA %d.%d", v/1000, v%1000/10)
	}
	return finding{Check: "cuda", Status: "ok", Detail: fmt.Sprintf("%s (%s)", strings.Join(names, "; "), from)}
}

// ncclFindings says what connects several GPUs, on a machine that has one.
func ncclFindings() []finding {
	devices, version := 0, 0
	var why error
	for ; ; devices++ {
		d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA, Index: devices})
		if err != nil {
			break
		}
		if devices == 0 {
			version, why = d.CommVersion()
		}
		_ = d.Close()
	}
	if devices == 0 {
		return nil
	}
	if e := (*kernels.Error)(nil); errors.As(why, &e) {
		why = errors.New(e.Why)
	}
	return []finding{ncclFinding(devices, version, why)}
}

// ncclFinding is about NCCL's version (22809 is 2.28.9), or why there is none.
func ncclFinding(devices, version int, why error) finding {
	host := "a gang of GPUs needs it, or " + exchange.HostVariable + "=host, with which they exchange through the host's memory"
	switch {
	case why == nil:
		return finding{Check: "nccl", Status: "ok", Detail: fmt.Sprintf("%d.%d.%d", version/10000, version/100%100, version%100)}
	case devices == 1:
		return finding{Check: "nccl", Status: "ok", Detail: fmt.Sprintf("none, one GPU does without (%v); %s", why, host)}
	}
	return finding{Check: "nccl", Status: "warn", Detail: fmt.Sprintf("%d GPUs and no NCCL: %v", devices, why), Fix: "install NCCL 2 on every machine of the pool: " + host}
}
