package consume

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// launcher starts ranks: as processes (the product), or as goroutines in tests.
type launcher interface {
	// launch starts a rank that reads orders and writes notices. ended is called once, after it is gone, with what is known about why.
	launch(logger *slog.Logger, trace string, ended func(doneNotice)) (*process, error)
}

// preparer is a launcher that can have a rank process ready before there is work for it.
type preparer interface {
	prepare(logger *slog.Logger) error
	dismiss()
}

// process is a started rank as the agent sees it.
type process struct {
	orders  io.WriteCloser
	notices io.ReadCloser
	// kill ends it at once; safe to call at any time.
	kill func()
}

// crash describes how a process ended that did not report. A SIGKILL is the host's doing (memory, operator); anything else is taken as
// the program's, so that a rank that always crashes fails its run instead of being restarted for ever.
func crash(state *os.ProcessState, err error, tail string) doneNotice {
	info := &schemas.ErrorInfo{Code: schemas.CodeInternal, Message: "the rank process ended without a report"}
	if err != nil {
		info.Message += ": " + err.Error()
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() && (ws.Signal() == syscall.SIGKILL || ws.Signal() == syscall.SIGTERM) {
		info.Code = schemas.CodeUnavailable
	}
	if tail != "" {
		info.Message += "; last output: " + tail
	}
	return doneNotice{Outcome: outcomeCrashed, Error: info}
}

// stderrTail logs what a rank prints, line by line, and keeps the end of it for the error report.
type stderrTail struct {
	logger *slog.Logger
	mu     sync.Mutex
	part   []byte
	lines  []string
}

const (
	maxLogLine = 4 << 10
	tailLines  = 6
)

// to logs to another logger from now on.
func (s *stderrTail) to(logger *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logger = logger
}

func (s *stderrTail) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part = append(s.part, p...)
	for {
		adv, line, _ := bufio.ScanLines(s.part, false)
		if adv == 0 && len(s.part) > maxLogLine {
			adv, line = maxLogLine, s.part[:maxLogLine]
		}
		if adv == 0 {
			return len(p), nil
		}
		s.take(string(line[:min(len(line), maxLogLine)]))
		s.part = append(s.part[:0], s.part[adv:]...)
	}
}

func (s *stderrTail) take(line string) {
	s.logger.Info("rank: " + line)
	s.lines = append(s.lines, line)
	if len(s.lines) > tailLines {
		s.lines = s.lines[1:]
	}
}

func (s *stderrTail) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.part) > 0 {
		s.take(string(s.part))
		s.part = nil
	}
}

func (s *stderrTail) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, " | ")
}

// child is a running rank with its phase watched.
type child struct {
	proc   *process
	orders *lines

	ready     chan string
	formed    chan uint64
	committed chan schemas.ManifestRef
	done      chan doneNotice // exactly one value
	gone      chan struct{}   // closed when the process has ended
	reported  atomic.Bool     // done came from the rank itself

	pulse
}

// pulse tracks whether the current phase advances.
type pulse struct {
	mu       sync.Mutex
	phase    string
	progress int64
	last     time.Time
}

// beat notes a phase; only advance counts.
func (p *pulse) beat(phase string, progress int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if phase != p.phase || progress > p.progress {
		p.phase, p.progress, p.last = phase, progress, time.Now()
	}
}

// alive keeps the phase but counts as advance.
func (p *pulse) alive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
}

// idle returns the phase and for how long it has not advanced.
func (p *pulse) idle() (string, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, time.Since(p.last)
}

// startChild launches a rank and gives it its work. onEvent is called for each event, in order, and must not block.
func startChild(l launcher, logger *slog.Logger, o *startOrder, onEvent func(schemas.Event)) (*child, error) {
	c := &child{ready: make(chan string, 1), formed: make(chan uint64, 1), committed: make(chan schemas.ManifestRef, 64),
		done: make(chan doneNotice, 1), gone: make(chan struct{})}
	c.beat("start", 0)
	ended := make(chan doneNotice, 1)
	proc, err := l.launch(logger, o.TraceParent, func(d doneNotice) { ended <- d })
	if err != nil {
		return nil, err
	}
	c.proc, c.orders = proc, &lines{w: proc.orders, patience: 5 * time.Second}
	go func() {
		var report *doneNotice
		err := readLines(proc.notices, func(n notice) error {
			switch {
			case n.Ready != nil:
				c.alive()
				offer(c.ready, n.Ready.Addr)
			case n.Formed != 0:
				c.alive()
				offer(c.formed, n.Formed)
			case n.Committed != nil:
				c.alive()
				offer(c.committed, *n.Committed)
			case n.Event != nil:
				c.alive()
				onEvent(*n.Event)
			case n.Phase != nil:
				c.beat(n.Phase.Name, n.Phase.Done)
			case n.Done != nil && report == nil:
				report = n.Done
				c.reported.Store(true)
				c.done <- *report
			}
			return nil
		})
		if err != nil {
			logger.Warn("notices of the rank ended", "error", err)
		}
		proc.notices.Close()
		how := <-ended
		if report == nil {
			c.done <- how
		}
		proc.orders.Close()
		close(c.gone)
	}()
	if err := c.orders.write(order{Start: o}); err != nil {
		logger.Warn("cannot send orders to the rank", "error", err) // it has ended: done tells why
	}
	return c, nil
}

// offer sends unless the channel is full: such notices are hints.
func offer[T any](ch chan T, v T) {
	select {
	case ch <- v:
	default:
	}
}

// control passes a control word on.
func (c *child) control(w schemas.Control, left time.Duration) {
	_ = c.orders.write(order{Control: &w, Left: left}) // a rank that has ended obeys nothing; done tells why
}

// reportGrace is how long a rank that has reported may take to end: it flushes its telemetry.
const reportGrace = 5 * time.Second

// stop asks the rank to end, kills it after grace, and returns when it is gone. A rank that has reported ends by itself.
func (c *child) stop(grace time.Duration) {
	select {
	case <-c.gone:
		return
	default:
	}
	if c.reported.Load() {
		grace = max(grace, reportGrace)
	} else if grace > 0 {
		if err := c.orders.write(order{Stop: true}); err != nil {
			grace = 0
		}
	}
	if grace > 0 {
		select {
		case <-c.gone:
			return
		case <-time.After(grace):
		}
	}
	c.proc.kill()
	<-c.gone
}
