package prep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// factoryPlan is what all parts of a LLaMA-Factory preparation agree on: the rows of every set, and which of them each output has, in order.
type factoryPlan struct {
	spec  *schemas.FactorySpec
	sets  []factorySet
	train source.Order
	eval  []source.Order
	bad   source.Bad
	read  int64
	// copies are lines of JSON: what augmentation made of which row, and how. curated are the counters of cleaning and what followed.
	copies  bytes.Buffer
	curated map[string]int64
}

func (p *factoryPlan) note(copied map[string]any) error {
	e := json.NewEncoder(&p.copies)
	e.SetEscapeHTML(false)
	if err := e.Encode(copied); err != nil {
		return fmt.Errorf("cannot write what a copy was made of: %w", err)
	}
	return nil
}

// factorySet is the rows of one data set, in the order that num_samples and max_samples leave.
type factorySet struct {
	set   *schemas.DataSet
	spool *source.Spool
	// order lists rows of the spool, nil when all are taken as they are.
	order []int32
	// remote, when not nil, is what the spool's rows are read from; drop removes its index.
	remote *remoteRows
	drop   func() error
	// shapes are those of nested values of all the set's rows, nil when its form has none.
	shapes *align.Shapes
}

func (s *factorySet) close() error {
	var errs []error
	if s.spool != nil {
		errs = append(errs, s.spool.Close())
	}
	if s.drop != nil {
		errs = append(errs, s.drop())
	}
	return errors.Join(append(errs, s.remote.close())...)
}

func (s *factorySet) len() int {
	if s.order != nil {
		return len(s.order)
	}
	return s.spool.Len()
}

func (s *factorySet) at(i int32) int {
	if s.order != nil {
		return int(s.order[i])
	}
	return int(i)
}

// streamed is the set as a stream has it.
func (s *factorySet) streamed() source.Streamed {
	out := source.Streamed{Rows: s.len()}
	if s.set.Sharded && s.order == nil {
		names := make([]string, len(s.set.Data.Files))
		for i, f := range s.set.Data.Files {
			names[i] = f.Path
		}
		out.Shards = s.spool.RowsOf(names)
	}
	return out
}

// close removes the scratch files.
func (p *factoryPlan) close() error {
	var errs []error
	for i := range p.sets {
		errs = append(errs, p.sets[i].close())
	}
	return errors.Join(errs...)
}

// makeFactoryPlan reads the data sets and orders their rows as LLaMA-Factory does: files in their order, num_samples, the first max_samples
// rows of each set, sets mixed, and the validation split cut off.
func makeFactoryPlan(ctx context.Context, t *consume.Task) (p *factoryPlan, err error) {
	f := t.Stage.Prep.Factory
	p = &factoryPlan{spec: f, bad: source.Bad{Policy: source.Policy(f.OnBadRow)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = nil
		}
	}()
	for _, sets := range [][]schemas.DataSet{f.Train, f.Eval} {
		for i := range sets {
			p.sets = append(p.sets, factorySet{set: &sets[i]})
			if err := p.readSet(ctx, t, &p.sets[len(p.sets)-1]); err != nil {
				return p, err
			}
		}
	}
	if err := p.chooseRows(t.Spec.Seed); err != nil {
		return p, err
	}
	c := &curator{t: t, prep: t.Stage.Prep, plan: p, rep: clean.NewReport()}
	if err := errors.Join(c.clean(ctx, 0, len(f.Train)), c.clean(ctx, len(f.Train), len(f.Eval))); err != nil {
		return p, err
	}
	if err := p.order(t); err != nil {
		return p, err
	}
	if err := c.choose(ctx); err != nil {
		return p, err
	}
	if curates(t.Stage.Prep) {
		p.curated = c.counters()
	}
	return p, nil
}

