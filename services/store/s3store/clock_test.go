package s3store

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tunefleet/tunefleet/services/store"
)

// TestSignature: the signatures of the examples of Amazon's documentation come out
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html), whatever they were before.
func TestSignature(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	creds := credentials.NewStaticV4("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "")
	tr := &dated{creds: creds, clock: newClock()}
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		method, url, signed, payload, want string
		header                             map[string]string
	}{
		{"GET", "/test.txt", "host;range;x-amz-content-sha256;x-amz-date", empty, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
			map[string]string{"Range": "bytes=0-9"}},
		{"PUT", "/test$file.text", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
			map[string]string{"Date": "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY"}},
		{"GET", "/?lifecycle", "host;x-amz-content-sha256;x-amz-date", empty, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", nil},
		{"GET", "/?max-keys=2&prefix=J", "host;x-amz-content-sha256;x-amz-date", empty, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", nil},
	} {
		req := httptest.NewRequestWithContext(t.Context(), c.method, "https://examplebucket.s3.amazonaws.com"+c.url, nil)
		for k, v := range c.header {
			req.Header.Set(k, v)
		}
		req.Header.Set("X-Amz-Content-Sha256", c.payload)
		req.Header.Set("X-Amz-Date", "20991231T000000Z")
		req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20991231/us-east-1/s3/aws4_request, SignedHeaders="+c.signed+", Signature=00")
		got := tr.sign(req, at)
		if want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=" + c.signed + ", Signature=" + c.want; got.Header.Get("Authorization") != want {
			t.Errorf("%s %s: %s, want %s", c.method, c.url, got.Header.Get("Authorization"), want)
		}
		if req.Header.Get("X-Amz-Date") != "20991231T000000Z" {
			t.Error("the caller's request was changed")
		}
		req.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
		if tr.sign(req, at) != req {
			t.Error("a request whose body is signed in pieces cannot be signed anew")
		}
	}
}

// elsewhere is a server whose clock is off. It refuses dates that are 15 minutes off its own, and content that is neither signed whole nor has
// an MD5 when it was dated right.
type elsewhere struct {
	off     time.Duration
	seen    []string
	objects map[string][]byte
}

func (e *elsewhere) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	now := time.Now().Add(e.off)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	refuse := func(code string) {
		e.seen = append(e.seen, r.Method+" "+code)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		if r.Method != http.MethodHead {
			_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>scripted</Message></Error>`, code)
		}
	}
	at, err := time.Parse(sigDate, r.Header.Get("X-Amz-Date"))
	if err != nil || now.Sub(at).Abs() > 15*time.Minute {
		refuse("RequestTimeTooSkewed")
		return
	}
	if !strings.Contains(r.Header.Get("Authorization"), "/"+at.Format("20060102")+"/") {
		refuse("SignatureDoesNotMatch")
		return
	}
	if r.Method == http.MethodPut && (r.Header.Get("X-Amz-Content-Sha256") != "UNSIGNED-PAYLOAD" || r.Header.Get("Content-Md5") == "") {
		refuse("BadContent")
		return
	}
	e.seen = append(e.seen, r.Method)
	w.Header().Set("ETag", `"e"`)
	w.Header().Set("Last-Modified", now.UTC().Format(http.TimeFormat))
	switch key := r.URL.Path; r.Method {
	case http.MethodPut:
		e.objects[key] = body
	case http.MethodHead:
		w.Header().Set("Content-Length", fmt.Sprint(len(e.objects[key])))
	default:
		_, _ = w.Write(e.objects[key])
	}
}

// TestAnotherClock: a store whose clock is hours away takes everything after one refusal, conditional writes and uploads included, and its time
// is the time that Now tells.
func TestAnotherClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 30 * time.Hour} {
		e := &elsewhere{off: off, objects: map[string][]byte{}}
		srv := httptest.NewServer(e)
		s, err := New(Config{Endpoint: strings.TrimPrefix(srv.URL, "http://"), AccessKey: "k", SecretKey: "s", Attempts: 2})
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(store.Now(s)).Abs(); d > time.Second {
			t.Errorf("a store that is not known yet is %s off", d)
		}
		ctx := t.Context()
		if _, err := s.Put(ctx, "a", []byte("one"), store.Condition{Absent: true}); err != nil {
			t.Fatalf("%s: %v (%v)", off, err, e.seen)
		}
		if err := s.Upload(ctx, "b", bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)), 1<<20); err != nil {
			t.Fatalf("%s: %v (%v)", off, err, e.seen)
		}
		if info, err := s.Stat(ctx, "b"); err != nil || info.Bytes != 1<<20 {
			t.Fatalf("%s: %v, %v (%v)", off, info, err, e.seen)
		}
		if data, _, err := s.Get(ctx, "a", 10); err != nil || string(data) != "one" {
			t.Fatalf("%s: %q, %v (%v)", off, data, err, e.seen)
		}
		if want := "PUT RequestTimeTooSkewed,PUT,PUT,HEAD,GET"; strings.Join(e.seen, ",") != want {
			t.Errorf("%s: the server saw %v, want %s", off, e.seen, want)
		}
		if d := time.Until(store.Now(s)) - off; d.Abs() > 3*time.Second {
			t.Errorf("%s: the store's time is told %s wrong", off, d)
		}
		s.Close()
		srv.Close()
	}
}

// TestARefusedHeadRequest: a HEAD request is refused without a reason, and succeeds when the date was it.
func TestARefusedHeadRequest(t *testing.T) {
	e := &elsewhere{off: -2 * time.Hour, objects: map[string][]byte{"/tunefleet/a": []byte("1")}}
	srv := httptest.NewServer(e)
	defer srv.Close()
	s, err := New(Config{Endpoint: strings.TrimPrefix(srv.URL, "http://"), AccessKey: "k", SecretKey: "s", Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := s.Stat(t.Context(), "a"); err != nil || info.Bytes != 1 {
		t.Errorf("%+v, %v (%v)", info, err, e.seen)
	}
}

// TestAClockThatIsRefusedIsNamed: where a store refuses a date and tells no better one, the error says that it is the clock.
func TestAClockThatIsRefusedIsNamed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>RequestTimeTooSkewed</Code><Message>scripted</Message></Error>`)
	}))
	defer srv.Close()
	s, err := New(Config{Endpoint: strings.TrimPrefix(srv.URL, "http://"), AccessKey: "k", SecretKey: "s", Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Get(t.Context(), "a", 10); err == nil || !strings.Contains(err.Error(), "clock of this machine") {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Put(t.Context(), "a", nil, store.Condition{Absent: true}); err == nil || !strings.Contains(err.Error(), "clock of this machine") {
		t.Errorf("put: %v", err)
	}
}

// TestTheStoresClock: bounds from many responses narrow, what the machine's clock does moves the store's not, and a store whose clock is set is
// followed.
func TestTheStoresClock(t *testing.T) {
	c := newClock()
	var off time.Duration // of the machine's clock
	c.wall = func() time.Time { return time.Now().Round(0).Add(off) }
	ahead := 90 * time.Minute
	for i := range 40 { // at many phases of the server's second
		at := c.start.Add(time.Duration(i) * 130 * time.Millisecond)
		c.observe(at, at.Add(20*time.Millisecond), at.Add(ahead).Truncate(time.Second))
	}
	if w := c.high - c.low; w > time.Second+300*time.Millisecond || w < 0 {
		t.Errorf("after 40 responses the store's time is known to %s", w)
	}
	for _, off = range []time.Duration{0, time.Hour, -time.Hour} {
		if d := c.now().Sub(time.Now().Add(ahead)); d.Abs() > time.Second {
			t.Errorf("machine's clock %s off: the store's time is told %s wrong", off, d)
		}
	}
	off = ahead // the machine's clock is right
	if c.offset() != 0 {
		t.Errorf("the clocks agree, and are told to be %s apart", c.offset())
	}
	now := time.Now()
	c.observe(now, now, now.Add(-time.Hour))
	off = 0
	if d := c.now().Sub(time.Now().Add(-time.Hour)); d.Abs() > 3*time.Second {
		t.Errorf("the store's clock was set, and is told %s wrong", d)
	}
}
