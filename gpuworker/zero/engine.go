package zero

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Collective is what the ranks talk through; see package collective for the rules of a call.
type Collective interface {
	Rank() int
	World() int
	AllToAll(ctx context.Context, send, recv [][]byte) error
	AllGather(ctx context.Context, send []byte, recv [][]byte) error
}

// Names of sharding modes.
const (
	// None: every rank holds and updates everything.
	None = "none"
	// Zero2: every rank holds all values, and gradients and the optimizer's state of its range; updated values are shared.
	Zero2 = "zero2"
	// Zero3: every rank holds its range of everything.
	Zero3 = "zero3"
	// Hybrid: every rank holds a range of everything, of which the ranks of each host have all: parameters are gathered within a host.
	Hybrid = "hybrid"
)

// Config of an Engine.
type Config struct {
	// Sharding is None, Zero2, Zero3 or Hybrid.
	Sharding string
	// Hosts are the hosts of the ranks, by any number, for Hybrid; nil: all are on one.
	Hosts []int
	// BucketElements is the most elements of a group of small units that share one exchange a leaf. Default 256 Ki.
	BucketElements int64
	// Optim configures the optimizer.
	Optim optim.Config
	// Store is the type that trained values are held in: kernels.F32 (default), or BF16, which each update rounds to, to the nearest.
	Store kernels.DType
	// Fast adds the leaves of a rank where they are computed and exchanges the sums once a step, instead of every leaf: fewer bytes are sent,
	// gradients of the whole model stay on every rank from the first leaf to the last, and bits depend on the number of ranks.
	Fast bool
	// ByBlock lets gradients of a step of one leaf a rank end with the backward pass of their bucket (see Stream).
	ByBlock bool
	// Scratch, when not nil, is the memory of the tape that computes the leaves. Gradients that no other leaf is added to borrow from it
	// what activations have freed, instead of having a place of their own: to the update with one rank, to the end of their bucket with ByBlock.
	Scratch *autograd.Memory
	// Offload holds the optimizer's state in the host's memory and updates there, on HostThreads threads (0: all cores). Nothing on the CPU.
	Offload     bool
	HostThreads int
	// Overlap is whether the next unit is gathered, and the bucket before reduced, while the device computes: OverlapOn, OverlapOff, or
	// OverlapAuto (default), which tries both in the first steps and keeps what is faster. Bits do not depend on it.
	Overlap string
	// Devices, when not nil, moves values and gradients between the ranks' devices; otherwise they go through the host.
	Devices Devices
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	if c.BucketElements == 0 {
		c.BucketElements = 256 << 10
	}
	if c.Store == 0 {
		c.Store = kernels.F32
	}
	if c.Overlap == "" {
		c.Overlap = OverlapAuto
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	if !slices.Contains([]string{None, Zero2, Zero3, Hybrid}, c.Sharding) {
		errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, "sharding", "%q is not supported (none, zero2, zero3 and hybrid are)", c.Sharding))
	}
	if o := c.Overlap; o != "" && o != OverlapAuto && o != OverlapOn && o != OverlapOff {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "overlap", "%q is none of auto, on, off", o))
	}
	if c.BucketElements < 0 {
		errs = append(errs, fmt.Errorf("bucket of %d elements", c.BucketElements))
	}
	if c.Store != 0 && c.Store != kernels.F32 && c.Store != kernels.BF16 {
		errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, "store", "trained values cannot be held in %v (f32 and bf16 are possible)", c.Store))
	}
	errs = append(errs, c.Optim.Validate())
	return errors.Join(errs...)
}

// bucketMemory is what a rank holds of a bucket all the time.
type bucketMemory struct {
	// p has the elements that the rank holds; acc those that it owns; reduced those that it holds, where several ranks hold them.
	p, acc, reduced kernels.Tensor
	// loan is where acc lies when it is borrowed for one step, and spread where reduced does.
	loan, spread *autograd.Loan
}

// Engine is one rank's share of a model in training. It implements autograd.Hooks for the tape that computes the leaves, is used by one
// goroutine, and makes the same collective calls in the same order on every rank as long as every rank runs the same passes.
type Engine struct {
	cfg  Config
	opt  optim.Optimizer
	q    *kernels.Queue
	comm *lane
	plan *plan
	byID map[*autograd.Unit]*unit

	arena   *kernels.Arena
	accs    *kernels.Arena // accumulators that were not needed from the start
	state   Resident
	frozen  map[*unit]kernels.Tensor // own range (sharded) or all
	partial kernels.Tensor           // f64 of the chunks that this rank owns
	wide    widening
	stream  Stream
	window  pool
	host    staging
	over    overlap
	experts experts
	turn    int64
	copies  copier
	off     offload

	micro, leaves int
	inLeaf        bool
	// holding: the whole model is gathered, into window slots from heldFrom on as far as those before did not do.
	holding  bool
	heldFrom int
	best     map[*autograd.Param]stretch // nil: none is kept
}

