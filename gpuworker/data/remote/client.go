package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// maxListing bounds the answer of a hub's API.
	maxListing = 64 << 20
	// maxRedirects bounds a chain of redirects.
	maxRedirects = 8
	// maxWait is the longest pause that a server may ask for.
	maxWait = 5 * time.Minute
)

// site is one server with what is sent to it and nowhere else.
type site struct {
	// name is what messages call it, base its address; for https sources base is empty and only hosts counts.
	name, base string
	// auth adds the credentials.
	auth func(*http.Request)
	// hosts says which hosts may be asked, the one that is named and those that redirects lead to; nil is any.
	hosts func(host string) bool
	// login hints how to get access.
	login string
}

// client sends requests. The server that was named may have any address; those that redirects lead to may not be on a private network.
type client struct {
	cfg          Config
	open, strict *http.Transport
}

func newClient(cfg Config) *client {
	c := &client{cfg: cfg}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	guarded := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: refusePrivate}
	transport := func(d *net.Dialer) *http.Transport {
		return &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: cfg.Stall, DisableCompression: true}
	}
	c.open, c.strict = transport(dialer), transport(guarded)
	return c
}

// close drops idle connections.
func (c *client) close() {
	c.open.CloseIdleConnections()
	c.strict.CloseIdleConnections()
}

var errPrivate = errors.New("a redirect leads to an address of a private network")

// refusePrivate is a dialer's control that knows what a name was resolved to.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return err
	}
	if private(ip) {
		return fmt.Errorf("%w: %s", errPrivate, ip)
	}
	return nil
}

// private reports whether an address is not one of the public internet.
func private(ip netip.Addr) bool {
	ip = ip.Unmap()
	shared := netip.MustParsePrefix("100.64.0.0/10") // carrier-grade NAT, RFC 6598
	return !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || shared.Contains(ip)
}

// routed picks the transport of every hop: the host that was named by the user goes out freely, others are guarded. Behind a proxy the
// proxy decides what can be reached, but for addresses that are written as numbers.
type routed struct {
	c     *client
	named string
}

// RoundTrip implements http.RoundTripper.
func (r routed) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.EqualFold(req.URL.Host, r.named) {
		return r.c.open.RoundTrip(req)
	}
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && private(ip) {
		return nil, fmt.Errorf("%w: %s", errPrivate, ip)
	}
	if p, err := http.ProxyFromEnvironment(req); err == nil && p != nil {
		return r.c.open.RoundTrip(req)
	}
	return r.c.strict.RoundTrip(req)
}

// get sends one request and follows redirects; header names are added. The caller closes the body.
func (c *client) get(ctx context.Context, s *site, address string, header map[string]string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, hideQuery(address), "is no address")
	}
	req.Header.Set("User-Agent", "tunefleet")
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if s.auth != nil {
		s.auth(req)
	}
	linked := http.Header{}
	cl := &http.Client{Transport: routed{c, req.URL.Host}, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errors.New("too many redirects")
		}
		last := via[len(via)-1]
		if next.URL.Scheme != "https" && last.URL.Scheme == "https" {
			return errors.New("a redirect leads from https to " + next.URL.Scheme)
		}
		if next.URL.Host != via[0].URL.Host {
			next.Header.Del("Authorization")
			next.Header.Del("Cookie")
		}
		next.Header.Del("Referer")
		if s.hosts != nil && !s.hosts(next.URL.Host) {
			return fmt.Errorf("a redirect leads to %s, which is not allowed", next.URL.Host)
		}
		if r := next.Response; r != nil { // what the hub says of the file comes with its redirect
			for _, h := range []string{"X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit"} {
				if v := r.Header.Get(h); v != "" {
					linked.Set(h, v)
				}
			}
		}
		return nil
	}}
	resp, err := cl.Do(req)
	if err != nil {
		return nil, transportError(s, err)
	}
	for h := range linked {
		if resp.Header.Get(h) == "" {
			resp.Header.Set(h, linked.Get(h))
		}
	}
	return resp, nil
}

