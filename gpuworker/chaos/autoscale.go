package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/schemas"
)

// Faults of the cloud of row 23.
const (
	cloudThrottled = "answers 429"
	cloudSlow      = "does not answer"
	cloudFull      = "has no capacity"
	cloudStillborn = "starts instances that never join"
)

// cloud is a cloud's group of instances over HTTP: each is one of the fleet's workers. PUT /group?desired=N raises the number, which never
// exceeds the group's maximum; DELETE /instances/<name> ends one and lowers it, as a machine ends: SIGTERM, and time to leave.
type cloud struct {
	f   *fleet
	max int
	srv *http.Server
	url string

	mu      sync.Mutex
	fault   string
	desired int
	// up are the instances by worker; stillborn ones have no process.
	up     map[string]bool
	wg     sync.WaitGroup
	closed bool
}

func newCloud(f *fleet) (*cloud, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot serve a cloud: %w", err)
	}
	c := &cloud{f: f, max: f.shape.Workers, desired: f.shape.Workers, up: map[string]bool{}, url: "http://" + l.Addr().String()}
	for _, w := range f.workers() {
		c.up[w] = true
	}
	c.srv = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(c.serve)}
	go func() { _ = c.srv.Serve(l) }() // ends with close
	return c, nil
}

func (c *cloud) close() {
	_ = c.srv.Close()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

func (c *cloud) set(fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

func (c *cloud) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.up)
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fault == cloudThrottled:
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case c.fault == cloudSlow:
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
		return
	case c.closed:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	name, remove := strings.CutPrefix(r.URL.Path, "/instances/")
	var desired int
	switch _, err := fmt.Sscanf(r.URL.Query().Get("desired"), "%d", &desired); {
	case remove && c.up[name]:
		delete(c.up, name)
		c.desired--
		c.wg.Go(func() { _ = c.f.cell.Signal(name, syscall.SIGTERM) })
	case remove:
		w.WriteHeader(http.StatusNotFound)
		return
	case err != nil || desired > c.max:
		w.WriteHeader(http.StatusBadRequest)
		return
	default:
		c.desired = max(c.desired, desired)
		if !c.grow() {
			w.WriteHeader(http.StatusInsufficientStorage)
			return
		}
	}
	c.f.history.Add(check.Event{Kind: check.KindCloud, Proc: "cloud", Count: len(c.up), Limit: c.max})
}

// grow starts instances until there are as many as desired; false where there is no capacity.
func (c *cloud) grow() bool {
	for _, w := range c.f.workers() {
		if len(c.up) >= c.desired || c.up[w] {
			continue
		}
		if c.fault == cloudFull {
			return false
		}
		if c.fault != cloudStillborn && c.f.cell.Alive(w) {
			continue // it still leaves
		}
		c.up[w] = true
		if c.fault != cloudStillborn {
			_ = c.f.start(w) // one that does not start never joins
		}
	}
	return true
}

// autoscaler follows what the API serves until it is killed, and remembers nothing: the least that one has to do.
func (a *act) autoscaler(ctx context.Context, name string, c *cloud) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := a.f.history.Seconds(time.Now())
		var d schemas.PoolDemand
		if err := a.f.ask(ctx, "/v1/pools/cpu/demand", &d); err != nil {
			continue
		}
		a.f.history.Add(check.Event{At: began, Ended: a.f.history.Seconds(time.Now()), Kind: check.KindDemand, Proc: name, Count: d.WorkersDemanded, Names: d.Removable})
		want := min(max(1, d.WorkersDemanded), c.max)
		switch size := c.size(); {
		case want > size:
			a.call(ctx, http.MethodPut, fmt.Sprintf("%s/group?desired=%d", c.url, want))
		case want < size && len(d.Removable) > 0 && d.Surplus > 0:
			a.call(ctx, http.MethodDelete, c.url+"/instances/"+d.Removable[0])
		}
	}
}

// call asks the cloud once; what it answers is seen at the next look.
func (a *act) call(ctx context.Context, method, url string) {
	rctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(rctx, method, url, nil)
	if err != nil {
		return
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// scaleLimit is how long the group may take to follow the demand.
const scaleLimit = 15 * time.Second

// autoscale lets two autoscalers follow the demand while it falls and rises; meanwhile one of them is killed, control restarts and the cloud
// misbehaves. In the end the group has to have followed.
func autoscale(ctx context.Context, a *act) error {
	if len(a.f.clouds) == 0 { // each once, before one comes again
		a.f.clouds = []string{cloudThrottled, cloudSlow, cloudFull, cloudStillborn}
		a.rng.Shuffle(len(a.f.clouds), func(i, j int) { a.f.clouds[i], a.f.clouds[j] = a.f.clouds[j], a.f.clouds[i] })
	}
	fault := a.f.clouds[0]
	a.f.clouds = a.f.clouds[1:]
	c, err := newCloud(a.f)
	if err != nil {
		return err
	}
	defer c.close()
	a.begin(23, "autoscaler", "two at once, one killed; the cloud %s", fault)
	if err := a.f.startAPI(ctx); err != nil {
		return err
	}
	defer a.f.stopAPI()
	sctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	first, kill := context.WithCancel(sctx)
	defer kill()
	wg.Go(func() { a.autoscaler(first, "autoscaler-1", c) })
	wg.Go(func() { a.autoscaler(sctx, "autoscaler-2", c) })
	// No more work comes: the group shrinks.
	a.w.pauseSubmit(true)
	defer a.w.pauseSubmit(false)
	shrunk := a.until(ctx, scaleLimit, func() bool { return c.size() < c.max })
	kill()
	control := a.pick(a.f.controls())
	if err := a.f.kill(control); err != nil {
		return err
	}
	c.set(fault)
	a.w.pauseSubmit(false)
	wg.Go(func() { a.autoscaler(sctx, "autoscaler-1", c) })
	pause(ctx, a.between(2*time.Second, 4*time.Second))
	if err := a.f.start(control); err != nil {
		return err
	}
	c.set("")
	if fault == cloudStillborn { // a cloud replaces what does not come up
		c.mu.Lock()
		for w := range c.up {
			if !a.f.cell.Alive(w) {
				delete(c.up, w)
			}
		}
		c.mu.Unlock()
	}
	followed := a.until(ctx, scaleLimit, func() bool {
		var d schemas.PoolDemand
		return a.f.ask(ctx, "/v1/pools/cpu/demand", &d) == nil && c.size() >= min(d.WorkersDemanded, c.max)
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !shrunk:
		return errNotReached
	case !followed:
		return fmt.Errorf("the group has %d instances %s after the cloud recovered, and more are asked for", c.size(), scaleLimit)
	}
	return nil
}

// until waits for a condition.
func (a *act) until(ctx context.Context, limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}
