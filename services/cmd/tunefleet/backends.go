package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// backendConfig says where broker, lease server and object store are: by the TUNEFLEET_* variables when set, otherwise by the record of the
// data directory.
func (a *app) backendConfig() (connect.Config, error) {
	c, ok, err := connect.FromEnv()
	if ok || err != nil {
		return c, err
	}
	dir, err := a.dir()
	if err != nil {
		return c, err
	}
	r, err := embedded.Load(dir)
	if err != nil {
		return c, err
	}
	return r.Connect(), nil
}

// openBackends connects, giving servers that are just starting up to wait.
func openBackends(ctx context.Context, c connect.Config, name string, wait time.Duration, log *slog.Logger) (*connect.Services, error) {
	c.NATS.Name = name
	tctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		s, err := connect.Open(tctx, c, log)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !schemas.IsCode(err, schemas.CodeUnavailable) || tctx.Err() != nil {
			return nil, err
		}
		log.Info("waiting for the servers", "error", err)
		select {
		case <-tctx.Done():
			return nil, err
		case <-time.After(300 * time.Millisecond):
		}
	}
}
