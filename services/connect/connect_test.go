package connect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/queue/queuetest"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// TestOpen: the record of a data directory leads clients of another process to all three servers, and nothing secret is logged.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	srv, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	rec, err := embedded.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var logs bytes.Buffer
	s, err := connect.Open(ctx, rec.Connect(), slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Probe(ctx); err != nil {
		t.Errorf("the embedded servers do not pass the probe: %v", err)
	}
	if err := s.Queue.Ensure(ctx, map[string]int{"cpu": 1}); err != nil {
		t.Fatal(err)
	}
	m := queuetest.Message("r1", 0, 1)
	if err := s.Queue.Publish(ctx, m, nil); err != nil {
		t.Fatal(err)
	}
	d, err := s.Queue.Pull(ctx, schemas.KindTrain, "cpu", 5*time.Second)
	if err != nil || d.Message() != m {
		t.Fatalf("pulled %v, %v", d, err)
	}
	key := schemas.LeaseKey(m.Tenant, m.Run, m.Stage, m.Seat)
	if _, err := s.Leases.Acquire(ctx, key, lease.Owner{Worker: "w", Incarnation: "i", Issue: 1}, time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := s.Objects.Put(ctx, "a", []byte("x"), store.Condition{Absent: true}); err != nil {
		t.Error(err)
	}
	text := logs.String() + fmt.Sprintf("%+v", s.Config)
	for _, secret := range []string{rec.Token, rec.Password, rec.SecretKey} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is printed: %s", text)
		}
	}
}

// TestEnvironment: what Env writes, FromEnv reads.
func TestEnvironment(t *testing.T) {
	want := connect.Config{
		NATS:  natsq.Config{URL: "nats://h:1", Token: "tok", Creds: "/c", Monitor: "http://h:2", Replicas: 3},
		Redis: "redis://:pw@h:3",
		S3:    s3store.Config{Endpoint: "h:4", Bucket: "b", Region: "r", Secure: true, AccessKey: "ak", SecretKey: "sk"},
	}
	for _, kv := range want.Env() {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	got, ok, err := connect.FromEnv()
	if err != nil || !ok || got != want {
		t.Errorf("got %+v, %v, %v; want %+v", got, ok, err, want)
	}
	t.Setenv(connect.EnvS3Endpoint, "")
	t.Setenv(connect.EnvReplicas, "many")
	_, ok, err = connect.FromEnv()
	if !ok || err == nil || !strings.Contains(err.Error(), connect.EnvS3Endpoint) || !strings.Contains(err.Error(), connect.EnvReplicas) {
		t.Errorf("half a configuration: %v, %v", ok, err)
	}
}

func TestNothingConfigured(t *testing.T) {
	for _, k := range []string{connect.EnvNATSURL, connect.EnvRedisURL, connect.EnvS3Endpoint, connect.EnvReplicas, connect.EnvS3Secure} {
		t.Setenv(k, "")
	}
	if _, ok, err := connect.FromEnv(); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
}

// TestNobodyThere: a missing store is an error with a hint, soon, and without the credentials.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := connect.Open(ctx, connect.Config{NATS: natsq.Config{URL: "nats://127.0.0.1:1"}, Redis: telemetry.Secret("redis://:hunter2@127.0.0.1:1"),
		S3: s3store.Config{Endpoint: "127.0.0.1:1", AccessKey: "a", SecretKey: "hunter2"}}, slog.New(slog.DiscardHandler))
	if !schemas.IsCode(err, schemas.CodeUnavailable) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), connect.EnvS3Endpoint) {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, context.Canceled) {
		t.Error("nobody cancelled")
	}
}
