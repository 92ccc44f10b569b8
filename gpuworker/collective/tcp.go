package collective

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// inlineBytes bounds what the calling goroutine writes itself: it fits every socket buffer, so ranks that all write before they read
	// cannot block each other.
	inlineBytes = 16 << 10
	readBuffer  = 32 << 10
)

// Config describes one rank's place in the mesh.
type Config struct {
	// Run and Generation must be equal on all ranks; both are part of the handshake, Generation of every frame.
	Run        string
	Generation uint64
	// Rank is this rank; Addrs holds the listening address of every rank, so World is its length.
	Rank  int
	Addrs []string
	// Secret is the key that the handshake proves to have.
	Secret []byte
	// FormTimeout bounds the forming of the mesh, its first barrier included. Default 60 s.
	FormTimeout time.Duration
	// OpTimeout bounds each call: longer than the longest time that one rank may compute while another waits. Default 10 min.
	OpTimeout time.Duration
	// MaxFrame bounds one slot in bytes. Default 4 GiB.
	MaxFrame int64
	// NoSharedMemory sends everything by TCP, also to ranks on the same host.
	NoSharedMemory bool
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	if c.FormTimeout == 0 {
		c.FormTimeout = 60 * time.Second
	}
	if c.OpTimeout == 0 {
		c.OpTimeout = 10 * time.Minute
	}
	if c.MaxFrame == 0 {
		c.MaxFrame = 4 << 30
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	if len(c.Addrs) == 0 || len(c.Addrs) > 1<<16 {
		errs = append(errs, fmt.Errorf("addresses of 1 to 65536 ranks are needed, got %d", len(c.Addrs)))
	}
	if c.Rank < 0 || c.Rank >= len(c.Addrs) {
		errs = append(errs, fmt.Errorf("rank %d is outside a gang of %d", c.Rank, len(c.Addrs)))
	}
	if c.FormTimeout < 0 || c.OpTimeout < 0 || c.MaxFrame < 0 {
		errs = append(errs, errors.New("timeouts and limits are negative"))
	}
	return errors.Join(errs...)
}

// TCP is one rank of a gang whose ranks are processes connected by TCP, every pair by one connection; pairs on one host pass large payloads
// through shared memory. Made by Connect.
type TCP struct {
	cfg   Config
	peers []*peer // by rank; nil at the own rank

	op  sync.Mutex // one call at a time
	seq uint64

	mu    sync.Mutex
	cause error

	sent, received, calls atomic.Int64
	writers               sync.WaitGroup
}

// peer is the connection to one rank.
type peer struct {
	rank   int
	conn   *net.TCPConn
	r      *bufio.Reader
	head   [headerBytes]byte // of what is read
	small  []byte            // header and payload of an inline write
	big    [headerBytes]byte // header of a large write
	vec    [2][]byte
	jobs   chan job // large payloads for the writer goroutine
	result chan error
	shared *segment // nil: by TCP alone
}

// job is a large payload to send until a deadline.
type job struct {
	payload  []byte
	deadline time.Time
}

// Rank is this rank, 0..World-1.
func (t *TCP) Rank() int { return t.cfg.Rank }

// World is the number of ranks.
func (t *TCP) World() int { return len(t.cfg.Addrs) }

// Traffic returns the payload bytes sent and received, and the number of calls, since the mesh was formed.
func (t *TCP) Traffic() (sent, received, calls int64) {
	return t.sent.Load(), t.received.Load(), t.calls.Load()
}

// AllToAll sends send[r] to rank r and fills recv[r] with what rank r sent.
func (t *TCP) AllToAll(ctx context.Context, send, recv [][]byte) error {
	return t.exchange(ctx, kindAllToAll, send, recv, t.cfg.OpTimeout)
}

// AllGather fills recv[r] with rank r's send.
func (t *TCP) AllGather(ctx context.Context, send []byte, recv [][]byte) error {
	all := make([][]byte, t.World())
	for r := range all {
		all[r] = send
	}
	return t.exchange(ctx, kindAllGather, all, recv, t.cfg.OpTimeout)
}

// Barrier returns when every rank has called it.
func (t *TCP) Barrier(ctx context.Context) error { return t.barrier(ctx, t.cfg.OpTimeout) }

func (t *TCP) barrier(ctx context.Context, timeout time.Duration) error {
	none := make([][]byte, t.World())
	return t.exchange(ctx, kindBarrier, none, none, timeout)
}

// Close leaves the gang; a blocked call returns, and every other rank's calls fail with ErrPeerLost.
func (t *TCP) Close() error {
	t.fail(&lost{rank: t.cfg.Rank, cause: errClosed})
	t.writers.Wait()
	t.op.Lock() // a call that was blocked has returned
	defer t.op.Unlock()
	for _, p := range t.peers {
		if p != nil {
			p.shared.close()
			p.shared = nil
		}
	}
	return nil
}

// Shared is the number of ranks that this one shares memory with.
func (t *TCP) Shared() int {
	t.op.Lock()
	defer t.op.Unlock()
	n := 0
	for _, p := range t.peers {
		if p != nil && p.shared != nil {
			n++
		}
	}
	return n
}

// fail breaks the mesh: the first cause stays, all connections are closed so that the other ranks notice at once.
func (t *TCP) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != nil {
		return
	}
	t.cause = err
	for _, p := range t.peers {
		if p != nil {
			p.conn.Close()
			close(p.jobs)
		}
	}
}

func (t *TCP) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cause
}