// transportError drops the address, which may hold a signature, and keeps the reason.
func transportError(s *site, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, errPrivate) || strings.Contains(err.Error(), "redirect") {
		e := schemas.Errorf(schemas.CodeInvalid, s.name, "%v", err)
		e.Permanent = true
		return e
	}
	e := schemas.Errorf(schemas.CodeUnavailable, s.name, "cannot be reached: %v", err)
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return e // it will not be there a second later
	}
	return &retryable{err: e}
}

// retryable is an error after which the same request may succeed, after a pause that the server may have named.
type retryable struct {
	err  error
	wait time.Duration
}

// Error implements error.
func (r *retryable) Error() string { return r.err.Error() }

// Unwrap gives the error below.
func (r *retryable) Unwrap() error { return r.err }

// status turns an answer that is no success into an error, nil otherwise.
func status(s *site, what string, resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e := schemas.Errorf(schemas.CodeAuth, what, "%s refuses access (%d)", s.name, code)
		why := resp.Header.Get("X-Error-Message")
		if resp.Header.Get("X-Error-Code") == "GatedRepo" {
			why = "the repository is gated: accept its terms on the hub first"
		}
		if why != "" {
			e.Message += ": " + clip(why)
		}
		if s.login != "" {
			return e.WithHint("%s", s.login)
		}
		return e
	case code == http.StatusNotFound || code == http.StatusGone:
		e := schemas.Errorf(schemas.CodeNotFound, what, "%s has no such thing (%d)", s.name, code)
		if s.login != "" {
			return e.WithHint("look at the spelling; a private repository is not found without access: %s", s.login)
		}
		return e
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return &retryable{err: schemas.Errorf(schemas.CodeUnavailable, what, "%s answers %d %s", s.name, code, http.StatusText(code)), wait: retryAfter(resp)}
	default:
		return schemas.Errorf(schemas.CodeInvalid, what, "%s answers %d %s", s.name, code, http.StatusText(code))
	}
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 300)], "") }

// retryAfter is the pause that a server asks for, in seconds or as a date.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.ParseFloat(v, 64); err == nil && n >= 0 {
		return min(time.Duration(n*float64(time.Second)), maxWait)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(0, time.Until(t)), maxWait)
	}
	return 0
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// retry calls f until it succeeds, fails for good, or has failed Attempts times in a row without progress.
func (c *client) retry(ctx context.Context, f func() (progress bool, err error)) error {
	delay := c.cfg.Backoff
	for failed := 0; ; {
		progress, err := f()
		var r *retryable
		if err == nil || !errors.As(err, &r) {
			return err
		}
		if progress {
			failed, delay = 0, c.cfg.Backoff
		}
		if failed++; failed >= c.cfg.Attempts {
			return r.err
		}
		wait := r.wait
		if wait == 0 {
			wait = delay/2 + rand.N(delay/2+1)
			delay = min(2*delay, time.Minute)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// json reads an answer of a hub's API into out and returns its headers.
func (c *client) json(ctx context.Context, s *site, what, address string, out any) (header http.Header, err error) {
	err = c.retry(ctx, func() (bool, error) {
		resp, err := c.get(ctx, s, address, nil)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if err := status(s, what, resp); err != nil {
			return false, err
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
		if err != nil {
			return false, &retryable{err: schemas.Errorf(schemas.CodeUnavailable, what, "the answer of %s broke off: %v", s.name, err)}
		}
		if len(raw) > maxListing {
			return false, schemas.Errorf(schemas.CodeInvalid, what, "the answer of %s is longer than %d bytes", s.name, maxListing)
		}
		if err := json.Unmarshal(raw, out); err != nil {
			return false, schemas.Errorf(schemas.CodeUnavailable, what, "%s does not answer as a hub: %v", s.name, err)
		}
		header = resp.Header
		return true, nil
	})
	return header, err
}

// allowed reports whether a host is on the operator's list.
func (c Config) allowed(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, ":443"))
	return slices.ContainsFunc(c.HTTPSHosts, func(h string) bool {
		if domain, ok := strings.CutPrefix(h, "*"); ok {
			return strings.HasSuffix(host, domain)
		}
		return h == host
	})
}
