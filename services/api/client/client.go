// Package client talks to the HTTP API (package api) with the views of schemas/api.go. It is what the command line uses, against an
// embedded server as against a remote one.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

const maxBody = 32 << 20

// Client is a connection to one API server. It is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
	// Retry is the pause before a broken event stream is opened again (default 1 s).
	Retry time.Duration
	// Timeout bounds what a server that accepts connections and says nothing may take for an answer (default 1 min), Silence how long an event
	// stream may say nothing, heartbeats included (default 1 min). Uploads, downloads and what reads whole checkpoints are not bounded.
	Timeout, Silence time.Duration
	// Lost, when set, is told once that Follow's stream broke and could not be opened again at once, and with nil that it is back.
	Lost func(error)
}

// New makes a client of the server at base ("http://127.0.0.1:7070"). Error: CodeUsage when base is no http address.
func New(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, schemas.Errorf(schemas.CodeUsage, base, "is no address of an API server").WithHint("expected something like http://127.0.0.1:7070")
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, Retry: time.Second, Timeout: time.Minute, Silence: time.Minute,
		http: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4,
			// How long an upload waits for the server to say whether it wants the body at all.
			ExpectContinueTimeout: 10 * time.Second}}}, nil
}

// Base is the server's address.
func (c *Client) Base() string { return c.base }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, size int64, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	for k, v := range telemetry.Inject(ctx) {
		req.Header.Set(k, v)
	}
	if size >= 0 {
		req.ContentLength = size
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, over(ctx)
		}
		return nil, schemas.Errorf(schemas.CodeUnavailable, c.base, "cannot reach the API server: %v", errors.Unwrap(err)).
			WithHint("start one with: tunefleet up")
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		var e schemas.APIError
		if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) == nil && e.Error != nil {
			return nil, e.Error
		}
		return nil, schemas.Errorf(schemas.CodeUnavailable, c.base+path, "the server answered %s, and not as the API does", resp.Status).
			WithHint("is this the address of a tunefleet API server, and is the way there free of proxies?")
	}
	return resp, nil
}

// over says why a context has ended: our words where a bound of ours ended it.
func over(ctx context.Context) error {
	var ours *schemas.ErrorInfo
	if errors.As(context.Cause(ctx), &ours) {
		return ours
	}
	return ctx.Err()
}

// bounded is a context for a request that is answered at once.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return c.within(ctx, c.Timeout)
}

func (c *Client) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, schemas.Errorf(schemas.CodeTimeout, c.base, "the API server accepts connections but has not answered for %s", d))
}

// get decodes a JSON answer that comes within the timeout.
func get[T any](ctx context.Context, c *Client, method, path string, body []byte) (*T, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return wait[T](ctx, c, method, path, body)
}

// wait decodes a JSON answer, however long it takes.
func wait[T any](ctx context.Context, c *Client, method, path string, body []byte) (*T, error) {
	var r io.Reader
	size := int64(-1)
	if body != nil {
		r, size = bytes.NewReader(body), int64(len(body))
	}
	resp, err := c.do(ctx, method, path, r, size, http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	v := new(T)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(v); err != nil {
		if ctx.Err() != nil {
			return nil, over(ctx)
		}
		return nil, schemas.Errorf(schemas.CodeUnavailable, c.base+path, "cannot read the server's answer: %v", err).
			WithHint("is this the address of a tunefleet API server?")
	}
	return v, nil
}

// Submit hands in a spec; the reply is the acknowledgement.
func (c *Client) Submit(ctx context.Context, spec *schemas.RunSpec) (*schemas.SubmitReply, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the spec: %w", err)
	}
	if len(data) > schemas.MaxSpecBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, "spec", "%d bytes of JSON are more than the %d allowed", len(data), schemas.MaxSpecBytes)
	}
	return get[schemas.SubmitReply](ctx, c, http.MethodPost, "/v1/runs", data)
}

// Upload stores a file under its SHA-256; a file that is there already is not sent again.
func (c *Client) Upload(ctx context.Context, tenant string, f schemas.File, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, f.Path, "cannot open: %v", err)
	}
	defer r.Close()
	// The server answers from its index before it reads the body, when the client waits for its word.
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if f.Bytes > 64<<10 {
		header.Set("Expect", "100-continue")
	}
	var body io.Reader = r
	if f.Bytes == 0 {
		body = http.NoBody
	}
	resp, err := c.do(ctx, http.MethodPut, "/v1/inputs/"+tenant+"/"+f.SHA256, body, f.Bytes, header)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func runPath(tenant, run string) string {
	return "/v1/runs/" + url.PathEscape(tenant) + "/" + url.PathEscape(run)
}

// Get returns one run.
func (c *Client) Get(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	return get[schemas.RunView](ctx, c, http.MethodGet, runPath(tenant, run), nil)
}

