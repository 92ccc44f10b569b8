package autograd

import (
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// Offload keeps the inputs of checkpointed blocks in the host's memory from the end of a block's forward pass to its backward pass. The copy to
// the host runs beside the next block, at whose end the input's room on the device is free again; on the way back the input of the block before
// is fetched while a block is computed again. So the device holds two inputs of blocks, however many blocks there are. No bit of a result
// depends on it. It belongs to one tape; Close it before the tape's memory.
type Offload struct {
	dev    *kernels.Device
	copies *kernels.Queue
	// ready is what the tape's queue has reached when a copy may begin; down and up are the newest copies' ends.
	ready, down, up *kernels.Event
	// rooms are the host's, by the order of blocks; they are kept from pass to pass.
	rooms []hostRoom
	// stowed are the inputs that no backward pass has taken back, the newest last.
	stowed []stowed
}

type hostRoom struct {
	memory *kernels.HostMemory
	size   int64
}

type stowedState uint8

const (
	leaving stowedState = iota // on the device still, being copied to the host
	away                       // on the host only
	coming                     // being copied to the device
)

// stowed is one input: its room is that of its index.
type stowed struct {
	v     Value
	state stowedState
}

// NewOffload makes the queue and events for one tape whose memory is the device's. Errors: the device's.
func NewOffload(dev *kernels.Device) (o *Offload, err error) {
	o = &Offload{dev: dev}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot offload activations: %w", errors.Join(err, o.Close()))
		}
	}()
	for _, ev := range []**kernels.Event{&o.ready, &o.down, &o.up} {
		if *ev, err = dev.NewEvent(); err != nil {
			return nil, err
		}
	}
	if o.copies, err = dev.NewQueue(kernels.CopyOps); err != nil {
		return nil, err
	}
	return o, nil
}

// HostBytes is the host memory that inputs of blocks have taken so far; it is kept until Close.
func (o *Offload) HostBytes() int64 {
	var n int64
	for _, r := range o.rooms {
		n += r.size
	}
	return n
}

// Close waits for the copies and gives everything back.
func (o *Offload) Close() error {
	var err error
	if o.copies != nil {
		err = o.copies.Close()
	}
	for _, ev := range []*kernels.Event{o.ready, o.down, o.up} {
		if ev != nil {
			ev.Close()
		}
	}
	for _, r := range o.rooms {
		if r.memory != nil {
			r.memory.Close()
		}
	}
	*o = Offload{}
	return err
}

// room is the host's memory for the i-th input, of at least so many bytes.
func (o *Offload) room(i int, bytes int64) (*kernels.HostMemory, error) {
	if i == len(o.rooms) {
		o.rooms = append(o.rooms, hostRoom{})
	}
	r := &o.rooms[i]
	if r.size >= bytes {
		return r.memory, nil
	}
	if r.memory != nil {
		if err := o.copies.Sync(); err != nil { // it may be read still
			return nil, err
		}
		r.memory.Close()
		*r = hostRoom{}
	}
	m, err := o.dev.NewHostMemory(bytes)
	if err != nil {
		return nil, err
	}
	*r = hostRoom{m, bytes}
	return m, nil
}

// stow begins to copy the input of a block that has ended to the host. The room of the one before is free from here on.
func (o *Offload) stow(t *Tape, v Value) {
	o.settle(t)
	s := &t.slots[v.id]
	// Only what is the block's alone, and only memory of the tape.
	if t.err != nil || s.refs != 1 || s.readers > 0 || s.dataMem.seg == 0 || !s.data.Contiguous() {
		return
	}
	m, err := o.room(len(o.stowed), s.data.Bytes())
	if err != nil {
		t.Fail("offload activations", err, s.data)
		return
	}
	t.mem.queue.Record(o.ready)
	o.copies.Wait(o.ready)
	kernels.DownloadAsync(o.copies, m, 0, s.data)
	o.copies.Record(o.down)
	o.stowed = append(o.stowed, stowed{v, leaving})
	t.Fail("offload activations", o.copies.Err(), s.data)
}

// settle frees the room of the newest input: what the tape's queue runs from here on waits for its copy.
func (o *Offload) settle(t *Tape) {
	n := len(o.stowed) - 1
	if t.err != nil || n < 0 || o.stowed[n].state != leaving {
		return
	}
	t.mem.queue.Wait(o.down)
	s := &t.slots[o.stowed[n].v.id]
	t.mem.release(&s.dataMem)
	s.data = Tensor{}
	o.stowed[n].state = away
}

// take has the input of a block back on the device, for what the tape's queue runs from here on, and begins to fetch that of the block before.
// A value that was not stowed is there anyway.
func (o *Offload) take(t *Tape, v Value) {
	n := len(o.stowed) - 1
	if t.err != nil || n < 0 || o.stowed[n].v != v {
		return
	}
	if o.stowed[n].state == away {
		o.fetch(t, n)
	}
	o.drop(t, v)
	if n > 0 && t.err == nil {
		o.fetch(t, n-1)
	}
}

// drop forgets an input, of which the tape's queue has the room, if it has one, to itself from here on.
func (o *Offload) drop(t *Tape, v Value) {
	n := len(o.stowed) - 1
	if t.err != nil || n < 0 || o.stowed[n].v != v {
		return
	}
	switch o.stowed[n].state {
	case leaving:
		t.mem.queue.Wait(o.down)
	case coming:
		t.mem.queue.Wait(o.up)
	case away:
	}
	o.stowed = o.stowed[:n]
}

// fetch begins to copy the i-th input back to the device.
func (o *Offload) fetch(t *Tape, i int) {
	e := &o.stowed[i]
	if e.state != away {
		return
	}
	shape := t.slots[e.v.id].shape
	x, b, err := t.mem.tensor(shape.DType, shape.Shape())
	if err != nil {
		t.Fail("fetch offloaded activations", err, shape)
		return
	}
	s := &t.slots[e.v.id]
	s.data, s.dataMem = x, b
	// What used the room before has passed by then.
	t.mem.queue.Record(o.ready)
	o.copies.Wait(o.ready)
	kernels.UploadAsync(o.copies, x, o.rooms[i].memory, 0)
	o.copies.Record(o.up)
	e.state = coming
	t.Fail("fetch offloaded activations", o.copies.Err(), x)
}

// reset forgets all inputs. Where a pass was given up, it waits for copies in flight: their rooms on the device are somebody else's afterwards.
func (o *Offload) reset() error {
	busy := false
	for _, e := range o.stowed {
		busy = busy || e.state != away
	}
	o.stowed = o.stowed[:0]
	if busy {
		return o.copies.Sync()
	}
	return o.copies.Err()
}
