package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

// Service is what the API calls: it needs no control replica in the same process. Every change is a swap of HEAD.
type Service struct {
	objects store.Objects
	heads   *checkpoint.Heads
	leases  lease.Store
	poker   Poker
	front   *Front
	log     *slog.Logger
	roll    roll
}

// NewService makes a service. leases and poker may be nil: live figures are then missing and changes are noticed a little later.
func NewService(objects store.Objects, leases lease.Store, poker Poker, logger *slog.Logger) *Service {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Service{objects: objects, heads: checkpoint.NewHeads(objects, checkpoint.Config{Budget: 10 * time.Second}), leases: leases, poker: poker,
		front: NewFront(objects, poker, logger), log: logger, roll: roll{turn: make(chan struct{}, 1)}}
}

// Submit accepts a spec; see Front.Accept.
func (s *Service) Submit(ctx context.Context, spec *schemas.RunSpec) (*schemas.SubmitReply, error) {
	reply, err := s.front.Accept(ctx, spec)
	if err == nil {
		s.roll.accepted.Add(1)
	}
	if err == nil && !reply.Duplicate && s.leases != nil {
		e := schemas.Event{At: time.Now().UTC(), Type: schemas.EventSubmitted, Tenant: reply.Tenant, Run: reply.Run}
		if err := s.leases.Append(ctx, reply.Tenant, reply.Run, e); err != nil {
			s.log.Debug("cannot append event", "run", reply.Run, "error", err)
		}
	}
	return reply, err
}

// Get returns the detail view of a run: CodeNotFound when there is none.
func (s *Service) Get(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	spec, at, err := s.spec(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	head, _, err := s.heads.Read(ctx, tenant, run)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, unreachable(err)
	}
	view := RunView(spec, head, at)
	view.Spec = spec
	s.progress(ctx, view)
	return view, nil
}

// progress adds what is known of a run's progress, and control's word on what it waits for: one on a gang that has formed since is not shown.
func (s *Service) progress(ctx context.Context, view *schemas.RunView) {
	if s.leases == nil {
		return
	}
	fields, err := s.leases.GetProgress(ctx, view.Tenant, view.Run)
	if err != nil || len(fields) == 0 {
		return
	}
	if why := fields["reason"]; why != "" && fields["reason_of"] == string(view.State) && !view.State.Terminal() && len(view.Members) == 0 {
		view.Reason = why
	}
	delete(fields, "reason")
	delete(fields, "reason_of")
	view.Progress = fields
}

func (s *Service) spec(ctx context.Context, tenant, run string) (*schemas.RunSpec, time.Time, error) {
	if !schemas.ValidName(tenant) || !schemas.ValidName(run) {
		return nil, time.Time{}, notFound(tenant, run)
	}
	data, info, err := s.objects.Get(ctx, schemas.SpecKey(tenant, run), schemas.MaxSpecBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, time.Time{}, notFound(tenant, run)
	}
	if err != nil {
		return nil, time.Time{}, unreachable(err)
	}
	spec, err := schemas.DecodeSpec(data)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot read spec of run %s/%s: %w", tenant, run, err)
	}
	return spec, info.Modified, nil
}

func notFound(tenant, run string) error {
	return schemas.Errorf(schemas.CodeNotFound, "", "there is no run %s/%s", tenant, run).WithHint("tunefleet list shows the runs")
}

func unreachable(err error) error {
	return &schemas.ErrorInfo{Code: schemas.CodeUnavailable, Message: err.Error(), Hint: "try again"}
}

