package s3store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
)

// script is an S3 endpoint that answers requests in the given order, the last answer again and again. (The conformance suite over a whole
// S3 server is in package embedded.)
type script struct {
	mu      sync.Mutex
	answers []http.HandlerFunc
	seen    []*http.Request
	bodies  []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	s.seen, s.bodies = append(s.seen, r), append(s.bodies, string(b))
	f := s.answers[min(len(s.seen), len(s.answers))-1]
	s.mu.Unlock()
	f(w, r)
}

func (s *script) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func status(code int, name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>scripted</Message></Error>`, name)
	}
}

func ok(etag, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+etag+`"`)
		w.Header().Set("Last-Modified", time.Unix(1700000000, 0).UTC().Format(http.TimeFormat))
		if r.Method != http.MethodPut {
			_, _ = io.WriteString(w, body)
		}
	}
}

// cut announces more bytes than it sends and drops the connection.
func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("ETag", `"e"`)
	w.Header().Set("Content-Length", "100")
	w.Header().Set("Last-Modified", time.Unix(1700000000, 0).UTC().Format(http.TimeFormat))
	_, _ = io.WriteString(w, "half")
	panic(http.ErrAbortHandler)
}

// drop takes the request and closes the connection without an answer.
func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func open(t *testing.T, answers ...http.HandlerFunc) (*s3store.Store, *script) {
	t.Helper()
	s := &script{answers: answers}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ErrorLog = nil
	srv.Start()
	t.Cleanup(srv.Close)
	o, err := s3store.New(s3store.Config{Endpoint: strings.TrimPrefix(srv.URL, "http://"), Bucket: "bucket", AccessKey: "a", SecretKey: "s", Attempts: 3,
		Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o, s
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConditionalPut: which error each answer is, and that a conditional write is never repeated by the client itself.
func TestConditionalPut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"412":               {status(412, "PreconditionFailed"), store.ErrPrecondition},
		"404":               {status(404, "NoSuchKey"), store.ErrPrecondition},
		"409":               {status(409, "ConditionalRequestConflict"), store.ErrAmbiguous},
		"500":               {status(500, "InternalError"), store.ErrAmbiguous},
		"503":               {status(503, "SlowDown"), store.ErrAmbiguous},
		"507":               {status(507, "XMinioStorageFull"), store.ErrFull},
		"connection lost":   {drop, store.ErrAmbiguous},
		"no answer in time": {hang, store.ErrAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, s := open(t, c.answer)
			_, err := o.Put(t.Context(), "k", []byte("x"), store.Condition{ETag: "abc"})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			for _, other := range []error{store.ErrPrecondition, store.ErrAmbiguous, store.ErrFull, store.ErrNotFound} {
				if other != c.want && errors.Is(err, other) { //nolint:errorlint // identity of sentinels is meant
					t.Errorf("got %v, which is also %v", err, other)
				}
			}
			if n := len(s.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// TestNothingSent: a server that refuses the connection has not written anything.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	o, err := s3store.New(s3store.Config{Endpoint: "127.0.0.1:1", AccessKey: "a", SecretKey: "s", Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.Put(t.Context(), "k", []byte("x"), store.Condition{Absent: true})
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("put: %v, want ErrUnavailable", err)
	}
	if _, _, err := o.Get(t.Context(), "k", 10); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: %v, want ErrUnavailable", err)
	}
}

func TestHeadersOfConditions(t *testing.T) {
	t.Parallel()
	o, s := open(t, ok("new", ""))
	for _, c := range []store.Condition{{Absent: true}, {ETag: "abc"}, {}} {
		if etag, err := o.Put(t.Context(), "dir/k", []byte("body"), c); err != nil || etag != "new" {
			t.Fatalf("%+v: %q, %v", c, etag, err)
		}
	}
	r := s.requests()
	if len(r) != 3 || r[0].Header.Get("If-None-Match") != "*" || r[1].Header.Get("If-Match") != `"abc"` || r[2].Header.Get("If-Match")+r[2].Header.Get("If-None-Match") != "" {
		t.Errorf("headers: %v", r)
	}
	for _, q := range r {
		if q.Method != http.MethodPut || q.URL.Path != "/bucket/dir/k" || q.URL.RawQuery != "" {
			t.Errorf("%s %s is not a single PUT", q.Method, q.URL)
		}
	}
}

// TestRetries: what may be repeated is, after 5xx, lost connections and truncated bodies; what may not pass is reported at once.
func TestRetries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		want    error
		n       int
	}{
		"passes":       {[]http.HandlerFunc{status(503, "SlowDown"), cut, ok("e", "body")}, nil, 3},
		"lost":         {[]http.HandlerFunc{drop, ok("e", "body")}, nil, 2},
		"slow":         {[]http.HandlerFunc{hang, ok("e", "body")}, nil, 2},
		"stays":        {[]http.HandlerFunc{status(500, "InternalError")}, store.ErrUnavailable, 3},
		"cut for good": {[]http.HandlerFunc{cut}, store.ErrUnavailable, 3},
		"missing":      {[]http.HandlerFunc{status(404, "NoSuchKey")}, store.ErrNotFound, 1},
		"large":        {[]http.HandlerFunc{ok("e", strings.Repeat("x", 200))}, store.ErrTooLarge, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, s := open(t, c.answers...)
			b, info, err := o.Get(t.Context(), "k", 100)
			if !errors.Is(err, c.want) || c.want == nil && (string(b) != "body" || info.ETag != "e") {
				t.Errorf("got %q, %+v, %v; want %v", b, info, err, c.want)
			}
			if n := len(s.requests()); n != c.n {
				t.Errorf("%d requests, want %d", n, c.n)
			}
		})
	}
}