// staging is host memory that exchanges go through.
type staging struct {
	send, recv []float32
	// sent and received are the most words that exchanges wanted of send and recv.
	sent, received int64
	bufs           [2][][]byte
	sums           []float64
	global         []float64
	meta           []byte
}

// Resident is the bytes that a rank holds all the time; Window what it holds of gathered units and passing gradients, Staging the host memory
// that exchanges have gone through.
type Resident struct {
	Params, Grads, Optimizer, Window, Staging int64
}

// Total is params, gradients and optimizer state, without the gather window.
func (r Resident) Total() int64 { return r.Params + r.Grads + r.Optimizer }

// sharded reports whether a rank holds a part of the values only, and gathers the rest.
func (e *Engine) sharded() bool { return e.plan.group > 1 }

// shares reports whether ranks update a part of the values that they hold, and share the updated ones.
func (e *Engine) shares() bool { return e.cfg.Sharding == Zero2 && e.plan.world > 1 }

// spreads reports whether a reduced gradient goes to several ranks, which all update the same values with it.
func (e *Engine) spreads() bool { return e.plan.copies > 1 && !e.shares() }

// groups says which ranks share a copy of the values.
func (c Config) groups(rank, world int) (ranks, error) {
	hosts := make([]int, world) // one group
	switch c.Sharding {
	case None, Zero2:
		for r := range hosts {
			hosts[r] = r // each on its own
		}
	case Hybrid:
		if c.Hosts == nil {
			break
		}
		if len(c.Hosts) != world {
			return ranks{}, fmt.Errorf("the hosts of %d ranks are given, there are %d", len(c.Hosts), world)
		}
		copy(hosts, c.Hosts)
	}
	return newRanks(rank, hosts)
}

// New allocates one rank's share of the units, whose adapters and frozen flags are final. Optimizer state is zero, values undefined until Load.
// With one rank, or with "none", the parameters' Data stay bound.
func New(q *kernels.Queue, units []*autograd.Unit, comm Collective, cfg Config) (e *Engine, err error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot shard the model: %w", err)
	}
	opt, err := optim.New(cfg.Optim, units)
	if err != nil {
		return nil, err
	}
	if comm.World() < 1 {
		return nil, fmt.Errorf("cannot shard the model over %d ranks", comm.World())
	}
	groups, err := cfg.groups(comm.Rank(), comm.World())
	if err != nil {
		return nil, fmt.Errorf("cannot shard the model: %w", err)
	}
	p, err := makePlan(units, groups, cfg.BucketElements, cfg.Sharding == Zero2 && comm.World() > 1, opt)
	if err != nil {
		return nil, err
	}
	e = &Engine{cfg: cfg, opt: opt, q: q, comm: &lane{comm: comm}, plan: p, byID: map[*autograd.Unit]*unit{}, frozen: map[*unit]kernels.Tensor{}, window: pool{dev: q.Device()}}
	e.experts = findExperts(units, cfg.Optim.WithDefaults().Name)
	e.over.on = cfg.Overlap != OverlapOff && p.world > 1
	e.host.bufs = [2][][]byte{make([][]byte, p.world), make([][]byte, p.world)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot allocate this rank's share of the model: %w", err), e.Close())
			e = nil
		}
	}()
	for _, u := range p.units {
		e.byID[u.u] = u
	}
	if err := e.allocate(); err != nil {
		return e, err
	}
	if !q.Device().ZeroesMemory() {
		for _, b := range p.buckets {
			e.clear(b)
		}
	}
	if !e.sharded() {
		err = e.bindAll()
	}
	return e, errors.Join(err, q.Err())
}

// clear zeroes a bucket's values (their gaps must be zero) and the optimizer's state.
func (e *Engine) clear(b *bucket) {
	if b.mem.p.Present() {
		e.q.Fill(kernels.Fill{Y: b.mem.p})
	}
	if e.offloads() {
		return // the host's memory comes as zeros
	}
	for _, r := range b.runs {
		for _, y := range r.state {
			e.q.Fill(kernels.Fill{Y: y})
		}
	}
}

// words is the number of 32-bit words that n trained values take, for n at the bounds of parameters and chunks.
func (e *Engine) words(n int64) int64 { return n * e.cfg.Store.Size() / 4 }

// frozenLen is the number of 32-bit words that this rank holds of the unit's frozen parameters.
func (e *Engine) frozenLen(u *unit) int64 { return u.stillLen(e.plan.rank) }

