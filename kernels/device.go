package kernels

/*
#cgo CFLAGS: -std=c11 -O3 -Wall -Wextra -fvisibility=hidden -pthread
#cgo LDFLAGS: -ldl -lm -pthread
#cgo noescape tf_call
#cgo nocallback tf_call
#cgo noescape tf_be_alloc
#cgo nocallback tf_be_alloc
#cgo noescape tf_be_upload
#cgo nocallback tf_be_upload
#cgo noescape tf_be_download
#cgo nocallback tf_be_download
#include <stdlib.h>
#include "dl.h"
#include "abi_hash.h"
#include "cpu.h"
*/
import "C"

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

//go:generate sh -c "printf '/* Generated from tunefleet.h. */\\n#define TF_ABI_HASH \"%s\"\\n' $(sha256sum tunefleet.h | cut -c1-64) > abi_hash.h"

//go:embed tunefleet.h
var header []byte

// ABIHash is the SHA-256 of tunefleet.h, which a backend must have been built with.
func ABIHash() string {
	sum := sha256.Sum256(header)
	return hex.EncodeToString(sum[:])
}

// Status is a code that a backend returned.
type Status int32

// The status codes of tunefleet.h.
const (
	StatusOK          Status = 0
	StatusInvalid     Status = 1
	StatusUnsupported Status = 2
	StatusNoMemory    Status = 3
	StatusWorkspace   Status = 4
	StatusInternal    Status = 5
	// StatusAgain is no failure: what was asked for takes time.
	StatusAgain Status = 6
	// StatusLost sticks to queues whose results depended on a communicator that was given up.
	StatusLost Status = 7
)

func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusInvalid:
		return "invalid argument"
	case StatusUnsupported:
		return "not supported by the backend"
	case StatusNoMemory:
		return "out of device memory"
	case StatusWorkspace:
		return "workspace too small"
	case StatusInternal:
		return "device failure"
	case StatusAgain:
		return "not done yet"
	case StatusLost:
		return "the exchange between ranks was given up"
	}
	return fmt.Sprintf("status %d", int32(s))
}

// Error is a failed operation. It sticks to its queue.
type Error struct {
	Op     string // the operation's name in tunefleet.h, or what else was asked of the device
	Status Status
	Why    string
}

func (e *Error) Error() string {
	if e.Why == "" {
		return fmt.Sprintf("cannot run %s: %s", e.Op, e.Status)
	}
	return fmt.Sprintf("cannot run %s: %s: %s", e.Op, e.Status, e.Why)
}

// OutOfMemoryError says that an arena or the device has less than was asked for.
type OutOfMemoryError struct {
	Arena      string // empty for the device itself
	Need, Have int64  // bytes
}

func (e *OutOfMemoryError) Error() string {
	where := "device"
	if e.Arena != "" {
		where = "arena " + e.Arena
	}
	return fmt.Sprintf("cannot allocate %d bytes: %s has %d left", e.Need, where, e.Have)
}

// ISA is an instruction set of the CPU backend. Results do not depend on it.
type ISA int32

// The instruction sets; ISAAuto is the best that the machine has.
const (
	ISAAuto   ISA = 0
	ISAScalar ISA = 1
	ISAAVX2   ISA = 2
	ISAAVX512 ISA = 3
	ISANEON   ISA = 4
)

// Options choose a device.
type Options struct {
	// Backend is CPU (also the empty string), CUDA, Auto, or the path of a shared object.
	Backend string
	// Threads is the number of CPU threads, 0 for all cores the process may use. Ranks on one host divide the cores among them.
	Threads int
	// ISA forces an instruction set (for tests).
	ISA ISA
	// Index is which device of the backend (CUDA_VISIBLE_DEVICES counts for CUDA).
	Index int
	// Counting opens a device without memory: allocation hands out addresses that lead nowhere, operations only say how much
	// workspace they need. The same code then tells what it would take.
	Counting bool
}

// Info describes a device.
type Info struct {
	Backend, Name, ISA string
	Threads            int
	// MemoryTotal and MemoryFree are bytes, 0 where unknown; of the CPU, free is what can be had without swapping, page cache and the bounds of a
	// container counted.
	MemoryTotal, MemoryFree int64
	// Bus says which card of the machine it is; empty for the CPU.
	Bus string
}

// MultipliesBF16 reports whether a CPU has products of bf16 by instructions of their own (AVX512_BF16), which round otherwise than those that
// go over f32.
func (i Info) MultipliesBF16() bool { return strings.HasSuffix(i.ISA, "+bf16") }

// Device is one accelerator or the CPU. Its methods may be called from any goroutine; each of its queues from one at a time.
type Device struct {
	be       *C.tf_backend
	dev      *C.tf_device
	name     string
	builtin  bool
	counting bool
	fallback string
	library  string
	next     atomic.Uint64 // the next address of a counting device
	live     atomic.Int64
	host     atomic.Int64 // bytes of HostMemory
	peak     atomic.Int64

	mu     sync.Mutex
	queues map[*Queue]struct{}
	closed bool
}

// Open opens a device. The error says why a library, a device or an instruction set is refused.
func Open(o Options) (*Device, error) { return openNamed(o) }

// openPath opens the CPU or a shared object.
func openPath(o Options) (*Device, error) {
	be, err := backend(o.Backend)
	if err != nil {
		return nil, fmt.Errorf("cannot open backend %q: %w", o.Backend, err)
	}
	return openTable(be, o)
}

