package embedded_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/redislease"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/store/storetest"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// childDir makes this test binary serve a data directory until it is killed, childParts only one part of it.
const (
	childDir   = "EMBEDDED_TEST_DIR"
	childParts = "EMBEDDED_TEST_PARTS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		var parts []embedded.Part
		if p := os.Getenv(childParts); p != "" {
			parts = []embedded.Part{embedded.Part(p)}
		}
		if _, err := embedded.Start(context.Background(), embedded.Options{Dir: dir, Parts: parts}); err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString("up\n")
		select {}
	}
	os.Exit(m.Run())
}

func objects(t *testing.T, r embedded.Record) *s3store.Store {
	t.Helper()
	s, err := s3store.New(s3store.Config{Endpoint: r.S3Endpoint(), Bucket: r.Bucket, AccessKey: r.AccessKey, SecretKey: telemetry.Secret(r.SecretKey)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestServers starts all parts in this process and runs the object store's conformance suite over loopback.
func TestServers(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	srv, err := embedded.Start(ctx, embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	rec, err := embedded.Load(dir)
	if err != nil || rec != srv.Record {
		t.Fatalf("%+v, %v", rec, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "embedded.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the record with its secrets is readable by others: %v, %v", st.Mode(), err)
	}
	if _, err := embedded.Start(ctx, embedded.Options{Dir: dir, Parts: []embedded.Part{embedded.NATS}}); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Errorf("a second server over the same directory: %v, want CodeConflict", err)
	}
	t.Run("s3", func(t *testing.T) {
		o := objects(t, rec)
		n := 0
		storetest.Run(t, func(*testing.T) store.Objects { n++; return prefixed{o, string(rune('a'+n)) + "/"} })
	})
	t.Run("nats needs the token", func(t *testing.T) {
		if _, err := nats.Connect(rec.NATSURL()); err != nil {
			t.Error(err)
		}
		r := rec
		r.Token = "wrong"
		if c, err := nats.Connect(r.NATSURL()); err == nil {
			c.Close()
			t.Error("connected with a wrong token")
		}
	})
	t.Run("redis needs the password", func(t *testing.T) {
		r := rec
		for _, pw := range []string{rec.Password, "wrong"} {
			r.Password = pw
			s, err := redislease.New(r.RedisURL())
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Boot(t.Context())
			if (err == nil) != (pw == rec.Password) {
				t.Errorf("password %q: %v", pw, err)
			}
			if err != nil && !errors.Is(err, lease.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
			_ = s.Close()
		}
	})
}

// TestSurvivesKill kills the process that serves and starts another over the same directory: what was acknowledged is there, on the same
// ports.
func TestSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	child := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if n, err := out.Read(make([]byte, 3)); err != nil || n != 3 {
			t.Fatalf("the servers did not start: %v", err)
		}
		return cmd
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first := child()
	rec, err := embedded.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	etag, err := objects(t, rec).Put(ctx, "runs/a", []byte("kept"), store.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(rec.NATSURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second := child()
	defer func() { _ = second.Process.Kill(); _ = second.Wait() }()
	b, info, err := objects(t, rec).Get(ctx, "runs/a", 100)
	if err != nil || string(b) != "kept" || info.ETag != etag {
		t.Errorf("the object after kill -9: %q %q, %v", b, info.ETag, err)
	}
	st, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if st.CachedInfo().State.Msgs != 1 {
		t.Errorf("%d messages after kill -9, want 1", st.CachedInfo().State.Msgs)
	}
}

func TestLoadOfAnUnusedDirectory(t *testing.T) {
	t.Parallel()
	if _, err := embedded.Load(t.TempDir()); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("got %v, want CodeNotFound", err)
	}
}

// TestPortsAreNotOfTheRangeOfOutgoingConnections: a server that comes back must find its port free.
func TestPortsAreNotOfTheRangeOfOutgoingConnections(t *testing.T) {
	seen := map[int]bool{}
	for range 5 {
		r, err := embedded.Prepare(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []int{r.NATS, r.Monitor, r.Redis, r.S3, r.API} {
			if p < 1024 || p >= 32768 {
				t.Errorf("port %d", p)
			}
		}
		if seen[r.NATS] || r.NATS == r.Redis || r.S3 == r.API {
			t.Errorf("ports are repeated: %+v", r)
		}
		seen[r.NATS] = true
	}
}
