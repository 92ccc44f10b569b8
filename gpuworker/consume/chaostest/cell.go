package chaostest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Cell is a set of processes that are killed and started again: the servers, control and workers of one data directory.
type Cell struct {
	// Dir is the data directory; each process logs to Dir/<name>.log.
	Dir string
	// Command makes the command of a process; its output and process attributes are set by the cell.
	Command func(name string) *exec.Cmd

	mu    sync.Mutex
	procs map[string]*proc
}

type proc struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

// Start starts a process. They die with the calling process.
func (c *Cell) Start(name string) error {
	log, err := os.OpenFile(filepath.Join(c.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the log of %s: %w", name, err)
	}
	cmd := c.Command(name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &proc{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig fires when the starting thread ends
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			if err := cmd.Wait(); err != nil {
				fmt.Fprintf(log, "%s ended: %v\n", name, err)
			}
		}
		close(p.gone)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs == nil {
		c.procs = map[string]*proc{}
	}
	c.procs[name] = p
	return nil
}

func (c *Cell) find(name string) *proc {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.procs[name]
}

// PID is the process id, 0 when it does not run.
func (c *Cell) PID(name string) int {
	if !c.Alive(name) {
		return 0
	}
	return c.find(name).cmd.Process.Pid
}

// Alive reports whether the process runs.
func (c *Cell) Alive(name string) bool {
	p := c.find(name)
	if p == nil {
		return false
	}
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// Signal sends a signal and, for SIGKILL, waits until the process is gone.
func (c *Cell) Signal(name string, sig syscall.Signal) error {
	p := c.find(name)
	if p == nil {
		return fmt.Errorf("cannot signal %s: it was never started", name)
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal %s: %w", name, err)
	}
	if sig == syscall.SIGKILL {
		<-p.gone
	}
	return nil
}

// Wait returns when the process has ended, or false after limit.
func (c *Cell) Wait(name string, limit time.Duration) bool {
	p := c.find(name)
	if p == nil {
		return true
	}
	select {
	case <-p.gone:
		return true
	case <-time.After(limit):
		return false
	}
}

// names lists the processes that were started and not stopped on purpose.
func (c *Cell) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.procs))
	for n := range c.procs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Stop ends a process with SIGTERM and forgets it; false when it does not end within limit.
func (c *Cell) Stop(name string, limit time.Duration) bool {
	if err := c.Signal(name, syscall.SIGTERM); err != nil {
		return false
	}
	if !c.Wait(name, limit) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.procs, name)
	return true
}

// Close kills everything.
func (c *Cell) Close() {
	for _, n := range c.names() {
		_ = c.Signal(n, syscall.SIGKILL) // gone already is fine
	}
}
