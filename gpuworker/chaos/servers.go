package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

func killBroker(ctx context.Context, a *act) error {
	b := a.pick(a.f.brokers())
	a.begin(10, b, "kill -9")
	if err := a.f.kill(b); err != nil {
		return err
	}
	pause(ctx, a.between(0, 1500*time.Millisecond))
	return a.f.start(b)
}

func freezeBroker(ctx context.Context, a *act) error {
	b := a.pick(a.f.brokers())
	d := a.between(3*time.Second, 8*time.Second)
	a.begin(11, b, "SIGSTOP for %s", d.Round(100*time.Millisecond))
	if err := a.f.freeze(b, false); err != nil {
		return err
	}
	pause(ctx, d)
	return a.f.thaw(b)
}

// jetStream opens a connection of the nemesis's own.
func (a *act) jetStream(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	c := a.f.directConfig().NATS
	var nc *nats.Conn
	var err error
	// A broker that has just been started again, on a loaded machine, may not answer yet.
	for end := time.Now().Add(20 * time.Second); ; pause(ctx, 200*time.Millisecond) {
		if nc, err = nats.Connect(c.URL, nats.Token(c.Token.Reveal()), nats.Timeout(3*time.Second)); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, nil, fmt.Errorf("the nemesis cannot reach the broker: %w", err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil || ctx.Err() != nil {
		nc.Close()
		return nil, nil, errors.Join(err, ctx.Err())
	}
	return nc, js, nil
}

// deleteWork deletes the stream of work. Brokers that have just been started elect their leaders first, and answer nothing meanwhile: it asks
// again for 20 s.
func deleteWork(ctx context.Context, js jetstream.JetStream) error {
	for end := time.Now().Add(20 * time.Second); ; pause(ctx, 200*time.Millisecond) {
		err := js.DeleteStream(ctx, schemas.WorkStream)
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("cannot delete the stream: %w", err)
		}
	}
}

// wipeBroker takes the broker's memory away, under holders that go on to acknowledge what they had from the old one.
func wipeBroker(ctx context.Context, a *act) error {
	var dirs []string
	for _, b := range a.f.brokers() {
		dirs = append(dirs, filepath.Join(a.f.dir, b))
	}
	restart := func(change func() error) error {
		for _, b := range a.f.brokers() {
			if err := a.f.kill(b); err != nil {
				return err
			}
		}
		if err := change(); err != nil {
			return err
		}
		for _, b := range a.f.brokers() {
			if err := a.f.start(b); err != nil {
				return err
			}
		}
		return nil
	}
	_ = a.member(ctx, 3*time.Second)
	switch how := a.rng.IntN(4); how {
	case 0:
		a.begin(12, "brokers", "data wiped and recreated")
		return restart(func() error {
			for _, d := range dirs {
				if err := os.RemoveAll(d); err != nil {
					return fmt.Errorf("cannot wipe %s: %w", d, err)
				}
			}
			return nil
		})
	case 1:
		a.begin(12, "brokers", "stream of work deleted")
		nc, js, err := a.jetStream(ctx)
		if err != nil {
			return err
		}
		defer nc.Close()
		return deleteWork(ctx, js)
	case 2:
		d := a.between(2*time.Second, 4*time.Second)
		a.begin(12, "brokers", "data restored to a copy %s old", d.Round(100*time.Millisecond))
		copies := filepath.Join(a.f.dir, "copies")
		if err := restart(func() error { return eachDir(dirs, copies, false) }); err != nil {
			return err
		}
		pause(ctx, d)
		return restart(func() error { return eachDir(dirs, copies, true) })
	default:
		a.begin(12, "brokers", "a bit of a message block flipped")
		return restart(func() error { return a.flipBlock(dirs[a.rng.IntN(len(dirs))]) })
	}
}

// eachDir copies the data folders aside, or back.
func eachDir(dirs []string, copies string, back bool) error {
	for _, d := range dirs {
		from, to := d, filepath.Join(copies, filepath.Base(d))
		if back {
			from, to = to, from
		}
		if err := os.RemoveAll(to); err != nil {
			return fmt.Errorf("cannot remove %s: %w", to, err)
		}
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			return fmt.Errorf("cannot copy %s: %w", from, err)
		}
	}
	return nil
}

