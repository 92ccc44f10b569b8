package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// The toy that ranks train: what it learns does not matter, its bits do.
const (
	toyVocab, toyLeaves = 203, 5
	toyConfig           = `{"architectures":["LlamaForCausalLM"],"vocab_size":203,"hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"tie_word_embeddings":false}`
)

// toy is how long it is trained, and on what.
type toy struct {
	steps int
	seq   int                                                  // tokens of a row; 0: any of a few lengths
	told  func(q *kernels.Queue, step int, took time.Duration) // hears of each step, if it is not nil
}

// ranksResult is what a world of ranks ended with.
type ranksResult struct {
	Ranks int    `json:"ranks"`
	Way   string `json:"way"`
	Hash  string `json:"hash"`
	// Same: the weights are those of one rank.
	Same    bool   `json:"same"`
	Error   string `json:"error,omitempty"`
	Skipped string `json:"skipped,omitempty"`
}

// ranks trains a toy with ZeRO-3: by ranks that are goroutines on one device, and, where there are several devices, by processes with one
// each that NCCL connects. The weights have to be those of one rank, bit for bit.
func (c *checker) ranks(ctx context.Context, _ []string) error {
	want, _, err := c.goroutines(ctx, 1)
	if err != nil {
		return err
	}
	for _, world := range []int{2, 3} {
		r := ranksResult{Ranks: world}
		r.Hash, r.Way, err = c.goroutines(ctx, world)
		c.ranksLine(r, want, err)
	}
	devices := 0
	for ; devices < 8; devices++ {
		d, err := kernels.Open(kernels.Options{Backend: c.backend, Index: devices})
		if err != nil {
			break
		}
		info, err := d.Info()
		if err := errors.Join(err, d.Close()); err != nil {
			return err
		}
		if info.Bus == "" {
			break
		}
	}
	if devices < 2 {
		return c.out.Encode(ranksResult{Ranks: 2, Way: "NCCL", Skipped: fmt.Sprintf("it takes two cards, here are %d", devices)})
	}
	r := ranksResult{Ranks: devices}
	r.Hash, r.Way, err = c.processes(ctx, devices)
	if err == nil && !strings.HasPrefix(r.Way, "NCCL") {
		err = fmt.Errorf("ranks do not exchange by NCCL: %s", r.Way)
	}
	c.ranksLine(r, want, err)
	return nil
}

func (c *checker) ranksLine(r ranksResult, want string, err error) {
	if err != nil {
		r.Error = err.Error()
	}
	r.Same = err == nil && r.Hash == want
	c.line(r, r.Same)
}

// goroutines trains on one device.
func (c *checker) goroutines(ctx context.Context, world int) (hash, way string, err error) {
	hashes, ways, errs := make([]string, world), make([]string, world), make([]error, world)
	var wg sync.WaitGroup
	for r, host := range collective.NewLocal(world) {
		wg.Go(func() {
			hashes[r], ways[r], errs[r] = trainToy(ctx, kernels.Options{Backend: c.backend, Threads: 1}, host, toy{steps: 3})
			errs[r] = errors.Join(errs[r], host.Close())
		})
	}
	wg.Wait()
	return hashes[0], ways[0], errors.Join(errs...)
}

// childReport is what a process says in the end.
type childReport struct{ Hash, Way, Error string }

// processes trains on a device a process.
func (c *checker) processes(ctx context.Context, world int) (hash, way string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var addrs []string
	var ins []io.Writer
	var outs []*bufio.Reader
	var cmds []*exec.Cmd
	for r := range world {
		cmd := exec.CommandContext(ctx, exe, "rank", "--backend", c.backend, strconv.Itoa(r))
		cmd.Stderr = os.Stderr
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2); err != nil {
			return "", "", err
		}
		if err := cmd.Start(); err != nil {
			return "", "", fmt.Errorf("cannot start rank %d: %w", r, err)
		}
		cmds, ins, outs = append(cmds, cmd), append(ins, in), append(outs, bufio.NewReader(out))
	}
	for r, out := range outs {
		addr, err := out.ReadString('\n')
		if err != nil {
			return "", "", fmt.Errorf("rank %d does not listen: %w", r, err)
		}
		addrs = append(addrs, strings.TrimSpace(addr))
	}
	for r, in := range ins {
		if _, err := fmt.Fprintln(in, strings.Join(addrs, " ")); err != nil {
			return "", "", fmt.Errorf("rank %d does not read: %w", r, err)
		}
	}
	for r, out := range outs {
		var report childReport
		decoded := json.NewDecoder(out).Decode(&report)
		if waited := cmds[r].Wait(); decoded != nil {
			err = errors.Join(err, fmt.Errorf("rank %d: %w", r, errors.Join(decoded, waited)))
		} else if report.Error != "" {
			err = errors.Join(err, fmt.Errorf("rank %d: %s", r, report.Error))
		}
		if r == 0 {
			hash, way = report.Hash, report.Way
		}
	}
	return hash, way, err
}

