package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Kinds of servers.
const (
	StoreVersity  = "versitygw"
	StoreMinIO    = "minio"
	BrokerSingle  = "nats"
	BrokerCluster = "nats-3"
	LeaseRedis    = "redis-server"
	LeaseEmbedded = "embedded"
)

// Shape is what a fleet is made of.
type Shape struct {
	Store  string `json:"store"`
	Broker string `json:"broker"`
	Lease  string `json:"lease"`
	// Workers and Controls are numbers of processes.
	Workers  int `json:"workers"`
	Controls int `json:"controls"`
	// TTL is the life of leases. Real trains with the product's handlers and its own timing.
	TTL  time.Duration `json:"ttl"`
	Real bool          `json:"real"`
}

func (s Shape) String() string {
	return fmt.Sprintf("%s, %s, %s, %d workers, %d controls, leases of %s", s.Broker, s.Lease, s.Store, s.Workers, s.Controls, s.TTL)
}

// fleet is a running fleet with proxies between all of it.
type fleet struct {
	shape   Shape
	dir     string
	command []string
	// older starts processes of an earlier build; old are the workers that are to be started so.
	older []string
	old   map[string]bool
	// clocked are the processes that are to be started under the supervisor of clocks.
	clocked map[string]bool
	env     []string
	log     *slog.Logger
	history *check.History

	cell   *chaostest.Cell
	rec    embedded.Record
	nodes  []clusterNode
	s3     *faultproxy.S3
	links  map[string]*faultproxy.Link // "client>server"
	s3Addr map[string]string
	// direct reaches the servers past the proxies; client is a user of the fleet, behind them.
	direct *connect.Services
	client *connect.Services
	heads  *checkpoint.Heads
	spot   *metadata

	mu sync.Mutex
	// deliveries finds the message of an ack subject; latest is the newest delivery to each worker.
	deliveries map[string]faultproxy.Delivery
	latest     map[string]faultproxy.Delivery
	triggers   []*trigger
	extra      map[string][]string // environment of single processes
	// hurts are the faults of the trainer that are still to come.
	hurts []int
	// openFor is how long row 22 opens streams for.
	openFor time.Duration
	// clouds are the cloud's faults that are still to come.
	clouds []string
	// swaps counts the successful writes of any HEAD.
	swaps atomic.Int64
}

// trigger acts once on the first request that matches.
type trigger struct {
	match func(*faultproxy.Request) bool
	// answered: act when the store has answered and the client not yet, else when the request has come.
	answered bool
	act      func(*faultproxy.Request) error
	fired    chan string
}

func (f *fleet) servers() []string {
	out := []string{"redis", "s3"}
	if f.shape.Broker == BrokerSingle {
		return append([]string{"nats"}, out...)
	}
	for _, n := range f.nodes {
		out = append(out, n.Name)
	}
	return out
}

func (f *fleet) brokers() []string {
	return slices.DeleteFunc(f.servers(), func(s string) bool { return !strings.HasPrefix(s, "nats") })
}

func names(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i+1))
	}
	return out
}

func (f *fleet) workers() []string  { return names("worker", f.shape.Workers) }
func (f *fleet) controls() []string { return names("control", f.shape.Controls) }

// clients are the processes that use the servers.
func (f *fleet) clients() []string {
	return append(append(f.controls(), f.workers()...), "client", apiProcess)
}

// all are the processes that can be killed.
func (f *fleet) all() []string { return append(append(f.servers(), f.controls()...), f.workers()...) }

