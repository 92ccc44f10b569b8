package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tab is a page of a headless Chromium, driven by the DevTools protocol over a pipe: a few calls of it are all that is needed, which a
// library with the whole protocol would take a minute to compile for.
type tab struct {
	t       *testing.T
	to      *os.File
	session string

	mu       sync.Mutex
	next     int
	waiting  map[int]chan reply
	problems []string
}

type reply struct {
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// openTab starts Chromium with one empty page. Without Chromium the test is skipped, or fails where TUNEFLEET_REQUIRE_BROWSER is set.
func openTab(t *testing.T) *tab {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("TUNEFLEET_REQUIRE_BROWSER") != "" {
			t.Fatal("there is no Chromium, and TUNEFLEET_REQUIRE_BROWSER is set")
		}
		t.Skip("there is no Chromium to look at the dashboard with: apt-get install chromium")
	}
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "browser-") // not t.TempDir: the browser's helpers may write for a moment after it has ended
	if err != nil {
		t.Fatal(err)
	}
	// The test's context ends before it is asked to close.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", //nolint:gosec // a browser of this machine
		"--disable-background-networking", "--disable-component-update", "--no-first-run", "--window-size=1280,900", "--user-data-dir="+home, "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, ours} // 3 and 4 by the flag's contract
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", path, err)
	}
	theirs.Close()
	ours.Close()
	b := &tab{t: t, to: to, waiting: map[int]chan reply{}}
	done := make(chan struct{})
	go func() { defer close(done); b.read(from) }()
	t.Cleanup(func() {
		_ = b.send(0, "", "Browser.close", nil) // it may be gone
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		to.Close()
		from.Close()
		<-done
		for range 100 {
			if err = os.RemoveAll(home); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("the browser's folder stays: %v", err)
	})
	var target struct {
		ID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		ID string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	b.session = attached.ID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read takes answers and what the page complains about.
func (b *tab) read(from *os.File) {
	in := bufio.NewReader(from)
	for {
		raw, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int    `json:"id"`
			Method string `json:"method"`
			Params struct {
				Type  string            `json:"type"`
				Args  []json.RawMessage `json:"args"`
				Entry struct {
					Level, Source, Text, URL string
				} `json:"entry"`
				Exception json.RawMessage `json:"exceptionDetails"`
			} `json:"params"`
			reply
		}
		if json.Unmarshal(raw[:len(raw)-1], &m) != nil {
			continue // of a form that is not asked for
		}
		b.mu.Lock()
		switch {
		case m.ID > 0:
			if c := b.waiting[m.ID]; c != nil {
				delete(b.waiting, m.ID)
				c <- m.reply
			}
		case m.Method == "Runtime.exceptionThrown":
			b.problems = append(b.problems, "exception "+string(m.Params.Exception))
		case m.Method == "Runtime.consoleAPICalled" && (m.Params.Type == "error" || m.Params.Type == "warning"):
			b.problems = append(b.problems, fmt.Sprintf("console %s %s", m.Params.Type, m.Params.Args))
		case m.Method == "Log.entryAdded" && (m.Params.Entry.Level == "error" || m.Params.Entry.Level == "warning"):
			b.problems = append(b.problems, fmt.Sprintf("%s: %s %s", m.Params.Entry.Source, m.Params.Entry.Text, m.Params.Entry.URL))
		}
		b.mu.Unlock()
	}
}

func (b *tab) send(id int, session, method string, params any) error {
	m := map[string]any{"id": id, "method": method}
	if session != "" {
		m["sessionId"] = session
	}
	if params != nil {
		m["params"] = params
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = b.to.Write(append(data, 0))
	return err
}

// call waits for the answer to a command.
func (b *tab) call(method string, params, into any) {
	b.t.Helper()
	c := make(chan reply, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = c
	err := b.send(id, b.session, method, params)
	b.mu.Unlock()
	if err != nil {
		b.t.Fatalf("cannot send %s to the browser: %v", method, err)
	}
	select {
	case r := <-c:
		if r.Error != nil {
			b.t.Fatalf("%s: %s", method, r.Error.Message)
		}
		if into != nil {
			if err := json.Unmarshal(r.Result, into); err != nil {
				b.t.Fatalf("cannot decode the answer to %s: %v", method, err)
			}
		}
	case <-time.After(time.Minute):
		b.t.Fatalf("the browser has not answered %s for a minute", method)
	}
}

// eval returns what an expression is in the page, as text.
func (b *tab) eval(expression string) string {
	b.t.Helper()
	var out struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	b.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")", "returnByValue": true}, &out)
	if out.Exception != nil {
		return "" // not there yet
	}
	return fmt.Sprint(out.Result.Value)
}

// until waits for an expression to be "true".
func (b *tab) until(what, expression string) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for b.eval(expression) != "true" {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: not within a minute; the page says:\n%s\nproblems: %q", what, b.eval("document.body.innerText"), b.taken())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// taken returns what the page has complained about since the last time, without what a lost connection leaves there.
func (b *tab) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.DeleteFunc(b.problems, func(p string) bool { return strings.Contains(p, "net::ERR_") })
	b.problems = nil
	return out
}
