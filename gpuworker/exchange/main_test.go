package exchange_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/schemas"
)

// A rank is this program again, with what it does in its environment.
const (
	envDoes, envRank, envBackend = "EXCHANGE_TEST_DOES", "EXCHANGE_TEST_RANK", "EXCHANGE_TEST_BACKEND"
	envForm, envOp, envAbort     = "EXCHANGE_TEST_FORM", "EXCHANGE_TEST_OP", "EXCHANGE_TEST_ABORT"
)

// card is the path of the emulated backend, looked for once.
var card = sync.OnceValues(func() (string, error) { return cudahost.Build(context.Background()) })

func TestMain(m *testing.M) {
	if os.Getenv(envDoes) == "" {
		os.Exit(m.Run())
	}
	if err := rank(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// outcome is what a rank reports.
type outcome struct {
	// Why the exchange is not one between devices; Error of the whole, Code and Hint of it when it has them; Lost: a rank was lost.
	Why, Error, Code, Hint, Way string
	Lost                        bool
	// Sync is what the queue said that depended on the exchange.
	Sync string
	Took time.Duration
	// signal is what ended the process, 0 when it reported.
	signal syscall.Signal
	stderr string
}

// act is what a rank does once it is connected.
type act func(ctx context.Context, r ranks) error

// ranks is one rank's equipment.
type ranks struct {
	dev  *kernels.Device
	q    *kernels.Queue
	host *collective.TCP
	x    exchange.Collective
	out  *outcome
}

var acts = map[string]act{"bytes": exchangeBytes, "die": dieMidway, "lonely": callAlone, "nothing": func(context.Context, ranks) error { return nil }}

// rank is the main function of a rank.
func rank(ctx context.Context) error {
	me := number(envRank)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	addrs := strings.Fields(line)
	host, err := collective.Connect(ctx, ln, collective.Config{Run: "r", Generation: 3, Rank: me, Addrs: addrs})
	if err != nil {
		return err
	}
	defer host.Close()
	dev, err := kernels.Open(kernels.Options{Backend: os.Getenv(envBackend), Threads: 1})
	if err != nil {
		return err
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	out := &outcome{}
	began := time.Now()
	x, why, err := exchange.Open(ctx, dev, host, exchange.Config{Run: "acme/r", Generation: 3, FormTimeout: millis(envForm), OpTimeout: millis(envOp),
		AbortTimeout: millis(envAbort), Kill: func(why string) {
			fmt.Fprintln(os.Stderr, why)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}})
	out.Why = why
	if err == nil && x != nil {
		out.Way = x.String()
		err = acts[os.Getenv(envDoes)](ctx, ranks{dev, q, host, x, out})
		if closed := x.Close(err); err == nil {
			err = closed
		}
	}
	out.Took = time.Since(began)
	if err != nil {
		out.Error, out.Lost = err.Error(), errors.Is(err, collective.ErrPeerLost)
		var info *schemas.ErrorInfo
		if errors.As(err, &info) {
			out.Code, out.Hint = string(info.Code), info.Hint
		}
	}
	if err := q.Close(); err != nil && out.Sync == "" {
		out.Sync = err.Error()
	}
	if err := dev.Close(); err != nil {
		out.Error += " " + err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		panic(name)
	}
	return n
}

func millis(name string) time.Duration {
	if os.Getenv(name) == "" {
		return 0
	}
	return time.Duration(number(name)) * time.Millisecond
}

// run starts a world of ranks that do something; env is for all of them, and of each for one.
func run(t *testing.T, world int, does string, env []string, of map[int][]string) []outcome {
	t.Helper()
	path, err := card()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type process struct {
		cmd *exec.Cmd
		in  interface{ Write([]byte) (int, error) }
		out *bufio.Reader
		err *strings.Builder
	}
	var all []process
	var addrs []string
	for r := range world {
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), envDoes+"="+does, envRank+"="+strconv.Itoa(r), envBackend+"="+path,
			"TUNEFLEET_FAKE_BUS="+strconv.Itoa(16*(r+1)))
		cmd.Env = append(append(cmd.Env, env...), of[r]...)
		p := process{cmd: cmd, err: &strings.Builder{}}
		cmd.Stderr = p.err
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		p.in, p.out = in, bufio.NewReader(out)
		all = append(all, p)
	}
	for _, p := range all {
		addr, err := p.out.ReadString('\n')
		if err != nil {
			t.Fatalf("a rank did not start: %v: %s", err, p.err)
		}
		addrs = append(addrs, strings.TrimSpace(addr))
	}
	outs := make([]outcome, world)
	var wg sync.WaitGroup
	for r, p := range all {
		if _, err := fmt.Fprintln(p.in, strings.Join(addrs, " ")); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			decoded := json.NewDecoder(p.out).Decode(&outs[r])
			err := p.cmd.Wait()
			if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				outs[r].signal = ws.Signal()
			} else if decoded != nil || err != nil {
				t.Errorf("rank %d: %v, %v: %s", r, decoded, err, p.err)
			}
			outs[r].stderr = p.err.String()
		})
	}
	wg.Wait()
	return outs
}
