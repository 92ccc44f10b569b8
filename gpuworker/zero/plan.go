package zero

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
)

// part is the trainable or the frozen half of a unit.
type part struct {
	layout autograd.Layout
	// bounds are the owners' ranges in elements of the layout: rank r owns [bounds[r], bounds[r+1]).
	bounds []int64
}

func newPart(l autograd.Layout, world int) part {
	return part{layout: l, bounds: l.Bounds(world)}
}

func (p *part) own(rank int) int64 { return p.bounds[rank+1] - p.bounds[rank] }

// Segment is a stretch of one parameter: elements [Start, Start+Len), at element Offset of the flat buffer it is listed for.
type Segment struct {
	Param              *autograd.Param
	Start, Len, Offset int64
}

// segments lists the stretches of parameters in elements [lo, hi) of the layout, with offsets shifted by base-lo.
func (p *part) segments(lo, hi, base int64) []Segment {
	var out []Segment
	for _, s := range p.layout.Slots {
		from, to := max(lo, s.Offset), min(hi, s.Offset+s.Param.Len())
		if from < to {
			out = append(out, Segment{Param: s.Param, Start: from - s.Offset, Len: to - from, Offset: from - lo + base})
		}
	}
	return out
}

// chunks is the number of chunks of a segment; segments begin at chunk boundaries.
func (s Segment) chunks() int64 { return (s.Len + autograd.ChunkLen - 1) / autograd.ChunkLen }

// unit is one rank's view of a unit.
type unit struct {
	u      *autograd.Unit
	train  part
	frozen part
	// bucket shares the exchange of gradients; nil when nothing is trainable. full and own are the unit's first elements in the bucket's
	// full and own buffers.
	bucket    *bucket
	full, own int64
	uses      int
	data      *slot
}

// bucket is a group of units whose gradients are exchanged together once a leaf.
type bucket struct {
	units []*unit
	// fullLen and ownLen are elements of all units together, and of this rank's ranges.
	fullLen, ownLen int64
	// segs are this rank's stretches in own order; all holds every stretch in full order.
	segs, all []Segment
	// state is what the optimizer updates: segs (sharded) or all.
	state []Segment
	runs  []run

	mem          bucketMemory
	grads        *slot
	begun, ended int
}

// run is a stretch of a bucket's state without gaps whose elements share a weight decay.
type run struct {
	off, len int64
	decay    bool
}

// buildRuns joins neighbouring segments.
func buildRuns(segs []Segment, decays func(*autograd.Param) bool) []run {
	var out []run
	for _, s := range segs {
		d := decays(s.Param)
		if n := len(out); n > 0 && out[n-1].decay == d && out[n-1].off+out[n-1].len == s.Offset {
			out[n-1].len += s.Len
			continue
		}
		out = append(out, run{off: s.Offset, len: s.Len, decay: d})
	}
	return out
}

// plan is how a model's units are cut for one rank of a world.
type plan struct {
	world, rank int
	units       []*unit
	buckets     []*bucket
	// chunkOf[r] lists, in the order in which rank r reports them, the global index of each chunk that it owns. chunks is their number.
	chunkOf [][]int64
	chunks  int64
}

// makePlan cuts units. bucketLen is the most elements of a group of small units.
func makePlan(units []*autograd.Unit, rank, world int, bucketLen int64, sharded bool, decays func(*autograd.Param) bool) (*plan, error) {
	if world < 1 || rank < 0 || rank >= world {
		return nil, fmt.Errorf("cannot shard: rank %d of %d does not exist", rank, world)
	}
	p := &plan{world: world, rank: rank, chunkOf: make([][]int64, world)}
	var open *bucket
	for _, u := range units {
		var frozen autograd.Unit
		for _, q := range u.Params {
			if q.Frozen {
				frozen.Params = append(frozen.Params, q)
			}
		}
		v := &unit{u: u, train: newPart(u.GradLayout(), world), frozen: newPart(frozen.DataLayout(), world)}
		p.units = append(p.units, v)
		n := v.train.layout.Len
		if n == 0 {
			continue
		}
		if open == nil || open.fullLen+n > bucketLen {
			open = &bucket{}
			p.buckets = append(p.buckets, open)
		}
		b := open
		v.bucket, v.full, v.own = b, b.fullLen, b.ownLen
		b.units = append(b.units, v)
		b.segs = append(b.segs, v.train.segments(v.train.bounds[rank], v.train.bounds[rank+1], b.ownLen)...)
		b.all = append(b.all, v.train.segments(0, n, b.fullLen)...)
		b.fullLen += n
		b.ownLen += v.train.own(rank)
	}
	for _, b := range p.buckets {
		b.state = b.all
		if sharded {
			b.state = b.segs
		}
		b.runs = buildRuns(b.state, decays)
		for _, v := range b.units {
			p.countChunks(v)
		}
	}
	return p, nil
}

// countChunks gives the unit's chunks their global indices: units in order, parameters in order, chunks in order.
func (p *plan) countChunks(v *unit) {
	r := 0
	for _, c := range v.train.layout.Chunks() {
		for c.Offset >= v.train.bounds[r+1] {
			r++
		}
		p.chunkOf[r] = append(p.chunkOf[r], p.chunks)
		p.chunks++
	}
}
