package remote

import (
	"context"
	"crypto/md5" //nolint:gosec // S3 names its objects by it
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// File is a fetched file.
type File struct {
	// Path is slash-separated, within the folder.
	Path   string
	SHA256 string
	Bytes  int64
}

// wanted is a file to fetch.
type wanted struct {
	// key names the content: the same key never has other bytes. place is for messages.
	key, place string
	// size is -1 when it is not known; the checksums are empty where the server tells none.
	size             int64
	sha256, git, md5 string
	// open starts reading at an offset. It returns the body, where it really begins (0 when the server cannot resume), and the length of the
	// whole (-1: unknown).
	open func(ctx context.Context, offset int64) (body io.ReadCloser, from, total int64, err error)
}

// fetch brings a file into the cache. What is there already is not fetched again; what has come before a failure is kept, and the next try
// goes on from there.
func (f *Fetcher) fetch(ctx context.Context, w *wanted) (known, error) {
	key := keyOf(w.key)
	if w.sha256 != "" && f.cache.has(w.sha256, w.size) {
		return known{SHA256: w.sha256, Bytes: w.size}, nil
	}
	if k, ok := f.cache.recall(key); ok && f.cache.has(k.SHA256, k.Bytes) {
		return k, nil
	}
	if f.cfg.Offline {
		return known{}, schemas.Errorf(schemas.CodeNotFound, w.place, "is not in the cache, and HF_HUB_OFFLINE is set")
	}
	if w.size > f.cfg.MaxBytes {
		return known{}, f.tooLarge(w.place, w.size)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.cfg.Timeout, schemas.Errorf(schemas.CodeTimeout, w.place, "took longer than %v", f.cfg.Timeout))
	defer cancel()
	part, done, err := f.cache.partial(ctx, key)
	if err != nil {
		return known{}, err
	}
	defer done()
	if k, ok := f.cache.recall(key); ok && f.cache.has(k.SHA256, k.Bytes) { // another process was faster
		return k, os.Remove(part.Name())
	}
	k, err := f.complete(ctx, w, part)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			return known{}, cause
		}
		return known{}, err
	}
	if err := f.cache.folder(filepath.Join(f.cache.dir, "blobs")); err != nil {
		return known{}, err
	}
	if err := errors.Join(os.Chmod(part.Name(), 0o444), os.Rename(part.Name(), f.cache.blob(k.SHA256))); err != nil {
		return known{}, f.cache.failed(err)
	}
	return k, f.cache.remember(key, k)
}

func (f *Fetcher) tooLarge(place string, size int64) error {
	return schemas.Errorf(schemas.CodeInvalid, place, "has %d bytes, the limit is %d", size, f.cfg.MaxBytes)
}

// complete downloads the rest of a file and compares it. A file that was resumed and is wrong is fetched once more from its beginning.
func (f *Fetcher) complete(ctx context.Context, w *wanted, part *os.File) (known, error) {
	info, err := part.Stat()
	if err != nil {
		return known{}, f.cache.failed(err)
	}
	resumed := info.Size() > 0
	for {
		if err := f.client.retry(ctx, func() (bool, error) { return f.piece(ctx, w, part) }); err != nil {
			return known{}, err
		}
		s, err := f.compare(w, part)
		if err == nil {
			return known{SHA256: s.sha256, Bytes: s.bytes}, nil
		}
		if terr := part.Truncate(0); terr != nil {
			return known{}, f.cache.failed(terr)
		}
		if !resumed || !schemas.IsCode(err, schemas.CodeVerify) {
			return known{}, err
		}
		resumed = false
	}
}

// compare measures a complete file and holds it against what the server said.
func (f *Fetcher) compare(w *wanted, part *os.File) (sums, error) {
	info, err := part.Stat()
	if err != nil {
		return sums{}, f.cache.failed(err)
	}
	var h hash.Hash
	if w.md5 != "" {
		h = md5.New() //nolint:gosec // S3 names its objects by it
	}
	s, err := measure(part, info.Size(), h)
	if err != nil {
		return s, f.cache.failed(err)
	}
	bad := func(what, got, want string) error {
		return schemas.Errorf(schemas.CodeVerify, w.place, "came with %s %s, the server names %s", what, got, want).WithHint("what came was thrown away; try again")
	}
	switch {
	case w.size >= 0 && s.bytes != w.size:
		return s, bad("a length of", strconv.FormatInt(s.bytes, 10), strconv.FormatInt(w.size, 10))
	case w.sha256 != "" && s.sha256 != w.sha256:
		return s, bad("SHA-256", s.sha256, w.sha256)
	case w.git != "" && s.git != w.git:
		return s, bad("git blob SHA-1", s.git, w.git)
	case w.md5 != "" && s.md5 != w.md5:
		return s, bad("MD5", s.md5, w.md5)
	}
	return s, nil
}

