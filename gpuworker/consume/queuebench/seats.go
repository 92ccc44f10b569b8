package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/redislease"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
)

type leaseWorker = lease.Worker

// Pace of production: see consume.Config.
const (
	leaseTTL    = lease.TTL
	extendEvery = 22 * time.Second
)

// freePort finds a port that nobody uses now.
func freePort(ctx context.Context) (int, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot find a port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// redisServer starts a real redis-server.
func redisServer(ctx context.Context, dir string) (url string, stop func(), err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, fmt.Errorf("cannot measure without redis-server: %w", err)
	}
	port, err := freePort(ctx)
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, bin, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--maxclients", "20000")
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("cannot start redis-server: %w", err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	addr := "127.0.0.1:" + strconv.Itoa(port)
	var dialer net.Dialer
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := dialer.DialContext(ctx, "tcp", addr); err == nil {
			return "redis://" + addr, stop, c.Close()
		}
	}
	stop()
	return "", nil, errors.New("redis-server does not answer")
}

// natsServers starts one nats-server, or a cluster of three, with files that are synced at every write.
func natsServers(ctx context.Context, dir string, n int) (urls string, stop func(), err error) {
	var all []*natsserver.Server
	stop = func() {
		for _, s := range all {
			s.Shutdown()
			s.WaitForShutdown()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	var routes []string
	var ports []int
	for range n {
		p, err := freePort(ctx)
		if err != nil {
			return "", nil, err
		}
		ports, routes = append(ports, p), append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	for i := range n {
		o := &natsserver.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint("nats", i)),
			SyncAlways: true, NoSigs: true, NoLog: true}
		if n > 1 {
			o.Cluster = natsserver.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = natsserver.RoutesFromStr(strings.Join(routes, ","))
		}
		s, err := natsserver.NewServer(o)
		if err != nil {
			return "", nil, fmt.Errorf("cannot make a nats-server: %w", err)
		}
		all = append(all, s)
		s.Start()
	}
	var out []string
	for _, s := range all {
		if !s.ReadyForConnections(20 * time.Second) {
			return "", nil, errors.New("a nats-server does not accept connections")
		}
		out = append(out, s.ClientURL())
	}
	if n > 1 {
		for deadline := time.Now().Add(30 * time.Second); !slices.ContainsFunc(all, (*natsserver.Server).JetStreamIsLeader); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				return "", nil, errors.New("the cluster elects no leader")
			}
		}
	}
	return strings.Join(out, ","), stop, nil
}

// seats lets many simulated workers hold a seat each: one delivery of one consumer and one lease of one Redis, both kept at the pace of
// production.
func (b *bench) seats(ctx context.Context) error {
	n, hold := 10_000, 60*time.Second
	if b.quick {
		n, hold = 1_000, 25*time.Second
	}
	for _, replicas := range []int{1, 3} {
		if err := b.hold(ctx, n, replicas, hold); err != nil {
			return fmt.Errorf("cannot hold seats with %d replicas: %w", replicas, err)
		}
	}
	return nil
}

// holder counts what all workers meet.
type holder struct {
	renewals, lost, failed, extended atomic.Int64
	mu                               sync.Mutex
	took                             []time.Duration
}

