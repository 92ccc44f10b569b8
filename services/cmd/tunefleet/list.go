package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// maxListPage is the most that the API answers with at once.
const maxListPage = 1000

func (a *app) listCommand() *cobra.Command {
	var states []string
	var f schemas.RunFilter
	var since, until string
	var all bool
	var limit int
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List runs, the newest first",
		Example: "  tunefleet list --state running,queued\n  tunefleet list --name contract --since 7d\n  tunefleet list --limit 0 --json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if f.States, err = runStates(states); err != nil {
				return err
			}
			if f.Since, err = pastTime("--since", since, time.Now()); err != nil {
				return err
			}
			if f.Until, err = pastTime("--until", until, time.Now()); err != nil {
				return err
			}
			if limit < 0 {
				return schemas.Errorf(schemas.CodeUsage, "--limit", "%d is negative", limit).WithHint("0 lists every run")
			}
			if f.Pool != "" && !schemas.ValidName(f.Pool) {
				return schemas.Errorf(schemas.CodeUsage, "--pool", "%q is no name of a pool", f.Pool).WithHint("tunefleet pool list shows the pools")
			}
			if f.Tenant = a.tenant; all {
				f.Tenant = ""
			}
			return a.list(cmd, f, limit, all)
		},
	}
	c.Flags().StringSliceVar(&states, "state", nil, "only runs in these states: "+strings.Trim(fmt.Sprint(schemas.RunStates()), "[]"))
	c.Flags().StringVar(&f.Pool, "pool", "", "only runs of this pool")
	c.Flags().StringVar(&f.Name, "name", "", "only runs whose name or id holds this text")
	c.Flags().StringVar(&since, "since", "", "only runs submitted since: 90m, 12h, 7d, 2026-11-27 or 2026-11-27T09:00:00Z")
	c.Flags().StringVar(&until, "until", "", "only runs submitted before that")
	c.Flags().BoolVarP(&all, "all-tenants", "A", false, "runs of every tenant")
	c.Flags().IntVar(&limit, "limit", 50, "at most so many runs; 0 for all")
	c.Flags().StringVar(&f.After, "after", "", "go on where another list ended (it says how)")
	return c
}

// list prints the runs that a filter selects, page by page.
func (a *app) list(cmd *cobra.Command, f schemas.RunFilter, limit int, tenants bool) error {
	cl, err := a.client(cmd.Context())
	if err != nil {
		return err
	}
	defer cl.Close()
	t := newTable("RUN", "NAME", "STATE", "STAGE", "STEP", "SUBMITTED", "UPDATED", "REASON")
	n, total, unread := 0, 0, 0
	for {
		f.Limit = maxListPage
		if limit > 0 {
			f.Limit = min(limit-n, maxListPage)
		}
		list, err := cl.List(cmd.Context(), f)
		if err != nil {
			return err
		}
		if n == 0 {
			total, unread = list.Total, list.Unread
		}
		for _, r := range list.Runs {
			n++
			if a.json {
				if err := a.print(r); err != nil {
					return err
				}
				continue
			}
			id := r.Run
			if tenants {
				id = r.Tenant + "/" + id
			}
			t.row(id, short(r.Name, 48), string(r.State), runningStages(r), step(r), ago(r.Created), ago(r.Updated), short(r.Reason, 90))
		}
		if f.After = list.Next; f.After == "" || limit > 0 && n >= limit {
			break
		}
	}
	if unread > 0 {
		a.say("%d more runs have not been read yet and may be missing here; ask again in a few seconds", unread)
	}
	if n == 0 {
		a.say("%s", nothingListed(f))
		return nil
	}
	if !a.json {
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	if f.After != "" {
		a.say("the newest %d of %d runs; go on with --after %s, or list all with --limit 0", n, total, f.After)
	}
	return nil
}

// short cuts a cell of a table in its middle: what tells names of a sweep apart is at their ends.
func short(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2]) + "…" + string(r[len(r)-(n-n/2-1):])
}

// nothingListed says what to do about an empty list.
func nothingListed(f schemas.RunFilter) string {
	if len(f.States) > 0 || f.Pool != "" || f.Name != "" || !f.Since.IsZero() || !f.Until.IsZero() || f.After != "" {
		return "no run is selected; without filters, tunefleet list shows the newest"
	}
	if f.Tenant != "" {
		return fmt.Sprintf("no runs of tenant %s (-A lists every tenant's). Submit one with: tunefleet submit run.yaml", f.Tenant)
	}
	return "no runs. Submit one with: tunefleet submit run.yaml"
}

// runStates checks the states that a user named.
func runStates(names []string) ([]schemas.RunState, error) {
	var known []string
	for _, s := range schemas.RunStates() {
		known = append(known, string(s))
	}
	var out []schemas.RunState
	for _, n := range names {
		if !slices.Contains(known, n) {
			hint := "states are " + strings.Join(known, ", ")
			if near := config.Nearest(n, known, 1); len(near) > 0 {
				hint = "did you mean " + near[0] + "? " + hint
			}
			return nil, schemas.Errorf(schemas.CodeUsage, "--state", "%q is no state of a run", n).WithHint("%s", hint)
		}
		out = append(out, schemas.RunState(n))
	}
	return out, nil
}

var daysRE = regexp.MustCompile(`^([0-9]{1,5})([dw])$`)

// pastTime reads a time that a user named: a day, a time, or how long ago; "" is none.
func pastTime(flag, v string, now time.Time) (time.Time, error) {
	if v == "" {
		return time.Time{}, nil
	}
	if m := daysRE.FindStringSubmatch(v); m != nil {
		n, err := strconv.Atoi(m[1])
		if err == nil {
			if m[2] == "w" {
				n *= 7
			}
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(v); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(form, v, time.Local); err == nil {
			return at, nil
		}
	}
	return time.Time{}, schemas.Errorf(schemas.CodeUsage, flag, "%q is neither a time nor how long ago", v).WithHint("such as 90m, 12h, 7d, 2026-11-27 or 2026-11-27T09:00:00Z")
}
