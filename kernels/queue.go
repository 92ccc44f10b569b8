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

// QueueKind is what a queue is for; a device may give each kind its own engine.
type QueueKind int32

// The kinds of queues.
const (
	Compute QueueKind = 0
	CopyOps QueueKind = 1
	Comm    QueueKind = 2
)

// Queue runs operations in order, possibly later than the call returns. The first error sticks: everything after it is skipped.
// A queue is used by one goroutine at a time.
type Queue struct {
	d    *Device
	q    *C.tf_queue
	err  error
	ws   Addr
	have int64 // bytes of ws
	need int64 // the most workspace an operation wanted
	runs int64 // operations asked for
}

// NewQueue opens a queue. Device.Close closes it.
func (d *Device) NewQueue(kind QueueKind) (*Queue, error) {
	q := &Queue{d: d}
	if st := C.tf_be_queue_open(d.be, d.dev, C.int32_t(kind), &q.q); st != C.TF_OK {
		return nil, &Error{Op: "queue_open", Status: Status(st)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		C.tf_be_queue_close(d.be, q.q)
		return nil, &Error{Op: "queue_open", Status: StatusInvalid, Why: "the device is closed"}
	}
	d.queues[q] = struct{}{}
	return q, nil
}

// Close waits for the queue and gives back its workspace. It returns the sticky error.
func (q *Queue) Close() error {
	err := q.Sync()
	q.d.mu.Lock()
	_, open := q.d.queues[q]
	delete(q.d.queues, q)
	q.d.mu.Unlock()
	if open {
		q.close()
	}
	return err
}

func (q *Queue) close() {
	if !q.d.counting {
		C.tf_be_queue_sync(q.d.be, q.q)
	}
	C.tf_be_queue_close(q.d.be, q.q)
	if q.have > 0 {
		q.d.release(q.ws, q.have)
		q.ws, q.have = 0, 0
	}
}

// Device is the queue's device.
func (q *Queue) Device() *Device { return q.d }

// Workspace is the most bytes of workspace that an operation on this queue needed so far.
func (q *Queue) Workspace() int64 { return q.need }

// Operations is the number of operations asked of the queue so far.
func (q *Queue) Operations() int64 { return q.runs }

// GraphCounts says what a queue submitted as recorded graphs since it was opened, see cuda/graph.cu.
type GraphCounts struct {
	Made       int64 `json:"made"`       // graphs that were made
	Slower     int64 `json:"slower"`     // of them given up because they were measured slower than the operations one by one
	Refused    int64 `json:"refused"`    // sequences that the device cannot record
	Launches   int64 `json:"launches"`   // graphs launched
	Operations int64 `json:"operations"` // operations in these launches
}

// Graphs is what the queue submitted as recorded graphs. All zero where a backend has none.
func (q *Queue) Graphs() GraphCounts {
	if q.d.counting {
		return GraphCounts{}
	}
	var c C.tf_graph_counts
	C.tf_be_queue_graphs(q.d.be, q.q, &c)
	return GraphCounts{Made: int64(c.made), Slower: int64(c.slower), Refused: int64(c.refused), Launches: int64(c.launches), Operations: int64(c.operations)}
}

// Err is the first error known so far. Operations may still be running; see Sync.
func (q *Queue) Err() error { return q.err }

// Fail makes err the queue's sticky error if it has none: for callers that find a mistake before they could queue the operation.
func (q *Queue) Fail(err error) {
	if q.err == nil {
		q.err = err
	}
}

// Sync waits until everything queued has run and returns the first error.
func (q *Queue) Sync() error {
	if q.d.counting {
		return q.err
	}
	st := C.tf_be_queue_sync(q.d.be, q.q)
	if st != C.TF_OK && q.err == nil {
		q.err = q.failure("sync", st)
	}
	return q.err
}

func (q *Queue) failure(op string, st C.tf_status) error {
	why := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(why))
	C.tf_be_queue_error(q.d.be, q.q, why, whyLen)
	return &Error{Op: op, Status: Status(st), Why: C.GoString(why)}
}

// run queues one operation; p points to its params.
func (q *Queue) run(op C.int32_t, p unsafe.Pointer) {
	if q.err != nil {
		return
	}
	q.runs++
	have := q.have
	if q.d.counting {
		have = -1
	}
	var need C.int64_t
	st := C.tf_call(q.d.be, q.q, op, p, C.int64_t(have), &need)
	if int64(need) > q.need {
		q.need = int64(need)
	}
	if st == C.TF_EWORKSPACE {
		if !q.growWorkspace(int64(need)) || q.d.counting {
			return
		}
		st = C.tf_call(q.d.be, q.q, op, p, C.int64_t(q.have), &need)
	}
	if st != C.TF_OK {
		q.err = q.failure(C.GoString(C.tf_op_name(op)), st)
	}
}

