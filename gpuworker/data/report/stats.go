package report

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/schemas"
)

// Encoding says how rows become tokens.
type Encoding struct {
	// Tokenizer is the folder of a tokenizer; empty: nothing is counted in tokens.
	Tokenizer string
	// Template is the tokenizer's own when empty ("default" when it has none), changed by Options where there are any.
	Template string
	Options  *chat.Options
	Cutoff   int
	// TrainOnPrompt and MaskHistory are LLaMA-Factory's.
	TrainOnPrompt, MaskHistory bool
}

// whole is a cutoff that cuts nothing.
const whole = 1 << 24

func (e *Encoding) open(cutoff int) (*process.Processor, *hftok.Tokenizer, error) {
	tok, err := hftok.Load(e.Tokenizer)
	if err != nil {
		return nil, nil, err
	}
	t, err := e.template(tok)
	if err != nil {
		return nil, nil, err
	}
	enc, err := chat.NewEncoder(t, tok)
	if err != nil {
		return nil, nil, err
	}
	p, err := process.New(enc, process.Settings{Cutoff: cutoff, TrainOnPrompt: e.TrainOnPrompt, MaskHistory: e.MaskHistory})
	return p, tok, err
}

func (e *Encoding) template(tok *hftok.Tokenizer) (*chat.Template, error) {
	name := e.Template
	if _, own := tok.ChatTemplate(); name == "" && !own {
		name = "default"
	}
	t, err := chat.ForTokenizer(name, tok, time.Now())
	if err != nil || e.Options == nil {
		return t, err
	}
	return t.With(*e.Options)
}

// encode makes the sequences of a record: of pairs the chosen one's and the rejected one's.
func encode(p *process.Processor, s *Set, r *Record) ([]process.Sample, error) {
	if s.Pretrain {
		return p.Pretrain([]string{r.Plain.Prompt}, false), nil
	}
	if r.Example.Pairs() {
		chosen, rejected, err := p.Pairwise(&r.Example)
		return []process.Sample{chosen, rejected}, err
	}
	x, err := p.Supervised(&r.Example)
	return []process.Sample{x}, err
}

// Bin is one bar of a histogram: Count sequences of From to To tokens, both included.
type Bin struct {
	From  int `json:"from"`
	To    int `json:"to"`
	Count int `json:"count"`
}

// Tokens are the counts in tokens, of the sequences that the rows make: two of a pair, one of any other row.
type Tokens struct {
	Template  string `json:"template"`
	Total     int64  `json:"total"`
	Trained   int64  `json:"trained"`
	Mean      int    `json:"mean"`
	P50       int    `json:"p50"`
	P90       int    `json:"p90"`
	P99       int    `json:"p99"`
	Max       int    `json:"max"`
	Histogram []Bin  `json:"histogram"`
	Cutoff    int    `json:"cutoff_len,omitempty"`
	// Truncated is the share of sequences over the cutoff, Lost the share of tokens that they lose.
	Truncated float64 `json:"truncated_share"`
	Lost      float64 `json:"lost_token_share"`
	// PackedSequences is the number of sequences that packing makes, PackedFill the share of their positions that hold tokens, PaddedFill the
	// same for batches of 8 rows without packing.
	PackedSequences int     `json:"packed_sequences,omitempty"`
	PackedFill      float64 `json:"packed_fill,omitempty"`
	PaddedFill      float64 `json:"padded_fill,omitempty"`
}

// Class is one label.
type Class struct {
	Label string  `json:"label"`
	Rows  int     `json:"rows"`
	Share float64 `json:"share"`
}

