package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// cachedPolicy is a policy as the front read it last.
type cachedPolicy struct {
	policy *schemas.Policy
	at     time.Time
}

// frontPolicyFor is how long the front goes by a policy that it has read: submitting must not cost a GET each time.
const frontPolicyFor = 5 * time.Second

// admit refuses a spec that waits for runs that do not exist, and one more run of a tenant that has as many in line as it may. The count is
// taken before the run is stored: tenants that submit from many places at once may get a few more in. counted says that the tenant's runs
// are counted.
func (f *Front) admit(ctx context.Context, spec *schemas.RunSpec) (counted bool, err error) {
	var errs []error
	for i, d := range spec.After {
		_, err := f.objects.Stat(ctx, schemas.SpecKey(spec.Tenant, d.Run))
		switch {
		case errors.Is(err, store.ErrNotFound):
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, fmt.Sprintf("after[%d].run", i), "there is no run %s/%s", spec.Tenant, d.Run))
		case err != nil:
			return false, unavailable(schemas.SpecKey(spec.Tenant, d.Run), err)
		}
	}
	if len(errs) > 0 {
		return false, &schemas.ErrorInfo{Code: schemas.CodeInvalid, Message: errors.Join(errs...).Error(), Permanent: true}
	}
	q, err := f.quota(ctx, spec.Pool, spec.Tenant)
	if err != nil || q.Queued == 0 {
		return false, err
	}
	if _, err := f.objects.Stat(ctx, schemas.SpecKey(spec.Tenant, spec.ID)); err == nil {
		return true, nil // submitted again: it takes no place
	}
	n := 0
	for prio := range 4 {
		key := schemas.OpenKey(spec.Pool, prio, spec.Tenant, "")
		for _, err := range f.objects.List(ctx, key[:len(key)-len(".json")]) {
			if err != nil {
				return false, unavailable(key, err)
			}
			if n++; n >= q.Queued {
				return false, schemas.Errorf(schemas.CodeConflict, "tenant", "%s has %d open runs in pool %s, the most that it may", spec.Tenant, n, spec.Pool).
					WithHint("wait for runs to end, cancel some, or ask the operator of the pool: tunefleet pool quota %s %s", spec.Pool, spec.Tenant)
			}
		}
	}
	return true, nil
}

// quota is the tenant's quota by a policy of at most frontPolicyFor ago. A policy that cannot be decoded bounds nobody: control reports it.
func (f *Front) quota(ctx context.Context, pool, tenant string) (schemas.Quota, error) {
	f.mu.Lock()
	c, ok := f.policies[pool]
	f.mu.Unlock()
	if !ok || time.Since(c.at) > frontPolicyFor {
		p, _, err := readPolicy(ctx, f.objects, pool)
		if errors.Is(err, store.ErrUnavailable) {
			return schemas.Quota{}, unavailable(schemas.PolicyKey(pool), err)
		}
		if err != nil {
			f.log.Warn("the policy cannot be read", "pool", pool, "error", err)
			p = nil
		}
		c = cachedPolicy{policy: p, at: time.Now()}
		f.mu.Lock()
		if len(f.policies) > 1000 { // pools are named by whoever submits
			clear(f.policies)
		}
		f.policies[pool] = c
		f.mu.Unlock()
	}
	return c.policy.Of(tenant), nil
}