// growWorkspace gives the queue at least need bytes.
func (q *Queue) growWorkspace(need int64) bool {
	const unit = 1 << 20
	need = (need + unit - 1) / unit * unit
	if need <= q.have {
		return true
	}
	if q.Sync() != nil {
		return false
	}
	if q.have > 0 {
		q.d.release(q.ws, q.have)
		q.ws, q.have = 0, 0
	}
	ws, err := q.d.alloc(need)
	if err != nil {
		q.err = fmt.Errorf("cannot allocate workspace: %w", err)
		return false
	}
	q.ws, q.have = ws, need
	if !q.d.counting {
		if st := C.tf_be_set_workspace(q.d.be, q.q, C.tf_ptr(ws), C.int64_t(need)); st != C.TF_OK {
			q.err = q.failure("set_workspace", st)
			return false
		}
	}
	return true
}

// Element is a Go type that tensors are filled from.
type Element interface {
	~float32 | ~float64 | ~int32 | ~int64 | ~uint8 | ~int8 | ~uint16
}

// Upload copies src into dst, which is contiguous and has as many bytes. src may be reused on return.
func Upload[T Element](q *Queue, dst Tensor, src []T) error {
	var zero T
	if !dst.Contiguous() || dst.Bytes() != int64(len(src))*int64(unsafe.Sizeof(zero)) {
		q.Fail(&Error{Op: "upload", Status: StatusInvalid, Why: fmt.Sprintf("%d elements of %d bytes into %v", len(src), unsafe.Sizeof(zero), dst)})
	}
	if q.err != nil || len(src) == 0 || q.d.counting {
		return q.err
	}
	if st := C.tf_be_upload(q.d.be, q.q, C.tf_ptr(dst.Data), unsafe.Pointer(unsafe.SliceData(src)), C.int64_t(dst.Bytes())); st != C.TF_OK {
		q.err = q.failure("upload", st)
	}
	return q.err
}

// Download waits for the queue and copies src, which is contiguous, into dst of as many bytes. On a counting device dst is left as it is.
func Download[T Element](q *Queue, dst []T, src Tensor) error {
	var zero T
	if !src.Contiguous() || src.Bytes() != int64(len(dst))*int64(unsafe.Sizeof(zero)) {
		q.Fail(&Error{Op: "download", Status: StatusInvalid, Why: fmt.Sprintf("%v into %d elements of %d bytes", src, len(dst), unsafe.Sizeof(zero))})
	}
	if q.err != nil || len(dst) == 0 || q.d.counting {
		return q.err
	}
	if st := C.tf_be_download(q.d.be, q.q, unsafe.Pointer(unsafe.SliceData(dst)), C.tf_ptr(src.Data), C.int64_t(src.Bytes())); st != C.TF_OK {
		q.err = q.failure("download", st)
	}
	return q.err
}

// Event orders queues of one device.
type Event struct {
	d *Device
	e *C.tf_event
}

// NewEvent makes an event that nothing waits for yet. Close it before the device.
func (d *Device) NewEvent() (*Event, error) {
	e := &Event{d: d}
	if st := C.tf_be_event_open(d.be, d.dev, &e.e); st != C.TF_OK {
		return nil, &Error{Op: "event_open", Status: Status(st)}
	}
	return e, nil
}

// Close frees the event.
func (e *Event) Close() {
	if e.e != nil {
		C.tf_be_event_close(e.d.be, e.e)
		e.e = nil
	}
}

// Record marks the point that q has reached.
func (q *Queue) Record(e *Event) {
	if q.err != nil || q.d.counting {
		return
	}
	if st := C.tf_be_event_record(q.d.be, e.e, q.q); st != C.TF_OK {
		q.err = q.failure("event_record", st)
	}
}

// Wait makes what is queued on q from now on run after the event's last record. An error of the recording queue spreads to q.
func (q *Queue) Wait(e *Event) {
	if q.err != nil || q.d.counting {
		return
	}
	if st := C.tf_be_event_wait(q.d.be, e.e, q.q); st != C.TF_OK {
		q.err = q.failure("event_wait", st)
	}
}

// Sync waits on the host for the event's last record.
func (e *Event) Sync() error {
	if e.d.counting {
		return nil
	}
	if st := C.tf_be_event_sync(e.d.be, e.e); st != C.TF_OK {
		return &Error{Op: "event_sync", Status: Status(st)}
	}
	return nil
}

// Done reports, from any goroutine, whether the event's last record has been reached, or will never be because its queue failed.
func (e *Event) Done() bool {
	return e.d.counting || C.tf_be_event_done(e.d.be, e.e) != C.TF_EAGAIN
}
