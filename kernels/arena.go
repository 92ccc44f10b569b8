package kernels

import (
	"fmt"
	"math"
)

const arenaAlign = 256

// Buffer is a stretch of an arena.
type Buffer struct {
	Addr  Addr  // device address of the first byte
	Off   int64 // bytes from the arena's start
	Bytes int64
}

// Tensor is a contiguous tensor over the buffer; invalid when it does not fit.
func (b Buffer) Tensor(dt DType, dims ...int64) Tensor {
	t := NewTensor(b.Addr, dt, dims...)
	if !t.Valid() || t.Bytes() > b.Bytes {
		return invalid
	}
	return t
}

// Arena is a stretch of device memory handed out as two stacks: one grows from the low end, one from the high end (say saved activations
// below, gradients and recomputation above). There are no frees but Release to a mark. An arena is used by one goroutine at a time.
type Arena struct {
	d    *Device
	name string
	addr Addr
	size int64
	low  int64 // bytes used below
	high int64 // bytes used above
	peak int64
}

// NewArena allocates an arena of that many bytes. The CPU touches (and counts as resident) only pages that are written. On a counting
// device bytes may be 0: the arena then has no limit, and Peak tells what is needed.
func (d *Device) NewArena(name string, bytes int64) (*Arena, error) {
	a := &Arena{d: d, name: name, size: bytes}
	if d.counting && bytes == 0 {
		a.size = math.MaxInt64 / 4
		a.addr = Addr(d.next.Add(1<<44) - 1<<44)
		return a, nil
	}
	addr, err := d.alloc(bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot make arena %s: %w", name, err)
	}
	a.addr = addr
	return a, nil
}

// Name is the arena's name.
func (a *Arena) Name() string { return a.name }

// Size is the arena's bytes, Used those handed out now, Peak the most ever handed out.
func (a *Arena) Size() int64 { return a.size }

// Used is the bytes handed out now.
func (a *Arena) Used() int64 { return a.low + a.high }

// Peak is the most bytes that were handed out at once.
func (a *Arena) Peak() int64 { return a.peak }

func (a *Arena) take(bytes int64) (int64, error) {
	if a.addr == 0 || bytes < 0 {
		return 0, &Error{Op: "alloc", Status: StatusInvalid, Why: fmt.Sprintf("%d bytes of arena %s", bytes, a.name)}
	}
	n := (bytes + arenaAlign - 1) / arenaAlign * arenaAlign
	if n < bytes || n > a.size-a.low-a.high {
		return 0, &OutOfMemoryError{Arena: a.name, Need: n, Have: a.size - a.low - a.high}
	}
	return n, nil
}

// Alloc hands out bytes from the low end, aligned to 256. Its content is undefined.
func (a *Arena) Alloc(bytes int64) (Buffer, error) {
	n, err := a.take(bytes)
	if err != nil {
		return Buffer{}, err
	}
	b := Buffer{Addr: a.addr + Addr(a.low), Off: a.low, Bytes: n}
	a.low += n
	a.peak = max(a.peak, a.low+a.high)
	return b, nil
}

// AllocHigh hands out bytes from the high end.
func (a *Arena) AllocHigh(bytes int64) (Buffer, error) {
	n, err := a.take(bytes)
	if err != nil {
		return Buffer{}, err
	}
	a.high += n
	off := a.size/arenaAlign*arenaAlign - a.high
	if off < a.low {
		a.high -= n
		return Buffer{}, &OutOfMemoryError{Arena: a.name, Need: n, Have: a.size/arenaAlign*arenaAlign - a.low - a.high}
	}
	a.peak = max(a.peak, a.low+a.high)
	return Buffer{Addr: a.addr + Addr(off), Off: off, Bytes: n}, nil
}

// New is a contiguous tensor from the low end.
func (a *Arena) New(dt DType, dims ...int64) (Tensor, error) {
	b, err := a.Alloc(NewTensor(1, dt, dims...).Bytes())
	if err != nil {
		return invalid, err
	}
	return b.Tensor(dt, dims...), nil
}

// NewHigh is a contiguous tensor from the high end.
func (a *Arena) NewHigh(dt DType, dims ...int64) (Tensor, error) {
	b, err := a.AllocHigh(NewTensor(1, dt, dims...).Bytes())
	if err != nil {
		return invalid, err
	}
	return b.Tensor(dt, dims...), nil
}

// Mark is a height of an arena's two stacks.
type Mark struct{ low, high int64 }

// Mark notes how much is handed out.
func (a *Arena) Mark() Mark { return Mark{a.low, a.high} }

// Release takes back all of the low end that was handed out after the mark. The caller sees to it that nothing queued on another queue
// still uses it (operations of one queue run in order, so reuse on the same queue is safe).
func (a *Arena) Release(m Mark) { a.low = min(a.low, m.low) }

// ReleaseHigh takes back all of the high end that was handed out after the mark.
func (a *Arena) ReleaseHigh(m Mark) { a.high = min(a.high, m.high) }

// Reset takes back everything.
func (a *Arena) Reset() { a.low, a.high = 0, 0 }

// Close gives the memory back, after the queues that use it were synchronized.
func (a *Arena) Close() {
	if a.addr == 0 {
		return
	}
	if !a.d.counting || a.size < math.MaxInt64/4 {
		a.d.release(a.addr, a.size)
	}
	a.addr, a.low, a.high = 0, 0, 0
}
