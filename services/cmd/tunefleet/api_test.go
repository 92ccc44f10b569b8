package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/infer/infertest"
)

// The address is this machine's unless there is a key, or somebody says that there need not be one.
func TestAPIIsNotOpenToOthers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f   apiFlags
		key string
		ok  bool
	}{
		{apiFlags{host: "127.0.0.1"}, "", true}, {apiFlags{host: "localhost"}, "", true}, {apiFlags{host: "::1"}, "", true},
		{apiFlags{host: "0.0.0.0"}, "", false}, {apiFlags{host: ""}, "", false}, {apiFlags{host: "10.0.0.1"}, "", false}, {apiFlags{host: "gpu.example"}, "", false},
		{apiFlags{host: "0.0.0.0"}, "secret", true}, {apiFlags{host: "0.0.0.0", open: true}, "", true},
	} {
		if err := c.f.guard(c.key); (err == nil) != c.ok {
			t.Errorf("%q, key %t, open %t: %v", c.f.host, c.key != "", c.f.open, err)
		}
	}
	if r := cli(t, []string{"API_KEY=", "API_HOST=0.0.0.0"}, "api", infertest.Folder(t, nil)); r.code != 2 || !strings.Contains(r.err, "API_KEY") {
		t.Errorf("all addresses without a key: %d %s", r.code, r.err)
	}
	if r := cli(t, []string{"API_PORT=web"}, "api", "model"); r.code != 2 || !strings.Contains(r.err, "API_PORT") {
		t.Errorf("an odd port: %d %s", r.code, r.err)
	}
}

// The server answers by the environment's port and key, and ends by SIGTERM when the stream that is under way has ended.
func TestAPIServesAndStops(t *testing.T) {
	t.Parallel()
	dir := infertest.Endless(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "api", dir, "template=tunefleet", "max_new_tokens=300", "--json")
	cmd.Env = append(os.Environ(), "API_PORT=0", "API_HOST=127.0.0.1", "API_KEY=secret", "API_MODEL_NAME=small")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var at struct{ URL, Model string }
	if err := json.Unmarshal([]byte(line), &at); err != nil || at.Model != "small" {
		t.Fatalf("said %q: %v", line, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+"/chat/completions", strings.NewReader(`{"messages":[{"role":"user","content":"who?"}],"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("the stream was cut off: %v, ends in %q", err, rest[max(0, len(rest)-80):])
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}
