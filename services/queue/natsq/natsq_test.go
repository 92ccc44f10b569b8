package natsq_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/queue/queuetest"
)

// start runs a real server in process.
func start(t *testing.T, dir string, port int, sync bool) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, HTTPHost: "127.0.0.1", HTTPPort: -1, JetStream: true, StoreDir: dir,
		SyncAlways: sync, NoLog: true, NoSigs: true, Username: "u", Password: "pass"})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func config(s *server.Server) natsq.Config {
	return natsq.Config{URL: s.ClientURL(), User: "u", Password: "pass", AckWait: queuetest.AckWait, Monitor: "http://" + s.MonitorAddr().String()}
}

func open(t *testing.T, cfg natsq.Config) *natsq.Queue {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q, err := natsq.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

func admin(t *testing.T, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("u", "pass"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestConformance(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T) queuetest.Fixture {
		s := start(t, t.TempDir(), -1, false)
		t.Cleanup(func() { stop(s) })
		js := admin(t, s)
		return queuetest.Fixture{Queue: open(t, config(s)), Wipe: func(t *testing.T) {
			for _, name := range []string{schemas.WorkStream, schemas.IntakeStream} {
				if err := js.DeleteStream(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}}
	})
}

// TestStreams pins the settings that the design rests on.
func TestStreams(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), -1, true)
	defer stop(s)
	q := open(t, config(s))
	before := uint64(time.Now().UnixMicro())
	if err := q.Ensure(t.Context(), map[string]int{"cpu": 1000}); err != nil {
		t.Fatal(err)
	}
	js := admin(t, s)
	work, err := js.Stream(t.Context(), schemas.WorkStream)
	if err != nil {
		t.Fatal(err)
	}
	c := work.CachedInfo().Config
	if c.Retention != jetstream.WorkQueuePolicy || c.Storage != jetstream.FileStorage || c.Discard != jetstream.DiscardNew || !c.DiscardNewPerSubject ||
		c.MaxMsgsPerSubject != 1 || c.Replicas != 1 {
		t.Errorf("work stream: %+v", c)
	}
	if first := work.CachedInfo().State.FirstSeq; first < before || first > uint64(time.Now().UnixMicro()) {
		t.Errorf("first sequence is %d, want the time in microseconds (%d)", first, before)
	}
	cons, err := js.Consumer(t.Context(), schemas.WorkStream, schemas.WorkDurable(schemas.KindTrain, "cpu"))
	if err != nil {
		t.Fatal(err)
	}
	cc := cons.CachedInfo().Config
	if cc.MaxDeliver != -1 || cc.MaxAckPending != 2000 || cc.MaxWaiting < 2000 || cc.AckPolicy != jetstream.AckExplicitPolicy || len(cc.BackOff) != 0 {
		t.Errorf("consumer: %+v", cc)
	}
	always, err := q.SyncAlways(t.Context())
	if err != nil || !always {
		t.Errorf("sync always: %v, %v", always, err)
	}
}

func TestSyncAlwaysOff(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), -1, false)
	defer stop(s)
	if always, err := open(t, config(s)).SyncAlways(t.Context()); err != nil || always {
		t.Errorf("sync always: %v, %v; want false", always, err)
	}
	cfg := config(s)
	cfg.Monitor = ""
	if _, err := open(t, cfg).SyncAlways(t.Context()); !schemas.IsCode(err, schemas.CodeUnavailable) {
		t.Errorf("without a monitoring URL: %v", err)
	}
}

// TestRefusesForeignStream: a stream of that name with other retention would lose messages.
func TestRefusesForeignStream(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), -1, false)
	defer stop(s)
	if _, err := admin(t, s).CreateStream(t.Context(), jetstream.StreamConfig{Name: schemas.WorkStream, Subjects: []string{"tf.work.>"}}); err != nil {
		t.Fatal(err)
	}
	err := open(t, config(s)).Ensure(t.Context(), nil)
	if !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("got %v, want invalid_config", err)
	}
}

// TestRestart: the server goes away and comes back on the same address with its disk; messages, and a pull that waited, survive.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, -1, true)
	cfg := config(s)
	q := open(t, cfg)
	if err := q.Ensure(t.Context(), map[string]int{"cpu": 1}); err != nil {
		t.Fatal(err)
	}
	m := queuetest.Message("r1", 0, 1)
	if err := q.Publish(t.Context(), m, nil); err != nil {
		t.Fatal(err)
	}
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("address %v", s.Addr())
	}
	stop(s)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := q.Publish(ctx, queuetest.Message("r1", 1, 1), nil); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("publish without a server: %v, want ErrUnavailable", err)
	}
	s = start(t, dir, addr.Port, true)
	defer stop(s)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 100*time.Millisecond)
		if err == nil {
			if d.Message() != m {
				t.Errorf("got %+v", d.Message())
			}
			if err := d.Ack(t.Context()); err != nil {
				t.Error(err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no message after the restart: %v", err)
		}
	}
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := natsq.Open(ctx, natsq.Config{URL: "nats://user:hunter2@127.0.0.1:1"})
	if !errors.Is(err, queue.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
	if _, err := natsq.Open(ctx, natsq.Config{URL: "http://user:hunter2@x", User: "u", Replicas: 9}); err == nil || strings.Contains(err.Error(), "hunter2") ||
		!strings.Contains(err.Error(), "replicas") || !strings.Contains(err.Error(), "password") {
		t.Errorf("got %v", err)
	}
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Account).expiredTimeout"))
}
