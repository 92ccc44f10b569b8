package autograd

import (
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// Tensor is a strided view of device memory.
type Tensor = kernels.Tensor

// minSegment is the least number of bytes asked of the device at a time. Small enough that what is asked for and never used does not
// count, large enough that tensors of a usual size find room in each other's place.
const minSegment = 16 << 20

// Memory is an arena of device memory: activations, gradients and scratch of one tape come from it and go back to it, and it keeps what
// it has taken from the device until Close. Equal sequences of requests give equal addresses within it.
type Memory struct {
	dev        *kernels.Device
	queue      *kernels.Queue
	segments   []segment
	loans      map[*Loan]struct{}
	used, peak int64
	limit      int64
}

type segment struct {
	arena *kernels.Arena
	base  kernels.Addr
	spans *spans
}

// block is memory that the arena has lent.
type block struct {
	seg  int32 // index + 1
	off  int64
	size int64
}

// OutOfMemoryError says what an allocation needed and what there was.
type OutOfMemoryError struct {
	Need, Used, Limit int64
	Cause             error
}

func (e *OutOfMemoryError) Error() string {
	s := fmt.Sprintf("out of device memory: %d bytes needed, %d in use", e.Need, e.Used)
	if e.Limit > 0 {
		s += fmt.Sprintf(" of %d allowed", e.Limit)
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the device's error.
func (e *OutOfMemoryError) Unwrap() error { return e.Cause }

// NewMemory makes an arena on a device; operations run on queue. limit bounds the bytes taken from the device (0: none).
func NewMemory(dev *kernels.Device, queue *kernels.Queue, limit int64) *Memory {
	return &Memory{dev: dev, queue: queue, limit: limit, loans: map[*Loan]struct{}{}}
}

// Queue is the queue that operations run on.
func (m *Memory) Queue() *kernels.Queue { return m.queue }

// Device is the device that the memory is on.
func (m *Memory) Device() *kernels.Device { return m.dev }

// Used and Peak are bytes lent now and at most; Reserved what the arena holds of the device.
func (m *Memory) Used() int64 { return m.used }

// Peak is the greatest number of bytes lent at once.
func (m *Memory) Peak() int64 { return m.peak }

// Reserved is the number of bytes taken from the device.
func (m *Memory) Reserved() int64 {
	var n int64
	for _, s := range m.segments {
		n += s.spans.size
	}
	return n
}

// Close returns everything to the device, after waiting for the queue.
func (m *Memory) Close() error {
	err := m.queue.Sync()
	for _, s := range m.segments {
		s.arena.Close()
	}
	m.segments, m.used = nil, 0
	clear(m.loans)
	return err
}

func (m *Memory) alloc(n int64) (block, error) {
	n = roundUp(n)
	for i := range m.segments {
		if off, ok := m.segments[i].spans.alloc(n); ok {
			return m.lend(block{int32(i + 1), off, n}), nil
		}
	}
	have := m.Reserved()
	size := max(n, minSegment)
	if m.limit > 0 && have+size > m.limit {
		size = n
	}
	if m.limit > 0 && have+size > m.limit {
		return block{}, &OutOfMemoryError{Need: n, Used: m.used, Limit: m.limit}
	}
	size = (size + 4095) &^ 4095
	arena, err := m.dev.NewArena("tape", size)
	if err != nil {
		return block{}, &OutOfMemoryError{Need: n, Used: m.used, Limit: m.limit, Cause: err}
	}
	buf, err := arena.Alloc(size)
	if err != nil {
		arena.Close()
		return block{}, &OutOfMemoryError{Need: n, Used: m.used, Limit: m.limit, Cause: err}
	}
	m.segments = append(m.segments, segment{arena: arena, base: buf.Addr, spans: newSpans(size)})
	off, ok := m.segments[len(m.segments)-1].spans.alloc(n)
	if !ok {
		return block{}, errors.New("a fresh segment does not hold the request it was made for")
	}
	return m.lend(block{int32(len(m.segments)), off, n}), nil
}

func (m *Memory) lend(b block) block {
	m.used += b.size
	m.peak = max(m.peak, m.used)
	return b
}

func (m *Memory) release(b *block) {
	if b.seg == 0 {
		return
	}
	m.segments[b.seg-1].spans.release(b.off, b.size)
	m.used -= b.size
	*b = block{}
}

// releaseAll takes back everything lent to a tape. Loans stay where they are.
func (m *Memory) releaseAll() {
	for i := range m.segments {
		m.segments[i].spans = newSpans(m.segments[i].spans.size)
	}
	m.used = 0
	for l := range m.loans {
		m.segments[l.block.seg-1].spans.reserve(l.block.off, l.block.size)
		m.used += l.block.size
	}
}

// Loan is memory that its borrower gives back itself: a tape's Reset leaves it alone. Gradients that live from the backward pass to the
// update borrow what activations have freed by then.
type Loan struct {
	m      *Memory
	block  block
	tensor Tensor
}

// Borrow lends memory for a float32 tensor with undefined contents.
func (m *Memory) Borrow(shape ...int64) (*Loan, error) {
	x, b, err := m.tensor(kernels.F32, shape)
	if err != nil {
		return nil, err
	}
	l := &Loan{m: m, block: b, tensor: x}
	m.loans[l] = struct{}{}
	return l, nil
}

// Tensor is the borrowed memory.
func (l *Loan) Tensor() Tensor { return l.tensor }

// Return gives the memory back; what is queued on the memory's queue may still use it. Returning twice, or after the memory was closed,
// does nothing.
func (l *Loan) Return() {
	if l == nil {
		return
	}
	if _, lent := l.m.loans[l]; lent {
		delete(l.m.loans, l)
		l.m.release(&l.block)
	}
}

func (m *Memory) tensor(dt kernels.DType, shape []int64) (Tensor, block, error) {
	n := dt.Size()
	for _, d := range shape {
		n *= d
	}
	b, err := m.alloc(n)
	if err != nil {
		return Tensor{}, block{}, err
	}
	return kernels.NewTensor(m.segments[b.seg-1].base+kernels.Addr(b.off), dt, shape...), b, nil
}

func (m *Memory) zero(x Tensor) error {
	m.queue.Fill(kernels.Fill{Y: x})
	return m.queue.Err()
}

// flatView views n elements of a flat buffer from off on as a tensor of another type and shape.
func flatView(flat Tensor, off, n int64, dt kernels.DType, shape []int64) (Tensor, error) {
	if !flat.Contiguous() || off < 0 || off+n > flat.Numel() {
		return Tensor{}, fmt.Errorf("%d elements at %d do not fit into %v", n, off, flat)
	}
	return kernels.NewTensor(flat.Data+kernels.Addr(off*flat.DType.Size()), dt, shape...), nil
}
