package api

import (
	"context"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// replay completes a live tail with the segment logs of HEAD's lineage: for who joins after the tail was trimmed, and when the tail was
// lost. Steps are told once each, by (generation, step): a step that a later generation did again is told again.
type replay struct {
	s           *Server
	tenant, run string
	// resumed says that the client has what came before the tail's first event.
	resumed bool
	stages  map[string]*told
	read    map[string]bool // keys of manifests whose logs were told
}

// told is what was told of one stage.
type told struct {
	// generations holds the generation whose event was told, by step; 0 none.
	generations []uint64
	// evals holds the same for evaluations.
	evals map[int64]uint64
	// upto is the highest step up to which gaps have been looked for.
	upto int64
}

func (t *told) has(e schemas.Event) bool {
	return e.Step < int64(len(t.generations)) && t.generations[e.Step] >= max(1, e.Generation)
}

func (t *told) add(e schemas.Event) {
	for int64(len(t.generations)) <= e.Step {
		t.generations = append(t.generations, 0)
	}
	t.generations[e.Step] = max(1, e.Generation)
}

// newReplay begins after the event that the client saw last ("" none). When that one is no longer in the tail, the client may have missed
// some, and everything is told.
func (s *Server) newReplay(ctx context.Context, tenant, run, after string) *replay {
	r := &replay{s: s, tenant: tenant, run: run, stages: map[string]*told{}, read: map[string]bool{}}
	if after != "" {
		oldest, err := s.live.Tail(ctx, tenant, run, "", 1, 0)
		r.resumed = err == nil && len(oldest) == 1 && !idBefore(after, oldest[0].ID)
	}
	return r
}

// idBefore orders stream ids ("<milliseconds>-<number>").
func idBefore(a, b string) bool {
	split := func(id string) (ms, n uint64) {
		x, y, _ := strings.Cut(id, "-")
		ms, _ = strconv.ParseUint(x, 10, 64) // ids are digits: a missing number counts as 0
		n, _ = strconv.ParseUint(y, 10, 64)
		return ms, n
	}
	am, an := split(a)
	bm, bn := split(b)
	return am < bm || am == bm && an < bn
}

// maxSteps bounds what is remembered of a stage; later steps are told as they come.
const maxSteps = 1 << 24

// isEval reports whether an event tells what an evaluation measured.
func isEval(e schemas.Event) bool {
	if e.Type != schemas.EventProgress || e.Stage == "" || e.Step < 0 {
		return false
	}
	for k := range e.Values {
		if strings.HasPrefix(k, "eval_") {
			return true
		}
	}
	return false
}

// addEval notes an evaluation; false when it was told already.
func (t *told) addEval(e schemas.Event) bool {
	g := max(1, e.Generation)
	if t.evals[e.Step] >= g {
		return false
	}
	if t.evals == nil {
		t.evals = map[int64]uint64{}
	}
	t.evals[e.Step] = g
	return true
}

func isStep(e schemas.Event) bool {
	return e.Type == schemas.EventStep && e.Stage != "" && e.Step > 0 && e.Step < maxSteps
}

// live handles an event of the tail: steps that are missing before it are told first; send is false for a step that was told already.
func (r *replay) live(ctx context.Context, e schemas.Event, tell func(schemas.Event) error) (send bool, err error) {
	if isEval(e) {
		if r.stages[e.Stage] == nil {
			r.stages[e.Stage] = &told{}
		}
		return r.stages[e.Stage].addEval(e), nil
	}
	if !isStep(e) {
		return true, nil
	}
	t := r.stages[e.Stage]
	if t == nil {
		t = &told{}
		r.stages[e.Stage] = t
		if r.resumed {
			t.upto = e.Step - 1
		}
	}
	if !t.has(e) && e.Step > t.upto+1 {
		if err := r.fill(ctx, tell); err != nil {
			return false, err
		}
	}
	t.upto = max(t.upto, e.Step)
	if t.has(e) {
		return false, nil
	}
	t.add(e)
	return true, nil
}

// fill tells every committed step and evaluation that was not told. Only an error of tell is one: history that cannot be read now is left out.
func (r *replay) fill(ctx context.Context, tell func(schemas.Event) error) error {
	head, _, err := checkpoint.NewHeads(r.s.objects, checkpoint.Config{}).Read(ctx, r.tenant, r.run)
	if err != nil {
		return nil //nolint:nilerr // a run without HEAD has no history
	}
	var failed error
	known := func(m schemas.ManifestRef) bool { return r.read[m.Key] }
	done := map[string]bool{}
	err = checkpoint.History(ctx, r.s.objects, head, known, func(m schemas.ManifestRef, e schemas.Event) error {
		done[m.Key] = true
		if !isStep(e) && !isEval(e) {
			return nil
		}
		t := r.stages[e.Stage]
		if t == nil {
			if r.resumed {
				return nil // told before the client came back
			}
			t = &told{}
			r.stages[e.Stage] = t
		}
		if isEval(e) {
			if !r.resumed && t.addEval(e) {
				failed = tell(e)
			}
			return failed
		}
		if t.has(e) || r.resumed && (len(t.generations) == 0 || e.Step <= t.first()) {
			return nil
		}
		t.add(e)
		t.upto = max(t.upto, e.Step)
		failed = tell(e)
		return failed
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		r.s.log.DebugContext(ctx, "cannot read all of a run's history", "run", r.run, "error", err)
		return nil
	}
	for k := range done {
		r.read[k] = true
	}
	return nil
}

// first is the lowest step that was told.
func (t *told) first() int64 {
	for i, g := range t.generations {
		if g != 0 {
			return int64(i)
		}
	}
	return 0
}
