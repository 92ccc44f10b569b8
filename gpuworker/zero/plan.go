package zero

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
)

// part is the trainable or the frozen half of a unit.
type part struct {
	layout autograd.Layout
	// bounds are the owners' ranges in elements of the layout: rank r owns [bounds[r], bounds[r+1]).
	bounds []int64
}

func newPart(l autograd.Layout, world int, whole func(*autograd.Param) bool) part {
	return part{layout: l, bounds: l.Bounds(world, whole)}
}

func (p *part) own(rank int) int64 { return p.bounds[rank+1] - p.bounds[rank] }

// Segment is a stretch of one parameter: elements [Start, Start+Len), at Offset of the flat buffer it is listed for, in the unit (elements
// or words) of the layout.
type Segment struct {
	Param              *autograd.Param
	Start, Len, Offset int64
}

// segments lists the stretches of parameters in [lo, hi) of the layout, with offsets shifted by base-lo.
func (p *part) segments(lo, hi, base int64) []Segment {
	var out []Segment
	for _, s := range p.layout.Slots {
		from, to := max(lo, s.Offset), min(hi, s.Offset+p.layout.Size(s.Param))
		if from >= to {
			continue
		}
		g := Segment{Param: s.Param, Start: from - s.Offset, Len: to - from, Offset: from - lo + base}
		if p.layout.Words {
			per := 4 / s.Param.DType().Size()
			g.Start *= per
			g.Len = min(g.Len*per, s.Param.Len()-g.Start)
		}
		out = append(out, g)
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
	// passed is 1 + the micro-step of the last backward pass, 0 before the first of a leaf.
	passed int
}

// bucket is a group of units whose gradients are exchanged together once a leaf.
type bucket struct {
	units []*unit
	// fullLen and ownLen are elements of all units together, and of this rank's ranges.
	fullLen, ownLen int64
	// segs are this rank's stretches in own order; all holds every stretch in full order.
	segs, all []Segment
	// runs is what the optimizer updates: segs (sharded) or all.
	runs []run
	// firstChunk is the place of the bucket's first chunk among those that this rank owns.
	firstChunk int64

	mem   bucketMemory
	grads *slot
	// spare holds the gradients of a rank without a leaf while grads keeps those of its earlier ones.
	spare        *slot
	begun, ended int
}

// run is a stretch of a bucket's state without gaps whose elements the optimizer treats alike.
type run struct {
	// first is the segment it begins with; off its offset in the bucket's state.
	first    Segment
	off, len int64
	group    optim.Group
	decl     []optim.StateTensor
	state    []kernels.Tensor
}

// perElement reports whether all state lies as the parameter does, so that neighbours can be joined.
func perElement(decl []optim.StateTensor) bool {
	for _, d := range decl {
		if d.Block != 1 || d.DType != kernels.F32 {
			return false
		}
	}
	return true
}

func sameDecl(a, b []optim.StateTensor) bool {
	return slices.EqualFunc(a, b, func(x, y optim.StateTensor) bool { return x.Name == y.Name })
}

// addRuns appends the stretches of one unit, joining neighbouring segments where the optimizer takes more than one parameter at a time.
func (b *bucket) addRuns(segs []Segment, opt optim.Optimizer) {
	from := len(b.runs)
	for _, s := range segs {
		g, decl := opt.Group(s.Param), opt.State(s.Param)
		if n := len(b.runs); n > from && !opt.Whole(s.Param) && !opt.Whole(b.runs[n-1].first.Param) {
			r := &b.runs[n-1]
			if r.group == g && r.off+r.len == s.Offset && r.first.Param.Expert == s.Param.Expert && perElement(decl) && perElement(r.decl) && sameDecl(decl, r.decl) {
				r.len += s.Len
				continue
			}
		}
		b.runs = append(b.runs, run{first: s, off: s.Offset, len: s.Len, group: g, decl: decl})
	}
}

// plan is how a model's units are cut for one rank of a world.
type plan struct {
	world, rank int
	units       []*unit
	buckets     []*bucket
	// chunkOf[r] lists, in the order in which rank r reports them, the global index of each chunk that it owns. chunks is their number.
	chunkOf [][]int64
	chunks  int64
	// params are the parameters of the chunks where some optimizer trains others in other steps.
	params []*autograd.Param
}

// makePlan cuts units. bucketLen is the most elements of a group of small units.
func makePlan(units []*autograd.Unit, rank, world int, bucketLen int64, sharded bool, opt optim.Optimizer) (*plan, error) {
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
		v := &unit{u: u, train: newPart(u.GradLayout(), world, opt.Whole), frozen: newPart(frozen.DataLayout(), world, nil)}
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
		segs, all := v.train.segments(v.train.bounds[rank], v.train.bounds[rank+1], b.ownLen), v.train.segments(0, n, b.fullLen)
		b.segs, b.all = append(b.segs, segs...), append(b.all, all...)
		if sharded {
			b.addRuns(segs, opt)
		} else {
			b.addRuns(all, opt)
		}
		b.fullLen += n
		b.ownLen += v.train.own(rank)
	}
	_, turns := opt.(optim.Turns)
	for _, b := range p.buckets {
		b.firstChunk = int64(len(p.chunkOf[rank]))
		for _, v := range b.units {
			p.countChunks(v)
			for _, c := range v.train.layout.Chunks() {
				if turns {
					p.params = append(p.params, c.Param)
				}
			}
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