// order mixes the sets and holds rows out.
func (p *factoryPlan) order(t *consume.Task) (err error) {
	f := p.spec
	if p.train, err = p.mixed(0, len(f.Train), t.Spec.Seed); err != nil {
		return err
	}
	switch {
	case f.ValSize > 0 && len(f.Train) > 0 && f.Buffer > 0:
		n := p.train.Len()
		k := min(int(f.ValSize), n)
		p.eval = []source.Order{source.Choose(p.train, rowRange(0, k))}
		p.train = source.Choose(p.train, rowRange(k, n))
	case f.ValSize > 0 && len(f.Train) > 0:
		train, held, err := source.Split(p.train.Len(), f.ValSize, t.Spec.Seed)
		if err != nil {
			return err
		}
		p.eval = []source.Order{source.Choose(p.train, held)}
		p.train = source.Choose(p.train, train)
	case f.EvalOnEach:
		for i := range f.Eval {
			one, err := p.mixed(len(f.Train)+i, 1, t.Spec.Seed)
			if err != nil {
				return err
			}
			p.eval = append(p.eval, one)
		}
	case len(f.Eval) > 0:
		all, err := p.mixed(len(f.Train), len(f.Eval), t.Spec.Seed)
		if err != nil {
			return err
		}
		p.eval = []source.Order{all}
	}
	return nil
}

// rowRange lists the numbers in [from, to).
func rowRange(from, to int) []int32 {
	out := make([]int32, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, int32(i))
	}
	return out
}

// mixed orders the rows of n sets from the first-th on.
func (p *factoryPlan) mixed(first, n int, seed uint64) (source.Order, error) {
	if n == 0 {
		return nil, nil
	}
	lengths := make([]int, n)
	for i := range lengths {
		if lengths[i] = p.sets[first+i].len(); lengths[i] == 0 {
			return nil, schemas.Errorf(schemas.CodeData, p.sets[first+i].set.Name, "the data set is empty")
		}
	}
	probs := p.spec.Probs
	if len(probs) != n {
		probs = nil // shares are those of the training sets
	}
	if p.spec.Buffer > 0 && (first < len(p.spec.Train) || !p.spec.EvalOnEach) {
		mix := p.spec.Mix
		if n == 1 || mix == "" {
			mix = "concat"
		}
		sets := make([]source.Streamed, n)
		for i := range sets {
			sets[i] = p.sets[first+i].streamed()
		}
		out, err := source.Stream(sets, p.spec.Buffer, mix, probs, seed)
		return source.Shift(out, first), err
	}
	out, err := source.Mix(lengths, p.spec.Mix, probs, seed)
	if err != nil {
		return nil, err
	}
	return source.Shift(out, first), nil
}

// readSet reads the rows of a set: what another part stored, or the set's files.
func (p *factoryPlan) readSet(ctx context.Context, t *consume.Task, s *factorySet) error {
	limit := p.spec.MaxSamples
	if align.HasShapes(s.set.Formatting) && !p.spec.Tokenized {
		s.shapes = &align.Shapes{}
	}
	if s.set.NumSamples > 0 || s.set.Split != "" || s.shapes != nil {
		limit = 0
	}
	shared := t.Stage.Prep.Parts > 1
	if shared {
		ok, err := p.openRows(ctx, t, s, limit)
		if err != nil {
			return err
		}
		shared = !ok
	}
	if s.spool == nil {
		skipped, kept := p.bad.Skipped, len(p.bad.Quarantined)
		if err := p.readFiles(ctx, t, s, limit); err != nil {
			return err
		}
		if shared {
			if err := p.storeRows(ctx, t, s, limit, p.bad.Skipped-skipped, p.bad.Quarantined[kept:]); err != nil {
				return err
			}
		}
	}
	p.read += int64(s.spool.Len())
	if p.spec.Tokenized {
		return nil
	}
	return checkColumns(s)
}

// chooseRows takes the rows of every set that its split, num_samples and max_samples name.
func (p *factoryPlan) chooseRows(seed uint64) error {
	sampler := source.NewSampler(seed)
	draws := p.spec.Draws
	if draws == nil {
		for i := range p.sets {
			draws = append(draws, i)
		}
	}
	for _, i := range draws {
		if err := p.chooseOf(&p.sets[i], sampler); err != nil {
			return err
		}
	}
	return nil
}

func (p *factoryPlan) chooseOf(s *factorySet, sampler *source.Sampler) error {
	s.order = nil // of an earlier draw
	if s.set.Split != "" {
		parts, err := source.ParseSlices(s.set.Split)
		if err != nil {
			return err
		}
		if s.order, err = parts.Rows(s.spool.Len()); err != nil {
			return fmt.Errorf("cannot take the split of data set %s: %w", s.set.Name, err)
		}
	}
	if n := s.set.NumSamples; n > 0 && s.len() > 0 {
		drawn := sampler.Rows(s.len(), n)
		if s.order != nil {
			for i, k := range drawn {
				drawn[i] = s.order[k]
			}
		}
		s.order = drawn
	}
	if n := p.spec.MaxSamples; n > 0 && n < s.len() {
		if s.order == nil {
			s.order = rowRange(0, n)
		}
		s.order = s.order[:n]
	}
	return nil
}

