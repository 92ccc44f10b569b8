package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/services/control/simulate"
)

func (a *app) simulateCommand() *cobra.Command {
	var cfg simulate.Config
	var policy string
	c := &cobra.Command{
		Use: "simulate", Short: "Simulate a day of a pool with the real scheduler: utilization, fairness, waiting",
		Long: "Simulate drives the scheduler's decisions through a day of a Spot pool in about a minute: workers are taken away and come back,\n" +
			"tenants submit more than there is room for. Try a policy here before a pool gets it.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if policy != "" {
				p, err := readPolicyFile(policy, "sim")
				if err != nil {
					return err
				}
				cfg.Policy = p
			}
			if a.terminal() {
				cfg.Progress = func(done, total time.Duration) {
					fmt.Fprintf(a.err, "\rsimulated %s of %s ", done.Round(time.Minute), total)
				}
			}
			r, err := simulate.Run(cmd.Context(), cfg)
			if a.terminal() {
				fmt.Fprint(a.err, "\r\033[K")
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print(r)
			}
			return a.showSimulation(r)
		},
	}
	f := c.Flags()
	f.IntVar(&cfg.Workers, "workers", 0, "workers of the pool (default 10000)")
	f.IntVar(&cfg.Tenants, "tenants", 0, "tenants (default 1000)")
	f.IntVar(&cfg.Runs, "runs", 0, "runs submitted over the time (default 100000)")
	f.DurationVar(&cfg.Duration, "duration", 0, "simulated time (default 24h)")
	f.DurationVar(&cfg.Lifetime, "lifetime", 0, "mean time until a worker is taken away (default 12h)")
	f.Float64Var(&cfg.Load, "load", 0, "submitted work as a share of what the workers can do (default 1.7)")
	f.Float64Var(&cfg.Notice, "notice", 0, "share of takings that are announced (default 0.5)")
	f.Uint64Var(&cfg.Seed, "seed", 1, "seed: the same one gives the same figures")
	f.StringVar(&policy, "policy", "", "policy file, as of tunefleet pool policy --set")
	return c
}

func (a *app) showSimulation(r *simulate.Report) error {
	fmt.Fprintf(a.out, "%d workers, %d tenants, %d runs, %s, seed %d: simulated in %s with %d decisions\n", r.Workers, r.Tenants, r.Runs, r.Duration, r.Seed, r.Took.Round(time.Millisecond), r.Decisions)
	fmt.Fprintf(a.out, "all decisions: sha256 %s\n", r.Hash)
	fmt.Fprintf(a.out, "runs: %d ended, %d running, %d queued; %d workers taken away, %d gangs formed, %d asked to yield\n", r.Ended, r.Running, r.Queued, r.Taken, r.Formed, r.Preempted)
	fmt.Fprintf(a.out, "utilization %.1f %% (%.1f %% held), %.2f %% of the training done again\n", 100*r.Utilization, 100*r.Held, 100*r.Lost)
	if r.Busy > 0 {
		fmt.Fprintf(a.out, "fairness %.3f (least over greatest share of %d busy tenants)\n\n", r.Fairness, r.Busy)
	} else {
		fmt.Fprint(a.out, "fairness: no tenant was busy all the time\n\n")
	}
	t := newTable("PRIORITY", "STARTED", "WAITING", "MEDIAN WAIT", "P95", "LONGEST")
	for p, w := range r.Waits {
		t.row("p"+strconv.Itoa(p), strconv.Itoa(w.Runs), strconv.Itoa(w.Unstarted), wholeSeconds(w.Median), wholeSeconds(w.P95), wholeSeconds(w.Max))
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t = newTable("LEAST SEATS", "LONGEST WAIT OF A STARTED RUN")
	for _, n := range slices.Sorted(maps.Keys(r.Largest)) {
		t.row(strconv.Itoa(n), wholeSeconds(r.Largest[n]))
	}
	return t.write(a.out)
}

func wholeSeconds(d time.Duration) string { return d.Round(time.Second).String() }
