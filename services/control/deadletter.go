package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// bury writes the dead letter of a failed run; one that is there already is the same.
func bury(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, head *schemas.Head) error {
	if head == nil || head.State != schemas.RunFailed {
		return nil
	}
	d := schemas.DeadLetter{Tenant: spec.Tenant, Run: spec.ID, Name: spec.Name, Pool: spec.Pool, Stage: head.Stage, Step: head.Step, At: head.Updated, Ended: map[schemas.Cause]int{}}
	for _, s := range head.Stages {
		if s.State == schemas.StageFailed {
			d.Stage = s.Name
		}
	}
	d.Error = schemas.ErrorInfo{Code: schemas.CodeRunFailed, Message: cmp.Or(head.Reason, "the run failed")}
	if head.Error != nil {
		d.Error = *head.Error
	}
	for _, e := range head.Ended {
		d.Ended[e.Cause]++
	}
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("cannot encode the dead letter of run %s: %w", spec.ID, err)
	}
	key := schemas.DeadLetterKey(spec.Tenant, spec.ID)
	if _, err := objects.Put(ctx, key, data, store.Condition{Absent: true}); err != nil && !errors.Is(err, store.ErrPrecondition) {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	return nil
}

// DeadLetters returns one page of the dead letters of a tenant ("" = of all) in the order of tenant and run. after is the Next of the page
// before.
func (s *Service) DeadLetters(ctx context.Context, tenant, after string, limit int) (*schemas.DeadLetterList, error) {
	if tenant != "" && !schemas.ValidName(tenant) {
		return nil, schemas.Errorf(schemas.CodeInvalid, "tenant", "%q is not a name", tenant)
	}
	limit = min(max(cmp.Or(limit, defaultPage), 1), maxPage)
	out := &schemas.DeadLetterList{DeadLetters: []schemas.DeadLetter{}}
	for info, err := range s.objects.List(ctx, schemas.DeadLetterPrefix(tenant)) {
		if err != nil {
			return nil, unreachable(err)
		}
		id := strings.TrimSuffix(strings.TrimPrefix(info.Key, schemas.DeadLetterPrefix("")), ".json")
		if after != "" && id <= after {
			continue
		}
		if n := len(out.DeadLetters); n == limit {
			out.Next = out.DeadLetters[n-1].Tenant + "/" + out.DeadLetters[n-1].Run
			break
		}
		d, err := s.deadLetter(ctx, info.Key)
		if errors.Is(err, store.ErrNotFound) {
			continue // dropped since the listing
		}
		if err != nil {
			return nil, err
		}
		out.DeadLetters = append(out.DeadLetters, *d)
	}
	return out, nil
}

func (s *Service) deadLetter(ctx context.Context, key string) (*schemas.DeadLetter, error) {
	data, _, err := s.objects.Get(ctx, key, schemas.MaxSpecBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		return nil, unreachable(err)
	}
	var d schemas.DeadLetter
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("cannot decode %s: %w", key, err)
	}
	return &d, nil
}

// DropDeadLetter forgets the dead letter of a run; the run's record and outputs stay. CodeNotFound when there is none.
func (s *Service) DropDeadLetter(ctx context.Context, tenant, run string) error {
	key := schemas.DeadLetterKey(tenant, run)
	if !schemas.ValidName(tenant) || !schemas.ValidName(run) {
		return noDeadLetter(tenant, run)
	}
	if _, err := s.deadLetter(ctx, key); errors.Is(err, store.ErrNotFound) {
		return noDeadLetter(tenant, run)
	} else if err != nil {
		return err
	}
	if err := s.objects.Delete(ctx, key); err != nil {
		return unreachable(err)
	}
	return nil
}

func noDeadLetter(tenant, run string) error {
	return schemas.Errorf(schemas.CodeNotFound, "", "there is no dead letter of run %s/%s", tenant, run).WithHint("tunefleet dlq list shows them")
}

// RetryDeadLetter submits the spec of a failed run again, as a new run without its start conditions, and drops the dead letter. Repeating
// a call that was cut off meets the same new run.
func (s *Service) RetryDeadLetter(ctx context.Context, tenant, run string) (*schemas.SubmitReply, error) {
	if !schemas.ValidName(tenant) || !schemas.ValidName(run) {
		return nil, noDeadLetter(tenant, run)
	}
	if _, err := s.deadLetter(ctx, schemas.DeadLetterKey(tenant, run)); errors.Is(err, store.ErrNotFound) {
		return nil, noDeadLetter(tenant, run)
	} else if err != nil {
		return nil, err
	}
	spec, _, err := s.spec(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	spec.ID, spec.Key, spec.TraceParent = "", "retry of "+run, ""
	spec.NotBefore, spec.After = time.Time{}, nil
	reply, err := s.Submit(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := s.DropDeadLetter(ctx, tenant, run); err != nil && !schemas.IsCode(err, schemas.CodeNotFound) {
		return nil, err
	}
	return reply, nil
}
