package kernels

/*
#include <stdlib.h>
#include "dl.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"
)

// The backends that Options.Backend names without a path.
const (
	CPU = "cpu"
	// CUDA is the library of CUDALibraries that the driver can load, on an NVIDIA GPU.
	CUDA = "cuda"
	// Auto is CUDA where a GPU can be opened, and the CPU elsewhere; Device.Fallback then says why.
	Auto = "auto"
)

// CUDAVariable names the library of the CUDA backend; when it is set, nowhere else is looked and the driver is not asked.
const CUDAVariable = "TUNEFLEET_CUDA_LIB"

// What the library is called that was built with a major version of CUDA, the newest first. A driver loads those of its own and of earlier
// versions.
var cudaBuilds = []struct {
	major int
	file  string
}{{13, "libtunefleet_cuda.so"}, {12, "libtunefleet_cuda12.so"}}

// libcuda is the NVIDIA driver's library.
const libcuda = "libcuda.so.1"

// CUDADriver asks the NVIDIA driver which version of CUDA it supports, 12040 for 12.4.
func CUDADriver() (int, error) { return cudaDriver(libcuda) }

func cudaDriver(path string) (int, error) {
	p, why := C.CString(path), (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(p))
	defer C.free(unsafe.Pointer(why))
	v := int(C.tf_cuda_driver(p, why, whyLen))
	if v == 0 {
		return 0, fmt.Errorf("no NVIDIA driver on this machine: %s; where there is a card, install driver 525 or later (580 for CUDA 13), or start the container with --gpus all",
			C.GoString(why))
	}
	return v, nil
}

// CUDALibraries lists where the library of the CUDA backend is looked for, in this order: the file of CUDAVariable alone if it is set; else
// beside this executable, in ../lib of it, and where the system's loader looks, first that for CUDA 13 (libtunefleet_cuda.so), then that for
// CUDA 12 (libtunefleet_cuda12.so). Those that the driver is too old for are left out; one that cannot be asked leaves out none.
func CUDALibraries() []string {
	driver, _ := CUDADriver()
	return cudaLibraries(driver)
}

func cudaLibraries(driver int) []string {
	if v := os.Getenv(CUDAVariable); v != "" {
		return []string{v}
	}
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		dirs = []string{dir, filepath.Join(filepath.Dir(dir), "lib")}
	}
	var out []string
	for _, b := range cudaBuilds {
		if driver != 0 && driver/1000 < b.major {
			continue
		}
		for _, d := range dirs {
			out = append(out, filepath.Join(d, b.file))
		}
		out = append(out, b.file)
	}
	return out
}

// cudaLoadError says why none of the libraries could be opened.
type cudaLoadError struct {
	driver int // 0: not asked
	tried  []string
}

func (e *cudaLoadError) Error() string {
	what := "the CUDA backend's library is not there"
	if e.driver != 0 {
		what = fmt.Sprintf("the CUDA backend's library that the driver (CUDA %s) can load is not there", cudaVersion(e.driver))
	}
	return fmt.Sprintf("%s: build it with go tool task gpu:build and put it beside the program, or name it in %s (%s)", what, CUDAVariable, strings.Join(e.tried, "; "))
}

func cudaVersion(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// openNamed opens what Options.Backend names.
func openNamed(o Options) (*Device, error) {
	switch o.Backend {
	case CUDA:
		return openCUDA(o)
	case Auto:
		d, err := openCUDA(o)
		if err == nil {
			return d, nil
		}
		o.Backend = CPU
		o.Index = 0
		d, cpuErr := openPath(o)
		if cpuErr == nil {
			d.fallback = err.Error()
		}
		return d, cpuErr
	}
	return openPath(o)
}

func openCUDA(o Options) (*Device, error) {
	var driver int
	if os.Getenv(CUDAVariable) == "" {
		var err error
		if driver, err = CUDADriver(); err == nil {
			err = usable(driver)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot open backend %q: %w", CUDA, err)
		}
	}
	return openFirst(o, driver, cudaLibraries(driver))
}

// usable reports whether there is a build for the driver.
func usable(driver int) error {
	least := cudaBuilds[len(cudaBuilds)-1].major
	if driver/1000 >= least {
		return nil
	}
	return fmt.Errorf("the NVIDIA driver is too old: it supports CUDA %s, %d.0 is the least; install driver 525 or later", cudaVersion(driver), least)
}

// openFirst opens a device with the first of the libraries that is there.
func openFirst(o Options, driver int, libraries []string) (*Device, error) {
	load := &cudaLoadError{driver: driver}
	for _, path := range libraries {
		// A file that is there has the last word: one that does not fit this program is an error, not a reason to look on.
		if filepath.Base(path) != path {
			if _, err := os.Stat(path); err != nil {
				load.tried = append(load.tried, err.Error())
				continue
			}
		}
		be, err := backend(path)
		if err != nil {
			load.tried = append(load.tried, err.Error())
			continue
		}
		o.Backend = CUDA
		d, err := openTable(be, o)
		if errors.Is(err, errABI) {
			return nil, fmt.Errorf("%w; use the %s that was built with this version of tunefleet (go tool task gpu:build)", err, path)
		}
		if err == nil {
			d.library = path
		}
		return d, err
	}
	return nil, fmt.Errorf("cannot open backend %q: %w", CUDA, load)
}
