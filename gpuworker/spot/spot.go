package spot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// Clouds that a Watcher can ask. None watches nothing.
const (
	None  = "none"
	AWS   = "aws"
	GCP   = "gcp"
	Azure = "azure"
)

// Clouds lists the values of Config.Cloud.
func Clouds() []string { return []string{None, AWS, GCP, Azure} }

// Config says whom to ask and how often.
type Config struct {
	// Cloud is one of Clouds (default None).
	Cloud string
	// Endpoint overrides the address of the metadata service ("http://169.254.169.254", of GCP "http://metadata.google.internal").
	Endpoint string
	// Poll is the pace of asking (default 5 s, as AWS recommends).
	Poll time.Duration
	// Timeout bounds one request (default 2 s).
	Timeout time.Duration
	Logger  *slog.Logger
}

// WithDefaults fills what is unset.
func (c Config) WithDefaults() Config {
	if c.Cloud == "" {
		c.Cloud = None
	}
	if c.Endpoint == "" {
		c.Endpoint = "http://169.254.169.254"
		if c.Cloud == GCP {
			c.Endpoint = "http://metadata.google.internal"
		}
	}
	c.Endpoint = strings.TrimSuffix(c.Endpoint, "/")
	if c.Poll <= 0 {
		c.Poll = 5 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	if !slices.Contains(Clouds(), c.Cloud) {
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "spot", "%q is unknown (%s)", c.Cloud, strings.Join(Clouds(), ", ")))
	}
	if !strings.HasPrefix(c.Endpoint, "http://") && !strings.HasPrefix(c.Endpoint, "https://") {
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "spot endpoint", "%q is no http address", c.Endpoint))
	}
	return errors.Join(errs...)
}

// Notice is the announcement that the machine goes.
type Notice struct {
	Cloud string
	// At is when it goes at the earliest; zero when the cloud did not say. It is a moment of this process's monotonic clock, counted from the
	// answer by the metadata service's own clock: time.Until(At) is right whatever this machine's wall clock says.
	At time.Time
	// What the cloud calls it.
	What string
}

// Watcher asks one cloud's metadata service.
type Watcher struct {
	cfg  Config
	http *http.Client
	// token is AWS's session token, renewed before it runs out.
	token   string
	renewAt time.Time
	// advised: the rebalance recommendation was logged.
	advised bool
	// quiet is when the service was last asked and knew of no notice; zero while it never said so.
	quiet time.Time
	// now is the machine's clock; a field for tests.
	now func() time.Time
}

// New makes a watcher. Errors: the configuration's.
func New(cfg Config) (*Watcher, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	// The metadata service is on the machine itself: no proxy, and no redirects to elsewhere.
	return &Watcher{cfg: cfg, now: time.Now, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Wait returns the first notice; the error is ctx's when it ends before. A service that does not answer is asked again: that it is silent
// is logged once. With None it waits for ctx.
func (w *Watcher) Wait(ctx context.Context) (Notice, error) {
	if w.cfg.Cloud == None {
		<-ctx.Done()
		return Notice{}, ctx.Err()
	}
	failing := false
	for {
		asked := w.now()
		n, found, err := w.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return Notice{}, ctx.Err()
		case err != nil && !failing:
			w.cfg.Logger.Warn("the metadata service does not answer, asking on", "cloud", w.cfg.Cloud, "endpoint", w.cfg.Endpoint, "error", err)
			failing = true
		case err == nil:
			failing = false
			if !found {
				w.quiet = asked
			}
		}
		if found {
			return n, nil
		}
		t := time.NewTimer(w.cfg.Poll)
		select {
		case <-ctx.Done():
			t.Stop()
			return Notice{}, ctx.Err()
		case <-t.C:
		}
	}
}

func (w *Watcher) ask(ctx context.Context) (Notice, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	switch w.cfg.Cloud {
	case AWS:
		return w.aws(ctx)
	case GCP:
		return w.gcp(ctx)
	default:
		return w.azure(ctx)
	}
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// answer is what the metadata service said.
type answer struct {
	status int
	body   []byte
	// sent is when it was asked, with the monotonic reading; date is its own time when it answered, zero where it did not tell.
	sent, date time.Time
}

// dateWidth is how much later than its Date header an answer may have been made: the header has whole seconds.
const dateWidth = time.Second

// moment is a time that the service named as a moment of this process's monotonic clock: as long after the request as it is after the answer's
// date. It is no later than meant, by dateWidth and the time that the answer took at most. A service that does not date its answers is taken to
// have this machine's time, but to give no more notice than longest: a clock that is behind must not promise time that there is not.
func (a answer) moment(at time.Time, longest time.Duration) time.Time {
	if at.IsZero() {
		return at
	}
	if a.date.IsZero() {
		return a.sent.Add(min(at.Sub(a.sent.Round(0)), longest) - dateWidth)
	}
	return a.sent.Add(at.Sub(a.date) - dateWidth)
}

// call makes one request.
func (w *Watcher) call(ctx context.Context, method, path string, header map[string]string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.cfg.Endpoint+path, http.NoBody)
	if err != nil {
		return answer{}, fmt.Errorf("cannot make the request: %w", err)
	}
	out := answer{sent: w.now()}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("cannot ask the metadata service: %w", err)
	}
	defer resp.Body.Close()
	if out.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return answer{}, fmt.Errorf("cannot read the metadata service's answer: %w", err)
	}
	out.status = resp.StatusCode
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		out.date = date
	}
	return out, nil
}