func openTable(be *C.tf_backend, o Options) (*Device, error) {
	if h := C.GoString(be.abi_hash); be.abi_version != C.TF_ABI_VERSION || h != ABIHash() || uintptr(be.struct_size) != unsafe.Sizeof(*be) {
		return nil, fmt.Errorf("cannot open backend %q: %w (ABI %d, hash %.12s; this program has ABI %d, hash %.12s)",
			o.Backend, errABI, uint32(be.abi_version), h, C.TF_ABI_VERSION, ABIHash())
	}
	co := C.tf_options{threads: C.int32_t(o.Threads), isa: C.int32_t(o.ISA), index: C.int32_t(o.Index)}
	d := &Device{be: be, name: C.GoString(be.name), builtin: o.Backend == "" || o.Backend == CPU, counting: o.Counting, queues: map[*Queue]struct{}{}}
	d.next.Store(1 << 40)
	why := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(why))
	var dev *C.tf_device
	if st := C.tf_be_open(be, &co, &dev, why, whyLen); st != C.TF_OK {
		return nil, fmt.Errorf("cannot open backend %q: %w", o.Backend, &Error{Op: "open", Status: Status(st), Why: C.GoString(why)})
	}
	d.dev = dev
	return d, nil
}

const whyLen = 512

var errABI = errors.New("it was built against another tunefleet.h")

// ZeroesMemory reports whether what a new arena hands out reads as zeros until it is written. The CPU's comes as zero pages from the
// system: leaving them untouched saves the time and the memory until they are used.
func (d *Device) ZeroesMemory() bool { return d.builtin }

// SharesHost reports whether the device's memory is the host's, and its queues run before the call returns: there is nothing to copy from,
// and nothing to wait for.
func (d *Device) SharesHost() bool { return d.builtin }

func backend(name string) (*C.tf_backend, error) {
	if name == "" || name == CPU {
		return (*C.tf_backend)(unsafe.Pointer(C.tf_cpu_backend())), nil
	}
	path := C.CString(name)
	defer C.free(unsafe.Pointer(path))
	why := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(why))
	be := C.tf_dl_open(path, why, whyLen)
	if be == nil {
		return nil, errors.New(C.GoString(why))
	}
	return be, nil
}

// Fallback says why Auto took the CPU; empty when it did not have to, or something else was asked for.
func (d *Device) Fallback() string { return d.fallback }

// Library is the file that the CUDA backend came from; empty for others.
func (d *Device) Library() string { return d.library }

// Counting reports whether the device has no memory and runs nothing.
func (d *Device) Counting() bool { return d.counting }

// Info describes the device.
func (d *Device) Info() (Info, error) {
	var i C.tf_device_info
	if st := C.tf_be_info(d.be, d.dev, &i); st != C.TF_OK {
		return Info{}, &Error{Op: "info", Status: Status(st)}
	}
	free := int64(i.memory_free)
	if d.builtin { // its own figure leaves out what the page cache would give back
		free = cmp.Or(availableMemory("/proc", "/sys/fs/cgroup"), free)
	}
	return Info{Backend: d.name, Name: C.GoString(&i.name[0]), ISA: C.GoString(&i.isa[0]), Threads: int(i.threads),
		MemoryTotal: int64(i.memory_total), MemoryFree: free, Bus: C.GoString(&i.bus[0])}, nil
}

// Live is the bytes allocated on the device now, Peak the most there ever were, both with arenas at their size and with workspaces.
func (d *Device) Live() int64 { return d.live.Load() }

// Peak is the most bytes that were allocated at once.
func (d *Device) Peak() int64 { return d.peak.Load() }

// ThreadMemory is what the CPU backend's threads hold besides what is allocated, in bytes: the scratch of each and the stacks of those that it
// started. 0 for another backend, whose threads are the accelerator's.
func (d *Device) ThreadMemory() int64 {
	i, err := d.Info()
	if err != nil || !d.builtin {
		return 0
	}
	return int64(i.Threads)*C.TF_SCRATCH_BYTES + int64(i.Threads-1)*C.TF_STACK_BYTES
}

// alloc takes memory from the backend.
func (d *Device) alloc(bytes int64) (Addr, error) {
	if bytes <= 0 {
		return 0, &Error{Op: "alloc", Status: StatusInvalid, Why: fmt.Sprintf("%d bytes", bytes)}
	}
	var p C.tf_ptr
	if d.counting {
		p = C.tf_ptr(d.next.Add(uint64(bytes+8191)&^4095) - uint64(bytes+8191)&^4095)
	} else if st := C.tf_be_alloc(d.be, d.dev, C.int64_t(bytes), &p); st == C.TF_ENOMEM {
		i, _ := d.Info()
		return 0, &OutOfMemoryError{Need: bytes, Have: i.MemoryFree}
	} else if st != C.TF_OK {
		return 0, &Error{Op: "alloc", Status: Status(st)}
	}
	d.grow(bytes)
	return Addr(p), nil
}

func (d *Device) grow(bytes int64) {
	live := d.live.Add(bytes)
	for p := d.peak.Load(); live > p && !d.peak.CompareAndSwap(p, live); p = d.peak.Load() {
	}
}

func (d *Device) release(p Addr, bytes int64) {
	if !d.counting {
		C.tf_be_release(d.be, d.dev, C.tf_ptr(p), C.int64_t(bytes))
	}
	d.live.Add(-bytes)
}

// Close closes the device and its queues. It reports memory that is still allocated (an arena left open).
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	qs := d.queues
	d.queues = nil
	d.mu.Unlock()
	for q := range qs {
		q.close()
	}
	live := d.live.Load() + d.host.Load()
	C.tf_be_close(d.be, d.dev)
	if live != 0 {
		return fmt.Errorf("cannot close device cleanly: %d bytes are still allocated", live)
	}
	return nil
}
