// Package collectivetest is the conformance suite of gang collectives.
package collectivetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
)

// Make returns the connected ranks of a gang of the given size.
type Make func(t *testing.T, world int) []consume.Collective

const patience = 20 * time.Second

// Run checks an implementation against the rules in package collective.
func Run(t *testing.T, mk Make) {
	t.Run("AllToAll", func(t *testing.T) { allToAll(t, mk) })
	t.Run("AllGather", func(t *testing.T) { allGather(t, mk) })
	t.Run("LargeBothWays", func(t *testing.T) { largeBothWays(t, mk) })
	t.Run("ManySmall", func(t *testing.T) { manySmall(t, mk) })
	t.Run("BarrierHoldsEveryone", func(t *testing.T) { barrier(t, mk) })
	t.Run("LostPeer", func(t *testing.T) { lostPeer(t, mk) })
	t.Run("CloseAfterLastCall", func(t *testing.T) { closeAfterLast(t, mk) })
	t.Run("CloseUnblocks", func(t *testing.T) { closeUnblocks(t, mk) })
	t.Run("CancelUnblocks", func(t *testing.T) { cancelUnblocks(t, mk) })
	t.Run("LengthMismatch", func(t *testing.T) { lengthMismatch(t, mk) })
	t.Run("KindMismatch", func(t *testing.T) { kindMismatch(t, mk) })
	t.Run("WrongSlots", func(t *testing.T) { wrongSlots(t, mk) })
}

func closeAll(ranks []consume.Collective) {
	for _, c := range ranks {
		c.Close()
	}
}

// each runs fn on every rank at once and returns the errors by rank.
func each(ranks []consume.Collective, fn func(ctx context.Context, c consume.Collective) error) []error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	errs := make([]error, len(ranks))
	var wg sync.WaitGroup
	for r, c := range ranks {
		wg.Go(func() { errs[r] = fn(ctx, c) })
	}
	wg.Wait()
	return errs
}

func must(t *testing.T, errs []error) {
	t.Helper()
	for r, err := range errs {
		if err != nil {
			t.Fatalf("rank %d: %v", r, err)
		}
	}
}

// content is what rank from sends to rank to in a round: length and bytes follow from the arguments alone.
func content(round, from, to, limit int) []byte {
	r := rand.New(rand.NewPCG(uint64(round), uint64(from)<<32|uint64(to)))
	n := r.IntN(limit)
	if r.IntN(4) == 0 {
		n = 0
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func allToAll(t *testing.T, mk Make) {
	for _, world := range []int{1, 2, 3, 5} {
		t.Run(fmt.Sprint(world), func(t *testing.T) {
			ranks := mk(t, world)
			defer closeAll(ranks)
			must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
				if c.World() != world || ranks[c.Rank()] != c {
					return fmt.Errorf("rank %d of %d is misplaced", c.Rank(), c.World())
				}
				for round := range 30 {
					limit := []int{40, 20_000, 200_000}[round%3]
					send, recv, want := make([][]byte, world), make([][]byte, world), make([][]byte, world)
					for r := range world {
						send[r] = content(round, c.Rank(), r, limit)
						want[r] = content(round, r, c.Rank(), limit)
						if len(want[r]) > 0 {
							recv[r] = make([]byte, len(want[r]))
						}
					}
					if err := c.AllToAll(ctx, send, recv); err != nil {
						return err
					}
					for r := range world {
						if !bytes.Equal(recv[r], want[r]) {
							return fmt.Errorf("round %d: wrong bytes from rank %d", round, r)
						}
						clear(send[r]) // the buffers are ours again
					}
				}
				return nil
			}))
		})
	}
}

func allGather(t *testing.T, mk Make) {
	ranks := mk(t, 3)
	defer closeAll(ranks)
	must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
		for round := range 20 {
			send := content(round, c.Rank(), 0, 60_000)
			recv := make([][]byte, 3)
			for r := range recv {
				recv[r] = make([]byte, len(content(round, r, 0, 60_000)))
			}
			if err := c.AllGather(ctx, send, recv); err != nil {
				return err
			}
			for r := range recv {
				if !bytes.Equal(recv[r], content(round, r, 0, 60_000)) {
					return fmt.Errorf("round %d: wrong bytes from rank %d", round, r)
				}
			}
		}
		return nil
	}))
}

// largeBothWays would deadlock if a rank wrote everything before it read.
func largeBothWays(t *testing.T, mk Make) {
	const n = 12 << 20
	for _, world := range []int{2, 3} {
		ranks := mk(t, world)
		must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
			send, recv := make([][]byte, world), make([][]byte, world)
			for r := range world {
				send[r] = bytes.Repeat([]byte{byte(10*c.Rank() + r)}, n)
				recv[r] = make([]byte, n)
			}
			if err := c.AllToAll(ctx, send, recv); err != nil {
				return err
			}
			for r := range world {
				if !bytes.Equal(recv[r], bytes.Repeat([]byte{byte(10*r + c.Rank())}, n)) {
					return fmt.Errorf("wrong bytes from rank %d", r)
				}
			}
			return nil
		}))
		closeAll(ranks)
	}
}

