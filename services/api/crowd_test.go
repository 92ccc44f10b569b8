package api_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// The environment of the process that holds the streams of TestACrowdThatReadsNothing: each of the two needs a file for each stream.
const (
	envCrowd    = "TUNEFLEET_API_TEST_CROWD" // "address number"
	envCrowdRun = "TUNEFLEET_API_TEST_RUN"
)

func TestMain(m *testing.M) {
	if os.Getenv(envCrowd) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := beCrowd(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// beCrowd opens streams, says when all are open, and holds them until its input ends.
func beCrowd() error {
	addr, number, _ := strings.Cut(os.Getenv(envCrowd), " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	request := fmt.Sprintf("GET /v1/runs/acme/%s/events HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer %s\r\n\r\n", os.Getenv(envCrowdRun), token)
	todo, failed := make(chan struct{}, n), make(chan error, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	var mu sync.Mutex
	var held []net.Conn // so that they stay open
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range todo {
				c, err := net.Dial("tcp", addr)
				line := make([]byte, len("HTTP/1.1 200"))
				if err == nil {
					if _, err = io.WriteString(c, request); err == nil {
						_, err = io.ReadFull(c, line)
					}
				}
				if err == nil && string(line) != "HTTP/1.1 200" {
					err = fmt.Errorf("the answer begins with %q", line)
				}
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				held = append(held, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(held)
	return nil
}

// TestACrowdThatReadsNothing: 10,000 clients (500 without TUNEFLEET_TEST_FULL) open streams of a run with history and read nothing of what
// comes; the server's memory stays bounded by what each costs, and one that reads gets everything.
func TestACrowdThatReadsNothing(t *testing.T) {
	clients := 500
	if os.Getenv("TUNEFLEET_TEST_FULL") == "1" {
		clients = 10_000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || int64(min(limit.Cur, 1<<30)) < int64(clients)+200 {
		t.Skipf("a process may open %d files here: %v", limit.Cur, err)
	}
	objects, live := memstore.New(), memlease.New()
	runs := control.NewService(objects, live, nil, nil)
	s, err := api.New(api.Config{Token: token}, api.Services{Runs: runs, Objects: objects, Live: live})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	reply, err := runs.Submit(t.Context(), spec("crowd"))
	if err != nil {
		t.Fatal(err)
	}
	step := func(n int64) {
		t.Helper()
		e := schemas.Event{Type: schemas.EventStep, Tenant: "acme", Run: reply.Run, Stage: "tune", Step: n, Generation: 1, Values: map[string]float64{"loss": 1 / float64(n)}}
		if err := live.Append(t.Context(), "acme", reply.Run, e); err != nil {
			t.Fatal(err)
		}
	}
	const before, after = 200, 400
	for n := int64(1); n <= before; n++ {
		step(n)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	empty := heap()
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", envCrowd, strings.TrimPrefix(srv.URL, "http://"), clients), envCrowdRun+"="+reply.Run)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the streams were not opened: %q, %v, %v", line, err, cmd.Wait())
	}
	took := time.Since(began)
	opened := heap() - empty
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/runs/acme/"+reply.Run+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := srv.Client().Do(req) //nolint:bodyclose // it is closed below
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read := make(chan error, 1)
	go func() { read <- readSteps(resp.Body, after) }()
	for n := int64(before + 1); n <= after; n++ {
		step(n)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	later := heap() - empty
	t.Logf("%d streams opened in %.1f s: %.1f MiB (%.1f KiB each); %.1f MiB after %d steps that nobody read", clients, took.Seconds(),
		float64(opened)/(1<<20), float64(opened)/float64(clients)/1024, float64(later)/(1<<20), after-before)
	if each := max(opened, later) / int64(clients); each > 64<<10 {
		t.Errorf("a stream that nobody reads costs %d bytes", each)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// heap is what the process has in use, stacks included, after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse) //nolint:gosec // less than 2^63
}

// readSteps reads a stream until a step, and wants every one before once and in order.
func readSteps(in io.Reader, last int64) error {
	want := int64(1)
	for lines := bufio.NewScanner(in); want <= last && lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e schemas.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return err
		}
		if e.Type != schemas.EventStep {
			continue
		}
		if e.Step != want {
			return fmt.Errorf("step %d came where %d belongs", e.Step, want)
		}
		want++
	}
	if want <= last {
		return fmt.Errorf("the stream ended before step %d", want)
	}
	return nil
}

// TestASlowReaderIsLetGo: a client that takes nothing for the write limit loses its stream, and gets the rest by Last-Event-ID.
func TestASlowReaderIsLetGo(t *testing.T) {
	objects, live := memstore.New(), memlease.New()
	runs := control.NewService(objects, live, nil, nil)
	s, err := api.New(api.Config{Token: token, Poll: 50 * time.Millisecond, WriteLimit: 300 * time.Millisecond}, api.Services{Runs: runs, Objects: objects, Live: live})
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{}, 1)
	handler := s.Handler()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		if r.Header.Get("Last-Event-ID") == "" {
			gone <- struct{}{}
		}
	}))
	srv.Start()
	defer srv.Close()
	reply, err := runs.Submit(t.Context(), spec("slow"))
	if err != nil {
		t.Fatal(err)
	}
	filler := strings.Repeat("x", 60<<10)
	note := func(n int) {
		t.Helper()
		if err := live.Append(t.Context(), "acme", reply.Run, schemas.Event{Type: schemas.EventNote, Tenant: "acme", Run: reply.Run, Message: fmt.Sprintf("note %d %s", n, filler)}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET /v1/runs/acme/%s/events HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer %s\r\n\r\n", reply.Run, token); err != nil {
		t.Fatal(err)
	}
	n, deadline := 0, time.After(60*time.Second)
	for open := true; open; {
		note(n) // until the buffers between the two are full, and then the limit passes
		n++
		select {
		case <-gone:
			open = false
		case <-deadline:
			t.Fatalf("the stream still stands after %d notes", n)
		case <-time.After(10 * time.Millisecond):
		}
	}
	// What the client has in its buffers it reads now; then it comes back for the rest.
	seen, last := notes(t, conn, n)
	if seen == 0 || seen >= n {
		t.Fatalf("%d of %d notes were in the buffers", seen, n)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/runs/acme/"+reply.Run+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Last-Event-ID", last)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rest, _ := notes(t, resp.Body, n-seen)
	if seen+rest != n {
		t.Errorf("%d notes before and %d after coming back are not %d", seen, rest, n)
	}
}

// notes reads up to limit notes and the id of the last whole one. They have to follow each other.
func notes(t *testing.T, in io.Reader, limit int) (n int, last string) {
	t.Helper()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	id, data, next := "", "", -1
	for n < limit && lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "data: "):
			data = line
		case line == "" && data != "": // whole
			if _, text, ok := strings.Cut(data, `"message":"note `); ok {
				number, _, _ := strings.Cut(text, " ")
				k, err := strconv.Atoi(number)
				if err != nil || next >= 0 && k != next {
					t.Fatalf("note %q comes where %d belongs (%v)", number, next, err)
				}
				n, last, next = n+1, id, k+1
			}
			data = ""
		}
	}
	return n, last
}
