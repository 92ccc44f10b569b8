// Package collective connects the ranks of a gang: Local for ranks that are goroutines of one process, TCP for ranks in processes of
// their own. Both implement consume.Collective and pass collectivetest.Run.
//
// Rules that hold for every implementation:
//
//   - All ranks make the same calls in the same order; one call at a time per rank. Each call has a sequence number that both sides
//     compare, so a rank that left the order is found at once (ErrMismatch) instead of mixing up data.
//   - Lengths are known to both sides. A slot of length zero (or nil) means that nothing travels in that direction.
//   - Data are raw bytes, copied once from the sender's slice to the receiver's. A call returns when both may be reused.
//   - Nothing is added or reordered here: what reductions add, they add in rank or leaf order themselves, so results do not depend on
//     timing.
//   - A lost peer, a missed deadline or a cancelled context breaks the whole mesh: every later call of every rank fails with
//     ErrPeerLost. A broken mesh is not repaired; the gang forms a new generation.
package collective

import (
	"errors"
	"fmt"
)

// Errors that callers decide on.
var (
	// ErrPeerLost: a rank died, closed, hung past the deadline or left the generation. Every later call fails with it too.
	ErrPeerLost = errors.New("a rank of the gang was lost")
	// ErrMismatch: the ranks do not make the same calls (kind, order or lengths differ): a bug of the caller. It also breaks the mesh.
	ErrMismatch = errors.New("ranks disagree about the collective call")
	// ErrTooLarge: a slot is larger than MaxFrame.
	ErrTooLarge = errors.New("collective slot is too large")
)

// lost says which rank is gone and why; errors.Is(err, ErrPeerLost) holds.
type lost struct {
	rank  int
	cause error
}

func (e *lost) Error() string {
	if e.rank < 0 {
		return fmt.Sprintf("%v: %v", ErrPeerLost, e.cause)
	}
	return fmt.Sprintf("%v: rank %d: %v", ErrPeerLost, e.rank, e.cause)
}

func (e *lost) Unwrap() []error { return []error{ErrPeerLost, e.cause} }

var errClosed = errors.New("collective is closed")

// checkSlots validates the slices of an all-to-all before anything is sent.
func checkSlots(world, rank int, max int64, send, recv [][]byte) error {
	if len(send) != world || len(recv) != world {
		return fmt.Errorf("%w: %d send and %d recv slots for %d ranks", ErrMismatch, len(send), len(recv), world)
	}
	for r := range world {
		if int64(len(send[r])) > max || int64(len(recv[r])) > max {
			return fmt.Errorf("%w: %d bytes to rank %d and %d from it, limit %d", ErrTooLarge, len(send[r]), r, len(recv[r]), max)
		}
	}
	if len(send[rank]) != len(recv[rank]) {
		return fmt.Errorf("%w: own slot sends %d bytes and receives %d", ErrMismatch, len(send[rank]), len(recv[rank]))
	}
	return nil
}
