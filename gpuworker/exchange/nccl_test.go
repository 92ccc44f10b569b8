package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// sizes is how many words each piece has that rank from sends to rank to in a round.
func sizes(round, from, to int) []int64 {
	r := rand.New(rand.NewPCG(uint64(round), uint64(from)<<32|uint64(to)))
	out := make([]int64, r.IntN(4))
	for i := range out {
		out[i] = 1 + r.Int64N(3000)
		if r.IntN(5) == 0 {
			out[i] = 0
		}
	}
	return out
}

func word(round, from, to, piece int, i int64) int32 {
	return int32(round*1_000_003 + from*50_021 + to*7_919 + piece*613 + int(i))
}

// exchangeBytes makes calls of random pieces on two queues and looks at every word.
func exchangeBytes(ctx context.Context, r ranks) error {
	return rounds(ctx, r.dev, r.q, r.x, r.host.Rank(), r.host.World(), 12)
}

func rounds(ctx context.Context, dev *kernels.Device, q *kernels.Queue, x exchange.Collective, me, world, n int) (err error) {
	arena, err := dev.NewArena("pieces", 64<<20)
	if err != nil {
		return err
	}
	defer arena.Close()
	for round := range n {
		arena.Reset()
		gather := round%3 == 2
		at := func(to int) int { // what a gather sends is the same for all
			if gather {
				return 0
			}
			return to
		}
		list := func(from, to int, fill bool) (out []kernels.Tensor) {
			for p, words := range sizes(round, from, at(to)) {
				t, newErr := arena.New(kernels.I32, words)
				err = errors.Join(err, newErr)
				if fill && words > 0 {
					data := make([]int32, words)
					for i := range data {
						data[i] = word(round, from, at(to), p, int64(i))
					}
					err = errors.Join(err, kernels.Upload(q, t, data))
				}
				out = append(out, t)
			}
			return out
		}
		send, recv := make([][]kernels.Tensor, world), make([][]kernels.Tensor, world)
		for k := range world {
			send[k], recv[k] = list(me, k, true), list(k, me, false)
		}
		if err != nil {
			return err
		}
		var done *kernels.Event
		if gather {
			done, err = x.AllGather(ctx, q, send[0], recv)
		} else {
			done, err = x.AllToAll(ctx, q, send, recv)
		}
		if err != nil {
			return err
		}
		q.Wait(done)
		// What was sent is ours again.
		for _, l := range send {
			for _, t := range l {
				if t.Numel() > 0 {
					q.Fill(kernels.Fill{Y: kernels.NewTensor(t.Data, kernels.F32, t.Numel()), Value: -1})
				}
			}
		}
		for from := range world {
			for p, t := range recv[from] {
				got := make([]int32, t.Numel())
				if err := kernels.Download(q, got, t); err != nil {
					return err
				}
				for i, v := range got {
					if want := word(round, from, at(me), p, int64(i)); v != want {
						return fmt.Errorf("round %d: word %d of piece %d from rank %d is %d, want %d", round, i, p, from, v, want)
					}
				}
			}
		}
	}
	return nil
}

// dieMidway: rank 1 is killed while the others wait for it, in memory that they then read.
func dieMidway(ctx context.Context, r ranks) error {
	if r.host.Rank() == 1 {
		return errors.Join(syscall.Kill(os.Getpid(), syscall.SIGKILL), r.q.Sync())
	}
	return callAlone(ctx, r)
}

// callAlone gathers once and reads what came.
func callAlone(ctx context.Context, r ranks) error {
	arena, err := r.dev.NewArena("pieces", 1<<20)
	if err != nil {
		return err
	}
	defer arena.Close()
	recv := make([][]kernels.Tensor, r.host.World())
	var send kernels.Tensor
	for k := range recv {
		t, err := arena.New(kernels.F32, 100)
		if err != nil {
			return err
		}
		recv[k] = []kernels.Tensor{t}
	}
	if send, err = arena.New(kernels.F32, 100); err != nil {
		return err
	}
	done, err := r.x.AllGather(ctx, r.q, []kernels.Tensor{send}, recv)
	if err != nil {
		return exchange.Explain(r.x, err)
	}
	r.q.Wait(done)
	got := make([]float32, 100)
	if err = kernels.Download(r.q, got, recv[1][0]); err != nil {
		r.out.Sync = err.Error()
	}
	return exchange.Explain(r.x, err)
}

