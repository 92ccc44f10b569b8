package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/report"
	"github.com/tunefleet/tunefleet/schemas"
)

// dataFlags are those of preview, stats and validate.
type dataFlags struct {
	config  report.Config
	enc     report.Encoding
	columns []string
	html    string
}

func (f *dataFlags) add(c *cobra.Command, tokens bool) {
	fl := c.Flags()
	fl.StringVar(&f.config.DatasetDir, "dataset-dir", "", "folder with dataset_info.json; PATH may then be the name of a data set")
	fl.StringVar(&f.config.Format, "format", "", "json, jsonl, csv, tsv, txt, parquet, arrow (default: by the file's name)")
	fl.StringVar(&f.config.Encoding, "encoding", "", "encoding of the text (default: found out)")
	fl.StringVar(&f.config.Formatting, "formatting", "", "alpaca, sharegpt or openai (default: by the first row)")
	fl.StringSliceVar(&f.columns, "column", nil, "ROLE=COLUMN, such as prompt=ask (repeatable)")
	fl.StringVar(&f.config.Label, "label", "", "column of the class")
	fl.IntVar(&f.config.Limit, "limit", 0, "read at most so many rows")
	fl.StringVar(&f.html, "html", "", "also write the report to this HTML file")
	if tokens {
		fl.StringVar(&f.enc.Tokenizer, "tokenizer", "", "folder of the model or tokenizer; without it nothing is counted in tokens")
		fl.StringVar(&f.enc.Template, "template", "", "chat template (default: default)")
		fl.IntVar(&f.enc.Cutoff, "cutoff-len", 0, "most tokens of a sequence (0: no cut)")
		fl.BoolVar(&f.enc.TrainOnPrompt, "train-on-prompt", false, "label the prompts, too")
		fl.BoolVar(&f.enc.MaskHistory, "mask-history", false, "label the last answer only")
	}
}

// fetch brings data of hubs and other servers.
func (a *app) fetch(ctx context.Context, q remote.DataQuery) (*remote.Folder, error) {
	cfg := remote.FromEnv(os.Getenv)
	cfg.Say = a.sayLine
	f, err := remote.New(cfg)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Data(ctx, q)
}

func (f *dataFlags) load(a *app, cmd *cobra.Command, path string) (*report.Set, error) {
	f.config.Fetch = a.fetch
	f.config.Path, f.config.Columns = path, map[string]string{}
	for _, c := range f.columns {
		role, column, ok := strings.Cut(c, "=")
		if !ok {
			return nil, schemas.Errorf(schemas.CodeUsage, "--column", "%q must be ROLE=COLUMN", c)
		}
		f.config.Columns[role] = column
	}
	return report.Load(cmd.Context(), f.config)
}

func (f *dataFlags) page(p *report.Page) (err error) {
	if f.html == "" {
		return nil
	}
	w, err := os.Create(f.html)
	if err != nil {
		return diskError(f.html, err)
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			err = diskError(f.html, cerr)
		}
	}()
	return report.WriteHTML(w, p)
}

func (a *app) dataPreviewCommand() *cobra.Command {
	var f dataFlags
	rows := 3
	c := &cobra.Command{
		Use: "preview PATH", Short: "Show rows as the model will see them, what is trained in colour", Args: exactArgs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.config.Limit == 0 {
				f.config.Limit = max(1000, 10*rows)
			}
			s, err := f.load(a, cmd, args[0])
			if err != nil {
				return err
			}
			shown, err := report.Preview(s, f.enc, rows)
			if err != nil {
				return err
			}
			if err := f.page(&report.Page{Title: "Rows of " + filepath.Base(s.Name), Shown: shown}); err != nil {
				return err
			}
			if len(shown) == 0 {
				return schemas.Errorf(schemas.CodeData, args[0], "no row can be shown").WithHint("tunefleet data validate says what is wrong")
			}
			if a.json {
				for i := range shown {
					if err := a.print(&shown[i]); err != nil {
						return err
					}
				}
				return nil
			}
			return a.showRows(shown)
		},
	}
	f.add(c, true)
	c.Flags().IntVarP(&rows, "rows", "n", rows, "rows to show")
	return c
}