// Stats is the report on a data set.
type Stats struct {
	Name      string         `json:"name"`
	Format    string         `json:"formatting"`
	Rows      int            `json:"rows"`
	Usable    int            `json:"usable"`
	Problems  int            `json:"problems"`
	Tokens    *Tokens        `json:"tokens,omitempty"`
	Languages map[string]int `json:"languages"`
	// Duplicates and NearDuplicates count rows that repeat an earlier one.
	Duplicates     int `json:"duplicates"`
	NearDuplicates int `json:"near_duplicates"`
	// Contaminated counts rows that are similar to one of the evaluation set, of which there are EvalRows.
	Contaminated int `json:"contaminated"`
	EvalRows     int `json:"eval_rows,omitempty"`
	// PII counts finds by type, PIIRows the rows that hold one.
	PII     map[string]int `json:"pii"`
	PIIRows int            `json:"pii_rows"`
	// Classes are the labels, most frequent first; Imbalance is the largest over the smallest, Conflicts the groups of rows that say the same
	// under different labels.
	Classes   []Class           `json:"classes,omitempty"`
	Imbalance float64           `json:"imbalance,omitempty"`
	Conflicts []labels.Conflict `json:"conflicts,omitempty"`
	// CohenKappa (of two annotators) and FleissKappa are absent without annotator columns.
	CohenKappa  *float64 `json:"cohen_kappa,omitempty"`
	FleissKappa *float64 `json:"fleiss_kappa,omitempty"`
}

// nearDuplicate is the Jaccard similarity of what the report calls near-duplicates.
const nearDuplicate = 0.8

// Compute makes the report; eval may be nil.
func Compute(ctx context.Context, s, eval *Set, e Encoding) (*Stats, error) {
	st := &Stats{Name: s.Name, Format: s.Attr.Formatting, Rows: s.Read, Problems: len(s.Problems), Languages: map[string]int{}, PII: map[string]int{}}
	if s.Pretrain {
		st.Format = "text"
	}
	plain := s.plain()
	st.Usable = len(plain)
	st.texts(plain)
	if err := st.personal(ctx, plain); err != nil {
		return nil, err
	}
	if eval != nil {
		held := texts(eval.plain())
		st.EvalRows = len(held)
		st.Contaminated = len(minhash.Overlaps(texts(plain), held, nearDuplicate, 1, 0))
	}
	st.classes(s, plain)
	if e.Tokenizer != "" {
		t, err := countTokens(ctx, s, e)
		if err != nil {
			return nil, err
		}
		st.Tokens = t
	}
	return st, nil
}

func (s *Set) plain() []data.Row {
	var out []data.Row
	for i := range s.Records {
		if s.Records[i].Usable {
			out = append(out, s.Records[i].Plain)
		}
	}
	return out
}

func texts(rows []data.Row) []string {
	out := make([]string, len(rows))
	for i := range rows {
		out[i] = rows[i].Prompt + "\n" + rows[i].Response
	}
	return out
}

func (st *Stats) texts(rows []data.Row) {
	seen := map[string]bool{}
	for i := range rows {
		l := clean.DetectLanguage(rows[i].Prompt + "\n" + rows[i].Response)
		st.Languages[cmp.Or(l, "other")]++
		k := clean.Normalize(rows[i].Prompt) + "\x00" + clean.Normalize(rows[i].Response)
		if seen[k] {
			st.Duplicates++
		}
		seen[k] = true
	}
	st.NearDuplicates = max(0, len(minhash.Duplicates(texts(rows), nearDuplicate, 1, 0))-st.Duplicates)
}