// startFleet starts every process and waits until the fleet answers.
func startFleet(ctx context.Context, dir string, shape Shape, command, env []string, history *check.History, log *slog.Logger) (_ *fleet, err error) {
	f := &fleet{shape: shape, dir: dir, command: command, env: env, log: log, history: history, links: map[string]*faultproxy.Link{}, s3Addr: map[string]string{},
		deliveries: map[string]faultproxy.Delivery{}, latest: map[string]faultproxy.Delivery{}, extra: map[string][]string{}, old: map[string]bool{}, clocked: map[string]bool{}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.rec, err = embedded.Prepare(dir); err != nil {
		return nil, err
	}
	f.cell = &chaostest.Cell{Dir: dir, Command: f.commandOf}
	if err := f.cluster(); err != nil {
		return nil, err
	}
	f.s3 = faultproxy.NewS3(faultproxy.S3Config{Target: f.rec.S3Endpoint(), Bucket: f.rec.Bucket, Before: f.before, After: f.after})
	if f.spot, err = newMetadata(); err != nil {
		return nil, err
	}
	for _, c := range f.clients() {
		if err := f.connectClient(c); err != nil {
			return nil, err
		}
	}
	for _, s := range f.servers() {
		if err := f.cell.Start(s); err != nil {
			return nil, err
		}
	}
	octx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	if f.direct, err = chaostest.OpenConfig(octx, f.directConfig(), quiet); err != nil {
		return nil, err
	}
	f.heads = checkpoint.NewHeads(f.direct.Objects, checkpoint.Config{Budget: 5 * time.Second})
	if f.client, err = chaostest.OpenConfig(octx, f.configOf("client"), quiet); err != nil {
		return nil, err
	}
	for _, p := range append(f.controls(), f.workers()...) {
		if err := f.cell.Start(p); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// cluster plans the nodes of a clustered broker.
func (f *fleet) cluster() error {
	if f.shape.Broker != BrokerCluster {
		return nil
	}
	var routes []string
	for i := range 3 {
		r, err := embedded.Prepare(filepath.Join(f.dir, fmt.Sprintf("node-%d", i+1))) // for its free ports
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, clusterNode{Name: fmt.Sprintf("nats-%d", i+1), Port: r.NATS, Monitor: r.Monitor, Route: r.API, Token: f.rec.Token,
			StoreDir: filepath.Join(f.dir, fmt.Sprintf("nats-%d", i+1)), Secret: f.rec.APIToken})
		routes = append(routes, loopback(r.API))
	}
	for i := range f.nodes {
		f.nodes[i].Routes = routes
	}
	return nil
}

// connectClient makes the links of one client.
func (f *fleet) connectClient(c string) error {
	targets := map[string]string{"redis": loopback(f.rec.Redis)}
	if f.nodes == nil {
		targets["nats"] = loopback(f.rec.NATS)
	}
	for _, n := range f.nodes {
		targets[n.Name] = loopback(n.Port)
	}
	addr, err := f.s3.Listen(c)
	if err != nil {
		return err
	}
	targets["s3"] = addr
	for server, target := range targets {
		var tap func() faultproxy.Tap
		if strings.HasPrefix(server, "nats") {
			tap = func() faultproxy.Tap {
				return faultproxy.NewNATSTap(func(d faultproxy.Delivery) { f.delivered(c, d) }, func(s, verb string) { f.acked(c, s, verb) })
			}
		}
		l, err := faultproxy.Listen(target, tap)
		if err != nil {
			return err
		}
		f.links[c+">"+server] = l
	}
	return nil
}

func (f *fleet) delivered(proc string, d faultproxy.Delivery) {
	f.mu.Lock()
	f.deliveries[d.AckSubject] = d
	f.latest[proc] = d
	f.mu.Unlock()
	f.history.Add(check.Event{Kind: check.KindDeliver, Proc: proc, Subject: d.Subject, Sequence: d.Sequence})
}

func (f *fleet) acked(proc, ackSubject, verb string) {
	f.mu.Lock()
	d := f.deliveries[ackSubject]
	f.mu.Unlock()
	if verb != "+WPI" { // an extension changes nothing
		f.history.Add(check.Event{Kind: check.KindAck, Proc: proc, Subject: d.Subject, Sequence: d.Sequence, Verb: verb})
	}
}

// directConfig reaches the servers past the proxies.
func (f *fleet) directConfig() connect.Config {
	c := f.rec.Connect()
	if f.nodes != nil {
		var urls, monitors []string
		for _, n := range f.nodes {
			urls, monitors = append(urls, "nats://"+loopback(n.Port)), append(monitors, "http://"+loopback(n.Monitor))
		}
		c.NATS = natsq.Config{URL: strings.Join(urls, ","), Token: telemetry.Secret(f.rec.Token), Monitor: strings.Join(monitors, ","), Replicas: 3}
	}
	return c
}

// configOf is the configuration of one client, through its links.
func (f *fleet) configOf(client string) connect.Config {
	c := f.directConfig()
	var urls []string
	for _, b := range f.brokers() {
		urls = append(urls, "nats://"+f.links[client+">"+b].Addr())
	}
	c.NATS.URL = strings.Join(urls, ",")
	c.Redis = telemetry.Secret("redis://:" + f.rec.Password + "@" + f.links[client+">redis"].Addr())
	c.S3.Endpoint = f.links[client+">s3"].Addr()
	return c
}

func (f *fleet) scratch(name string) string { return filepath.Join(f.dir, "scratch", name) }

// commandOf makes the command of a process.
func (f *fleet) commandOf(name string) *exec.Cmd {
	bin := ""
	switch {
	case name == "redis" && f.shape.Lease == LeaseRedis:
		bin = findBinary("redis-server")
		conf := filepath.Join(f.dir, "redis.conf")
		text := fmt.Sprintf("port %d\nbind 127.0.0.1\nrequirepass %s\nsave \"\"\nappendonly no\ndir %s\nmaxmemory-policy noeviction\nloglevel warning\n", f.rec.Redis, f.rec.Password, f.dir)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			f.log.Error("cannot write the configuration of redis-server", "error", err)
		}
		return exec.Command(bin, conf) //nolint:noctx // ended by the cell
	case name == "s3" && f.shape.Store == StoreMinIO:
		bin = findBinary("minio")
		cmd := exec.Command(bin, "server", "--quiet", "--address", f.rec.S3Endpoint(), filepath.Join(f.dir, "minio")) //nolint:noctx // ended by the cell
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+f.rec.AccessKey, "MINIO_ROOT_PASSWORD="+f.rec.SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		return cmd
	}
	f.mu.Lock()
	command := f.command
	if f.old[name] {
		command = f.older
	}
	f.mu.Unlock()
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // ended by the cell
	cmd.Env = append(append(os.Environ(), f.env...), EnvRole+"="+name, envDir+"="+f.dir, envTTL+"="+f.shape.TTL.String(), envScratch+"="+f.scratch(name))
	if f.shape.Real {
		cmd.Env = append(cmd.Env, envReal+"=1")
	}
	if i := slices.IndexFunc(f.nodes, func(n clusterNode) bool { return n.Name == name }); i >= 0 {
		raw, err := json.Marshal(f.nodes[i])
		if err != nil {
			f.log.Error("cannot encode a node", "error", err)
		}
		cmd.Env = append(cmd.Env, envCluster+"="+string(raw))
	}
	if slices.Contains(f.clients(), name) {
		cmd.Env = append(cmd.Env, f.configOf(name).Env()...)
	}
	if name == apiProcess {
		cmd.Env = append(cmd.Env, f.apiEnv()...)
	}
	if strings.HasPrefix(name, "worker") {
		cmd.Env = append(cmd.Env, envSpot+"="+f.spot.url(name))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clocked[name] {
		cmd.Env = append(cmd.Env, envClock+"="+f.clockSocket())
	}
	cmd.Env = append(cmd.Env, f.extra[name]...)
	return cmd
}

// kill ends a process with SIGKILL and notes it.
func (f *fleet) kill(name string) error {
	f.history.Add(check.Event{Kind: check.KindKill, Proc: name})
	return f.cell.Signal(name, syscall.SIGKILL)
}

// start starts a process that is down.
func (f *fleet) start(name string) error {
	if f.cell.Alive(name) {
		return nil
	}
	return f.cell.Start(name)
}

// heal takes every fault away and starts what is down.
func (f *fleet) heal() error {
	f.mu.Lock()
	f.triggers = nil
	clear(f.extra)
	f.mu.Unlock()
	for _, l := range f.links {
		l.Set(faultproxy.Fault{})
	}
	f.s3.Set(faultproxy.S3Fault{})
	f.spot.clear()
	var errs []error
	errs = append(errs, f.realClocks())
	for _, n := range f.all() {
		if f.cell.Alive(n) {
			errs = append(errs, f.thaw(n))
			continue
		}
		errs = append(errs, f.cell.Start(n))
	}
	return errors.Join(errs...)
}

// close ends everything.
func (f *fleet) close() {
	if f.client != nil {
		f.client.Close()
	}
	if f.direct != nil {
		f.direct.Close()
	}
	if f.cell != nil {
		f.cell.Close()
	}
	for _, l := range f.links {
		l.Close()
	}
	if f.s3 != nil {
		f.s3.Close()
	}
	if f.spot != nil {
		f.spot.close()
	}
}