func manySmall(t *testing.T, mk Make) {
	ranks := mk(t, 3)
	defer closeAll(ranks)
	must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
		var sum [3]byte
		send, recv := make([][]byte, 3), make([][]byte, 3)
		for r := range 3 {
			send[r], recv[r] = make([]byte, 8), make([]byte, 8)
		}
		for i := range 500 {
			for r := range 3 {
				send[r][0] = byte(i + c.Rank())
			}
			if err := c.AllToAll(ctx, send, recv); err != nil {
				return err
			}
			for r := range 3 {
				sum[r] += recv[r][0]
				if recv[r][0] != byte(i+r) {
					return fmt.Errorf("call %d: got %d from rank %d", i, recv[r][0], r)
				}
			}
		}
		return nil
	}))
}

func barrier(t *testing.T, mk Make) {
	const world = 4
	ranks := mk(t, world)
	defer closeAll(ranks)
	var entered atomic.Int64
	must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
		for round := int64(1); round <= 50; round++ {
			if c.Rank() == int(round)%world {
				time.Sleep(time.Millisecond)
			}
			entered.Add(1)
			if err := c.Barrier(ctx); err != nil {
				return err
			}
			if n := entered.Load(); n < round*world {
				return fmt.Errorf("left barrier %d after %d entries", round, n)
			}
		}
		return nil
	}))
}

func lostPeer(t *testing.T, mk Make) {
	ranks := mk(t, 3)
	defer closeAll(ranks)
	errs := each(ranks, func(ctx context.Context, c consume.Collective) error {
		if err := c.Barrier(ctx); err != nil {
			return err
		}
		if c.Rank() == 1 {
			return c.Close()
		}
		for range 1000 {
			if err := c.Barrier(ctx); err != nil {
				for range 3 {
					if again := c.AllGather(ctx, nil, make([][]byte, 3)); !errors.Is(again, collective.ErrPeerLost) {
						return fmt.Errorf("a later call did not return ErrPeerLost: %w", errors.Join(again))
					}
				}
				return err
			}
		}
		return nil
	})
	if errs[1] != nil {
		t.Fatalf("close: %v", errs[1])
	}
	for _, r := range []int{0, 2} {
		if !errors.Is(errs[r], collective.ErrPeerLost) {
			t.Errorf("rank %d: %v, want ErrPeerLost", r, errs[r])
		}
	}
}

// closeAfterLast: a rank that has done all its calls may close at once; the others still complete the same calls.
func closeAfterLast(t *testing.T, mk Make) {
	for range 20 {
		ranks := mk(t, 2)
		must(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
			defer c.Close()
			recv := [][]byte{make([]byte, 100), make([]byte, 100)}
			return c.AllGather(ctx, make([]byte, 100), recv)
		}))
	}
}

func closeUnblocks(t *testing.T, mk Make) {
	ranks := mk(t, 2)
	defer closeAll(ranks)
	done := make(chan error, 1)
	go func() { done <- ranks[0].Barrier(context.Background()) }()
	time.Sleep(10 * time.Millisecond) // only makes it likelier that the call is blocked already; the result is the same
	ranks[0].Close()
	select {
	case err := <-done:
		if !errors.Is(err, collective.ErrPeerLost) {
			t.Fatalf("got %v, want ErrPeerLost", err)
		}
	case <-time.After(patience):
		t.Fatal("a blocked call did not return after Close")
	}
}

func cancelUnblocks(t *testing.T, mk Make) {
	ranks := mk(t, 2)
	defer closeAll(ranks)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ranks[0].AllToAll(ctx, [][]byte{nil, nil}, [][]byte{nil, make([]byte, 10)}) }()
	time.Sleep(10 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
	case <-time.After(patience):
		t.Fatal("a blocked call did not return after cancel")
	}
	bg, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	for r := range 2 {
		// The cancelled rank may not have entered at all when cancel came early: then it leaves by closing.
		if r == 1 {
			ranks[0].Close()
		}
		if err := ranks[r].Barrier(bg); r == 1 && !errors.Is(err, collective.ErrPeerLost) {
			t.Errorf("rank %d: %v, want ErrPeerLost", r, err)
		} else if r == 0 && err == nil {
			t.Error("a barrier passed that only one rank entered")
		}
	}
}

func mismatch(t *testing.T, errs []error) {
	t.Helper()
	found := false
	for r, err := range errs {
		if err == nil {
			t.Errorf("rank %d noticed nothing", r)
		}
		found = found || errors.Is(err, collective.ErrMismatch)
	}
	if !found {
		t.Errorf("no rank reports ErrMismatch: %v", errs)
	}
}

func lengthMismatch(t *testing.T, mk Make) {
	ranks := mk(t, 2)
	defer closeAll(ranks)
	mismatch(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
		send, recv := [][]byte{nil, nil}, [][]byte{nil, nil}
		send[1-c.Rank()] = make([]byte, 8)
		recv[1-c.Rank()] = make([]byte, 8+c.Rank())
		if err := c.AllToAll(ctx, send, recv); err != nil {
			return err
		}
		return c.Barrier(ctx)
	}))
}

func kindMismatch(t *testing.T, mk Make) {
	ranks := mk(t, 2)
	defer closeAll(ranks)
	mismatch(t, each(ranks, func(ctx context.Context, c consume.Collective) error {
		if c.Rank() == 0 {
			return c.Barrier(ctx)
		}
		return c.AllGather(ctx, []byte{1}, [][]byte{make([]byte, 1), make([]byte, 1)})
	}))
}

func wrongSlots(t *testing.T, mk Make) {
	ranks := mk(t, 2)
	defer closeAll(ranks)
	if err := ranks[0].AllToAll(context.Background(), make([][]byte, 1), make([][]byte, 2)); !errors.Is(err, collective.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
}
