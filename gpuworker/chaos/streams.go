package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
)

// Row 22: many streams of one run's events.
const (
	maxStreams = 10_000
	// spareFiles are what this process and the API need beside the streams.
	spareFiles = 2_000
	// openLeast and openMost bound how long streams are opened for, an eighth of the episode; on a small machine they are then fewer.
	openLeast   = 10 * time.Second
	openMost    = 25 * time.Second
	goodReaders = 12
	slowReaders = 6
	// streamDelay is the time of a step of the run that is watched, watchAfter how long it lasts after the streams are open, at least.
	streamDelay = 40 * time.Millisecond
	watchAfter  = 18 * time.Second
	// settleLeast and settleMost bound the wait for what the API holds to settle, settleFor is how long its peak stays the same by then.
	settleLeast = 5 * time.Second
	settleMost  = 10 * time.Second
	settleFor   = 2 * time.Second
	// streamBytes is what the API may have resident for a stream, apiBytes for itself, and growBytes by how much what it holds without garbage
	// may grow while nobody reads, once every stream holds what it may.
	streamBytes = 96 << 10
	apiBytes    = 160 << 20
	growBytes   = 64 << 20
)

// streamRun hands in a toy run long enough to be watched.
func (a *act) streamRun(ctx context.Context) (*schemas.RunSpec, error) {
	o := chaostest.Options{Steps: int64((a.f.openFor + watchAfter) / streamDelay), CommitEvery: 40, StepDelayMS: int(streamDelay.Milliseconds()), World: 1, Seed: a.rng.Uint64(), PrepParts: 1}
	s := chaostest.Spec(o)
	s.Tenant, s.Key = "alpha", fmt.Sprintf("streams-%d", o.Seed)
	s.ID = schemas.RunID(s.Tenant, s.Key)
	hash, err := chaostest.Expected(s)
	if err != nil {
		return nil, err
	}
	a.f.history.Add(check.Event{Kind: check.KindExpect, Tenant: s.Tenant, Run: s.ID, Expect: &check.Expect{Outcomes: []string{check.OutcomeSucceeded}, Stage: "tune",
		Hash: hash, Steps: o.Steps, Every: o.CommitEvery}})
	if !a.w.hand(ctx, s) {
		return nil, errors.Join(ctx.Err(), errNotReached)
	}
	a.w.follow1(s)
	return s, nil
}

// streams lets thousands of clients that never read, some that read slowly and some that read properly watch a run, and kills the API under
// them. Those that read must miss nothing and see nothing twice; the API's memory must stay bounded.
func streams(ctx context.Context, a *act) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	want := min(maxStreams, max(0, int(min(limit.Cur, 1<<30))-spareFiles))
	if err := a.f.startAPI(ctx); err != nil {
		return err
	}
	defer a.f.stopAPI()
	spec, err := a.streamRun(ctx)
	if err != nil {
		return err
	}
	rctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	readers := make([]*reader, goodReaders+slowReaders)
	for i := range readers {
		readers[i] = &reader{f: a.f, spec: spec, slow: i >= goodReaders}
		wg.Go(func() { readers[i].read(rctx) })
	}
	crowd := a.crowd(ctx, spec, want)
	defer crowd.close()
	a.begin(22, apiProcess, "%d streams that nobody reads (limit of files %d), %d slow readers, %d others; then kill -9 of the API", crowd.size(), limit.Cur, slowReaders, goodReaders)
	a.memory(crowd.size(), a.settled(ctx), apiBytes+int64(crowd.size())*streamBytes)
	before, err := a.f.held(ctx)
	if err != nil {
		return err
	}
	pause(ctx, a.between(3*time.Second, 4*time.Second))
	after, err := a.f.held(ctx)
	if err != nil {
		return err
	}
	a.memory(crowd.size(), after, before+growBytes)
	if err := a.f.kill(apiProcess); err != nil {
		return err
	}
	crowd.close()
	if err := a.f.startAPI(ctx); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(60 * time.Second):
		return fmt.Errorf("streams of run %s have not ended %s after the API came back", spec.ID, 60*time.Second)
	}
	for i, r := range readers {
		a.f.history.Add(check.Event{Kind: check.KindStream, Proc: fmt.Sprintf("reader-%d", i+1), Tenant: spec.Tenant, Run: spec.ID, Stage: "tune", Names: r.seen, Count: r.broken})
	}
	return nil
}

