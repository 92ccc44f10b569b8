package remote

import (
	"context"
	"crypto/sha1" //nolint:gosec // git names its objects by it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// cache is the folder of everything that was fetched: blobs/<sha256>, partial/<key>.incomplete with what has come so far, known/<key>.json
// with what a key was found to be, and views/<key>/ with hard links under the files' names.
type cache struct{ dir string }

// known is what is remembered of a key.
type known struct {
	SHA256 string `json:"sha256,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	// ETag of https files; Commit of a branch.
	ETag   string `json:"etag,omitempty"`
	Commit string `json:"commit,omitempty"`
}

func keyOf(s ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(s, "\x00")))
	return hex.EncodeToString(sum[:])
}

func (c cache) blob(sum string) string { return filepath.Join(c.dir, "blobs", sum) }

// has reports whether a blob is there in full length (-1: any).
func (c cache) has(sum string, size int64) bool {
	info, err := os.Stat(c.blob(sum))
	return err == nil && info.Mode().IsRegular() && (size < 0 || info.Size() == size)
}

func (c cache) recall(key string) (known, bool) {
	var k known
	raw, err := os.ReadFile(filepath.Join(c.dir, "known", key+".json"))
	return k, err == nil && json.Unmarshal(raw, &k) == nil
}

func (c cache) remember(key string, k known) error {
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("cannot encode: %w", err)
	}
	return c.write(filepath.Join("known", key+".json"), raw)
}

// write replaces a small file at once.
func (c cache) write(name string, raw []byte) error {
	to := filepath.Join(c.dir, name)
	if err := c.folder(filepath.Dir(to)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return c.failed(err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return errors.Join(c.failed(err), os.Remove(f.Name()))
	}
	return nil
}

func (c cache) folder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return c.failed(err)
	}
	return nil
}

// failed gives an error of the cache's disk its code.
func (c cache) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return schemas.Errorf(schemas.CodeDiskFull, c.dir, "no space left for what is fetched").WithHint("make room, or set TUNEFLEET_REMOTE_CACHE; what has come so far is kept and resumed")
	}
	return schemas.Errorf(schemas.CodeInternal, c.dir, "cannot write the cache: %v", err)
}

// partial opens the unfinished file of a key, locked against other processes; done unlocks and closes it.
func (c cache) partial(ctx context.Context, key string) (f *os.File, done func(), err error) {
	if err := c.folder(filepath.Join(c.dir, "partial")); err != nil {
		return nil, nil, err
	}
	name := filepath.Join(c.dir, "partial", key+".incomplete")
	for {
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, nil, c.failed(err)
		}
		for {
			if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
				break
			}
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, nil, errors.Join(c.failed(err), f.Close())
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil { // another process fetches the same file
				return nil, nil, errors.Join(err, f.Close())
			}
		}
		// Whoever held the lock before may have finished the file and moved it away.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, func() { _ = f.Close() }, nil
		}
		_ = f.Close()
	}
}

// sums are the checksums of a file.
type sums struct {
	bytes            int64
	sha256, git, md5 string
}

// measure computes the SHA-256 and git's blob SHA-1 of a file of size bytes, and further ones that are asked for.
func measure(r io.ReaderAt, size int64, md5 hash.Hash) (sums, error) {
	h, g := sha256.New(), sha1.New() //nolint:gosec // git names its objects by it
	fmt.Fprintf(g, "blob %d\x00", size)
	w := io.MultiWriter(h, g)
	if md5 != nil {
		w = io.MultiWriter(h, g, md5)
	}
	n, err := io.Copy(w, io.NewSectionReader(r, 0, size))
	s := sums{bytes: n, sha256: hex.EncodeToString(h.Sum(nil)), git: hex.EncodeToString(g.Sum(nil))}
	if md5 != nil {
		s.md5 = hex.EncodeToString(md5.Sum(nil))
	}
	return s, err
}

// view makes a folder of links to blobs, or finds the one that was made before. Names are slash-separated.
func (c cache) view(key string, files []File) (string, error) {
	dir := filepath.Join(c.dir, "views", key)
	for _, f := range files {
		to := filepath.Join(dir, filepath.FromSlash(f.Path))
		blob, err := os.Stat(c.blob(f.SHA256))
		if err != nil {
			return "", c.failed(err)
		}
		if there, err := os.Stat(to); err == nil && os.SameFile(there, blob) {
			continue
		}
		if err := c.folder(filepath.Dir(to)); err != nil {
			return "", err
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", c.failed(err)
		}
		if err := os.Link(c.blob(f.SHA256), to); err != nil && !errors.Is(err, os.ErrExist) {
			return "", c.failed(err)
		}
	}
	return dir, nil
}

// readFile reads a small file of the cache.
func readFile(dir, name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
}
