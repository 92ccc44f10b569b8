package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// NCCL is one rank of an exchange between processes that have a card each. Made by Open.
type NCCL struct {
	cfg     Config
	rank    int
	world   int
	version string
	dev     *kernels.Device
	comm    *kernels.Communicator
	q       *kernels.Queue

	call sync.Mutex // held for calls of comm, whose methods wait for nothing
	mu   sync.Mutex // guards the rest
	ring *ring
	// cause is why it is broken. Set before anything that waits can go on.
	cause error
	given bool          // giving up has ended well
	ended chan struct{} // closed when giving up has ended, well or not

	stop    chan struct{}
	stopped chan struct{} // nil before watch has begun; closed when it has ended
}

// openNCCL connects the ranks and tries the connection out.
func openNCCL(ctx context.Context, dev *kernels.Device, host Host, cfg Config) (*NCCL, error) {
	id, err := agreeOnID(ctx, dev, host, cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot agree on a communicator: %w", err)
	}
	n := &NCCL{cfg: cfg, rank: host.Rank(), world: host.World(), dev: dev, ended: make(chan struct{}), stop: make(chan struct{})}
	err = n.connect(ctx, id)
	if err == nil {
		err = n.try(ctx)
	}
	if all := agreeOnOutcome(ctx, host, err); all != nil {
		return nil, errors.Join(all, n.Close(all))
	}
	return n, nil
}

// connect joins the communicator and starts to watch it.
func (n *NCCL) connect(ctx context.Context, id kernels.CommID) (err error) {
	if v, err := n.dev.CommVersion(); err == nil {
		n.version = fmt.Sprintf("%s.%d", series(v), v%100)
	}
	if n.ring, err = newRing(n.dev); err != nil {
		return err
	}
	if n.q, err = n.dev.NewQueue(kernels.Comm); err != nil {
		return err
	}
	began := time.Now()
	if n.comm, err = n.dev.NewCommunicator(id, n.rank, n.world); err != nil {
		return n.advise("NCCL cannot be started", err)
	}
	n.call.Lock()
	err = n.settle(ctx, began.Add(n.cfg.FormTimeout))
	n.call.Unlock()
	switch {
	case err == nil:
		n.stopped = make(chan struct{})
		go n.watch(ctx)
		return nil
	case errors.Is(err, errLate):
		err = n.advise(fmt.Sprintf("NCCL did not connect the %d ranks of generation %d within %s", n.world, n.cfg.Generation, n.cfg.FormTimeout), nil)
	case ctx.Err() == nil:
		err = n.advise(fmt.Sprintf("NCCL cannot connect the %d ranks of generation %d", n.world, n.cfg.Generation), err)
	}
	n.giveUp(err)
	return err
}

// advise is an error of the machines, with what helps against most of what keeps NCCL from connecting.
func (n *NCCL) advise(what string, err error) error {
	if err != nil {
		what += ": " + err.Error()
	}
	return schemas.Errorf(schemas.CodeUnavailable, "nccl", "%s", what).WithHint("NCCL_SOCKET_IFNAME=NAME where the machines reach each other by one interface only "+
		"(here: %s); open ports between them; NCCL_IB_DISABLE=1 without working InfiniBand; NCCL_P2P_DISABLE=1 or NCCL_SHM_DISABLE=1 where cards or containers do "+
		"not reach each other's memory (a container's /dev/shm may be too small); NCCL_DEBUG=INFO shows where it stops; %s=host does without NCCL", interfaces(), HostVariable)
}

