package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// parts of `up`.
var upParts = []string{"nats", "redis", "s3", "control", "api"}

// maxUpWorkers is the most worker processes that up starts on this machine.
const maxUpWorkers = 64

func (a *app) upCommand() *cobra.Command {
	var only []string
	var workers int
	var pools []string
	c := &cobra.Command{
		Use: "up", Short: "Run everything on this machine: broker, lease server, object store, control and API",
		Long: "Up runs an embedded nats-server, a Redis-compatible server, an S3 server, control and the API on loopback ports over one data directory,\n" +
			"until it is interrupted. With --only each part runs as a process of its own over the same directory.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, o := range only {
				if !slices.Contains(upParts, o) {
					e := schemas.Errorf(schemas.CodeUsage, "--only", "%q is none of %s", o, strings.Join(upParts, ", "))
					if near := config.Nearest(o, upParts, 1); len(near) > 0 {
						return e.WithHint("did you mean %s?", near[0])
					}
					return e
				}
			}
			if len(only) == 0 {
				only = upParts
			}
			if workers < 0 || workers > maxUpWorkers {
				return schemas.Errorf(schemas.CodeUsage, "--workers", "%d is not in 0..%d", workers, maxUpWorkers)
			}
			return a.up(cmd.Context(), only, pools, workers)
		},
	}
	c.Flags().StringSliceVar(&only, "only", nil, "run only these parts: "+strings.Join(upParts, ", "))
	c.Flags().StringSliceVar(&pools, "pools", []string{"cpu"}, "pools to schedule from the start")
	c.Flags().IntVar(&workers, "workers", 0, "also start so many worker processes (pool cpu)")
	return c
}

func (a *app) up(ctx context.Context, only, pools []string, workers int) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	dir, err := a.dir()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := startStack(ctx, dir, only, pools, log)
	if err != nil {
		return err
	}
	defer s.close()
	if a.json {
		if err := a.print(map[string]any{"ready": true, "dir": dir, "api": s.record.APIURL(), "parts": only}); err != nil {
			return err
		}
	}
	a.say("data directory  %s", dir)
	if slices.Contains(only, "api") {
		a.say("dashboard       %s/#code=%s (once, within an hour; then: tunefleet dashboard)", s.record.APIURL(), s.server.SignInCode())
	}
	if workers > 0 {
		fleet := newFleet(dir, a.logLevel)
		defer fleet.stop(10 * time.Second)
		for range workers {
			if _, err := fleet.start(threadsFor(workers)); err != nil {
				return err
			}
		}
		a.say("workers         %d processes, logs in %s", workers, fleet.logs)
	} else if slices.Contains(only, "control") {
		a.say("next: tunefleet worker --pool cpu     and then: tunefleet submit run.yaml --follow")
	}
	a.say("up; Ctrl-C stops it")
	select {
	case <-ctx.Done():
		a.say("stopping")
		return nil
	case err := <-s.failed:
		return err
	}
}

// stack is what `up` runs in one process.
type stack struct {
	record embedded.Record
	// failed delivers the first part that ended by itself.
	failed  chan error
	servers *embedded.Servers
	// server is the API, where it runs.
	server *api.Server
	cancel context.CancelFunc
	done   []chan struct{}
	back   *connect.Services
}

// close stops API and control first, then the servers under them.
func (s *stack) close() {
	s.cancel()
	for _, d := range s.done {
		<-d
	}
	if s.back != nil {
		s.back.Close()
	}
	if s.servers != nil {
		s.servers.Close()
	}
}

// startStack starts the given parts over a data directory and returns when they answer.
func startStack(ctx context.Context, dir string, only, pools []string, log *slog.Logger) (_ *stack, err error) {
	// Parts end in order, not all at once with ctx: control gives up its ledgers while the store still answers.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &stack{failed: make(chan error, 4), cancel: cancel}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var servers []embedded.Part
	for _, p := range []embedded.Part{embedded.NATS, embedded.Redis, embedded.S3} {
		if slices.Contains(only, string(p)) {
			servers = append(servers, p)
		}
	}
	if len(servers) > 0 {
		// The servers outlive inner: close stops them last.
		if s.servers, err = embedded.Start(context.WithoutCancel(ctx), embedded.Options{Dir: dir, Parts: servers, Logger: log}); err != nil {
			return nil, err
		}
		s.record = s.servers.Record
		s.run(func() error {
			select {
			case <-inner.Done():
				return nil
			case err := <-s.servers.Failed():
				return err
			}
		})
	} else if s.record, err = waitRecord(ctx, dir); err != nil {
		return nil, err
	}
	withControl, withAPI := slices.Contains(only, "control"), slices.Contains(only, "api")
	if !withControl && !withAPI {
		return s, nil
	}
	shutdown, err := telemetry.Setup(ctx, "control", version())
	if err != nil {
		return nil, err
	}
	s.run(func() error { <-inner.Done(); return shutdown(context.WithoutCancel(inner)) })
	if s.back, err = openBackends(ctx, s.record.Connect(), "tunefleet-control", time.Minute, log); err != nil {
		return nil, err
	}
	return s, s.serve(ctx, inner, serveOptions{control: withControl, api: withAPI, pools: pools, address: s.record.APIAddr(), token: s.record.APIToken, dir: dir}, log)
}

