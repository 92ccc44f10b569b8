package chaostest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// Plan says what to kill while a run is under way.
type Plan struct {
	Seed  uint64
	Kills int
	// Targets are process names of the cell; each is killed about equally often.
	Targets []string
	// Steps is the number of optimizer steps of the train stage, over which the kills are spread. Stage names it.
	Steps int64
	Stage string
	// Down is the longest time that a killed process stays down (default 1 s).
	Down time.Duration
	// Patience bounds the whole run.
	Patience time.Duration
	Logger   *slog.Logger
}

// Kill is one SIGKILL.
type Kill struct {
	Target string
	// Step is the committed step that was waited for, After the time since then.
	Step  int64
	After time.Duration
	Down  time.Duration
}

// Report is what a run under kills came to.
type Report struct {
	Kills []Kill
	Head  *schemas.Head
	Took  time.Duration
}

// Schedule derives the kills from the seed alone: steps and delays are random, targets are dealt in shuffled rounds.
func (p Plan) Schedule() []Kill {
	r := rand.New(rand.NewPCG(p.Seed, 0x7f)) //nolint:gosec // the kills must be repeatable
	if p.Down <= 0 {
		p.Down = time.Second
	}
	kills := make([]Kill, p.Kills)
	var round []string
	for i := range kills {
		if len(round) == 0 {
			round = slices.Clone(p.Targets)
			r.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		kills[i] = Kill{Target: round[0], Step: r.Int64N(max(1, p.Steps*9/10)), After: time.Duration(r.Int64N(int64(400 * time.Millisecond))),
			Down: time.Duration(r.Int64N(int64(p.Down)))}
		if r.IntN(5) == 0 { // before the stage's first commit: in the stages before it, or while its gang forms
			kills[i].Step, kills[i].After = 0, time.Duration(r.Int64N(int64(1500*time.Millisecond)))
		}
		round = round[1:]
	}
	slices.SortStableFunc(kills, func(a, b Kill) int { return cmp.Compare(a.Step, b.Step) })
	return kills
}

// Run follows a submitted run to its end and kills processes of the cell on the way. It fails when the run does not end in time, when a
// process that was not killed ended by itself, or when the run ended before every kill was made.
func Run(ctx context.Context, cell *Cell, heads *checkpoint.Heads, tenant, run string, p Plan) (Report, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	rep := Report{}
	var err error
	for _, k := range p.Schedule() {
		rep.Head, err = await(ctx, cell, heads, tenant, run, func(h *schemas.Head) bool { return h.State.Terminal() || committed(h, p.Stage) >= k.Step })
		if err != nil {
			return rep, err
		}
		if rep.Head.State.Terminal() {
			return rep, fmt.Errorf("the run ended (%s: %s) before kill %d of %d", rep.Head.State, rep.Head.Reason, len(rep.Kills)+1, p.Kills)
		}
		time.Sleep(k.After)
		p.Logger.Info("kill -9", "target", k.Target, "step", committed(rep.Head, p.Stage), "down", k.Down)
		if err := cell.Signal(k.Target, syscall.SIGKILL); err != nil {
			return rep, err
		}
		time.Sleep(k.Down)
		if err := cell.Start(k.Target); err != nil {
			return rep, err
		}
		rep.Kills = append(rep.Kills, k)
	}
	rep.Head, err = await(ctx, cell, heads, tenant, run, func(h *schemas.Head) bool { return h.State.Terminal() })
	rep.Took = time.Since(began)
	return rep, err
}

// committed is the newest committed step of the stage.
func committed(h *schemas.Head, stage string) int64 {
	if h.Stage == stage && h.Manifest != nil && h.Manifest.Stage == stage {
		return h.Manifest.Step
	}
	if st := h.StageByName(stage); st != nil && st.Manifest != nil {
		return st.Manifest.Step
	}
	return 0
}

// await polls HEAD until cond holds.
func await(ctx context.Context, cell *Cell, heads *checkpoint.Heads, tenant, run string, cond func(*schemas.Head) bool) (*schemas.Head, error) {
	var last *schemas.Head
	var lastErr error
	for {
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		head, _, err := heads.Read(rctx, tenant, run)
		cancel()
		if err == nil {
			if last = head; cond(head) {
				return head, nil
			}
		} else {
			lastErr = err
		}
		for _, name := range cell.names() {
			if !cell.Alive(name) {
				return last, fmt.Errorf("%s ended by itself, see its log in %s", name, cell.Dir)
			}
		}
		select {
		case <-ctx.Done():
			return last, errors.Join(fmt.Errorf("the run did not get further in time; HEAD: %+v", last), lastErr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
