package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

func (a *app) submitCommand() *cobra.Command {
	var key string
	var follow, dry bool
	c := &cobra.Command{
		Use: "submit FILE [key=value ...]", Short: "Submit a run from a YAML file",
		Long: "Submit reads a run spec (stages:) or the simpler form (model:, training:, data:), uploads the files it names, and hands the run in.\n" +
			"Overrides reach into the file: training.learning_rate=1e-4, stages.lora.train.optim.lr=1e-3.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s needs a file", cmd.CommandPath()).WithHint("%s run.yaml", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := config.Load(cmd.Context(), args[0], config.Options{Overrides: args[1:], Say: a.sayLine})
			if err != nil {
				return err
			}
			a.applyTenant(cmd, r.Spec)
			if key != "" {
				r.Spec.Key = key
			}
			for _, n := range r.Notes {
				a.say("%s", n)
			}
			if err := checkModels(r); err != nil {
				return err
			}
			if dry {
				return a.print(r.Spec)
			}
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			reply, err := a.submit(cmd.Context(), cl, r)
			if err != nil {
				return err
			}
			if !follow {
				a.sayNext(reply.Run)
				if a.json {
					return a.print(reply)
				}
				_, err = fmt.Fprintln(a.out, reply.Run)
				return err
			}
			return a.follow(cmd.Context(), cl, reply.Tenant, reply.Run)
		},
	}
	c.Flags().StringVar(&key, "key", "", "idempotency key: submitting again with the same key meets the same run")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "follow the run to its end")
	c.Flags().BoolVar(&dry, "dry-run", false, "print the resolved spec and submit nothing")
	return c
}

// applyTenant lets --tenant win over the file only when it was given.
func (a *app) applyTenant(cmd *cobra.Command, s *schemas.RunSpec) {
	if cmd.Flags().Changed("tenant") || os.Getenv("TUNEFLEET_TENANT") != "" {
		s.Tenant = a.tenant
	}
}

// submit uploads the inputs that the server does not have and hands the spec in.
func (a *app) submit(ctx context.Context, cl *client.Client, r *config.Resolved) (reply *schemas.SubmitReply, err error) {
	shutdown, err := telemetry.Setup(ctx, "producer", version())
	if err != nil {
		return nil, err
	}
	ctx, span := telemetry.Tracer().Start(ctx, telemetry.SpanSubmit)
	defer func() {
		telemetry.End(span, err)
		if serr := shutdown(context.WithoutCancel(ctx)); serr != nil {
			a.say("telemetry was not flushed: %v", serr)
		}
	}()
	// The run's trace begins here: control and workers go on with it.
	r.Spec.TraceParent = telemetry.TraceParent(ctx)
	for _, in := range r.Inputs {
		if err := cl.Upload(ctx, r.Spec.Tenant, in.File, in.Open); err != nil {
			return nil, fmt.Errorf("cannot upload %s: %w", in.Local, err)
		}
	}
	if reply, err = cl.Submit(ctx, r.Spec); err != nil {
		return nil, err
	}
	word := "submitted"
	if reply.Duplicate {
		word = "met again (same key)"
	}
	a.say("run %s %s", reply.Run, word)
	return reply, nil
}

func (a *app) sayNext(run string) {
	a.say("next: tunefleet watch %s | get %s | cancel %s", run, run, run)
}

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch RUN", Aliases: []string{"follow"}, Short: "Follow a run to its end; Ctrl-C detaches",
		Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				return a.follow(cmd.Context(), cl, tenant, run)
			})
		},
	}
}

