package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// S3Fault is how the object store misbehaves; rates are probabilities per request. The zero value passes everything.
type S3Fault struct {
	// ErrorRate answers with 500 InternalError, SlowDownRate with 503 SlowDown; the request does not reach the store.
	ErrorRate, SlowDownRate float64
	// LoseRate forwards a write and then drops the connection instead of answering: applied, but the client cannot know.
	LoseRate float64
	// ConflictRate forwards a conditional write and then answers 409: applied, and answered as if it might not be.
	ConflictRate float64
	// TruncateRate cuts the body of a GET in the middle.
	TruncateRate float64
	// Flip, when not nil, says of a GET whether a bit in the middle of its body flips on the way.
	Flip func(*Request) bool
	// Rate bounds the bodies of GETs in bytes per second (0: no bound).
	Rate int
	// Full answers every write with 507, as a full store does.
	Full bool
	// Unsafe answers 200 to conditional writes that the store has refused, as a store without atomic conditions does.
	Unsafe bool
}

// Request is one request as it passes the proxy.
type Request struct {
	// Proc is the client, Method and Key what it asks for. Key is empty for requests about the bucket.
	Proc, Method, Key string
	// Condition is "absent", "etag:<etag>" or empty.
	Condition string
	// Body is the content of a write, without the transfer's framing.
	Body []byte
	// Status and ETag are the store's answer (not what the client was told); 0 when there is none.
	Status int
	ETag   string
	// Began is when the request came, Ended when the store answered.
	Began, Ended time.Time
	// Told is what became of the answer: "" passed on, "lost", "409", "error" (never forwarded), "unsafe".
	Told string
}

// S3Config says what to stand before and who watches.
type S3Config struct {
	// Target is the store (host:port), Bucket the only bucket in use.
	Target, Bucket string
	// Before is called when a request has been read and not yet forwarded; an error drops the connection instead.
	Before func(*Request) error
	// After is called when the store has answered a request and the client not yet; an error drops the connection: the answer is lost. For
	// a forwarded request that got no answer it is called with Status 0.
	After func(*Request) error
}

// S3 is the proxy. It is safe for concurrent use.
type S3 struct {
	cfg     S3Config
	base    *url.URL
	tr      *http.Transport
	mu      sync.Mutex
	fault   S3Fault
	servers []*http.Server
}

// NewS3 makes a proxy; Listen adds clients.
func NewS3(cfg S3Config) *S3 {
	return &S3{cfg: cfg, base: &url.URL{Scheme: "http", Host: cfg.Target}, tr: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true,
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}}
}

// Set changes the fault for requests that come from now on.
func (s *S3) Set(f S3Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Listen opens a port for one client; its name is in the requests' Proc.
func (s *S3) Listen(proc string) (addr string, err error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("cannot listen for %s: %w", proc, err)
	}
	srv := &http.Server{ErrorLog: discard(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(proc, w, r) })}
	s.mu.Lock()
	s.servers = append(s.servers, srv)
	s.mu.Unlock()
	go func() { _ = srv.Serve(l) }() // ends with Close
	return l.Addr().String(), nil
}

// Close ends all ports and connections.
func (s *S3) Close() {
	s.mu.Lock()
	servers := s.servers
	s.mu.Unlock()
	for _, srv := range servers {
		_ = srv.Close()
	}
	s.tr.CloseIdleConnections()
}

// discard is a logger for what the standard library would say about broken connections: they are the purpose here.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// maxBody bounds what is kept of a write; chaos trains toys.
const maxBody = 64 << 20