// settled is the peak of what the API has resident, once it has not risen for a while, in bytes. What grows for ever never settles: its peak
// is then the newest value, and what comes on top of that is judged.
func (a *act) settled(ctx context.Context) (peak int64) {
	began := time.Now()
	for rose := began; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		if now := a.f.resident(); now > peak {
			peak, rose = now, time.Now()
		}
		if t := time.Since(began); t >= settleMost || t >= settleLeast && time.Since(rose) >= settleFor {
			break
		}
	}
	return peak
}

// held is what the API's process has resident once it has collected its garbage, in bytes: of what is resident otherwise, up to a half is
// garbage, by how far the collector is.
func (f *fleet) held(ctx context.Context) (int64, error) {
	answer := filepath.Join(f.dir, collectedName)
	if err := os.Remove(answer); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("cannot remove an old answer: %w", err)
	}
	if err := f.cell.Signal(apiProcess, syscall.SIGUSR1); err != nil {
		return 0, fmt.Errorf("cannot ask the API's process to collect its garbage: %w", err)
	}
	for end := time.Now().Add(collectWithin); ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		if _, err := os.Stat(answer); err == nil {
			return f.resident(), nil
		}
		if f.resident() == 0 {
			return 0, nil // it is gone, which is judged
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("the API's process has not collected its garbage in %s", collectWithin)
		}
	}
	return 0, ctx.Err()
}

// memory notes what the API has resident, and what it may have.
func (a *act) memory(streams int, resident, bound int64) {
	a.f.history.Add(check.Event{Kind: check.KindMemory, Proc: apiProcess, Count: streams, Bytes: resident, Bound: bound})
	a.what += fmt.Sprintf("; %d MiB resident", resident>>20)
}

// resident is what the API's process has resident, 0 when it is gone.
func (f *fleet) resident() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cell.PID(apiProcess)))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

// crowd is a number of streams that nobody reads.
type crowd struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

func (c *crowd) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.conns {
		_ = x.Close()
	}
	c.conns = nil
}

func (f *fleet) streamPath(s *schemas.RunSpec) string {
	return fmt.Sprintf("/v1/runs/%s/%s/events", s.Tenant, s.ID)
}

// crowd opens streams until there are enough or the time is over.
func (a *act) crowd(ctx context.Context, s *schemas.RunSpec, want int) *crowd {
	c := &crowd{}
	dctx, cancel := context.WithTimeout(ctx, a.f.openFor)
	defer cancel()
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer %s\r\n\r\n", a.f.streamPath(s), a.f.rec.APIToken)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for dctx.Err() == nil && c.size() < want {
				conn, err := new(net.Dialer).DialContext(dctx, "tcp", loopback(a.f.rec.API))
				if err != nil {
					return
				}
				line := make([]byte, len("HTTP/1.1 200"))
				deadline, _ := dctx.Deadline()
				_ = conn.SetDeadline(deadline)
				if _, err = io.WriteString(conn, request); err == nil {
					_, err = io.ReadFull(conn, line)
				}
				if err != nil || string(line) != "HTTP/1.1 200" {
					_ = conn.Close()
					continue
				}
				c.mu.Lock()
				c.conns = append(c.conns, conn)
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return c
}

// reader follows a run to its end, from where it was whenever the stream breaks.
type reader struct {
	f    *fleet
	spec *schemas.RunSpec
	slow bool
	// seen are the steps as "generation:step", broken how often the stream broke.
	seen   []string
	broken int
	last   string
}

func (r *reader) read(ctx context.Context) {
	for ctx.Err() == nil {
		over, err := r.stream(ctx)
		if over {
			return
		}
		if err != nil {
			r.broken++
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// slowly reads little at a time.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 1024)])
}

// stream reads one response; over says that the run has ended.
func (r *reader) stream(ctx context.Context) (over bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(r.f.rec.API)+r.f.streamPath(r.spec), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+r.f.rec.APIToken)
	if r.last != "" {
		req.Header.Set("Last-Event-ID", r.last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the stream answers %d", resp.StatusCode)
	}
	var in io.Reader = resp.Body
	if r.slow {
		in = slowly{in}
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	id := ""
	for lines.Scan() {
		line := lines.Text()
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id = v
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var e schemas.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return false, fmt.Errorf("the stream has what is no event: %w", err)
		}
		if e.Type == schemas.EventStep {
			r.seen = append(r.seen, fmt.Sprintf("%d:%d", e.Generation, e.Step))
		}
		if id != "" {
			r.last, id = id, ""
		}
		over = over || e.Type == schemas.EventState && schemas.RunState(e.Message).Terminal()
	}
	return over, lines.Err()
}