func TestNCCLMovesBytes(t *testing.T) {
	for _, world := range []int{2, 3} {
		for r, o := range run(t, world, "bytes", nil, nil) {
			if o.Error != "" || o.Sync != "" || o.Way != fmt.Sprintf("NCCL 2.28.9, %d ranks, generation 3", world) {
				t.Errorf("rank %d of %d: %+v", r, world, o)
			}
		}
	}
}

// TestRanksThatCannotConnect: within the deadline every rank has an error of the machines that says what helps.
func TestRanksThatCannotConnect(t *testing.T) {
	for fault, want := range map[string]string{"init-hangs": "did not connect the 2 ranks of generation 3 within 600ms", "init-fails": "no socket interface found"} {
		outs := run(t, 2, "nothing", []string{envForm + "=600"}, map[int][]string{1: {"TUNEFLEET_FAKE_NCCL_FAULT=" + fault}})
		one := outs[1]
		if one.Code != "unavailable" || !strings.Contains(one.Error, want) || !strings.Contains(one.Hint, "NCCL_SOCKET_IFNAME") || one.signal != 0 {
			t.Errorf("%s: rank 1: %+v", fault, one)
		}
		if zero := outs[0]; zero.Error == "" || zero.Took > 20*time.Second {
			t.Errorf("%s: rank 0: %+v", fault, zero)
		}
	}
}

// TestALostRank: what waited for it goes on at once, its queue fails, and the gang is told that a rank was lost.
func TestALostRank(t *testing.T) {
	outs := run(t, 3, "die", nil, nil)
	for _, r := range []int{0, 2} {
		if o := outs[r]; !o.Lost || !strings.Contains(o.Sync, "another rank did not take part") || !strings.Contains(o.Error, "remote process exited") {
			t.Errorf("rank %d: %+v", r, o)
		}
	}
	if outs[1].signal != syscall.SIGKILL {
		t.Errorf("rank 1: %+v", outs[1])
	}
}

// TestARankThatDoesNotTakePart is given up after the limit of a call.
func TestARankThatDoesNotTakePart(t *testing.T) {
	for _, fault := range []string{"run-hangs", "async-error"} {
		// The fault begins with the trial.
		outs := run(t, 2, "lonely", []string{envForm + "=800"}, map[int][]string{1: {"TUNEFLEET_FAKE_NCCL_FAULT=" + fault}})
		for r, o := range outs {
			if o.Error == "" || o.signal != 0 || o.Took > 20*time.Second {
				t.Errorf("%s: rank %d: %+v", fault, r, o)
			}
		}
		want := map[string]string{"run-hangs": "was not done within 800ms", "async-error": "Got completion from peer"}[fault]
		if !strings.Contains(outs[1].Error, want) {
			t.Errorf("%s: %q, want %q", fault, outs[1].Error, want)
		}
	}
}

// TestALimitOfACall: a rank that computes for too long, as it looks to the others.
func TestALimitOfACall(t *testing.T) {
	outs := run(t, 2, "lonely", nil, map[int][]string{0: {envOp + "=500"}, 1: {envDoes + "=nothing", envAbort + "=3000"}})
	if o := outs[0]; !o.Lost || !strings.Contains(o.Error, "an all-gather was not done within 500ms") && !strings.Contains(o.Error, "remote process exited") {
		t.Errorf("%+v", o)
	}
}

// TestGivingUpThatHangs: a process that NCCL does not let go ends by SIGKILL, and says why.
func TestGivingUpThatHangs(t *testing.T) {
	outs := run(t, 2, "nothing", []string{envForm + "=500", envAbort + "=400"}, map[int][]string{1: {"TUNEFLEET_FAKE_NCCL_FAULT=init-hangs,abort-hangs"}})
	if o := outs[1]; o.signal != syscall.SIGKILL || !strings.Contains(o.stderr, "NCCL could not be stopped within 400ms after") {
		t.Errorf("rank 1: %+v", o)
	}
	if o := outs[0]; o.signal != 0 || o.Error == "" {
		t.Errorf("rank 0: %+v", o)
	}
}

