// Package storetest is the conformance suite of the object store port, with a wrapper that injects faults.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tunefleet/tunefleet/services/store"
)

// Run checks an implementation. fresh returns an empty store (or an empty corner of one) for each sub-test.
func Run(t *testing.T, fresh func(t *testing.T) store.Objects) {
	t.Helper()
	for name, f := range map[string]func(*testing.T, store.Objects){
		"round trip": roundTrip, "conditions": conditions, "limits": limits, "ranges": ranges, "listing": listing, "delete": deletion,
		"equal bytes give equal etags": etags, "lost updates": counter, "large uploads": large, "odd keys": oddKeys,
	} {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
	t.Run("probe", func(t *testing.T) {
		if err := store.Probe(t.Context(), fresh(t)); err != nil {
			t.Error(err)
		}
	})
	t.Run("probe finds an unsafe store", func(t *testing.T) {
		f := NewFaulty(fresh(t))
		f.IgnoreConditions = true
		if err := store.Probe(t.Context(), f); !errors.Is(err, store.ErrUnsafe) {
			t.Errorf("got %v, want ErrUnsafe", err)
		}
	})
}

func put(t *testing.T, o store.Objects, key, data string) string {
	t.Helper()
	etag, err := o.Put(t.Context(), key, []byte(data), store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return etag
}

func get(t *testing.T, o store.Objects, key string) (string, store.Info) {
	t.Helper()
	b, info, err := o.Get(t.Context(), key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), info
}

func roundTrip(t *testing.T, o store.Objects) {
	if _, _, err := o.Get(t.Context(), "a/b", 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("missing key: %v, want ErrNotFound", err)
	}
	if _, err := o.Stat(t.Context(), "a/b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat of a missing key: %v, want ErrNotFound", err)
	}
	if _, err := o.Open(t.Context(), "a/b", 0, -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open of a missing key: %v, want ErrNotFound", err)
	}
	etag := put(t, o, "a/b", "hello")
	b, info := get(t, o, "a/b")
	if b != "hello" || info.ETag != etag || info.Bytes != 5 || etag == "" {
		t.Errorf("got %q %+v, want hello with etag %q", b, info, etag)
	}
	if st, err := o.Stat(t.Context(), "a/b"); err != nil || st.ETag != etag || st.Bytes != 5 || st.Modified.IsZero() {
		t.Errorf("stat: %+v, %v", st, err)
	}
	put(t, o, "empty", "")
	if b, info := get(t, o, "empty"); b != "" || info.Bytes != 0 {
		t.Errorf("empty object: %q %+v", b, info)
	}
}

func conditions(t *testing.T, o store.Objects) {
	ctx := t.Context()
	if _, err := o.Put(ctx, "k", []byte("x"), store.Condition{ETag: "d41d8cd98f00b204e9800998ecf8427e"}); !errors.Is(err, store.ErrPrecondition) {
		t.Errorf("If-Match on a missing key: %v, want ErrPrecondition", err)
	}
	first, err := o.Put(ctx, "k", []byte("1"), store.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Put(ctx, "k", []byte("2"), store.Condition{Absent: true}); !errors.Is(err, store.ErrPrecondition) {
		t.Errorf("If-None-Match on an existing key: %v, want ErrPrecondition", err)
	}
	second, err := o.Put(ctx, "k", []byte("2"), store.Condition{ETag: first})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Put(ctx, "k", []byte("3"), store.Condition{ETag: first}); !errors.Is(err, store.ErrPrecondition) {
		t.Errorf("stale If-Match: %v, want ErrPrecondition", err)
	}
	if b, info := get(t, o, "k"); b != "2" || info.ETag != second {
		t.Errorf("got %q %q", b, info.ETag)
	}
}

func etags(t *testing.T, o store.Objects) {
	if a, b := put(t, o, "a", "same"), put(t, o, "b", "same"); a != b {
		t.Errorf("etags of equal bytes differ: %q, %q", a, b)
	}
	if a, b := put(t, o, "a", "one"), put(t, o, "a", "two"); a == b {
		t.Errorf("etags of different bytes are equal: %q", a)
	}
}

func limits(t *testing.T, o store.Objects) {
	put(t, o, "k", "123456")
	if _, _, err := o.Get(t.Context(), "k", 5); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if b, _, err := o.Get(t.Context(), "k", 6); err != nil || string(b) != "123456" {
		t.Errorf("at the limit: %q, %v", b, err)
	}
}

func ranges(t *testing.T, o store.Objects) {
	put(t, o, "k", "0123456789")
	for _, c := range []struct {
		from, to int64
		want     string
	}{{0, -1, "0123456789"}, {3, 7, "3456"}, {7, -1, "789"}, {0, 1, "0"}, {9, 10, "9"}, {4, 4, ""}, {0, 10, "0123456789"}} {
		r, err := o.Open(t.Context(), "k", c.from, c.to)
		if err != nil {
			t.Fatalf("[%d,%d): %v", c.from, c.to, err)
		}
		b, err := io.ReadAll(r)
		if cerr := r.Close(); err != nil || cerr != nil || string(b) != c.want {
			t.Errorf("[%d,%d): %q, %v, %v; want %q", c.from, c.to, b, err, cerr, c.want)
		}
	}
}

func listing(t *testing.T, o store.Objects) {
	var want []string
	for i := range 5 {
		key := fmt.Sprintf("list/a/%02d", i)
		put(t, o, key, strconv.Itoa(i))
		want = append(want, key)
	}
	put(t, o, "list/b", "x")
	put(t, o, "listing", "x")
	var got []string
	for info, err := range o.List(t.Context(), "list/a/") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Bytes != 1 || info.ETag == "" {
			t.Errorf("listed without size or etag: %+v", info)
		}
		got = append(got, info.Key)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, err := range o.List(t.Context(), "list/") { // leaving early
		if err != nil {
			t.Error(err)
		}
		break
	}
	for info, err := range o.List(t.Context(), "nothing/") {
		t.Errorf("an empty prefix lists %v, %v", info, err)
	}
}

func deletion(t *testing.T, o store.Objects) {
	put(t, o, "k", "x")
	for range 2 {
		if err := o.Delete(t.Context(), "k"); err != nil {
			t.Error(err)
		}
	}
	if _, err := o.Stat(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after delete: %v", err)
	}
	if _, err := o.Put(t.Context(), "k", []byte("again"), store.Condition{Absent: true}); err != nil {
		t.Errorf("a deleted key cannot be created again: %v", err)
	}
}

// counter increments by compare-and-swap from several writers: no acknowledged increment may be lost.
func counter(t *testing.T, o store.Objects) {
	const writers, each = 4, 5
	put(t, o, "n", "0")
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				b, info, err := o.Get(t.Context(), "n", 100)
				if err != nil {
					t.Error(err)
					return
				}
				n, err := strconv.Atoi(string(b))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = o.Put(t.Context(), "n", []byte(strconv.Itoa(n+1)), store.Condition{ETag: info.ETag})
				if err == nil {
					done++
				} else if !errors.Is(err, store.ErrPrecondition) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if b, _ := get(t, o, "n"); b != strconv.Itoa(writers*each) {
		t.Errorf("counted %s, want %d", b, writers*each)
	}
}

func large(t *testing.T, o store.Objects) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 18<<20/16)
	if err := o.Upload(t.Context(), "big", bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	r, err := o.Open(t.Context(), "big", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
}

func oddKeys(t *testing.T, o store.Objects) {
	for _, k := range []string{"a b/c+d", "ü/中文", "x=1&y=2", "percent%41"} {
		put(t, o, k, k)
		if b, _ := get(t, o, k); b != k {
			t.Errorf("%q: got %q", k, b)
		}
	}
}
