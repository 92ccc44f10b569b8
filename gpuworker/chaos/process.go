package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/clockfault"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/gpuworker/spot"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Environment of a process of the suite.
const (
	// EnvRole makes a process one of the suite's; see RunProcess.
	EnvRole     = "TUNEFLEET_CHAOS_ROLE"
	envDir      = "TUNEFLEET_CHAOS_DIR"
	envTTL      = "TUNEFLEET_CHAOS_TTL"
	envReal     = "TUNEFLEET_CHAOS_REAL"
	envSpot     = "TUNEFLEET_CHAOS_SPOT"
	envCluster  = "TUNEFLEET_CHAOS_CLUSTER"
	envScratch  = "TUNEFLEET_CHAOS_SCRATCH"
	roleRank    = "rank"
	stepStall   = 4 * time.Second
	loadStall   = 15 * time.Second // of loading and committing, which wait for a store that faults keep away
	pruneEvery  = 2 * time.Second
	watchPoll   = 500 * time.Millisecond
	spotPoll    = 300 * time.Millisecond
	drainWithin = 20 * time.Second
	// manyLosses: a storm of kills may cost a gang more generations in a row than any real host.
	manyLosses = 10_000
)

// clusterNode is one of several brokers.
type clusterNode struct {
	Name                    string
	Port, Monitor, Route    int
	Routes                  []string
	Token, StoreDir, Secret string
}

// RunProcess is the main function of a process that Run has started: EnvRole names what it is. real are the handlers of the product, used
// where the suite trains in earnest.
func RunProcess(ctx context.Context, real map[schemas.StageKind]consume.Handler) error {
	role, dir := os.Getenv(EnvRole), os.Getenv(envDir)
	if socket := os.Getenv(envClock); socket != "" {
		return enterClock(socket, role)
	}
	shutdown, err := telemetry.Setup(ctx, strings.TrimRight(role, "-0123456789"), "chaos")
	if err != nil {
		return err
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = shutdown(sctx) // a collector that is away is one of the faults
	}()
	earnest := os.Getenv(envReal) == "1"
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("process", role)
	switch {
	case role == roleRank:
		h := mixed(chaostest.Handlers(), real, dir)
		if earnest {
			h = real
		}
		return consume.RunRank(ctx, h, consume.OpenStore)
	case role == clockProcess:
		return clockfault.Serve(ctx, filepath.Join(dir, clockName))
	case role == apiProcess:
		return runAPI(ctx, logger)
	case strings.HasPrefix(role, "nats-"):
		return runNode(ctx)
	}
	ttl, err := time.ParseDuration(os.Getenv(envTTL))
	if err != nil {
		return schemas.Errorf(schemas.CodeInvalid, envTTL, "%v", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this executable: %w", err)
	}
	p := chaostest.Process{Name: role, Dir: dir, LeaseTTL: ttl, RankCommand: append([]string{exe}, os.Args[1:]...), Logger: logger,
		RankEnv: append([]string{EnvRole + "=" + roleRank, envDir + "=" + dir, envReal + "=" + os.Getenv(envReal)}, plantedbug.Env()...)}
	c, ok, err := connect.FromEnv()
	if err != nil {
		return err
	}
	if ok {
		p.Connect = &c
	}
	if earnest {
		p.TuneControl = func(c *control.Config) {
			*c = control.Config{Pools: c.Pools, Limits: control.Limits{LeaseTTL: ttl}, Logger: c.Logger}
		}
	} else {
		p.TuneControl = func(c *control.Config) { c.PruneEvery, c.Limits.Losses = pruneEvery, manyLosses }
	}
	var watcher *spot.Watcher
	if at := os.Getenv(envSpot); at != "" {
		if watcher, err = spot.New(spot.Config{Cloud: spot.AWS, Endpoint: at, Poll: spotPoll, Logger: logger}); err != nil {
			return err
		}
	}
	p.TuneWorker = func(c *consume.Config) {
		if earnest {
			*c = consume.Config{Name: c.Name, Pool: c.Pool, Threads: 1, LeaseTTL: ttl, RankCommand: c.RankCommand, RankEnv: c.RankEnv}
		} else {
			c.WatchPoll, c.DrainTimeout = watchPoll, drainWithin
			c.Stall = map[string]time.Duration{consume.PhaseStep: stepStall, consume.PhaseLoad: loadStall, consume.PhaseCommit: loadStall}
		}
		c.Dir = os.Getenv(envScratch)
		if watcher != nil {
			c.Notice = watcher
		}
	}
	return p.Run(ctx)
}

// runNode serves one node of a cluster of brokers: the same server as the embedded one, with routes.
func runNode(ctx context.Context) error {
	var n clusterNode
	if err := json.Unmarshal([]byte(os.Getenv(envCluster)), &n); err != nil {
		return schemas.Errorf(schemas.CodeInvalid, envCluster, "%v", err)
	}
	o := &server.Options{ServerName: n.Name, Host: "127.0.0.1", Port: n.Port, HTTPHost: "127.0.0.1", HTTPPort: n.Monitor, Authorization: n.Token,
		JetStream: true, StoreDir: n.StoreDir, SyncAlways: true, NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		Cluster: server.ClusterOpts{Name: "chaos", Host: "127.0.0.1", Port: n.Route, Username: "route", Password: n.Secret, NoAdvertise: true}}
	for _, r := range n.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", User: url.UserPassword("route", n.Secret), Host: r})
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("cannot start broker %s: %w", n.Name, err)
	}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		return errors.New("the broker does not accept connections")
	}
	<-ctx.Done()
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}

// loopback is host:port on this machine.
func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// findBinary looks for a server's binary where people have it, and where the project's set-up builds it.
func findBinary(name string) string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if p := filepath.Join(dir, name); executable(p) {
			return p
		}
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	for _, p := range []string{filepath.Join(cache, "tunefleet", name, "bin", name), filepath.Join(os.Getenv("TUNEFLEET_"+strings.ToUpper(name)), "bin", name)} {
		if executable(p) {
			return p
		}
	}
	return ""
}

func executable(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}
