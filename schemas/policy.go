package schemas

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Policy is the operator's word on one pool (pools/<pool>/POLICY.json, swapped with If-Match). A pool without one admits everybody alike.
type Policy struct {
	Version int    `json:"version"`
	Pool    string `json:"pool"`
	// Cordon keeps every stage from starting; what runs goes on. Drain also asks running gangs to commit and yield.
	Cordon bool `json:"cordoned,omitempty"`
	Drain  bool `json:"drained,omitempty"`
	// Workers names workers that get no new work; they are not counted as capacity.
	Workers []string `json:"workers,omitempty"`
	// DrainedWorkers names workers that also give back what they hold: their gangs commit, yield and form again without them.
	DrainedWorkers []string `json:"drained_workers,omitempty"`
	// Tenants holds what each tenant may use; "*" stands for all that are not named.
	Tenants map[string]Quota `json:"tenants,omitempty"`
	Updated time.Time        `json:"updated,omitzero"`
}

// Quota bounds one tenant in one pool. Zero means unbounded (Share: 1).
type Quota struct {
	// Share is the tenant's weight: busy tenants get device-seconds in proportion to it.
	Share float64 `json:"share,omitempty"`
	// Running and Queued count runs, Devices seats of running gangs.
	Running int `json:"running,omitempty"`
	Queued  int `json:"queued,omitempty"`
	Devices int `json:"devices,omitempty"`
	// DeviceHours is what gangs may use in a calendar month (UTC); running ones are not stopped when it is spent.
	DeviceHours float64 `json:"device_hours,omitempty"`
}

// PoolTenant stands for the tenant in the progress hash of a pool, where control shows what it decided ("view") and which workers are
// cordoned ("cordoned", a JSON list); it is no valid tenant.
const PoolTenant = "_pool"

// AnyTenant is the key of the quota of tenants that are not named.
const AnyTenant = "*"

// Of returns the quota of a tenant, with a share of at least a millionth.
func (p *Policy) Of(tenant string) Quota {
	var q Quota
	if p != nil {
		var ok bool
		if q, ok = p.Tenants[tenant]; !ok {
			q = p.Tenants[AnyTenant]
		}
	}
	if q.Share <= 0 {
		q.Share = 1
	}
	q.Share = max(q.Share, 1e-6)
	return q
}

// Cordoned lists the workers that get no new work. A cordoned pool keeps its workers pulling: the parts and seats of what runs still need
// holders.
func (p *Policy) Cordoned() []string {
	if p == nil {
		return []string{}
	}
	return append(append([]string{}, p.Workers...), p.DrainedWorkers...)
}

// Cordons reports whether a worker gets no new work.
func (p *Policy) Cordons(worker string) bool {
	return p != nil && (slices.Contains(p.Workers, worker) || p.DrainsWorker(worker))
}

// DrainsWorker reports whether a worker is to give back what it holds.
func (p *Policy) DrainsWorker(worker string) bool {
	return p != nil && slices.Contains(p.DrainedWorkers, worker)
}

// maxPolicyNames bounds the tenants and the workers that a policy names.
const maxPolicyNames = 100_000

// Validate reports every problem at once.
func (p *Policy) Validate() error {
	var errs problems
	errs.check(ValidName(p.Pool), "pool", "%q is not a name", p.Pool)
	errs.check(len(p.Workers)+len(p.DrainedWorkers) <= maxPolicyNames && len(p.Tenants) <= maxPolicyNames, "policy", "names more than %d workers or tenants", maxPolicyNames)
	for name, q := range p.Tenants {
		at := "tenants." + name
		errs.check(name == AnyTenant || ValidName(name), at, "%q is neither a name nor %q", name, AnyTenant)
		errs.check(finite(q.Share) && q.Share >= 0 && q.Share <= 1e6, at+".share", "is %g, must be 0 to 1e6", q.Share)
		errs.check(q.Running >= 0 && q.Queued >= 0 && q.Devices >= 0, at, "running, queued and devices must not be negative")
		errs.check(finite(q.DeviceHours) && q.DeviceHours >= 0, at+".device_hours", "is %g, must be >= 0", q.DeviceHours)
	}
	return errors.Join(errs...)
}

// Dependency is a run of the same tenant that must have ended before this one starts.
type Dependency struct {
	Run string `json:"run"`
	// On is "succeeded" (default: otherwise this run is skipped) or "any".
	On string `json:"on,omitempty" jsonschema:"enum=succeeded,enum=any"`
}

// Met says what the state of the other run means for the one that waits: ok to start, or never (skip it).
func (d Dependency) Met(s RunState) (ok, never bool) {
	if !s.Terminal() {
		return false, false
	}
	if d.On == "any" || s == RunSucceeded {
		return true, false
	}
	return false, true
}

// maxDependencies bounds RunSpec.After.
const maxDependencies = 64

func (s *RunSpec) validateWhen(p *problems) {
	p.check(len(s.After) <= maxDependencies, "after", "names %d runs, the limit is %d", len(s.After), maxDependencies)
	for i, d := range s.After {
		at := fmt.Sprintf("after[%d]", i)
		p.check(ValidName(d.Run), at+".run", "%q is no run id", d.Run)
		p.check(d.Run != s.ID || s.ID == "", at+".run", "a run cannot wait for itself")
		p.check(d.On == "" || d.On == "succeeded" || d.On == "any", at+".on", "%q is unknown (succeeded, any)", d.On)
	}
	p.check(s.MaxRuntimeS >= 0, "max_runtime_s", "is %d, must be >= 0", s.MaxRuntimeS)
}

// DeadLetter is the record of a run that failed (dlq/<tenant>/<id>.json): what an operator retries or drops.
type DeadLetter struct {
	Tenant string    `json:"tenant"`
	Run    string    `json:"run"`
	Name   string    `json:"name,omitempty"`
	Pool   string    `json:"pool"`
	Stage  string    `json:"stage,omitempty"`
	Error  ErrorInfo `json:"error"`
	// Ended sums the ends of generations by cause; Step is the last commit.
	Ended map[Cause]int `json:"ended,omitempty"`
	Step  int64         `json:"step,omitempty"`
	At    time.Time     `json:"at"`
}

// DeadLetterList is one page of dead letters, ordered by (tenant, run); Next is the "after" of the next page.
type DeadLetterList struct {
	DeadLetters []DeadLetter `json:"dead_letters"`
	Next        string       `json:"next,omitempty"`
}

// PolicyKey is the policy of a pool.
func PolicyKey(pool string) string { return "pools/" + pool + "/POLICY.json" }

// DeadLetterPrefix is where the dead letters of a tenant lie ("" = of all).
func DeadLetterPrefix(tenant string) string {
	if tenant == "" {
		return "dlq/"
	}
	return "dlq/" + tenant + "/"
}

// DeadLetterKey is the dead letter of a run.
func DeadLetterKey(tenant, run string) string { return DeadLetterPrefix(tenant) + run + ".json" }