// rank is one of processes' processes: it says where it listens, reads where all do, trains and reports.
func (c *checker) rank(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("a rank is started by gpucheck ranks")
	}
	me, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%q is no rank", args[0])
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.text(ln.Addr().String() + "\n")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("cannot read where the ranks listen: %w", err)
	}
	host, err := collective.Connect(ctx, ln, collective.Config{Run: "gpucheck", Generation: 1, Rank: me, Addrs: strings.Fields(line)})
	if err != nil {
		return err
	}
	var report childReport
	report.Hash, report.Way, err = trainToy(ctx, kernels.Options{Backend: c.backend, Index: me, Threads: 1}, host, toy{steps: 3})
	if err = errors.Join(err, host.Close()); err != nil {
		report.Error = err.Error()
	}
	c.line(report, err == nil)
	return nil
}

// toyHost is what ranks of the toy need of a gang's collective.
type toyHost interface {
	zero.Collective
	exchange.Host
}

// trainToy is one rank of a training; rank 0 gets the hash of the weights.
func trainToy(ctx context.Context, o kernels.Options, host toyHost, t toy) (hash, way string, err error) {
	dev, err := kernels.Open(o)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return "", "", err
	}
	x, way, err := exchange.Open(ctx, dev, host, exchange.Config{Run: "gpucheck", Generation: 1, OpTimeout: time.Minute})
	if err != nil {
		return "", "", err
	}
	cfg := zero.Config{Sharding: zero.Zero3, Optim: optim.Config{Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, SkipDecay: true}}
	if x != nil {
		cfg.Devices, way = x, x.String()
	}
	m, err := zoo.New([]byte(toyConfig))
	if err != nil {
		return "", way, errors.Join(err, closeExchange(x, err))
	}
	mem := autograd.NewMemory(dev, q, 0)
	defer func() { err = errors.Join(err, mem.Close()) }()
	e, err := zero.New(q, m.Units(), host, cfg)
	if err != nil {
		return "", way, errors.Join(err, closeExchange(x, err))
	}
	defer func() {
		err = exchange.Explain(x, err)
		err = errors.Join(err, closeExchange(x, err), e.Close())
	}()
	err = e.Load(ctx, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		nn.InitRange(q, p, dst, start, 42)
		return q.Err()
	})
	if err != nil {
		return "", way, err
	}
	tape := autograd.New(mem, autograd.Config{Hooks: e})
	for step := range t.steps {
		start := time.Now()
		if err := t.step(ctx, e, tape, m, host, step); err != nil {
			return "", way, fmt.Errorf("step %d: %w", step+1, err)
		}
		if t.told != nil {
			t.told(q, step, time.Since(start))
		}
	}
	hash, err = e.StateHash(ctx)
	return hash, way, err
}

func closeExchange(x exchange.Collective, cause error) error {
	if x == nil {
		return nil
	}
	return x.Close(cause)
}

// step computes this rank's leaves of a step, and updates.
func (t toy) step(ctx context.Context, e *zero.Engine, tape *autograd.Tape, m zoo.Model, host toyHost, step int) error {
	tokens := int64(0)
	for l := range toyLeaves {
		tokens += t.leaf(step, l).LabelTokens()
	}
	var meta []byte
	for micro := 0; micro*host.World() < toyLeaves; micro++ {
		if err := e.BeginLeaf(micro, toyLeaves); err != nil {
			return err
		}
		leaf := micro*host.World() + host.Rank()
		r, err := objective.Backward(ctx, tape, m, t.leaf(step, min(leaf, toyLeaves-1)), tokens)
		if err == nil {
			err = e.EndLeaf(ctx)
		}
		if err != nil {
			return err
		}
		if leaf >= toyLeaves {
			r.Sum = 0
		}
		meta = binary.LittleEndian.AppendUint64(meta, math.Float64bits(r.Sum))
	}
	sumsq, _, err := e.Finish(ctx, meta)
	if err != nil {
		return err
	}
	return e.Update(ctx, 1e-2, int64(step+1), zero.ClipFactor(zero.Norm(sumsq), 0.5))
}

// leaf is the content of a leaf, which depends on step and leaf only.
func (t toy) leaf(step, leaf int) *nn.Batch {
	r := rand.New(rand.NewPCG(uint64(step), uint64(leaf)))
	b := &nn.Batch{Rows: 2, Seq: t.seq}
	if t.seq == 0 {
		b.Seq = 9 + r.IntN(6)
	}
	for range b.Rows * b.Seq {
		id := int32(r.IntN(toyVocab))
		b.IDs, b.Labels = append(b.IDs, id), append(b.Labels, id)
	}
	return b
}
