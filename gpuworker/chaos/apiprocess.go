package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
)

const (
	envAPIAddress = "TUNEFLEET_CHAOS_API"
	envAPIToken   = "TUNEFLEET_CHAOS_API_TOKEN"
	// apiProcess is the process that serves the API, for the rows that need it.
	apiProcess = "api-1"
	// collectedName is the file by which the API's process says that it has collected its garbage, collectWithin how long that may take.
	collectedName = "api-collected"
	collectWithin = 20 * time.Second
)

// runAPI serves the product's API over the fleet's servers.
func runAPI(ctx context.Context, logger *slog.Logger) error {
	c, ok, err := connect.FromEnv()
	if err != nil || !ok {
		return schemas.Errorf(schemas.CodeInternal, apiProcess, "the servers of the fleet are not named: %v", err)
	}
	s, err := chaostest.OpenConfig(ctx, c, logger)
	if err != nil {
		return err
	}
	defer s.Close()
	service := control.NewService(s.Objects, s.Leases, s.Queue, logger)
	server, err := api.New(api.Config{Token: os.Getenv(envAPIToken), Version: "chaos"}, api.Services{Runs: service, Fleet: service, Objects: s.Objects, Live: s.Leases, Logger: logger})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", os.Getenv(envAPIAddress))
	if err != nil {
		return fmt.Errorf("cannot serve the API: %w", err)
	}
	collect := make(chan os.Signal, 1)
	signal.Notify(collect, syscall.SIGUSR1)
	defer signal.Stop(collect)
	go giveBack(ctx, collect, filepath.Join(os.Getenv(envDir), collectedName), logger)
	return server.Serve(ctx, l)
}

// giveBack collects garbage at each signal and returns the room to the system, so that what is resident is what is held; then it makes a
// file, as the answer.
func giveBack(ctx context.Context, collect <-chan os.Signal, answer string, logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-collect:
			debug.FreeOSMemory()
			if err := os.WriteFile(answer, nil, 0o600); err != nil {
				logger.Error("cannot say that garbage was collected", "error", err)
			}
		}
	}
}

// apiEnv is what the API's process needs beside the addresses of the servers.
func (f *fleet) apiEnv() []string {
	return []string{envAPIAddress + "=" + loopback(f.rec.API), envAPIToken + "=" + f.rec.APIToken}
}

// startAPI starts the API and waits until it answers.
func (f *fleet) startAPI(ctx context.Context) error {
	if err := f.start(apiProcess); err != nil {
		return err
	}
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		var list schemas.PoolList
		if err = f.ask(ctx, "/v1/pools", &list); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the API does not answer: %w", err)
}

func (f *fleet) stopAPI() { _ = f.cell.Signal(apiProcess, syscall.SIGKILL) }

// ask reads from the API.
func (f *fleet) ask(ctx context.Context, path string, into any) error {
	rctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(rctx, http.MethodGet, "http://"+loopback(f.rec.API)+path, nil)
	if err != nil {
		return fmt.Errorf("cannot ask the API: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+f.rec.APIToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask the API: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d: %.200s", path, resp.StatusCode, body)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	return err
}
