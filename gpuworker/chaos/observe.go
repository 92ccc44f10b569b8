package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/schemas"
)

// before lets triggers act on a request that has come.
func (f *fleet) before(q *faultproxy.Request) error { return f.fire(q, false) }

// after notes a write and lets triggers act before the client learns of the answer.
func (f *fleet) after(q *faultproxy.Request) error {
	f.record(q)
	return f.fire(q, true)
}

func (f *fleet) record(q *faultproxy.Request) {
	if !strings.HasPrefix(q.Key, "open/") && !strings.HasPrefix(q.Key, "runs/") || q.Method != http.MethodPut && q.Method != http.MethodDelete {
		return
	}
	e := check.Event{At: f.history.Seconds(q.Began), Kind: check.KindWrite, Proc: q.Proc, Key: q.Key, Condition: q.Condition, Status: q.Status,
		ETag: q.ETag, Told: q.Told, Bytes: int64(len(q.Body))}
	if !q.Ended.IsZero() {
		e.Ended = f.history.Seconds(q.Ended)
	}
	head := strings.HasSuffix(q.Key, "/HEAD.json")
	switch {
	case q.Method == http.MethodDelete:
		e.Kind = check.KindDelete
	case head || strings.HasSuffix(q.Key, "/manifest.json") || schemas.IsOpenBatch(q.Key):
		e.Body = check.Body(q.Body)
	}
	if head && q.Status == http.StatusOK {
		f.swaps.Add(1)
	}
	f.history.Add(e)
}

func (f *fleet) fire(q *faultproxy.Request, answered bool) error {
	f.mu.Lock()
	i := slices.IndexFunc(f.triggers, func(t *trigger) bool { return t.answered == answered && t.match(q) })
	if i < 0 {
		f.mu.Unlock()
		return nil
	}
	t := f.triggers[i]
	f.triggers = slices.Delete(f.triggers, i, i+1)
	f.mu.Unlock()
	err := t.act(q)
	t.fired <- q.Proc
	return err
}

