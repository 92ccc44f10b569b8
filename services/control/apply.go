package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/registry"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// apply does one action: ledger or HEAD first, then messages. What fails after HEAD was swapped is made good by later ticks.
func (p *pool) apply(ctx context.Context, a Action) (err error) {
	r := p.find(a.Tenant, a.Run)
	if r == nil && a.Kind != ActTurnEnd {
		return errStale
	}
	if a.Kind != ActPublish && r != nil {
		var span trace.Span
		ctx, span = telemetry.Tracer().Start(telemetry.WithTraceParent(ctx, r.spec.TraceParent), telemetry.SpanDecide, trace.WithAttributes(
			attribute.String(telemetry.AttrRun, a.Run), attribute.String(telemetry.AttrTenant, a.Tenant), attribute.String(telemetry.AttrStage, a.Stage),
			attribute.String("tunefleet.action", string(a.Kind))))
		defer func() { telemetry.End(span, err) }()
	}
	switch a.Kind {
	case ActTurn:
		turn := *a.Turn
		turn.Since = store.Now(p.c.objects)
		return p.keeper.update(ctx, func(l *schemas.Ledger) { l.Turn = &turn })
	case ActTurnEnd:
		return p.keeper.update(ctx, func(l *schemas.Ledger) { l.Turn = nil })
	case ActStart, ActSkip:
		return p.start(ctx, r, a)
	case ActPublish:
		return p.messages(ctx, r, nil, a.Publish)
	case ActClose:
		return p.close(ctx, r, a)
	case ActStageDone:
		if err := p.merge(ctx, r, a.Stage); err != nil {
			return err
		}
	}
	head, err := p.c.heads.Swap(ctx, a.Tenant, a.Run, func(h *schemas.Head) error { return Transition(h, a, store.Now(p.c.objects)) })
	if err != nil {
		return err
	}
	p.moved(ctx, r, head, a)
	return p.messages(ctx, r, a.Delete, a.Publish)
}

func (p *pool) find(tenant, run string) *openRun {
	r := p.byName[tenant+"/"+run]
	if r == nil || r.spec == nil || p.runs[r.key] != r {
		return nil
	}
	return r
}

// moved follows a swap of HEAD: memory, poke, control word, events.
func (p *pool) moved(ctx context.Context, r *openRun, head *schemas.Head, a Action) {
	old := r.head
	r.head, r.readAt = head, max(p.c.clock(), 1)
	p.c.log.Info("run moved", "tenant", head.Tenant, "run", head.Run, "action", a.Kind, "stage", a.Stage, "state", head.State, "generation", head.Generation, "reason", a.Reason)
	ctx, cancel := p.brief(ctx)
	defer cancel()
	if events := transitions(old, head, a); len(events) > 0 && p.bootSince > 0 {
		if err := p.c.leases.Append(ctx, head.Tenant, head.Run, events...); err != nil {
			p.c.log.Debug("cannot append events", "run", head.Run, "error", err)
		}
	}
	if word := schemas.ControlNone; p.bootSince > 0 && (old == nil || old.Control != head.Control || head.State == schemas.RunPaused) {
		if head.State == schemas.RunRunning {
			word = head.Control
		}
		_ = p.c.leases.SetControl(ctx, head.Tenant, head.Run, word) // a hint: HEAD says the same
	}
	if err := p.c.work.Poke(ctx, head.Tenant, head.Run); err != nil {
		p.c.log.Debug("cannot poke", "run", head.Run, "error", err)
	}
}

// transitions lists the events of a swap.
func transitions(old, head *schemas.Head, a Action) []schemas.Event {
	base := schemas.Event{At: head.Updated, Tenant: head.Tenant, Run: head.Run, Generation: head.Generation, Step: head.Step}
	var out []schemas.Event
	for i := range head.Stages {
		st := head.Stages[i]
		if old == nil || old.StageByName(st.Name) == nil || old.StageByName(st.Name).State != st.State {
			if st.State == schemas.StagePending {
				continue
			}
			e := base
			e.Type, e.Stage, e.Message = schemas.EventStage, st.Name, string(st.State)
			out = append(out, e)
		}
	}
	if a.Kind == ActSeatReissue || a.Kind == ActRetire {
		e := base
		e.Type, e.Stage, e.Message = schemas.EventMemberLost, a.Stage, a.Reason
		out = append(out, e)
	}
	if old == nil || old.State != head.State {
		e := base
		e.Type, e.Message, e.Error = schemas.EventState, string(head.State), head.Error
		out = append(out, e)
	}
	return out
}

