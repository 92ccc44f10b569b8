package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/script"
	"github.com/tunefleet/tunefleet/gpuworker/spot"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/nvml"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

func (a *app) workerCommand() *cobra.Command {
	cfg := consume.Config{Devices: 1}
	var wait time.Duration
	var notice spot.Config
	var commands []string
	var device string
	c := &cobra.Command{
		Use: "worker", Short: "Run a worker: pull work of a pool and do it",
		Long: "Worker pulls messages of its pool until it is told to stop (SIGTERM drains: the gang commits first). It talks to the servers of\n" +
			"TUNEFLEET_NATS_URL, TUNEFLEET_REDIS_URL and TUNEFLEET_S3_ENDPOINT, or to the embedded ones of --dir.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			log, err := a.logger()
			if err != nil {
				return err
			}
			if !schemas.ValidName(cfg.Pool) {
				return schemas.Errorf(schemas.CodeUsage, "--pool", "%q is no name of a pool", cfg.Pool)
			}
			where, err := a.backendConfig()
			if err != nil {
				return err
			}
			shutdown, err := telemetry.Setup(ctx, "worker", version())
			if err != nil {
				return err
			}
			defer func() {
				if err := shutdown(context.WithoutCancel(ctx)); err != nil {
					log.Debug("telemetry was not flushed", "error", err)
				}
			}()
			stop, err := observeGPUs(telemetry.Meter(), nvml.Library)
			if err != nil {
				log.Debug("no metrics of GPUs", "error", err)
			}
			defer stop()
			if cfg.GPUs, err = watchGPUs(ctx, nvml.Library, 5*time.Second); err != nil {
				log.Debug("the inventory has no figures of GPUs", "error", err)
			}
			back, err := openBackends(ctx, where, "tunefleet-worker", wait, log)
			if err != nil {
				return err
			}
			defer back.Close()
			cfg.RankEnv = append(consume.StoreEnv(where.S3), script.Variable+"="+strings.Join(commands, "\n"))
			cfg.RankEnv = append(cfg.RankEnv, deviceEnv(os.Environ())...)
			dev, err := resolveDevice(device)
			if err != nil {
				return err
			}
			cfg.Backend, cfg.Device, cfg.Numerics = dev.backend, dev.name, dev.numerics()
			log.Info("device", "backend", dev.backend, "name", dev.name, "why", dev.why)
			notice.Logger = log
			watcher, err := spot.New(notice)
			if err != nil {
				return err
			}
			cfg.Notice = watcher
			agent, err := consume.New(cfg, consume.Services{Work: back.Queue, Leases: back.Leases, Objects: back.Objects, Logger: log})
			if err != nil {
				return err
			}
			a.say("worker of pool %s is up on %s; Ctrl-C drains and stops it", cfg.Pool, dev)
			return agent.Run(ctx)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Pool, "pool", "cpu", "pool to work for")
	f.StringVar(&cfg.Name, "name", "", "name of the worker (default: the host's)")
	f.StringVar(&device, "device", nonEmpty(os.Getenv("TUNEFLEET_DEVICE"), kernels.Auto), "what ranks compute with: auto (a GPU where there is one), cpu or cuda (or TUNEFLEET_DEVICE)")
	f.IntVar(&cfg.Threads, "threads", 0, "CPU threads of the rank process (0: all)")
	f.StringVar(&cfg.Bind, "bind", "127.0.0.1:0", "address that ranks listen on for their gang")
	f.StringVar(&cfg.Advertise, "advertise", "", "host that other ranks reach this one under (default: that of --bind)")
	f.StringVar(&notice.Cloud, "spot", nonEmpty(os.Getenv("TUNEFLEET_SPOT"), spot.None), "watch for the notice that this machine is taken away: aws, gcp, azure or none (or TUNEFLEET_SPOT)")
	f.StringVar(&notice.Endpoint, "spot-endpoint", os.Getenv("TUNEFLEET_SPOT_ENDPOINT"), "address of the metadata service, for tests and proxies (or TUNEFLEET_SPOT_ENDPOINT)")
	f.StringArrayVar(&commands, "eval-command", strings.FieldsFunc(os.Getenv(script.Variable), func(c rune) bool { return c == ';' || c == '\n' }),
		"a command that evaluation scripts may run, with the arguments that it must begin with (repeatable; or "+script.Variable+", separated by ;)")
	f.DurationVar(&wait, "wait", time.Minute, "how long to wait for the servers at the start")
	f.StringVar(&cfg.Dir, "scratch", "", "scratch folder (default: in the system's temporary folder)")
	return c
}