func (st *Stats) personal(ctx context.Context, rows []data.Row) error {
	finder, err := clean.Finder(&schemas.CleanSpec{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	parallel(len(rows), func(i int) {
		if ctx.Err() != nil {
			return
		}
		found := finder.Find(rows[i].Prompt + "\n" + rows[i].Response)
		if len(found) == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		st.PIIRows++
		for _, f := range found {
			st.PII[f.Type]++
		}
	})
	return ctx.Err()
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

func (st *Stats) classes(s *Set, rows []data.Row) {
	counts := map[string]int{}
	for i := range rows {
		if rows[i].Label != "" {
			counts[rows[i].Label]++
		}
	}
	for l, n := range counts {
		st.Classes = append(st.Classes, Class{l, n, float64(n) / float64(len(rows))})
	}
	slices.SortFunc(st.Classes, func(a, b Class) int { return cmp.Or(cmp.Compare(b.Rows, a.Rows), cmp.Compare(a.Label, b.Label)) })
	if n := len(st.Classes); n > 0 {
		st.Imbalance = float64(st.Classes[0].Rows) / float64(st.Classes[n-1].Rows)
		st.Conflicts = labels.Conflicts(rows, 0.95, 0)
	}
	var ratings [][]string
	for i := range s.Records {
		if len(s.Records[i].Annotations) > 0 {
			ratings = append(ratings, s.Records[i].Annotations)
		}
	}
	if len(ratings) == 0 {
		return
	}
	if len(ratings[0]) == 2 {
		a, b := make([]string, len(ratings)), make([]string, len(ratings))
		for i, r := range ratings {
			a[i], b[i] = r[0], r[1]
		}
		if k, ok := labels.CohenKappa(a, b); ok {
			st.CohenKappa = &k
		}
	}
	if k, ok := labels.FleissKappa(ratings); ok {
		st.FleissKappa = &k
	}
}

// ReviewRows are the plain rows that conflicts refer to.
func ReviewRows(s *Set) []data.Row { return s.plain() }

func countTokens(ctx context.Context, s *Set, e Encoding) (*Tokens, error) {
	p, _, err := e.open(whole)
	if err != nil {
		return nil, err
	}
	made, trained := make([][]int, len(s.Records)), make([]int, len(s.Records))
	errs := make([]error, len(s.Records))
	parallel(len(s.Records), func(i int) {
		if !s.Records[i].Usable || ctx.Err() != nil {
			return
		}
		xs, err := encode(p, s, &s.Records[i])
		if err != nil {
			errs[i] = err
			return
		}
		for _, x := range xs {
			made[i] = append(made[i], len(x.IDs))
			for _, l := range x.Labels {
				if l != process.Ignore {
					trained[i]++
				}
			}
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &Tokens{Template: cmp.Or(e.Template, p.Encoder().Template.Name, "of the tokenizer"), Cutoff: e.Cutoff}
	var kept []int
	for i := range made {
		if errs[i] != nil {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", s.Records[i].File, s.Records[i].Row), "%s", schemas.AsErrorInfo(errs[i]).Message)
		}
		for _, n := range made[i] {
			if n > 0 {
				kept = append(kept, n)
			}
			t.Total += int64(n)
		}
		t.Trained += int64(trained[i])
	}
	if len(kept) == 0 {
		return t, nil
	}
	sorted := slices.Sorted(slices.Values(kept))
	at := func(q float64) int { return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)] }
	t.Mean, t.P50, t.P90, t.P99, t.Max = int(t.Total/int64(len(sorted))), at(0.5), at(0.9), at(0.99), sorted[len(sorted)-1]
	t.Histogram = histogram(sorted)
	t.cut(kept)
	return t, nil
}

// histogram has bars of equal width up to the 99th percentile, and one for the rest; it begins with the first bar that is not empty.
func histogram(sorted []int) []Bin {
	const bars = 20
	top := sorted[max(0, len(sorted)*99/100-1)]
	width := max(1, (top+bars-1)/bars)
	var out []Bin
	for from := 1; from <= top; from += width {
		out = append(out, Bin{From: from, To: from + width - 1})
	}
	last := out[len(out)-1].To
	if m := sorted[len(sorted)-1]; m > last {
		out = append(out, Bin{From: last + 1, To: m})
	}
	for _, n := range sorted {
		out[min(len(out)-1, (n-1)/width)].Count++
	}
	return out[slices.IndexFunc(out, func(b Bin) bool { return b.Count > 0 }):]
}

// cut counts what the cutoff does to the rows, in their order.
func (t *Tokens) cut(lengths []int) {
	if t.Cutoff <= 0 {
		return
	}
	over, lost, kept := 0, 0, make([]int, len(lengths))
	tokens := 0
	for i, n := range lengths {
		if n > t.Cutoff {
			over++
			lost += n - t.Cutoff
		}
		kept[i] = min(n, t.Cutoff)
		tokens += kept[i]
	}
	t.Truncated, t.Lost = float64(over)/float64(len(lengths)), float64(lost)/float64(t.Total)
	packs := len(process.Knapsack(kept, t.Cutoff))
	t.PackedSequences = packs
	if packs > 0 {
		t.PackedFill = float64(tokens) / float64(packs*t.Cutoff)
	}
	const batch = 8
	padded := 0
	for b := range slices.Chunk(kept, batch) {
		padded += slices.Max(b) * len(b)
	}
	t.PaddedFill = float64(tokens) / float64(padded)
}
