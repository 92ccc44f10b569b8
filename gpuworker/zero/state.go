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

// Prefixes of a tensor's name in a checkpoint.
const (
	ParamPrefix = "param/"
	AdamM       = "adam_m/"
	AdamV       = "adam_v/"
)

// Snapshot is a host copy of the trainable values and moments that a rank owns: what it writes to a checkpoint.
type Snapshot struct {
	pieces []piece
	buf    []float32
}

type piece struct {
	tensor string
	shape  []int64
	from   int64
	data   []float32
}

// Bytes is the size of the content.
func (s *Snapshot) Bytes() int64 { return 4 * int64(len(s.buf)) }

// Write hands every stretch to add: a flat tensor's name, full shape, first element and values.
func (s *Snapshot) Write(add func(tensor string, shape []int64, from int64, data []float32) error) error {
	for _, p := range s.pieces {
		if err := add(p.tensor, p.shape, p.from, p.data); err != nil {
			return err
		}
	}
	return nil
}

// ownState lists the stretches that this rank writes to checkpoints, with offsets into the bucket's state.
func (e *Engine) ownState(b *bucket) []Segment {
	if e.sharded() || e.plan.world == 1 {
		return b.segs
	}
	var out []Segment
	for _, u := range b.units {
		lo, hi := u.train.bounds[e.plan.rank], u.train.bounds[e.plan.rank+1]
		out = append(out, u.train.segments(lo, hi, u.full+lo)...)
	}
	return out
}

// Snapshot copies what this rank owns to the host; training may go on at once. old, when not nil, is a snapshot whose memory may be reused.
func (e *Engine) Snapshot(old *Snapshot) (*Snapshot, error) {
	s := &Snapshot{}
	if old != nil {
		s.pieces, s.buf = old.pieces[:0], old.buf
	}
	total := int64(0)
	for _, b := range e.plan.buckets {
		for _, g := range e.ownState(b) {
			total += 3 * g.Len
		}
	}
	buf := grow(&s.buf, total)
	s.buf = buf
	for _, b := range e.plan.buckets {
		for _, g := range e.ownState(b) {
			for _, t := range []struct {
				prefix string
				flat   kernels.Tensor
			}{{ParamPrefix, b.mem.p}, {AdamM, b.mem.m}, {AdamV, b.mem.v}} {
				dst := buf[:g.Len:g.Len]
				buf = buf[g.Len:]
				if err := kernels.Download(e.q, dst, t.flat.Slice(0, g.Offset, g.Offset+g.Len)); err != nil {
					return nil, fmt.Errorf("cannot take a snapshot of %s: %w", g.Param.Name, err)
				}
				s.pieces = append(s.pieces, piece{tensor: t.prefix + g.Param.Name, shape: g.Param.Shape, from: g.Start, data: dst})
			}
		}
	}
	return s, nil
}

// Restore fills trainable values and moments from a checkpoint of any world: read fills dst with the elements from `from` on.
func (e *Engine) Restore(ctx context.Context, read func(ctx context.Context, tensor string, from int64, dst []float32) error) error {
	for _, b := range e.plan.buckets {
		for _, g := range e.stateSegments(b) {
			for _, t := range []struct {
				prefix string
				flat   kernels.Tensor
			}{{ParamPrefix, b.mem.p}, {AdamM, b.mem.m}, {AdamV, b.mem.v}} {
				buf := grow(&e.host.send, g.Len)
				if err := read(ctx, t.prefix+g.Param.Name, g.Start, buf); err != nil {
					return fmt.Errorf("cannot restore %s: %w", t.prefix+g.Param.Name, err)
				}
				if err := kernels.Upload(e.q, t.flat.Slice(0, g.Offset, g.Offset+g.Len), buf); err != nil {
					return fmt.Errorf("cannot restore %s: %w", t.prefix+g.Param.Name, err)
				}
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
		lo, hi := max(offset, u.train.bounds[k]), min(offset+n, u.train.bounds[k+1])
		if lo >= hi {
			continue
		}
		if k == e.plan.rank {
			at := u.full + lo
			if e.sharded() {
				at = u.own + lo - u.train.bounds[k]
			}
			mine := grow(&e.host.send, hi-lo)
			if err := kernels.Download(e.q, mine, u.bucket.mem.p.Slice(0, at, at+hi-lo)); err != nil {
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
