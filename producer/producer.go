// Package producer is the client that other services hand runs in with: Submit, Get, List, Follow and Cancel, and Upload for input files.
//
// A producer needs the message broker (NATS) or the HTTP API, never the object store. With both, specs travel over NATS, so that they
// are taken even while the API is away, and everything else over HTTP. The package builds with CGO_ENABLED=0.
package producer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Config says where the fleet is; NATS.URL, API or both must be set.
type Config struct {
	// NATS is the broker that specs are handed in to.
	NATS natsq.Config
	// API is the base URL of the HTTP API, Token its bearer token.
	API   string
	Token telemetry.Secret
	// Patience bounds how long a call fights for a broker or API that is away (default 1 minute; a shorter deadline of the context wins).
	Patience time.Duration
	// Logger gets what is tried again (default: nothing).
	Logger *slog.Logger
}

// WithDefaults fills what is unset.
func (c Config) WithDefaults() Config {
	if c.Patience <= 0 {
		c.Patience = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.NATS.Name == "" {
		c.NATS.Name = "tunefleet-producer"
	}
	if c.NATS.Logger == nil {
		c.NATS.Logger = c.Logger
	}
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.NATS.URL == "" && c.API == "" {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "nats, api", "one of them must be set"))
	}
	if c.NATS.URL != "" {
		errs = append(errs, c.NATS.WithDefaults().Validate())
	}
	return errors.Join(errs...)
}

// Client hands in runs and follows them. It is safe for concurrent use.
type Client struct {
	cfg    Config
	intake *natsq.Queue
	api    *client.Client
}

// Open makes a client; with NATS it waits for the connection until ctx ends or Patience is over.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot configure the producer: %w", err)
	}
	c := &Client{cfg: cfg}
	if cfg.API != "" {
		api, err := client.New(cfg.API, cfg.Token.Reveal())
		if err != nil {
			return nil, err
		}
		c.api = api
	}
	if cfg.NATS.URL != "" {
		octx, cancel := context.WithTimeout(ctx, cfg.Patience)
		defer cancel()
		q, err := natsq.Open(octx, cfg.NATS)
		if err != nil {
			return nil, errors.Join(unavailable(err), c.Close())
		}
		c.intake = q
	}
	return c, nil
}

// Close drops the connections.
func (c *Client) Close() error {
	if c.intake != nil {
		c.intake.Close()
	}
	if c.api != nil {
		c.api.Close()
	}
	return nil
}

