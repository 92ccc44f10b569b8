package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// submitters is how many clients submit at a time.
const submitters = 64

// rate calls do from submitters at a time for as long, and returns calls a second.
func rate(ctx context.Context, d time.Duration, do func(ctx context.Context, n int64) error) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next, done atomic.Int64
	errs := make([]error, submitters)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range submitters {
		wg.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				if errs[i] = do(ctx, next.Add(1)); errs[i] != nil {
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

// submit measures acknowledged submissions: straight into a front (as its HTTP handler does) and over the broker, beside raw PUTs.
func (b *bench) submit(ctx context.Context) error {
	d := 8 * time.Second
	if b.quick {
		d = time.Second
	}
	quiet := slog.New(slog.DiscardHandler)
	dir := filepath.Join(b.dir, "submit")
	servers, err := embedded.Start(ctx, embedded.Options{Dir: dir, Logger: quiet})
	if err != nil {
		return err
	}
	defer servers.Close()
	s, err := connect.Open(ctx, servers.Record.Connect(), quiet)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Queue.Ensure(ctx, map[string]int{"cpu": 1}); err != nil {
		return err
	}
	raw, err := json.Marshal(spec(1))
	if err != nil {
		return err
	}
	// Both in turns: what else the machine does falls on both.
	const rounds = 4
	counting := &writes{Objects: s.Objects}
	front := control.NewFront(counting, s.Queue, quiet)
	var puts, accepted float64
	runs := 0.0
	for round := range rounds {
		n, err := rate(ctx, d/2, func(ctx context.Context, n int64) error {
			_, err := s.Objects.Put(ctx, fmt.Sprintf("raw/%d-%08d.json", round, n), raw, store.Condition{Absent: true})
			return err
		})
		if err != nil {
			return err
		}
		puts += n / rounds
		began := time.Now()
		n, err = rate(ctx, d/2, func(ctx context.Context, n int64) error {
			one := spec(1)
			one.Key = fmt.Sprintf("key-%d-%d", round, n)
			reply, err := front.Accept(ctx, one)
			if err == nil && reply.Duplicate {
				err = fmt.Errorf("run %s was there before", reply.Run)
			}
			return err
		})
		if err != nil {
			return err
		}
		accepted += n / rounds
		runs += n * time.Since(began).Seconds()
	}
	perRun := float64(counting.n.Load()) / runs
	open, err := openRuns(ctx, s.Objects)
	if err != nil {
		return err
	}
	if open < int(runs) {
		return fmt.Errorf("%.0f runs were acknowledged, the index of open runs has %d", runs, open)
	}
	sctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.Queue.Serve(sctx, front.Handle) }()
	overBroker, err := rate(ctx, d, func(ctx context.Context, _ int64) error {
		raw, err := s.Queue.Submit(ctx, raw, nil)
		var reply schemas.SubmitReply
		if err == nil {
			err = json.Unmarshal(raw, &reply)
		}
		if err == nil && reply.Error != nil {
			err = reply.Error
		}
		return err
	})
	stop()
	if err := errors.Join(err, <-served); err != nil {
		return err
	}
	memory := control.NewFront(memstore.New(), s.Queue, quiet)
	fast, err := rate(ctx, d/2, func(ctx context.Context, _ int64) error {
		_, err := memory.Accept(ctx, spec(1))
		return err
	})
	if err != nil {
		return err
	}
	b.add(figure{Name: "raw conditional PUTs", Value: puts, Unit: "/s", Note: "embedded versitygw, 64 clients"})
	b.add(figure{Name: "runs accepted by one front", Value: fast, Unit: "runs/s", AtLeast: 1000, Simulated: true, Note: "store in memory: what the front itself can do"})
	b.add(figure{Name: "runs accepted by one front, real store", Value: accepted, Unit: "runs/s", AtLeast: min(1000, 0.8*puts),
		Note: fmt.Sprintf("with idempotency keys, in turns with the raw PUTs: %.0f %% of their rate; %.2f writes a run", 100*accepted/puts, perRun)})
	b.add(figure{Name: "runs accepted over the broker", Value: overBroker, Unit: "runs/s", Note: "the broker syncs each submission to the same disk first"})
	return nil
}

// writes counts PUTs.
type writes struct {
	store.Objects
	n atomic.Int64
}

func (w *writes) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	w.n.Add(1)
	return w.Objects.Put(ctx, key, data, c)
}

// openRuns counts what the index of open runs names, in objects of their own and in batches.
func openRuns(ctx context.Context, objects store.Objects) (int, error) {
	n := 0
	for info, err := range objects.List(ctx, "open/") {
		if err != nil {
			return 0, err
		}
		if !schemas.IsOpenBatch(info.Key) {
			n++
			continue
		}
		data, _, err := objects.Get(ctx, info.Key, schemas.MaxOpenBatchBytes)
		if err != nil {
			return 0, err
		}
		var b schemas.OpenBatch
		if err := json.Unmarshal(data, &b); err != nil {
			return 0, fmt.Errorf("cannot decode %s: %w", info.Key, err)
		}
		n += len(b.Specs)
	}
	return n, nil
}

func spec(world int) *schemas.RunSpec {
	return chaostest.Spec(chaostest.Options{Steps: 100, CommitEvery: 10, World: world})
}
