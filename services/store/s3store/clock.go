package s3store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

const (
	// dateWidth is how much later than its Date header a response may have been made: the header has whole seconds, and servers (fasthttp)
	// make it anew once a second.
	dateWidth = 2 * time.Second
	// closeEnough is the difference of two clocks that is none: machines that keep time by NTP, and what Date headers cannot tell.
	closeEnough = 5 * time.Second
	// signTolerance is the difference from which on requests are signed by the store's clock. Stores refuse what is 15 minutes off.
	signTolerance = time.Minute
)

// clock knows the store's time from the Date headers of its responses, as an interval on this process's monotonic clock: what happens to
// the machine's wall clock moves it not.
type clock struct {
	mu    sync.Mutex
	start time.Time
	known bool
	// low and high bound the store's time at start, as Unix time.
	low, high time.Duration
	// wall is the machine's clock; a field for tests.
	wall func() time.Time
}

func newClock() *clock { return &clock{start: time.Now(), wall: time.Now} }

// observe takes the date of a response to a request that was sent and answered at these times (with their monotonic readings). Bounds of
// several responses are intersected; where they contradict each other the store's clock was set, and the newest are right.
func (c *clock) observe(sent, got, date time.Time) {
	low := time.Duration(date.UnixNano()) - got.Sub(c.start)
	high := time.Duration(date.Add(dateWidth).UnixNano()) - sent.Sub(c.start)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known && low <= c.high && high >= c.low {
		low, high = max(low, c.low), min(high, c.high)
	}
	c.known, c.low, c.high = true, low, high
}

// now is the store's time: the machine's, as long as the two are close enough or nothing is known of the store's.
func (c *clock) now() time.Time {
	wall := c.wall()
	return wall.Add(c.offsetAt(wall)).UTC()
}

// offset is what has to be added to the machine's clock to get the store's; 0 when they are close enough.
func (c *clock) offset() time.Duration { return c.offsetAt(c.wall()) }

func (c *clock) offsetAt(wall time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return 0
	}
	there := c.low + (c.high-c.low)/2 + time.Since(c.start)
	if d := there - time.Duration(wall.UnixNano()); d > closeEnough || d < -closeEnough {
		return d
	}
	return 0
}

// dated is a transport that learns the store's time from every response, and signs requests anew by it where the machine's clock is wrong:
// minio-go signs by the machine's.
type dated struct {
	next  http.RoundTripper
	clock *clock
	creds *credentials.Credentials
}

// Dated wraps the transport of a client that only reads: it signs requests by the time of the server, learnt from its responses, where the
// machine's clock is wrong. next nil is http.DefaultTransport.
func Dated(next http.RoundTripper, creds *credentials.Credentials) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return reader{&dated{next: next, clock: newClock(), creds: creds}}
}

// reader sends a request for reading again when it was refused before the server's time was known.
type reader struct{ dated *dated }

// RoundTrip implements http.RoundTripper.
func (r reader) RoundTrip(req *http.Request) (*http.Response, error) {
	before := r.dated.clock.offset()
	resp, err := r.dated.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusForbidden || !beyond(r.dated.clock.offset()-before) || req.Body != nil && req.Body != http.NoBody {
		return resp, err
	}
	_ = resp.Body.Close() // only what it told of the time is wanted
	return r.dated.RoundTrip(req)
}

// RoundTrip implements http.RoundTripper.
func (t *dated) RoundTrip(req *http.Request) (*http.Response, error) {
	if beyond(t.clock.offset()) {
		req = t.sign(req, t.clock.now())
	}
	sent := time.Now()
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.clock.observe(sent, time.Now(), date)
	}
	return resp, nil
}

// beyond reports whether signatures by the machine's clock may be refused.
func beyond(offset time.Duration) bool { return offset > signTolerance || offset < -signTolerance }

const (
	sigAlgorithm = "AWS4-HMAC-SHA256"
	sigDate      = "20060102T150405Z"
)

// sign replaces a signature of version 4 by one of another time. A request whose body is signed too, or that is not signed, stays as it is.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
func (t *dated) sign(req *http.Request, at time.Time) *http.Request {
	payload := req.Header.Get("X-Amz-Content-Sha256")
	fields, ok := strings.CutPrefix(req.Header.Get("Authorization"), sigAlgorithm+" ")
	if !ok || payload == "" || strings.HasPrefix(payload, "STREAMING-AWS4") {
		return req
	}
	var credential, signed string
	for f := range strings.SplitSeq(fields, ",") {
		switch name, v, _ := strings.Cut(strings.TrimSpace(f), "="); name {
		case "Credential":
			credential = v
		case "SignedHeaders":
			signed = v
		}
	}
	scope := strings.Split(credential, "/") // key, date, region, service, aws4_request; a key may contain "/"
	value, err := t.creds.GetWithContext(nil)
	if err != nil || len(scope) < 5 {
		return req
	}
	region, service := scope[len(scope)-3], scope[len(scope)-2]
	out := req.Clone(req.Context())
	out.Header.Set("X-Amz-Date", at.Format(sigDate))
	var headers strings.Builder
	for name := range strings.SplitSeq(signed, ";") {
		v := out.Host
		if name != "host" {
			v = strings.Join(out.Header.Values(name), ",")
		} else if v == "" {
			v = out.URL.Host
		}
		headers.WriteString(name + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	canonical := strings.Join([]string{out.Method, s3utils.EncodePath(out.URL.Path), strings.ReplaceAll(out.URL.Query().Encode(), "+", "%20"),
		headers.String(), signed, payload}, "\n")
	day := at.Format("20060102")
	where := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	hash := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{sigAlgorithm, at.Format(sigDate), where, hex.EncodeToString(hash[:])}, "\n")
	key := []byte("AWS4" + value.SecretAccessKey)
	for _, s := range []string{day, region, service, "aws4_request"} {
		key = mac(key, s)
	}
	out.Header.Set("Authorization", sigAlgorithm+" Credential="+value.AccessKeyID+"/"+where+", SignedHeaders="+signed+", Signature="+hex.EncodeToString(mac(key, text)))
	return out
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