func (s *S3) serve(proc string, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.fault
	s.mu.Unlock()
	q := &Request{Proc: proc, Method: r.Method, Began: time.Now()}
	q.Key, _ = strings.CutPrefix(strings.TrimPrefix(r.URL.Path, "/"), s.cfg.Bucket+"/")
	if q.Key == s.cfg.Bucket {
		q.Key = ""
	}
	if r.Header.Get("If-None-Match") == "*" {
		q.Condition = "absent"
	} else if tag := r.Header.Get("If-Match"); tag != "" {
		q.Condition = "etag:" + strings.Trim(tag, `"`)
	}
	write := r.Method == http.MethodPut || r.Method == http.MethodPost
	if write {
		raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			panic(http.ErrAbortHandler) // the client is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		q.Body = raw
		if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
			q.Body = unchunk(raw)
		}
	}
	if s.cfg.Before != nil && s.cfg.Before(q) != nil {
		panic(http.ErrAbortHandler)
	}
	switch {
	case chance(f.ErrorRate):
		q.Told = "error"
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	case chance(f.SlowDownRate):
		q.Told = "error"
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case f.Full && write:
		q.Told = "error"
		refuse(w, http.StatusInsufficientStorage, "XMinioStorageFull")
		return
	}
	defer func() {
		if q.Status == 0 && s.cfg.After != nil {
			_ = s.cfg.After(q) // nothing is left to drop
		}
	}()
	proxy := &httputil.ReverseProxy{
		Transport: s.tr, ErrorLog: discard(),
		// The host is part of what the client has signed.
		Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(s.base); p.Out.Host = p.In.Host },
		ModifyResponse: func(resp *http.Response) error {
			q.Status, q.ETag, q.Ended = resp.StatusCode, strings.Trim(resp.Header.Get("ETag"), `"`), time.Now()
			return s.answer(f, q, resp)
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	proxy.ServeHTTP(w, r)
}

var errDrop = errors.New("the answer is dropped")

// answer decides what the client is told.
func (s *S3) answer(f S3Fault, q *Request, resp *http.Response) error {
	write := q.Method == http.MethodPut || q.Method == http.MethodPost || q.Method == http.MethodDelete
	lost := write && chance(f.LoseRate)
	conflict := q.Method == http.MethodPut && q.Condition != "" && resp.StatusCode < 300 && chance(f.ConflictRate)
	unsafe := f.Unsafe && q.Condition != "" && resp.StatusCode == http.StatusPreconditionFailed
	switch {
	case lost:
		q.Told = "lost"
	case conflict:
		q.Told = "409"
	case unsafe:
		q.Told = "unsafe"
	}
	if s.cfg.After != nil && s.cfg.After(q) != nil || lost {
		return errDrop
	}
	switch {
	case conflict:
		replace(resp, http.StatusConflict, errorBody("ConditionalRequestConflict"))
	case unsafe:
		resp.Header.Set("ETag", `"00000000000000000000000000000001"`)
		replace(resp, http.StatusOK, "")
	case q.Method == http.MethodGet && q.Key != "" && resp.StatusCode < 300 && chance(f.TruncateRate) && resp.ContentLength > 1:
		resp.Body = cut{io.LimitReader(resp.Body, resp.ContentLength/2), resp.Body}
	case q.Method == http.MethodGet && f.Flip != nil && resp.StatusCode < 300 && f.Flip(q):
		resp.Body = &flipped{ReadCloser: resp.Body, at: resp.ContentLength / 2}
	case q.Method == http.MethodGet && f.Rate > 0:
		resp.Body = slow{resp.Body, f.Rate}
	}
	return nil
}

func chance(p float64) bool { return p > 0 && rand.Float64() < p } //nolint:gosec // fault rates

func errorBody(code string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>injected</Message></Error>`
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, errorBody(code))
}

func replace(resp *http.Response, status int, body string) {
	_ = resp.Body.Close()
	resp.StatusCode, resp.Status = status, http.StatusText(status)
	resp.Body = io.NopCloser(strings.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp.Header.Set("Content-Type", "application/xml")
}

// cut ends a body early with an error.
type cut struct {
	io.Reader
	io.Closer
}

func (c cut) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// flipped changes the lowest bit of one byte.
type flipped struct {
	io.ReadCloser
	at int64 // bytes until it
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

// slow reads at a rate.
type slow struct {
	io.ReadCloser
	rate int
}

func (s slow) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(len(p), max(1, s.rate/10))])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// unchunk takes the framing of aws-chunked off: "<hex size>;chunk-signature=...\r\n<data>\r\n", until a chunk of size 0.
func unchunk(raw []byte) []byte {
	var out []byte
	for {
		line, rest, ok := bytes.Cut(raw, []byte("\r\n"))
		if !ok {
			return out
		}
		size, _, _ := strings.Cut(string(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n <= 0 || n+2 > int64(len(rest)) {
			return out
		}
		out = append(out, rest[:n]...)
		raw = rest[n+2:]
	}
}
