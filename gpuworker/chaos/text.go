package chaos

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
)

// Text is the result for people: figures, rows, invariants, violations.
func (r *Result) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %.3g minutes of faults, %s, %d cores (%s), load %.1f before and %.1f after\n", r.Seed, r.Minutes, r.Started.Format("2006-01-02 15:04 MST"),
		r.Machine.Cores, r.Machine.Arch, r.Machine.Load, r.Load)
	for i, e := range r.Episodes {
		fmt.Fprintf(&b, "episode %d: %s (nats-server %s); %.0f s of faults, drained in %.0f s, %d events\n", i+1, e.Shape, e.Broker, e.Faults, e.Drain, e.Events)
	}
	b.WriteString("\n")
	r.figures(&b)
	r.rows(&b)
	r.invariants(&b)
	n := 0
	if t := r.Training; t != nil {
		for _, v := range t.Report.Violations {
			if n++; n <= maxShown {
				fmt.Fprintf(&b, "VIOLATION of %s in training at %.3f s, %s: %s\n", v.Invariant, v.At, v.Subject, v.Text)
			}
		}
	}
	for i, e := range r.Episodes {
		for _, v := range e.Report.Violations {
			if n++; n <= maxShown {
				fmt.Fprintf(&b, "VIOLATION of %s in episode %d at %.3f s, %s: %s\n", v.Invariant, i+1, v.At, v.Subject, v.Text)
			}
		}
		for _, o := range e.Outcomes {
			if o.Result == "failed" {
				n++
				fmt.Fprintf(&b, "FAILED row %d in episode %d at %.1f s, %s: %s\n", o.Row, i+1, o.At, o.What, o.Error)
			}
		}
	}
	switch {
	case n > maxShown:
		fmt.Fprintf(&b, "... %d in all, see result.json\n", n)
	case n == 0:
		b.WriteString("every invariant held\n")
	}
	for _, f := range r.Figures {
		if f.Pass == missed {
			fmt.Fprintf(&b, "MISSED %s: %s, must be %s\n", f.Name, f.Value, f.Must)
		}
	}
	return b.String()
}

const maxShown = 30

func (r *Result) figures(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tMEASURED\tMUST\tHOW\tVERDICT")
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.Name, f.Value, f.Must, f.How, f.Pass)
	}
	_ = t.Flush() // into memory
	b.WriteString("\n")
}

func (r *Result) rows(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ROW\tRUN\tFAILED\tNOT REACHED\tWHAT")
	for _, row := range Rows() {
		if row.Number == 27 && !r.Older {
			row.Skip = needOlder
		}
		count := map[string]int{}
		for _, e := range r.Episodes {
			for _, o := range e.Outcomes {
				if o.Row == row.Number {
					count[o.Result]++
				}
			}
		}
		if row.Skip != "" {
			fmt.Fprintf(t, "%d\t-\t\t\t%s: not run, %s\n", row.Number, row.Name, row.Skip)
			continue
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\n", row.Number, count["done"]+count["failed"], count["failed"], count["not reached"], row.Name)
	}
	_ = t.Flush() // into memory
	b.WriteString("\n")
}

func (r *Result) invariants(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "INVARIANT\tJUDGED\tVIOLATED\tWHAT")
	all := check.Invariants()
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	for _, n := range names {
		judged, violated := 0, 0
		for _, p := range r.reports() {
			judged += p.Checked[n]
			for _, v := range p.Violations {
				if v.Invariant == n {
					violated++
				}
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", n, judged, violated, all[n])
	}
	_ = t.Flush() // into memory
	b.WriteString("\n")
}