// flipBlock flips one bit of a message block.
func (a *act) flipBlock(dir string) error {
	var blocks []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".blk") {
			if st, err := d.Info(); err == nil && st.Size() > 0 {
				blocks = append(blocks, p)
			}
		}
		return nil
	})
	if err != nil || len(blocks) == 0 {
		return errors.Join(err, errNotReached)
	}
	p := blocks[a.rng.IntN(len(blocks))]
	data, err := os.ReadFile(p)
	if err != nil {
		return fmt.Errorf("cannot damage %s: %w", p, err)
	}
	data[a.rng.IntN(len(data))] ^= 1 << a.rng.IntN(8)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		return fmt.Errorf("cannot damage %s: %w", p, err)
	}
	return nil
}

func clusterFaults(ctx context.Context, a *act) error {
	if a.f.shape.Broker != BrokerCluster {
		return errNotReached
	}
	leader := a.pick(a.f.brokers())
	if nc, js, err := a.jetStream(ctx); err == nil {
		if s, err := js.Stream(ctx, schemas.WorkStream); err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader != "" {
			leader = s.CachedInfo().Cluster.Leader
		}
		nc.Close()
	}
	switch a.rng.IntN(3) {
	case 0:
		a.begin(13, leader, "leader of the work stream killed")
		if err := a.f.kill(leader); err != nil {
			return err
		}
		pause(ctx, a.between(time.Second, 4*time.Second))
		return a.f.start(leader)
	case 1:
		d := a.between(4*time.Second, 9*time.Second)
		a.begin(13, leader, "leader frozen for %s: a minority is cut off", d.Round(100*time.Millisecond))
		if err := a.f.freeze(leader, false); err != nil {
			return err
		}
		pause(ctx, d)
		return a.f.thaw(leader)
	}
	a.begin(13, "brokers", "rolling restart")
	for _, b := range a.f.brokers() {
		if err := a.f.cell.Signal(b, syscall.SIGTERM); err != nil {
			return err
		}
		if !a.f.cell.Wait(b, 10*time.Second) {
			if err := a.f.kill(b); err != nil {
				return err
			}
		}
		if err := a.f.start(b); err != nil {
			return err
		}
		pause(ctx, 2*time.Second)
	}
	return nil
}

// staleAcks speaks for a holder that has lost its delivery: the broker does not tell it from the present holder.
func staleAcks(ctx context.Context, a *act) error {
	worker := a.pick(a.f.workers())
	a.f.mu.Lock()
	d, ok := a.f.latest[worker]
	a.f.mu.Unlock()
	if !ok {
		return errNotReached
	}
	verb := []string{"-NAK", "+ACK"}[a.rng.IntN(2)]
	a.begin(14, worker, "%s for %s from elsewhere", verb, d.Subject)
	nc, _, err := a.jetStream(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.Publish(d.AckSubject, []byte(verb)); err != nil {
		return fmt.Errorf("cannot send %s: %w", verb, err)
	}
	if err := nc.FlushTimeout(2 * time.Second); err != nil {
		return fmt.Errorf("cannot send %s: %w", verb, err)
	}
	pause(ctx, time.Second)
	return nil
}

func troubleRedis(ctx context.Context, a *act) error {
	_ = a.member(ctx, 5*time.Second)
	pause(ctx, 4500*time.Millisecond) // so that what happens is of this fault alone
	rdb := redis.NewClient(&redis.Options{Addr: loopback(a.f.rec.Redis), Password: a.f.rec.Password})
	defer rdb.Close()
	down := a.between(3*time.Second, 8*time.Second)
	before := a.f.swaps.Load()
	var err error
	switch how := a.rng.IntN(5); {
	case how == 0:
		a.begin(16, "redis", "killed, down for %s", down.Round(100*time.Millisecond))
		a.f.history.Add(check.Event{Kind: check.KindKill, Proc: "redis"})
		if err = a.f.cell.Signal("redis", syscall.SIGKILL); err == nil {
			pause(ctx, down)
			err = a.f.start("redis")
		}
	case how == 1:
		a.begin(16, "redis", "FLUSHALL")
		err = rdb.FlushAll(ctx).Err()
		pause(ctx, 3*time.Second)
	case how == 2:
		a.begin(16, "redis", "unreachable for %s", down.Round(100*time.Millisecond))
		a.onLinks("redis", faultproxy.Fault{HoldUp: true, HoldDown: true})
		pause(ctx, down)
		a.onLinks("redis", faultproxy.Fault{})
	case how == 3 || a.f.shape.Lease != LeaseRedis:
		// As 2 s to leases of 10 s.
		a.begin(16, "redis", "%s slower for %s", a.f.shape.TTL/5, down.Round(100*time.Millisecond))
		a.onLinks("redis", faultproxy.Fault{Delay: a.f.shape.TTL / 10, Jitter: a.f.shape.TTL / 50})
		pause(ctx, down)
		a.onLinks("redis", faultproxy.Fault{})
	default:
		a.begin(16, "redis", "%s for %s", check.OutOfMemory, down.Round(100*time.Millisecond))
		err = rdb.ConfigSet(ctx, "maxmemory", "1").Err()
		pause(ctx, down)
		err = errors.Join(err, rdb.ConfigSet(ctx, "maxmemory", "0").Err())
	}
	a.what += fmt.Sprintf("; %d swaps of HEAD meanwhile", a.f.swaps.Load()-before)
	pause(ctx, 3*a.f.shape.TTL) // what comes of it comes late: control waits two lives of a lease
	return err
}

// onLinks sets a fault between one server and all its clients.
func (a *act) onLinks(server string, f faultproxy.Fault) {
	for name, l := range a.f.links {
		if strings.HasSuffix(name, ">"+server) {
			l.Set(f)
		}
	}
}

func troubleStore(ctx context.Context, a *act) error {
	d := a.between(3*time.Second, 7*time.Second)
	during := func(f faultproxy.S3Fault, what string) error {
		a.begin(17, "s3", "%s for %s", what, d.Round(100*time.Millisecond))
		a.f.s3.Set(f)
		pause(ctx, d)
		a.f.s3.Set(faultproxy.S3Fault{})
		return nil
	}
	switch a.rng.IntN(7) {
	case 0:
		a.begin(17, "s3", "kill -9, down for %s", d.Round(100*time.Millisecond))
		if err := a.f.kill("s3"); err != nil {
			return err
		}
		pause(ctx, d)
		return a.f.start("s3")
	case 1:
		return during(faultproxy.S3Fault{ErrorRate: 0.3}, "500 for 30 % of the requests")
	case 2:
		return during(faultproxy.S3Fault{SlowDownRate: 0.5}, "503 SlowDown for 50 % of the requests")
	case 3:
		return during(faultproxy.S3Fault{TruncateRate: 0.3}, "30 % of the bodies truncated")
	case 4:
		return during(faultproxy.S3Fault{Rate: 1024}, "bodies at 1 KB/s")
	case 5:
		a.begin(17, "s3", "connections reset every 100 ms for %s", d.Round(100*time.Millisecond))
		for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
			for name, l := range a.f.links {
				if strings.HasSuffix(name, ">s3") {
					l.Reset()
				}
			}
		}
		return nil
	}
	a.begin(17, "s3", "away for %s: nothing passes", d.Round(100*time.Millisecond))
	a.onLinks("s3", faultproxy.Fault{HoldUp: true, HoldDown: true})
	pause(ctx, d)
	a.onLinks("s3", faultproxy.Fault{})
	return nil
}