// start copies the spec beside HEAD and creates HEAD.
func (p *pool) start(ctx context.Context, r *openRun, a Action) error {
	if err := putSpec(ctx, p.c.objects, r.spec); err != nil {
		return err
	}
	h := StartHead(r.spec, a, store.Now(p.c.objects))
	if a.Kind == ActSkip {
		h = NewHead(r.spec)
		h.State, h.Stages = schemas.RunSkipped, skipped(h.Stages)
	}
	h.Reason = a.Reason
	head, err := p.c.heads.Create(ctx, h)
	if errors.Is(err, checkpoint.ErrExists) {
		r.head = head
		return errStale
	}
	if err != nil {
		return err
	}
	if plantedbug.Is(plantedbug.LoseOpenObject) {
		_ = p.c.objects.Delete(ctx, r.key) // planted
	}
	p.moved(ctx, r, head, a)
	return p.messages(ctx, r, nil, a.Publish)
}

// skipped marks every stage so.
func skipped(stages []schemas.StageState) []schemas.StageState {
	for i := range stages {
		stages[i].State = schemas.StageSkipped
	}
	return stages
}

// putSpec writes the spec beside HEAD; it is immutable, so one that is there already is the same.
func putSpec(ctx context.Context, objects store.Objects, spec *schemas.RunSpec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("cannot encode spec of run %s: %w", spec.ID, err)
	}
	key := schemas.SpecKey(spec.Tenant, spec.ID)
	if _, err := objects.Put(ctx, key, data, store.Condition{Absent: true}); err != nil && !errors.Is(err, store.ErrPrecondition) {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	return nil
}

// messages deletes and publishes. What was not published stays due.
func (p *pool) messages(ctx context.Context, r *openRun, del, pub []schemas.Message) error {
	var errs []error
	for _, m := range del {
		if err := p.c.work.Delete(ctx, schemas.WorkSubject(m)); err != nil && !errors.Is(err, queue.ErrNoStream) {
			errs = append(errs, fmt.Errorf("cannot delete %s: %w", schemas.WorkSubject(m), err))
		}
	}
	for _, m := range pub {
		err := p.send(ctx, r, m)
		if errors.Is(err, queue.ErrNoStream) {
			p.c.ensureSoon()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot publish %s: %w", schemas.WorkSubject(m), err))
			break
		}
		k := ClaimKey{m.Stage, m.Index(), m.Issue}
		now := p.c.clock()
		c := r.claims[k]
		if c == nil {
			c = &Claim{Known: now}
			r.claims[k] = c
		}
		c.Published, c.WasPublished = now, true
	}
	return errors.Join(errs...)
}

func (p *pool) send(ctx context.Context, r *openRun, m schemas.Message) (err error) {
	ctx, span := telemetry.StartPublish(telemetry.WithTraceParent(ctx, r.spec.TraceParent), m)
	defer func() { telemetry.End(span, err) }()
	err = p.c.work.Publish(ctx, m, withWarm(telemetry.Inject(ctx), r.head, m))
	if errors.Is(err, queue.ErrDuplicate) {
		return nil
	}
	return err
}

// withWarm adds the names of the gang that yielded to the header of a seat's message: others let them come first.
func withWarm(header map[string]string, head *schemas.Head, m schemas.Message) map[string]string {
	if m.Kind != schemas.KindTrain || head == nil || len(head.Warm) == 0 || head.Stage != m.Stage {
		return header
	}
	if header == nil {
		header = map[string]string{}
	}
	header[schemas.HeaderWarm] = strings.Join(head.Warm, ",")
	return header
}

