package verifydata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// Options of a verification.
type Options struct {
	// Emit is the folder to write computed files into, "" for none.
	Emit string
	// Base holds tokenizers, Jinja files and dictionaries for folders without them; "" means $TUNEFLEET_FIXTURES/data.
	Base string
	// Threads bounds how many files are computed at a time; 0 means the number of CPUs.
	Threads int
	// Progress hears what is done.
	Progress func(what string, done, total int)
}

// WithDefaults fills in what is not set.
func (o Options) WithDefaults() Options {
	if o.Threads == 0 {
		o.Threads = runtime.NumCPU()
	}
	if o.Base == "" {
		if f := os.Getenv("TUNEFLEET_FIXTURES"); f != "" {
			o.Base = filepath.Join(f, "data")
		}
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	return o
}

// Validate reports all problems at once.
func (o Options) Validate() error {
	var errs []error
	if o.Threads < 1 {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "threads", "must be at least 1, is %d", o.Threads))
	}
	if o.Base != "" {
		if info, err := os.Stat(o.Base); err != nil || !info.IsDir() {
			errs = append(errs, schemas.Errorf(schemas.CodeNotFound, "base", "there is no folder %s", o.Base))
		}
	}
	return errors.Join(errs...)
}

type job struct {
	suite *Suite
	path  string
}

// VerifyData computes the files of a folder and compares. The error is about the folder as a whole; differences are in the report.
func VerifyData(ctx context.Context, dir string, o Options) (*Report, error) {
	return verify(ctx, dir, o, suites())
}

func verify(ctx context.Context, dir string, o Options, all []Suite) (*Report, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &Report{Kind: "data", Dir: dir}
	jobs, err := plan(dir, all, r)
	if err != nil {
		return nil, err
	}
	env := &Env{dir: dir, base: o.Base, shared: map[string]*onceValue{}}
	results := make([]fileResult, len(jobs))
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	slots := make(chan struct{}, o.Threads)
	for i, j := range jobs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i] = compute(ctx, env, j, o.Emit)
			mu.Lock()
			defer mu.Unlock()
			done++
			o.Progress(j.path, done, len(jobs))
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, x := range results {
		if x.err != nil {
			return nil, x.err
		}
		r.Files = append(r.Files, x.report)
		r.Cases += x.report.Cases
		r.Equal += x.report.Equal
		if x.emitted != "" {
			r.Emitted = append(r.Emitted, x.emitted)
		}
	}
	r.Pass = r.Equal == r.Cases && len(r.Files) > 0 && !slices.ContainsFunc(r.Files, func(f FileReport) bool { return f.First != "" })
	return r, nil
}

// plan lists the files that suites compute, sorted by path.
func plan(dir string, all []Suite, r *Report) ([]job, error) {
	var jobs []job
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		for i := range all {
			if all[i].Input != nil && all[i].Input(rel) {
				return nil
			}
			if all[i].Match(rel) {
				jobs = append(jobs, job{&all[i], rel})
				return nil
			}
		}
		if strings.HasSuffix(rel, ".jsonl") || strings.HasSuffix(rel, ".json") {
			r.Unsupported = append(r.Unsupported, rel)
		}
		return nil
	})
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, dir, "cannot read the folder: %v", schemas.Reason(err))
	}
	return jobs, nil
}

type fileResult struct {
	report  FileReport
	emitted string
	err     error
}

func compute(ctx context.Context, env *Env, j job, emit string) fileResult {
	out := fileResult{report: FileReport{File: j.path}}
	f, err := readFile(filepath.Join(env.dir, filepath.FromSlash(j.path)), j.path)
	if err != nil {
		return fileResult{err: err}
	}
	out.report.Rows = len(f.Rows)
	if err := ctx.Err(); err != nil {
		return fileResult{err: err}
	}
	cases, err := j.suite.Run(ctx, env, f)
	if err == nil && len(cases) != len(f.Rows) {
		err = fmt.Errorf("%d cases for %d rows", len(cases), len(f.Rows))
	}
	if err != nil {
		out.report.Cases, out.report.First = len(f.Rows), fmt.Sprintf("cannot compute %s: %v", j.suite.Name, err)
		return out
	}
	rows := make([]any, len(cases))
	for i, c := range cases {
		o := check(f.Rows[i], c)
		rows[i] = o.row
		if o.compared {
			out.report.Cases++
		}
		switch {
		case o.diff == "" && o.compared:
			out.report.Equal++
		case o.diff != "" && out.report.First == "":
			out.report.First = fmt.Sprintf("row %d: %s", i+1, o.diff)
		}
	}
	if emit != "" {
		if err := write(emit, f, rows); err != nil {
			return fileResult{err: err}
		}
		out.emitted = j.path
	}
	return out
}

// write writes the rows of a file in the form it was read in.
func write(dir string, f *File, rows []any) error {
	p := filepath.Join(dir, filepath.FromSlash(f.Path))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return fmt.Errorf("cannot create a folder for %s: %w", f.Path, err)
	}
	var b strings.Builder
	if strings.HasSuffix(f.Path, ".jsonl") {
		for _, r := range rows {
			b.WriteString(pyjson.Dumps(r))
			b.WriteByte('\n')
		}
	} else {
		b.WriteString(pyjson.Dump(rows[0], pyjson.Style{Indent: f.indent}))
		if f.newline {
			b.WriteByte('\n')
		}
	}
	if err := os.WriteFile(p, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", f.Path, err)
	}
	return nil
}
