package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
)

// HostVariable is the environment variable that, set to "host", has GPUs exchange through the host's memory: slower, and without NCCL. One
// rank that wants it is enough.
const HostVariable = "TUNEFLEET_CUDA_EXCHANGE"

// Collective is one rank's end of an exchange; see the package's rules.
type Collective interface {
	// AllToAll sends the tensors send[r] to rank r and fills recv[r] with what rank r sent to this one.
	AllToAll(ctx context.Context, q *kernels.Queue, send, recv [][]kernels.Tensor) (*kernels.Event, error)
	// AllGather fills recv[r], on every rank, with what rank r sends.
	AllGather(ctx context.Context, q *kernels.Queue, send []kernels.Tensor, recv [][]kernels.Tensor) (*kernels.Event, error)
	// Failure is why the exchange is broken, nil while it is not. From any goroutine.
	Failure() error
	// Close leaves. With a cause what is under way is given up at once; without, it is waited for.
	Close(cause error) error
	// String says for people what moves the bytes.
	String() string
}

// Host is what ranks agree through before they can exchange device memory: consume.Collective has it.
type Host interface {
	Rank() int
	World() int
	AllGather(ctx context.Context, send []byte, recv [][]byte) error
}

// sharer is a Host whose ranks are goroutines of this process.
type sharer interface {
	Host
	Share(ctx context.Context, v any, use func(all []any) error) error
	Break(err error)
}

// Config of an exchange.
type Config struct {
	// Run and Generation are part of what ranks agree about: an id of another generation is refused.
	Run        string
	Generation uint64
	// FormTimeout bounds connecting all ranks, a trial included. Default 60 s.
	FormTimeout time.Duration
	// OpTimeout bounds each call, from when it is queued until it has run: longer than the longest time that one rank may compute while
	// another waits. Default 10 min.
	OpTimeout time.Duration
	// AbortTimeout bounds giving up. Default 10 s.
	AbortTimeout time.Duration
	// Poll is how often what is under way is looked at. Default 50 ms.
	Poll time.Duration
	// Host has everything go through the host's memory.
	Host bool
	// Kill ends the process when giving up hangs; it does not return. nil where ranks are no processes of their own.
	Kill func(reason string)
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	for _, d := range []struct {
		v    *time.Duration
		with time.Duration
	}{{&c.FormTimeout, time.Minute}, {&c.OpTimeout, 10 * time.Minute}, {&c.AbortTimeout, 10 * time.Second}, {&c.Poll, 50 * time.Millisecond}} {
		if *d.v == 0 {
			*d.v = d.with
		}
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{"forming": c.FormTimeout, "a call": c.OpTimeout, "giving up": c.AbortTimeout, "polling": c.Poll} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("the time for %s is negative: %s", name, d))
		}
	}
	return errors.Join(errs...)
}

// Open connects the devices of the ranks; every rank calls it. Where they exchange through the host, the collective is nil, and why says the
// reason. An error is the same for all ranks, or wraps collective.ErrPeerLost.
func Open(ctx context.Context, dev *kernels.Device, host Host, cfg Config) (c Collective, why string, err error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, "", fmt.Errorf("cannot exchange between devices: %w", err)
	}
	if host.World() == 1 {
		return nil, "there is one rank", nil
	}
	if dev.Counting() {
		return nil, "the device only counts", nil
	}
	all, err := introduce(ctx, dev, host, cfg)
	if err != nil {
		return nil, "", fmt.Errorf("cannot agree on how devices exchange: %w", err)
	}
	if why := all.host(); why != "" {
		return nil, why, nil
	}
	if s, ok := host.(sharer); ok {
		if why := all.apart(); why != "" {
			return nil, why, nil
		}
		l, err := NewLocal(dev, s)
		if err != nil {
			return nil, "", err
		}
		return l, "", nil
	}
	if why := all.together(); why != "" {
		return nil, why, nil
	}
	if err := all.withoutNCCL(); err != nil {
		return nil, "", err
	}
	n, err := openNCCL(ctx, dev, host, cfg)
	if err != nil {
		return nil, "", err
	}
	return n, "", nil
}