func (a *app) rankCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rank", Short: "Run one rank process (started by a worker)", Hidden: true, Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			shutdown, err := telemetry.Setup(ctx, "rank", version())
			if err != nil {
				return err
			}
			err = consume.RunRank(ctx, handlers(), consume.OpenStore)
			if serr := shutdown(context.WithoutCancel(ctx)); serr != nil && err == nil {
				a.say("telemetry was not flushed: %v", serr)
			}
			return err
		},
	}
}

// fleet is a group of worker processes that this process started.
type fleet struct {
	dir, logs, level string
	device           string // of the workers; empty is auto

	mu    sync.Mutex
	procs []*workerProcess
	count int
}

type workerProcess struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func newFleet(dir, level string) *fleet {
	return &fleet{dir: dir, logs: filepath.Join(dir, "logs"), level: level}
}

// threadsFor divides the machine's cores among so many workers.
func threadsFor(workers int) int { return max(1, runtime.NumCPU()/max(1, workers)) }

// start runs one more worker of pool cpu over the data directory.
func (f *fleet) start(threads int) (*workerProcess, error) { return f.startIn("cpu", threads) }

// startIn runs one more worker of a pool, with its log in a file of its own.
func (f *fleet) startIn(pool string, threads int) (*workerProcess, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	p := &workerProcess{name: fmt.Sprintf("worker-%d", f.count), done: make(chan struct{})}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this executable: %w", err)
	}
	if err := os.MkdirAll(f.logs, 0o700); err != nil {
		return nil, diskError(f.logs, err)
	}
	log, err := os.OpenFile(filepath.Join(f.logs, p.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, diskError(f.logs, err)
	}
	defer log.Close()
	// Not bound to a context: a worker is asked to drain, not killed.
	p.cmd = exec.Command(exe, "worker", "--dir", f.dir, "--pool", pool, "--name", p.name, "--threads", strconv.Itoa(threads), "--log-level", f.level) //nolint:noctx // see above
	if f.device != "" {
		p.cmd.Args = append(p.cmd.Args, "--device", f.device)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Ctrl-C reaches the parent alone, which then drains its workers in order; they die with it however it ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	ready := make(chan error)
	go func() {
		// The death signal is tied to the thread that forks: it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		ready <- err
		if err == nil {
			// Its exit status is in its log; who waits wants to know that it is gone.
			_ = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("cannot start a worker: %w", err)
	}
	f.procs = append(f.procs, p)
	return p, nil
}

// kill ends a worker at once, with its rank, as a machine's failure would.
func (p *workerProcess) kill() error {
	err := p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
	return err
}

// stop asks all workers to drain and kills those that take longer than grace.
func (f *fleet) stop(grace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.procs {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	deadline := time.After(grace)
	for _, p := range f.procs {
		select {
		case <-p.done:
		case <-deadline:
			_ = p.cmd.Process.Signal(syscall.SIGKILL)
			<-p.done
		}
	}
	f.procs = nil
}

// alive reports the names of workers whose process still runs.
func (f *fleet) alive() []*workerProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*workerProcess
	for _, p := range f.procs {
		select {
		case <-p.done:
		default:
			out = append(out, p)
		}
	}
	return out
}