// interfaces lists this machine's network interfaces that are up.
func interfaces() string {
	all, err := net.Interfaces()
	var names []string
	for _, i := range all {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	if err != nil || names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

var errLate = errors.New("the deadline has passed")

// settle polls, with call held, until what was begun last is done.
func (n *NCCL) settle(ctx context.Context, until time.Time) error {
	began := time.Now()
	for {
		err := n.comm.Poll()
		if err == nil || !kernels.IsAgain(err) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := n.Failure(); err != nil {
			return err
		}
		now := time.Now()
		if now.After(until) {
			return errLate
		}
		// Queueing takes microseconds, connecting seconds.
		if now.Sub(began) < 200*time.Microsecond {
			runtime.Gosched()
		} else {
			time.Sleep(min(now.Sub(began)/4, 10*time.Millisecond))
		}
	}
}

// try moves a few bytes each way and looks at what came: a connection that stands may still carry nothing.
func (n *NCCL) try(ctx context.Context) (err error) {
	const words = 256
	arena, err := n.dev.NewArena("trial of NCCL", int64(n.world)*(3*4*words+3*256))
	if err != nil {
		return err
	}
	defer arena.Close()
	send, recv, got := make([][]kernels.Tensor, n.world), make([][]kernels.Tensor, n.world), make([]kernels.Tensor, n.world)
	gathered := make([][]kernels.Tensor, n.world)
	for r := range n.world {
		var x [3]kernels.Tensor
		for i := range x {
			if x[i], err = arena.New(kernels.I32, words); err != nil {
				return err
			}
		}
		n.q.Fill(kernels.Fill{Y: x[0], Value: float64(1 + n.rank*n.world + r)})
		send[r], recv[r], got[r], gathered[r] = x[:1], x[1:2], x[2], x[2:]
	}
	until := time.Now().Add(n.cfg.FormTimeout)
	if _, err := n.allToAll(ctx, n.q, send, recv, until); err != nil {
		return err
	}
	if _, err := n.allGather(ctx, n.q, send[n.rank], gathered, until); err != nil {
		return err
	}
	back := make([]int32, words)
	for r := range n.world {
		for _, c := range []struct {
			x    kernels.Tensor
			want int
		}{{recv[r][0], 1 + r*n.world + n.rank}, {got[r], 1 + r*n.world + r}} {
			if err := kernels.Download(n.q, back, c.x); err != nil {
				if n.Failure() != nil {
					return n.advise("a trial of NCCL failed", errors.Join(n.Failure(), err))
				}
				return err
			}
			for i, v := range back {
				if int(v) != c.want {
					return n.advise(fmt.Sprintf("NCCL moves wrong bytes: word %d from rank %d is %d, want %d", i, r, v, c.want), nil)
				}
			}
		}
	}
	return nil
}

// AllToAll implements Collective.
func (n *NCCL) AllToAll(ctx context.Context, q *kernels.Queue, send, recv [][]kernels.Tensor) (*kernels.Event, error) {
	return n.allToAll(ctx, q, send, recv, time.Now().Add(n.cfg.OpTimeout))
}

func (n *NCCL) allToAll(ctx context.Context, q *kernels.Queue, send, recv [][]kernels.Tensor, until time.Time) (*kernels.Event, error) {
	copies, err := checkSlots(n.world, n.rank, send, recv)
	if err != nil {
		return nil, err
	}
	var ts []kernels.Transfer
	for i := range n.world {
		// Each rank begins with the next one, so that not all send to the same.
		to, from := (n.rank+i)%n.world, (n.rank+n.world-i)%n.world
		if i == 0 {
			continue
		}
		for _, x := range send[to] {
			if x.Numel() > 0 {
				ts = append(ts, kernels.Transfer{Kind: kernels.Send, Peer: to, Src: x})
			}
		}
		for _, y := range recv[from] {
			if y.Numel() > 0 {
				ts = append(ts, kernels.Transfer{Kind: kernels.Recv, Peer: from, Dst: y})
			}
		}
	}
	return n.run(ctx, q, "all-to-all", copies, ts, until)
}

// AllGather implements Collective.
func (n *NCCL) AllGather(ctx context.Context, q *kernels.Queue, send []kernels.Tensor, recv [][]kernels.Tensor) (*kernels.Event, error) {
	return n.allGather(ctx, q, send, recv, time.Now().Add(n.cfg.OpTimeout))
}

// allGather is a broadcast from every rank at the same time: their parts differ in size, which ncclAllGather does not take.
func (n *NCCL) allGather(ctx context.Context, q *kernels.Queue, send []kernels.Tensor, recv [][]kernels.Tensor, until time.Time) (*kernels.Event, error) {
	all := make([][]kernels.Tensor, n.world)
	for r := range all {
		all[r] = recv[r]
	}
	all[n.rank] = send
	if _, err := checkSlots(n.world, n.rank, all, recv); err != nil {
		return nil, err
	}
	var ts []kernels.Transfer
	for r := range n.world {
		for i, y := range recv[r] {
			if y.Numel() == 0 {
				continue
			}
			t := kernels.Transfer{Kind: kernels.Broadcast, Peer: r, Dst: y}
			if r == n.rank {
				t.Src = send[i]
			}
			ts = append(ts, t)
		}
	}
	return n.run(ctx, q, "all-gather", nil, ts, until)
}

// run queues copies and transfers.
func (n *NCCL) run(ctx context.Context, q *kernels.Queue, what string, copies [][2]kernels.Tensor, ts []kernels.Transfer, until time.Time) (*kernels.Event, error) {
	if err := n.Failure(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	s := n.ring.take()
	// The limit counts from here: a driver whose queue is full blocks whoever adds to it.
	s.what, s.until, s.limit, s.recorded = what, until, time.Until(until), false
	n.mu.Unlock()
	q.Record(s.ready)
	n.q.Wait(s.ready)
	for _, c := range copies {
		n.q.Copy(kernels.Copy{X: raw(c[0]), Y: raw(c[1])})
	}
	if err := errors.Join(q.Err(), n.q.Err()); err != nil {
		return nil, Explain(n, err)
	}
	if len(ts) > 0 {
		n.call.Lock()
		err := n.comm.Run(n.q, ts)
		if kernels.IsAgain(err) {
			err = n.settle(ctx, until)
		}
		n.call.Unlock()
		if err != nil {
			return nil, n.broken(ctx, what, err)
		}
	}
	n.q.Record(s.done)
	n.mu.Lock()
	s.recorded = true
	n.mu.Unlock()
	return s.done, Explain(n, n.q.Err())
}

// broken gives up because of a call that failed.
func (n *NCCL) broken(ctx context.Context, what string, err error) error {
	switch {
	case n.Failure() != nil: // it is the reason
	case ctx.Err() != nil:
		n.giveUp(ctx.Err())
	case errors.Is(err, errLate):
		n.giveUp(fmt.Errorf("%w: an %s could not be queued in time; a rank that computes for longer needs a longer limit", collective.ErrPeerLost, what))
	default:
		n.giveUp(fmt.Errorf("%w: %s: %w", collective.ErrPeerLost, what, err))
	}
	return n.Failure()
}

// watch looks for errors of other ranks, and for calls that take too long, until Close.
func (n *NCCL) watch(ctx context.Context) {
	defer close(n.stopped)
	tick := time.NewTicker(n.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-ctx.Done():
			n.giveUp(ctx.Err())
			return
		case <-tick.C:
		}
		if err := n.look(); err != nil {
			n.giveUp(err)
			return
		}
	}
}

// look is what is wrong with what is under way.
func (n *NCCL) look() error {
	if n.Failure() != nil {
		return nil
	}
	if n.call.TryLock() {
		err := n.comm.Poll()
		n.call.Unlock()
		if err != nil && !kernels.IsAgain(err) {
			return fmt.Errorf("%w: %w", collective.ErrPeerLost, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.ring.slots {
		s := &n.ring.slots[i]
		switch {
		case s.until.IsZero():
		case s.recorded && s.done.Done():
			s.until = time.Time{}
		case time.Now().After(s.until):
			return fmt.Errorf("%w: an %s was not done within %s: a rank hangs, or computes for longer than that", collective.ErrPeerLost, s.what, s.limit.Round(time.Millisecond))
		}
	}
	return nil
}

// giveUp breaks the exchange: what waits for other ranks goes on, with errors. It returns when that is so; where NCCL hangs, the process ends.
func (n *NCCL) giveUp(cause error) {
	n.mu.Lock()
	if n.cause != nil {
		n.mu.Unlock()
		<-n.ended
		return
	}
	n.cause = cause
	n.mu.Unlock()
	defer close(n.ended)
	if n.comm == nil {
		return
	}
	done := make(chan error, 1)
	go func() {
		n.call.Lock()
		defer n.call.Unlock()
		done <- n.comm.Abort()
	}()
	late := time.NewTimer(n.cfg.AbortTimeout)
	defer late.Stop()
	select {
	case err := <-done:
		n.mu.Lock()
		n.given = true
		if err != nil {
			n.cause = errors.Join(n.cause, err)
		}
		n.mu.Unlock()
	case <-late.C:
		if n.cfg.Kill != nil {
			n.cfg.Kill(fmt.Sprintf("NCCL could not be stopped within %s after: %v", n.cfg.AbortTimeout, cause))
		}
	}
}

// Failure implements Collective.
func (n *NCCL) Failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cause
}

// Close implements Collective.
func (n *NCCL) Close(cause error) error {
	if n.comm != nil && cause == nil && n.Failure() == nil {
		n.call.Lock()
		err := n.comm.Leave()
		if err == nil || kernels.IsAgain(err) {
			err = n.settle(context.Background(), time.Now().Add(n.cfg.AbortTimeout))
		}
		n.call.Unlock()
		if err != nil {
			cause = fmt.Errorf("cannot leave the exchange: %w", err)
		}
	}
	if cause != nil {
		n.giveUp(cause)
	}
	close(n.stop)
	if n.stopped != nil {
		<-n.stopped
	}
	n.mu.Lock()
	hangs := n.comm != nil && n.cause != nil && !n.given
	n.mu.Unlock()
	if hangs {
		return errors.New("cannot leave the exchange: NCCL hangs") // its memory is in use
	}
	return n.free()
}

// free gives back what is held, once nothing is under way.
func (n *NCCL) free() (err error) {
	if n.q != nil {
		err = n.q.Close()
		var k *kernels.Error
		if errors.As(err, &k) && k.Status == kernels.StatusLost {
			err = nil // it was given up
		}
	}
	if n.ring != nil {
		n.ring.close()
	}
	if n.comm != nil {
		n.comm.Close()
	}
	return err
}

func (n *NCCL) String() string {
	return fmt.Sprintf("NCCL %s, %d ranks, generation %d", n.version, n.world, n.cfg.Generation)
}
