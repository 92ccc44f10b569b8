// Package prep handles the messages of prep stages: it reads the rows, cleans and splits them, and encodes, packs and stores a part of
// them as token shards.
//
// Every part makes the same plan over all rows, which is cheap and deterministic, and then encodes its own rows: those whose place among
// the rows of the split is the part's number modulo the number of parts. What it writes is addressed by what it was made of, so that the
// same data, tokenizer, template and settings are prepared once.
package prep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
const cacheVersion = 3

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
		err = errors.Join(err, p.plan.tok.Close())
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
	rows, total := p.plan.rows(o.Split, p.index, p.prep.Parts)
	if total == 0 {
		return nil, schemas.Errorf(schemas.CodeData, p.task.Stage.Name+"/"+o.Name, "no row is left for the split %q: %d rows were read, %d kept", o.Split,
			p.plan.read, len(p.plan.kept)).WithHint("look at clean and split of the stage")
	}
	seqs, err := p.encode(ctx, o, rows)
	if err != nil {
		return nil, err
	}
	w := data.NewShardWriter()
	trained := int64(0)
	for _, s := range seqs {
		if err := w.Add(s); err != nil {
			return nil, err
		}
		trained += int64(s.Trained())
	}
	shard, err := w.Bytes()
	if err != nil {
		return nil, err
	}
	e := &entry{Version: 1, Plan: p.plan.counters, Counters: map[string]int64{"rows": int64(len(rows)), "sequences": int64(w.Len()),
		"tokens": w.Tokens(), "label_tokens": trained}}
	if err := p.store(ctx, e, hash, data.ObjectShard, shard); err != nil {
		return nil, err
	}
	if q := p.plan.bad.Quarantined; len(q) > 0 && p.index == 0 {
		b, err := quarantine(q)
		if err != nil {
			return nil, err
		}
		if err := p.store(ctx, e, hash, "quarantine", b); err != nil {
			return nil, err
		}
	}
	if o.Rows {
		b, err := data.EncodeRows(rows)
		if err != nil {
			return nil, err
		}
		if err := p.store(ctx, e, hash, data.ObjectRows, b); err != nil {
			return nil, err
		}
	}
	return p.finishEntry(ctx, hash, func() (*entry, error) { return e, nil })
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

// encode turns rows into sequences and reports how far it is.
func (p *part) encode(ctx context.Context, o *schemas.PrepOutput, rows []data.Row) ([]data.Sequence, error) {
	last := time.Now()
	report := func(done int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done != len(rows) && time.Since(last) < 200*time.Millisecond {
			return nil
		}
		last = time.Now()
		p.task.Phase(consume.PhaseStep, int64(done), int64(len(rows)))
		p.task.Report(schemas.Event{At: last.UTC(), Type: schemas.EventProgress, Tenant: p.task.Message.Tenant, Run: p.task.Message.Run,
			Stage: p.task.Message.Stage, Worker: p.task.Worker, Message: "rows",
			Values: map[string]float64{"part": float64(p.index), "rows": float64(p.plan.before(o) + done), "total": float64(p.plan.total())}})
		return nil
	}
	seqs, err := data.Encode(p.plan.tok, o, rows, report)
	if err != nil {
		return nil, err
	}
	return seqs, report(len(rows))
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
	c.Date = ""
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
	p.task.Phase(consume.PhaseCommit, 0, o.Bytes)
	if err := p.task.Objects.Upload(ctx, o.Key, bytes.NewReader(b), o.Bytes); err != nil {
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
