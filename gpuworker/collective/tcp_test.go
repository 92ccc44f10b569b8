package collective_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/collective/collectivetest"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
)

func listeners(t testing.TB, n int) ([]net.Listener, []string) {
	t.Helper()
	var lns []net.Listener
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		lns, addrs = append(lns, ln), append(addrs, ln.Addr().String())
	}
	return lns, addrs
}

// connect forms a mesh; change may alter a rank's configuration.
func connect(t testing.TB, world int, change func(c *collective.Config)) ([]*collective.TCP, []error) {
	t.Helper()
	lns, addrs := listeners(t, world)
	out, errs := make([]*collective.TCP, world), make([]error, world)
	var wg sync.WaitGroup
	for r := range world {
		wg.Go(func() {
			c := collective.Config{Run: "default/r1", Generation: 7, Rank: r, Addrs: addrs, Secret: []byte("key"), FormTimeout: 10 * time.Second}
			if change != nil {
				change(&c)
			}
			out[r], errs[r] = collective.Connect(context.Background(), lns[r], c)
		})
	}
	wg.Wait()
	return out, errs
}

func form(t testing.TB, world int) []consume.Collective {
	t.Helper()
	ranks, errs := connect(t, world, nil)
	var out []consume.Collective
	for r := range ranks {
		if errs[r] != nil {
			t.Fatalf("rank %d: %v", r, errs[r])
		}
		out = append(out, ranks[r])
	}
	return out
}

func TestTCP(t *testing.T) {
	collectivetest.Run(t, func(t *testing.T, world int) []consume.Collective { return form(t, world) })
}

func TestMissingRankNamed(t *testing.T) {
	lns, addrs := listeners(t, 3)
	lns[1].Close()
	var wg sync.WaitGroup
	// The time to form is what ranks 0 and 2 have to meet on a busy machine: until they have, each misses the other too.
	for _, r := range []int{0, 2} {
		wg.Go(func() {
			c, err := collective.Connect(t.Context(), lns[r], collective.Config{Run: "r", Generation: 1, Rank: r, Addrs: addrs,
				FormTimeout: 3 * time.Second})
			if err == nil {
				c.Close()
				t.Error("formed without rank 1")
				return
			}
			if !errors.Is(err, collective.ErrPeerLost) || !strings.Contains(err.Error(), "ranks [1] are missing") {
				t.Errorf("rank %d: %v", r, err)
			}
		})
	}
	wg.Wait()
}

func TestStrangersAreRefused(t *testing.T) {
	for name, change := range map[string]func(c *collective.Config){
		"generation": func(c *collective.Config) { c.Generation = uint64(8 + c.Rank) },
		"secret":     func(c *collective.Config) { c.Secret = []byte{byte(c.Rank)} },
		"run":        func(c *collective.Config) { c.Run = fmt.Sprint(c.Rank) },
	} {
		t.Run(name, func(t *testing.T) {
			ranks, errs := connect(t, 2, func(c *collective.Config) {
				change(c)
				c.FormTimeout = 200 * time.Millisecond
			})
			for r := range ranks {
				if errs[r] == nil {
					ranks[r].Close()
					t.Errorf("rank %d joined", r)
				}
			}
		})
	}
}

// TestGarbageDoesNotDisturb opens idle and talkative connections to a rank while the mesh forms.
func TestGarbageDoesNotDisturb(t *testing.T) {
	lns, addrs := listeners(t, 2)
	for i := range 8 {
		c, err := net.Dial("tcp", addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\n", 20))
		}
	}
	var wg sync.WaitGroup
	for r := range 2 {
		wg.Go(func() {
			c, err := collective.Connect(t.Context(), lns[r], collective.Config{Run: "r", Generation: 1, Rank: r, Addrs: addrs})
			if err != nil {
				t.Errorf("rank %d: %v", r, err)
				return
			}
			defer c.Close()
			if err := c.Barrier(t.Context()); err != nil {
				t.Errorf("rank %d: %v", r, err)
			}
		})
	}
	wg.Wait()
}

func TestHungPeerMissesDeadline(t *testing.T) {
	ranks, errs := connect(t, 2, func(c *collective.Config) { c.OpTimeout = 100 * time.Millisecond })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	defer ranks[0].Close()
	defer ranks[1].Close()
	if err := ranks[0].Barrier(t.Context()); !errors.Is(err, collective.ErrPeerLost) {
		t.Fatalf("got %v, want ErrPeerLost", err)
	}
}

func TestOversizedSlot(t *testing.T) {
	ranks, errs := connect(t, 2, func(c *collective.Config) { c.MaxFrame = 100 })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	defer ranks[0].Close()
	defer ranks[1].Close()
	b := make([]byte, 101)
	if err := ranks[0].AllGather(t.Context(), b, [][]byte{b, b}); !errors.Is(err, collective.ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
}

func TestConfigNamesAllProblems(t *testing.T) {
	err := collective.Config{Rank: 3, OpTimeout: -1}.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Fatalf("got %v, want three problems", err)
	}
}

func BenchmarkAllToAll(b *testing.B) {
	for _, way := range []string{"tcp", "shared"} {
		for _, size := range []int{64, 4 << 10, 256 << 10, 8 << 20} {
			b.Run(fmt.Sprintf("%s/%d", way, size), func(b *testing.B) {
				ranks, errs := connect(b, 2, func(c *collective.Config) { c.NoSharedMemory = way == "tcp" })
				if err := errors.Join(errs...); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(size))
				var wg sync.WaitGroup
				for _, c := range ranks {
					wg.Go(func() {
						defer c.Close()
						send, recv := [][]byte{nil, nil}, [][]byte{nil, nil}
						send[1-c.Rank()], recv[1-c.Rank()] = make([]byte, size), make([]byte, size)
						for range b.N {
							if err := c.AllToAll(context.Background(), send, recv); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// TestWithoutSharedMemory: the same rules hold by TCP alone; ranks on one host share memory unless one of them does not want to.
func TestWithoutSharedMemory(t *testing.T) {
	collectivetest.Run(t, func(t *testing.T, world int) []consume.Collective {
		ranks, errs := connect(t, world, func(c *collective.Config) { c.NoSharedMemory = true })
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		var out []consume.Collective
		for _, c := range ranks {
			out = append(out, c)
		}
		return out
	})
	for one, want := range map[bool]int{true: 1, false: 2} {
		ranks, errs := connect(t, 3, func(c *collective.Config) { c.NoSharedMemory = one && c.Rank == 1 })
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if got := ranks[0].Shared(); got != want {
			t.Errorf("rank 0 of 3 shares memory with %d ranks, want %d", got, want)
		}
		for _, c := range ranks {
			c.Close()
		}
	}
}