// piece fetches what is missing behind the end of the file, as far as one connection gives it.
func (f *Fetcher) piece(ctx context.Context, w *wanted, part *os.File) (progress bool, err error) {
	offset, err := part.Seek(0, io.SeekEnd)
	if err != nil {
		return false, f.cache.failed(err)
	}
	if w.size >= 0 && offset == w.size {
		return true, nil
	}
	if w.size >= 0 && offset > w.size {
		offset = 0
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := errors.New("no byte for too long")
	watch := time.AfterFunc(f.cfg.Stall, func() { cancel(stalled) })
	defer watch.Stop()
	again := func(err error) error {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), stalled) {
			return context.Cause(ctx)
		}
		if errors.Is(context.Cause(ctx), stalled) {
			err = fmt.Errorf("no byte came for %v", f.cfg.Stall)
		}
		return &retryable{err: schemas.Errorf(schemas.CodeUnavailable, w.place, "the download broke off: %v", err)}
	}
	body, from, total, err := w.open(ctx, offset)
	if err != nil {
		var r *retryable
		if errors.Is(context.Cause(ctx), stalled) || errors.As(err, &r) && ctx.Err() != nil {
			return false, again(err)
		}
		return false, err
	}
	defer body.Close()
	if w.size < 0 && total >= 0 {
		w.size = total
	}
	switch {
	case w.size > f.cfg.MaxBytes:
		return false, f.tooLarge(w.place, w.size)
	case w.size >= 0 && total >= 0 && total != w.size:
		return false, schemas.Errorf(schemas.CodeVerify, w.place, "has %d bytes, its list says %d", total, w.size)
	}
	if err := part.Truncate(from); err != nil {
		return false, f.cache.failed(err)
	}
	if _, err := part.Seek(from, io.SeekStart); err != nil {
		return false, f.cache.failed(err)
	}
	limit := f.cfg.MaxBytes - from
	if w.size >= 0 {
		limit = w.size - from
	}
	n, disk, err := copyWatched(part, io.LimitReader(body, limit+1), func() { watch.Reset(f.cfg.Stall) })
	switch {
	case disk:
		return n > 0, f.cache.failed(err)
	case n > limit && w.size < 0:
		return false, f.tooLarge(w.place, n)
	case n > limit:
		return false, errors.Join(schemas.Errorf(schemas.CodeVerify, w.place, "is longer than the %d bytes that were announced", w.size), part.Truncate(0))
	case err != nil:
		return n > 0, again(err)
	case w.size >= 0 && from+n < w.size:
		return n > 0, again(io.ErrUnexpectedEOF)
	}
	return true, nil
}

// copyWatched copies and calls tick after every read; disk says that writing failed.
func copyWatched(w io.Writer, r io.Reader, tick func()) (n int64, disk bool, err error) {
	buf := make([]byte, 256<<10)
	for {
		k, rerr := r.Read(buf)
		if k > 0 {
			tick()
			if _, err := w.Write(buf[:k]); err != nil {
				return n, true, err
			}
			n += int64(k)
		}
		if errors.Is(rerr, io.EOF) {
			return n, false, nil
		}
		if rerr != nil {
			return n, false, rerr
		}
	}
}

// httpFile is a wanted file behind an address; etag, when it is known, keeps a resumed file from being mixed of two.
func (f *Fetcher) httpFile(s *site, w wanted, address, etag string) *wanted {
	w.open = func(ctx context.Context, offset int64) (io.ReadCloser, int64, int64, error) {
		header := map[string]string{}
		if offset > 0 {
			header["Range"] = fmt.Sprintf("bytes=%d-", offset)
			if etag != "" {
				header["If-Range"] = etag
			}
		}
		resp, err := f.client.get(ctx, s, address, header)
		if err != nil {
			return nil, 0, 0, err
		}
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
			_ = resp.Body.Close()
			if _, all, _ := strings.Cut(resp.Header.Get("Content-Range"), "/"); all == strconv.FormatInt(offset, 10) {
				return http.NoBody, offset, offset, nil // everything had come already
			}
			return w.open(ctx, 0) // what is here belongs to another file
		}
		from, total, err := position(s, w.place, resp, offset)
		if err == nil {
			err = announced(&w, resp)
		}
		if err != nil {
			_ = resp.Body.Close()
			return nil, 0, 0, err
		}
		return resp.Body, from, total, nil
	}
	return &w
}

// position says where an answer begins and how long the whole is.
func position(s *site, place string, resp *http.Response, offset int64) (from, total int64, err error) {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var end int64
		if n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &from, &end); err != nil || n != 2 || from != offset {
			return 0, 0, schemas.Errorf(schemas.CodeUnavailable, place, "%s sends another range than was asked for", s.name)
		}
		_, all, _ := strings.Cut(resp.Header.Get("Content-Range"), "/")
		if total, err = strconv.ParseInt(all, 10, 64); err != nil {
			total = -1
		}
		return from, total, nil
	case http.StatusOK:
		return 0, resp.ContentLength, nil
	}
	if err := status(s, place, resp); err != nil {
		return 0, 0, err
	}
	return 0, 0, schemas.Errorf(schemas.CodeInvalid, place, "%s answers %d %s", s.name, resp.StatusCode, http.StatusText(resp.StatusCode))
}

// announced compares the checksum in an answer's head with the one of the list: X-Linked-Etag is the SHA-256 of a large file, the ETag of a
// small one its blob SHA-1.
func announced(w *wanted, resp *http.Response) error {
	tag := strings.Trim(strings.TrimPrefix(first(resp.Header.Get("X-Linked-Etag"), resp.Header.Get("ETag")), "W/"), `"`)
	want := ""
	switch {
	case regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(tag):
		want = w.sha256
	case regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(tag):
		want = w.git
	}
	if want != "" && want != tag {
		return schemas.Errorf(schemas.CodeVerify, w.place, "the server announces %s, its list says %s", tag, want)
	}
	return nil
}
