package zero

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// part is the trainable or the frozen half of a unit.
type part struct {
	layout autograd.Layout
	// bounds cut the layout, in its elements, into ranges.
	bounds []int64
}

func newPart(l autograd.Layout, ranges int, whole func(*autograd.Param) bool) part {
	return part{layout: l, bounds: l.Bounds(ranges, whole)}
}

// ranks says who holds what. Values lie once in each of several groups of ranks (all ranks with zero3, those of a host with hybrid, each for
// itself with none and zero2); within a group each rank holds a range. That range is cut among the ranks that hold it, one of each group: what
// a rank then owns, it reduces, and writes to checkpoints.
type ranks struct {
	world, rank int
	// group is the number of ranks of a group, copies that of groups.
	group, copies int
	// place[r] is a rank's place in its group, copy[r] its group.
	place, copy []int
}

// newRanks groups ranks by their hosts, which all have as many.
func newRanks(rank int, hosts []int) (ranks, error) {
	r := ranks{world: len(hosts), rank: rank}
	seen := map[int]int{} // host: its group
	var sizes []int
	for _, h := range hosts {
		g, ok := seen[h]
		if !ok {
			g = len(sizes)
			seen[h], sizes = g, append(sizes, 0)
		}
		r.copy, r.place = append(r.copy, g), append(r.place, sizes[g])
		sizes[g]++
	}
	for _, n := range sizes {
		if n != sizes[0] {
			return r, schemas.Errorf(schemas.CodeUnsupported, "sharding", "hybrid needs as many ranks on every host, not %v", sizes).WithHint("use zero3")
		}
	}
	r.group, r.copies = sizes[0], len(sizes)
	return r, nil
}

// index is the place of what a rank owns among all ranges.
func (r *ranks) index(rank int) int { return r.place[rank]*r.copies + r.copy[rank] }

// owned is the range of the trainable layout that a rank owns.
func (u *unit) owned(rank int) (lo, hi int64) {
	i := u.ranks.index(rank)
	return u.train.bounds[i], u.train.bounds[i+1]
}

// ownLen is the length of that range.
func (u *unit) ownLen(rank int) int64 {
	lo, hi := u.owned(rank)
	return hi - lo
}

// held is the range of the trainable layout whose values a rank holds.
func (u *unit) held(rank int) (lo, hi int64) {
	i, n := u.ranks.place[rank], u.ranks.copies
	return u.train.bounds[i*n], u.train.bounds[(i+1)*n]
}

func (u *unit) heldLen(rank int) int64 {
	lo, hi := u.held(rank)
	return hi - lo
}

// still is the range of the frozen layout that a rank holds.
func (u *unit) still(rank int) (lo, hi int64) {
	i := u.ranks.place[rank]
	return u.frozen.bounds[i], u.frozen.bounds[i+1]
}

func (u *unit) stillLen(rank int) int64 {
	lo, hi := u.still(rank)
	return hi - lo
}

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
	ranks  *ranks
	train  part
	frozen part
	// bucket shares the exchange of gradients; nil when nothing is trainable. full, kept and own are the unit's first elements in the bucket's
	// buffers: of all, of what this rank holds, and of what it owns.
	bucket          *bucket
	full, kept, own int64
	uses            int
	data            *slot
	// passed is 1 + the micro-step of the last backward pass, 0 before the first of a leaf.
	passed int
}

// bucket is a group of units whose gradients are exchanged together once a leaf.
type bucket struct {
	units []*unit
	// fullLen, keptLen and ownLen are elements of all units together, of what this rank holds, and of what it owns.
	fullLen, keptLen, ownLen int64
	// segs are the stretches that this rank owns, in own order, mine the same in kept order; kept are those that it holds; all every stretch in
	// full order.
	segs, mine, kept, all []Segment
	// runs is what the optimizer updates: kept, or mine where ranks share updated values.
	runs []run
	// firstChunk is the place of the bucket's first chunk among those that this rank owns.
	firstChunk int64

	mem   bucketMemory
	grads *slot
	// spare holds the gradients of a rank without a leaf while grads keeps those of its earlier ones.
	spare        *slot
	begun, ended int
	// hostState: the optimizer's state lies in the host's memory.
	hostState bool
}

