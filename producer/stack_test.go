package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/tunefleet/tunefleet/producer"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// fleet is a whole tunefleet in this process for the examples: a real broker and API over loopback, the object store and leases in memory,
// control, and a worker that prepares data by doing nothing.
type fleet struct {
	NATS    natsq.Config
	API     string
	Token   string
	objects *memstore.Store
	heads   *checkpoint.Heads
	cancel  context.CancelFunc
	stop    []func()
	wg      sync.WaitGroup
}

// startFleet starts a fleet; worker says whether anybody works.
func startFleet(worker bool) (*fleet, error) {
	f := &fleet{Token: "an-example-token-0001", objects: memstore.New()}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.heads = checkpoint.NewHeads(f.objects, checkpoint.Config{})
	dir, err := os.MkdirTemp("", "producer-*")
	if err != nil {
		return nil, err
	}
	f.stop = append(f.stop, func() { _ = os.RemoveAll(dir) })
	ns, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true})
	if err != nil {
		return nil, err
	}
	ns.Start()
	f.stop = append(f.stop, func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the broker is not ready")
	}
	f.NATS = natsq.Config{URL: ns.ClientURL()}
	work, err := natsq.Open(ctx, f.NATS)
	if err != nil {
		return nil, err
	}
	f.stop = append(f.stop, work.Close)
	leases := memlease.New()
	log := slog.New(slog.DiscardHandler)
	ctl, err := control.New(f.objects, work, leases, control.Config{Interval: 10 * time.Millisecond, Logger: log})
	if err != nil {
		return nil, err
	}
	f.wg.Go(func() { _ = ctl.Run(ctx) })
	front := control.NewFront(f.objects, work, log)
	f.wg.Go(func() { _ = work.Serve(ctx, front.Handle) })
	service := control.NewService(f.objects, leases, work, log)
	srv, err := api.New(api.Config{Token: f.Token, Poll: 10 * time.Millisecond, Spool: dir}, api.Services{Runs: service, Fleet: service, Objects: f.objects, Live: leases, Logger: log})
	if err != nil {
		return nil, err
	}
	hs := httptest.NewServer(srv.Handler())
	f.API = hs.URL
	f.stop = append(f.stop, func() { hs.CloseClientConnections(); hs.Close() })
	if worker {
		f.wg.Go(func() { f.work(ctx, work) })
	}
	return f, nil
}

// work stores an empty result for each prep part.
func (f *fleet) work(ctx context.Context, work *natsq.Queue) {
	for ctx.Err() == nil {
		d, err := work.Pull(ctx, schemas.KindPrep, "cpu", 100*time.Millisecond)
		if err != nil {
			time.Sleep(5 * time.Millisecond) // no stream yet
			continue
		}
		m := d.Message()
		data, err := json.Marshal(schemas.StageResult{Version: 1, Run: m.Run, Tenant: m.Tenant, Stage: m.Stage, Kind: m.Kind, Part: m.Part, Parts: m.Parts})
		if err == nil {
			_, err = f.objects.Put(ctx, schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part), data, store.Condition{Absent: true})
		}
		if err == nil || errors.Is(err, store.ErrPrecondition) {
			_ = d.Ack(ctx)
		}
	}
}

// Close stops everything.
func (f *fleet) Close() {
	f.cancel()
	f.wg.Wait()
	for i := len(f.stop) - 1; i >= 0; i-- {
		f.stop[i]()
	}
}

// Config connects a producer over both NATS and HTTP.
func (f *fleet) Config() producer.Config {
	return producer.Config{NATS: f.NATS, API: f.API, Token: secret(f.Token), Patience: 20 * time.Second}
}

// prepRun is a run that only prepares a data set.
func prepRun(name string, data schemas.File) *schemas.RunSpec {
	return &schemas.RunSpec{Version: 1, Tenant: "acme", Name: name, Pool: "cpu", Priority: 1, Stages: []schemas.Stage{{
		Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{
			Data: schemas.Ref{Files: []schemas.File{data}}, Tokenizer: schemas.Ref{Files: []schemas.File{data}}, Parts: 2,
			Columns: map[string]string{"text": "text"}, Outputs: []schemas.PrepOutput{{Name: "text", Form: "pt", Split: "train", CutoffLen: 64}},
		}}}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("%v", err)) // an example has nobody to return it to
	}
	return v
}