// Submit hands in a run and returns when it is accepted: it will not be lost then. A spec without Key and ID gets a key of its own, so
// that the tries of this one call meet the same run; give a Key to make calls repeatable. The spec itself is not changed.
//
// Errors are *schemas.ErrorInfo: CodeInvalid for a bad spec (every problem is named), CodeUnavailable when nobody answered in time: the
// run may still have been accepted, and submitting it again with the same Key is safe.
func (c *Client) Submit(ctx context.Context, spec *schemas.RunSpec) (reply *schemas.SubmitReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	ctx, span := telemetry.Tracer().Start(ctx, telemetry.SpanSubmit)
	defer func() { telemetry.End(span, err) }()
	s := *spec
	if s.Key == "" && s.ID == "" {
		s.Key = "once-" + strings.ToLower(ulid.Make().String())
	}
	if s.TraceParent == "" {
		s.TraceParent = telemetry.TraceParent(ctx)
	}
	delay := 100 * time.Millisecond
	for {
		reply, err = c.submit(ctx, &s)
		if err == nil || !schemas.IsCode(err, schemas.CodeUnavailable) {
			return reply, err
		}
		c.cfg.Logger.Warn("cannot submit, trying on", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
		delay = min(2*delay, 5*time.Second)
	}
}

func (c *Client) submit(ctx context.Context, s *schemas.RunSpec) (*schemas.SubmitReply, error) {
	if c.intake == nil {
		return c.api.Submit(ctx, s)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the spec: %w", err)
	}
	// One try may not use up the whole patience: the reply of a front that died is never sent.
	tctx, cancel := context.WithTimeout(ctx, max(c.cfg.Patience/6, 2*time.Second))
	defer cancel()
	out, err := c.intake.Submit(tctx, data, telemetry.Inject(ctx))
	if err != nil {
		return nil, unavailable(err)
	}
	var reply schemas.SubmitReply
	if err := json.Unmarshal(out, &reply); err != nil {
		return nil, unavailable(fmt.Errorf("cannot read the front's reply: %w", err))
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return &reply, nil
}

func unavailable(err error) error {
	var info *schemas.ErrorInfo
	if errors.As(err, &info) {
		return info
	}
	hint := "is the broker up? submitting again with the same key is safe"
	if errors.Is(err, queue.ErrNoStream) {
		hint = "is control up? it creates the streams"
	}
	return &schemas.ErrorInfo{Code: schemas.CodeUnavailable, Message: err.Error(), Hint: hint}
}

// http returns the API client, or an error that says that the call needs one.
func (c *Client) http(call string) (*client.Client, error) {
	if c.api == nil {
		return nil, schemas.Errorf(schemas.CodeUsage, "api", "%s needs the HTTP API, and the producer was opened without one", call).WithHint("set Config.API")
	}
	return c.api, nil
}

// Get returns a run with its spec, its stages and its latest live figures. CodeNotFound when there is none.
func (c *Client) Get(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	api, err := c.http("Get")
	if err != nil {
		return nil, err
	}
	return api.Get(ctx, tenant, run)
}

// List returns one page of runs, the newest first; RunList.Next is the After of the next page.
func (c *Client) List(ctx context.Context, f schemas.RunFilter) (*schemas.RunList, error) {
	api, err := c.http("List")
	if err != nil {
		return nil, err
	}
	return api.List(ctx, f)
}

// Cancel ends a run for good, at once. CodeConflict when it has ended otherwise.
func (c *Client) Cancel(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	api, err := c.http("Cancel")
	if err != nil {
		return nil, err
	}
	return api.Act(ctx, tenant, run, schemas.RunCancel)
}

// Follow calls fn for each event of a run, from the oldest that is kept, and returns the run's final view when it has ended. A broken
// connection is taken up where it was lost. An error of fn ends it and is returned as it is.
func (c *Client) Follow(ctx context.Context, tenant, run string, fn func(schemas.Event) error) (*schemas.RunView, error) {
	api, err := c.http("Follow")
	if err != nil {
		return nil, err
	}
	if err := api.Follow(ctx, tenant, run, "", func(id string, e schemas.Event) error {
		if id == "" && e.Type == schemas.EventState {
			return nil // the server's own last word: Get says the same
		}
		return fn(e)
	}); err != nil {
		return nil, err
	}
	return api.Get(ctx, tenant, run)
}

// Upload stores an input file for a tenant and returns the reference to put into a spec. path is the name that the run sees: relative,
// with slashes. A file that is there already is not sent again.
func (c *Client) Upload(ctx context.Context, tenant, path string, content io.ReadSeeker) (schemas.File, error) {
	api, err := c.http("Upload")
	if err != nil {
		return schemas.File{}, err
	}
	if !schemas.ValidPath(path) {
		return schemas.File{}, schemas.Errorf(schemas.CodeInvalid, path, "is not a relative path with slashes and without ..")
	}
	sum := sha256.New()
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return schemas.File{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	n, err := io.Copy(sum, content)
	if err != nil {
		return schemas.File{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	f := schemas.File{Path: path, SHA256: hex.EncodeToString(sum.Sum(nil)), Bytes: n}
	err = api.Upload(ctx, tenant, f, func() (io.ReadCloser, error) {
		_, err := content.Seek(0, io.SeekStart)
		return io.NopCloser(content), err
	})
	return f, err
}
