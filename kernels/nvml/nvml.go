// Package nvml reads utilization, memory, power, temperature, memory errors and throttling of NVIDIA GPUs through the driver's management
// library (libnvidia-ml.so.1). The library is opened at run time: a machine without it gives an error, not a program that does not start.
// github.com/NVIDIA/go-nvml does the same and more, but makes the linker ignore unresolved symbols in the whole program, ours included.
package nvml

/*
#cgo CFLAGS: -std=c11 -O2 -Wall -Wextra -Werror
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "nvml.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"
)

// Library is the library's usual name.
const Library = "libnvidia-ml.so.1"

const whyLen = 256

// Unknown is the value of what a device does not tell.
const Unknown = -1

// Sample is what a device says of itself now. Numbers are Unknown where it does not tell them.
type Sample struct {
	Name, UUID string
	// GPUPercent and MemoryPercent are the share of the last sampling period in which a kernel ran, or memory was read or written.
	GPUPercent, MemoryPercent int64
	// MemoryUsed and MemoryTotal are bytes; used counts all processes and what the driver keeps.
	MemoryUsed, MemoryTotal int64
	// PowerMilliwatts is the draw of the board, TemperatureC that of the chip, SMMegahertz its clock.
	PowerMilliwatts, TemperatureC, SMMegahertz int64
	// ECCUncorrected counts memory errors since the driver was loaded that could not be corrected.
	ECCUncorrected int64
	// Throttle is a mask of reasons why the clock is lower than it could be; see Reasons.
	Throttle int64
}

// Reasons names the bits of a throttle mask that slow work down: a power cap, heat, the board's own protection. Idle clocks are none.
func Reasons(mask int64) []string {
	var out []string
	if mask < 0 {
		return nil
	}
	for _, r := range []struct {
		bit  int64
		name string
	}{{0x4, "power cap"}, {0x8, "hardware slowdown"}, {0x20, "heat (software)"}, {0x40, "heat (hardware)"}, {0x80, "power brake"}} {
		if mask&r.bit != 0 {
			out = append(out, r.name)
		}
	}
	return out
}

// NVML is the opened library. Its methods may be called from any goroutine.
type NVML struct {
	mu sync.Mutex
	n  *C.tf_nvml
}

// Open opens a library, usually Library, and starts it. Close it.
func Open(path string) (*NVML, error) {
	p, why := C.CString(path), (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(p))
	defer C.free(unsafe.Pointer(why))
	n := C.tf_nvml_open(p, why, whyLen)
	if n == nil {
		return nil, fmt.Errorf("cannot open NVML: %s", C.GoString(why))
	}
	return &NVML{n: n}, nil
}

// Close ends the use of the library.
func (l *NVML) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n != nil {
		C.tf_nvml_close(l.n)
		l.n = nil
	}
}

var errClosed = errors.New("it is closed")

// Driver is the driver's version.
func (l *NVML) Driver() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == nil {
		return ""
	}
	v := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(v))
	C.tf_nvml_driver(l.n, v, whyLen)
	return C.GoString(v)
}

// Read asks all devices, in the order of their indices (which CUDA_VISIBLE_DEVICES does not change).
func (l *NVML) Read() ([]Sample, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == nil {
		return nil, fmt.Errorf("cannot read GPUs: %w", errClosed)
	}
	why := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(why))
	count := C.tf_nvml_count(l.n, why, whyLen)
	if count < 0 {
		return nil, fmt.Errorf("cannot count GPUs: %s", C.GoString(why))
	}
	out := make([]Sample, count)
	for i := range out {
		var s C.tf_nvml_sample
		if C.tf_nvml_read(l.n, C.int(i), &s, why, whyLen) != 0 {
			return nil, fmt.Errorf("cannot read GPU %d: %s", i, C.GoString(why))
		}
		out[i] = Sample{Name: C.GoString(&s.name[0]), UUID: C.GoString(&s.uuid[0]), GPUPercent: int64(s.gpu_percent), MemoryPercent: int64(s.memory_percent),
			MemoryUsed: int64(s.memory_used), MemoryTotal: int64(s.memory_total), PowerMilliwatts: int64(s.power_mw), TemperatureC: int64(s.temperature_c),
			SMMegahertz: int64(s.sm_mhz), ECCUncorrected: int64(s.ecc_uncorrected), Throttle: int64(s.throttle)}
	}
	return out, nil
}