func (b *bench) hold(ctx context.Context, n, replicas int, hold time.Duration) error {
	dir := filepath.Join(b.dir, fmt.Sprint("seats", replicas))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	urls, stopNATS, err := natsServers(ctx, dir, replicas)
	if err != nil {
		return err
	}
	defer stopNATS()
	url, stopRedis, err := redisServer(ctx, dir)
	if err != nil {
		return err
	}
	defer stopRedis()
	leases, err := redislease.New(url)
	if err != nil {
		return err
	}
	defer leases.Close()
	// Workers share connections: a socket each would measure the kernel of this one machine.
	var queues []*natsq.Queue
	for range 16 {
		q, err := natsq.Open(ctx, natsq.Config{URL: urls, Replicas: replicas, Logger: slog.New(slog.DiscardHandler), Timeout: 10 * time.Second})
		if err != nil {
			return err
		}
		defer q.Close()
		queues = append(queues, q)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if err = queues[0].Ensure(ctx, map[string]int{"cpu": n}); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	published, err := each(ctx, n, 64, func(ctx context.Context, i int) error {
		return queues[i%len(queues)].Publish(ctx, seatMessage(i), nil)
	})
	if err != nil {
		return err
	}
	deliveries := make([]queue.Delivery, n)
	pulled, err := each(ctx, n, 256, func(ctx context.Context, i int) error {
		for {
			d, err := queues[i%len(queues)].Pull(ctx, schemas.KindTrain, "cpu", 5*time.Second)
			if errors.Is(err, queue.ErrEmpty) {
				continue
			}
			deliveries[i] = d
			return err
		}
	})
	if err != nil {
		return err
	}
	h := &holder{}
	h.run(ctx, leases, deliveries, hold)
	slices.Sort(h.took)
	kind := fmt.Sprintf("R%d, %d workers: ", replicas, n)
	b.add(figure{Name: kind + "seats given out", Value: float64(n) / pulled.Seconds(), Unit: "/s", Note: fmt.Sprintf("published in %.1f s, pulled in %.1f s", published.Seconds(), pulled.Seconds())})
	b.add(figure{Name: kind + "lease renewals", Value: float64(h.renewals.Load()) / hold.Seconds(), Unit: "/s", AtLeast: 0.95 * float64(n) * 3 / leaseTTL.Seconds(),
		Note: fmt.Sprintf("99th percentile %s, deliveries extended %d times", percentile(h.took, 0.99).Round(100*time.Microsecond), h.extended.Load())})
	lost := h.lost.Load() + h.failed.Load()
	b.add(figure{Name: kind + "leases lost or calls failed", Value: float64(lost), Unit: "", AtMost: 0.5, Note: fmt.Sprintf("in %s", hold)})
	// Nothing was delivered again: every seat is still its holder's.
	if _, err := queues[0].Pull(ctx, schemas.KindTrain, "cpu", time.Second); !errors.Is(err, queue.ErrEmpty) {
		return fmt.Errorf("a seat that is held was delivered again (%w)", err)
	}
	runtime.KeepAlive(deliveries)
	return nil
}

func seatMessage(i int) schemas.Message {
	return schemas.Message{Version: 1, Kind: schemas.KindTrain, Pool: "cpu", Tenant: "default", Run: fmt.Sprintf("run%08d", i), Stage: "tune", Spec: "none", Seat: 0, Issue: 1}
}

// run keeps a lease and a delivery for each worker.
func (h *holder) run(ctx context.Context, leases lease.Leases, deliveries []queue.Delivery, hold time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	var wg sync.WaitGroup
	for i, d := range deliveries {
		wg.Go(func() { h.worker(ctx, leases, d, i, len(deliveries)) })
	}
	wg.Wait()
}

func (h *holder) worker(ctx context.Context, leases lease.Leases, d queue.Delivery, i, n int) {
	m := d.Message()
	key := schemas.LeaseKey(m.Tenant, m.Run, m.Stage, m.Seat)
	owner := lease.Owner{Worker: fmt.Sprint("w", i), Incarnation: fmt.Sprint("i", i), Issue: m.Issue}
	// Real workers start at any time: their renewals are spread.
	select {
	case <-time.After(leaseTTL / 3 * time.Duration(i) / time.Duration(n)):
	case <-ctx.Done():
		return
	}
	if _, err := leases.Acquire(ctx, key, owner, leaseTTL); err != nil {
		h.failed.Add(1)
		return
	}
	renew, extend := time.NewTicker(leaseTTL/3), time.NewTicker(extendEvery)
	defer renew.Stop()
	defer extend.Stop()
	h.renewals.Add(1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-extend.C:
			if err := d.Extend(ctx); err != nil && ctx.Err() == nil {
				h.failed.Add(1)
			}
			h.extended.Add(1)
		case <-renew.C:
			began := time.Now()
			_, err := leases.Renew(ctx, key, owner, leaseTTL)
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, lease.ErrLost):
				h.lost.Add(1)
			case err != nil:
				h.failed.Add(1)
			default:
				h.renewals.Add(1)
			}
			h.mu.Lock()
			h.took = append(h.took, time.Since(began))
			h.mu.Unlock()
		}
	}
}

// each calls do for 0 to n-1 on some goroutines and returns how long that took.
func each(ctx context.Context, n, goroutines int, do func(ctx context.Context, i int) error) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next atomic.Int64
	errs := make([]error, goroutines)
	began := time.Now()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[g] = do(ctx, i); errs[g] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}
