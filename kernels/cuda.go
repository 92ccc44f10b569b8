package kernels

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The backends that Options.Backend names without a path.
const (
	CPU = "cpu"
	// CUDA is libtunefleet_cuda.so (see CUDALibraries) on an NVIDIA GPU.
	CUDA = "cuda"
	// Auto is CUDA where a GPU can be opened, and the CPU elsewhere; Device.Fallback then says why.
	Auto = "auto"
)

// CUDAVariable names the library of the CUDA backend; when it is set, nowhere else is looked.
const CUDAVariable = "TUNEFLEET_CUDA_LIB"

const cudaLibrary = "libtunefleet_cuda.so"

// CUDALibraries lists where the library of the CUDA backend is looked for, in this order: the file of CUDAVariable alone if it is set; else
// beside this executable, in ../lib of it, and where the system's loader looks.
func CUDALibraries() []string {
	if v := os.Getenv(CUDAVariable); v != "" {
		return []string{v}
	}
	var out []string
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		out = append(out, filepath.Join(dir, cudaLibrary), filepath.Join(filepath.Dir(dir), "lib", cudaLibrary))
	}
	return append(out, cudaLibrary)
}

// cudaLoadError says why none of the libraries could be opened.
type cudaLoadError struct{ tried []string }

func (e *cudaLoadError) Error() string {
	return fmt.Sprintf("the CUDA backend's library is not there (%s)", strings.Join(e.tried, "; "))
}

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
	load := &cudaLoadError{}
	for _, path := range CUDALibraries() {
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
		return openTable(be, o)
	}
	return nil, fmt.Errorf("cannot open backend %q: %w", CUDA, load)
}
