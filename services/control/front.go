package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// idRE is what an id must look like: without "-" and "_", so that the names of open objects can be told apart.
var idRE = regexp.MustCompile(`^[0-9a-z]{8,40}$`)

// Poker sends the hint that HEAD of a run, or the set of open runs, changed.
type Poker interface {
	Poke(ctx context.Context, tenant, run string) error
}

// Front accepts specs: from the intake (Handle) and from the API (Accept). It needs nothing but the object store to accept.
type Front struct {
	objects store.Objects
	heads   *checkpoint.Heads
	poker   Poker
	log     *slog.Logger

	mu       sync.Mutex
	policies map[string]cachedPolicy

	index index
}

// NewFront makes a front. poker may be nil: runs are then found by looking.
func NewFront(objects store.Objects, poker Poker, logger *slog.Logger) *Front {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Front{objects: objects, heads: checkpoint.NewHeads(objects, checkpoint.Config{Budget: 10 * time.Second}), poker: poker, log: logger,
		policies: map[string]cachedPolicy{}, index: index{pools: map[string]*lineup{}}}
}

// Handle answers a submitted spec in JSON form with a SubmitReply in JSON form; it is the front of queue.Intake.Serve. header carries the
// trace context of the producer.
func (f *Front) Handle(ctx context.Context, spec []byte, header map[string]string) []byte {
	reply := f.decodeAndAccept(telemetry.Extract(ctx, header), spec)
	out, err := json.Marshal(reply)
	if err != nil {
		return []byte(`{"error":{"code":"internal","message":"cannot encode the reply"}}`)
	}
	return out
}

func (f *Front) decodeAndAccept(ctx context.Context, data []byte) *schemas.SubmitReply {
	spec, err := schemas.DecodeSpec(data)
	if err != nil {
		return &schemas.SubmitReply{Error: schemas.AsErrorInfo(err)}
	}
	reply, err := f.Accept(ctx, spec)
	if err != nil {
		return &schemas.SubmitReply{Error: schemas.AsErrorInfo(err)}
	}
	return reply
}

// Accept validates a spec and stores it as an open run. The reply is the acknowledgement: the run will not be lost. A second call with the
// same tenant and key (or id) meets the same run, as it was first accepted, and says so. CodeInvalid names every problem of a bad spec,
// CodeUnavailable means that the store did not answer and the call may be repeated with the same key.
func (f *Front) Accept(ctx context.Context, in *schemas.RunSpec) (reply *schemas.SubmitReply, err error) {
	ctx, span := telemetry.Tracer().Start(ctx, telemetry.SpanFront)
	defer func() { telemetry.End(span, err) }()
	spec := in.WithDefaults()
	if spec.ID == "" {
		if spec.Key != "" {
			spec.ID = schemas.RunID(spec.Tenant, spec.Key)
		} else {
			spec.ID = strings.ToLower(ulid.Make().String())
		}
	}
	if spec.TraceParent == "" {
		spec.TraceParent = telemetry.TraceParent(ctx)
	}
	spec.FreezeDate(time.Now())
	if err := spec.Validate(); err != nil {
		return nil, &schemas.ErrorInfo{Code: schemas.CodeInvalid, Message: err.Error(), Permanent: true}
	}
	if !idRE.MatchString(spec.ID) {
		return nil, schemas.Errorf(schemas.CodeInvalid, "id", "%q is not 8 to 40 lower-case letters and digits", spec.ID)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode spec: %w", err)
	}
	counted, err := f.admit(ctx, spec)
	if err != nil {
		return nil, err
	}
	if len(data) > schemas.MaxSpecBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, "", "the spec has %d bytes, the limit is %d", len(data), schemas.MaxSpecBytes).WithHint("put data into files; a spec only names them")
	}
	// The copy beside HEAD comes first: it makes the id the run's whatever pool or priority a retry names.
	duplicate := false
	key := schemas.SpecKey(spec.Tenant, spec.ID)
	if err := f.put(ctx, key, data); errors.Is(err, store.ErrPrecondition) {
		old, _, err := f.objects.Get(ctx, key, schemas.MaxSpecBytes)
		if err != nil {
			return nil, unavailable(key, err)
		}
		if spec, err = schemas.DecodeSpec(old); err != nil {
			return nil, fmt.Errorf("cannot read the spec that the run was accepted with: %w", err)
		}
		data, duplicate = old, true
	} else if err != nil {
		return nil, unavailable(key, err)
	}
	reply = &schemas.SubmitReply{Run: spec.ID, Tenant: spec.Tenant, State: schemas.RunQueued, Duplicate: duplicate}
	if duplicate {
		head, _, err := f.heads.Read(ctx, spec.Tenant, spec.ID)
		if err == nil {
			reply.State = head.State
			return reply, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, unavailable(schemas.HeadKey(spec.Tenant, spec.ID), err)
		}
	}
	// A tenant whose runs are counted gets an object of its own for each, and so does who submits again: it may be in a batch already.
	if err := f.open(ctx, spec, data, counted || duplicate); err != nil {
		return nil, unavailable(schemas.OpenKey(spec.Pool, spec.Priority, spec.Tenant, spec.ID), err)
	}
	if f.poker != nil {
		if err := f.poker.Poke(ctx, spec.Tenant, spec.ID); err != nil {
			f.log.Debug("cannot poke; control finds the run by looking", "run", spec.ID, "error", err)
		}
	}
	f.log.Info("run accepted", "tenant", spec.Tenant, "run", spec.ID, "pool", spec.Pool, "duplicate", duplicate)
	return reply, nil
}

// put writes an object that must not exist. After an unknown outcome, one with the same bytes is taken for ours.
func (f *Front) put(ctx context.Context, key string, data []byte) error {
	for attempt := 0; ; attempt++ {
		_, err := f.objects.Put(ctx, key, data, store.Condition{Absent: true})
		if err == nil || plantedbug.Is(plantedbug.AcknowledgeUnstored) && !errors.Is(err, store.ErrPrecondition) {
			return nil
		}
		if errors.Is(err, store.ErrPrecondition) && attempt > 0 {
			if have, _, gerr := f.objects.Get(ctx, key, schemas.MaxSpecBytes); gerr == nil && string(have) == string(data) {
				return nil
			}
		}
		if !errors.Is(err, store.ErrAmbiguous) && !errors.Is(err, store.ErrUnavailable) || attempt >= 4 {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(50<<attempt) * time.Millisecond):
		}
	}
}

func unavailable(key string, err error) error {
	if errors.Is(err, store.ErrFull) {
		return schemas.Errorf(schemas.CodeDiskFull, key, "cannot store the run: %v", err)
	}
	return &schemas.ErrorInfo{Code: schemas.CodeUnavailable, Place: key, Message: "cannot store the run: " + err.Error(), Hint: "submit again with the same key"}
}
