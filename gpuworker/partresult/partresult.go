// Package partresult stores what one part of an evaluation or export stage produced: its objects, and then the result object whose
// existence is the part's commit.
package partresult

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxResultBytes bounds a result object.
const maxResultBytes = 16 << 20

// Writer collects the objects of one part. Objects lie under the stage's output prefix; a part that is done twice overwrites its own
// objects with equal content.
type Writer struct {
	t      *consume.Task
	result schemas.StageResult
}

// New starts the result of a task's part.
func New(t *consume.Task) *Writer {
	m := t.Message
	return &Writer{t: t, result: schemas.StageResult{Version: 1, Run: m.Run, Tenant: m.Tenant, Stage: m.Stage, Kind: m.Kind, Part: m.Part, Parts: m.Parts,
		Worker: t.Worker, Counters: map[string]int64{}, Values: map[string]any{}}}
}

// Count adds to a counter.
func (w *Writer) Count(name string, n int64) { w.result.Counters[name] += n }

// Value sets a value.
func (w *Writer) Value(name string, v any) { w.result.Values[name] = v }

// Put stores a small object under a path of the stage's output.
func (w *Writer) Put(ctx context.Context, name string, data []byte) error {
	key := schemas.OutputKey(w.t.Message.Tenant, w.t.Message.Run, w.t.Message.Stage, name)
	err := retry(ctx, func() error {
		_, err := w.t.Objects.Put(ctx, key, data, store.Condition{})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot store output %s: %w", name, err)
	}
	sum := sha256.Sum256(data)
	w.add(schemas.Object{Name: name, Key: key, Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])})
	return nil
}

func (w *Writer) add(o schemas.Object) {
	w.result.Objects = slices.DeleteFunc(w.result.Objects, func(old schemas.Object) bool { return old.Name == o.Name })
	w.result.Objects = append(w.result.Objects, o)
}

// Folder stores every regular file below root under a path of the stage's output.
func (w *Writer) Folder(ctx context.Context, root *os.Root, under string) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("cannot store %s: it is no regular file", name)
		}
		return w.file(ctx, root, name, path.Join(under, name))
	})
}

func (w *Writer) file(ctx context.Context, root *os.Root, name, as string) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("cannot store %s: %w", name, err)
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	key := schemas.OutputKey(w.t.Message.Tenant, w.t.Message.Run, w.t.Message.Stage, as)
	err = retry(ctx, func() error {
		return w.t.Objects.Upload(ctx, key, io.NewSectionReader(f, 0, size), size)
	})
	if err != nil {
		return fmt.Errorf("cannot store output %s: %w", as, err)
	}
	w.add(schemas.Object{Name: as, Key: key, Bytes: size, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// Commit writes the result object. A result that is there already stands: another attempt was first.
func (w *Writer) Commit(ctx context.Context) error {
	m := w.t.Message
	w.result.At = time.Now().UTC()
	raw, err := json.Marshal(&w.result)
	if err != nil {
		return fmt.Errorf("cannot encode the result of part %d: %w", m.Part, err)
	}
	key := schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part)
	err = retry(ctx, func() error {
		_, err := w.t.Objects.Put(ctx, key, raw, store.Condition{Absent: true})
		return err
	})
	if err != nil && !errors.Is(err, store.ErrPrecondition) {
		return fmt.Errorf("cannot store result %s: %w", key, err)
	}
	return nil
}

// Read reads the result object of another part of the same stage.
func Read(ctx context.Context, t *consume.Task, part int) (*schemas.StageResult, error) {
	m := t.Message
	key := schemas.ResultKey(m.Tenant, m.Run, m.Stage, part)
	raw, _, err := t.Objects.Get(ctx, key, maxResultBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read result %s: %w", key, err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, schemas.Errorf(schemas.CodeInternal, key, "is no result: %v", err)
	}
	return &r, nil
}

// Object returns the content of a named object of a result, checked against its SHA-256.
func Object(ctx context.Context, t *consume.Task, r *schemas.StageResult, name string, limit int64) ([]byte, error) {
	for _, o := range r.Objects {
		if o.Name != name {
			continue
		}
		raw, _, err := t.Objects.Get(ctx, o.Key, limit)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", o.Key, err)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != o.SHA256 {
			return nil, schemas.Errorf(schemas.CodeVerify, o.Key, "does not have the SHA-256 %s that its result names", o.SHA256)
		}
		return raw, nil
	}
	return nil, schemas.Errorf(schemas.CodeNotFound, name, "part %d of stage %s stored no such object", r.Part, r.Stage)
}

// retry repeats a write while the store does not answer, for at most two minutes.
func retry(ctx context.Context, write func() error) error {
	const budget = 2 * time.Minute
	start, wait := time.Now(), 50*time.Millisecond
	for {
		err := write()
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrAmbiguous) || time.Since(start) > budget {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return errors.Join(ctx.Err(), err)
		}
		wait = min(2*wait, 2*time.Second)
	}
}
