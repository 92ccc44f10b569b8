package prep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// The rows of a data set are read from its files once. The part that does it stores them, one row behind the other with an index, so that
// every other part reads the ranges of its own rows: files need not be cut where parts begin, whatever their format, and rows are counted
// once.

// rowChunk is how many bytes of stored rows are read, and verified, at a time.
const rowChunk = 4 << 20

// storedRows is the description of stored rows.
type storedRows struct {
	Version int             `json:"version"`
	Head    json.RawMessage `json:"head"`
	// Rows is the object of rows, Sums the SHA-256 of each chunk of it, Index the object of their index.
	Rows  schemas.Object `json:"rows"`
	Sums  []string       `json:"sums"`
	Index schemas.Object `json:"index"`
	// Skipped rows were bad; Bad holds those that were kept aside.
	Skipped int64                `json:"skipped,omitempty"`
	Bad     []source.BadRowError `json:"bad,omitempty"`
	// Shapes are those of nested values, nil when the set's form has none.
	Shapes *align.Shapes `json:"shapes,omitempty"`
}

// maxRowsHead bounds the description: a few bytes for hundreds of rows.
const maxRowsHead = 1 << 30

// rowsKey addresses the rows of a set by what they are read from and how.
func rowsKey(tenant string, s *schemas.DataSet, limit int, policy source.Policy, name string) (string, error) {
	type content struct{ Path, SHA256 string }
	var files []content
	for _, f := range s.Data.Files {
		files = append(files, content{f.Path, f.SHA256})
	}
	what := map[string]any{"rows": 1, "files": files, "format": s.Format, "encoding": s.Encoding, "limit": limit, "policy": policy}
	if align.HasShapes(s.Formatting) {
		what["shapes"] = []string{s.Columns["messages"], s.Columns["tools"]}
	}
	b, err := json.Marshal(what)
	if err != nil {
		return "", fmt.Errorf("cannot hash the settings: %w", err)
	}
	sum := sha256.Sum256(b)
	return schemas.CacheKey(tenant, hex.EncodeToString(sum[:]), name), nil
}

// openRows opens the rows that another part stored; false when none did.
func (p *factoryPlan) openRows(ctx context.Context, t *consume.Task, s *factorySet, limit int) (ok bool, err error) {
	key, err := rowsKey(t.Spec.Tenant, s.set, limit, p.bad.Policy, "rows.json")
	if err != nil {
		return false, err
	}
	raw, _, err := t.Objects.Get(ctx, key, maxRowsHead)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the index of rows: %w", err)
	}
	var d storedRows
	if json.Unmarshal(raw, &d) != nil || d.Version != 1 || len(d.Sums) != int((d.Rows.Bytes+rowChunk-1)/rowChunk) {
		return false, nil //nolint:nilerr // what cannot be read is made again
	}
	info, err := t.Objects.Stat(ctx, d.Rows.Key)
	if errors.Is(err, store.ErrNotFound) || err == nil && info.Bytes != d.Rows.Bytes {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot find stored rows: %w", err)
	}
	index, err := os.CreateTemp(t.Dir, "row-index-*")
	if err != nil {
		return false, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	drop := func() error { return errors.Join(index.Close(), os.Remove(index.Name())) }
	if err := data.Download(ctx, t.Objects, d.Index, index); err != nil {
		return false, drop()
	}
	rows := &remoteRows{ctx: ctx, objects: t.Objects, object: d.Rows, sums: d.Sums}
	spool, err := source.OpenSpool(d.Head, rows, index)
	if err != nil {
		return false, drop()
	}
	s.spool, s.remote, s.drop = spool, rows, drop
	if s.shapes != nil && d.Shapes != nil {
		s.shapes = d.Shapes
	}
	p.bad.Skipped += d.Skipped
	p.bad.Quarantined = append(p.bad.Quarantined, d.Bad...)
	return true, nil
}

