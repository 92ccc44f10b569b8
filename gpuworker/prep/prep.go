// Package prep handles the messages of prep stages: it reads the rows, cleans and splits them, and encodes, packs and stores a part of
// them as token shards.
//
// The part that comes first reads all rows, decides on every one and stores for each part its own: those whose place among the rows of the split
// is the part's number modulo the number of parts. What is written is addressed by what it was made of, so that the
// same data, tokenizer, template and settings are prepared once.
package prep

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// cacheVersion is part of every cache key: it changes when the same input gives other bytes than before.
const cacheVersion = 4

// Handle runs one part of a prep stage. It is a consume.Handler.
func Handle(ctx context.Context, t *consume.Task) error {
	if t.Stage == nil || t.Stage.Prep == nil {
		return schemas.Errorf(schemas.CodeInvalid, t.Message.Stage, "is no prep stage")
	}
	p := &part{task: t, prep: t.Stage.Prep, index: t.Message.Part}
	if p.index < 0 || p.index >= p.prep.Parts {
		return schemas.Errorf(schemas.CodeInvalid, t.Message.Stage, "has %d parts, there is no part %d", p.prep.Parts, p.index)
	}
	err := p.run(ctx)
	if p.plan != nil {
		err = errors.Join(err, p.plan.close())
	}
	if p.factory != nil {
		err = errors.Join(err, p.factory.close())
	}
	if err != nil {
		return fmt.Errorf("cannot prepare part %d of stage %s: %w", p.index, t.Stage.Name, storeError(err))
	}
	return nil
}

// part is the work on one message.
type part struct {
	task  *consume.Task
	prep  *schemas.PrepStage
	index int
	// plan is made when the first output is not in the cache.
	plan *plan
	// factory and chatTok are their counterparts for LLaMA-Factory's preparation.
	factory *factoryPlan
	chatTok *hftok.Tokenizer
}

func (p *part) run(ctx context.Context) error {
	result := schemas.StageResult{Version: 1, Run: p.task.Spec.ID, Tenant: p.task.Spec.Tenant, Stage: p.task.Stage.Name, Kind: schemas.KindPrep,
		Part: p.index, Parts: p.prep.Parts, Worker: p.task.Worker, Counters: map[string]int64{}}
	var whole map[string]int64
	for i := range p.prep.Outputs {
		o := &p.prep.Outputs[i]
		e, err := p.output(ctx, o)
		if err != nil {
			return err
		}
		if f := p.prep.Factory; f != nil && f.Save {
			if err := p.save(ctx, o, e); err != nil {
				return err
			}
		}
		for _, x := range e.Objects {
			x.Name = o.Name + "/" + x.Name
			result.Objects = append(result.Objects, x)
		}
		for k, v := range e.Counters {
			result.Counters[o.Name+"."+k] = v
			result.Counters[k] += v
		}
		whole = e.Plan
	}
	if p.index == 0 { // the plan is the same for all parts and outputs, and counters are added up
		for k, v := range whole {
			result.Counters[k] += v
		}
	}
	result.At = time.Now().UTC()
	body, err := json.Marshal(&result)
	if err != nil {
		return fmt.Errorf("cannot encode the result: %w", err)
	}
	p.task.Phase(consume.PhaseCommit, 1, 1)
	return putOnce(ctx, p.task.Objects, schemas.ResultKey(result.Tenant, result.Run, result.Stage, p.index), body)
}

// entry is what the cache holds of one output of one part.
type entry struct {
	Version int `json:"version"`
	// Objects are named "shard" and "rows".
	Objects []schemas.Object `json:"objects"`
	// Counters are additive over parts, Plan's are of the whole data set.
	Counters map[string]int64 `json:"counters"`
	Plan     map[string]int64 `json:"plan"`
}

// output makes one output's shard of this part, or finds it in the cache.
func (p *part) output(ctx context.Context, o *schemas.PrepOutput) (*entry, error) {
	hash, err := p.hash(o)
	if err != nil {
		return nil, err
	}
	tenant := p.task.Spec.Tenant
	if e := p.cached(ctx, schemas.CacheKey(tenant, hash, "entry.json")); e != nil {
		p.task.Logger.Info("output is in the cache", "output", o.Name, "hash", hash)
		return e, nil
	}
	if p.prep.Factory != nil {
		return p.finishEntry(ctx, hash, func() (*entry, error) { return p.factoryOutput(ctx, o, hash) })
	}
	if p.plan == nil {
		if p.plan, err = makePlan(ctx, p.task); err != nil {
			return nil, err
		}
	}
	return p.finishEntry(ctx, hash, func() (*entry, error) { return p.simpleOutput(ctx, o, hash) })
}

