package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Policy returns the policy of a pool (an empty one when none was set) and its version for SetPolicy.
func (s *Service) Policy(ctx context.Context, pool string) (*schemas.Policy, string, error) {
	if !schemas.ValidName(pool) {
		return nil, "", schemas.Errorf(schemas.CodeInvalid, "pool", "%q is not a name", pool)
	}
	p, version, err := readPolicy(ctx, s.objects, pool)
	if errors.Is(err, store.ErrUnavailable) {
		return nil, "", unreachable(err)
	}
	if err != nil {
		return nil, "", err
	}
	if p == nil {
		p = &schemas.Policy{Version: 1, Pool: pool}
	}
	return p, version, nil
}

// SetPolicy replaces the policy of a pool: the one of that version ("" = there is none yet). CodeConflict when it has another one by now,
// CodeInvalid names every problem of the new one. Control follows within seconds.
func (s *Service) SetPolicy(ctx context.Context, p *schemas.Policy, version string) (*schemas.Policy, string, error) {
	next := *p
	next.Version, next.Updated = 1, time.Now().UTC()
	if err := next.Validate(); err != nil {
		return nil, "", &schemas.ErrorInfo{Code: schemas.CodeInvalid, Message: err.Error(), Permanent: true}
	}
	data, err := json.Marshal(&next)
	if err != nil {
		return nil, "", fmt.Errorf("cannot encode the policy of pool %s: %w", p.Pool, err)
	}
	if len(data) > maxPolicyBytes {
		return nil, "", schemas.Errorf(schemas.CodeInvalid, "policy", "has %d bytes, the limit is %d", len(data), maxPolicyBytes)
	}
	cond := store.Condition{ETag: version}
	if version == "" {
		cond = store.Condition{Absent: true}
	}
	etag, err := s.objects.Put(ctx, schemas.PolicyKey(p.Pool), data, cond)
	switch {
	case err == nil:
	case errors.Is(err, store.ErrPrecondition):
		return nil, "", schemas.Errorf(schemas.CodeConflict, "policy", "the policy of pool %s was changed meanwhile", p.Pool).WithHint("read it again and repeat the change")
	default:
		return nil, "", unreachable(err)
	}
	if s.poker != nil {
		if err := s.poker.Poke(ctx, schemas.PoolTenant, p.Pool); err != nil {
			s.log.Debug("cannot poke; control reads the policy by and by", "pool", p.Pool, "error", err)
		}
	}
	return &next, etag, nil
}