func (a *app) withRun(ctx context.Context, arg string, fn func(cl *client.Client, tenant, run string) error) error {
	cl, err := a.client(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	tenant, run, err := a.findRun(ctx, cl, arg)
	if err != nil {
		return err
	}
	return fn(cl, tenant, run)
}

// watch shows a run's events until it is over, hands each to also first, and returns the last state.
func (a *app) watch(ctx context.Context, cl *client.Client, tenant, run string, also func(schemas.Event) error) (final schemas.Event, err error) {
	var show *progress
	if !a.json && !a.quiet {
		show = newProgress(a.err, a.terminal())
		defer show.close()
	}
	cl.Lost = func(err error) {
		if show != nil {
			show.line("%s", connection(err))
		} else {
			a.say("%s", connection(err))
		}
	}
	last := ""
	err = cl.Follow(ctx, tenant, run, "", func(id string, e schemas.Event) error {
		if e.Type == schemas.EventState {
			shown := last == e.Message
			last = e.Message
			if id == "" {
				if final = e; show != nil && !shown { // the stream that told it is lost
					show.event(e)
				}
				return nil
			}
		}
		if err := also(e); err != nil {
			return err
		}
		if a.json {
			return a.print(e)
		}
		if show != nil {
			show.event(e)
		}
		return nil
	})
	return final, err
}

// connection says that the API server went away, or is back.
func connection(err error) string {
	if err == nil {
		return "the API server answers again"
	}
	return fmt.Sprintf("lost the API server, trying again for a minute; the run goes on: %s", schemas.AsErrorInfo(err).Message)
}

// sayWaiting says what a run waits for when nobody is there to do its work: it would be followed in silence.
func (a *app) sayWaiting(ctx context.Context, cl *client.Client, tenant, run string) {
	v, err := cl.Get(ctx, tenant, run)
	if err != nil || v.State.Terminal() {
		return // following says it, too
	}
	if v.State == schemas.RunPaused {
		a.say("the run is paused; tunefleet resume %s goes on with it", run)
		return
	}
	for _, pool := range pools(v) {
		if live, err := cl.Workers(ctx, pool); err == nil && len(live.Workers) == 0 {
			a.say("pool %s has no worker now; start one with: tunefleet worker --pool %s", pool, pool)
		}
	}
}

// pools are those that a run's work goes to.
func pools(v *schemas.RunView) []string {
	out := []string{v.Pool}
	if v.Spec != nil && v.Spec.AuxPool != "" && v.Spec.AuxPool != v.Pool {
		out = append(out, v.Spec.AuxPool)
	}
	return out
}

// follow shows a run's progress until it is over; its end is the exit code. With --json the events go to standard output, one a line.
func (a *app) follow(ctx context.Context, cl *client.Client, tenant, run string) error {
	a.sayWaiting(ctx, cl, tenant, run)
	final, err := a.watch(ctx, cl, tenant, run, func(schemas.Event) error { return nil })
	if err != nil {
		return a.detached(run, err)
	}
	if a.json {
		if err := a.print(final); err != nil {
			return err
		}
	}
	return ended(run, final)
}

// detached says, when following ended with Ctrl-C, that the run did not.
func (a *app) detached(run string, err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	a.say("detached; the run goes on. Cancel it with: tunefleet cancel %s", run)
	return &silentError{code: schemas.ExitCodes()[schemas.CodeInterrupted]}
}

// ended turns the final state of a run into nil or the error that the process exits with.
func ended(run string, final schemas.Event) error {
	switch schemas.RunState(final.Message) {
	case schemas.RunSucceeded:
		return nil
	case schemas.RunCancelled, schemas.RunSkipped:
		return schemas.Errorf(schemas.CodeRunCancelled, run, "the run was %s", final.Message)
	}
	if final.Error != nil {
		// The class of what went wrong (bad data, NaN loss, full disk) is the exit code; the rest says where.
		return final.Error
	}
	return schemas.Errorf(schemas.CodeRunFailed, run, "the run %s", final.Message)
}

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "logs RUN", Short: "Print a run's events; -f goes on with new ones", Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				ctx, cancel := context.WithCancel(cmd.Context())
				defer cancel()
				idle := time.AfterFunc(time.Hour, cancel)
				defer idle.Stop()
				v, err := cl.Get(ctx, tenant, run)
				if err != nil {
					return err
				}
				follow := follow || v.State.Terminal() // that of a run that is over has an end
				if !follow {
					// What is there comes at once: a second of silence means that it was all.
					idle.Reset(time.Second)
				}
				cl.Lost = func(err error) { a.sayLine(connection(err)) }
				last := ""
				err = cl.Follow(ctx, tenant, run, "", func(id string, e schemas.Event) error {
					if id == "" && e.Type == schemas.EventState && e.Message == last {
						return nil // the closing word, when the stream's own event has said it
					}
					if e.Type == schemas.EventState {
						last = e.Message
					}
					if !follow {
						idle.Reset(time.Second)
					} else {
						idle.Reset(time.Hour)
					}
					if a.json {
						return a.print(e)
					}
					_, err := fmt.Fprintln(a.out, eventLine(e))
					return err
				})
				if errors.Is(err, context.Canceled) && cmd.Context().Err() == nil {
					return nil
				}
				return a.detached(run, err)
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events until the run is over")
	return c
}

func eventLine(e schemas.Event) string {
	parts := []string{e.At.Format("15:04:05.000"), e.Type}
	if e.Stage != "" {
		parts = append(parts, e.Stage)
	}
	if e.Step > 0 {
		parts = append(parts, "step "+strconv.FormatInt(e.Step, 10))
	}
	keys := make([]string, 0, len(e.Values))
	for k := range e.Values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		parts = append(parts, fmt.Sprintf("%s=%.6g", k, e.Values[k]))
	}
	if e.Worker != "" {
		parts = append(parts, "worker="+e.Worker)
	}
	if e.Message != "" {
		parts = append(parts, e.Message)
	}
	if e.Error != nil {
		parts = append(parts, e.Error.Error())
	}
	return printable(strings.Join(parts, "  "))
}

// step is the last committed step of the stage at work, or of the last train stage that has ended.
func step(r schemas.RunView) string {
	if r.Stage != "" {
		return strconv.FormatInt(r.Step, 10)
	}
	for _, s := range slices.Backward(r.Stages) {
		if s.Manifest != nil {
			return strconv.FormatInt(s.Manifest.Step, 10)
		}
	}
	return ""
}

