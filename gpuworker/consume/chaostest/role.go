package chaostest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// Process says which process of a cell to be.
type Process struct {
	// Name is "nats", "redis", "s3", or "control" or "worker" with any suffix.
	Name string
	// Dir is the data directory of the cell.
	Dir string
	// LeaseTTL is short in tests.
	LeaseTTL time.Duration
	// HintDelay is how long seats are left to those who held them; 0: the product's.
	HintDelay time.Duration
	// RankCommand and RankEnv start a worker's rank process, whose main function is consume.RunRank with Handlers and consume.OpenStore.
	RankCommand []string
	RankEnv     []string
	Logger      *slog.Logger
	// Connect, when not nil, says where the servers are instead of the data directory's record.
	Connect *connect.Config
	// TuneControl and TuneWorker, when not nil, change the configuration of a control or worker before it starts.
	TuneControl func(*control.Config)
	TuneWorker  func(*consume.Config)
}

// Run is the main function of the process; it returns when ctx ends.
func (p Process) Run(ctx context.Context) error {
	switch {
	case p.Name == "nats", p.Name == "redis", p.Name == "s3":
		s, err := embedded.Start(ctx, embedded.Options{Dir: p.Dir, Parts: []embedded.Part{embedded.Part(p.Name)}, Logger: p.Logger})
		if err != nil {
			return err
		}
		defer s.Close()
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.Failed():
			return err
		}
	case strings.HasPrefix(p.Name, "control"):
		return p.control(ctx)
	case strings.HasPrefix(p.Name, "worker"):
		return p.worker(ctx)
	}
	return fmt.Errorf("unknown process %q", p.Name)
}

func (p Process) open(ctx context.Context) (*connect.Services, error) {
	if p.Connect != nil {
		return OpenConfig(ctx, *p.Connect, p.Logger)
	}
	rec, err := embedded.Load(p.Dir)
	if err != nil {
		return nil, err
	}
	return Open(ctx, rec, p.Logger)
}

// Open connects to the servers of a data directory, waiting for those that are down.
func Open(ctx context.Context, rec embedded.Record, logger *slog.Logger) (*connect.Services, error) {
	return OpenConfig(ctx, rec.Connect(), logger)
}

// OpenConfig connects to servers, waiting for those that are down.
func OpenConfig(ctx context.Context, c connect.Config, logger *slog.Logger) (*connect.Services, error) {
	for {
		octx, cancel := context.WithTimeout(ctx, 10*time.Second)
		s, err := connect.Open(octx, c, logger)
		cancel()
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p Process) control(ctx context.Context) error {
	s, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	cfg := control.Config{Pools: []string{"cpu"}, Interval: 100 * time.Millisecond, LedgerTTL: 2 * time.Second, EnsureEvery: time.Second,
		Limits: control.Limits{LeaseTTL: p.LeaseTTL, Forming: 20 * time.Second, Republish: time.Second}, Logger: p.Logger}
	if p.TuneControl != nil {
		p.TuneControl(&cfg)
	}
	c, err := control.New(s.Objects, s.Queue, s.Leases, cfg)
	if err != nil {
		return err
	}
	front := control.NewFront(s.Objects, s.Queue, p.Logger)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for ctx.Err() == nil {
			if err := s.Queue.Serve(ctx, front.Handle); err != nil && ctx.Err() == nil {
				p.Logger.Warn("intake stopped, trying on", "error", err)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	err = c.Run(ctx)
	<-served
	return err
}

func (p Process) worker(ctx context.Context) error {
	s, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	cfg := consume.Config{Name: p.Name, Pool: "cpu", Threads: 1, LeaseTTL: p.LeaseTTL, HintDelay: p.HintDelay, PullWait: 100 * time.Millisecond,
		FormPoll: 100 * time.Millisecond, WatchPoll: 500 * time.Millisecond, FormTimeout: 10 * time.Second, BlameGrace: 300 * time.Millisecond,
		DrainTimeout: 20 * time.Second, KillGrace: 2 * time.Second, OpTimeout: 30 * time.Second,
		RankCommand: p.RankCommand, RankEnv: append(consume.StoreEnv(s.Config.S3), p.RankEnv...)}
	if p.TuneWorker != nil {
		p.TuneWorker(&cfg)
	}
	a, err := consume.New(cfg, consume.Services{Work: s.Queue, Leases: s.Leases, Objects: s.Objects, Logger: p.Logger})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// Logger logs to standard error, where a cell's processes log.
func Logger(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", name)
}
