package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/report"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
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
	readFlags(fl, &f.config)
	fl.StringVar(&f.config.Formatting, "formatting", "", "alpaca, sharegpt or openai (default: by the first row)")
	fl.StringSliceVar(&f.columns, "column", nil, "ROLE=COLUMN, such as prompt=ask (repeatable); roles: "+strings.Join(source.Roles(), ", "))
	fl.StringVar(&f.config.Label, "label", "", "column of the class")
	fl.StringVar(&f.html, "html", "", "also write the report to this HTML file")
	if tokens {
		fl.StringVar(&f.enc.Tokenizer, "tokenizer", "", "folder of the model or tokenizer; without it nothing is counted in tokens")
		fl.StringVar(&f.enc.Template, "template", "", "chat template (default: the tokenizer's own)")
		fl.IntVar(&f.enc.Cutoff, "cutoff-len", 0, "most tokens of a sequence (0: no cut)")
		fl.BoolVar(&f.enc.TrainOnPrompt, "train-on-prompt", false, "label the prompts, too")
		fl.BoolVar(&f.enc.MaskHistory, "mask-history", false, "label the last answer only")
	}
}

// readFlags are the flags that say where rows are and how they are read.
func readFlags(fl *pflag.FlagSet, c *report.Config) {
	fl.StringVar(&c.DatasetDir, "dataset-dir", "", "folder with dataset_info.json; PATH may then be the name of one of its data sets")
	fl.StringVar(&c.Format, "format", "", "json, jsonl, csv, tsv, txt, parquet, arrow (default: by the file's name)")
	fl.StringVar(&c.Encoding, "encoding", "", "utf-8, utf-16le, utf-16be or gb18030 (default: found out)")
	fl.IntVar(&c.Limit, "limit", 0, "read at most so many rows")
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

// each looks at every data set that is named: one, or those of a configuration, with a heading when there are several.
func (f *dataFlags) each(a *app, cmd *cobra.Command, args []string, look func(j *dataJob) error) error {
	if f.enc.Cutoff < 0 || f.config.Limit < 0 {
		return schemas.Errorf(schemas.CodeUsage, "", "--cutoff-len and --limit cannot be negative")
	}
	jobs, err := f.jobs(a, cmd, args)
	if err != nil {
		return err
	}
	html, first := f.html, error(nil)
	for i := range jobs {
		j := &jobs[i]
		j.config.Fetch = a.fetch
		if len(jobs) > 1 {
			if !a.json {
				if _, err := fmt.Fprintf(a.out, "%s%s\n", strings.Repeat("\n", min(i, 1)), clearControls(j.config.Path)); err != nil {
					return err
				}
			}
			if html != "" {
				f.html = strings.TrimSuffix(html, filepath.Ext(html)) + "-" + strings.ReplaceAll(j.config.Path, "/", "-") + filepath.Ext(html)
			}
		}
		if err := look(j); err != nil {
			if !schemas.IsCode(err, schemas.CodeData) || cmd.Context().Err() != nil {
				return err
			}
			if first == nil {
				first = err // the other data sets are looked at, too
			}
		}
	}
	return first
}

func (f *dataFlags) jobs(a *app, cmd *cobra.Command, args []string) ([]dataJob, error) {
	if isConfig(args[0]) {
		return f.configJobs(a, cmd, args)
	}
	if len(args) > 1 {
		return nil, schemas.Errorf(schemas.CodeUsage, "", "%s takes one PATH, got %d", cmd.CommandPath(), len(args)).WithHint("key=value goes with a configuration; several files are named by a pattern in quotes")
	}
	f.config.Path, f.config.Columns = args[0], map[string]string{}
	for _, c := range f.columns {
		role, column, ok := strings.Cut(c, "=")
		if !ok {
			return nil, schemas.Errorf(schemas.CodeUsage, "--column", "%q must be ROLE=COLUMN", c)
		}
		f.config.Columns[role] = column
	}
	return []dataJob{{f.config, f.enc}}, nil
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

// pathArgs are PATH, and key=value behind a configuration.
func pathArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return schemas.Errorf(schemas.CodeUsage, "", "%s needs a PATH", cmd.CommandPath()).WithHint("a file, a folder, a pattern, a data set's name with --dataset-dir, an address, or a configuration")
	}
	return nil
}

