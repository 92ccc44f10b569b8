package zero

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
)

// Values of Config.Overlap.
const (
	OverlapAuto = "auto"
	OverlapOn   = "on"
	OverlapOff  = "off"
)

const (
	// trialSteps is how many steps OverlapAuto takes of each kind, after one to warm up.
	trialSteps = 3
	// worthwhile is how much shorter a step must be for overlapping to stay.
	worthwhile = 0.98
)

// lane makes collective calls one after another in the order in which they were begun, so that ranks that begin the same calls in the same
// order exchange the same things, also when some are not waited for at once.
type lane struct {
	comm Collective
	last *call // the newest that was begun in the background
}

// call is a collective call in the background.
type call struct {
	done chan struct{}
	err  error
}

func (c *call) wait() error {
	<-c.done
	return c.err
}

// begin makes a call in the background, after those begun before.
func (l *lane) begin(run func() error) *call {
	c, before := &call{done: make(chan struct{})}, l.last
	l.last = c
	go func() {
		defer close(c.done)
		if before != nil {
			if c.err = before.wait(); c.err != nil {
				return
			}
		}
		c.err = run()
	}()
	return c
}

// settle waits for what is in the background.
func (l *lane) settle() error {
	if l.last == nil {
		return nil
	}
	err := l.last.wait()
	if err == nil {
		l.last = nil
	}
	return err
}

// settled makes a call once what is in the background is done.
func (l *lane) settled(call func(c Collective) error) error {
	if err := l.settle(); err != nil {
		return err
	}
	return call(l.comm)
}

// Rank implements Collective.
func (l *lane) Rank() int { return l.comm.Rank() }

// World implements Collective.
func (l *lane) World() int { return l.comm.World() }

// AllToAll implements Collective.
func (l *lane) AllToAll(ctx context.Context, send, recv [][]byte) error {
	if err := l.settle(); err != nil {
		return err
	}
	return l.comm.AllToAll(ctx, send, recv)
}

// AllGather implements Collective.
func (l *lane) AllGather(ctx context.Context, send []byte, recv [][]byte) error {
	if err := l.settle(); err != nil {
		return err
	}
	return l.comm.AllGather(ctx, send, recv)
}

// ahead is a unit whose values are on their way before they are needed.
type ahead struct {
	unit  *unit
	slot  *slot
	call  *call          // through the host
	event *kernels.Event // between devices
	recv  []float32
}

// late is a bucket whose leaves are on their way to the owners while the backward pass goes on.
type late struct {
	bucket     *bucket
	call       *call
	recv       []float32
	senders    int64
	accumulate bool
}

// overlap is what travels while the device computes, and whether that is worth it.
type overlap struct {
	on bool
	// order is the gathers of the leaf before in their order, now those of this one.
	order, now []*unit
	next       *ahead
	reduce     *late
	// send and recv are host memory of a gather ahead, out and in of a late reduction. The most words that were wanted of each.
	send, recv, out, in []float32
	words               [4]int64

	// What OverlapAuto measures: steps so far, when this one began, the shortest step with and without.
	steps    int
	began    time.Time
	shortest [2]time.Duration
	decided  bool
}

// Overlap says whether exchanges overlap with computing, and why.
func (e *Engine) Overlap() (on bool, why string) {
	o := &e.over
	switch {
	case e.plan.world == 1:
		return false, "one rank"
	case e.cfg.Overlap != OverlapAuto:
		return o.on, "the configuration says so"
	case !o.decided:
		return o.on, "being measured"
	}
	return o.on, fmt.Sprintf("a step takes %s with it, %s without", o.shortest[1].Round(time.Microsecond), o.shortest[0].Round(time.Microsecond))
}

// beginOverlap starts a leaf.
func (e *Engine) beginOverlap() {
	o := &e.over
	o.order, o.now = append(o.order[:0], o.now...), o.now[:0]
	if e.micro == 0 {
		o.began = time.Now()
	}
}

// endOverlap ends a leaf: nothing is on its way afterwards.
func (e *Engine) endOverlap() error {
	if err := e.finishReduce(); err != nil {
		return err
	}
	a := e.over.next
	if a == nil {
		return nil
	}
	e.over.next = nil
	e.window.give(a.slot)
	if a.event != nil {
		e.q.Wait(a.event)
		return e.q.Err()
	}
	if a.call == nil {
		return nil
	}
	return a.call.wait()
}

// dropOverlap abandons what is on its way after a failed pass: the calls end with the collective, and own their host memory until then.
func (e *Engine) dropOverlap() {
	o := &e.over
	if o.next != nil {
		e.window.give(o.next.slot)
	}
	o.next, o.reduce, o.order, o.now = nil, nil, nil, nil
	o.send, o.recv, o.out, o.in = nil, nil, nil, nil
}