func runningStages(r schemas.RunView) string {
	var names []string
	for _, s := range r.Stages {
		if s.State == schemas.StageRunning {
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ",")
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := time.Since(t)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

func (a *app) actCommand(e schemas.RunEvent) *cobra.Command {
	short := map[schemas.RunEvent]string{
		schemas.RunCancel: "Cancel a run, for good", schemas.RunPause: "Pause a run at its next boundary", schemas.RunResume: "Resume a paused run"}
	return &cobra.Command{
		Use: string(e) + " RUN", Short: short[e], Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				v, err := cl.Act(cmd.Context(), tenant, run, e)
				if err != nil {
					return err
				}
				if a.json {
					return a.print(v)
				}
				a.say("%s", acted(e, v))
				return nil
			})
		},
	}
}

// acted says what an action has done, or will have done at the next boundary.
func acted(e schemas.RunEvent, v *schemas.RunView) string {
	if e == schemas.RunPause && !v.State.Terminal() && v.State != schemas.RunPaused {
		return fmt.Sprintf("run %s is %s and pauses at its next commit", v.Run, v.State)
	}
	return fmt.Sprintf("run %s is %s", v.Run, v.State)
}

func (a *app) outputsCommand() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "outputs RUN", Short: "List a run's output files, or fetch them with --to", Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				list, err := cl.Outputs(cmd.Context(), tenant, run)
				if err != nil {
					return err
				}
				if to != "" {
					return a.fetchOutputs(cmd.Context(), cl, tenant, run, "", to)
				}
				if a.json {
					for _, o := range list.Outputs {
						if err := a.print(o); err != nil {
							return err
						}
					}
					return nil
				}
				if len(list.Outputs) == 0 {
					a.say("no outputs: export and eval stages make them when they are done")
					return nil
				}
				t := newTable("FILE", "BYTES")
				for _, o := range list.Outputs {
					t.row(o.Name, strconv.FormatInt(o.Bytes, 10))
				}
				return t.write(a.out)
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "folder to fetch the files into")
	return c
}

// fetchOutputs copies the outputs below prefix ("" for all) into a folder; a file appears only when it is whole.
func (a *app) fetchOutputs(ctx context.Context, cl *client.Client, tenant, run, prefix, to string) error {
	list, err := cl.Outputs(ctx, tenant, run)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return diskError(to, err)
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return diskError(to, err)
	}
	defer root.Close()
	n := 0
	for _, o := range list.Outputs {
		name, ok := strings.CutPrefix(o.Name, prefix)
		if !ok || !schemas.ValidPath(name) {
			continue
		}
		if err := fetchOne(ctx, cl, tenant, run, o.Name, root, name); err != nil {
			return err
		}
		n++
	}
	a.say("%d file(s) written to %s", n, to)
	return nil
}

func fetchOne(ctx context.Context, cl *client.Client, tenant, run, from string, root *os.Root, name string) error {
	body, err := cl.Output(ctx, tenant, run, from)
	if err != nil {
		return err
	}
	defer body.Close()
	local := filepath.FromSlash(name)
	if err := root.MkdirAll(filepath.Dir(local), 0o755); err != nil {
		return diskError(local, err)
	}
	f, err := root.Create(local + ".part")
	if err != nil {
		return diskError(local, err)
	}
	_, err = io.Copy(f, body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(local+".part", local)
	}
	if err != nil {
		return errors.Join(diskError(local, err), root.Remove(local+".part"))
	}
	return nil
}

func busyWith(w schemas.WorkerView) string {
	text := nonEmpty(w.Busy, "idle")
	if w.Draining {
		text += " (draining)"
	}
	return text
}

func noWorkers(pool string) string {
	if pool == "" {
		return "no workers. Start one with: tunefleet worker --pool cpu"
	}
	return fmt.Sprintf("no workers of pool %s. Start one with: tunefleet worker --pool %s", pool, pool)
}

func (a *app) workersCommand() *cobra.Command {
	var pool string
	c := &cobra.Command{
		Use: "workers", Short: "List live workers", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			list, err := cl.Workers(cmd.Context(), pool)
			if err != nil {
				return err
			}
			if a.json {
				for _, w := range list.Workers {
					if err := a.print(w); err != nil {
						return err
					}
				}
				return nil
			}
			if len(list.Workers) == 0 {
				a.say("%s", noWorkers(pool))
				return nil
			}
			t := newTable("WORKER", "POOL", "BUSY WITH", "DEVICES", "HOST", "PID", "STARTED")
			for _, w := range list.Workers {
				t.row(w.Name, w.Pool, busyWith(w), fmt.Sprintf("%d x %s", w.Devices, w.Device), w.Host, strconv.Itoa(w.PID), ago(w.Started))
			}
			return t.write(a.out)
		},
	}
	c.Flags().StringVar(&pool, "pool", "", "only this pool")
	return c
}
