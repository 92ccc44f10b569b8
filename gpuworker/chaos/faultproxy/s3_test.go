package faultproxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// seen remembers requests; cond decides in After and Before.
type seen struct {
	mu            sync.Mutex
	requests      []faultproxy.Request
	before, after func(*faultproxy.Request) error
}

func (s *seen) note(q *faultproxy.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, *q)
	if s.after != nil {
		return s.after(q)
	}
	return nil
}

func (s *seen) ask(q *faultproxy.Request) error {
	if s.before != nil {
		return s.before(q)
	}
	return nil
}

func (s *seen) last(key, method string) *faultproxy.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.requests) - 1; i >= 0; i-- {
		if s.requests[i].Key == key && s.requests[i].Method == method {
			return &s.requests[i]
		}
	}
	return nil
}

func TestS3(t *testing.T) {
	srv, err := embedded.Start(context.Background(), embedded.Options{Dir: t.TempDir(), Parts: []embedded.Part{embedded.S3}})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	r := srv.Record
	watch := &seen{}
	p := faultproxy.NewS3(faultproxy.S3Config{Target: r.S3Endpoint(), Bucket: r.Bucket, Before: watch.ask, After: watch.note})
	defer p.Close()
	addr, err := p.Listen("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	o, err := s3store.New(s3store.Config{Endpoint: addr, Bucket: r.Bucket, AccessKey: r.AccessKey, SecretKey: telemetry.Secret(r.SecretKey), Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ctx := t.Context()
	if err := o.EnsureBucket(ctx); err != nil {
		t.Fatal(err)
	}
	absent := store.Condition{Absent: true}
	body := bytes.Repeat([]byte("0123456789"), 5000)
	etag, err := o.Put(ctx, "a/b", body, absent)
	if err != nil {
		t.Fatal(err)
	}
	q := watch.last("a/b", "PUT")
	if q == nil || q.Proc != "worker-1" || q.Condition != "absent" || !bytes.Equal(q.Body, body) || q.Status != 200 || q.ETag != etag {
		t.Fatalf("the proxy saw %+v", q)
	}
	if _, err := o.Put(ctx, "a/b", body, absent); !errors.Is(err, store.ErrPrecondition) {
		t.Fatalf("%v, want a precondition", err)
	}
	has := func(key string) bool { _, err := o.Stat(ctx, key); return err == nil }

	p.Set(faultproxy.S3Fault{LoseRate: 1})
	if _, err := o.Put(ctx, "lost", body, absent); !errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("a lost answer: %v, want ambiguous", err)
	}
	p.Set(faultproxy.S3Fault{ConflictRate: 1})
	if _, err := o.Put(ctx, "conflict", body, absent); !errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("a conflict after the write: %v, want ambiguous", err)
	}
	p.Set(faultproxy.S3Fault{Full: true})
	if _, err := o.Put(ctx, "full", body, absent); !errors.Is(err, store.ErrFull) {
		t.Errorf("a full store: %v", err)
	}
	p.Set(faultproxy.S3Fault{ErrorRate: 1})
	if _, err := o.Put(ctx, "error", body, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("500: %v", err)
	}
	p.Set(faultproxy.S3Fault{SlowDownRate: 1})
	if _, err := o.Stat(ctx, "a/b"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("503: %v", err)
	}
	p.Set(faultproxy.S3Fault{TruncateRate: 1})
	if _, _, err := o.Get(ctx, "a/b", 1<<20); err == nil {
		t.Error("a cut body was taken for whole")
	}
	if b, err := o.Open(ctx, "a/b", 0, -1); err != nil {
		t.Error(err)
	} else {
		if _, err := io.ReadAll(b); err == nil {
			t.Error("a cut stream was taken for whole")
		}
		b.Close()
	}
	p.Set(faultproxy.S3Fault{Unsafe: true})
	if err := store.Probe(ctx, o); !errors.Is(err, store.ErrUnsafe) {
		t.Errorf("the probe of an unsafe store: %v", err)
	}
	p.Set(faultproxy.S3Fault{})
	if !has("lost") || !has("conflict") || has("full") || has("error") {
		t.Errorf("applied: lost %v, conflict %v, full %v, error %v", has("lost"), has("conflict"), has("full"), has("error"))
	}
	if err := store.Probe(ctx, o); err != nil {
		t.Error(err)
	}
	watch.before = func(q *faultproxy.Request) error {
		if q.Key == "dropped" && q.Method == "PUT" {
			return errors.New("drop")
		}
		return nil
	}
	if _, err := o.Put(ctx, "dropped", body, absent); err == nil || has("dropped") {
		t.Errorf("a request dropped before: %v, stored %v", err, has("dropped"))
	}
}
