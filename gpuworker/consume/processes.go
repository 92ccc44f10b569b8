package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// processes starts rank processes.
type processes struct {
	command []string
	env     []string
	dir     string

	mu sync.Mutex
	// spare is a started process that waits for its first order, nil while there is none.
	spare *spare
}

// spare is a rank process without work yet.
type spare struct {
	proc  *process
	tail  *stderrTail
	ended chan doneNotice // buffered; gets one value
}

// prepare starts a process that the next launch takes, so that work which comes need not wait for one; it does nothing while there is one.
func (p *processes) prepare(logger *slog.Logger) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare != nil {
		if len(p.spare.ended) == 0 {
			return nil
		}
		p.spare.drop()
		p.spare = nil
	}
	s := &spare{tail: &stderrTail{logger: logger}, ended: make(chan doneNotice, 1)}
	proc, err := p.start(s.tail, logger, "", func(d doneNotice) { s.ended <- d })
	if err != nil {
		return err
	}
	s.proc = proc
	p.spare = s
	return nil
}

// dismiss ends the process that waits, if there is one.
func (p *processes) dismiss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare == nil {
		return
	}
	p.spare.proc.kill()
	<-p.spare.ended
	p.spare.drop()
	p.spare = nil
}

func (s *spare) drop() {
	s.proc.orders.Close()
	s.proc.notices.Close()
}

// launch implements launcher: with the process that waits, or a new one.
func (p *processes) launch(logger *slog.Logger, trace string, ended func(doneNotice)) (*process, error) {
	p.mu.Lock()
	s := p.spare
	p.spare = nil
	p.mu.Unlock()
	if s != nil && len(s.ended) == 0 {
		s.tail.to(logger)
		go func() { ended(<-s.ended) }()
		return s.proc, nil
	}
	if s != nil {
		s.drop()
	}
	return p.start(&stderrTail{logger: logger}, logger, trace, ended)
}

func newProcesses(cfg Config) (*processes, error) {
	command := cfg.RankCommand
	if len(command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find this executable for rank processes: %w", err)
		}
		command = []string{exe, "rank"}
	}
	return &processes{command: command, env: rankEnv(os.Environ(), cfg.RankEnv), dir: cfg.Dir}, nil
}

// rankEnv builds the environment of a rank from scratch, so that no credential of the agent but the listed ones gets there.
func rankEnv(environ, extra []string) []string {
	var env []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH":
			env = append(env, kv)
		default:
			if strings.HasPrefix(name, "OTEL_") {
				env = append(env, kv)
			}
		}
	}
	return append(env, extra...)
}

// start starts a process. trace, when not empty, is in its environment; the order to start carries it too.
func (p *processes) start(tail *stderrTail, logger *slog.Logger, trace string, ended func(doneNotice)) (*process, error) {
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	noticeR, noticeW, err := os.Pipe()
	if err != nil {
		orderR.Close()
		orderW.Close()
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	cmd := exec.CommandContext(context.Background(), p.command[0], p.command[1:]...) // ended by kill, which outlives the caller
	cmd.Env = p.env
	if trace != "" {
		cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "TRACEPARENT="+trace)
	}
	cmd.Dir = p.dir
	cmd.ExtraFiles = []*os.File{orderR, noticeW} // orderFD, noticeFD
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.WaitDelay = 2 * time.Second
	// A rank dies with its agent, however the agent dies, and does not get the terminal's signals.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig fires when the starting thread ends: this goroutine keeps its thread as long as the rank lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		orderR.Close()
		noticeW.Close()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		tail.flush()
		ended(crash(cmd.ProcessState, err, tail.last()))
	}()
	if err := <-started; err != nil {
		orderW.Close()
		noticeR.Close()
		return nil, fmt.Errorf("cannot start rank process %s: %w", p.command[0], err)
	}
	var once sync.Once
	return &process{orders: orderW, notices: noticeR, kill: func() {
		once.Do(func() {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				logger.Error("cannot kill rank process", "pid", cmd.Process.Pid, "error", err)
			}
		})
	}}, nil
}
