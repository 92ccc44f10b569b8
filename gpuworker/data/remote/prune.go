package remote

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// staleParts is how long an unfinished file waits to be resumed before pruning removes it.
const staleParts = 7 * 24 * time.Hour

// CacheEntry is one folder of the cache: a model, an adapter or a data set as it was fetched.
type CacheEntry struct {
	// Key names the entry, Origin says where it came from ("" when that was not noted).
	Key    string `json:"key"`
	Origin string `json:"origin,omitempty"`
	Files  int    `json:"files"`
	// Bytes counts all its files, also those that other entries share.
	Bytes int64 `json:"bytes"`
	// Used is when it was last asked for.
	Used time.Time `json:"used"`
}

// CacheUse is what the cache holds: entries, the last used first; the bytes of all files, each counted once; and of them those of unfinished
// downloads and of files that belong to no entry.
type CacheUse struct {
	Dir     string       `json:"dir"`
	Entries []CacheEntry `json:"entries"`
	Bytes   int64        `json:"bytes"`
	Partial int64        `json:"partial"`
	Loose   int64        `json:"loose"`
}

// Pruned is what pruning removed.
type Pruned struct {
	Entries []CacheEntry `json:"entries"`
	// Bytes were freed.
	Bytes int64 `json:"bytes"`
}

// Use lists what the cache holds.
func (f *Fetcher) Use() (*CacheUse, error) {
	u, _, err := f.cache.use()
	return u, err
}

// Prune removes the entries that were used longest ago until the cache has at most that many bytes, but none that was used within keep; files
// that belong to no entry, and downloads that nobody has gone on with for a week. CodeConflict while something is being fetched.
func (f *Fetcher) Prune(bytes int64, keep time.Duration) (*Pruned, error) {
	unlock, err := f.cache.lock(syscall.LOCK_EX | syscall.LOCK_NB)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return f.cache.prune(bytes, time.Now().Add(-keep))
}

// bound prunes after a fetch where the cache has a bound. What was just fetched stays.
func (f *Fetcher) bound() {
	if f.cfg.CacheBytes <= 0 {
		return
	}
	u, err := f.Use()
	if err != nil || u.Bytes <= f.cfg.CacheBytes {
		return
	}
	if p, err := f.Prune(f.cfg.CacheBytes, time.Hour); err == nil && p.Bytes > 0 {
		f.cfg.Say(fmt.Sprintf("cache: %.1f MB of %d entries that were used longest ago were removed (TUNEFLEET_REMOTE_CACHE_BYTES is %d)", float64(p.Bytes)/1e6, len(p.Entries), f.cfg.CacheBytes))
	}
}

// lock takes the lock of the cache: shared by those who fetch, exclusive for who prunes.
func (c cache) lock(how int) (unlock func(), err error) {
	if err := c.folder(c.dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, c.failed(err)
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(schemas.Errorf(schemas.CodeConflict, c.dir, "something is being fetched into the cache").WithHint("try again when it is done"), f.Close())
		}
		return nil, errors.Join(c.failed(err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// note remembers of a view where it came from and that it was used now.
func (c cache) note(key, origin string) error {
	raw, err := json.Marshal(map[string]string{"origin": origin})
	if err != nil {
		return fmt.Errorf("cannot encode: %w", err)
	}
	return c.write(filepath.Join("views", key+".json"), raw)
}

// use also gives the blobs of each entry.
func (c cache) use() (*CacheUse, map[string][]string, error) {
	u := &CacheUse{Dir: c.dir}
	views, err := os.ReadDir(filepath.Join(c.dir, "views"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, c.failed(err)
	}
	paths := map[string][]string{}
	for _, v := range views {
		if !v.IsDir() {
			continue
		}
		e, files, err := c.entry(v.Name())
		if err != nil {
			return nil, nil, err
		}
		u.Entries = append(u.Entries, e)
		paths[e.Key] = files
	}
	slices.SortFunc(u.Entries, func(a, b CacheEntry) int { return cmp.Or(b.Used.Compare(a.Used), strings.Compare(a.Key, b.Key)) })
	err = c.each("blobs", func(_ string, info fs.FileInfo) error {
		u.Bytes += info.Size()
		if links(info) < 2 {
			u.Loose += info.Size()
		}
		return nil
	})
	if err == nil {
		err = c.each("partial", func(_ string, info fs.FileInfo) error {
			u.Bytes += info.Size()
			u.Partial += info.Size()
			return nil
		})
	}
	return u, paths, err
}

// entry reads a view.
func (c cache) entry(key string) (e CacheEntry, files []string, err error) {
	e.Key = key
	dir := filepath.Join(c.dir, "views", key)
	info, err := os.Stat(dir)
	if err != nil {
		return e, nil, c.failed(err)
	}
	e.Used = info.ModTime()
	if note, err := os.Stat(dir + ".json"); err == nil {
		e.Used = note.ModTime()
		var n struct{ Origin string }
		if raw, err := os.ReadFile(dir + ".json"); err == nil && json.Unmarshal(raw, &n) == nil {
			e.Origin = n.Origin
		}
	}
	err = c.each(filepath.Join("views", key), func(p string, info fs.FileInfo) error {
		files = append(files, p)
		e.Files++
		e.Bytes += info.Size()
		return nil
	})
	return e, files, err
}

// each calls fn with the regular files below a folder of the cache.
func (c cache) each(sub string, fn func(path string, info fs.FileInfo) error) error {
	err := filepath.WalkDir(filepath.Join(c.dir, sub), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		return fn(p, info)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return schemas.Errorf(schemas.CodeInternal, c.dir, "cannot go through the cache: %v", err)
	}
	return nil
}

// links is the number of names of a file.
func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // its type differs between systems
	}
	return 1
}

func (c cache) prune(bytes int64, before time.Time) (*Pruned, error) {
	out := &Pruned{}
	// Files of no entry, and what was left unfinished long ago.
	sweep := func() error {
		err := c.each("blobs", func(p string, info fs.FileInfo) error {
			if links(info) > 1 {
				return nil
			}
			out.Bytes += info.Size()
			return os.Remove(p)
		})
		return errors.Join(err, c.each("partial", func(p string, info fs.FileInfo) error {
			if time.Since(info.ModTime()) < staleParts {
				return nil
			}
			out.Bytes += info.Size()
			return os.Remove(p)
		}))
	}
	if err := sweep(); err != nil {
		return out, err
	}
	u, files, err := c.use()
	if err != nil {
		return out, err
	}
	left := u.Bytes
	for _, e := range slices.Backward(u.Entries) {
		if left <= bytes || e.Used.After(before) {
			break // the next ones were used later
		}
		for _, p := range files[e.Key] {
			if info, err := os.Stat(p); err == nil && links(info) <= 2 { // the blob and this name
				left -= info.Size()
			}
			if err := os.Remove(p); err != nil {
				return out, c.failed(err)
			}
		}
		dir := filepath.Join(c.dir, "views", e.Key)
		if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(dir+".json")); err != nil {
			return out, c.failed(err)
		}
		out.Entries = append(out.Entries, e)
	}
	return out, sweep()
}
