package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// flight is a checkpoint on its way: the snapshot is taken, the parts are being stored.
type flight struct {
	step  int64
	state map[string]string
	hash  string
	final bool
	snap  *zero.Snapshot
	// closing: the gang stops here. spent and taken are what the segment's time went to and when it ended.
	closing bool
	spent   map[string]float64
	taken   time.Time

	// Set when done is closed.
	done  chan struct{}
	parts []schemas.Part
	log   schemas.Part
	took  float64 // seconds
	err   error
}

// stored reports without waiting whether this rank's parts of the checkpoint on its way are stored and no commit of an earlier one is
// awaited: then finish does not wait either.
func (c *committer) stored() bool {
	if c.flight == nil {
		return false
	}
	select {
	case <-c.flight.done:
	default:
		return false
	}
	if c.commit == nil {
		return true
	}
	select {
	case <-c.commit:
		return true
	default:
		return false
	}
}

// took is the seconds that the newest commit needed from its snapshot on, told once; 0 when no other has come to stand (rank 0).
func (c *committer) took() float64 { return time.Duration(c.lasted.Swap(0)).Seconds() }

// await waits until finish does not wait, or until ctx ends; it reports which.
func (c *committer) await(ctx context.Context) bool {
	select {
	case <-c.flight.done:
	case <-ctx.Done():
		return c.stored()
	}
	if c.commit != nil {
		select {
		case <-c.commit:
		case <-ctx.Done():
		}
	}
	return c.stored()
}

// estimate is how long this rank's part of a checkpoint takes to be stored, in seconds. While the first is on its way, it is taken to be
// halfway; before that nothing is known: 0.
func (c *committer) estimate(bytes int64) float64 {
	rate := c.rate
	if f := c.flight; rate == 0 && f != nil && !f.taken.IsZero() {
		rate = float64(f.snap.Bytes()) / (2 * time.Since(f.taken).Seconds())
	}
	if rate == 0 {
		return 0
	}
	return float64(bytes) / rate
}

// Phases of a checkpoint in the metric of its duration.
const (
	phaseStall  = "stall"  // training waits
	phaseStore  = "store"  // rank 0's parts on their way
	phaseCommit = "commit" // snapshot to HEAD
)

func recordPhase(ctx context.Context, m *telemetry.TrainMetrics, phase string, seconds float64) {
	if m != nil {
		m.CommitDuration.Record(ctx, seconds, metric.WithAttributes(attribute.String(telemetry.AttrPhase, phase)))
	}
}

// committer stores this rank's parts while training goes on, and commits on rank 0. At most one checkpoint is on its way.
type committer struct {
	t      *consume.Task
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	flight *flight
	spare  *zero.Snapshot

	// The commit that rank 0 makes in the background; nil when none was made yet. Its error is read after it is closed.
	commit    chan struct{}
	commitErr error
	// lasted is how long the newest took and was not told yet, stands the step of the newest that stands.
	lasted, stands atomic.Int64
	// rate is the bytes a second of this rank's newest uploads, from snapshot to store; overhead what a commit takes beyond them (rank 0).
	// committing is the newest commit's, read after it has ended.
	rate, overhead, committing float64
	metrics                    *telemetry.TrainMetrics
}