// arm sets a trigger; the channel gets the name of the process whose request fired it.
func (f *fleet) arm(answered bool, match func(*faultproxy.Request) bool, act func(*faultproxy.Request) error) <-chan string {
	t := &trigger{match: match, answered: answered, act: act, fired: make(chan string, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.triggers = append(f.triggers, t)
	return t.fired
}

// children lists the processes that a process has started.
func children(pid int) (out []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		raw, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		for _, w := range strings.Fields(string(raw)) {
			if n, err := strconv.Atoi(w); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// ranks lists the rank processes of a worker.
func (f *fleet) ranks(worker string) []int {
	if pid := f.cell.PID(worker); pid != 0 {
		return children(pid)
	}
	return nil
}

// left lists processes of this fleet that still run though everything was ended.
func (f *fleet) left() (out []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range environs {
		raw, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(raw), envDir+"="+f.dir+"\x00") {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
		if pid != os.Getpid() {
			out = append(out, strconv.Itoa(pid))
		}
	}
	return out
}

// descriptors counts the open files of a process.
func descriptors(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return len(entries)
}

// said reports whether the newest lines of a process's log contain a text.
func (f *fleet) said(name, text string) bool {
	raw, err := os.ReadFile(filepath.Join(f.dir, name+".log"))
	return err == nil && strings.Contains(string(raw[max(0, len(raw)-4096):]), text)
}

// maxDescriptors is more than any process of a small fleet needs.
const maxDescriptors = 400

// leaks notes leftovers of processes that run (before) or should not (after the end).
func (f *fleet) leakedFiles() {
	for _, p := range append(f.controls(), f.workers()...) {
		e := check.Event{Kind: check.KindLeak, Invariant: "I8", Proc: p}
		if n := descriptors(f.cell.PID(p)); n > maxDescriptors {
			e.Note = fmt.Sprintf("%s has %d open files", p, n)
		}
		f.history.Add(e)
	}
}

// leakedProcesses ends everything and notes what survives.
func (f *fleet) leakedProcesses() {
	f.cell.Close()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = f.left(); len(left) == 0 {
			break
		}
	}
	e := check.Event{Kind: check.KindLeak, Invariant: "I8", Proc: "fleet"}
	if len(left) > 0 {
		e.Note = "processes survive their agents: " + strings.Join(left, ", ")
	}
	f.history.Add(e)
}

// leakedSecrets looks for the fleet's credentials where they do not belong: logs, history, objects.
func (f *fleet) leakedSecrets(historyFile string, objects map[string][]byte) {
	secrets := map[string]string{"the broker's token": f.rec.Token, "the lease server's password": f.rec.Password, "the store's secret key": f.rec.SecretKey}
	look := func(where string, data []byte) {
		for what, s := range secrets {
			if strings.Contains(string(data), s) {
				f.history.Add(check.Event{Kind: check.KindLeak, Invariant: "I9", Proc: where, Note: what + " is in " + where})
			}
		}
	}
	logs, _ := filepath.Glob(filepath.Join(f.dir, "*.log"))
	for _, l := range append(logs, historyFile) {
		data, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		look(filepath.Base(l), data)
	}
	for k, data := range objects {
		look(k, data)
	}
	f.history.Add(check.Event{Kind: check.KindLeak, Invariant: "I9", Proc: "fleet"})
}

// maxObject bounds what is read of one object at the end.
const maxObject = 64 << 20

// snapshot reads the whole store.
func (f *fleet) snapshot(ctx context.Context) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, prefix := range []string{"open/", "runs/", "ended/"} {
		for info, err := range f.direct.Objects.List(ctx, prefix) {
			if err != nil {
				return nil, fmt.Errorf("cannot list the store at the end: %w", err)
			}
			data, _, err := f.direct.Objects.Get(ctx, info.Key, maxObject)
			if err != nil {
				return nil, fmt.Errorf("cannot read the store at the end: %w", err)
			}
			out[info.Key] = data
		}
	}
	return out, nil
}

// metadata is a cloud's metadata service as AWS has it, with a path for each worker.
type metadata struct {
	srv  *http.Server
	addr string

	mu      sync.Mutex
	notices map[string]time.Time
}

func newMetadata() (*metadata, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot serve metadata: %w", err)
	}
	m := &metadata{addr: l.Addr().String(), notices: map[string]time.Time{}}
	m.srv = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(m.serve)}
	go func() { _ = m.srv.Serve(l) }() // ends with close
	return m, nil
}

func (m *metadata) url(worker string) string { return "http://" + m.addr + "/" + worker }

func (m *metadata) serve(w http.ResponseWriter, r *http.Request) {
	worker, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if path == "latest/api/token" {
		_, _ = w.Write([]byte("token"))
		return
	}
	m.mu.Lock()
	at, ok := m.notices[worker]
	m.mu.Unlock()
	if !ok || path != "latest/meta-data/spot/instance-action" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	fmt.Fprintf(w, `{"action":"terminate","time":%q}`, at.UTC().Format(time.RFC3339))
}

// announce says that the worker's machine goes in d.
func (m *metadata) announce(worker string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notices[worker] = time.Now().Add(d)
}

func (m *metadata) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.notices)
}

func (m *metadata) close() { _ = m.srv.Close() }

// stop freezes a process, and its ranks too when with is set.
func (f *fleet) freeze(name string, with bool) error {
	var errs []error
	if with {
		for _, pid := range f.ranks(name) {
			errs = append(errs, ignoreGone(syscall.Kill(pid, syscall.SIGSTOP)))
		}
	}
	return errors.Join(append(errs, f.cell.Signal(name, syscall.SIGSTOP))...)
}

// thaw lets a frozen process and its ranks run.
func (f *fleet) thaw(name string) error {
	var errs []error
	for _, pid := range f.ranks(name) {
		errs = append(errs, ignoreGone(syscall.Kill(pid, syscall.SIGCONT)))
	}
	return errors.Join(append(errs, f.cell.Signal(name, syscall.SIGCONT))...)
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
