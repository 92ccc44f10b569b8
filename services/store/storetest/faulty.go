package storetest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/tunefleet/tunefleet/services/store"
)

// Fault is what a scripted request does instead of, or after, the real one.
type Fault int

// Faults.
const (
	// FailBefore fails with the fault's error; nothing happened.
	FailBefore Fault = iota
	// FailAfter performs the request and then fails with the fault's error: an ambiguous outcome.
	FailAfter
	// Truncate returns only the first half of the bytes of a Get or Open.
	Truncate
	// FlipBit changes one bit of the bytes of a Get or Open.
	FlipBit
)

// Rule makes the next Count requests of Op ("put", "get", "open", "upload", "stat", "list", "delete"; "" = any) whose key contains Key fail.
type Rule struct {
	Op, Key string
	Count   int
	Fault   Fault
	Err     error
}

// Faulty wraps an object store with scripted faults, and can ignore conditions like an unsafe server.
type Faulty struct {
	store.Objects
	mu    sync.Mutex
	rules []*Rule
	// IgnoreConditions makes Put unconditional: what a store without conditional writes does.
	IgnoreConditions bool
	calls            map[string]int
}

// NewFaulty wraps o.
func NewFaulty(o store.Objects) *Faulty { return &Faulty{Objects: o, calls: map[string]int{}} }

// Inject adds a rule.
func (f *Faulty) Inject(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Count == 0 {
		r.Count = 1
	}
	f.rules = append(f.rules, &r)
}

// Calls counts the requests of an operation so far.
func (f *Faulty) Calls(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) rule(op, key string) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	for _, r := range f.rules {
		if r.Count > 0 && (r.Op == "" || r.Op == op) && strings.Contains(key, r.Key) {
			r.Count--
			c := *r
			if c.Err == nil {
				c.Err = store.ErrUnavailable
			}
			return &c
		}
	}
	return nil
}

// do runs a request under the rule for it.
func (f *Faulty) do(op, key string, real func() error) error {
	r := f.rule(op, key)
	if r != nil && r.Fault == FailBefore {
		return fmt.Errorf("cannot %s %s: %w", op, key, r.Err)
	}
	err := real()
	if r != nil && r.Fault == FailAfter && err == nil {
		return fmt.Errorf("cannot %s %s: %w", op, key, r.Err)
	}
	return err
}

// Put implements store.Objects.
func (f *Faulty) Put(ctx context.Context, key string, data []byte, c store.Condition) (etag string, err error) {
	if f.IgnoreConditions {
		c = store.Condition{}
	}
	err = f.do("put", key, func() error {
		etag, err = f.Objects.Put(ctx, key, data, c)
		return err
	})
	return etag, err
}

// Upload implements store.Objects.
func (f *Faulty) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	return f.do("upload", key, func() error { return f.Objects.Upload(ctx, key, r, size) })
}

// Get implements store.Objects.
func (f *Faulty) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	r := f.rule("get", key)
	if r != nil && r.Fault == FailBefore {
		return nil, store.Info{}, fmt.Errorf("cannot get %s: %w", key, r.Err)
	}
	b, info, err := f.Objects.Get(ctx, key, limit)
	return damage(r, b), info, err
}

// Open implements store.Objects.
func (f *Faulty) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	r := f.rule("open", key)
	if r != nil && r.Fault == FailBefore {
		return nil, fmt.Errorf("cannot open %s: %w", key, r.Err)
	}
	body, err := f.Objects.Open(ctx, key, from, to)
	if err != nil || r == nil {
		return body, err
	}
	b, err := io.ReadAll(body)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	return io.NopCloser(strings.NewReader(string(damage(r, b)))), err
}

func damage(r *Rule, b []byte) []byte {
	if r == nil || len(b) == 0 {
		return b
	}
	switch r.Fault {
	case Truncate:
		return b[:len(b)/2]
	case FlipBit:
		b[len(b)/2] ^= 1
	}
	return b
}

// Stat implements store.Objects.
func (f *Faulty) Stat(ctx context.Context, key string) (info store.Info, err error) {
	err = f.do("stat", key, func() error { info, err = f.Objects.Stat(ctx, key); return err })
	return info, err
}

// List implements store.Objects.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if r := f.rule("list", prefix); r != nil {
		return func(yield func(store.Info, error) bool) {
			yield(store.Info{}, fmt.Errorf("cannot list %s: %w", prefix, r.Err))
		}
	}
	return f.Objects.List(ctx, prefix)
}

// Delete implements store.Objects.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.do("delete", key, func() error { return f.Objects.Delete(ctx, key) })
}
