package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Fault is how a link misbehaves; the zero value passes everything.
type Fault struct {
	// Refuse resets new connections at once, as a port without a listener does. Live ones are not touched: see Reset.
	Refuse bool
	// HoldUp stops bytes from client to server, HoldDown those from server to client; both is a partition.
	HoldUp, HoldDown bool
	// Delay is added to every chunk, plus up to Jitter at random.
	Delay, Jitter time.Duration
	// Rate bounds each direction in bytes per second (0: no bound).
	Rate int
	// Slice is the largest number of bytes written at once (0: as read).
	Slice int
}

// String names the fault for histories.
func (f Fault) String() string {
	switch {
	case f == Fault{}:
		return "none"
	case f.Refuse:
		return "refuse"
	case f.HoldUp && f.HoldDown:
		return "partition"
	case f.HoldUp:
		return "one-way partition (up)"
	case f.HoldDown:
		return "one-way partition (down)"
	case f.Rate > 0:
		return fmt.Sprintf("%d bytes/s", f.Rate)
	case f.Slice > 0:
		return fmt.Sprintf("sliced to %d bytes", f.Slice)
	}
	return fmt.Sprintf("delay %s jitter %s", f.Delay, f.Jitter)
}

// Tap sees what passes a link, in order, before it is forwarded. Each connection has one; Up and Down are called by one goroutine each.
type Tap interface {
	Up(data []byte)
	Down(data []byte)
}

// Link is a TCP proxy from one client to one server. It is safe for concurrent use.
type Link struct {
	listener net.Listener
	target   string
	tap      func() Tap
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu      sync.Mutex
	fault   Fault
	changed chan struct{}
	conns   map[*net.TCPConn]bool
}

// Listen starts a link on a free loopback port that forwards to target (host:port). tap may be nil.
func Listen(target string, tap func() Tap) (*Link, error) {
	ctx, stop := context.WithCancel(context.Background())
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, fmt.Errorf("cannot listen for a link to %s: %w", target, err)
	}
	k := &Link{listener: l, target: target, tap: tap, ctx: ctx, stop: stop, changed: make(chan struct{}), conns: map[*net.TCPConn]bool{}}
	k.wg.Go(k.accept)
	return k, nil
}

// Addr is where clients connect to (host:port).
func (k *Link) Addr() string { return k.listener.Addr().String() }

// Set changes the fault, also of live connections.
func (k *Link) Set(f Fault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
	close(k.changed)
	k.changed = make(chan struct{})
}

// Reset ends all live connections with a TCP reset and reports how many there were.
func (k *Link) Reset() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for c := range k.conns {
		_ = c.SetLinger(0) // close then resets
		_ = c.Close()
		n++
	}
	return n / 2
}

// Close ends the listener and all connections and waits for their goroutines.
func (k *Link) Close() {
	k.stop()
	_ = k.listener.Close()
	k.Reset()
	k.wg.Wait()
}

func (k *Link) now() (Fault, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fault, k.changed
}

func (k *Link) track(c *net.TCPConn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() != nil {
		return false
	}
	k.conns[c] = true
	return true
}

func (k *Link) drop(c *net.TCPConn) {
	k.mu.Lock()
	delete(k.conns, c)
	k.mu.Unlock()
	_ = c.Close()
}

func (k *Link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			if k.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: they come back
			continue
		}
		client := c.(*net.TCPConn)
		if f, _ := k.now(); f.Refuse || !k.track(client) {
			_ = client.SetLinger(0)
			_ = client.Close()
			continue
		}
		k.wg.Go(func() { k.serve(client) })
	}
}

func (k *Link) serve(client *net.TCPConn) {
	defer k.drop(client)
	if !k.passable(true) { // a partition also holds the first packet
		return
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(k.ctx, "tcp", k.target)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := c.(*net.TCPConn)
	if !k.track(server) {
		_ = server.Close()
		return
	}
	defer k.drop(server)
	up, down := func([]byte) {}, func([]byte) {}
	if k.tap != nil {
		t := k.tap()
		up, down = t.Up, t.Down
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.pump(server, client, true, up)
	}()
	k.pump(client, server, false, down)
	<-done
}

// pump copies one direction until an end closes; a clean end is passed on as a half close, anything else ends both.
func (k *Link) pump(to, from *net.TCPConn, isUp bool, tap func([]byte)) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !k.passable(isUp) {
				break
			}
			tap(buf[:n])
			if !k.forward(to, buf[:n]) {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			if k.passable(isUp) {
				_ = to.CloseWrite()
				return
			}
			break
		}
		if err != nil {
			break
		}
	}
	_ = to.SetLinger(0)
	_ = to.Close()
	_ = from.Close()
}

// passable waits while the direction is held and reports whether the link still lives.
func (k *Link) passable(isUp bool) bool {
	for {
		f, changed := k.now()
		if k.ctx.Err() != nil {
			return false
		}
		if isUp && !f.HoldUp || !isUp && !f.HoldDown {
			return true
		}
		select {
		case <-changed:
		case <-k.ctx.Done():
			return false
		}
	}
}

func (k *Link) forward(to *net.TCPConn, data []byte) bool {
	f, _ := k.now()
	if d := f.Delay; d > 0 || f.Jitter > 0 {
		if f.Jitter > 0 {
			d += time.Duration(rand.Int64N(int64(f.Jitter))) //nolint:gosec // jitter
		}
		if !k.sleep(d) {
			return false
		}
	}
	for len(data) > 0 {
		n := len(data)
		if f.Slice > 0 {
			n = min(n, f.Slice)
		}
		if f.Rate > 0 {
			n = min(n, max(1, f.Rate/20))
			if !k.sleep(time.Duration(n) * time.Second / time.Duration(f.Rate)) {
				return false
			}
		}
		if _, err := to.Write(data[:n]); err != nil {
			return false
		}
		data = data[n:]
		f, _ = k.now()
	}
	return true
}

func (k *Link) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-k.ctx.Done():
		return false
	}
}