func newCommitter(ctx context.Context, t *consume.Task, m *telemetry.TrainMetrics) *committer {
	c := &committer{t: t, metrics: m}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// close abandons what is on its way.
func (c *committer) close() {
	c.cancel()
	c.wg.Wait()
}

// begin stores a snapshot in the background. events is the segment's log (rank 0).
func (c *committer) begin(f *flight, events []byte) {
	f.done = make(chan struct{})
	c.flight = f
	c.wg.Go(func() {
		defer close(f.done)
		began := time.Now()
		f.parts, f.log, f.err = c.store(f, events)
		if f.took = time.Since(began).Seconds(); f.err == nil && c.t.Gang.Rank == 0 {
			recordPhase(c.ctx, c.metrics, phaseStore, f.took)
		}
	})
}

func (c *committer) store(f *flight, events []byte) (parts []schemas.Part, log schemas.Part, err error) {
	m, g := c.t.Message, c.t.Gang
	if g.Rank == 0 {
		if log, err = checkpoint.UploadBytes(c.ctx, c.t.Objects, schemas.LogKey(m.Tenant, m.Run, f.step, g.Generation), events); err != nil {
			return nil, log, err
		}
	}
	if f.snap.Bytes() == 0 {
		return nil, log, nil
	}
	w, err := checkpoint.NewPartWriter(c.t.Dir, checkpoint.PartKey(m.Tenant, m.Run, f.step, g.Generation, g.Rank, 0), g.Rank)
	if err != nil {
		return nil, log, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := f.snap.Write(w.Add); err != nil {
		return nil, log, err
	}
	p, err := w.Upload(c.ctx, c.t.Objects)
	if err == nil {
		if kerr := w.Keep(checkpoint.OpenKept(c.t.Keep)); kerr != nil {
			c.t.Logger.Warn("the part is not kept on this machine; a gang that forms again reads it from the store", "error", kerr)
		}
	}
	return []schemas.Part{p}, log, err
}

// finish completes the checkpoint on its way: every rank waits for its own parts, rank 0 collects the lists and commits in the
// background. All ranks call it at the same place.
func (c *committer) finish(ctx context.Context) error {
	f := c.flight
	if f == nil {
		return nil
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.flight, c.spare = nil, f.snap
	if n := f.snap.Bytes(); f.err == nil && n > 0 && f.took > 0 {
		c.rate = follow(c.rate, float64(n)/f.took)
	}
	if f.err != nil {
		return fmt.Errorf("cannot store the checkpoint of step %d: %w", f.step, f.err)
	}
	all, err := gatherJSON(ctx, c.t.Gang.Collective, f.parts)
	if err != nil {
		return fmt.Errorf("cannot collect the parts of step %d: %w", f.step, err)
	}
	if c.t.Gang.Rank != 0 {
		return nil
	}
	man := &schemas.Manifest{Step: f.step, Log: f.log, State: f.state, StateHash: f.hash, Final: f.final, Closing: f.closing, Spent: f.spent, Taken: f.taken}
	for _, raw := range all {
		var parts []schemas.Part
		if err := json.Unmarshal(raw, &parts); err != nil {
			return fmt.Errorf("cannot read the parts of step %d: %w", f.step, err)
		}
		man.Parts = append(man.Parts, parts...)
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	c.overhead = c.committing
	done := make(chan struct{})
	c.commit = done
	c.wg.Go(func() {
		defer close(done)
		began := time.Now()
		defer func() { c.committing = time.Since(began).Seconds() }()
		if c.commitErr = c.t.Gang.Commit(c.ctx, man); c.commitErr == nil {
			c.lasted.Store(int64(time.Since(f.taken)))
			c.stands.Store(f.step)
			recordPhase(c.ctx, c.metrics, phaseCommit, time.Since(f.taken).Seconds())
			if c.metrics != nil {
				c.metrics.CommitBytes.Add(c.ctx, size(man))
			}
			c.t.Report(schemas.Event{Type: schemas.EventCommit, Step: man.Step, Values: map[string]float64{"step": float64(man.Step), "bytes": float64(size(man))}})
		}
	})
	return nil
}

func size(m *schemas.Manifest) int64 {
	n := m.Log.Bytes
	for _, p := range m.Parts {
		n += p.Bytes
	}
	return n
}

// settle waits for the commit made in the background (rank 0).
func (c *committer) settle(ctx context.Context) error {
	if c.commit == nil {
		return nil
	}
	select {
	case <-c.commit:
		return c.failed()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed is the error of a commit that has ended.
func (c *committer) failed() error {
	if c.commit == nil {
		return nil
	}
	select {
	case <-c.commit:
		if c.commitErr != nil {
			return fmt.Errorf("cannot commit: %w", c.commitErr)
		}
	default:
	}
	return nil
}

// gatherJSON brings a value of every rank to every rank, encoded.
func gatherJSON(ctx context.Context, coll consume.Collective, v any) ([][]byte, error) {
	mine, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	w := coll.World()
	sizes, size := make([][]byte, w), binary.LittleEndian.AppendUint64(nil, uint64(len(mine)))
	for r := range sizes {
		sizes[r] = make([]byte, 8)
	}
	if err := coll.AllGather(ctx, size, sizes); err != nil {
		return nil, err
	}
	all := make([][]byte, w)
	for r := range all {
		n := binary.LittleEndian.Uint64(sizes[r])
		if n > checkpoint.MaxManifestBytes {
			return nil, fmt.Errorf("rank %d announces %d bytes", r, n)
		}
		all[r] = make([]byte, n)
	}
	return all, coll.AllGather(ctx, mine, all)
}

// everyRank reports whether every rank says yes.
func everyRank(ctx context.Context, coll consume.Collective, yes bool) (bool, error) {
	mine, all := []byte{0}, make([][]byte, coll.World())
	if yes {
		mine[0] = 1
	}
	for r := range all {
		all[r] = make([]byte, 1)
	}
	if err := coll.AllGather(ctx, mine, all); err != nil {
		return false, err
	}
	return !slices.ContainsFunc(all, func(b []byte) bool { return b[0] != 1 }), nil
}

// segmentLog collects the events of a segment as JSON lines.
type segmentLog struct{ buf bytes.Buffer }

func (l *segmentLog) add(e schemas.Event) {
	raw, err := json.Marshal(e)
	if err != nil {
		return // numbers that are not finite never get here: the step fails first
	}
	l.buf.Write(raw)
	l.buf.WriteByte('\n')
}

// take returns the lines so far and starts anew.
func (l *segmentLog) take() []byte {
	out := bytes.Clone(l.buf.Bytes())
	l.buf.Reset()
	return out
}
