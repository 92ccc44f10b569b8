package zero

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"sort"

	"github.com/tunefleet/tunefleet/kernels"
)

// ParamPrefix stands before a parameter's name in a checkpoint; the optimizer's state has the prefixes that it declares.
const ParamPrefix = "param/"

// Snapshot is a host copy of the trainable values and optimizer state that a rank owns: what it writes to a checkpoint.
type Snapshot struct {
	pieces []piece
	buf    []float32
	// arrived has a token for each of the first pieces that has come from the device and not been asked for; it is closed when no more will
	// come, err being set before. nil: all are there.
	arrived chan struct{}
	awaited int // pieces that come from the device
	err     error
}

type piece struct {
	tensor string
	shape  []int64
	from   int64
	data   []float32
}

// Bytes is the size of the content.
func (s *Snapshot) Bytes() int64 {
	var n int64
	for _, p := range s.pieces {
		n += 4 * int64(len(p.data))
	}
	return n
}

// Write hands every stretch to add: a flat tensor's name, full shape, first element and values. It waits for those that are still on their way
// from the device, and is called once.
func (s *Snapshot) Write(add func(tensor string, shape []int64, from int64, data []float32) error) error {
	for i, p := range s.pieces {
		if s.arrived != nil && i < s.awaited {
			if _, ok := <-s.arrived; !ok {
				if s.err != nil {
					return s.err
				}
				s.arrived = nil // written once before: all are there
			}
		}
		if err := add(p.tensor, p.shape, p.from, p.data); err != nil {
			return err
		}
	}
	return nil
}

// SnapshotBytes is the size of a snapshot that would be taken now.
func (e *Engine) SnapshotBytes() int64 {
	n := int64(0)
	for _, b := range e.plan.buckets {
		for _, g := range b.mine {
			for _, t := range b.tensors(g) {
				n += 4 * t.elements()
			}
		}
	}
	for _, p := range e.bestPieces() {
		n += 4 * int64(len(p.data))
	}
	if e.plan.rank == 0 {
		n += 4 * int64(e.Experts())
	}
	return n
}

// Snapshot copies what this rank owns to the host; training may go on at once. From a device of its own memory the copies run in the
// background, see staged.go; they are those of the state at this call. old, when not nil, is a snapshot that was written, whose memory may be
// reused.
func (e *Engine) Snapshot(old *Snapshot) (*Snapshot, error) {
	e.copies.settleAll()
	s := &Snapshot{}
	if old != nil {
		s.pieces, s.buf = old.pieces[:0], old.buf
	}
	total := int64(0)
	for _, b := range e.plan.buckets {
		for _, g := range b.mine {
			for _, t := range b.tensors(g) {
				total += t.elements()
			}
		}
	}
	buf := grow(&s.buf, total)
	s.buf = buf
	var jobs []copyJob
	for _, b := range e.plan.buckets {
		for _, g := range b.mine {
			for _, t := range b.tensors(g) {
				n := t.elements()
				dst := buf[:n:n]
				buf = buf[n:]
				if !e.q.Device().SharesHost() {
					if t.data.DType == kernels.U8 {
						clear(dst[n-1:]) // the last element may be filled in part
					}
					jobs = append(jobs, copyJob{b, t, dst})
				} else if err := t.download(e.q, dst); err != nil {
					return nil, fmt.Errorf("cannot take a snapshot of %s: %w", t.name, err)
				}
				s.pieces = append(s.pieces, piece{tensor: t.name, shape: t.shape, from: t.from, data: dst})
			}
		}
	}
	s.pieces = append(s.pieces, e.bestPieces()...)
	s.pieces = append(s.pieces, e.skipPieces()...)
	if len(jobs) > 0 {
		s.awaited, s.arrived = len(jobs), make(chan struct{}, len(jobs))
		if err := e.copies.begin(e.q, s, jobs); err != nil {
			return nil, fmt.Errorf("cannot take a snapshot: %w", err)
		}
	}
	return s, nil
}

// stored is one stretch of one tensor as checkpoints hold it: float32, also of values that are held in bf16. Codes of 8 bits are stored four
// to an element.
type stored struct {
	name  string
	shape []int64
	from  int64
	data  kernels.Tensor
	// host: it lies in the host's memory, see offload.
	host bool
}

func packed(n int64) int64 { return (n + 3) / 4 }

func (t stored) elements() int64 {
	if t.data.DType == kernels.U8 {
		return packed(t.data.Numel())
	}
	return t.data.Numel()
}

func (t stored) download(q *kernels.Queue, dst []float32) error {
	if t.data.DType != kernels.U8 {
		return kernels.DownloadFloats(q, dst, t.data)
	}
	clear(dst) // the last element may be filled in part
	return kernels.Download(q, bytesOf(dst)[:t.data.Numel()], t.data)
}

func (t stored) upload(q *kernels.Queue, src []float32) error {
	if t.data.DType != kernels.U8 {
		return kernels.UploadFloats(q, t.data, src)
	}
	return kernels.Upload(q, t.data, bytesOf(src)[:t.data.Numel()])
}

