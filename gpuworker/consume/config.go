package consume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/spot"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/store"
)

// Names of the phases that the package itself sets or knows; handlers may use others.
const (
	PhaseWaiting = "waiting" // for the other seats
	PhaseLoad    = "load"    // bytes
	PhaseStep    = "step"    // optimizer steps
	PhaseCommit  = "commit"  // bytes
)

// Config describes an agent: one per host, it owns all devices of the host's class.
type Config struct {
	// Name of the worker; default the host name. Incarnation is random and new for every process.
	Name        string
	Incarnation string
	Pool        string
	// Devices is the number of devices of the host, Device their name (for people).
	Devices int
	Device  string
	// Backend is the kernel backend of ranks, as kernels.Options has it; empty is the CPU.
	Backend string
	// Threads is the number of CPU threads of the rank process; default all.
	Threads int
	// Dir holds scratch folders; default a folder in os.TempDir().
	Dir string
	// Bind is the address that a rank listens on (port 0: any), Advertise the host that other ranks reach it under; default Bind's host.
	Bind      string
	Advertise string
	// RankCommand starts a rank process; default this executable with the argument "rank". RankEnv is added to its environment, which
	// otherwise holds only PATH, HOME, TMPDIR, TZ, LANG and OTEL_* of the agent: what the rank needs to open the object store goes here.
	RankCommand []string
	RankEnv     []string
	// Numerics is the fingerprint of the ranks' arithmetic (kernel ABI hash, ISA path, ...), recorded in HEAD when a gang forms.
	Numerics string
	// GPUs, when not nil, returns at once what the host's GPUs said of themselves last, for the inventory.
	GPUs func() []schemas.GPUView

	// Notice, when not nil, tells that the machine is to be taken away; the agent then drains within the time that is left.
	Notice Noticer

	// LeaseTTL is the life of leases (renewed every third of it); ExtendEvery the pace of extending the delivery (not under 20 s in
	// production); PullWait the wait of one pull.
	LeaseTTL    time.Duration
	ExtendEvery time.Duration
	PullWait    time.Duration
	// HintDelay is how long a worker lets those of a gang that yielded take its seats first (default 300 ms, DESIGN 3).
	HintDelay time.Duration
	// FormPoll and WatchPoll are the paces of reading HEAD while a gang forms and while it runs; pokes come in between.
	FormPoll  time.Duration
	WatchPoll time.Duration
	// FormTimeout bounds the forming of the ranks' mesh. OpTimeout bounds one collective call.
	FormTimeout time.Duration
	OpTimeout   time.Duration
	// StartTimeout is how long the start waits for the object store.
	StartTimeout time.Duration
	// KillGrace is how long a rank asked to stop may live. DrainTimeout is how long a draining agent waits for the gang's commit.
	KillGrace    time.Duration
	DrainTimeout time.Duration
	// BlameGrace is how long an agent whose rank lost a peer waits for the peer's agent to say why, before it records infrastructure.
	BlameGrace time.Duration
	// Stall bounds the time without advance by phase; "" is the limit of phases that are not listed.
	Stall map[string]time.Duration
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if c.Incarnation == "" {
		c.Incarnation = strings.ToLower(rand.Text())
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.LeaseTTL, lease.TTL)
	def(&c.ExtendEvery, 22*time.Second)
	def(&c.PullWait, time.Second)
	def(&c.HintDelay, 300*time.Millisecond)
	def(&c.FormPoll, 300*time.Millisecond)
	def(&c.WatchPoll, 2*time.Second)
	def(&c.FormTimeout, 60*time.Second)
	def(&c.OpTimeout, 10*time.Minute)
	def(&c.StartTimeout, time.Minute)
	def(&c.KillGrace, 10*time.Second)
	def(&c.DrainTimeout, 60*time.Second)
	def(&c.BlameGrace, time.Second)
	stall := map[string]time.Duration{"": 10 * time.Minute, PhaseWaiting: 2 * time.Minute, PhaseLoad: 5 * time.Minute, PhaseStep: 10 * time.Minute,
		PhaseCommit: 5 * time.Minute}
	for k, v := range c.Stall {
		stall[k] = v
	}
	c.Stall = stall
	if c.Devices == 0 {
		c.Devices = 1
	}
	if c.Device == "" {
		c.Device = runtime.GOARCH + " cpu"
	}
	if c.Threads == 0 {
		c.Threads = runtime.NumCPU()
	}
	if c.Dir == "" {
		c.Dir = filepath.Join(os.TempDir(), "tunefleet-"+c.Incarnation)
	}
	if c.Bind == "" {
		c.Bind = "127.0.0.1:0"
	}
	if c.Advertise == "" {
		c.Advertise, _, _ = net.SplitHostPort(c.Bind)
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("the worker has no name"))
	}
	if !schemas.ValidName(c.Pool) {
		errs = append(errs, fmt.Errorf("pool %q is not a name", c.Pool))
	}
	if c.Devices < 1 || c.Threads < 1 {
		errs = append(errs, fmt.Errorf("%d devices and %d threads, at least one is needed", c.Devices, c.Threads))
	}
	if _, _, err := net.SplitHostPort(c.Bind); err != nil {
		errs = append(errs, fmt.Errorf("bind address: %w", err))
	}
	if c.Advertise == "" || c.Advertise == "0.0.0.0" || c.Advertise == "::" {
		errs = append(errs, fmt.Errorf("%q cannot be advertised to other ranks", c.Advertise))
	}
	for name, d := range map[string]time.Duration{"lease TTL": c.LeaseTTL, "extend pace": c.ExtendEvery, "pull wait": c.PullWait, "form poll": c.FormPoll,
		"watch poll": c.WatchPoll, "form timeout": c.FormTimeout, "call timeout": c.OpTimeout, "kill grace": c.KillGrace, "drain timeout": c.DrainTimeout} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s %s is not positive", name, d))
		}
	}
	if c.LeaseTTL > 0 && c.LeaseTTL < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("lease TTL %s is under 100ms", c.LeaseTTL))
	}
	return errors.Join(errs...)
}

// Noticer waits for the word that the machine goes; spot.Watcher is one.
type Noticer interface {
	// Wait returns the notice, or ctx's error.
	Wait(ctx context.Context) (spot.Notice, error)
}

// Services are the ports that the agent works with.
type Services struct {
	Work    queue.Work
	Leases  lease.Store
	Objects store.Objects
	Logger  *slog.Logger
}

func (c Config) owner(issue uint64) lease.Owner {
	return lease.Owner{Worker: c.Name, Incarnation: c.Incarnation, Issue: issue}
}

func (c Config) stallLimit(phase string) time.Duration {
	if d, ok := c.Stall[phase]; ok {
		return d
	}
	return c.Stall[""]
}
