package report

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// nearDuplicate is the Jaccard similarity of what the report calls near-duplicates, conflicting that of rows that ought to have one label.
	nearDuplicate = 0.8
	conflicting   = 0.95
	// keptConflicts is how many conflicts a report lists.
	keptConflicts = 1000
	// maxClasses bounds the labels that are counted: a column with more holds no classes.
	maxClasses = 100_000
	// batchRows and batchBytes bound the rows that are looked at together, on all CPUs.
	batchRows  = 1024
	batchBytes = 4 << 20
	// keysInMemory is how many keys of exact duplicates are sorted in memory at a time.
	keysInMemory = 1 << 18
)

// Request says what Compute looks for beside what every report has.
type Request struct {
	// Eval, when not nil, is an evaluation set to find rows of.
	Eval *Config
	// Shown is how many rows are shown.
	Shown int
	// Review, when not nil, gets the rows whose labels are in doubt.
	Review func([]clean.ReviewEntry) error
	// Dir is for scratch files ("": the system's temporary folder).
	Dir string
}

// Compute reads a data set once, row by row, and makes the report on it, with its first rows as the model will see them. What has to be compared lies
// in scratch files: as much as the texts and 700 bytes a row, twice where classes are named.
func Compute(ctx context.Context, c Config, e Encoding, q Request) (_ *Set, _ *Stats, shown []Shown, err error) {
	k, err := newComputing(ctx, e, &q, len(c.Annotators) > 0, c.Label != "")
	if k != nil {
		defer func() { err = errors.Join(err, k.close()) }()
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if q.Eval != nil {
		if _, err := Each(ctx, *q.Eval, k.held); err != nil {
			return nil, nil, nil, err
		}
		if err := k.overlap.Others(); err != nil {
			return nil, nil, nil, err
		}
	}
	s, err := Each(ctx, c, func(s *Set, r *Record) error { return k.add(ctx, s, r) })
	if err != nil {
		return nil, nil, nil, err
	}
	if err := k.flush(ctx, s); err != nil {
		return nil, nil, nil, err
	}
	st, err := k.end(s)
	return s, st, k.preview.shown, err
}

// computing adds a report up.
type computing struct {
	st      Stats
	review  func([]clean.ReviewEntry) error
	finder  *pii.Finder
	preview *previewer
	p       *process.Processor // nil: nothing is counted in tokens
	tokens  tokenCount
	// keys are of texts as they are, but for white space and the forms of characters.
	keys      *extsort.Sorter
	near      *minhash.Spilled
	overlap   *minhash.Spilled // nil: no evaluation set
	conflicts *labels.Finder   // nil: no labels
	classes   map[string]int
	agreement *labels.Agreement // nil: no annotators
	batch     []looked
	bytes     int
}

// looked is a row and what was found in it.
type looked struct {
	*Record
	language string
	key      [sha256.Size]byte
	pii      []pii.Span
	lengths  []int
	trained  int
	err      error
}

// newComputing prepares; what it returns beside an error is to be closed.
func newComputing(ctx context.Context, e Encoding, q *Request, annotated, labelled bool) (k *computing, err error) {
	k = &computing{st: Stats{Languages: map[string]int{}, PII: map[string]int{}}, review: q.Review, classes: map[string]int{}, keys: extsort.New(q.Dir, 16, keysInMemory)}
	if k.finder, err = clean.Finder(&schemas.CleanSpec{}); err != nil {
		return k, err
	}
	if k.preview, err = newPreviewer(e, q.Shown); err != nil {
		return k, err
	}
	if k.p = k.preview.full; k.p != nil {
		k.tokens = tokenCount{t: Tokens{Template: cmp.Or(e.Template, k.p.Encoder().Template.Name, "of the tokenizer"), Cutoff: e.Cutoff}, lengths: map[int]int{}}
	}
	if k.near, err = minhash.NewSpilled(q.Dir, nearDuplicate, 1, 0); err != nil {
		return k, err
	}
	if q.Eval != nil {
		if k.overlap, err = minhash.NewSpilled(q.Dir, nearDuplicate, 1, 0); err != nil {
			return k, err
		}
	}
	if labelled {
		if k.conflicts, err = labels.NewFinder(q.Dir, conflicting, 0); err != nil {
			return k, err
		}
	}
	if annotated {
		k.agreement = labels.NewAgreement()
	}
	return k, ctx.Err()
}

// close removes the scratch files.
func (k *computing) close() error {
	err := k.keys.Close()
	for _, n := range []*minhash.Spilled{k.near, k.overlap} {
		if n != nil {
			err = errors.Join(err, n.Close())
		}
	}
	if k.conflicts != nil {
		err = errors.Join(err, k.conflicts.Close())
	}
	return err
}

// text is what of a row is compared and searched.
func text(r *data.Row) string { return r.Prompt + "\n" + r.Response }

// held takes a row of the evaluation set.
func (k *computing) held(_ *Set, r *Record) error {
	if !r.Usable {
		return nil
	}
	k.st.EvalRows++
	return k.overlap.Add(text(&r.Plain))
}

// add takes the next row.
func (k *computing) add(ctx context.Context, s *Set, r *Record) error {
	if k.agreement != nil {
		k.agreement.Add(r.Annotations)
		if k.agreement.Labels() > maxClasses {
			return schemas.Errorf(schemas.CodeData, s.Name, "the annotators gave more than %d different labels", maxClasses).WithHint("does --annotator name the right column?")
		}
	}
	if err := k.preview.add(s, r); err != nil && !errors.Is(err, ErrEnough) {
		return err
	}
	if !r.Usable {
		return nil
	}
	k.batch, k.bytes = append(k.batch, looked{Record: r}), k.bytes+len(r.Plain.Prompt)+len(r.Plain.Response)
	if len(k.batch) < batchRows && k.bytes < batchBytes {
		return nil
	}
	return k.flush(ctx, s)
}

// flush looks at the rows of a batch on all CPUs, and counts them in their order.
func (k *computing) flush(ctx context.Context, s *Set) error {
	parallel(len(k.batch), func(i int) {
		if ctx.Err() == nil {
			k.look(s, &k.batch[i])
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range k.batch {
		if err := k.count(s, &k.batch[i]); err != nil {
			return err
		}
	}
	clear(k.batch)
	k.batch, k.bytes = k.batch[:0], 0
	return nil
}

// look finds out what a row says by itself.
func (k *computing) look(s *Set, r *looked) {
	whole := text(&r.Plain)
	r.language = cmp.Or(clean.DetectLanguage(whole), "other")
	r.key = sha256.Sum256([]byte(clean.Normalize(r.Plain.Prompt) + "\x00" + clean.Normalize(r.Plain.Response)))
	r.pii = k.finder.Find(whole)
	if k.p == nil {
		return
	}
	xs, err := encode(k.p, s, r.Record)
	if err != nil {
		r.err = schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", r.File, r.Row), "%s", schemas.AsErrorInfo(err).Message)
		return
	}
	for _, x := range xs {
		r.lengths = append(r.lengths, len(x.IDs))
		for _, l := range x.Labels {
			if l != process.Ignore {
				r.trained++
			}
		}
	}
}

// count adds a row to the report.
func (k *computing) count(s *Set, r *looked) error {
	if r.err != nil {
		return r.err
	}
	k.st.Usable++
	k.st.Languages[r.language]++
	if len(r.pii) > 0 {
		k.st.PIIRows++
	}
	for _, f := range r.pii {
		k.st.PII[f.Type]++
	}
	for _, n := range r.lengths {
		k.tokens.add(n)
	}
	k.tokens.t.Trained += int64(r.trained)
	if r.Plain.Label != "" {
		if k.classes[r.Plain.Label]++; len(k.classes) > maxClasses {
			return schemas.Errorf(schemas.CodeData, s.Name, "there are more than %d classes", maxClasses).WithHint("does --label name the right column?")
		}
	}
	if err := errors.Join(k.keys.Add(r.key[:16]), k.near.Add(text(&r.Plain))); err != nil {
		return err
	}
	if k.overlap != nil {
		if err := k.overlap.Add(text(&r.Plain)); err != nil {
			return err
		}
	}
	if k.conflicts != nil {
		return k.conflicts.Add(&r.Plain)
	}
	return nil
}

// end compares the rows and closes the sum.
func (k *computing) end(s *Set) (*Stats, error) {
	st := &k.st
	st.Name, st.Format, st.Rows, st.Problems = s.Name, s.Attr.Formatting, s.Read, s.Wrong
	if s.Pretrain {
		st.Format = "text"
	}
	var last []byte
	err := k.keys.Each(func(key []byte) error {
		if last != nil && bytes.Equal(last, key) {
			st.Duplicates++
		}
		last = append(last[:0], key...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := k.near.Each(nil, counting(&st.NearDuplicates)); err != nil {
		return nil, err
	}
	st.NearDuplicates = max(0, st.NearDuplicates-st.Duplicates)
	if k.overlap != nil {
		if err := k.overlap.Each(nil, counting(&st.Contaminated)); err != nil {
			return nil, err
		}
	}
	if k.conflicts != nil {
		if err := k.conflicts.Each(k.conflict); err != nil {
			return nil, err
		}
	}
	k.labels()
	if k.p != nil {
		st.Tokens = k.tokens.end()
	}
	return st, nil
}

// counting counts matches.
func counting(n *int) func(minhash.Match) error {
	return func(minhash.Match) error {
		*n++
		return nil
	}
}

func (k *computing) conflict(c *labels.Conflict, review []clean.ReviewEntry) error {
	if k.st.ConflictGroups++; len(k.st.Conflicts) < keptConflicts {
		k.st.Conflicts = append(k.st.Conflicts, *c)
	}
	if k.review == nil {
		return nil
	}
	return k.review(review)
}

// labels closes what is counted of classes and annotators.
func (k *computing) labels() {
	st := &k.st
	for l, n := range k.classes {
		st.Classes = append(st.Classes, Class{l, n, float64(n) / float64(st.Usable)})
	}
	slices.SortFunc(st.Classes, func(a, b Class) int { return cmp.Or(cmp.Compare(b.Rows, a.Rows), cmp.Compare(a.Label, b.Label)) })
	if n := len(st.Classes); n > 0 {
		st.Imbalance = float64(st.Classes[0].Rows) / float64(st.Classes[n-1].Rows)
	}
	if k.agreement == nil {
		return
	}
	if x, ok := k.agreement.CohenKappa(); ok {
		st.CohenKappa = &x
	}
	if x, ok := k.agreement.FleissKappa(); ok {
		st.FleissKappa = &x
	}
}

// parallel calls f for 0 to n-1 on all CPUs.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := max(1, min(n, runtime.GOMAXPROCS(0)))
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
