package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/control/simulate"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/queue/memq"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// slowStore answers a GET after as long as an object store in the same region takes, and counts them.
type slowStore struct {
	store.Objects
	gets atomic.Int64
	// known counts the runs whose HEAD was looked for, seen holds their keys.
	known atomic.Int64
	seen  sync.Map
}

const getLatency = 15 * time.Millisecond

// getsARun is what the rebuilding of 100,000 runs may cost: one GET for HEAD, and the specs of those that come next.
const getsARun = 1.05

func (s *slowStore) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	s.gets.Add(1)
	select {
	case <-time.After(getLatency):
	case <-ctx.Done():
		return nil, store.Info{}, ctx.Err()
	}
	data, info, err := s.Objects.Get(ctx, key, limit)
	if strings.HasSuffix(key, "/HEAD.json") {
		if _, again := s.seen.LoadOrStore(key, true); !again {
			s.known.Add(1)
		}
	}
	return data, info, err
}

// rebuild measures how long a control replica without any memory takes to know every open run, beside broker and lease server that are empty.
func (b *bench) rebuild(ctx context.Context) error {
	runs := b.runs
	if b.quick {
		runs = 5_000
	}
	getsMost := getsARun
	if runs < 50_000 { // the specs of those that come next weigh more
		getsMost = 1.2
	}
	objects := &slowStore{Objects: memstore.New()}
	for i := range runs {
		s := spec(1 + i%4)
		s.Tenant, s.ID, s.Priority = fmt.Sprintf("tenant%03d", i%1000), fmt.Sprintf("run%08d", i), i%4
		raw, err := json.Marshal(s)
		if err != nil {
			return err
		}
		for _, key := range []string{schemas.SpecKey(s.Tenant, s.ID), schemas.OpenKey(s.Pool, s.Priority, s.Tenant, s.ID)} {
			if _, err := objects.Put(ctx, key, raw, store.Condition{Absent: true}); err != nil {
				return err
			}
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	leases := memlease.New()
	c, err := control.New(objects, memq.New(0), leases, control.Config{Pools: []string{"cpu"}, Logger: quiet})
	if err != nil {
		return err
	}
	cctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- c.Run(cctx) }()
	most := 6 * time.Minute
	last, lastGets, peak := began, int64(0), 0.0
	for objects.known.Load() < int64(runs) && time.Since(began) < most && ctx.Err() == nil {
		time.Sleep(200 * time.Millisecond)
		if d := time.Since(last); d >= 5*time.Second {
			n := objects.gets.Load()
			if last != began {
				peak = max(peak, float64(n-lastGets)/d.Seconds())
			}
			last, lastGets = time.Now(), n
		}
	}
	took := time.Since(began)
	known, gets := objects.known.Load(), objects.gets.Load()
	stop()
	if err := <-ended; err != nil {
		return err
	}
	if known < int64(runs) {
		return fmt.Errorf("only %d of %d runs are known after %s", known, runs, took)
	}
	b.add(figure{Name: fmt.Sprintf("control knows %d open runs again", runs), Value: took.Seconds(), Unit: "s", AtMost: 300, Simulated: true,
		Note: fmt.Sprintf("store in memory with %s a GET", getLatency)})
	b.add(figure{Name: "GETs while it rebuilds, 5 s mean", Value: peak, Unit: "/s", AtMost: 505, Simulated: true})
	b.add(figure{Name: "GETs a run while it rebuilds", Value: float64(gets) / float64(runs), Unit: "GETs", AtMost: getsMost, Simulated: true})
	return nil
}

// simulate measures the simulator on the large day: 10,000 workers, 1,000 tenants, 100,000 runs.
func (b *bench) simulate(ctx context.Context) error {
	cfg := simulate.Config{Seed: 1}
	if b.quick {
		cfg.Workers, cfg.Tenants, cfg.Runs = 1000, 100, 10_000
	}
	began := time.Now()
	r, err := simulate.Run(ctx, cfg)
	if err != nil {
		return err
	}
	b.add(figure{Name: "a simulated day of 10,000 workers", Value: time.Since(began).Seconds(), Unit: "s", AtMost: 60, Simulated: true,
		Note: fmt.Sprintf("utilization %.3f, fairness %.3f, %d decisions", r.Utilization, r.Fairness, r.Decisions)})
	return nil
}