// TestWaysThatAreNotNCCL: all ranks agree on what they do, and say why.
func TestWaysThatAreNotNCCL(t *testing.T) {
	for _, c := range []struct {
		name          string
		env           []string
		of            map[int][]string
		why, err, fix string
	}{
		{"host", nil, map[int][]string{1: {exchange.HostVariable + "=host"}}, "rank 1 has " + exchange.HostVariable + "=host", "", ""},
		{"one card", []string{"TUNEFLEET_FAKE_BUS=7"}, nil, "ranks 0 and 1 share the card 0000:07:00, which NCCL does not allow", "", ""},
		{"no library", nil, map[int][]string{1: {"TUNEFLEET_FAKE_NCCL=libnccl.so.nowhere"}}, "", "2 ranks with GPUs of their own need NCCL: rank 1: NCCL cannot be opened: libnccl.so.nowhere", "=host"},
		{"versions", nil, map[int][]string{0: {"TUNEFLEET_FAKE_NCCL_VERSION=22703"}}, "", "rank 0 has 2.27, rank 1 has 2.28", "install the same version"},
		{"old", []string{"TUNEFLEET_FAKE_NCCL_VERSION=21003"}, nil, "", "NCCL 2.10.3 is too old, 2.14 is the least", "=host"},
		{"a CPU among them", nil, map[int][]string{0: {envBackend + "=cpu"}}, "rank 0 computes on a CPU", "", ""},
	} {
		for r, o := range run(t, 2, "nothing", c.env, c.of) {
			if o.Why != c.why || !strings.Contains(o.Error, c.err) || (o.Error == "") != (c.err == "") || !strings.Contains(o.Hint, c.fix) || o.Lost {
				t.Errorf("%s: rank %d: %+v", c.name, r, o)
			}
		}
	}
}

// TestLocalMovesBytes: the same calls between goroutines, on queues that run behind them and on the emulated card.
func TestLocalMovesBytes(t *testing.T) {
	hostilePath, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	emulated, err := card()
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"cpu": kernels.CPU, "hostile": hostilePath, "card": emulated} {
		for _, world := range []int{2, 3} {
			errs := make(chan error, world)
			for _, c := range collective.NewLocal(world) {
				go func() { errs <- localRank(t.Context(), c, path) }()
			}
			for range world {
				if err := <-errs; err != nil {
					t.Errorf("%s, %d ranks: %v", name, world, err)
				}
			}
		}
	}
}

func localRank(ctx context.Context, c *collective.Local, path string) (err error) {
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	dev, err := kernels.Open(kernels.Options{Backend: path, Threads: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	x, err := exchange.NewLocal(dev, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close(err)) }()
	return rounds(ctx, dev, q, x, c.Rank(), c.World(), 12)
}

// TestMismatch: ranks that do not agree are told, and break the gang.
func TestMismatch(t *testing.T) {
	errs := make(chan error, 2)
	for _, c := range collective.NewLocal(2) {
		go func() {
			errs <- func() (err error) {
				dev, err := kernels.Open(kernels.Options{Threads: 1})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, dev.Close()) }()
				q, err := dev.NewQueue(kernels.Compute)
				if err != nil {
					return err
				}
				a, err := dev.NewArena("x", 1<<20)
				if err != nil {
					return err
				}
				defer a.Close()
				x, err := exchange.NewLocal(dev, c)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, x.Close(err)) }()
				send, recv := make([][]kernels.Tensor, 2), make([][]kernels.Tensor, 2)
				for i, l := range [][][]kernels.Tensor{send, recv} {
					y, err := a.New(kernels.F32, int64(8+i*c.Rank()))
					if err != nil {
						return err
					}
					l[1-c.Rank()] = []kernels.Tensor{y}
				}
				_, err = x.AllToAll(t.Context(), q, send, recv)
				return err
			}()
		}()
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, collective.ErrMismatch) && !errors.Is(err, collective.ErrPeerLost) {
			t.Errorf("got %v", err)
		}
	}
}