func ambiguousWrites(ctx context.Context, a *act) error {
	d := a.between(4*time.Second, 8*time.Second)
	f := faultproxy.S3Fault{LoseRate: 0.3}
	if a.rng.IntN(2) == 0 {
		f = faultproxy.S3Fault{ConflictRate: 0.4}
	}
	a.begin(18, "s3", "applied, and the answer lost (%.0f %%) or 409 (%.0f %%) for %s", 100*f.LoseRate, 100*f.ConflictRate, d.Round(100*time.Millisecond))
	a.f.s3.Set(f)
	pause(ctx, d)
	a.f.s3.Set(faultproxy.S3Fault{})
	return nil
}

// corruptPart kills a gang and damages a part of its newest commit before another one can load it.
func corruptPart(ctx context.Context, a *act) error {
	h := a.w.await(ctx, 8*time.Second, func(h *schemas.Head) bool { return h.Previous != nil })
	if h == nil {
		return errNotReached
	}
	for _, m := range h.Members {
		if err := a.f.kill(m.Worker); err != nil {
			return err
		}
	}
	defer func() {
		for _, m := range h.Members {
			_ = a.f.start(m.Worker) // heal starts what is not up
		}
	}()
	now, _, err := a.f.heads.Read(ctx, h.Tenant, h.Run)
	if err != nil || now.Manifest == nil || now.Manifest.Final || now.State.Terminal() || now.Previous == nil {
		return errNotReached
	}
	m, err := checkpoint.ReadManifest(ctx, a.f.direct.Objects, *now.Manifest)
	if err != nil {
		return errNotReached
	}
	part := m.Parts[a.rng.IntN(len(m.Parts))]
	data, _, err := a.f.direct.Objects.Get(ctx, part.Key, maxObject)
	if err != nil {
		return errNotReached
	}
	how := a.rng.IntN(3)
	a.begin(19, part.Key, "%s", []string{"a bit flipped", "cut in half", "deleted"}[how])
	a.f.history.Add(check.Event{Kind: check.KindCorrupt, Key: part.Key, Body: check.Body(data), Tenant: h.Tenant, Run: h.Run, Step: now.Manifest.Step})
	switch how {
	case 0:
		bad := bytes.Clone(data)
		bad[a.rng.IntN(len(bad))] ^= 1 << a.rng.IntN(8)
		_, err = a.f.direct.Objects.Put(ctx, part.Key, bad, store.Condition{})
	case 1:
		_, err = a.f.direct.Objects.Put(ctx, part.Key, data[:len(data)/2], store.Condition{})
	default:
		err = a.f.direct.Objects.Delete(ctx, part.Key)
	}
	pause(ctx, a.between(0, time.Second))
	return err
}