// merge writes the result of a stage from the results of its parts; the reduce step's result is the stage's, where there is one. What an
// export wrote is registered as a model version.
func (p *pool) merge(ctx context.Context, r *openRun, stage string) error {
	spec, err := r.spec.StageOf(stage)
	if err != nil {
		return err
	}
	n := parts(spec)
	first, last := 0, n-1
	if reduces(spec) == 1 {
		first, last = n, n
	}
	out := schemas.StageResult{Version: 1, Run: r.spec.ID, Tenant: r.spec.Tenant, Stage: stage, Kind: spec.Kind, Part: n, Parts: n, At: time.Now().UTC()}
	for part := first; part <= last; part++ {
		key := schemas.ResultKey(r.spec.Tenant, r.spec.ID, stage, part)
		data, _, err := p.c.objects.Get(ctx, key, maxResultBytes)
		if err != nil {
			return fmt.Errorf("cannot read result %s: %w", key, err)
		}
		var one schemas.StageResult
		if err := json.Unmarshal(data, &one); err != nil {
			return fmt.Errorf("cannot decode result %s: %w", key, err)
		}
		mergeResult(&out, &one)
	}
	data, err := json.Marshal(&out)
	if err != nil {
		return fmt.Errorf("cannot encode result of stage %s: %w", stage, err)
	}
	key := schemas.StageResultKey(r.spec.Tenant, r.spec.ID, stage)
	if _, err := p.c.objects.Put(ctx, key, data, store.Condition{Absent: true}); err != nil && !errors.Is(err, store.ErrPrecondition) {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	if spec.Kind == schemas.KindExport {
		v, err := registry.New(p.c.objects).Register(ctx, r.spec, r.head, &out)
		if err != nil {
			return err
		}
		p.c.log.Info("model version registered", "tenant", v.Tenant, "name", v.Name, "number", v.Number, "run", v.Run)
	}
	return nil
}

// mergeResult appends objects, adds counters, and keeps of equal values the first part's.
func mergeResult(out, one *schemas.StageResult) {
	out.Objects = append(out.Objects, one.Objects...)
	for k, v := range one.Counters {
		if out.Counters == nil {
			out.Counters = map[string]int64{}
		}
		out.Counters[k] += v
	}
	if out.Values == nil {
		out.Values = map[string]any{}
	}
	have := maps.Clone(out.Values)
	maps.Copy(out.Values, one.Values)
	maps.Copy(out.Values, have)
}

// close cleans up after a run that has ended: the index record, messages, old checkpoints, and last the open object.
func (p *pool) close(ctx context.Context, r *openRun, a Action) error {
	if err := putSpec(ctx, p.c.objects, r.spec); err != nil {
		return err
	}
	// The record and the metrics date the run as its page does, by the spec: the open object that control knows it by is stored a moment
	// later, or much later when the front died in between.
	at, err := p.c.objects.Stat(ctx, schemas.SpecKey(a.Tenant, a.Run))
	if err != nil {
		return fmt.Errorf("cannot date the spec of run %s: %w", a.Run, err)
	}
	view := RunView(r.spec, r.head, at.Modified)
	data, err := json.Marshal(view)
	if err != nil {
		return fmt.Errorf("cannot encode the record of run %s: %w", a.Run, err)
	}
	if _, err := p.c.objects.Put(ctx, schemas.EndedKey(a.Tenant, a.Run), data, store.Condition{}); err != nil {
		return fmt.Errorf("cannot write %s: %w", schemas.EndedKey(a.Tenant, a.Run), err)
	}
	if err := bury(ctx, p.c.objects, r.spec, r.head); err != nil {
		return err
	}
	if err := p.messages(ctx, r, a.Delete, nil); err != nil {
		p.c.log.Warn("messages of an ended run are left to their pullers", "run", a.Run, "error", err)
	}
	if _, err := checkpoint.Prune(ctx, p.c.objects, r.head); err != nil {
		p.c.log.Warn("cannot prune checkpoints", "run", a.Run, "error", err)
	}
	if err := p.c.objects.Delete(ctx, r.key); err != nil {
		return fmt.Errorf("cannot delete %s: %w", r.key, err)
	}
	delete(p.runs, r.key)
	delete(p.byName, a.Tenant+"/"+a.Run)
	p.c.ended(ctx, view)
	_ = p.c.work.Poke(ctx, a.Tenant, a.Run) // a hint
	return nil
}

// prune deletes superseded checkpoints of the run that has waited longest for it, one run at a time, beside the scheduling.
func (p *pool) prune(ctx context.Context) {
	now := p.c.clock()
	var next *openRun
	for _, r := range p.runs {
		if r.head == nil || r.head.Manifest == nil || r.head.Previous == nil || r.pruned == r.head.Manifest.Key || r.prunedAt > 0 && now-r.prunedAt < p.c.cfg.PruneEvery {
			continue
		}
		if next == nil || r.prunedAt < next.prunedAt {
			next = r
		}
	}
	if next == nil {
		return
	}
	select {
	case p.pruning <- struct{}{}:
	default:
		return
	}
	head := *next.head
	next.pruned, next.prunedAt = head.Manifest.Key, max(now, 1)
	go func() {
		defer func() { <-p.pruning }()
		if dropped, err := checkpoint.Prune(ctx, p.c.objects, &head); err != nil && ctx.Err() == nil {
			p.c.log.Warn("cannot prune checkpoints", "run", head.Run, "error", err)
		} else if len(dropped) > 0 {
			p.c.log.Debug("checkpoints pruned", "run", head.Run, "parts", len(dropped))
		}
	}()
}