// TestUploadStartsAgain: a part that failed half-way is sent whole again.
func TestUploadStartsAgain(t *testing.T) {
	t.Parallel()
	o, s := open(t, status(503, "SlowDown"), ok("e", ""))
	if err := o.Upload(t.Context(), "k", bytes.NewReader([]byte("0123456789")), 10); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bodies) != 2 || !strings.Contains(s.bodies[1], "0123456789") {
		t.Errorf("bodies %q", s.bodies)
	}
	o, s2 := open(t, status(503, "SlowDown"))
	if err := o.Upload(t.Context(), "k", io.LimitReader(strings.NewReader("0123456789"), 10), 10); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a stream that cannot start again: %v, want ErrUnavailable", err)
	}
	if n := len(s2.requests()); n != 1 {
		t.Errorf("a stream that cannot start again was sent %d times", n)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := s3store.New(s3store.Config{Endpoint: "http://host", SecretKey: "hunter2", Attempts: -1})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"scheme", "together", "attempts"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell about %q", err, want)
		}
	}
	if got := fmt.Sprintf("%+v", s3store.Config{SecretKey: "hunter2"}); strings.Contains(got, "hunter2") {
		t.Errorf("the secret is printed: %s", got)
	}
	if schemas.IsCode(err, schemas.CodeInternal) {
		t.Error("configuration errors are not internal")
	}
}

func page(truncated bool, keys ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		_, _ = fmt.Fprintf(w, `<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>t</NextContinuationToken>`, truncated)
		for _, k := range keys {
			_, _ = fmt.Fprintf(w, `<Contents><Key>%s</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>`, k)
		}
		_, _ = io.WriteString(w, `</ListBucketResult>`)
	}
}

// TestListGoesOn: a page that fails midway is asked for again, behind the last key that was seen.
func TestListGoesOn(t *testing.T) {
	t.Parallel()
	o, s := open(t, page(true, "p/a", "p/b"), status(503, "SlowDown"), page(false, "p/c"))
	var keys []string
	for i, err := range o.List(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, i.Key)
	}
	if strings.Join(keys, " ") != "p/a p/b p/c" {
		t.Errorf("listed %v", keys)
	}
	if r := s.requests(); len(r) != 3 || r[2].URL.Query().Get("start-after") != "p/b" {
		t.Errorf("%d requests, the last for %v", len(r), r[len(r)-1].URL)
	}
	o, _ = open(t, status(500, "InternalError"))
	for _, err := range o.List(t.Context(), "p/") {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	}
}