// values are those of a stretch of what this rank holds.
func (b *bucket) values(g Segment) stored {
	return stored{name: ParamPrefix + g.Param.Name, shape: g.Param.Shape, from: g.Start, data: b.mem.p.Slice(0, g.Offset, g.Offset+g.Len)}
}

// tensors lists what is stored of a stretch of the bucket's state: the values, and the optimizer's state.
func (b *bucket) tensors(g Segment) []stored {
	out := []stored{b.values(g)}
	for _, r := range b.runs {
		if g.Offset < r.off || g.Offset >= r.off+r.len {
			continue
		}
		for i, d := range r.decl {
			t := stored{name: d.Name + "/" + g.Param.Name, shape: d.Shape, data: r.state[i], host: b.hostState}
			if d.Block > 0 {
				// Blocks count from the parameter's start, and stretches begin at multiples of them.
				lo := (g.Offset - r.off) / d.Block
				t.from, t.data = g.Start/d.Block, t.data.Slice(0, lo, lo+d.Len(g.Len))
				t.shape = []int64{d.Len(g.Param.Len())}
				if d.Block == 1 {
					t.shape = g.Param.Shape
				}
			}
			if d.DType == kernels.U8 {
				t.from, t.shape = t.from/4, []int64{packed(g.Param.Len())}
			}
			out = append(out, t)
		}
	}
	return out
}

// restored lists what this rank reads of a checkpoint: all values that it holds, and the optimizer's state of what it updates.
func (e *Engine) restored(b *bucket) (out []stored) {
	if !e.shares() {
		for _, g := range b.kept {
			out = append(out, b.tensors(g)...)
		}
		return out
	}
	for _, g := range b.kept {
		out = append(out, b.values(g))
	}
	for _, g := range b.mine {
		out = append(out, b.tensors(g)[1:]...)
	}
	return out
}

// Restore fills trainable values and optimizer state from a checkpoint of any world: read fills dst with the elements from `from` on.
func (e *Engine) Restore(ctx context.Context, read func(ctx context.Context, tensor string, from int64, dst []float32) error) error {
	e.copies.settleAll()
	for _, b := range e.plan.buckets {
		for _, t := range e.restored(b) {
			buf := grow(&e.host.send, t.elements())
			if err := read(ctx, t.name, t.from, buf); err != nil {
				return fmt.Errorf("cannot restore %s: %w", t.name, err)
			}
			q := e.q
			if t.host {
				q = e.off.queue
			}
			if err := t.upload(q, buf); err != nil {
				return fmt.Errorf("cannot restore %s: %w", t.name, err)
			}
		}
	}
	return nil
}

// StateHash is the SHA-256 of the trainable values: name, element count and content (fp32, little endian) of every tensor in the order of
// their names, as checkpoint.Reader.StateHash computes it over the tensors with ParamPrefix. All ranks call it; rank 0 gets the hash, the
// others "".
func (e *Engine) StateHash(ctx context.Context) (string, error) {
	type tensor struct {
		name   string
		len    int64
		unit   *unit
		offset int64
	}
	var all []tensor
	for _, u := range e.plan.units {
		for _, s := range u.train.layout.Slots {
			all = append(all, tensor{ParamPrefix + s.Param.Name, s.Param.Len(), u, s.Offset})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	sum := sha256.New()
	raw := make([]byte, 64<<10)
	for _, t := range all {
		whole, err := e.collect(ctx, t.unit, t.offset, t.len)
		if err != nil {
			return "", fmt.Errorf("cannot hash %s: %w", t.name, err)
		}
		if e.plan.rank != 0 {
			continue
		}
		fmt.Fprintf(sum, "%s\x00%d\x00", t.name, t.len)
		for len(whole) > 0 {
			n := min(len(whole), len(raw)/4)
			for i, v := range whole[:n] {
				binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
			}
			sum.Write(raw[:4*n])
			whole = whole[n:]
		}
	}
	if e.plan.rank != 0 {
		return "", nil
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// collect brings elements [offset, offset+n) of a unit's trainable layout to rank 0.
func (e *Engine) collect(ctx context.Context, u *unit, offset, n int64) ([]float32, error) {
	send, recv := e.host.bufs[0], e.host.bufs[1]
	clear(send)
	clear(recv)
	var whole []float32
	if e.plan.rank == 0 {
		whole = grow(&e.host.recv, n)
	}
	for k := range e.plan.world {
		lo, hi := u.owned(k)
		lo, hi = max(offset, lo), min(offset+n, hi)
		if lo >= hi {
			continue
		}
		if k == e.plan.rank {
			from, _ := u.held(k)
			at := u.kept + lo - from
			mine := grow(&e.host.send, hi-lo)
			if err := kernels.DownloadFloats(e.q, mine, u.bucket.mem.p.Slice(0, at, at+hi-lo)); err != nil {
				return nil, err
			}
			send[0] = bytesOf(mine)
		}
		if e.plan.rank == 0 {
			recv[k] = bytesOf(whole[lo-offset : hi-offset])
		}
	}
	return whole, e.comm.AllToAll(ctx, send, recv)
}