// simpleOutput makes one output's shard of this part from the rows that the plan gave it, one row at a time.
func (p *part) simpleOutput(ctx context.Context, o *schemas.PrepOutput, hash string) (_ *entry, err error) {
	rows, total := p.plan.rows(o.Split)
	if total == 0 {
		return nil, schemas.Errorf(schemas.CodeData, p.task.Stage.Name+"/"+o.Name, "no row is left for the split %q: %d rows were read, %d kept", o.Split,
			p.plan.Read, p.plan.Kept).WithHint("look at clean and split of the stage")
	}
	w, err := data.NewShardFile(p.task.Dir, 1, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	trained := int64(0)
	enc := data.Encoding{Tokenizer: p.plan.tok, Output: o, Dir: p.task.Dir, Progress: p.progress(ctx, o, rows)}
	err = data.Encode(enc, func(f func(*data.Row) error) error { return p.plan.each(o.Split, f) }, func(s data.Sequence) error {
		trained += int64(s.Trained())
		return w.Add(s)
	})
	if err == nil {
		err = enc.Progress(int(rows))
	}
	if err != nil {
		return nil, err
	}
	e := &entry{Version: 1, Plan: p.plan.Counters, Counters: map[string]int64{"rows": rows, "sequences": int64(w.Len()), "tokens": w.Tokens(), "label_tokens": trained}}
	if err := p.storeShard(ctx, e, hash, w); err != nil {
		return nil, err
	}
	if q := p.plan.Bad; len(q) > 0 && p.index == 0 {
		b, err := quarantine(q)
		if err != nil {
			return nil, err
		}
		if err := p.store(ctx, e, hash, "quarantine", b); err != nil {
			return nil, err
		}
	}
	if o.Rows {
		return e, p.storeRows(ctx, e, o, hash)
	}
	return e, nil
}

// storeRows stores the text of the rows, for evaluation.
func (p *part) storeRows(ctx context.Context, e *entry, o *schemas.PrepOutput, hash string) (err error) {
	f, err := os.CreateTemp(p.task.Dir, "texts-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	if err := p.plan.each(o.Split, func(r *data.Row) error { return data.EncodeRow(w, r) }); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return p.upload(ctx, e, schemas.Object{Name: data.ObjectRows, Key: schemas.CacheKey(p.task.Spec.Tenant, hash, data.ObjectRows), Bytes: size,
		SHA256: hex.EncodeToString(sum.Sum(nil))}, io.NewSectionReader(f, 0, size))
}

// finishEntry writes the cache entry that make gives.
func (p *part) finishEntry(ctx context.Context, hash string, make func() (*entry, error)) (*entry, error) {
	e, err := make()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the cache entry: %w", err)
	}
	if _, err := p.task.Objects.Put(ctx, schemas.CacheKey(p.task.Spec.Tenant, hash, "entry.json"), body, store.Condition{}); err != nil {
		return nil, fmt.Errorf("cannot write the cache entry: %w", err)
	}
	return e, nil
}

// progress reports how many of an output's rows are encoded, and stops when the task is stopped.
func (p *part) progress(ctx context.Context, o *schemas.PrepOutput, rows int64) func(done int) error {
	last := time.Now()
	return func(done int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if int64(done) != rows && time.Since(last) < 200*time.Millisecond {
			return nil
		}
		last = time.Now()
		p.task.Phase(consume.PhaseStep, int64(done), rows)
		p.task.Report(schemas.Event{At: last.UTC(), Type: schemas.EventProgress, Tenant: p.task.Message.Tenant, Run: p.task.Message.Run,
			Stage: p.task.Message.Stage, Worker: p.task.Worker, Message: "rows",
			Values: map[string]float64{"part": float64(p.index), "rows": float64(p.plan.before(o) + int64(done)), "total": float64(p.plan.total())}})
		return nil
	}
}

