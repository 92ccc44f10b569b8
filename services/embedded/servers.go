package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"golang.org/x/sys/unix"

	"github.com/tunefleet/tunefleet/schemas"
)

// Part is one of the servers.
type Part string

// Parts.
const (
	NATS  Part = "nats"
	Redis Part = "redis"
	S3    Part = "s3"
)

// startTimeout bounds the start of one server.
const startTimeout = 20 * time.Second

// Options say what to run where.
type Options struct {
	// Dir is the data directory.
	Dir string
	// Parts are the servers to run; empty means all three.
	Parts  []Part
	Logger *slog.Logger
}

// Servers are running servers.
type Servers struct {
	Record Record

	mu     sync.Mutex
	closed bool
	stop   []func()
	failed chan error
}

// Start starts the parts and returns when they answer. Close stops them; they also stop when ctx ends. Only one S3 part may run per process
// (a limit of versitygw).
func Start(ctx context.Context, o Options) (*Servers, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Parts) == 0 {
		o.Parts = []Part{NATS, Redis, S3}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the data directory: %w", err)
	}
	rec, err := ensure(dir)
	if err != nil {
		return nil, err
	}
	if err := room(dir); err != nil {
		return nil, err
	}
	s := &Servers{Record: rec, failed: make(chan error, len(o.Parts))}
	start := map[Part]func(context.Context, string) error{NATS: s.startNATS, Redis: s.startRedis, S3: s.startS3}
	for _, p := range o.Parts {
		f := start[p]
		if f == nil {
			s.Close()
			return nil, schemas.Errorf(schemas.CodeUsage, "", "unknown part %q (nats, redis, s3)", p)
		}
		unlock, err := lock(filepath.Join(dir, string(p)+".lock"), false)
		if err == nil {
			s.stop = append(s.stop, unlock)
			err = s.portsFree(dir, p)
		}
		if err == nil {
			err = f(ctx, dir)
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot start %s: %w", p, err)
		}
		o.Logger.Debug("embedded server runs", "part", string(p), "dir", dir)
	}
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

// Failed delivers the error of a server that ended by itself.
func (s *Servers) Failed() <-chan error { return s.failed }

// Close stops the servers in reverse order. It may be called more than once.
func (s *Servers) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, f := range slices.Backward(s.stop) {
		f()
	}
}

// minRoom is the least free space that the servers are started over: below it nothing of use fits, and they would wait for room without an end.
const minRoom = 64 << 20

// room refuses a data directory on a file system that is full already.
func room(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return unusable(dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < minRoom { //nolint:gosec // no file system has 2^63 blocks
		return schemas.Errorf(schemas.CodeDiskFull, dir, "%d MiB are free there, and the embedded servers need %d at least", free>>20, minRoom>>20).
			WithHint("make room, or name a data directory on another disk with --dir or TUNEFLEET_DATA_DIR")
	}
	return nil
}

// portsFree finds out at once that another program has taken a port of the record since it was made.
func (s *Servers) portsFree(dir string, p Part) error {
	for _, port := range map[Part][]int{NATS: {s.Record.NATS, s.Record.Monitor}, Redis: {s.Record.Redis}, S3: {s.Record.S3}}[p] {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return PortTaken(dir, port, err)
		}
	}
	return nil
}

// PortTaken is the error of a server of a data directory whose port another program has.
func PortTaken(dir string, port int, err error) error {
	return schemas.Errorf(schemas.CodeConflict, loopback(port), "cannot listen: %v", schemas.Reason(err)).
		WithHint("another program has the port: end it, or, when nothing runs over this data directory, delete %s; the next start takes other ports", filepath.Join(dir, recordFile))
}

func (s *Servers) startNATS(_ context.Context, dir string) error {
	srv, err := server.NewServer(&server.Options{
		ServerName: "tunefleet", Host: "127.0.0.1", Port: s.Record.NATS, HTTPHost: "127.0.0.1", HTTPPort: s.Record.Monitor,
		Authorization: s.Record.Token, JetStream: true, StoreDir: filepath.Join(dir, "nats"), SyncAlways: true,
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		// Streams reserve what they may hold at most. By default the server grants three quarters of what is free now: with less than 6 GB none would
		// come into being, and after a restart on a fuller disk none would come back.
		JetStreamMaxStore: 1 << 40,
	})
	if err != nil {
		return portError(err, s.Record.NATS)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		return portError(errors.New("it does not accept connections"), s.Record.NATS)
	}
	s.stop = append(s.stop, func() { srv.Shutdown(); srv.WaitForShutdown() })
	return nil
}

// portError adds what is most often the cause.
func portError(err error, port int) error {
	return schemas.Errorf(schemas.CodeUnavailable, loopback(port), "%v", err).
		WithHint("the port may be in use; stop the other process or use another data directory")
}

func (s *Servers) startRedis(ctx context.Context, _ string) error {
	m := miniredis.NewMiniRedis()
	m.RequireAuth(s.Record.Password)
	if err := m.StartAddr(loopback(s.Record.Redis)); err != nil {
		return portError(err, s.Record.Redis)
	}
	// Its TTLs do not pass by themselves.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				m.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	s.stop = append(s.stop, func() { cancel(); <-done; m.Close() })
	return nil
}

func (s *Servers) startS3(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "s3")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("cannot make the object store's folder: %w", err)
	}
	if err := (meta.XattrMeta{}).Test(root); err != nil {
		return schemas.Errorf(schemas.CodeStoreUnsafe, root, "the file system has no extended attributes, which the S3 server keeps ETags in: %v", err).
			WithHint("use a data directory on ext4, xfs or btrfs")
	}
	be, err := posix.New(root, meta.XattrMeta{}, posix.PosixOpts{NewDirPerm: 0o700, NewFilePerm: 0o600})
	if err != nil {
		return fmt.Errorf("cannot open the object store's folder: %w", err)
	}
	log.SetOutput(io.Discard) // versitygw logs through the standard logger; tunefleet logs through slog only
	// One account, given here: left to itself, the gateway prints to standard output, which belongs to the user's data.
	accounts := auth.NewIAMServiceSingle(auth.Account{Access: s.Record.AccessKey, Secret: s.Record.SecretKey, Role: auth.RoleAdmin})
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		done <- embedgw.RunVersityGW(ctx, be, &embedgw.Config{
			RootUserAccess: s.Record.AccessKey, RootUserSecret: s.Record.SecretKey, IAMService: accounts, Ports: []string{s.Record.S3Endpoint()}, Quiet: true,
			KeepAlive: true, MaxConnections: 4096, MaxRequests: 2048, MultipartMaxParts: 10000, HealthPath: "/health",
		})
	}()
	if err := waitHTTP(ctx, "http://"+s.Record.S3Endpoint()+"/health", done); err != nil {
		cancel()
		return portError(err, s.Record.S3)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := <-done; err != nil && ctx.Err() == nil {
			s.failed <- fmt.Errorf("the S3 server ended: %w", err)
		}
	}()
	s.stop = append(s.stop, func() { cancel(); <-ended })
	return nil
}

// waitHTTP polls a URL until it answers, the server ends, or the start takes too long.
func waitHTTP(ctx context.Context, url string, done <-chan error) error {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, DisableKeepAlives: true}}
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				err = errors.New("it ended at once")
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return errors.New("it does not answer")
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
	}
}