// dataPaths says what PATH can be.
const dataPaths = "PATH is a file, a folder, a pattern in quotes, an address (hf://, ms://, s3://, https://), the name of a data set in --dataset-dir,\n" +
	"or a training's configuration (.yaml): then its data sets are looked at with its template, tokenizer and cutoff, and key=value may follow.\n"

// unusable says why nothing can be done with a data set.
func unusable(s *report.Set) error {
	if len(s.Problems) > 0 {
		p := s.Problems[0]
		p.What += fmt.Sprintf("; none of the %s can be used", plural(s.Read, "row"))
		return problem(p).WithHint("tunefleet data validate lists the problems")
	}
	return schemas.Errorf(schemas.CodeData, s.Name, "none of the %s has a question and an answer to train on", plural(s.Read, "row")).
		WithHint("--column names the columns, such as prompt=ask")
}

// plural is "1 row", "2 rows".
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// problem is a problem as an error.
func problem(p report.Problem) *schemas.ErrorInfo {
	place := fmt.Sprintf("%s:%d", p.File, p.Row)
	if p.Key != "" {
		place += ": " + p.Key
	}
	return schemas.Errorf(schemas.CodeData, place, "%s", p.What)
}

func (a *app) dataPreviewCommand() *cobra.Command {
	var f dataFlags
	rows := 3
	c := &cobra.Command{
		Use: "preview PATH [key=value ...]", Short: "Show rows as the model will see them, what is trained in colour", Args: pathArgs,
		Long: "Show rows as the model will see them, what is trained in colour.\n" + dataPaths + "Without a tokenizer the turns are shown as they are in the file.",
		Example: "  tunefleet data preview train.jsonl\n  tunefleet data preview train.jsonl --tokenizer ./model --template qwen3 -n 1\n" +
			"  tunefleet data preview identity --dataset-dir data\n  tunefleet data preview sft.yaml cutoff_len=512",
		RunE: func(cmd *cobra.Command, args []string) error {
			if rows < 1 {
				return schemas.Errorf(schemas.CodeUsage, "--rows", "must be at least 1, is %d", rows)
			}
			if f.config.Limit == 0 {
				f.config.Limit = max(1000, 10*rows)
			}
			return f.each(a, cmd, args, func(j *dataJob) error {
				s, shown, err := report.Preview(cmd.Context(), j.config, j.enc, rows)
				if err != nil {
					return err
				}
				if err := f.page(&report.Page{Title: "Rows of " + filepath.Base(s.Name), Shown: shown}); err != nil {
					return err
				}
				if len(shown) == 0 {
					return unusable(s)
				}
				if s.Wrong > 0 {
					a.say("%s in the first %s; tunefleet data validate lists them", plural(s.Wrong, "problem"), plural(s.Read, "row"))
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
			})
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
		if v.Answer != "" {
			head += ", " + v.Answer
		}
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
		Use: "stats PATH [key=value ...]", Short: "Count lengths, truncation, packing, duplicates, personal data and classes of a data set", Args: pathArgs,
		Long: "Count lengths, truncation, packing, duplicates, personal data and classes of a data set.\n" + dataPaths +
			"Rows are read once and not held; what has to be compared lies in scratch files (TMPDIR): as much as the texts and 700 bytes a row, with --label twice.",
		Example: "  tunefleet data stats train.jsonl --tokenizer ./model --template qwen3 --cutoff-len 1024\n" +
			"  tunefleet data stats tickets.csv --label department --review review.jsonl\n  tunefleet data stats sft.yaml --html report.html",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.each(a, cmd, args, func(j *dataJob) error { return f.stats(a, cmd, j, eval, review) })
		},
	}
	f.add(c, true)
	c.Flags().StringVar(&eval, "eval", "", "evaluation set to look for contamination by")
	c.Flags().StringSliceVar(&f.config.Annotators, "annotator", nil, "column of one annotator's labels (repeatable): Cohen's or Fleiss' kappa")
	c.Flags().StringVar(&review, "review", "", "write rows with conflicting labels to this review file")
	return c
}

func (f *dataFlags) stats(a *app, cmd *cobra.Command, j *dataJob, eval, review string) (err error) {
	q := report.Request{Shown: 3}
	if eval != "" {
		c := f.config
		c.Fetch, c.Path, c.Label, c.Annotators = a.fetch, eval, "", nil
		q.Eval = &c
	}
	if review != "" {
		w, err := os.OpenFile(review, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return diskError(review, err)
		}
		out := bufio.NewWriter(w)
		q.Review = func(entries []clean.ReviewEntry) error { return clean.WriteReview(out, entries) }
		defer func() {
			// What was not finished is no review.
			if werr := errors.Join(out.Flush(), w.Close()); err == nil && werr != nil {
				err = diskError(review, werr)
			}
			if err != nil && !schemas.IsCode(err, schemas.CodeData) {
				err = errors.Join(err, os.Remove(review))
			}
		}()
	}
	s, st, shown, err := report.Compute(cmd.Context(), j.config, j.enc, q)
	if err != nil {
		return err
	}
	if err := f.page(&report.Page{Title: "Data set " + filepath.Base(s.Name), Stats: st, Shown: shown, Problems: s.Problems, Wrong: s.Wrong}); err != nil {
		return err
	}
	if review != "" {
		a.say("%s holds %s of rows whose labels are in doubt; clean.review applies what people decide", review, plural(st.ConflictGroups, "group"))
	}
	if a.json {
		err = a.print(st)
	} else {
		err = a.showStats(st)
	}
	if err == nil && st.Usable == 0 {
		return unusable(s)
	}
	if len(s.Problems) > 0 {
		a.say("the first problem: %s; tunefleet data validate lists them", clearControls(s.Problems[0].String()))
	}
	return err
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
		num("groups with conflicting labels", st.ConflictGroups)
	}
	if st.CohenKappa != nil {
		t.row("Cohen's kappa", fmt.Sprintf("%.3f", *st.CohenKappa))
	}
	if st.FleissKappa != nil {
		t.row("Fleiss' kappa", fmt.Sprintf("%.3f", *st.FleissKappa))
	}
	if x := st.Tokens; x != nil {
		t.row("tokens", fmt.Sprintf("%d, %d trained", x.Total, x.Trained))
		t.row("tokens a sequence", fmt.Sprintf("mean %d, 50 %% %d, 90 %% %d, 99 %% %d, most %d", x.Mean, x.P50, x.P90, x.P99, x.Max))
		if x.Cutoff > 0 {
			t.row("over the cutoff", fmt.Sprintf("%.1f %% of the sequences lose %.1f %% of the tokens", 100*x.Truncated, 100*x.Lost))
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

func (a *app) dataValidateCommand() *cobra.Command {
	var f dataFlags
	c := &cobra.Command{
		Use: "validate PATH [key=value ...]", Short: "Check every row of a data set; problems are named by file, row and key", Args: pathArgs,
		Long:    "Check every row of a data set; problems are named by file, row and key, and the exit code is then 8. All are counted, the first --problems listed.\n" + dataPaths,
		Example: "  tunefleet data validate train.jsonl\n  tunefleet data validate tickets.csv --column prompt=ask --column response=answer\n  tunefleet data validate sft.yaml --problems 500 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.config.Problems < 1 {
				return schemas.Errorf(schemas.CodeUsage, "--problems", "must be at least 1, is %d", f.config.Problems)
			}
			return f.each(a, cmd, args, func(j *dataJob) error {
				s, err := report.Each(cmd.Context(), j.config, nil)
				if err != nil {
					return err
				}
				return f.validate(a, s)
			})
		},
	}
	f.add(c, false)
	c.Flags().IntVar(&f.config.Problems, "problems", 50, "list so many problems at most")
	return c
}

func (f *dataFlags) validate(a *app, s *report.Set) error {
	if err := f.page(&report.Page{Title: "Problems of " + filepath.Base(s.Name), Problems: s.Problems, Wrong: s.Wrong}); err != nil {
		return err
	}
	if a.json {
		problems := s.Problems
		if problems == nil {
			problems = []report.Problem{}
		}
		err := a.print(map[string]any{"name": s.Name, "valid": s.Wrong == 0, "rows": s.Read, "formatting": s.Attr.Formatting, "problem_count": s.Wrong, "problems": problems})
		if err != nil {
			return err
		}
	} else {
		for _, p := range s.Problems {
			if _, err := fmt.Fprintln(a.out, clearControls(p.String())); err != nil {
				return err
			}
		}
		if n := s.Wrong - len(s.Problems); n > 0 {
			a.say("and %d more", n)
		}
	}
	if s.Wrong == 0 {
		a.say("%s: %s, no problem", s.Name, plural(s.Read, "row"))
		return nil
	}
	p := s.Problems[0]
	p.What += fmt.Sprintf(" (%s in %s)", plural(s.Wrong, "problem"), plural(s.Read, "row"))
	return problem(p)
}