// Stage returns one stage with what it has made.
func (c *Client) Stage(ctx context.Context, tenant, run, stage string) (*schemas.StageView, error) {
	return get[schemas.StageView](ctx, c, http.MethodGet, runPath(tenant, run)+"/stages/"+url.PathEscape(stage), nil)
}

// Act cancels, pauses or resumes a run.
func (c *Client) Act(ctx context.Context, tenant, run string, e schemas.RunEvent) (*schemas.RunView, error) {
	return get[schemas.RunView](ctx, c, http.MethodPost, runPath(tenant, run)+"/"+string(e), nil)
}

// List returns one page of runs, the newest first.
func (c *Client) List(ctx context.Context, f schemas.RunFilter) (*schemas.RunList, error) {
	q := url.Values{}
	for k, v := range map[string]string{"tenant": f.Tenant, "pool": f.Pool, "name": f.Name, "after": f.After} {
		if v != "" {
			q.Set(k, v)
		}
	}
	for _, st := range f.States {
		q.Add("state", string(st))
	}
	for k, at := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !at.IsZero() {
			q.Set(k, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if f.Counts {
		q.Set("counts", "true")
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return get[schemas.RunList](ctx, c, http.MethodGet, "/v1/runs?"+q.Encode(), nil)
}

// Workers lists live workers, of one pool or (empty) of all.
func (c *Client) Workers(ctx context.Context, pool string) (*schemas.WorkerList, error) {
	return get[schemas.WorkerList](ctx, c, http.MethodGet, "/v1/workers?pool="+url.QueryEscape(pool), nil)
}

// Outputs lists the files of a run's outputs.
func (c *Client) Outputs(ctx context.Context, tenant, run string) (*schemas.OutputList, error) {
	return get[schemas.OutputList](ctx, c, http.MethodGet, runPath(tenant, run)+"/outputs", nil)
}

// Output opens one output file.
func (c *Client) Output(ctx context.Context, tenant, run, name string) (io.ReadCloser, error) {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	resp, err := c.do(ctx, http.MethodGet, runPath(tenant, run)+"/outputs/"+strings.Join(parts, "/"), nil, -1, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Healthy reports whether the server answers, within 10 seconds.
func (c *Client) Healthy(ctx context.Context) error {
	ctx, cancel := c.within(ctx, min(c.Timeout, 10*time.Second))
	defer cancel()
	_, err := get[map[string]string](ctx, c, http.MethodGet, "/healthz", nil)
	return err
}

// Follow calls fn for each event of a run, with its stream id, until the run is over: "" for the last one, an EventState whose Message is the
// final state, and for steps that come from the run's logs since the live tail does not hold them any more. It ends when the run is
// over or fn or ctx says stop. A broken stream is resumed after the last event; a server that stays away for a minute is an error.
func (c *Client) Follow(ctx context.Context, tenant, run, after string, fn func(id string, e schemas.Event) error) error {
	lost, told := time.Time{}, false
	opened := func() {
		if told {
			c.Lost(nil)
		}
		lost, told = time.Time{}, false
	}
	for {
		final, err := c.stream(ctx, tenant, run, &after, opened, fn)
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case final:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !schemas.IsCode(err, schemas.CodeUnavailable):
			return err
		case err == nil: // it was opened, and broke
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > time.Minute:
			return err
		case !told && c.Lost != nil:
			c.Lost(err)
			told = true
		}
		t := time.NewTimer(c.Retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// stopError carries fn's error out of the stream.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

func (c *Client) stream(ctx context.Context, tenant, run string, after *string, opened func(), fn func(string, schemas.Event) error) (final bool, err error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if *after != "" {
		header.Set("Last-Event-ID", *after)
	}
	// A server that is stopped or cut off says nothing, not even that.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(c.Silence, func() {
		cancel(schemas.Errorf(schemas.CodeUnavailable, c.base, "the API server has said nothing for %s", c.Silence))
	})
	defer silent.Stop()
	resp, err := c.do(ctx, http.MethodGet, runPath(tenant, run)+"/events", nil, -1, header)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	opened()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	id, data := "", []byte(nil)
	for lines.Scan() {
		silent.Reset(c.Silence)
		l := lines.Text()
		switch {
		case strings.HasPrefix(l, "id: "):
			id = l[4:]
		case strings.HasPrefix(l, "data: "):
			data = append(data, l[6:]...)
		case l == "" && len(data) > 0:
			var e schemas.Event
			if err := json.Unmarshal(data, &e); err != nil {
				return false, schemas.Errorf(schemas.CodeUnavailable, c.base, "cannot read an event: %v", err)
			}
			if err := fn(id, e); err != nil {
				return false, &stopError{err}
			}
			if id == "" && e.Type == schemas.EventState {
				return true, nil
			}
			if id != "" {
				*after = id
			}
			id, data = "", nil
		}
	}
	if ctx.Err() != nil {
		return false, over(ctx)
	}
	return false, nil
}
