package redislease_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/leasetest"
	"github.com/tunefleet/tunefleet/services/lease/redislease"
)

func open(t *testing.T, url string) *redislease.Store {
	t.Helper()
	s, err := redislease.New(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestEmbeddedServer runs the suite on the Redis-compatible server that tunefleet embeds, its clock advanced as there.
func TestEmbeddedServer(t *testing.T) {
	t.Parallel()
	leasetest.Run(t, func(t *testing.T) lease.Store {
		m := miniredis.RunT(t)
		stop := make(chan struct{})
		t.Cleanup(func() { close(stop) })
		go func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					m.FastForward(50 * time.Millisecond)
				}
			}
		}()
		return open(t, "redis://"+m.Addr())
	})
}

// server starts a real redis-server without persistence and returns its address.
func server(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("TUNEFLEET_REQUIRE_FIXTURES") == "1" {
			t.Fatal("redis-server is not installed (go tool task setup installs it)")
		}
		t.Skip("redis-server is not installed (go tool task setup installs it)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			return "127.0.0.1:" + port
		}
		if time.Now().After(deadline) {
			t.Fatal("redis-server did not start")
		}
	}
}

func TestRealServer(t *testing.T) {
	t.Parallel()
	addr := server(t)
	var db atomic.Int32
	leasetest.Run(t, func(t *testing.T) lease.Store { return open(t, fmt.Sprintf("redis://%s/%d", addr, db.Add(1))) })
}

func TestEvictingServerIsRefused(t *testing.T) {
	t.Parallel()
	err := open(t, "redis://"+server(t, "--maxmemory-policy", "allkeys-lru")).Check(t.Context())
	if !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("got %v, want CodeInvalid", err)
	}
	if err := open(t, "redis://"+server(t)).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUnreachableServerFailsQuickly(t *testing.T) {
	t.Parallel()
	s := open(t, "redis://127.0.0.1:1")
	start := time.Now()
	if _, err := s.Renew(t.Context(), "tf:{a/b}:lease:s:0", lease.Owner{}, time.Second); !errors.Is(err, lease.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}
