package embedded_test

import (
	"context"
	"io"
	"iter"
	"strings"

	"github.com/tunefleet/tunefleet/services/store"
)

// prefixed is a corner of a store, so that sub-tests do not meet.
type prefixed struct {
	store.Objects
	p string
}

func (s prefixed) cut(i store.Info) store.Info {
	i.Key = strings.TrimPrefix(i.Key, s.p)
	return i
}

func (s prefixed) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	b, i, err := s.Objects.Get(ctx, s.p+key, limit)
	return b, s.cut(i), err
}

func (s prefixed) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	return s.Objects.Put(ctx, s.p+key, data, c)
}

func (s prefixed) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	return s.Objects.Upload(ctx, s.p+key, r, size)
}

func (s prefixed) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	return s.Objects.Open(ctx, s.p+key, from, to)
}

func (s prefixed) Stat(ctx context.Context, key string) (store.Info, error) {
	i, err := s.Objects.Stat(ctx, s.p+key)
	return s.cut(i), err
}

func (s prefixed) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for i, err := range s.Objects.List(ctx, s.p+prefix) {
			if !yield(s.cut(i), err) {
				return
			}
		}
	}
}

func (s prefixed) Delete(ctx context.Context, key string) error {
	return s.Objects.Delete(ctx, s.p+key)
}