func (a *app) showRows(shown []report.Shown) error {
	out, isFile := a.out.(*os.File)
	colour := isFile && !a.noColor && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(out.Fd()))
	for i := range shown {
		v := &shown[i]
		head := fmt.Sprintf("── %s:%d", v.File, v.Row)
		if v.Tokens > 0 {
			head += fmt.Sprintf(", %d tokens", v.Tokens)
		}
		if v.Truncated {
			head += ", truncated"
		}
		text := clearControls(v.Plain())
		if colour {
			text = ""
			for _, p := range v.Pieces {
				c := "\x1b[2m"
				if p.Trained {
					c = "\x1b[32m"
				}
				text += c + clearControls(p.Text) + "\x1b[0m"
			}
		}
		if _, err := fmt.Fprintf(a.out, "%s\n%s\n\n", head, text); err != nil {
			return err
		}
	}
	if !colour {
		a.say("what stands between ⟦ and ⟧ is trained")
	}
	return nil
}

// clearControls keeps data from driving the terminal.
func clearControls(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\ufffd'
		}
		return r
	}, s)
}

func (a *app) dataStatsCommand() *cobra.Command {
	var f dataFlags
	var eval, review string
	c := &cobra.Command{
		Use: "stats PATH", Short: "Count lengths, truncation, packing, duplicates, personal data and classes of a data set", Args: exactArgs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.load(a, cmd, args[0])
			if err != nil {
				return err
			}
			var held *report.Set
			if eval != "" {
				c := f.config
				c.Path, c.Label, c.Annotators = eval, "", nil
				if held, err = report.Load(cmd.Context(), c); err != nil {
					return err
				}
			}
			st, err := report.Compute(cmd.Context(), s, held, f.enc)
			if err != nil {
				return err
			}
			shown, err := report.Preview(s, f.enc, 3)
			if err != nil {
				return err
			}
			if err := f.page(&report.Page{Title: "Data set " + filepath.Base(s.Name), Stats: st, Shown: shown, Problems: s.Problems[:min(100, len(s.Problems))]}); err != nil {
				return err
			}
			if review != "" {
				if err := writeReview(review, s, st); err != nil {
					return err
				}
				a.say("%s holds the rows whose labels are in doubt; clean.review applies what people decide", review)
			}
			if a.json {
				return a.print(st)
			}
			return a.showStats(st)
		},
	}
	f.add(c, true)
	c.Flags().StringVar(&eval, "eval", "", "evaluation set to look for contamination by")
	c.Flags().StringSliceVar(&f.config.Annotators, "annotator", nil, "column of one annotator's labels (repeatable): Cohen's or Fleiss' kappa")
	c.Flags().StringVar(&review, "review", "", "write rows with conflicting labels to this review file")
	return c
}

func writeReview(path string, s *report.Set, st *report.Stats) (err error) {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return diskError(path, err)
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			err = diskError(path, cerr)
		}
	}()
	return clean.WriteReview(w, labels.Review(report.ReviewRows(s), st.Conflicts))
}

