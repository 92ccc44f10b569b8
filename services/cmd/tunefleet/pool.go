package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

func (a *app) poolCommand() *cobra.Command {
	return group("pool", "Show pools; cordon, drain and quotas", a.poolListCommand(), a.poolPolicyCommand(), a.poolQuotaCommand(),
		a.cordonCommand("cordon", "Start nothing new in a pool, or give a worker no new work", func(p *schemas.Policy) { p.Cordon = true }, func(p *schemas.Policy, worker string) {
			if !p.Cordons(worker) {
				p.Workers = append(p.Workers, worker)
			}
		}),
		a.cordonCommand("drain", "Cordon a pool and let its gangs commit and yield, or those of one worker", func(p *schemas.Policy) { p.Cordon, p.Drain = true, true }, func(p *schemas.Policy, worker string) {
			if !p.DrainsWorker(worker) {
				p.DrainedWorkers = append(p.DrainedWorkers, worker)
			}
		}),
		a.cordonCommand("uncordon", "Take a cordon or drain back", func(p *schemas.Policy) { p.Cordon, p.Drain = false, false }, func(p *schemas.Policy, worker string) {
			p.Workers = slices.DeleteFunc(p.Workers, func(w string) bool { return w == worker })
			p.DrainedWorkers = slices.DeleteFunc(p.DrainedWorkers, func(w string) bool { return w == worker })
		}))
}

// withPolicy reads a pool's policy, changes it and writes it back; a change by somebody else in between is met by trying again.
func (a *app) withPolicy(ctx context.Context, pool string, edit func(*schemas.Policy) error) (*schemas.Policy, error) {
	cl, err := a.client(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	for attempt := 0; ; attempt++ {
		p, version, err := cl.Policy(ctx, pool)
		if err != nil {
			return nil, err
		}
		if err := edit(p); err != nil {
			return nil, err
		}
		next, _, err := cl.SetPolicy(ctx, p, version)
		if schemas.IsCode(err, schemas.CodeConflict) && attempt < 5 {
			continue
		}
		return next, err
	}
}

// knowsPool reports whether a control schedules the pool: the policy of any other is kept, but a mistyped name is likelier.
func (a *app) knowsPool(ctx context.Context, pool string) (bool, error) {
	cl, err := a.client(ctx)
	if err != nil {
		return false, err
	}
	defer cl.Close()
	list, err := cl.Pools(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.Pools, func(p schemas.PoolView) bool { return p.Pool == pool }), nil
}

func (a *app) cordonCommand(use, short string, whole func(*schemas.Policy), one func(*schemas.Policy, string)) *cobra.Command {
	var worker string
	c := &cobra.Command{
		Use: use + " POOL", Short: short, Args: exactArgs("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.knowsPool(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			p, err := a.withPolicy(cmd.Context(), args[0], func(p *schemas.Policy) error {
				if worker != "" {
					one(p, worker)
				} else {
					whole(p)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if !known {
				a.say("no control schedules a pool %q yet: this holds once one does (tunefleet pool list shows the pools)", p.Pool)
			}
			a.say("pool %s: cordoned %t, drained %t, cordoned workers: %s, drained workers: %s", p.Pool, p.Cordon, p.Drain, nonEmpty(strings.Join(p.Workers, ", "), "none"),
				nonEmpty(strings.Join(p.DrainedWorkers, ", "), "none"))
			if a.json {
				return a.print(p)
			}
			return nil
		},
	}
	c.Flags().StringVar(&worker, "worker", "", "only this worker")
	return c
}

func (a *app) poolListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List pools with what control decided last", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			list, err := cl.Pools(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				for _, p := range list.Pools {
					if err := a.print(p); err != nil {
						return err
					}
				}
				return nil
			}
			if len(list.Pools) == 0 {
				a.say("no pools: control makes one when a run names it; tunefleet up --pools or serve --pools name those to begin with")
				return nil
			}
			t := newTable("POOL", "QUEUED", "RUNNING", "WORKERS", "DEMANDED", "NOW")
			for _, p := range list.Pools {
				t.row(p.Pool, strconv.Itoa(p.Queued), strconv.Itoa(p.Running), strconv.Itoa(p.Workers), strconv.Itoa(p.WorkersDemanded), a.poolNow(cmd.Context(), cl, p))
			}
			return t.write(a.out)
		},
	}
}

// poolNow is what control decided last, after what an operator has decided.
func (a *app) poolNow(ctx context.Context, cl *client.Client, p schemas.PoolView) string {
	var words []string
	if policy, _, err := cl.Policy(ctx, p.Pool); err == nil {
		switch {
		case policy.Drain:
			words = append(words, "drained")
		case policy.Cordon:
			words = append(words, "cordoned")
		}
		if n := len(policy.Workers) + len(policy.DrainedWorkers); n > 0 {
			words = append(words, fmt.Sprintf("%d worker(s) cordoned or drained", n))
		}
	}
	if p.Reason != "" {
		words = append(words, p.Reason)
	}
	return nonEmpty(strings.Join(words, "; "), "-")
}

func (a *app) poolPolicyCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "policy POOL", Short: "Show a pool's policy, or replace it from a YAML file", Args: exactArgs("POOL"),
		Long: "A policy says who may use how much of a pool:\n\n  tenants:\n    \"*\": {running: 20, queued: 500}\n    research: {share: 3, devices: 64, device_hours: 5000}\n  workers: [gpu-17]   # cordoned\n",
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				p, err := readPolicyFile(file, args[0])
				if err != nil {
					return err
				}
				next, err := a.withPolicy(cmd.Context(), args[0], func(old *schemas.Policy) error { *old = *p; return nil })
				if err != nil {
					return err
				}
				return a.print(next)
			}
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			p, _, err := cl.Policy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(p)
		},
	}
	c.Flags().StringVar(&file, "set", "", "YAML or JSON file that replaces the policy")
	return c
}

