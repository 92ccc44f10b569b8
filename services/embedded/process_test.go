package embedded_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

// TestS3Process runs the object store's conformance suite against an S3 server in a process of its own, as `up --only s3` starts it; the
// other parts run in this process over the same data directory.
func TestS3Process(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childParts+"=s3")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if n, err := out.Read(make([]byte, 3)); err != nil || n != 3 {
		t.Fatalf("the server did not start: %v", err)
	}
	srv, err := embedded.Start(t.Context(), embedded.Options{Dir: dir, Parts: []embedded.Part{embedded.NATS, embedded.Redis}})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	conform(t, objects(t, srv.Record))
}

func conform(t *testing.T, o store.Objects) {
	n := 0
	storetest.Run(t, func(*testing.T) store.Objects { n++; return prefixed{o, fmt.Sprintf("c%d/", n)} })
}

// minio is the server that `go tool task minio` builds; the full tests need it.
func minio(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TUNEFLEET_MINIO")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "tunefleet", "minio")
	}
	bin := filepath.Join(dir, "bin", "minio")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("TUNEFLEET_TEST_FULL") != "" {
			t.Fatalf("no MinIO server (go tool task minio builds it): %v", err)
		}
		t.Skipf("no MinIO server (go tool task minio builds it): %v", err)
	}
	return bin
}

// TestMinIO runs the suite against a real MinIO server.
func TestMinIO(t *testing.T) {
	bin := minio(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.CommandContext(t.Context(), bin, "server", t.TempDir(), "--address", addr, "--quiet")
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER=tunefleet", "MINIO_ROOT_PASSWORD=tunefleet-test")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	o, err := s3store.New(s3store.Config{Endpoint: addr, AccessKey: "tunefleet", SecretKey: "tunefleet-test"})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for err = o.EnsureBucket(ctx); err != nil; err = o.EnsureBucket(ctx) {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	conform(t, o)
}