// cached reads a cache entry whose objects are all there; nil otherwise.
func (p *part) cached(ctx context.Context, key string) *entry {
	raw, _, err := p.task.Objects.Get(ctx, key, 1<<20)
	if err != nil {
		return nil
	}
	var e entry
	if json.Unmarshal(raw, &e) != nil || e.Version != 1 || len(e.Objects) == 0 {
		return nil
	}
	for _, o := range e.Objects {
		if info, err := p.task.Objects.Stat(ctx, o.Key); err != nil || info.Bytes != o.Bytes {
			return nil
		}
	}
	return &e
}

// hash names everything that the bytes of an output's shard depend on.
func (p *part) hash(o *schemas.PrepOutput) (string, error) {
	type content struct {
		Path, SHA256 string
	}
	files := func(r schemas.Ref) []content {
		var out []content
		for _, f := range r.Files {
			out = append(out, content{f.Path, f.SHA256})
		}
		return out
	}
	out := *o
	out.Name = ""
	day := ""
	var factory *schemas.FactorySpec
	if f := p.prep.Factory; f != nil {
		if tellsDate(o, f) {
			day = f.Day(time.Now()).Format(time.DateOnly)
		}
		factory = sameContent(f)
	}
	b, err := json.Marshal(map[string]any{"version": cacheVersion, "day": day, "data": files(p.prep.Data), "tokenizer": files(p.prep.Tokenizer),
		"format": p.prep.Format, "columns": p.prep.Columns, "clean": p.prep.Clean, "split": p.prep.Split, "sample": p.prep.Sample, "augment": p.prep.Augment, "seed": strconv.FormatUint(p.task.Spec.Seed, 10),
		"on_bad_row": p.prep.OnBadRow, "output": out, "part": p.index, "parts": p.prep.Parts, "factory": factory})
	if err != nil {
		return "", fmt.Errorf("cannot hash the settings: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// sameContent is the preparation without what its bytes do not depend on: the day, which counts by itself where it is told, and where files
// came from.
func sameContent(f *schemas.FactorySpec) *schemas.FactorySpec {
	c := *f
	c.Date, c.Save = "", false
	for _, sets := range []*[]schemas.DataSet{&c.Train, &c.Eval} {
		*sets = slices.Clone(*sets)
		for i := range *sets {
			(*sets)[i].Data.Origin = ""
		}
	}
	return &c
}

// store uploads an object of the cache and adds it to the entry.
func (p *part) store(ctx context.Context, e *entry, hash, name string, b []byte) error {
	sum := sha256.Sum256(b)
	o := schemas.Object{Name: name, Key: schemas.CacheKey(p.task.Spec.Tenant, hash, name), Bytes: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
	return p.upload(ctx, e, o, bytes.NewReader(b))
}

// upload uploads an object of the cache from a reader and adds it to the entry.
func (p *part) upload(ctx context.Context, e *entry, o schemas.Object, r io.Reader) error {
	p.task.Phase(consume.PhaseCommit, 0, o.Bytes)
	if err := p.task.Objects.Upload(ctx, o.Key, r, o.Bytes); err != nil {
		return fmt.Errorf("cannot store %s: %w", o.Key, err)
	}
	e.Objects = append(e.Objects, o)
	return nil
}

// putOnce writes an object that may exist already: whoever wrote it did the same work.
func putOnce(ctx context.Context, objects store.Objects, key string, body []byte) error {
	_, err := objects.Put(ctx, key, body, store.Condition{Absent: true})
	if errors.Is(err, store.ErrAmbiguous) {
		if _, serr := objects.Stat(ctx, key); serr == nil {
			return nil
		}
	}
	if err != nil && !errors.Is(err, store.ErrPrecondition) {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	return nil
}

// storeError gives errors of the store their code, when nothing deeper has one.
func storeError(err error) error {
	var info *schemas.ErrorInfo
	switch {
	case errors.As(err, &info):
	case errors.Is(err, store.ErrFull):
		return errors.Join(schemas.Errorf(schemas.CodeDiskFull, "object store", "has no space left"), err)
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrAmbiguous):
		return errors.Join(schemas.Errorf(schemas.CodeUnavailable, "object store", "does not answer"), err)
	}
	return err
}