// gatherAhead begins to gather the unit that the leaf before gathered after the one that was gathered now.
func (e *Engine) gatherAhead(ctx context.Context, u *unit) error {
	o := &e.over
	if !e.inLeaf {
		return nil
	}
	o.now = append(o.now, u)
	at := len(o.now)
	if !o.on || o.next != nil || at >= len(o.order) || o.order[at-1] != u {
		return nil
	}
	v := o.order[at]
	if v.uses > 0 || v.data != nil {
		return nil
	}
	n := e.words(v.train.layout.Len) + v.frozen.layout.Len
	s, err := e.window.take(n)
	if err != nil {
		return err
	}
	a := &ahead{unit: v, slot: s}
	o.next = a
	if d := e.devices(); d != nil {
		a.event, err = e.gatherDevices(ctx, d, v, s)
		return err
	}
	own := e.gatherWords(v, e.plan.rank)
	o.words[0], o.words[1] = max(o.words[0], own), max(o.words[1], n)
	if e.counts() {
		return nil
	}
	send := grow(&o.send, own)
	a.recv = grow(&o.recv, n)
	if err := e.ownValues(v, send); err != nil {
		return err
	}
	bufs := make([][]byte, e.plan.world)
	e.gatherInto(v, a.recv, bufs)
	a.call = e.comm.begin(func() error { return e.gatherFrom(ctx, e.comm.comm, bytesOf(send), bufs) })
	return nil
}

// gathered takes a unit that was gathered ahead; nil when it was not.
func (e *Engine) gathered(u *unit) (*slot, error) {
	a := e.over.next
	if a == nil || a.unit != u {
		return nil, nil
	}
	e.over.next = nil
	if a.event != nil {
		e.q.Wait(a.event)
		return a.slot, e.q.Err()
	}
	if a.call == nil { // counting
		return a.slot, nil
	}
	if err := a.call.wait(); err != nil {
		e.window.give(a.slot)
		return nil, fmt.Errorf("cannot gather %s: %w", u.u.Name, err)
	}
	return a.slot, e.putValues(u, a.slot, a.recv)
}

// reduceLater sends a bucket's slices and goes on; finishReduce adds what comes.
func (e *Engine) reduceLater(ctx context.Context, b *bucket, full kernels.Tensor) error {
	o := &e.over
	if err := e.finishReduce(); err != nil {
		return err
	}
	senders := e.senders()
	r := &late{bucket: b, senders: senders, accumulate: e.micro > 0 && !e.cfg.Fast}
	o.reduce = r
	o.words[2], o.words[3] = max(o.words[2], b.fullLen), max(o.words[3], senders*b.ownLen)
	if e.counts() {
		return nil
	}
	out := grow(&o.out, b.fullLen)
	r.recv = grow(&o.in, senders*b.ownLen)
	send, recv := make([][]byte, e.plan.world), make([][]byte, e.plan.world)
	if err := e.slicesInto(b, full, out, r.recv, senders, send, recv); err != nil {
		return err
	}
	r.call = e.comm.begin(func() error { return e.comm.comm.AllToAll(ctx, send, recv) })
	return nil
}

// finishReduce adds the leaves that are on their way.
func (e *Engine) finishReduce() error {
	r := e.over.reduce
	if r == nil {
		return nil
	}
	e.over.reduce = nil
	if r.call != nil {
		if err := r.call.wait(); err != nil {
			return fmt.Errorf("cannot reduce gradients from %s on: %w", r.bucket.units[0].u.Name, err)
		}
	}
	n := r.senders * r.bucket.ownLen
	if n == 0 {
		return nil
	}
	s, err := e.window.take(n)
	if err != nil {
		return err
	}
	defer e.window.give(s)
	if !e.counts() {
		if err := kernels.Upload(e.q, s.view(n), r.recv[:n]); err != nil {
			return err
		}
	}
	return e.addSlices(r.bucket, s, r.senders, r.accumulate)
}

// measureOverlap ends a step of OverlapAuto: after some steps of each kind all ranks keep what was faster for the slowest of them.
func (e *Engine) measureOverlap(ctx context.Context) error {
	o := &e.over
	if e.cfg.Overlap != OverlapAuto || o.decided || e.plan.world == 1 || e.counts() {
		return nil
	}
	if took := time.Since(o.began); o.steps > 0 { // the first one warms up
		kind := &o.shortest[0]
		if o.on {
			kind = &o.shortest[1]
		}
		if *kind == 0 || took < *kind {
			*kind = took
		}
	}
	switch o.steps++; o.steps {
	case 1 + trialSteps:
		o.on = false
	case 1 + 2*trialSteps:
		mine := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(o.shortest[0])), uint64(o.shortest[1])) //nolint:gosec // durations
		all := make([][]byte, e.plan.world)
		for k := range all {
			all[k] = make([]byte, len(mine))
		}
		if err := e.comm.AllGather(ctx, mine, all); err != nil {
			return fmt.Errorf("cannot compare steps with and without overlapping: %w", err)
		}
		for i := range o.shortest {
			slowest := slices.MaxFunc(all, func(a, b []byte) int {
				return int(math.Copysign(1, float64(binary.LittleEndian.Uint64(a[8*i:]))-float64(binary.LittleEndian.Uint64(b[8*i:]))))
			})
			o.shortest[i] = time.Duration(binary.LittleEndian.Uint64(slowest[8*i:])) //nolint:gosec // a duration
		}
		o.on, o.decided = float64(o.shortest[1]) < worthwhile*float64(o.shortest[0]), true
	}
	return nil
}
