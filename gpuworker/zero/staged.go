package zero

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/tunefleet/tunefleet/kernels"
)

// A snapshot of a device's memory is copied while training goes on: on a queue of its own, through a bounded stretch of page-locked memory, from
// where it is taken over into the snapshot. Values and optimizer state are written by updates only, so an update of a bucket waits until the
// bucket has been copied; the passes before it do not.
const (
	// stagingSlots copies are under way at a time: one arrives while the one before it is taken out.
	stagingSlots = 2
	// stagingBytes is a slot's size.
	stagingBytes = 4 << 20
)

// copyJob is one stretch of the state on its way to the host.
type copyJob struct {
	bucket *bucket
	from   stored
	to     []float32
}

// landing says when a bucket's part of a snapshot is on the host.
type landing struct {
	done chan struct{}
	err  error // set before done is closed
}

// stagingSlot is a part of the staging memory, and what it waits for.
type stagingSlot struct {
	off   int64
	event *kernels.Event
}

// copier takes snapshots off a device. One goroutine at a time uses its queue: the one that copies.
type copier struct {
	queue  *kernels.Queue
	memory *kernels.HostMemory
	slots  [stagingSlots]stagingSlot
	size   int64 // bytes of a slot, a multiple of every element's; stagingBytes when 0
	// running is closed when nothing is being copied; nil before the first.
	running chan struct{}
	// landings are those of the snapshot on its way that no update has waited for.
	landings map[*bucket]*landing
	// stalled is how long updates have waited.
	stalled time.Duration
}

// open makes queue and staging memory when they are first needed.
func (c *copier) open(dev *kernels.Device) (err error) {
	if c.queue != nil {
		return nil
	}
	if c.size == 0 {
		c.size = stagingBytes
	}
	if c.memory, err = dev.NewHostMemory(stagingSlots * c.size); err != nil {
		return err
	}
	for i := range c.slots {
		c.slots[i].off = int64(i) * c.size
		if c.slots[i].event, err = dev.NewEvent(); err != nil {
			return err
		}
	}
	c.queue, err = dev.NewQueue(kernels.CopyOps)
	return err
}

// begin copies the jobs, which are in the order of their buckets, to s in the background.
func (c *copier) begin(q *kernels.Queue, s *Snapshot, jobs []copyJob) error {
	if err := c.open(q.Device()); err != nil {
		return err
	}
	// The boundary: what is wrong with the state is known before any of it is stored, and all of it has been written.
	if err := q.Sync(); err != nil {
		return err
	}
	c.landings, c.running = map[*bucket]*landing{}, make(chan struct{})
	for _, j := range jobs {
		if c.landings[j.bucket] == nil {
			c.landings[j.bucket] = &landing{done: make(chan struct{})}
		}
	}
	all := make([]*landing, len(jobs))
	for i, j := range jobs {
		all[i] = c.landings[j.bucket]
	}
	go func() {
		defer close(c.running)
		at := 0 // jobs before it have arrived
		err := c.copy(jobs, func() {
			s.arrived <- struct{}{} // as many as there are jobs fit
			if at++; at == len(jobs) || jobs[at].bucket != jobs[at-1].bucket {
				close(all[at-1].done)
			}
		})
		if err != nil {
			s.err = fmt.Errorf("cannot take a snapshot of %s: %w", jobs[at].from.name, err)
			for i := at; i < len(jobs); i++ {
				if i+1 == len(jobs) || jobs[i+1].bucket != jobs[i].bucket {
					all[i].err = s.err
					close(all[i].done)
				}
			}
		}
		close(s.arrived)
	}()
	return nil
}

// copy runs the jobs through the slots; landed is called for each of them in order.
func (c *copier) copy(jobs []copyJob, landed func()) error {
	type flight struct {
		slot  *stagingSlot
		job   *copyJob
		lo, n int64 // elements of the job's tensor
		last  bool
	}
	var flights []flight
	land := func() error {
		f := flights[0]
		flights = flights[1:]
		if err := f.slot.event.Sync(); err != nil {
			return errors.Join(err, c.queue.Err())
		}
		dt := f.job.from.data.DType
		raw := c.memory.Bytes()[f.slot.off : f.slot.off+f.n*dt.Size()]
		if err := f.job.take(raw, f.lo, f.n); err != nil {
			return err
		}
		if f.last {
			landed()
		}
		return nil
	}
	next := 0
	for i := range jobs {
		j := &jobs[i]
		if j.from.host {
			for len(flights) > 0 {
				if err := land(); err != nil {
					return err
				}
			}
			d := j.from.data
			if err := j.take(unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&d.Data))), d.Bytes()), 0, d.Numel()); err != nil {
				return err
			}
			landed()
			continue
		}
		total, step := j.from.data.Numel(), c.size/j.from.data.DType.Size()
		for lo := int64(0); lo < total; lo += step {
			if len(flights) == stagingSlots {
				if err := land(); err != nil {
					return err
				}
			}
			n := min(step, total-lo)
			s := &c.slots[next]
			next = (next + 1) % stagingSlots
			kernels.DownloadAsync(c.queue, c.memory, s.off, j.from.data.Slice(0, lo, lo+n))
			c.queue.Record(s.event)
			if err := c.queue.Err(); err != nil {
				return err
			}
			flights = append(flights, flight{s, j, lo, n, lo+n == total})
		}
	}
	for len(flights) > 0 {
		if err := land(); err != nil {
			return err
		}
	}
	return c.queue.Sync()
}

// take decodes elements [lo, lo+n) of the job's tensor from the bytes that the device had of them.
func (j *copyJob) take(raw []byte, lo, n int64) error {
	if j.from.data.DType != kernels.U8 {
		return kernels.Widen(j.to[lo:lo+n], raw, j.from.data.DType)
	}
	copy(bytesOf(j.to)[lo:lo+n], raw)
	return nil
}

// settle waits until the bucket's values and optimizer state may be written: a snapshot on its way has them.
func (c *copier) settle(b *bucket) error {
	l := c.landings[b]
	if l == nil {
		return nil
	}
	delete(c.landings, b)
	select {
	case <-l.done:
	default:
		began := time.Now()
		<-l.done
		c.stalled += time.Since(began)
	}
	return l.err
}

// settleAll waits until nothing is being copied. What went wrong is said by who writes the snapshot.
func (c *copier) settleAll() {
	if c.running == nil {
		return
	}
	began := time.Now()
	<-c.running
	c.stalled += time.Since(began)
	c.running, c.landings = nil, nil
}

// close waits for the copies and gives back what they use.
func (c *copier) close() error {
	c.settleAll()
	var err error
	if c.queue != nil {
		err = c.queue.Close()
	}
	for _, s := range c.slots {
		if s.event != nil {
			s.event.Close()
		}
	}
	if c.memory != nil {
		c.memory.Close()
	}
	c.queue, c.memory, c.slots = nil, nil, [stagingSlots]stagingSlot{}
	return err
}

// Stalled is how long updates have waited for snapshots since it was last asked.
func (e *Engine) Stalled() time.Duration {
	d := e.copies.stalled
	e.copies.stalled = 0
	return d
}