// run is a stretch of a bucket's state without gaps whose elements the optimizer treats alike.
type run struct {
	// first is the segment it begins with; off its offset in what this rank holds, grad that of its gradients.
	first          Segment
	off, grad, len int64
	group          optim.Group
	decl           []optim.StateTensor
	state          []kernels.Tensor
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

// addRuns appends the stretches of one unit, whose gradients lie as grads do, joining neighbouring segments where the optimizer takes more than
// one parameter at a time.
func (b *bucket) addRuns(segs, grads []Segment, opt optim.Optimizer) {
	from := len(b.runs)
	for i, s := range segs {
		g, decl := opt.Group(s.Param), opt.State(s.Param)
		if n := len(b.runs); n > from && !opt.Whole(s.Param) && !opt.Whole(b.runs[n-1].first.Param) {
			r := &b.runs[n-1]
			if r.group == g && r.off+r.len == s.Offset && r.first.Param.Expert == s.Param.Expert && perElement(decl) && perElement(r.decl) && sameDecl(decl, r.decl) {
				r.len += s.Len
				continue
			}
		}
		b.runs = append(b.runs, run{first: s, off: s.Offset, grad: grads[i].Offset, len: s.Len, group: g, decl: decl})
	}
}

// plan is how a model's units are cut for one rank of a world.
type plan struct {
	ranks
	units   []*unit
	buckets []*bucket
	// chunkOf[r] lists, in the order in which rank r reports them, the global index of each chunk that it owns. chunks is their number.
	chunkOf [][]int64
	chunks  int64
	// params are the parameters of the chunks where some optimizer trains others in other steps.
	params []*autograd.Param
}

// makePlan cuts units. bucketLen is the most elements of a group of small units; shares, whether a rank updates only what it owns of what it
// holds.
func makePlan(units []*autograd.Unit, r ranks, bucketLen int64, shares bool, opt optim.Optimizer) (*plan, error) {
	if r.rank < 0 || r.rank >= r.world {
		return nil, fmt.Errorf("cannot shard: rank %d of %d does not exist", r.rank, r.world)
	}
	p := &plan{ranks: r, chunkOf: make([][]int64, r.world)}
	var open *bucket
	for _, u := range units {
		var frozen autograd.Unit
		for _, q := range u.Params {
			if q.Frozen {
				frozen.Params = append(frozen.Params, q)
			}
		}
		v := &unit{u: u, ranks: &p.ranks, train: newPart(u.GradLayout(), r.world, opt.Whole), frozen: newPart(frozen.DataLayout(), r.group, nil)}
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
		v.bucket, v.full, v.kept, v.own = b, b.fullLen, b.keptLen, b.ownLen
		b.units = append(b.units, v)
		lo, hi := v.owned(r.rank)
		from, to := v.held(r.rank)
		segs, mine := v.train.segments(lo, hi, b.ownLen), v.train.segments(lo, hi, b.keptLen+lo-from)
		kept, all := v.train.segments(from, to, b.keptLen), v.train.segments(0, n, b.fullLen)
		b.segs, b.mine, b.kept, b.all = append(b.segs, segs...), append(b.mine, mine...), append(b.kept, kept...), append(b.all, all...)
		if shares {
			b.addRuns(mine, segs, opt)
		} else {
			b.addRuns(kept, kept, opt)
		}
		b.fullLen += n
		b.keptLen += to - from
		b.ownLen += hi - lo
	}
	_, turns := opt.(optim.Turns)
	for _, b := range p.buckets {
		b.firstChunk = int64(len(p.chunkOf[r.rank]))
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
	owner := make([]int, p.world)
	for r := range owner {
		owner[p.index(r)] = r
	}
	i := 0
	for _, c := range v.train.layout.Chunks() {
		for c.Offset >= v.train.bounds[i+1] {
			i++
		}
		p.chunkOf[owner[i]] = append(p.chunkOf[owner[i]], p.chunks)
		p.chunks++
	}
}