func (p *factoryPlan) readFiles(ctx context.Context, t *consume.Task, s *factorySet, limit int) (err error) {
	if s.spool, err = source.NewSpool(t.Dir); err != nil {
		return err
	}
	for _, f := range s.set.Data.Files {
		left := 0
		if limit > 0 {
			if left = limit - s.spool.Len(); left <= 0 {
				break
			}
		}
		if err := p.readFile(ctx, t, s, f, left); err != nil {
			return err
		}
	}
	return s.spool.Flush()
}

func (p *factoryPlan) readFile(ctx context.Context, t *consume.Task, s *factorySet, f schemas.File, limit int) (err error) {
	local, err := fetchInput(ctx, t, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.Close(), os.Remove(local.Name())) }()
	r, err := source.Open(ctx, f.Path, local, f.Bytes, source.Options{Format: s.set.Format, Encoding: s.set.Encoding, Dir: t.Dir, Truths: truths(s.set)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	attr := attrOf(s.set)
	return source.Each(ctx, r, &p.bad, limit, func(row source.Row) error {
		if s.shapes != nil {
			s.shapes.Look(row.Raw, attr)
		}
		return s.spool.Append(row)
	})
}

// truths names the columns of truth values of a set.
func truths(s *schemas.DataSet) []string {
	if c := s.Columns["kto_tag"]; c != "" {
		return []string{c}
	}
	return nil
}

// fetchInput copies an uploaded file to the scratch folder and verifies it.
func fetchInput(ctx context.Context, t *consume.Task, f schemas.File) (*os.File, error) {
	local, err := os.CreateTemp(t.Dir, "input-*"+filepath.Ext(f.Path))
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	o := schemas.Object{Key: schemas.InputKey(t.Spec.Tenant, f.SHA256), Bytes: f.Bytes, SHA256: f.SHA256}
	if err = data.Download(ctx, t.Objects, o, local); schemas.IsCode(err, schemas.CodeNotFound) {
		err = schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded").WithHint("submit the run again: tunefleet uploads its files")
	}
	if err == nil {
		_, err = local.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, local.Close(), os.Remove(local.Name()))
	}
	return local, nil
}

// checkColumns refuses a column that none of the first rows has, before thousands of rows are dropped for it.
func checkColumns(s *factorySet) error {
	if s.spool.Len() == 0 {
		return nil
	}
	need := []string{"prompt"}
	if s.set.Formatting != "alpaca" {
		need = []string{"messages"}
	}
	if s.set.Ranking {
		need = append(need, "chosen", "rejected")
	}
	if s.set.Columns["kto_tag"] != "" {
		need = append(need, "kto_tag")
	}
	has := map[string]bool{}
	for i := range min(100, s.spool.Len()) {
		r, err := s.spool.Row(i)
		if err != nil {
			return err
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(r.Raw, &keys); err != nil {
			return schemas.Errorf(schemas.CodeData, r.Place, "broken JSON: %v", err)
		}
		for k := range keys {
			has[k] = true
		}
	}
	for _, role := range need {
		c := s.set.Columns[role]
		if c == "" {
			return schemas.Errorf(schemas.CodeInvalid, s.set.Name, "no column is named for %s", role).WithHint("columns that dataset_info.json lists reset the others: list %s, too", role)
		}
		if has[c] {
			continue
		}
		var names []string
		for k := range has {
			names = append(names, k)
		}
		slices.Sort(names)
		e := schemas.Errorf(schemas.CodeData, s.spool.Place(0), "data set %q has no column %q (%s)", s.set.Name, c, role)
		if near := schemas.Nearest(c, names); near != "" {
			return e.WithHint("did you mean %q?", near)
		}
		return e.WithHint("it has: %s", strings.Join(names, ", "))
	}
	return nil
}

// rows are the rows of an output.
func (p *factoryPlan) rows(split string) (source.Order, error) {
	if split == "train" {
		return p.train, nil
	}
	i := 0
	if n, ok := strings.CutPrefix(split, "eval-"); ok {
		var err error
		if i, err = strconv.Atoi(n); err != nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, split, "is no evaluation set")
		}
	}
	if i < 0 || i >= len(p.eval) {
		return nil, schemas.Errorf(schemas.CodeInvalid, split, "there are %d evaluation sets", len(p.eval))
	}
	return p.eval[i], nil
}

