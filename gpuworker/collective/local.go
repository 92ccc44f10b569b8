package collective

import (
	"context"
	"fmt"
	"math"
	"sync"
)

// Local is one rank of a gang whose ranks are goroutines of this process. Made by NewLocal.
type Local struct {
	hub  *hub
	rank int
	seq  uint64
}

// NewLocal returns the ranks of a gang of the given size.
func NewLocal(world int) []*Local {
	h := &hub{world: world, slots: make([]slot, world), turn: make(chan struct{}), broken: make(chan struct{})}
	out := make([]*Local, world)
	for r := range out {
		out[r] = &Local{hub: h, rank: r}
	}
	return out
}

// hub is what the ranks share: one slot a rank and a barrier.
type hub struct {
	world int
	// using is held for reading while a rank may use what others shared.
	using sync.RWMutex

	mu      sync.Mutex
	slots   []slot
	arrived int
	turn    chan struct{} // closed when all ranks have arrived
	broken  chan struct{} // closed at the first failure
	cause   error
}

type slot struct {
	kind  byte
	seq   uint64
	send  [][]byte
	value any
}

func (h *hub) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause = err
		close(h.broken)
	}
}

func (h *hub) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// meet waits until every rank has called it.
func (h *hub) meet(ctx context.Context) error {
	h.mu.Lock()
	if h.cause != nil {
		h.mu.Unlock()
		return h.cause
	}
	turn := h.turn
	h.arrived++
	if h.arrived == h.world {
		h.arrived = 0
		h.turn = make(chan struct{})
		close(turn)
		h.mu.Unlock()
		return nil
	}
	h.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-h.broken:
		select {
		case <-turn: // complete before it broke
			return nil
		default:
			return h.failure()
		}
	case <-ctx.Done():
		h.fail(&lost{rank: -1, cause: ctx.Err()})
		return ctx.Err()
	}
}

// Rank is this rank, 0..World-1.
func (l *Local) Rank() int { return l.rank }

// World is the number of ranks.
func (l *Local) World() int { return l.hub.world }

// AllToAll sends send[r] to rank r and fills recv[r] with what rank r sent.
func (l *Local) AllToAll(ctx context.Context, send, recv [][]byte) error {
	return l.exchange(ctx, kindAllToAll, send, recv)
}

// AllGather fills recv[r] with rank r's send.
func (l *Local) AllGather(ctx context.Context, send []byte, recv [][]byte) error {
	all := make([][]byte, l.hub.world)
	for r := range all {
		all[r] = send
	}
	return l.exchange(ctx, kindAllGather, all, recv)
}

// Barrier returns when every rank has called it.
func (l *Local) Barrier(ctx context.Context) error {
	none := make([][]byte, l.hub.world)
	return l.exchange(ctx, kindBarrier, none, none)
}

// kindShare never travels.
const kindShare = kindBarrier + 1

// Share gives every rank what each of them gave, by rank. Values are not copied: only ranks of one process can share them. use is called with
// them on every rank before Share returns on any; its error breaks the gang.
func (l *Local) Share(ctx context.Context, v any, use func(all []any) error) error {
	h, none := l.hub, make([][]byte, l.hub.world)
	h.using.RLock()
	defer h.using.RUnlock()
	return l.call(ctx, slot{kind: kindShare, send: none, value: v}, none, func() error {
		all := make([]any, h.world)
		for r := range all {
			all[r] = h.slots[r].value
		}
		return use(all)
	})
}

// Break ends the gang because of err: calls of all ranks fail with ErrPeerLost. When it returns, no rank uses anymore what this one shared.
func (l *Local) Break(err error) {
	l.hub.fail(&lost{rank: l.rank, cause: err})
	l.hub.using.Lock()
	defer l.hub.using.Unlock()
}

func (l *Local) exchange(ctx context.Context, kind byte, send, recv [][]byte) error {
	return l.call(ctx, slot{kind: kind, send: send}, recv, nil)
}

// call makes one call; take, when not nil, may read the slots while nobody writes them.
func (l *Local) call(ctx context.Context, mine slot, recv [][]byte, take func() error) error {
	h, kind, send := l.hub, mine.kind, mine.send
	if err := h.failure(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkSlots(h.world, l.rank, math.MaxInt64, send, recv); err != nil {
		h.fail(&lost{rank: l.rank, cause: err})
		return err
	}
	l.seq++
	h.mu.Lock()
	mine.seq = l.seq
	h.slots[l.rank] = mine
	h.mu.Unlock()
	if err := h.meet(ctx); err != nil {
		return err
	}
	// Between the two meetings nobody writes a slot, so they are read without the lock.
	for r := range recv {
		s := h.slots[r]
		if s.kind != kind || s.seq != l.seq || len(s.send[l.rank]) != len(recv[r]) {
			err := fmt.Errorf("%w: rank %d makes call %d (%s, %d bytes for rank %d), rank %d makes call %d (%s, expecting %d bytes)", ErrMismatch,
				r, s.seq, kindName(s.kind), len(s.send[l.rank]), l.rank, l.rank, l.seq, kindName(kind), len(recv[r]))
			h.fail(&lost{rank: r, cause: err})
			return err
		}
		copy(recv[r], s.send[l.rank])
	}
	if take != nil {
		if err := take(); err != nil {
			h.fail(&lost{rank: l.rank, cause: err})
			return err
		}
	}
	return h.meet(ctx)
}

// Close leaves the gang: every other rank's blocked and later calls fail with ErrPeerLost.
func (l *Local) Close() error {
	l.hub.fail(&lost{rank: l.rank, cause: errClosed})
	return nil
}