// parseOpen takes tenant and run from the key of an open object: ids have no "-".
func parseOpen(key string) (tenant, run string, ok bool) {
	base := strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".json")
	_, rest, ok := strings.Cut(base, "-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// RunView is the public view of a run; head is nil for a queued one.
func RunView(spec *schemas.RunSpec, head *schemas.Head, submitted time.Time) *schemas.RunView {
	v := &schemas.RunView{Tenant: spec.Tenant, Run: spec.ID, Name: spec.Name, Pool: spec.Pool, Priority: spec.Priority, State: schemas.RunQueued,
		Created: submitted.UTC(), Updated: submitted.UTC()}
	if head == nil {
		v.Stages = NewHead(spec).Stages
		return v
	}
	v.State, v.Reason, v.Error, v.Stages, v.Updated = head.State, head.Reason, head.Error, head.Stages, head.Updated
	v.Stage, v.Step, v.Generation, v.Members, v.Ended, v.Manifest = head.Stage, head.Step, head.Generation, head.Members, head.Ended, head.Manifest
	v.Time = head.TimeOf(submitted, time.Now().UTC())
	if head.State == schemas.RunRunning && len(head.Members) > 0 && head.Control == schemas.ControlNone {
		v.Reason = trainingReason(head) // the one in HEAD is control's, from before the gang had formed
	}
	return v
}

// trainingReason says what a gang that trains does.
func trainingReason(h *schemas.Head) string {
	return fmt.Sprintf("training %s: generation %d, %d members, step %d committed", h.Stage, h.Generation, len(h.Members), h.Step)
}

// Cancel ends a run for good, at once: whatever its gang still writes is fenced. Cancelling a cancelled run is no error; CodeConflict when
// it ended otherwise, CodeNotFound when there is none.
func (s *Service) Cancel(ctx context.Context, tenant, run, reason string) (*schemas.RunView, error) {
	if reason == "" {
		reason = "cancelled on request"
	}
	return s.change(ctx, tenant, run, schemas.ControlCancel, func(h *schemas.Head) error {
		if h.State == schemas.RunCancelled {
			return checkpoint.ErrNoChange
		}
		return cancel(h, reason, store.Now(s.objects))
	})
}

// Pause stops a run after its gang's next commit (at once when it has none), giving its workers back; Resume goes on from there.
func (s *Service) Pause(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	return s.change(ctx, tenant, run, schemas.ControlPause, pauseHead)
}

func pauseHead(h *schemas.Head) error {
	if h.State == schemas.RunPaused || h.Control == schemas.ControlPause {
		return checkpoint.ErrNoChange
	}
	next, err := h.State.Next(schemas.RunPause)
	if err != nil {
		return err
	}
	if len(h.Members) > 0 {
		h.Control = schemas.ControlPause // control moves the run to paused when the gang has committed
		return nil
	}
	h.State, h.Reason, h.Seats = next, "paused on request", nil
	return nil
}

// Resume lets a paused run go on.
func (s *Service) Resume(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	return s.change(ctx, tenant, run, schemas.ControlNone, resumeHead)
}

func resumeHead(h *schemas.Head) error {
	if h.State == schemas.RunRunning && h.Control == schemas.ControlPause {
		h.Control = schemas.ControlNone
		return nil
	}
	if h.State == schemas.RunRunning {
		return checkpoint.ErrNoChange
	}
	next, err := h.State.Next(schemas.RunResume)
	if err != nil {
		return err
	}
	h.State, h.Reason, h.Control = next, "resumed", schemas.ControlNone
	return nil
}

// change swaps HEAD, making one for a queued run, and spreads the word.
func (s *Service) change(ctx context.Context, tenant, run string, word schemas.Control, mutate func(*schemas.Head) error) (*schemas.RunView, error) {
	spec, at, err := s.spec(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	head, err := s.heads.Swap(ctx, tenant, run, mutate)
	if errors.Is(err, store.ErrNotFound) {
		first := NewHead(spec)
		first.State = schemas.RunQueued
		if err := mutate(&first); err != nil && !errors.Is(err, checkpoint.ErrNoChange) {
			return nil, err
		} else if first.State == schemas.RunQueued {
			return RunView(spec, nil, at), nil
		}
		head, err = s.heads.Create(ctx, first)
		if errors.Is(err, checkpoint.ErrExists) {
			head, err = s.heads.Swap(ctx, tenant, run, mutate)
		}
	}
	if err != nil {
		return nil, asUnavailable(err)
	}
	if s.leases != nil {
		if err := s.leases.SetControl(ctx, tenant, run, word); err != nil {
			s.log.Debug("cannot set the control word; HEAD says the same", "run", run, "error", err)
		}
		e := schemas.Event{At: head.Updated, Type: schemas.EventState, Tenant: tenant, Run: run, Generation: head.Generation, Step: head.Step, Message: string(head.State)}
		if word == schemas.ControlPause && head.State != schemas.RunPaused {
			e.Type, e.Message = schemas.EventNote, "pausing at the next commit"
		}
		if err := s.leases.Append(ctx, tenant, run, e); err != nil {
			s.log.Debug("cannot append event", "run", run, "error", err)
		}
	}
	if s.poker != nil {
		if err := s.poker.Poke(ctx, tenant, run); err != nil {
			s.log.Debug("cannot poke", "run", run, "error", err)
		}
	}
	return RunView(spec, head, at), nil
}

func asUnavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrPrecondition) {
		return unreachable(err)
	}
	return err
}

// Outputs lists the files of a run's outputs with their names below the output folder.
func (s *Service) Outputs(ctx context.Context, tenant, run string) (*schemas.OutputList, error) {
	if _, _, err := s.spec(ctx, tenant, run); err != nil {
		return nil, err
	}
	prefix := schemas.RunPrefix(tenant, run) + "output/"
	out := &schemas.OutputList{Outputs: []schemas.Object{}}
	for info, err := range s.objects.List(ctx, prefix) {
		if err != nil {
			return nil, unreachable(err)
		}
		out.Outputs = append(out.Outputs, schemas.Object{Name: strings.TrimPrefix(info.Key, prefix), Key: info.Key, Bytes: info.Bytes})
	}
	return out, nil
}

// Workers lists the live workers of the pools ("" = of every pool that has a ledger).
func (s *Service) Workers(ctx context.Context, pool string) (*schemas.WorkerList, error) {
	pools := []string{pool}
	if pool == "" {
		var err error
		if pools, err = s.poolNames(ctx); err != nil {
			return nil, err
		}
	}
	out := &schemas.WorkerList{Workers: []schemas.WorkerView{}}
	for _, p := range pools {
		if s.leases == nil {
			break
		}
		list, err := s.leases.Workers(ctx, p)
		if err != nil {
			return nil, unreachable(err)
		}
		out.Workers = append(out.Workers, list...)
	}
	return out, nil
}

// Pools shows what control decided last for each pool.
func (s *Service) Pools(ctx context.Context) (*schemas.PoolList, error) {
	names, err := s.poolNames(ctx)
	if err != nil {
		return nil, err
	}
	out := &schemas.PoolList{Pools: []schemas.PoolView{}}
	for _, n := range names {
		view := schemas.PoolView{Pool: n}
		if s.leases != nil {
			if fields, err := s.leases.GetProgress(ctx, schemas.PoolTenant, n); err == nil && fields["view"] != "" {
				if err := json.Unmarshal([]byte(fields["view"]), &view); err != nil {
					s.log.Debug("cannot decode pool view", "pool", n, "error", err)
				}
			}
		}
		out.Pools = append(out.Pools, view)
	}
	return out, nil
}

func (s *Service) poolNames(ctx context.Context) ([]string, error) {
	var out []string
	for info, err := range s.objects.List(ctx, "pools/") {
		if err != nil {
			return nil, unreachable(err)
		}
		if n, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, "pools/"), "/LEDGER.json"); ok {
			out = append(out, n)
		}
	}
	return out, nil
}
