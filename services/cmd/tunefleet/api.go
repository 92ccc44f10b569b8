package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/infer"
	"github.com/tunefleet/tunefleet/gpuworker/infer/openai"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// apiFlags say where the API listens, and how much it takes.
type apiFlags struct {
	modelFlags
	host, name   string
	port         int
	slots, queue int
	open         bool
	grace        time.Duration
}

func (a *app) apiCommand() *cobra.Command {
	var f apiFlags
	c := &cobra.Command{
		Use: "api MODEL [key=value ...]", Short: "Serve a model by the protocol of OpenAI's API",
		Long: "Api serves a model, named as for chat, by HTTP: GET /v1/models, POST /v1/chat/completions (tools, streams), POST /v1/completions, and for a reward\n" +
			"model (stage=rm) POST /v1/score/evaluation; GET /healthz. Several requests are answered at a time (--slots), others wait (--queue), more are told\n" +
			"to come again (429). As for llamafactory-cli api, API_HOST, API_PORT, API_MODEL_NAME and API_KEY are read; the key is in the environment alone.\n" +
			"Other addresses than this machine's are listened on only with a key, or with --no-key.",
		Example: "  tunefleet api ./qwen2.5-0.5b-instruct\n  API_KEY=secret tunefleet api ./output --host 0.0.0.0 --port 8000 --slots 8\n" +
			"  tunefleet api ./reward-model stage=rm",
		Args: needsModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.environment(cmd, os.Getenv); err != nil {
				return err
			}
			key := os.Getenv("API_KEY")
			if err := f.guard(key); err != nil {
				return err
			}
			inf, err := a.inference(cmd, &f.modelFlags, args)
			if err != nil {
				return err
			}
			if f.name == "" {
				f.name = filepath.Base(inf.Base)
			}
			return a.serveAPI(cmd.Context(), inf, &f, key)
		},
	}
	f.add(c)
	fl := c.Flags()
	fl.StringVar(&f.host, "host", "127.0.0.1", "address to listen on (or API_HOST)")
	fl.IntVar(&f.port, "port", 8000, "port to listen on, 0 for any (or API_PORT)")
	fl.StringVar(&f.name, "name", "", "what the model is called (or API_MODEL_NAME); default: its folder's name")
	fl.IntVar(&f.slots, "slots", 4, "requests that are answered at a time")
	fl.IntVar(&f.queue, "queue", 64, "requests that wait beyond those")
	fl.BoolVar(&f.open, "no-key", false, "listen on other machines' networks without API_KEY")
	fl.DurationVar(&f.grace, "grace", 30*time.Second, "how long answers under way may take when the server is told to stop")
	return c
}

// environment takes over what the environment says where the command line says nothing.
func (f *apiFlags) environment(cmd *cobra.Command, getenv func(string) string) error {
	if v := getenv("API_HOST"); v != "" && !cmd.Flags().Changed("host") {
		f.host = v
	}
	if v := getenv("API_MODEL_NAME"); v != "" && !cmd.Flags().Changed("name") {
		f.name = v
	}
	if v := getenv("API_PORT"); v != "" && !cmd.Flags().Changed("port") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return schemas.Errorf(schemas.CodeUsage, "API_PORT", "%q is no port", v)
		}
		f.port = n
	}
	if f.port < 0 || f.port > 65535 {
		return schemas.Errorf(schemas.CodeUsage, "--port", "%d is no port", f.port)
	}
	return nil
}

// guard refuses to serve other machines without a key.
func (f *apiFlags) guard(key string) error {
	if key != "" || f.open || isLoopback(f.host) {
		return nil
	}
	return schemas.Errorf(schemas.CodeUsage, "API_KEY", "is not set, and %s can be reached from other machines", f.host).
		WithHint("set API_KEY; or listen on 127.0.0.1; or allow everybody with --no-key")
}

// isLoopback reports whether an address is this machine's alone.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// serveAPI serves until ctx ends; answers under way are then given time to end.
func (a *app) serveAPI(ctx context.Context, inf *config.Inference, f *apiFlags, key string) (err error) {
	log, err := a.logger()
	if err != nil {
		return err
	}
	// A port that is taken is found out before the model is loaded.
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(f.host, strconv.Itoa(f.port)))
	if err != nil {
		return schemas.Errorf(schemas.CodeUsage, "--port", "cannot listen: %v", err).WithHint("name another --port or --host")
	}
	defer l.Close()
	model, err := a.openModel(ctx, inf, &f.modelFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	var e *infer.Engine
	if !model.Rewards() {
		if e, err = infer.NewEngine(model, infer.EngineOptions{Slots: f.slots, Queue: f.queue, Context: f.context}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.Close()) }()
	}
	o := openai.Options{Name: f.name, Key: key, MaxNewTokens: inf.Generation.MaxNewTokens, Sampling: sampling(inf), KeepSpecial: inf.Generation.KeepSpecial,
		Waiting: f.queue, Logger: log, Seed: func() uint64 {
			if inf.Seed != nil {
				return *inf.Seed
			}
			return rand.Uint64() //nolint:gosec // draws of words, no secret
		}}
	// Requests end with base, not with ctx: they have the time of grace.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{Handler: openai.New(model, e, o).Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, BaseContext: func(net.Listener) context.Context { return base }}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	if err := a.sayServing(l.Addr(), f.name); err != nil {
		return errors.Join(err, srv.Close())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("cannot serve: %w", err)
	case <-ctx.Done():
	}
	a.say("stopping: answers under way have %s to end", f.grace)
	stop, done := context.WithTimeout(context.WithoutCancel(ctx), f.grace)
	defer done()
	err = srv.Shutdown(stop)
	cancel()
	if errors.Is(err, context.DeadlineExceeded) {
		a.say("answers that had not ended were cut off")
		err = srv.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// sayServing tells where the API is: for a program as one object on standard output.
func (a *app) sayServing(at net.Addr, name string) error {
	url := "http://" + at.String() + "/v1"
	if a.json {
		return a.print(map[string]string{"url": url, "model": name})
	}
	a.say("serving %s at %s", name, url)
	return nil
}