// Explain adds to an error of a queue, which only says that a rank was lost, why it was: collective.ErrPeerLost is then found in the chain.
func Explain(c Collective, err error) error {
	if c == nil || err == nil || errors.Is(err, collective.ErrPeerLost) {
		return err
	}
	why := c.Failure()
	if why == nil {
		return err
	}
	var k *kernels.Error
	if errors.As(err, &k) && k.Status == kernels.StatusLost {
		return fmt.Errorf("%w (%w)", why, err)
	}
	return err
}

// ring lends events: the one lent last is lent again after all others.
type ring struct {
	slots [16]slot
	next  int
}

type slot struct {
	// ready is when a call may begin, moved when its own bytes have, done when its memory may be used again.
	ready, moved, done *kernels.Event
	what               string
	until              time.Time // zero: nothing is under way
	recorded           bool      // all of it is queued: done tells when it has run
	limit              time.Duration
}

func newRing(dev *kernels.Device) (*ring, error) {
	r := &ring{}
	for i := range r.slots {
		for _, e := range []**kernels.Event{&r.slots[i].ready, &r.slots[i].moved, &r.slots[i].done} {
			var err error
			if *e, err = dev.NewEvent(); err != nil {
				r.close()
				return nil, fmt.Errorf("cannot make an event: %w", err)
			}
		}
	}
	return r, nil
}

func (r *ring) take() *slot {
	s := &r.slots[r.next]
	r.next = (r.next + 1) % len(r.slots)
	return s
}

func (r *ring) close() {
	for _, s := range r.slots {
		for _, e := range []*kernels.Event{s.ready, s.moved, s.done} {
			if e != nil {
				e.Close()
			}
		}
	}
}

// raw is the memory of a contiguous tensor, in words where it has a whole number of them.
func raw(t kernels.Tensor) kernels.Tensor {
	if t.Bytes()%4 == 0 {
		return kernels.NewTensor(t.Data, kernels.I32, t.Bytes()/4)
	}
	return kernels.NewTensor(t.Data, kernels.U8, t.Bytes())
}

// checkSlots validates the lists of an all-to-all, before anything is queued. copies lists what a rank sends to itself.
func checkSlots(world, rank int, send, recv [][]kernels.Tensor) (copies [][2]kernels.Tensor, err error) {
	if len(send) != world || len(recv) != world {
		return nil, fmt.Errorf("%w: %d lists to send and %d to receive for %d ranks", collective.ErrMismatch, len(send), len(recv), world)
	}
	for r := range world {
		for _, t := range append(append([]kernels.Tensor(nil), send[r]...), recv[r]...) {
			if !t.Valid() || !t.Present() || !t.Contiguous() {
				return nil, fmt.Errorf("%w: %v is not contiguous memory", collective.ErrMismatch, t)
			}
		}
	}
	if err := alike(send[rank], recv[rank], rank, rank); err != nil {
		return nil, err
	}
	for i, t := range send[rank] {
		if t.Numel() > 0 && t.Data != recv[rank][i].Data {
			copies = append(copies, [2]kernels.Tensor{t, recv[rank][i]})
		}
	}
	return copies, nil
}

// alike compares what rank from sends with what rank to expects.
func alike(send, recv []kernels.Tensor, from, to int) error {
	if len(send) != len(recv) {
		return fmt.Errorf("%w: rank %d sends %d tensors to rank %d, which expects %d", collective.ErrMismatch, from, len(send), to, len(recv))
	}
	for i := range send {
		if send[i].Bytes() != recv[i].Bytes() {
			return fmt.Errorf("%w: tensor %d from rank %d to rank %d has %d bytes, %d are expected", collective.ErrMismatch, i, from, to, send[i].Bytes(), recv[i].Bytes())
		}
	}
	return nil
}
