package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/chaos"
	"github.com/tunefleet/tunefleet/schemas"
)

// chaosProcess is the hidden command that the suite starts its processes with.
const chaosProcess = "chaos-process"

func (a *app) chaosCommand() *cobra.Command {
	var o chaos.Options
	var minutes, train float64
	var rows, older string
	c := &cobra.Command{
		Use: "chaos", Short: "Break a fleet on this machine by a seeded schedule, and prove that it loses no work",
		Long: "Chaos starts a fleet of real processes in a temporary folder (broker, lease server, object store, two controls, workers), keeps runs in it,\n" +
			"and breaks it: kill -9, SIGTERM, freezes, partitions, lost answers, wiped servers, damaged checkpoints. A checker then judges the history and\n" +
			"the content of the store. It exits with 1 when an invariant did not hold or a figure was missed. The same seed gives the same schedule.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Rows, err = chaos.ParseRows(rows); err != nil {
				return err
			}
			o.Duration, o.Train = time.Duration(minutes*float64(time.Minute)), time.Duration(train*float64(time.Minute))
			if older != "" {
				o.Older = []string{older, chaosProcess}
			}
			return a.chaos(cmd, o)
		},
	}
	f := c.Flags()
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the schedule (0: a new one)")
	f.Float64Var(&minutes, "minutes", 3, "minutes of faults; draining and judging come on top")
	f.Float64Var(&train, "train-minutes", 0, "minutes for which a small real model is trained under faults, after that; it is also trained undisturbed, to compare")
	f.DurationVar(&o.Every, "train-fault-every", 2*time.Minute, "time between two faults of the training")
	f.StringVar(&o.TrainFaults, "train-faults", chaos.FaultsAll, "faults of the training: all, kill, notice or servers")
	f.StringVar(&rows, "rows", "", "only these rows of the chaos matrix, for example 1,3,10-13 (default: all that can be run here)")
	f.StringVar(&o.Out, "out", "", "folder for history, result and picture (default: output/chaos/<time>)")
	f.StringVar(&o.Store, "store", "", "object store: versitygw or minio (default: both in turn, if there)")
	f.StringVar(&o.Broker, "broker", "", "broker: nats or nats-3, a cluster (default: both in turn)")
	f.StringVar(&o.Lease, "lease", "", "lease server: redis-server or embedded (default: redis-server if there)")
	f.StringVar(&older, "older", "", "a tunefleet binary of an earlier build, for row 27: one of its workers works among new ones")
	f.IntVar(&o.Workers, "workers", 4, "number of workers")
	return c
}

func (a *app) chaosProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use: chaosProcess, Short: "Run one process of the chaos suite (started by it)", Hidden: true, Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getenv(chaos.EnvRole) == "" {
				return schemas.Errorf(schemas.CodeUsage, "", "this command is started by tunefleet chaos only")
			}
			return chaos.RunProcess(cmd.Context(), handlers())
		},
	}
}

func (a *app) chaos(cmd *cobra.Command, o chaos.Options) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this executable: %w", err)
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	for o.Seed == 0 {
		o.Seed = rand.Uint64N(1 << 32)
	}
	o.Command, o.Log, o.Say = []string{exe, chaosProcess}, log, a.say
	if o.Out == "" {
		o.Out = filepath.Join("output", "chaos", time.Now().Format("20060102-150405"))
	}
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return diskError(o.Out, err)
	}
	a.say("seed %d (--seed %d repeats the schedule)", o.Seed, o.Seed)
	res, err := chaos.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	data, err := res.JSON()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.Out, "result.json"), data, 0o600); err != nil {
		return diskError(o.Out, err)
	}
	text := res.Text()
	if err := os.WriteFile(filepath.Join(o.Out, "result.txt"), []byte(text), 0o600); err != nil {
		return diskError(o.Out, err)
	}
	if a.json {
		err = a.print(res)
	} else {
		_, err = fmt.Fprint(a.out, text)
	}
	if err != nil {
		return err
	}
	a.say("history, result and picture are in %s", o.Out)
	return chaosVerdict(res, o)
}

// chaosVerdict is the error of a run of the suite in which something did not hold.
func chaosVerdict(res *chaos.Result, o chaos.Options) error {
	if res.OK {
		return nil
	}
	return schemas.Errorf(schemas.CodeVerify, "chaos", "an invariant did not hold, or a figure was missed (seed %d)", o.Seed).
		WithHint("%s names what; the same --seed repeats the schedule", filepath.Join(o.Out, "result.txt"))
}
