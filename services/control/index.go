package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// A run is accepted by two writes: its spec beside HEAD, which makes the id the run's, and its entry in the index of open runs, by which
// control finds it. While one entry is being written those that come meanwhile gather, and go into one object together: a group commit,
// so that a busy front makes little more than one write a run. Nothing is acknowledged before its entry is stored.

// Bounds of a batch. Up to minBatch-1 entries are written as the open objects that they would become.
const (
	minBatch = 3
	maxBatch = 256
	// indexTimeout bounds the writing of one batch: it does not end with the caller that happened to begin it.
	indexTimeout = 20 * time.Second
)

// index gathers the entries of runs that are being accepted.
type index struct {
	mu    sync.Mutex
	pools map[string]*lineup
}

// lineup is the entries of one pool that wait; one goroutine writes while there are any.
type lineup struct {
	waiting []*entry
}

// entry is a run whose spec is stored.
type entry struct {
	key  string
	data []byte
	done chan error
}

// open stores the index entry of an accepted run and returns when it is durable; single forbids to share an object with others.
func (f *Front) open(ctx context.Context, spec *schemas.RunSpec, data []byte, single bool) error {
	e := &entry{key: schemas.OpenKey(spec.Pool, spec.Priority, spec.Tenant, spec.ID), data: data, done: make(chan error, 1)}
	if single {
		return f.openOne(ctx, e)
	}
	f.index.mu.Lock()
	l := f.index.pools[spec.Pool]
	if l == nil {
		l = &lineup{}
		f.index.pools[spec.Pool] = l
		go f.writeIndex(context.WithoutCancel(ctx), spec.Pool, l)
	}
	l.waiting = append(l.waiting, e)
	f.index.mu.Unlock()
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrAmbiguous, ctx.Err())
	}
}

func (f *Front) openOne(ctx context.Context, e *entry) error {
	if err := f.put(ctx, e.key, e.data); err != nil && !errors.Is(err, store.ErrPrecondition) {
		return err
	}
	return nil
}

// writeIndex writes what waits until nothing does.
func (f *Front) writeIndex(ctx context.Context, pool string, l *lineup) {
	for {
		f.index.mu.Lock()
		n, size := 0, 0
		for n < min(len(l.waiting), maxBatch) && (n == 0 || size+len(l.waiting[n].data) < schemas.MaxOpenBatchBytes/2) {
			size += len(l.waiting[n].data)
			n++
		}
		if n == 0 {
			delete(f.index.pools, pool)
			f.index.mu.Unlock()
			return
		}
		now := slices.Clone(l.waiting[:n])
		l.waiting = slices.Delete(l.waiting, 0, n)
		f.index.mu.Unlock()
		f.writeEntries(ctx, pool, now)
	}
}

// writeEntries makes a few entries durable, each in its own object or all in one, and tells their submitters.
func (f *Front) writeEntries(ctx context.Context, pool string, entries []*entry) {
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	if len(entries) < minBatch {
		var wg sync.WaitGroup
		for _, e := range entries {
			wg.Go(func() { e.done <- f.openOne(ctx, e) })
		}
		wg.Wait()
		return
	}
	b := schemas.OpenBatch{Version: 1}
	for _, e := range entries {
		b.Specs = append(b.Specs, e.data)
	}
	data, err := json.Marshal(&b)
	if err == nil {
		err = f.put(ctx, schemas.OpenBatchKey(pool, strings.ToLower(ulid.Make().String())), data)
	}
	for _, e := range entries {
		e.done <- err
	}
}

// readBatch returns the runs of a batch; none when it is gone. A batch that cannot be read is reported and left alone.
func readBatch(ctx context.Context, objects store.Objects, key string) ([]*schemas.RunSpec, error) {
	data, _, err := objects.Get(ctx, key, schemas.MaxOpenBatchBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", key, err)
	}
	var b schemas.OpenBatch
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("cannot decode %s: %w", key, err)
	}
	var out []*schemas.RunSpec
	for i, raw := range b.Specs {
		spec, err := schemas.DecodeSpec(raw)
		if err != nil {
			return nil, fmt.Errorf("cannot decode spec %d of %s: %w", i, key, err)
		}
		if !strings.HasPrefix(key, schemas.OpenPrefix(spec.Pool)) {
			return nil, fmt.Errorf("cannot use spec %d of %s: it is of pool %s", i, key, spec.Pool)
		}
		out = append(out, spec)
	}
	return out, nil
}

// maxBatchesATick bounds how many batches one tick takes apart.
const maxBatchesATick = 4

// unpack gives the runs of batches their open objects and deletes the batches. It may be repeated, by anybody and in part: an open object
// that comes back after its run has ended is closed again.
func (p *pool) unpack(ctx context.Context) error {
	for _, key := range p.batches[:min(len(p.batches), maxBatchesATick)] {
		info := p.batchInfo[key]
		specs, err := readBatch(ctx, p.c.objects, key)
		if errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			p.c.log.Error("a batch of accepted runs cannot be read", "error", err)
			p.unreadable[key] = true
			continue
		}
		err = parallel(ctx, readers, specs, func(ctx context.Context, s *schemas.RunSpec) error {
			data, err := json.Marshal(s)
			if err != nil {
				return fmt.Errorf("cannot encode the spec of run %s: %w", s.ID, err)
			}
			open := schemas.OpenKey(s.Pool, s.Priority, s.Tenant, s.ID)
			if _, err := p.c.objects.Put(ctx, open, data, store.Condition{Absent: true}); err != nil && !errors.Is(err, store.ErrPrecondition) {
				return fmt.Errorf("cannot write %s: %w", open, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := p.c.objects.Delete(ctx, key); err != nil {
			return fmt.Errorf("cannot delete %s: %w", key, err)
		}
		for _, s := range specs {
			p.know(schemas.OpenKey(s.Pool, s.Priority, s.Tenant, s.ID), info.Modified)
		}
	}
	if n := min(len(p.batches), maxBatchesATick); n > 0 {
		p.batches = p.batches[n:]
		p.keys = lineUp(p.runs)
		p.behind = true
	}
	return nil
}
