package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// Source is another place than the store where parts of a checkpoint may be. What it gives is verified like what the store gives.
type Source interface {
	// Name says where, in logs and counts: "local", or a peer.
	Name() string
	// Has reports whether the source is thought to have the part.
	Has(p schemas.Part) bool
	// Open reads bytes [from, to) of the part; to < 0 is its end.
	Open(ctx context.Context, p schemas.Part, from, to int64) (io.ReadCloser, error)
}

// Local is the name of the source on this machine.
const Local = "local"

// keptParts is how many parts Kept holds on to: those of the newest commit and of the one on its way.
const keptParts = 2

// Kept are the newest parts that this worker stored, on its scratch disk under their SHA-256. A gang that forms again reads them from there.
// A nil *Kept keeps nothing.
type Kept struct{ dir string }

// OpenKept opens the folder, which must exist; "" gives nil.
func OpenKept(dir string) *Kept {
	if dir == "" {
		return nil
	}
	return &Kept{dir: dir}
}

// Name is Local.
func (*Kept) Name() string { return Local }

func (k *Kept) path(p schemas.Part) string {
	return filepath.Join(k.dir, filepath.Base(p.SHA256)+".part")
}

// Has reports whether the part is there with its size.
func (k *Kept) Has(p schemas.Part) bool {
	if k == nil || p.SHA256 == "" {
		return false
	}
	st, err := os.Lstat(k.path(p))
	return err == nil && st.Mode().IsRegular() && st.Size() == p.Bytes
}

// Open reads bytes [from, to) of a part.
func (k *Kept) Open(_ context.Context, p schemas.Part, from, to int64) (io.ReadCloser, error) {
	f, err := os.Open(k.path(p))
	if err != nil {
		return nil, fmt.Errorf("cannot open kept part: %w", err)
	}
	if to < 0 {
		to = max(from, p.Bytes)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, from, to-from), f}, nil
}

// add keeps the file of a finished part by a hard link and lets older ones go.
func (k *Kept) add(file string, p schemas.Part) error {
	if k == nil || k.Has(p) {
		return nil
	}
	if err := os.Link(file, k.path(p)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot keep part %s: %w", p.Key, err)
	}
	names, err := filepath.Glob(filepath.Join(k.dir, "*.part"))
	if err != nil {
		return fmt.Errorf("cannot list kept parts: %w", err)
	}
	type aged struct {
		name string
		at   int64
	}
	var all []aged
	for _, n := range names {
		if st, err := os.Lstat(n); err == nil {
			all = append(all, aged{n, st.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return int(min(1, max(-1, b.at-a.at))) })
	var errs []error
	for _, a := range all[min(keptParts, len(all)):] {
		errs = append(errs, os.Remove(a.name))
	}
	return errors.Join(errs...)
}

// Keep keeps the part, which must have been uploaded, in k. Nothing depends on it: an error only means that it will be read from the store.
func (w *PartWriter) Keep(k *Kept) error {
	if !w.done {
		return fmt.Errorf("cannot keep part %s: it is not finished", w.part.Key)
	}
	return k.add(w.file.Name(), w.part)
}