// start launches the writer goroutines; called once, when all connections stand.
func (t *TCP) start() {
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		p.r = bufio.NewReaderSize(p.conn, readBuffer)
		p.small = make([]byte, headerBytes+inlineBytes)
		p.jobs = make(chan job)
		p.result = make(chan error, 1)
		t.writers.Go(func() {
			for j := range p.jobs {
				p.result <- t.write(p, j)
			}
		})
	}
}

// write sends a header and a large payload.
func (t *TCP) write(p *peer, j job) error {
	if p.shared == nil {
		p.vec = [2][]byte{p.big[:], j.payload}
		v := net.Buffers(p.vec[:])
		_, err := v.WriteTo(p.conn)
		return err
	}
	if _, err := p.conn.Write(p.big[:]); err != nil {
		return err
	}
	return p.shared.out.put(j.payload, t.gone(p, j.deadline))
}

func (t *TCP) exchange(ctx context.Context, kind byte, send, recv [][]byte, timeout time.Duration) error {
	t.op.Lock()
	defer t.op.Unlock()
	if err := t.failure(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	me := t.cfg.Rank
	if err := checkSlots(t.World(), me, t.cfg.MaxFrame, send, recv); err != nil {
		t.fail(&lost{rank: me, cause: err})
		return err
	}
	t.seq++
	t.calls.Add(1)
	copy(recv[me], send[me])
	if t.World() == 1 {
		return nil
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { t.fail(&lost{rank: -1, cause: context.Cause(ctx)}) })
		defer stop()
	}
	if err := t.transfer(kind, send, recv, time.Now().Add(timeout)); err != nil {
		t.fail(err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var l *lost
		if errors.As(err, &l) && errors.Is(l.cause, ErrMismatch) {
			return err
		}
		return t.failure()
	}
	return nil
}

// transfer sends to and receives from every peer. Small slots are written by this goroutine, large ones by the peer's writer while this
// goroutine reads; with several large peers each is read by a goroutine of its own.
func (t *TCP) transfer(kind byte, send, recv [][]byte, deadline time.Time) error {
	world, me := t.World(), t.cfg.Rank
	var first error
	note := func(rank int, err error) {
		if err != nil && first == nil {
			first = err
			if l := (*lost)(nil); !errors.As(err, &l) {
				first = &lost{rank: rank, cause: err}
			}
			t.fail(first) // unblocks the others
		}
	}
	large := 0
	var started []*peer
	for i := 1; i < world; i++ {
		p := t.peers[(me+i)%world]
		if err := p.conn.SetDeadline(deadline); err != nil {
			note(p.rank, err)
			break
		}
		if len(recv[p.rank]) > inlineBytes {
			large++
		}
		data := send[p.rank]
		if len(data) == 0 && kind != kindBarrier {
			continue
		}
		h := header{kind: kind, rank: uint32(me), generation: t.cfg.Generation, seq: t.seq, bytes: uint64(len(data))}
		t.sent.Add(int64(len(data)))
		if len(data) <= inlineBytes {
			h.put(p.small)
			n := headerBytes + copy(p.small[headerBytes:], data)
			if _, err := p.conn.Write(p.small[:n]); err != nil {
				note(p.rank, err)
				break
			}
			continue
		}
		h.put(p.big[:])
		if !t.submit(p, job{data, deadline}) {
			note(p.rank, t.failure())
			break
		}
		started = append(started, p)
	}
	if first == nil {
		if large > 1 {
			errs := make([]error, world)
			var wg sync.WaitGroup
			for r, p := range t.peers {
				if p != nil {
					wg.Go(func() {
						if errs[r] = t.receive(p, kind, recv[r], deadline); errs[r] != nil {
							t.fail(errs[r])
						}
					})
				}
			}
			wg.Wait()
			if errors.Join(errs...) != nil {
				first = t.failure()
			}
		} else {
			for i := 1; i < world && first == nil; i++ {
				p := t.peers[(me+i)%world]
				note(p.rank, t.receive(p, kind, recv[p.rank], deadline))
			}
		}
	}
	for _, p := range started {
		note(p.rank, <-p.result)
	}
	return first
}

// submit hands a large payload to the peer's writer; false when the mesh broke meanwhile.
func (t *TCP) submit(p *peer, j job) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != nil {
		return false
	}
	p.jobs <- j // the writer is idle: its last result was taken
	return true
}

// receive reads one frame into dst, whose length the caller knows.
func (t *TCP) receive(p *peer, kind byte, dst []byte, deadline time.Time) error {
	if len(dst) == 0 && kind != kindBarrier {
		return nil
	}
	if _, err := io.ReadFull(p.r, p.head[:]); err != nil {
		return &lost{rank: p.rank, cause: err}
	}
	h, err := parseHeader(p.head[:])
	if err != nil {
		return &lost{rank: p.rank, cause: err}
	}
	if h.generation != t.cfg.Generation || int(h.rank) != p.rank {
		return &lost{rank: p.rank, cause: fmt.Errorf("frame of rank %d in generation %d, expected rank %d in %d", h.rank, h.generation, p.rank,
			t.cfg.Generation)}
	}
	if h.kind != kind || h.seq != t.seq || h.bytes != uint64(len(dst)) {
		return &lost{rank: p.rank, cause: fmt.Errorf("%w: rank %d makes call %d (%s, %d bytes), this rank call %d (%s, %d bytes)", ErrMismatch,
			p.rank, h.seq, kindName(h.kind), h.bytes, t.seq, kindName(kind), len(dst))}
	}
	if p.shared != nil && len(dst) > inlineBytes {
		err = p.shared.in.take(dst, t.gone(p, deadline))
	} else {
		_, err = io.ReadFull(p.r, dst)
	}
	if err != nil {
		return &lost{rank: p.rank, cause: err}
	}
	t.received.Add(int64(len(dst)))
	return nil
}
