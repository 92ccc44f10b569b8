package train

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// mortal is a peer's listener that dies, with all of its connections, once it has sent so many bytes. Later callers are refused.
type mortal struct {
	net.Listener
	mu    sync.Mutex
	left  int
	sent  int
	dead  bool
	conns []net.Conn
}

func (m *mortal) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	m.conns = append(m.conns, c)
	return &mortalConn{c, m}, nil
}

// mortalConn has no ReadFrom: every byte goes through Write.
type mortalConn struct {
	net.Conn
	of *mortal
}

func (c *mortalConn) Write(p []byte) (int, error) {
	m := c.of
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p[:min(len(p), m.left)])
	m.left, m.sent = m.left-n, m.sent+n
	if err == nil && m.left > 0 {
		return n, nil
	}
	m.dead = true
	errs := []error{io.ErrClosedPipe, err, m.Close()}
	for _, o := range m.conns {
		errs = append(errs, o.Close())
	}
	return n, errors.Join(errs...)
}

func (m *mortal) died() (dead bool, sent int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead, m.sent
}

// storedPart counts the bytes of one part that come from the store.
type storedPart struct {
	store.Objects
	key   string
	bytes atomic.Int64
}

func (m *storedPart) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	r, err := m.Objects.Open(ctx, key, from, to)
	if err != nil || !strings.HasSuffix(key, m.key) {
		return r, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r, tally{&m.bytes}), r}, nil
}

// TestPeerDiesWhileItServes: a survivor stops in the middle of what it sends, and refuses whoever asks again. The others take the rest of its
// part from the store, and the result is the undisturbed run's. While it serves to the end, nothing of its part comes from the store.
func TestPeerDiesWhileItServes(t *testing.T) {
	stage := toyStage("train", "full")
	calm := newFleet(t, stage)
	if err := errors.Join(calm.generation("train", plan{world: 3})...); err != nil {
		t.Fatal(err)
	}
	want := calm.trainedHash()
	// resume forms the gang again: the machine of rank 1 is gone, that of rank 2 is rank 1 now, and a new one is rank 2, which needs what rank 1
	// kept. Rank 1 dies as a peer after so many bytes.
	resume := func(t *testing.T, after int) (peer *mortal, fromStore int64) {
		keep := keepers(t, 3)
		f := interrupted(t, stage, keep)
		m, err := checkpoint.ReadManifest(t.Context(), f.objects, *f.head().Manifest)
		if err != nil {
			t.Fatal(err)
		}
		var part schemas.Part
		for _, p := range m.Parts {
			if p.Rank == 2 {
				part = p
			}
		}
		keep = []string{keep[0], keep[2], t.TempDir()}
		meter := &storedPart{Objects: f.objects, key: part.Key}
		f.objects, f.events = meter, nil
		listen := func(ctx context.Context, rank int) (net.Listener, string, error) {
			ln, addr, err := listenLoopback(ctx)
			if err == nil && rank == 1 {
				peer = &mortal{Listener: ln, left: after}
				ln = peer
			}
			return ln, addr, err
		}
		if err := errors.Join(f.generation("train", plan{world: 3, keep: keep, peers: true, listen: listen})...); err != nil {
			t.Fatal(err)
		}
		if peer == nil {
			t.Fatal("rank 1 offered nothing")
		}
		if got := f.trainedHash(); got != want {
			t.Errorf("state %.12s, undisturbed %.12s", got, want)
		}
		return peer, meter.bytes.Load()
	}
	peer, fromStore := resume(t, 1<<40)
	dead, all := peer.died()
	if dead || all == 0 || fromStore != 0 {
		t.Fatalf("a peer that lives sent %d bytes (dead: %v), and %d of its part came from the store", all, dead, fromStore)
	}
	for name, after := range map[string]int{"at the first byte": 1, "in the middle": all / 2, "before the last byte": all - 1} {
		t.Run(name, func(t *testing.T) {
			peer, fromStore := resume(t, after)
			if dead, sent := peer.died(); !dead || sent != after {
				t.Errorf("the peer sent %d bytes, dead: %v; it was to die after %d of %d", sent, dead, after, all)
			}
			if fromStore == 0 {
				t.Error("nothing of the dead peer's part came from the store")
			}
			t.Logf("the peer sent %d of %d bytes, the store gave %d", after, all, fromStore)
		})
	}
}