// maxPolicyFile bounds a policy file.
const maxPolicyFile = 16 << 20

func readPolicyFile(file, pool string) (*schemas.Policy, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, file, "cannot read: %v", err)
	}
	if st.Size() > maxPolicyFile {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "has %d bytes, the limit is %d", st.Size(), maxPolicyFile)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, file, "cannot read: %v", err)
	}
	var tree any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "%v", err)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "%v", err)
	}
	p := &schemas.Policy{}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(p); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "%v", err).WithHint("keys are cordoned, drained, workers, tenants; of a tenant: %s", strings.Join(quotaKeys(), ", "))
	}
	p.Pool = pool
	return p, nil
}

func quotaKeys() []string { return []string{"share", "running", "queued", "devices", "device_hours"} }

func (a *app) poolQuotaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "quota POOL TENANT [key=value ...]", Short: "Show or change what a tenant may use (\"*\": every tenant that is not named)",
		Long: "Keys: share (weight, default 1), running, queued (runs), devices (seats at once), device_hours (per calendar month). 0 lifts a bound.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s takes a pool and a tenant", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, tenant := args[0], args[1]
			if len(args) == 2 {
				cl, err := a.client(cmd.Context())
				if err != nil {
					return err
				}
				defer cl.Close()
				p, _, err := cl.Policy(cmd.Context(), pool)
				if err != nil {
					return err
				}
				return a.print(p.Of(tenant))
			}
			p, err := a.withPolicy(cmd.Context(), pool, func(p *schemas.Policy) error {
				q := p.Tenants[tenant]
				for _, kv := range args[2:] {
					if err := setQuota(&q, kv); err != nil {
						return err
					}
				}
				if p.Tenants == nil {
					p.Tenants = map[string]schemas.Quota{}
				}
				p.Tenants[tenant] = q
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(p.Of(tenant))
		},
	}
}

// maxQuota is beyond every fleet; above it float64 and int do not hold the same numbers.
const maxQuota = 1e9

// setQuota applies one key=value.
func setQuota(q *schemas.Quota, kv string) error {
	key, value, ok := strings.Cut(kv, "=")
	x, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil || !(x >= 0 && x <= maxQuota) {
		return schemas.Errorf(schemas.CodeUsage, kv, "is not key=number, with a number in 0..%.0f", maxQuota)
	}
	if counts := key == "running" || key == "queued" || key == "devices"; counts && x != math.Trunc(x) {
		return schemas.Errorf(schemas.CodeUsage, kv, "%s counts: it takes a whole number", key)
	}
	switch key {
	case "share":
		q.Share = x
	case "running":
		q.Running = int(x)
	case "queued":
		q.Queued = int(x)
	case "devices":
		q.Devices = int(x)
	case "device_hours":
		q.DeviceHours = x
	default:
		e := schemas.Errorf(schemas.CodeUsage, key, "is no quota")
		if near := config.Nearest(key, quotaKeys(), 1); len(near) > 0 {
			return e.WithHint("did you mean %s?", near[0])
		}
		return e.WithHint("quotas are %s", strings.Join(quotaKeys(), ", "))
	}
	return nil
}

func (a *app) dlqCommand() *cobra.Command {
	return group("dlq", "Failed runs: list, retry, drop", a.dlqListCommand(),
		a.dlqActCommand("retry", "Submit a failed run again, as a new run", func(ctx context.Context, cl *client.Client, tenant, run string) error {
			reply, err := cl.RetryDeadLetter(ctx, tenant, run)
			if err != nil {
				return err
			}
			a.sayNext(reply.Run)
			if a.json {
				return a.print(reply)
			}
			_, err = fmt.Fprintln(a.out, reply.Run)
			return err
		}),
		a.dlqActCommand("drop", "Forget the dead letter of a run; its record stays", func(ctx context.Context, cl *client.Client, tenant, run string) error {
			if err := cl.DropDeadLetter(ctx, tenant, run); err != nil {
				return err
			}
			a.say("dropped %s", run)
			return nil
		}))
}

func (a *app) dlqActCommand(use, short string, act func(ctx context.Context, cl *client.Client, tenant, run string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " RUN", Short: short, Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				return act(cmd.Context(), cl, tenant, run)
			})
		},
	}
}

func (a *app) dlqListCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "List failed runs with their reasons", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			tenant := a.tenant
			if all {
				tenant = ""
			}
			t := newTable("TENANT", "RUN", "STAGE", "STEP", "CODE", "WHEN", "WHY")
			for after := ""; ; {
				list, err := cl.DeadLetters(cmd.Context(), tenant, after, 0)
				if err != nil {
					return err
				}
				for _, d := range list.DeadLetters {
					if a.json {
						if err := a.print(d); err != nil {
							return err
						}
						continue
					}
					t.row(d.Tenant, d.Run, d.Stage, strconv.FormatInt(d.Step, 10), string(d.Error.Code), ago(d.At), d.Error.Error())
				}
				if after = list.Next; after == "" {
					break
				}
			}
			if a.json {
				return nil
			}
			if len(t.rows) == 1 {
				a.say("no failed runs that nobody has retried or dropped")
				return nil
			}
			return t.write(a.out)
		},
	}
	c.Flags().BoolVarP(&all, "all-tenants", "A", false, "of every tenant")
	return c
}
