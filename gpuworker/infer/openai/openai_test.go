package openai

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/infer"
	"github.com/tunefleet/tunefleet/gpuworker/infer/infertest"
	"github.com/tunefleet/tunefleet/gpuworker/train"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server over a model folder.
func serve(t *testing.T, dir string, eo infer.EngineOptions, o Options) *httptest.Server {
	t.Helper()
	m, err := infer.Open(t.Context(), infer.Options{Folders: train.Folders{Base: dir}, Template: "qwen", Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	e, err := infer.NewEngine(m, eo)
	if err != nil {
		t.Fatal(err)
	}
	if o.MaxNewTokens == 0 {
		o.MaxNewTokens = 12
	}
	o.Name = "small"
	srv := httptest.NewServer(New(m, e, o).Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// post sends a body and gives the status and what came back.
func post(t *testing.T, srv *httptest.Server, path, body string) (int, map[string]any, http.Header) {
	t.Helper()
	resp, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, v, resp.Header
}

// stream reads the events of a stream.
func stream(t *testing.T, srv *httptest.Server, path, body string) []string {
	t.Helper()
	resp, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Errorf("content type %q", ct)
	}
	var out []string
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		if data, ok := strings.CutPrefix(s.Text(), "data: "); ok {
			out = append(out, data)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no %v in %v", path, v)
			}
			v = m[k]
		case int:
			l, ok := v.([]any)
			if !ok || k >= len(l) {
				t.Fatalf("no %v in %v", path, v)
			}
			v = l[k]
		}
	}
	return v
}

const question = `"messages":[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"who "},{"type":"text","text":"are you?"}]}]`

// A streamed answer is the whole one, with its usage, for one and for several answers; draws with a seed come again.
func TestChatWholeAndStreamed(t *testing.T) {
	t.Parallel()
	srv := serve(t, infertest.Endless(t, nil), infer.EngineOptions{Slots: 3}, Options{})
	for _, extra := range []string{"", `,"n":3,"temperature":1.1,"seed":7`} {
		code, v, _ := post(t, srv, "/v1/chat/completions", "{"+question+extra+"}")
		if code != 200 {
			t.Fatalf("status %d: %v", code, v)
		}
		_, again, _ := post(t, srv, "/v1/chat/completions", "{"+question+extra+"}")
		choices := at(t, v, "choices").([]any)
		want := make([]string, len(choices))
		for i := range choices {
			want[i] = at(t, choices, i, "message", "content").(string)
			if want[i] == "" || want[i] != at(t, again, "choices", i, "message", "content") || at(t, choices, i, "finish_reason") != "length" {
				t.Errorf("choice %v; again %v", choices[i], at(t, again, "choices", i))
			}
		}
		if n := at(t, v, "usage", "completion_tokens").(float64); int(n) != 12*len(want) {
			t.Errorf("%v tokens for %d answers of 12", n, len(want))
		}
		events := stream(t, srv, "/v1/chat/completions", "{"+question+extra+`,"stream":true,"stream_options":{"include_usage":true}}`)
		got, ends := make([]string, len(want)), 0
		var used any
		for _, e := range events[:len(events)-1] {
			var c any
			if err := json.Unmarshal([]byte(e), &c); err != nil {
				t.Fatal(err)
			}
			if u, ok := c.(map[string]any)["usage"]; ok {
				used = at(t, u, "total_tokens")
				continue
			}
			i := int(at(t, c, "choices", 0, "index").(float64))
			if s, ok := at(t, c, "choices", 0, "delta", "content").(string); ok {
				got[i] += s
			}
			if at(t, c, "choices", 0, "finish_reason") != nil {
				ends++
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || ends != len(want) || used != at(t, v, "usage", "total_tokens") || events[len(events)-1] != "[DONE]" {
			t.Errorf("streamed %q (%d ends, %v tokens, last %q)\nwhole    %q", got, ends, used, events[len(events)-1], want)
		}
		if len(want) == 3 && want[0] == want[1] && want[1] == want[2] {
			t.Errorf("three draws are one: %q", want)
		}
	}
	_, v, _ := post(t, srv, "/v1/chat/completions", "{"+question+"}")
	whole := at(t, v, "choices", 0, "message", "content").(string)
	stop := whole[len(whole)/2 : len(whole)/2+3]
	b, err := json.Marshal(stop)
	if err != nil {
		t.Fatal(err)
	}
	_, v, _ = post(t, srv, "/v1/chat/completions", "{"+question+`,"stop":`+string(b)+"}")
	if got := at(t, v, "choices", 0, "message", "content"); got != whole[:strings.Index(whole, stop)] || at(t, v, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("stopped at %q: %v of %q", stop, got, whole)
	}
	code, v, _ := post(t, srv, "/v1/completions", `{"prompt":["a clause","another"],"max_tokens":4}`)
	if code != 200 || at(t, v, "choices", 1, "text") == "" || at(t, v, "usage", "completion_tokens") != 8.0 || at(t, v, "object") != "text_completion" {
		t.Errorf("completions: %d %v", code, v)
	}
}

func TestErrorsAreOpenAIs(t *testing.T) {
	t.Parallel()
	srv := serve(t, infertest.Endless(t, nil), infer.EngineOptions{}, Options{MaxBody: 20_000})
	user := `{"role":"user","content":"x"}`
	for name, c := range map[string]struct {
		path, body string
		status     int
		code       string
	}{
		"no JSON":        {"/v1/chat/completions", `{`, 400, "invalid_value"},
		"no messages":    {"/v1/chat/completions", `{}`, 400, "invalid_value"},
		"odd role":       {"/v1/chat/completions", `{"messages":[{"role":"king","content":"x"}]}`, 400, "invalid_value"},
		"out of turn":    {"/v1/chat/completions", `{"messages":[` + user + `,` + user + `]}`, 400, "invalid_value"},
		"answer last":    {"/v1/chat/completions", `{"messages":[` + user + `,{"role":"assistant","content":"x"}]}`, 400, "invalid_value"},
		"an image":       {"/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, 400, "invalid_value"},
		"temperature":    {"/v1/chat/completions", `{` + question + `,"temperature":3}`, 400, "invalid_value"},
		"wrong type":     {"/v1/chat/completions", `{` + question + `,"n":"many"}`, 400, "invalid_value"},
		"too many":       {"/v1/chat/completions", `{` + question + `,"n":99}`, 400, "invalid_value"},
		"logprobs":       {"/v1/chat/completions", `{` + question + `,"logprobs":true}`, 400, "unsupported_parameter"},
		"forced tool":    {"/v1/chat/completions", `{` + question + `,"tool_choice":"required"}`, 400, "unsupported_parameter"},
		"long":           {"/v1/chat/completions", `{"messages":[{"role":"user","content":"` + strings.Repeat("word ", 2000) + `"}]}`, 400, "context_length_exceeded"},
		"large":          {"/v1/chat/completions", `{"messages":[{"role":"user","content":"` + strings.Repeat("word ", 9000) + `"}]}`, 413, "request_too_large"},
		"no prompt":      {"/v1/completions", `{}`, 400, "invalid_value"},
		"unknown path":   {"/v1/engines", `{}`, 404, "unknown_url"},
		"no reward":      {"/v1/score/evaluation", `{"messages":["x"]}`, 405, "not_allowed"},
		"an odd call":    {"/v1/chat/completions", `{` + question + `,"tools":[{"type":"function","function":{}}]}`, 400, "invalid_value"},
		"odd parameters": {"/v1/chat/completions", `{` + question + `,"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]}`, 400, "invalid_value"},
	} {
		status, v, _ := post(t, srv, c.path, c.body)
		if e, _ := v["error"].(map[string]any); status != c.status || e["code"] != c.code || e["message"] == "" || e["type"] == nil {
			t.Errorf("%s: %d %v", name, status, v)
		}
	}
}

// Without the key nothing but the health is told.
func TestKey(t *testing.T) {
	t.Parallel()
	srv := serve(t, infertest.Folder(t, nil), infer.EngineOptions{}, Options{Key: "secret"})
	for header, want := range map[string]int{"": 401, "Bearer wrong": 401, "Basic secret": 401, "Bearer secret": 200} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", header)
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%q: %d", header, resp.StatusCode)
		}
	}
	resp, err := srv.Client().Get(srv.URL + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 200 {
		t.Errorf("health: %d", resp.StatusCode)
	}
}

// More requests than may wait are told to come again; a client that leaves gives its slot to the next.
func TestBusyAndGone(t *testing.T) {
	t.Parallel()
	srv := serve(t, infertest.Endless(t, map[string]any{"max_position_embeddings": 1 << 17}), infer.EngineOptions{Slots: 1, Queue: 1}, Options{MaxNewTokens: 100_000})
	begin := func(body string) (*http.Response, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp, cancel
	}
	first, leave := begin("{" + question + `,"stream":true}`)
	defer first.Body.Close()
	if _, err := io.ReadFull(first.Body, make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	status, v, h := post(t, srv, "/v1/chat/completions", "{"+question+`,"n":2,"temperature":1}`)
	if status != 429 || h.Get("Retry-After") == "" || at(t, v, "error", "code") != "queue_full" {
		t.Errorf("a full queue: %d %v %v", status, v, h)
	}
	leave()
	// It would have gone on for minutes.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/v1/chat/completions", strings.NewReader("{"+question+`,"max_tokens":2}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || !bytes.Contains(b, []byte(`"completion_tokens":2`)) {
		t.Errorf("after the first has left: %d %s %v", resp.StatusCode, b, err)
	}
}

// Calls in each format are found, and text before them is shown while it comes, cut anywhere.
func TestCallsAreSplitFromText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, text, before, name, args string }{
		{"qwen", "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", "Let me see.\n", "f", `{"a": 1}`},
		{"default", "Action: f\nAction Input: {\"a\": 1}", "", "f", `{"a": 1}`},
		{"llama3", "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "", "f", `{"a": 1}`},
		{"glm4", "f\n{\"a\": 1}", "", "f", `{"a": 1}`},
		{"qwen", "a <tool and no call", "a <tool and no call", "", ""},
		{"llama3", "plain words", "plain words", "", ""},
		{"glm4", "plain words", "plain words", "", ""},
	} {
		tpl, err := chat.ByName(c.template)
		if err != nil {
			t.Fatal(err)
		}
		for size := 1; size <= len(c.text); size++ {
			s := newSplitter(tpl)
			got := ""
			for rest := c.text; rest != ""; {
				n := min(size, len(rest))
				got += s.add(rest[:n])
				rest = rest[n:]
			}
			more, calls := s.end()
			if got += more; got != c.before {
				t.Errorf("%s by %d: text %q, want %q", c.template, size, got, c.before)
			}
			if c.name == "" {
				if len(calls) != 0 {
					t.Errorf("%s: calls %v", c.text, calls)
				}
				continue
			}
			if len(calls) != 1 || calls[0].Function.Name != c.name || calls[0].Function.Arguments != c.args || calls[0].ID == "" {
				t.Errorf("%s by %d: calls %+v", c.template, size, calls)
			}
		}
	}
}

// A conversation with calls is what the template was trained on: arguments are objects, several results one observation.
func TestConversationWithCalls(t *testing.T) {
	t.Parallel()
	tpl, err := chat.ByName("qwen")
	if err != nil {
		t.Fatal(err)
	}
	var q chatRequest
	body := `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}]},
		{"role":"tool","content":"one"},{"role":"tool","content":"two"}],"tools":[{"type":"function","function":{"name":"f"}}]}`
	if e := decode([]byte(body), &q); e != nil {
		t.Fatal(e)
	}
	c, e := q.conversation(tpl)
	if e != nil {
		t.Fatal(e)
	}
	if len(c.Messages) != 3 || c.Messages[1].Role != chat.RoleFunction || c.Messages[1].Content != `[{"name": "f", "arguments": {"a": 1}}]` || c.Messages[2].Content != "one\ntwo" {
		t.Errorf("messages %+v", c.Messages)
	}
	if c.Tools != `[{"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}]` {
		t.Errorf("tools %s", c.Tools)
	}
}

// Whatever bytes come, a request is read or refused.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("{" + question + `,"n":2,"stop":["a","b"],"seed":1,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto"}`))
	f.Add([]byte(`{"messages":[{"role":"assistant","tool_calls":[{}]}],"logprobs":0,"prompt":[[1,2],[3]]}`))
	tpl, err := chat.ByName("qwen")
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{o: Options{MaxAnswers: 4, MaxNewTokens: 3}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q chatRequest
		if decode(b, &q) == nil {
			c, e := q.conversation(tpl)
			if e == nil && (len(c.Messages)%2 != 1 || c.Messages[0].Role == chat.RoleAssistant) {
				t.Errorf("%q became %+v", b, c)
			}
			if rs, e := s.requests(&q.common, []int32{1}, nil); e == nil && (len(rs) < 1 || len(rs) > 4 || rs[0].Validate() != nil) {
				t.Errorf("%q became %+v", b, rs)
			}
		}
		var p textRequest
		_ = decode(b, &p)
	})
}