// storeRows stores the rows of a set for the other parts. skipped and bad are what reading it added to the bad rows.
func (p *factoryPlan) storeRows(ctx context.Context, t *consume.Task, s *factorySet, limit int, skipped int64, bad []source.BadRowError) error {
	head, err := s.spool.Head()
	if err != nil {
		return err
	}
	d := storedRows{Version: 1, Head: head, Skipped: skipped, Bad: bad, Shapes: s.shapes}
	for _, o := range []struct {
		to   *schemas.Object
		name string
		open func() io.Reader
		size int64
	}{{&d.Rows, "rows", s.spool.Rows, s.spool.Bytes()}, {&d.Index, "index", s.spool.Index, s.spool.IndexBytes()}} {
		key, err := rowsKey(t.Spec.Tenant, s.set, limit, p.bad.Policy, o.name)
		if err != nil {
			return err
		}
		whole := sha256.New()
		buf := make([]byte, rowChunk)
		for r, left := o.open(), o.size; left > 0; {
			n, err := io.ReadFull(r, buf[:min(rowChunk, left)])
			if err != nil {
				return fmt.Errorf("cannot read a scratch file: %w", err)
			}
			left -= int64(n)
			whole.Write(buf[:n])
			if o.to == &d.Rows {
				sum := sha256.Sum256(buf[:n])
				d.Sums = append(d.Sums, hex.EncodeToString(sum[:]))
			}
		}
		*o.to = schemas.Object{Name: o.name, Key: key, Bytes: o.size, SHA256: hex.EncodeToString(whole.Sum(nil))}
		if err := t.Objects.Upload(ctx, key, o.open(), o.size); err != nil {
			return fmt.Errorf("cannot store the rows of %s: %w", s.set.Name, err)
		}
	}
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("cannot encode the index of rows: %w", err)
	}
	key, err := rowsKey(t.Spec.Tenant, s.set, limit, p.bad.Policy, "rows.json")
	if err != nil {
		return err
	}
	if _, err := t.Objects.Put(ctx, key, body, store.Condition{}); err != nil {
		return fmt.Errorf("cannot store the index of the rows of %s: %w", s.set.Name, err)
	}
	return nil
}

// remoteRows reads stored rows by chunks, of which it keeps the last ones.
type remoteRows struct {
	ctx     context.Context //nolint:containedctx // io.ReaderAt has none; a reader lives as long as its task
	objects store.Objects
	object  schemas.Object
	sums    []string
	local   *os.File // all rows, once fetch was called

	mu     sync.Mutex
	chunks [4]struct {
		at int64
		b  []byte
	}
	next int
}

// ReadAt implements io.ReaderAt.
func (r *remoteRows) ReadAt(p []byte, off int64) (int, error) {
	if r.local != nil {
		return r.local.ReadAt(p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.object.Bytes {
			return done, io.EOF
		}
		b, err := r.chunk(at / rowChunk)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], b[at%rowChunk:])
	}
	return done, nil
}

func (r *remoteRows) chunk(i int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.chunks {
		if c.b != nil && c.at == i {
			return c.b, nil
		}
	}
	b, err := r.read(i)
	if err != nil {
		return nil, err
	}
	c := &r.chunks[r.next%len(r.chunks)]
	r.next++
	c.at, c.b = i, b
	return b, nil
}

// read reads and verifies one chunk.
func (r *remoteRows) read(i int64) ([]byte, error) {
	from, to := i*rowChunk, min((i+1)*rowChunk, r.object.Bytes)
	body, err := r.objects.Open(r.ctx, r.object.Key, from, to)
	if err != nil {
		return nil, fmt.Errorf("cannot read stored rows: %w", err)
	}
	b := make([]byte, to-from)
	_, err = io.ReadFull(body, b)
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("cannot read stored rows: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != r.sums[i] {
		return nil, schemas.Errorf(schemas.CodeVerify, r.object.Key, "the stored rows are damaged from byte %d on", from)
	}
	return b, nil
}

// fetch copies all rows to a scratch file, for rows that are read in a random order.
func (r *remoteRows) fetch(dir string) (err error) {
	if r.local != nil {
		return nil
	}
	f, err := os.CreateTemp(dir, "rows-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch file: %w", err)
	}
	for i := range r.sums {
		b, err := r.read(int64(i))
		if err == nil {
			_, err = io.Copy(f, bytes.NewReader(b))
		}
		if err != nil {
			return errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	r.local = f
	return nil
}

func (r *remoteRows) close() error {
	if r == nil || r.local == nil {
		return nil
	}
	return errors.Join(r.local.Close(), os.Remove(r.local.Name()))
}
