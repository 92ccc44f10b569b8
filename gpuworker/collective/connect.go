package collective

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// handshakeTimeout bounds one handshake, so that a stranger's idle connection cannot hold the forming of a mesh.
const handshakeTimeout = 10 * time.Second

// Connect forms the mesh: the rank dials every lower rank and accepts every higher one on ln, whose address must be Addrs[Rank]. It
// returns when all ranks have passed a first barrier, or fails after FormTimeout. ln is closed in either case. Connections that do not
// prove to be a rank of the same run and generation are dropped and do not disturb it.
func Connect(ctx context.Context, ln net.Listener, cfg Config) (*TCP, error) {
	cfg = cfg.WithDefaults()
	defer ln.Close()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot form the mesh: %w", err)
	}
	deadline := time.Now().Add(cfg.FormTimeout)
	fctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	m := &former{cfg: cfg, run: sha256.Sum256([]byte(cfg.Run)), conns: make([]*net.TCPConn, len(cfg.Addrs)), full: make(chan struct{})}
	m.missing = len(cfg.Addrs) - 1
	if m.missing == 0 {
		close(m.full)
	}
	var wg sync.WaitGroup
	wg.Go(func() { m.accept(fctx, ln) })
	for r := range cfg.Rank {
		wg.Go(func() { m.dial(fctx, r) })
	}
	var formErr error
	select {
	case <-m.full:
	case <-fctx.Done():
		formErr = m.incomplete(fctx.Err())
	}
	cancel()
	ln.Close()
	wg.Wait()
	t := &TCP{cfg: cfg, peers: make([]*peer, len(cfg.Addrs))}
	for r, c := range m.conns {
		if c != nil {
			t.peers[r] = &peer{rank: r, conn: c}
		}
	}
	if formErr != nil {
		for _, c := range m.conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, formErr
	}
	if err := t.share(deadline); err != nil {
		for _, p := range t.peers {
			if p != nil {
				p.conn.Close()
				p.shared.close()
			}
		}
		return nil, fmt.Errorf("cannot form generation %d: %w: %w", cfg.Generation, ErrPeerLost, err)
	}
	t.start()
	if err := t.barrier(ctx, time.Until(deadline)); err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot pass the first barrier of generation %d: %w", cfg.Generation, err)
	}
	return t, nil
}

// share agrees with every peer on shared memory.
func (t *TCP) share(deadline time.Time) error {
	errs := make([]error, len(t.peers))
	var wg sync.WaitGroup
	for r, p := range t.peers {
		if p != nil {
			wg.Go(func() { p.shared, errs[r] = share(p.conn, r < t.cfg.Rank, !t.cfg.NoSharedMemory, deadline) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// former collects one authenticated connection per peer.
type former struct {
	cfg Config
	run [32]byte

	mu      sync.Mutex
	conns   []*net.TCPConn
	missing int
	full    chan struct{}
	last    error
}

func (m *former) add(rank int, c *net.TCPConn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[rank] != nil || m.missing == 0 {
		return false
	}
	m.conns[rank] = c
	if m.missing--; m.missing == 0 {
		close(m.full)
	}
	return true
}

func (m *former) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = err
}

// incomplete names the ranks that did not come.
func (m *former) incomplete(cause error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var absent []int
	for r, c := range m.conns {
		if c == nil && r != m.cfg.Rank {
			absent = append(absent, r)
		}
	}
	err := fmt.Errorf("cannot form generation %d within %s: ranks %v are missing: %w", m.cfg.Generation, m.cfg.FormTimeout, absent,
		errors.Join(ErrPeerLost, cause))
	if m.last != nil {
		err = fmt.Errorf("%w (last: %w)", err, m.last)
	}
	return err
}

func (m *former) accept(ctx context.Context, ln net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		tc, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			continue
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { unblock(tc) })
			rank, err := m.welcome(tc)
			// Once stopped the deadline is not touched again, so that it cannot hit the calls that follow.
			clean := stop()
			if err == nil && clean && settle(tc) == nil && m.add(rank, tc) {
				return
			}
			if err != nil {
				m.note(err)
			}
			tc.Close()
		})
	}
}

// unblock ends whatever waits for the connection.
func unblock(c *net.TCPConn) {
	_ = c.SetDeadline(time.Unix(1, 0)) // a closed connection blocks nobody
}

// settle readies an authenticated connection for frames.
func settle(c *net.TCPConn) error {
	return errors.Join(c.SetDeadline(time.Time{}), c.SetNoDelay(true),
		c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 4}))
}

// welcome is the accepting side of the handshake; it returns the rank of the other side.
func (m *former) welcome(c *net.TCPConn) (int, error) {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return 0, err
	}
	raw := make([]byte, helloBytes)
	if _, err := io.ReadFull(c, raw); err != nil {
		return 0, fmt.Errorf("cannot read a hello: %w", err)
	}
	h, err := parseHello(raw)
	if err != nil {
		return 0, err
	}
	if h.run != m.run || h.generation != m.cfg.Generation || int(h.world) != len(m.cfg.Addrs) || int(h.to) != m.cfg.Rank ||
		int64(h.from) <= int64(m.cfg.Rank) || int64(h.from) >= int64(len(m.cfg.Addrs)) {
		return 0, fmt.Errorf("hello of rank %d for rank %d of %d, generation %d, does not belong here (rank %d of %d, generation %d)", h.from, h.to,
			h.world, h.generation, m.cfg.Rank, len(m.cfg.Addrs), m.cfg.Generation)
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	if _, err := c.Write(append(nonce, mac(m.cfg.Secret, "accept", raw, nonce)...)); err != nil {
		return 0, err
	}
	confirm := make([]byte, confirmBytes)
	if _, err := io.ReadFull(c, confirm); err != nil {
		return 0, fmt.Errorf("rank %d did not confirm: %w", h.from, err)
	}
	if !hmac.Equal(confirm, mac(m.cfg.Secret, "dial", raw, nonce)) {
		return 0, fmt.Errorf("a connection that claims to be rank %d does not have the gang's key", h.from)
	}
	return int(h.from), nil
}

// dial connects to a lower rank, again and again until ctx ends: the other process may not be that far.
func (m *former) dial(ctx context.Context, rank int) {
	d := net.Dialer{Timeout: handshakeTimeout}
	for wait := 5 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Second) {
		c, err := d.DialContext(ctx, "tcp", m.cfg.Addrs[rank])
		if err == nil {
			tc := c.(*net.TCPConn)
			stop := context.AfterFunc(ctx, func() { unblock(tc) })
			err = m.greet(tc, rank)
			clean := stop()
			if err == nil && clean && settle(tc) == nil && m.add(rank, tc) {
				return
			}
			tc.Close()
		}
		if err != nil && ctx.Err() == nil {
			m.note(fmt.Errorf("cannot join rank %d at %s: %w", rank, m.cfg.Addrs[rank], err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// greet is the dialing side of the handshake.
func (m *former) greet(c *net.TCPConn, rank int) error {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	h := hello{generation: m.cfg.Generation, from: uint32(m.cfg.Rank), to: uint32(rank), world: uint32(len(m.cfg.Addrs)), run: m.run}
	rand.Read(h.nonce[:])
	raw := h.bytes()
	if _, err := c.Write(raw); err != nil {
		return err
	}
	reply := make([]byte, replyBytes)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if !hmac.Equal(reply[16:], mac(m.cfg.Secret, "accept", raw, reply[:16])) {
		return errors.New("the other side does not have the gang's key")
	}
	_, err := c.Write(mac(m.cfg.Secret, "dial", raw, reply[:16]))
	return err
}