// counters are those of the whole preparation.
func (p *factoryPlan) counters() map[string]int64 {
	out := map[string]int64{}
	maps.Copy(out, p.curated)
	out["rows_read"], out["bad_rows"] = p.read, p.bad.Skipped
	return out
}

// fetchRandom copies stored rows to this machine when an order reads them back and forth.
func (p *factoryPlan) fetchRandom(o source.Order, dir string) error {
	for i := range p.sets {
		s := &p.sets[i]
		if s.remote == nil || o.Sequential() && s.order == nil {
			continue
		}
		if err := s.remote.fetch(dir); err != nil {
			return err
		}
	}
	return nil
}

// factoryOutput makes one output's shard of this part: a contiguous range of the batches that LLaMA-Factory's map would make.
func (p *part) factoryOutput(ctx context.Context, o *schemas.PrepOutput, hash string) (_ *entry, err error) {
	if err := p.openFactory(ctx); err != nil {
		return nil, err
	}
	order, err := p.factory.rows(o.Split)
	if err != nil {
		return nil, err
	}
	if err := p.factory.fetchRandom(order, p.task.Dir); err != nil {
		return nil, err
	}
	f := p.prep.Factory
	batches := source.Batches(order.Len(), f.Workers, f.BatchSize)
	batches = batches[len(batches)*p.index/p.prep.Parts : len(batches)*(p.index+1)/p.prep.Parts]
	enc, err := p.newEncoder(o)
	if err != nil {
		return nil, err
	}
	w, err := data.NewShardFile(p.task.Dir, enc.group(), o.Form == "kto")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var rows, trained, dropped int64
	var passes []int64
	bad := source.Bad{Policy: p.factory.bad.Policy}
	for last := false; !last; {
		before, enough := w.Len(), p.enough(o, passes)
		err = enc.all(ctx, order, batches, p.task.Threads, func(i int, m made) error {
			for k := range m.bad {
				if err := bad.Take(&m.bad[k]); err != nil {
					return err
				}
			}
			for _, s := range m.seqs {
				if err := w.Add(s); err != nil {
					return err
				}
				trained += int64(s.Trained())
			}
			rows += int64(batches[i][1] - batches[i][0])
			dropped += m.dropped
			p.task.Phase(consume.PhaseStep, int64(i+1), int64(len(batches)))
			if enough > 0 && int64((w.Len()-before)/max(1, enc.group())) >= enough {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
		passes = append(passes, int64((w.Len()-before)/max(1, enc.group())))
		if last = !p.wantsPass(o, passes) || w.Tokens() > maxPassTokens; last {
			break
		}
		if order, err = p.factory.pass(len(passes), p.task.Spec.Seed); err != nil {
			return nil, err
		}
		batches = source.Batches(order.Len(), f.Workers, f.BatchSize)
	}
	if w.Len() == 0 && p.prep.Parts == 1 {
		return nil, schemas.Errorf(schemas.CodeData, p.task.Stage.Name+"/"+o.Name, "none of the %d rows can be used", rows).
			WithHint("rows with odd roles, without an answer or without a prompt are dropped; look at the columns and tags of dataset_info.json")
	}
	e := &entry{Version: 1, Plan: p.factory.counters(), Counters: map[string]int64{"rows": rows, "dropped_rows": dropped, "sequences": int64(w.Len()), "tokens": w.Tokens(), "label_tokens": trained}}
	if len(passes) > 1 {
		for k, n := range passes {
			e.Counters[data.PassCounter(k)] = n
		}
	}
	if bad.Skipped > 0 {
		e.Counters["bad_rows"] = bad.Skipped
	}
	if err := p.storeShard(ctx, e, hash, w); err != nil {
		return nil, err
	}
	if p.index == 0 && o.Split == "train" && p.factory.copies.Len() > 0 {
		if err := p.store(ctx, e, hash, "augmented", p.factory.copies.Bytes()); err != nil {
			return nil, err
		}
	}
	aside := bad.Quarantined
	if p.index == 0 {
		aside = append(p.factory.bad.Quarantined, aside...)
	}
	if len(aside) > 0 {
		b, err := quarantine(aside)
		if err != nil {
			return nil, err
		}
		if err := p.store(ctx, e, hash, "quarantine", b); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// maxPassTokens is how many tokens of a stream are prepared before its passes repeat.
const maxPassTokens = 1 << 32

// errEnough ends a pass over a stream that has all that training takes of it.
var errEnough = errors.New("enough of the stream is prepared")

// passesOf says whether the passes of an output are prepared one after the other, each in an order of its own: where training goes over a
// stream. Where rows are chosen, all passes have the order of the first.
func (p *part) passesOf(o *schemas.PrepOutput) bool {
	f := p.prep.Factory
	return f.Use != nil && f.Buffer > 0 && o.Split == "train" && p.prep.Parts == 1 && p.prep.Sample == nil && p.prep.Augment == nil && p.prep.Clean.Contamination == 0
}

// madeOf is how many steps training makes of passes with so many samples; false when one gives none, which training refuses.
func madeOf(use *schemas.StreamUse, passes []int64) (steps int64, ok bool) {
	for _, n := range passes {
		batches := (n + int64(use.Micro) - 1) / int64(max(1, use.Micro))
		made := batches / int64(max(1, use.Leaves))
		if made == 0 {
			return 0, false
		}
		steps += made
	}
	return steps, true
}

// wantsPass says whether training goes on after so many passes over a stream.
func (p *part) wantsPass(o *schemas.PrepOutput, passes []int64) bool {
	if !p.passesOf(o) {
		return false
	}
	steps, ok := madeOf(p.prep.Factory.Use, passes)
	return ok && steps < p.prep.Factory.Use.Steps
}

// enough is how many samples of the next pass training can take, a few more included; 0: the pass is prepared whole.
func (p *part) enough(o *schemas.PrepOutput, passes []int64) int64 {
	if !p.passesOf(o) {
		return 0
	}
	use := p.prep.Factory.Use
	steps, _ := madeOf(use, passes)
	return (use.Steps - steps + 2) * int64(max(1, use.Leaves)) * int64(max(1, use.Micro))
}

// pass is the order of a later pass over the streamed training sets.
func (p *factoryPlan) pass(k int, seed uint64) (source.Order, error) {
	o, err := p.mixed(0, len(p.spec.Train), source.PassSeed(seed, k))
	if err != nil || p.spec.ValSize == 0 {
		return o, err
	}
	return source.Choose(o, rowRange(min(int(p.spec.ValSize), o.Len()), o.Len())), nil
}

// storeShard uploads a shard and adds it to the entry.
func (p *part) storeShard(ctx context.Context, e *entry, hash string, w *data.ShardFile) error {
	size, sum, err := w.Finish()
	if err != nil {
		return err
	}
	o := schemas.Object{Name: data.ObjectShard, Key: schemas.CacheKey(p.task.Spec.Tenant, hash, data.ObjectShard), Bytes: size, SHA256: sum}
	return p.upload(ctx, e, o, w.Reader())
}

// quarantine is the file of rows that were kept aside: {place, reason, text} a line.
func quarantine(rows []source.BadRowError) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, r := range rows {
		if err := e.Encode(map[string]string{"place": r.Place, "reason": r.Reason, "text": strings.ToValidUTF8(r.Text, "\uFFFD")}); err != nil {
			return nil, fmt.Errorf("cannot write the bad rows: %w", err)
		}
	}
	return b.Bytes(), nil
}

// Files are the uploaded files of a tenant.
type Files struct {
	Objects store.Objects
	Tenant  string
}

// openFactory reads tokenizer and data when the first output is not in the cache.
func (p *part) openFactory(ctx context.Context) (err error) {
	if p.factory != nil {
		return nil
	}
	if p.chatTok, err = OpenChatTokenizer(ctx, Files{p.task.Objects, p.task.Spec.Tenant}, p.prep.Tokenizer); err != nil {
		return err
	}
	if err := checkVocabulary(ctx, p.task, p.chatTok.Len()); err != nil {
		return err
	}
	p.factory, err = makeFactoryPlan(ctx, p.task)
	return err
}
