package kernels

/*
#include <stdlib.h>
#include "dl.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// HostMemory is memory of the host that a device copies from and to by itself, page-locked where the device is another machine's part: scarce,
// so that what holds it should be bounded. It is no Go memory, and is not moved.
type HostMemory struct {
	d     *Device
	p     unsafe.Pointer
	bytes int64
}

// NewHostMemory allocates host memory, whose content is undefined. A counting device only counts: Bytes is nil.
func (d *Device) NewHostMemory(bytes int64) (*HostMemory, error) {
	if bytes <= 0 {
		return nil, &Error{Op: "host_alloc", Status: StatusInvalid, Why: fmt.Sprintf("%d bytes", bytes)}
	}
	h := &HostMemory{d: d, bytes: bytes}
	if !d.counting {
		if st := C.tf_be_host_alloc(d.be, d.dev, C.int64_t(bytes), &h.p); st != C.TF_OK { //nolint:gocritic // a C pointer to a C pointer
			return nil, fmt.Errorf("cannot allocate %d bytes of host memory for the device: %w", bytes, &Error{Op: "host_alloc", Status: Status(st)})
		}
	}
	d.host.Add(bytes)
	return h, nil
}

// Bytes is the memory.
func (h *HostMemory) Bytes() []byte {
	if h.p == nil {
		return nil
	}
	return unsafe.Slice((*byte)(h.p), h.bytes)
}

// Close gives the memory back, after the copies that use it have passed.
func (h *HostMemory) Close() {
	if h.bytes == 0 {
		return
	}
	if h.p != nil {
		C.tf_be_host_release(h.d.be, h.d.dev, h.p, C.int64_t(h.bytes))
	}
	h.d.host.Add(-h.bytes)
	h.p, h.bytes = nil, 0
}

// HostLive is the bytes of HostMemory allocated now.
func (d *Device) HostLive() int64 { return d.host.Load() }

// at checks that n bytes from off on lie in the memory, and gives their address.
func (h *HostMemory) at(op string, off int64, t Tensor) (unsafe.Pointer, error) {
	n := t.Bytes()
	if !t.Contiguous() || off < 0 || n > h.bytes-off {
		return nil, &Error{Op: op, Status: StatusInvalid, Why: fmt.Sprintf("%v and %d bytes of host memory from %d on", t, h.bytes, off)}
	}
	return unsafe.Add(h.p, off), nil
}

// UploadAsync queues a copy of dst.Bytes() bytes of src from off on to dst, which is contiguous. They may not be written until q has passed the
// copy: wait for an event recorded afterwards.
func UploadAsync(q *Queue, dst Tensor, src *HostMemory, off int64) {
	p, err := src.at("upload_async", off, dst)
	if err != nil {
		q.Fail(err)
	}
	if q.err != nil || q.d.counting || dst.Bytes() == 0 {
		return
	}
	if st := C.tf_be_upload_async(q.d.be, q.q, C.tf_ptr(dst.Data), p, C.int64_t(dst.Bytes())); st != C.TF_OK {
		q.err = q.failure("upload_async", st)
	}
}

// DownloadAsync queues a copy of src, which is contiguous, to as many bytes of dst from off on. They may be neither read nor written until q has
// passed the copy: wait for an event recorded afterwards.
func DownloadAsync(q *Queue, dst *HostMemory, off int64, src Tensor) {
	p, err := dst.at("download_async", off, src)
	if err != nil {
		q.Fail(err)
	}
	if q.err != nil || q.d.counting || src.Bytes() == 0 {
		return
	}
	if st := C.tf_be_download_async(q.d.be, q.q, p, C.tf_ptr(src.Data), C.int64_t(src.Bytes())); st != C.TF_OK {
		q.err = q.failure("download_async", st)
	}
}