// allocate takes everything resident as one arena.
func (e *Engine) allocate() error {
	const align = 256
	var total int64
	add := func(bytes int64) { total += (bytes + align - 1) / align * align }
	states, host := add, int64(0)
	if e.offloads() {
		states = func(bytes int64) { host += (bytes + align - 1) / align * align }
	}
	for _, u := range e.plan.units {
		add(4 * e.frozenLen(u))
	}
	for _, b := range e.plan.buckets {
		add(e.cfg.Store.Size() * b.keptLen)
		for _, r := range b.runs {
			for _, t := range r.decl {
				states(t.DType.Size() * t.Len(r.len))
			}
		}
		if !e.borrows() {
			add(4 * b.ownLen)
		}
		if !e.borrows() && e.spreads() {
			add(4 * b.keptLen)
		}
	}
	own := int64(len(e.plan.chunkOf[e.plan.rank]))
	add(8 * own)
	if total == 0 {
		return nil
	}
	var err error
	stateArena := func() *kernels.Arena { return e.arena }
	if e.offloads() {
		if err := e.openOffload(host); err != nil {
			return err
		}
		stateArena = func() *kernels.Arena { return e.off.arena }
	}
	if e.arena, err = e.q.Device().NewArena("model", total); err != nil {
		return err
	}
	take := func(dt kernels.DType, n int64, counter *int64) kernels.Tensor {
		if n == 0 || err != nil {
			return kernels.Tensor{}
		}
		var t kernels.Tensor
		t, err = e.arena.New(dt, n)
		*counter += dt.Size() * n
		return t
	}
	for _, u := range e.plan.units {
		if t := take(kernels.F32, e.frozenLen(u), &e.state.Params); t.Present() {
			e.frozen[u] = t
		}
	}
	for _, b := range e.plan.buckets {
		b.hostState = e.offloads()
		b.mem = bucketMemory{p: take(e.cfg.Store, b.keptLen, &e.state.Params)}
		if !e.borrows() {
			b.mem.acc = take(kernels.F32, b.ownLen, &e.state.Grads)
		}
		for i := range b.runs {
			r := &b.runs[i]
			for _, d := range r.decl {
				var t kernels.Tensor
				if err == nil {
					t, err = stateArena().New(d.DType, d.Len(r.len))
				}
				if !e.offloads() {
					e.state.Optimizer += t.Bytes()
				}
				r.state = append(r.state, t)
			}
		}
		b.mem.reduced = b.mem.acc
		if !e.borrows() && e.spreads() {
			b.mem.reduced = take(kernels.F32, b.keptLen, &e.state.Grads)
		}
	}
	if own > 0 && err == nil {
		e.partial, err = e.arena.New(kernels.F64, own)
	}
	return err
}

// bindAll points every parameter at its resident place.
func (e *Engine) bindAll() error {
	for _, u := range e.plan.units {
		if t, ok := e.frozen[u]; ok {
			if err := u.frozen.layout.Bind(t, false); err != nil {
				return err
			}
		}
		if u.bucket != nil {
			if err := u.train.layout.Bind(u.bucket.mem.p.Slice(0, u.kept, u.kept+u.train.layout.Len), false); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close gives the memory back, after waiting for the queue.
func (e *Engine) Close() error {
	err := errors.Join(e.q.Sync(), e.copies.close())
	for _, u := range e.plan.units {
		u.u.DataLayout().Unbind(false)
		u.u.GradLayout().Unbind(true)
	}
	e.opt.Close()
	err = errors.Join(err, e.off.close())
	e.window.close()
	e.returnLoans()
	e.wide.close()
	if e.accs != nil {
		e.accs.Close()
		e.accs = nil
	}
	if e.arena != nil {
		e.arena.Close()
		e.arena = nil
	}
	return err
}

// Resident tells what this rank holds, and the size of the windows so far.
func (e *Engine) Resident() Resident {
	r := e.state
	r.Window = e.window.most
	r.Staging = 4 * (e.host.sent + e.host.received)
	for _, n := range e.over.words {
		r.Staging += 4 * n
	}
	if own := int64(len(e.plan.chunkOf[e.plan.rank])); e.plan.world > 1 {
		r.Staging += 8 * (2*own + 2*e.plan.chunks) // the sums of chunks, this rank's and all, as numbers and as they travel
	}
	return r
}

// Trainable is the number of trainable elements of the whole model.
func (e *Engine) Trainable() int64 {
	var n int64
	for _, b := range e.plan.buckets {
		for _, s := range b.all {
			n += s.Len
		}
	}
	return n
}

// Load fills this rank's share: fill writes elements [start, start+dst.Numel()) of a parameter to dst, whose type is the parameter's
// DType. start is a multiple of 4,096.
func (e *Engine) Load(ctx context.Context, fill func(ctx context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error) error {
	e.copies.settleAll()
	one := func(s Segment, dst kernels.Tensor) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fill(ctx, s.Param, s.Start, dst); err != nil {
			return fmt.Errorf("cannot load %s: %w", s.Param.Name, err)
		}
		return nil
	}
	for _, u := range e.plan.units {
		flat, ok := e.frozen[u]
		if !ok {
			continue
		}
		lo, hi := u.still(e.plan.rank)
		for _, s := range u.frozen.segments(lo, hi, 0) {
			if err := one(s, kernels.NewTensor(flat.Data+kernels.Addr(4*s.Offset), s.Param.DType(), s.Len)); err != nil {
				return err
			}
		}
	}
	for _, b := range e.plan.buckets {
		for _, s := range b.kept {
			if err := one(s, b.mem.p.Slice(0, s.Offset, s.Offset+s.Len)); err != nil {
				return err
			}
		}
	}
	return e.q.Err()
}
