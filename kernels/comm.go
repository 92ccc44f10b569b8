package kernels

/*
#include <stdlib.h>
#include "dl.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// CommID names a communicator: one rank makes it, all are given it.
type CommID [C.TF_COMM_ID_BYTES]byte

// TransferKind is what a Transfer does.
type TransferKind int32

// The kinds of transfers.
const (
	Send      TransferKind = C.TF_SEND
	Recv      TransferKind = C.TF_RECV
	Broadcast TransferKind = C.TF_BROADCAST
)

// Transfer moves bytes between the memory of two ranks' devices: Send of Src to Peer, Recv into Dst from Peer; or, with Broadcast, from Peer's
// Src into the Dst of every rank, Peer included. All ranks list broadcasts in the same order; sends and receives between two ranks meet in
// the order in which each lists them. Src and Dst are contiguous and not empty.
type Transfer struct {
	Kind     TransferKind
	Peer     int
	Src, Dst Tensor
}

// Communicator is one rank's end of a communicator between the devices of several processes. It is used by one goroutine at a time. None of its
// methods but Abort waits for anything: an error that IsAgain knows says that something takes time, and Poll when it is done.
type Communicator struct {
	d *Device
	c *C.tf_comm
}

// IsAgain reports whether err says that nothing went wrong, and that it takes time.
func IsAgain(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == StatusAgain
}

// commCall makes the error of a call that says why it failed.
func commCall(op string, call func(why *C.char) C.tf_status) error {
	why := (*C.char)(C.calloc(1, whyLen))
	defer C.free(unsafe.Pointer(why))
	if st := call(why); st != C.TF_OK {
		return &Error{Op: op, Status: Status(st), Why: C.GoString(why)}
	}
	return nil
}

// CommVersion is the version of the library that the device's communicators are made with (22809 is NCCL 2.28.9). An error with
// StatusUnsupported says why there are none.
func (d *Device) CommVersion() (int, error) {
	var v C.int32_t
	err := commCall("comm_version", func(why *C.char) C.tf_status { return C.tf_be_comm_version(d.be, d.dev, &v, why, whyLen) })
	return int(v), err
}

// NewCommID makes the name of a new communicator.
func (d *Device) NewCommID() (id CommID, err error) {
	err = commCall("comm_id", func(why *C.char) C.tf_status {
		return C.tf_be_comm_id(d.be, d.dev, unsafe.Pointer(&id[0]), why, whyLen)
	})
	return id, err
}

// NewCommunicator begins to join a communicator as one of its ranks, each of which has a device of its own; Poll says when all have. Close it, after
// Abort when joining failed.
func (d *Device) NewCommunicator(id CommID, rank, world int) (*Communicator, error) {
	c := &Communicator{d: d}
	err := commCall("comm_open", func(why *C.char) C.tf_status {
		return C.tf_be_comm_open(d.be, d.dev, unsafe.Pointer(&id[0]), C.int32_t(rank), C.int32_t(world), &c.c, why, whyLen)
	})
	if err != nil && !IsAgain(err) {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Poll is nil when what was begun last (joining, Run, Leave) is done, an error that IsAgain knows while it is not, and otherwise what went
// wrong, here or at another rank.
func (c *Communicator) Poll() error {
	return commCall("comm_poll", func(why *C.char) C.tf_status { return C.tf_be_comm_poll(c.d.be, c.c, why, whyLen) })
}

// Run puts transfers on the queue, which run at the same time. After an error that IsAgain knows, nothing more may be put on the queue, and no
// event recorded on it, until Poll is nil.
func (c *Communicator) Run(q *Queue, transfers []Transfer) error {
	ts := make([]C.tf_transfer, len(transfers))
	for i, t := range transfers {
		src, dst := t.Kind != Recv && t.Src.Present(), t.Kind != Send && t.Dst.Present()
		ts[i] = C.tf_transfer{kind: C.int32_t(t.Kind), peer: C.int32_t(t.Peer)}
		for _, x := range []Tensor{t.Src, t.Dst} {
			if x.Present() && (!x.Valid() || !x.Contiguous() || ts[i].bytes != 0 && x.Bytes() != int64(ts[i].bytes)) {
				return &Error{Op: "comm_run", Status: StatusInvalid, Why: fmt.Sprintf("transfer %d: %v to %v", i, t.Src, t.Dst)}
			}
			if x.Present() {
				ts[i].bytes = C.int64_t(x.Bytes())
			}
		}
		if src {
			ts[i].src = C.tf_ptr(t.Src.Data)
		}
		if dst {
			ts[i].dst = C.tf_ptr(t.Dst.Data)
		}
	}
	if q.err != nil {
		return q.err
	}
	return commCall("comm_run", func(why *C.char) C.tf_status {
		return C.tf_be_comm_run(c.d.be, c.c, q.q, unsafe.SliceData(ts), C.int64_t(len(ts)), why, whyLen)
	})
}

// Abort gives up what is under way: queues that wait for it go on, and their next Sync fails with StatusLost. It may take long, and hang when
// the device or its driver does.
func (c *Communicator) Abort() error {
	return commCall("comm_abort", func(why *C.char) C.tf_status { return C.tf_be_comm_abort(c.d.be, c.c, why, whyLen) })
}

// Leave begins to leave, once all that was queued has run: Poll says when that is done. All ranks call it.
func (c *Communicator) Leave() error {
	return commCall("comm_leave", func(why *C.char) C.tf_status { return C.tf_be_comm_leave(c.d.be, c.c, why, whyLen) })
}

// Close frees the communicator, after Leave or Abort.
func (c *Communicator) Close() {
	if c.c != nil {
		C.tf_be_comm_close(c.d.be, c.c)
		c.c = nil
	}
}
