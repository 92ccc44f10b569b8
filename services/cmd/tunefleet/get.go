package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
)

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get RUN", Aliases: []string{"status"}, Short: "Show one run, and what its time went to", Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				v, err := cl.Get(cmd.Context(), tenant, run)
				if err != nil {
					return err
				}
				if a.json {
					return a.print(v)
				}
				return a.showRun(v)
			})
		},
	}
}

// showRun prints what a run is, does and has been through.
func (a *app) showRun(v *schemas.RunView) error {
	line := func(what, format string, args ...any) {
		if text := strings.TrimSpace(printable(fmt.Sprintf(format, args...))); text != "" {
			fmt.Fprintf(a.out, "%-10s %s\n", what, text)
		}
	}
	line("run", "%s/%s", v.Tenant, v.Run)
	line("name", "%s", v.Name)
	line("state", "%s", v.State)
	if v.Error == nil {
		line("", "%s", v.Reason)
	} else {
		line("error", "%s: %s", v.Error.Code, v.Error)
	}
	line("pool", "%s%s", v.Pool, map[bool]string{true: fmt.Sprintf(", priority %d", v.Priority)}[v.Priority != 0])
	line("submitted", "%s", moment(v.Created))
	if v.State.Terminal() {
		line("ended", "%s", moment(v.Updated))
	} else if v.Stage != "" && v.Generation > 0 {
		workers := make([]string, len(v.Members))
		for i, m := range v.Members {
			workers[i] = m.Worker
		}
		line("gang", "generation %d, %d member(s) %s", v.Generation, len(v.Members), strings.Join(workers[:min(8, len(workers))], ", "))
		line("committed", "step %d of %s", v.Step, v.Stage)
	}
	if p := v.Progress; v.State == schemas.RunRunning && p["stage"] != "" {
		line("progress", "%s", figures(p))
	}
	fmt.Fprintln(a.out)
	t := newTable("STAGE", "KIND", "STATE", "STEP", "TOOK")
	for _, s := range v.Stages {
		took, at := "", ""
		switch {
		case s.Manifest != nil:
			at = strconv.FormatInt(s.Manifest.Step, 10)
		case s.Name == v.Stage:
			at = strconv.FormatInt(v.Step, 10)
		}
		switch {
		case !s.Started.IsZero() && !s.Ended.IsZero():
			took = s.Ended.Sub(s.Started).Round(100 * time.Millisecond).String()
		case s.State == schemas.StageRunning && !s.Started.IsZero():
			took = time.Since(s.Started).Round(time.Second).String() + " so far"
		}
		t.row(s.Name, string(s.Kind), string(s.State), at, took)
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	if err := a.showEnds(v); err != nil {
		return err
	}
	return a.showTime(v.Time)
}

// moment shows a time in local time, and how long ago it was.
func moment(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05 MST") + " (" + ago(at) + ")"
}

// figures shows the newest figures of the stage at work.
func figures(p map[string]string) string {
	parts := []string{p["stage"]}
	done, total := p["step"], p["total"]
	unit := "steps"
	if done == "" {
		done, unit = p["rows"], "rows"
	}
	if done != "" && total != "" {
		parts = append(parts, done+" of "+total+" "+unit)
	}
	for _, f := range [][2]string{{"loss", "loss"}, {"tokens_per_second", "tokens/s"}} {
		if n, err := strconv.ParseFloat(p[f[0]], 64); err == nil {
			if f[0] == "loss" {
				parts = append(parts, fmt.Sprintf("loss %.4f", n))
			} else {
				parts = append(parts, fmt.Sprintf("%.0f %s", n, f[1]))
			}
		}
	}
	return strings.Join(parts, ", ")
}

// showEnds prints how gangs ended that did not reach the end of their stage.
func (a *app) showEnds(v *schemas.RunView) error {
	t := newTable("GENERATION", "ENDED", "CAUSE", "WENT ON FROM STEP", "WHAT WAS SAID")
	n := 0
	for _, e := range v.Ended {
		if e.Cause == schemas.CauseDone {
			continue
		}
		n++
		said := ""
		if e.Error != nil {
			said = e.Error.Message
		}
		t.row(strconv.FormatUint(e.Generation, 10), ago(e.At), string(e.Cause), strconv.FormatInt(e.Step, 10), said)
	}
	if n == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	return t.write(a.out)
}

// showTime prints what a run's wall time went to.
func (a *app) showTime(r *schemas.RunTime) error {
	if r == nil || r.Wall <= 0 {
		return nil
	}
	fmt.Fprintf(a.out, "\nwall time %s, goodput %.1f %%", wallTime(r.Wall), 100*r.Goodput)
	if r.Training > 0 {
		fmt.Fprintf(a.out, ", effective training time %.1f %%", 100*r.Training)
	}
	fmt.Fprintln(a.out)
	t := newTable("TIME", "SECONDS", "SHARE")
	for _, cause := range schemas.TimeCauses() {
		if s := r.Seconds[cause]; s != 0 {
			t.row(cause, strconv.FormatFloat(s, 'f', 1, 64), strconv.FormatFloat(100*s/r.Wall, 'f', 2, 64)+" %")
		}
	}
	return t.write(a.out)
}

// wallTime shows seconds as a duration.
func wallTime(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}
