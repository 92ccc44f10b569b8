package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// leaving is what a rank tells the others about leaving before a machine goes: in seconds, as it measures them.
type leaving struct {
	// left is the time until this rank's machine goes, 0 when nobody said so.
	left float64
	// need is how long this rank's part of a checkpoint takes from now on, rest how long that of the checkpoint on its way does (0: none
	// is).
	need, rest float64
}

const leavingBytes = 24

func (l leaving) append(b []byte) []byte {
	for _, v := range []float64{l.left, l.need, l.rest} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

func parseLeaving(b []byte) leaving {
	at := func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])) }
	return leaving{left: at(0), need: at(1), rest: at(2)}
}

// with is the gang's: the shortest time left, the longest needed.
func (l leaving) with(o leaving) leaving {
	if l.left == 0 || o.left > 0 && o.left < l.left {
		l.left = o.left
	}
	l.need, l.rest = max(l.need, o.need), max(l.rest, o.rest)
	return l
}

// How a gang leaves.
const (
	leaveCommit   = "commit"    // this step is committed: nothing is lost
	leaveInFlight = "in flight" // the checkpoint on its way is finished: steps since then are lost
	leaveAtOnce   = "at once"   // steps since the newest commit are lost
)

// choose says how to leave: with a commit where what is to be stored fits the time left (or nobody said how long that is), else with the
// checkpoint on its way where that fits, else at once.
func (l leaving) choose() string {
	switch {
	case l.left == 0 || l.need <= l.left:
		return leaveCommit
	case l.rest > 0 && l.rest <= l.left:
		return leaveInFlight
	}
	return leaveAtOnce
}

// leaving measures: bytes over the bandwidth of this rank's uploads so far, and what rank 0's commits take beyond that.
func (s *session) leaving() leaving {
	l := leaving{}
	if s.t.Gang.Left != nil {
		l.left = s.t.Gang.Left().Seconds()
		if l.left < 0 {
			l.left = 1e-3 // late: whatever is chosen, it does not fit
		}
	}
	now := time.Now()
	c := s.commits
	if f := c.flight; f != nil {
		l.rest = max(1e-3, c.estimate(f.snap.Bytes())-now.Sub(f.taken).Seconds()) + c.overhead
		l.need = l.rest // it is finished before the next begins
	}
	l.need += s.cadence.stall + c.estimate(s.snapBytes) + c.overhead
	return l
}

// leave ends the gang's work before a machine goes without a commit of this step; done is false when the gang is to commit it.
func (s *session) leave(ctx context.Context, r stepResult) (done bool, err error) {
	how := r.leaving.choose()
	if s.t.Gang.Rank == 0 {
		s.t.Report(schemas.Event{At: time.Now().UTC(), Type: schemas.EventPreempt, Step: s.done, Generation: s.t.Gang.Generation, Message: "the gang leaves: " + how,
			Values: map[string]float64{"step": float64(s.done), "seconds_left": r.leaving.left, "seconds_to_commit": r.leaving.need, "seconds_in_flight": r.leaving.rest}})
	}
	switch how {
	case leaveCommit:
		return false, nil
	case leaveInFlight:
		if err := s.commits.finish(ctx); err != nil {
			return true, err
		}
		if err := s.commits.settle(ctx); err != nil {
			return true, err
		}
		if err := s.t.Gang.Collective.Barrier(ctx); err != nil {
			return true, err
		}
	}
	return true, schemas.Errorf(schemas.CodeInterrupted, "", "stopped at step %d, which is not committed: %s", s.done,
		fmt.Sprintf("a commit takes %.1f s and %.1f s are left", r.leaving.need, r.leaving.left))
}