func (a *app) showStats(st *report.Stats) error {
	t := newTable("WHAT", "COUNT")
	num := func(name string, n int) { t.row(name, fmt.Sprint(n)) }
	num("rows", st.Rows)
	num("usable", st.Usable)
	num("problems", st.Problems)
	num("duplicates", st.Duplicates)
	num("near duplicates", st.NearDuplicates)
	if st.EvalRows > 0 {
		num(fmt.Sprintf("similar to one of %d evaluation rows", st.EvalRows), st.Contaminated)
	}
	num("rows with personal data", st.PIIRows)
	byName := func(prefix string, m map[string]int) {
		var keys []string
		for k := range m {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(x, y string) int { return m[y] - m[x] })
		for _, k := range keys {
			num(prefix+k, m[k])
		}
	}
	byName("  ", st.PII)
	byName("language ", st.Languages)
	for _, c := range st.Classes {
		t.row("class "+c.Label, fmt.Sprintf("%d (%.1f %%)", c.Rows, 100*c.Share))
	}
	if len(st.Classes) > 0 {
		t.row("largest class over smallest", fmt.Sprintf("%.1f", st.Imbalance))
		num("groups with conflicting labels", len(st.Conflicts))
	}
	if st.CohenKappa != nil {
		t.row("Cohen's kappa", fmt.Sprintf("%.3f", *st.CohenKappa))
	}
	if st.FleissKappa != nil {
		t.row("Fleiss' kappa", fmt.Sprintf("%.3f", *st.FleissKappa))
	}
	if x := st.Tokens; x != nil {
		t.row("tokens", fmt.Sprintf("%d, %d trained", x.Total, x.Trained))
		t.row("tokens a row", fmt.Sprintf("mean %d, 50 %% %d, 90 %% %d, 99 %% %d, most %d", x.Mean, x.P50, x.P90, x.P99, x.Max))
		if x.Cutoff > 0 {
			t.row("over the cutoff", fmt.Sprintf("%.1f %% of the rows lose %.1f %% of the tokens", 100*x.Truncated, 100*x.Lost))
			t.row("packed", fmt.Sprintf("%d sequences, %.1f %% full (batches of 8 rows: %.1f %%)", x.PackedSequences, 100*x.PackedFill, 100*x.PaddedFill))
		}
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	if st.Tokens == nil {
		a.say("--tokenizer DIR counts tokens, truncation and packing")
		return nil
	}
	most := 1
	for _, b := range st.Tokens.Histogram {
		most = max(most, b.Count)
	}
	for _, b := range st.Tokens.Histogram {
		if _, err := fmt.Fprintf(a.out, "%6d–%-6d %7d %s\n", b.From, b.To, b.Count, strings.Repeat("█", (b.Count*50+most-1)/most)); err != nil {
			return err
		}
	}
	return nil
}

// maxShownProblems bounds what people are shown; --json has all.
const maxShownProblems = 50

func (a *app) dataValidateCommand() *cobra.Command {
	var f dataFlags
	c := &cobra.Command{
		Use: "validate PATH", Short: "Check every row of a data set; problems are named by file, row and key", Args: exactArgs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.load(a, cmd, args[0])
			if err != nil {
				return err
			}
			if err := f.page(&report.Page{Title: "Problems of " + filepath.Base(s.Name), Problems: s.Problems}); err != nil {
				return err
			}
			if a.json {
				problems := s.Problems
				if problems == nil {
					problems = []report.Problem{}
				}
				if err := a.print(map[string]any{"valid": len(problems) == 0, "rows": s.Read, "formatting": s.Attr.Formatting, "problems": problems}); err != nil {
					return err
				}
			} else {
				for _, p := range s.Problems[:min(maxShownProblems, len(s.Problems))] {
					if _, err := fmt.Fprintln(a.out, clearControls(p.String())); err != nil {
						return err
					}
				}
				if n := len(s.Problems) - maxShownProblems; n > 0 {
					a.say("and %d more", n)
				}
			}
			if len(s.Problems) == 0 {
				a.say("%s: %d rows, no problem", s.Name, s.Read)
				return nil
			}
			p := s.Problems[0]
			place := fmt.Sprintf("%s:%d", p.File, p.Row)
			if p.Key != "" {
				place += ": " + p.Key
			}
			return schemas.Errorf(schemas.CodeData, place, "%s (%d problems in %d rows)", p.What, len(s.Problems), s.Read)
		},
	}
	f.add(c, false)
	return c
}
