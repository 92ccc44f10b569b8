// Package memstore is an object store in memory, for unit tests. It passes the same conformance suite as the S3 adapter.
package memstore

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // ETags of single PUTs are MD5 in S3; nothing is secured by it.
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/services/store"
)

// Store implements store.Objects. The zero value is not ready; use New.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	data     []byte
	etag     string
	modified time.Time
}

var _ store.Objects = (*Store)(nil)

// New makes an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

func (o object) info(key string) store.Info {
	return store.Info{Key: key, Bytes: int64(len(o.data)), ETag: o.etag, Modified: o.modified}
}

func (s *Store) get(ctx context.Context, key string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, fmt.Errorf("cannot get %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, fmt.Errorf("cannot get %s: %w", key, store.ErrNotFound)
	}
	return o, nil
}

// Get implements store.Objects.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, store.Info{}, err
	}
	if int64(len(o.data)) > limit {
		return nil, o.info(key), fmt.Errorf("cannot get %s (%d bytes, limit %d): %w", key, len(o.data), limit, store.ErrTooLarge)
	}
	return slices.Clone(o.data), o.info(key), nil
}

// Put implements store.Objects.
func (s *Store) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("cannot put %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.objects[key]
	if (c.Absent && ok) || (c.ETag != "" && (!ok || old.etag != c.ETag)) {
		return "", fmt.Errorf("cannot put %s: %w", key, store.ErrPrecondition)
	}
	sum := md5.Sum(data) //nolint:gosec // see the import
	o := object{data: slices.Clone(data), etag: hex.EncodeToString(sum[:]), modified: time.Now()}
	s.objects[key] = o
	return o.etag, nil
}

// Upload implements store.Objects.
func (s *Store) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	b, err := io.ReadAll(io.LimitReader(r, size+1))
	if err != nil {
		return fmt.Errorf("cannot read the upload of %s: %w", key, err)
	}
	if int64(len(b)) != size {
		return fmt.Errorf("cannot upload %s: %d bytes announced, %d read", key, size, len(b))
	}
	_, err = s.Put(ctx, key, b, store.Condition{})
	return err
}

// Open implements store.Objects.
func (s *Store) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, err
	}
	n := int64(len(o.data))
	if to < 0 || to > n {
		to = n
	}
	if from < 0 || from > to {
		return nil, fmt.Errorf("cannot open %s: range %d-%d is outside its %d bytes", key, from, to, n)
	}
	return io.NopCloser(bytes.NewReader(o.data[from:to])), nil
}

// Stat implements store.Objects.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	o, err := s.get(ctx, key)
	return o.info(key), err
}

// List implements store.Objects.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(store.Info{}, fmt.Errorf("cannot list %s: %w", prefix, err))
			return
		}
		s.mu.Lock()
		var infos []store.Info
		for k, o := range s.objects {
			if strings.HasPrefix(k, prefix) {
				infos = append(infos, o.info(k))
			}
		}
		s.mu.Unlock()
		slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Key, b.Key) })
		for _, i := range infos {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Delete implements store.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot delete %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}