// tokenLife is how long an IMDSv2 token is asked to live.
const tokenLife = 6 * time.Hour

// The longest notice that the clouds give: AWS two minutes, Azure at most 15 minutes before it terminates.
const (
	awsNotice   = 2 * time.Minute
	azureNotice = 15 * time.Minute
)

// aws asks IMDSv2: a session token by PUT, then spot/instance-action, which is 404 until the notice (two minutes ahead).
func (w *Watcher) aws(ctx context.Context) (Notice, bool, error) {
	if w.token == "" || w.now().After(w.renewAt) {
		a, err := w.call(ctx, http.MethodPut, "/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": fmt.Sprint(int(tokenLife.Seconds()))})
		if err != nil {
			return Notice{}, false, err
		}
		if a.status != http.StatusOK {
			return Notice{}, false, fmt.Errorf("cannot get a token of IMDSv2: status %d", a.status)
		}
		w.token, w.renewAt = string(a.body), w.now().Add(tokenLife/2)
	}
	header := map[string]string{"X-aws-ec2-metadata-token": w.token}
	a, err := w.call(ctx, http.MethodGet, "/latest/meta-data/spot/instance-action", header)
	switch {
	case err != nil:
		return Notice{}, false, err
	case a.status == http.StatusUnauthorized:
		w.token = ""
		return Notice{}, false, errors.New("the metadata service refused the token")
	case a.status == http.StatusOK:
		n, found, err := parseAWS(a.body)
		n.At = a.moment(n.At, awsNotice)
		return n, found, err
	case a.status != http.StatusNotFound:
		return Notice{}, false, fmt.Errorf("cannot read spot/instance-action: status %d", a.status)
	}
	if !w.advised {
		if a, err := w.call(ctx, http.MethodGet, "/latest/meta-data/events/recommendations/rebalance", header); err == nil && a.status == http.StatusOK {
			w.cfg.Logger.Warn("AWS recommends to leave this machine: it is at elevated risk of interruption", "answer", string(a.body))
			w.advised = true
		}
	}
	return Notice{}, false, nil
}

func parseAWS(body []byte) (Notice, bool, error) {
	var a struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Notice{}, false, fmt.Errorf("cannot decode spot/instance-action: %w", err)
	}
	if a.Action == "" {
		return Notice{}, false, errors.New("cannot decode spot/instance-action: it names no action")
	}
	return Notice{Cloud: AWS, At: a.Time, What: a.Action}, true, nil
}

// gcpNotice is what Google gives between the notice and the end.
const gcpNotice = 30 * time.Second

// gcp asks instance/preempted, TRUE from the notice on. It came after the last answer that knew of none; one that is there at the first look
// may be of any age, and is taken for new.
func (w *Watcher) gcp(ctx context.Context) (Notice, bool, error) {
	a, err := w.call(ctx, http.MethodGet, "/computeMetadata/v1/instance/preempted", map[string]string{"Metadata-Flavor": "Google"})
	if err != nil {
		return Notice{}, false, err
	}
	if a.status != http.StatusOK {
		return Notice{}, false, fmt.Errorf("cannot read instance/preempted: status %d", a.status)
	}
	switch strings.TrimSpace(string(a.body)) {
	case "TRUE":
		from := w.quiet
		if from.IsZero() {
			from = a.sent
		}
		return Notice{Cloud: GCP, At: from.Add(gcpNotice), What: "preempted"}, true, nil
	case "FALSE":
		return Notice{}, false, nil
	}
	return Notice{}, false, fmt.Errorf("cannot read instance/preempted: it says %.40q", a.body)
}

// azure asks the scheduled events for one that ends this machine.
func (w *Watcher) azure(ctx context.Context) (Notice, bool, error) {
	a, err := w.call(ctx, http.MethodGet, "/metadata/scheduledevents?api-version=2020-07-01", map[string]string{"Metadata": "true"})
	if err != nil {
		return Notice{}, false, err
	}
	if a.status != http.StatusOK {
		return Notice{}, false, fmt.Errorf("cannot read the scheduled events: status %d", a.status)
	}
	n, found, err := parseAzure(a.body)
	n.At = a.moment(n.At, azureNotice)
	return n, found, err
}

func parseAzure(body []byte) (Notice, bool, error) {
	var a struct {
		Events []struct {
			EventType string `json:"EventType"`
			NotBefore string `json:"NotBefore"`
		} `json:"Events"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Notice{}, false, fmt.Errorf("cannot decode the scheduled events: %w", err)
	}
	for _, e := range a.Events {
		if e.EventType != "Preempt" && e.EventType != "Terminate" {
			continue
		}
		// NotBefore is empty when the event has begun.
		at, err := http.ParseTime(e.NotBefore)
		if err != nil {
			at = time.Time{}
		}
		return Notice{Cloud: Azure, At: at, What: e.EventType}, true, nil
	}
	return Notice{}, false, nil
}
