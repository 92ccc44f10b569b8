package consume

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Goroutines launches ranks inside the test's process: the same protocol over pipes, over any store.
type Goroutines struct {
	Handlers map[schemas.StageKind]Handler
	Objects  store.Objects

	mu    sync.Mutex
	ranks []func()
}

func (g *Goroutines) launch(logger *slog.Logger, _ string, ended func(doneNotice)) (*process, error) {
	orderR, orderW := io.Pipe()
	noticeR, noticeW := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	kill := func() {
		noticeW.Close() // a killed process reports nothing
		cancel()
		orderR.CloseWithError(io.ErrClosedPipe)
	}
	g.mu.Lock()
	g.ranks = append(g.ranks, kill)
	g.mu.Unlock()
	go func() {
		serveRank(ctx, orderR, noticeW, g.Handlers, func(context.Context) (store.Objects, error) { return g.Objects, nil }, logger)
		cancel()
		orderR.CloseWithError(io.ErrClosedPipe)
		noticeW.Close()
		ended(doneNotice{Outcome: outcomeCrashed, Error: &schemas.ErrorInfo{Code: schemas.CodeUnavailable, Message: "killed"}})
	}()
	return &process{orders: orderW, notices: noticeR, kill: kill}, nil
}

// KillNewest kills the newest rank, as kill -9 does.
func (g *Goroutines) KillNewest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.ranks); n > 0 {
		g.ranks[n-1]()
	}
}

// NewInProcess makes an agent whose ranks are goroutines.
func NewInProcess(cfg Config, s Services, g *Goroutines) (*Agent, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return newAgent(cfg, s, g)
}