// run keeps a goroutine of the stack; an error ends the stack's owner.
func (s *stack) run(fn func() error) {
	d := make(chan struct{})
	s.done = append(s.done, d)
	go func() {
		defer close(d)
		if err := fn(); err != nil && !errors.Is(err, context.Canceled) {
			select {
			case s.failed <- err:
			default:
			}
		}
	}()
}

type serveOptions struct {
	control, api   bool
	pools          []string
	address, token string
	// dir is the data directory of the stack's record.
	dir string
}

// serve starts control (with the intake) and the API over the stack's backends.
func (s *stack) serve(ctx, inner context.Context, o serveOptions, log *slog.Logger) error {
	if o.control {
		c, err := control.New(s.back.Objects, s.back.Queue, s.back.Leases, control.Config{Pools: o.pools, Logger: log})
		if err != nil {
			return err
		}
		s.run(func() error { return c.Run(inner) })
		front := control.NewFront(s.back.Objects, s.back.Queue, log)
		s.run(func() error { return serveIntake(inner, s.back, front, log) })
	}
	if o.api {
		service := control.NewService(s.back.Objects, s.back.Leases, s.back.Queue, log)
		server, err := api.New(api.Config{Token: o.token, Version: version()},
			api.Services{Runs: service, Fleet: service, Operator: service, Checkpoints: service, Objects: s.back.Objects, Live: s.back.Leases, Logger: log})
		if err != nil {
			return schemas.Errorf(schemas.CodeInvalid, "api", "%v", err)
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", o.address)
		if err != nil {
			if s.record.API != 0 {
				return embedded.PortTaken(o.dir, s.record.API, err)
			}
			return schemas.Errorf(schemas.CodeConflict, o.address, "cannot listen: %v", err).WithHint("--listen names another address")
		}
		s.server = server
		s.run(func() error { return server.Serve(inner, l) })
	}
	return nil
}

// serveIntake answers producers. A broker that is away, or has no stream yet, is waited for.
func serveIntake(ctx context.Context, b *connect.Services, front *control.Front, log *slog.Logger) error {
	for ctx.Err() == nil {
		if err := b.Queue.Serve(ctx, front.Handle); err != nil && ctx.Err() == nil {
			log.Debug("intake waits for the broker", "error", err)
		}
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	return nil
}

// waitRecord waits for the process that makes the data directory, when the parts are started at the same time.
func waitRecord(ctx context.Context, dir string) (embedded.Record, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		r, err := embedded.Load(dir)
		if err == nil || !schemas.IsCode(err, schemas.CodeNotFound) || time.Now().After(deadline) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// browserAddress is where a browser on this machine finds what listens on an address.
func browserAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

func (a *app) serveCommand() *cobra.Command {
	var address string
	var pools []string
	c := &cobra.Command{
		Use: "serve", Short: "Run control and the HTTP API over servers of your own",
		Long: "Serve runs control and the API against the servers of TUNEFLEET_NATS_URL, TUNEFLEET_REDIS_URL and TUNEFLEET_S3_ENDPOINT (or the embedded ones\n" +
			"of --dir). The API's token is TUNEFLEET_TOKEN; a random one is made and printed when it is not set.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			log, err := a.logger()
			if err != nil {
				return err
			}
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return schemas.Errorf(schemas.CodeUsage, "--listen", "%q is no host:port", address).WithHint("such as 127.0.0.1:7070, or :7070 for every interface")
			}
			where, err := a.backendConfig()
			if err != nil {
				return err
			}
			inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
			s := &stack{failed: make(chan error, 4), cancel: cancel}
			defer s.close()
			shutdown, err := telemetry.Setup(ctx, "control", version())
			if err != nil {
				return err
			}
			s.run(func() error { <-inner.Done(); return shutdown(context.WithoutCancel(inner)) })
			if s.back, err = openBackends(ctx, where, "tunefleet-serve", time.Minute, log); err != nil {
				return err
			}
			token := a.token
			if token == "" {
				token = strings.ToLower(rand.Text())
			}
			if err := s.serve(ctx, inner, serveOptions{control: true, api: true, pools: pools, address: address, token: token}, log); err != nil {
				return err
			}
			a.say("control and API are up on http://%s", address)
			a.say("dashboard       http://%s/#code=%s (once, within an hour; then: tunefleet dashboard --server http://%s)", browserAddress(address), s.server.SignInCode(), browserAddress(address))
			if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
				a.say("the API speaks plain HTTP: beyond this machine put a proxy with TLS before it, or tokens can be read on the way")
			}
			if a.token == "" {
				fmt.Fprintf(a.err, "token: %s\n", token)
			}
			select {
			case <-ctx.Done():
				return nil
			case err := <-s.failed:
				return err
			}
		},
	}
	c.Flags().StringVar(&address, "listen", nonEmpty(os.Getenv("TUNEFLEET_LISTEN"), "127.0.0.1:7070"), "address of the API (or TUNEFLEET_LISTEN)")
	c.Flags().StringSliceVar(&pools, "pools", []string{"cpu"}, "pools to schedule from the start")
	return c
}