// unsafeStore starts a worker against a store that lets several racing writers win: it must refuse to work.
func unsafeStore(ctx context.Context, a *act) error {
	worker := a.pick(a.f.workers())
	proxy := faultproxy.NewS3(faultproxy.S3Config{Target: a.f.rec.S3Endpoint(), Bucket: a.f.rec.Bucket})
	defer proxy.Close()
	proxy.Set(faultproxy.S3Fault{Unsafe: true})
	addr, err := proxy.Listen(worker)
	if err != nil {
		return err
	}
	a.begin(20, worker, "restarted against a store without atomic conditions")
	a.f.mu.Lock()
	a.f.extra[worker] = []string{"TUNEFLEET_S3_ENDPOINT=" + addr}
	a.f.mu.Unlock()
	if err := a.f.kill(worker); err != nil {
		return err
	}
	if err := a.f.start(worker); err != nil {
		return err
	}
	refused := a.f.cell.Wait(worker, 20*time.Second) && a.f.said(worker, "cannot trust the object store")
	a.f.mu.Lock()
	delete(a.f.extra, worker)
	a.f.mu.Unlock()
	if !refused {
		return errors.Join(fmt.Errorf("%s works with a store whose conditional writes are not atomic", worker), a.f.kill(worker), a.f.start(worker))
	}
	return a.f.start(worker)
}

func fullDisk(ctx context.Context, a *act) error {
	d := a.between(2*time.Second, 5*time.Second)
	if a.rng.IntN(2) == 0 {
		a.begin(8, "s3", "full for %s", d.Round(100*time.Millisecond))
		a.f.s3.Set(faultproxy.S3Fault{Full: true})
		pause(ctx, d)
		a.f.s3.Set(faultproxy.S3Fault{})
		return nil
	}
	worker := a.pick(a.f.workers())
	dir := a.f.scratch(worker)
	a.begin(8, worker, "no scratch folder for %s", d.Round(100*time.Millisecond))
	aside := dir + ".aside"
	for end := time.Now().Add(5 * time.Second); os.Rename(dir, aside) != nil; pause(ctx, 100*time.Millisecond) {
		if time.Now().After(end) || ctx.Err() != nil {
			return errNotReached // the worker has not begun to work
		}
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		return fmt.Errorf("cannot block the scratch folder: %w", err)
	}
	pause(ctx, d)
	return errors.Join(os.Remove(dir), os.Rename(aside, dir))
}

func troubleNetwork(ctx context.Context, a *act) error {
	client := a.pick(slices.Concat(a.f.controls(), a.f.workers()))
	server := a.pick(a.f.servers())
	l := a.f.links[client+">"+server]
	d := a.between(3*time.Second, 8*time.Second)
	faults := []faultproxy.Fault{{Delay: 200 * time.Millisecond, Jitter: 300 * time.Millisecond}, {HoldUp: true}, {HoldDown: true}, {HoldUp: true, HoldDown: true},
		{Slice: 7}, {Rate: 20_000}, {Refuse: true}}
	f := faults[a.rng.IntN(len(faults))]
	a.begin(25, client, "%s to %s for %s", f, server, d.Round(100*time.Millisecond))
	l.Set(f)
	if f.Refuse {
		l.Reset()
	}
	pause(ctx, d)
	l.Set(faultproxy.Fault{})
	if a.rng.IntN(2) == 0 {
		l.Reset()
	}
	return nil
}

// varz asks a broker for what it is, for the report.
func (f *fleet) brokerVersion(ctx context.Context) string {
	port := f.rec.Monitor
	if f.nodes != nil {
		port = f.nodes[0].Monitor
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+"/varz", nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var v struct {
		Version string `json:"version"`
	}
	if json.NewDecoder(resp.Body).Decode(&v) != nil {
		return ""
	}
	return v.Version
}
