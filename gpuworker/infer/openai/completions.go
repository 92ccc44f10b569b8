package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/infer"
)

// usage counts tokens.
type usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	Details          promptDetails `json:"prompt_tokens_details"`
}

type promptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// completion is a whole answer, or a piece of one.
type completion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []any  `json:"choices"`
	Usage   *usage `json:"usage,omitempty"`
}

type chatChoice struct {
	Index        int          `json:"index"`
	Message      *chatMessage `json:"message,omitempty"`
	Delta        *delta       `json:"delta,omitempty"`
	FinishReason *string      `json:"finish_reason"`
}

type chatMessage struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type delta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type textChoice struct {
	Index        int     `json:"index"`
	Text         string  `json:"text"`
	LogProbs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

// job is a request that is being answered.
type job struct {
	s    *Server
	head completion
	// texts are the answers; calls looks for calls of tools in them; chats says which of the two forms the choices have.
	texts []*infer.Text
	calls bool
	chats bool
	// perPrompt is the number of answers to each prompt: its tokens count once.
	perPrompt int
	stream    bool
	usage     bool
}

// chat serves POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	if s.engine == nil {
		writeError(w, notAllowed("this is a reward model: POST /v1/score/evaluation"))
		return
	}
	var q chatRequest
	if e := s.read(w, r, &q); e != nil {
		writeError(w, e)
		return
	}
	j, err := s.begin(r.Context(), &q)
	if err != nil {
		writeError(w, asAPIError(err, "messages"))
		return
	}
	j.serve(w, r)
}

// begin asks the engine what a chat request asks for.
func (s *Server) begin(ctx context.Context, q *chatRequest) (*job, error) {
	if f := q.ResponseFormat.Type; f != "" && f != "text" {
		return nil, bad("response_format", "response_format %q is not supported, only text is", f)
	}
	if q.MaxCompletionTokens != nil {
		q.MaxTokens = q.MaxCompletionTokens
	}
	c, e := q.conversation(s.model.Encoder.Template)
	if e != nil {
		return nil, e
	}
	prompt, err := s.model.Prompt(c)
	if err != nil {
		return nil, err
	}
	rs, e := s.requests(&q.common, prompt, s.model.Encoder.StopIDs())
	if e != nil {
		return nil, e
	}
	j, err := s.job(ctx, &q.common, rs, "chatcmpl-", "chat.completion")
	if err != nil {
		return nil, err
	}
	j.chats, j.calls, j.perPrompt = true, c.Tools != "", len(rs)
	return j, nil
}

func (s *Server) job(ctx context.Context, q *common, rs []infer.Request, prefix, object string) (*job, error) {
	list, err := s.engine.Submit(ctx, rs...)
	if err != nil {
		return nil, err
	}
	name := q.Model
	if name == "" {
		name = s.o.Name
	}
	if q.Stream && object == "chat.completion" {
		object += ".chunk"
	}
	j := &job{s: s, head: completion{ID: newID(prefix), Object: object, Created: time.Now().Unix(), Model: name}, stream: q.Stream, usage: q.StreamOpts.IncludeUsage}
	for _, a := range list {
		j.texts = append(j.texts, s.engine.Text(a, infer.TextOptions{KeepSpecial: s.o.KeepSpecial, Stop: q.Stop}))
	}
	return j, nil
}

// serve sends the answers: whole, or as they come.
func (j *job) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		for _, t := range j.texts {
			t.Cancel() // what nobody reads any more
		}
	}()
	if j.stream {
		j.sse(w, r)
		return
	}
	for i, t := range j.texts {
		text, err := t.All(r.Context())
		if err != nil {
			if r.Context().Err() == nil {
				j.s.o.Logger.Error("cannot answer", "error", err)
				writeError(w, asAPIError(err, ""))
			}
			return
		}
		j.head.Choices = append(j.head.Choices, j.whole(i, t, text))
	}
	j.head.Usage = j.count()
	writeJSON(w, http.StatusOK, &j.head)
}

// whole is the choice of a whole text.
func (j *job) whole(i int, t *infer.Text, text string) any {
	reason := string(t.Reason())
	if !j.chats {
		return textChoice{Index: i, Text: text, FinishReason: &reason}
	}
	m := &chatMessage{Role: "assistant"}
	if j.calls {
		p := newSplitter(j.s.model.Encoder.Template)
		before := p.add(text)
		rest, calls := p.end()
		if text = before + rest; len(calls) > 0 {
			reason, m.ToolCalls = "tool_calls", calls
			for k := range m.ToolCalls {
				m.ToolCalls[k].Index = nil
			}
			text = strings.TrimSpace(text)
		}
	}
	if text != "" || len(m.ToolCalls) == 0 {
		m.Content = &text
	}
	return chatChoice{Index: i, Message: m, FinishReason: &reason}
}

// count sums the tokens of all answers, and those of each prompt once.
func (j *job) count() *usage {
	u := &usage{}
	for i, t := range j.texts {
		s := t.Stats()
		if i%max(1, j.perPrompt) == 0 {
			u.PromptTokens += s.Prompt
			u.Details.CachedTokens += s.Reused
		}
		u.CompletionTokens += s.New
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// sse sends the answers as server-sent events while they come.
func (j *job) sse(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	pieces := make(chan any)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
	}()
	for i, t := range j.texts {
		wg.Go(func() {
			send := func(v any) {
				select {
				case pieces <- v:
				case <-ctx.Done():
				}
			}
			if err := j.pieces(ctx, i, t, send); err != nil && ctx.Err() == nil {
				send(asAPIError(err, ""))
			}
		})
	}
	go func() {
		wg.Wait()
		close(pieces)
	}()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	e := &events{w: w, c: http.NewResponseController(w)}
	for p := range pieces {
		if fail, ok := p.(*apiError); ok {
			j.s.o.Logger.Error("cannot answer", "error", fail)
			_ = e.send(map[string]any{"error": fail}) // the stream ends here in any case
			return
		}
		c := j.head
		c.Choices = []any{p}
		if e.send(&c) != nil {
			return // the client has left, or reads nothing
		}
	}
	if ctx.Err() != nil {
		return
	}
	if j.usage {
		c := j.head
		c.Choices, c.Usage = []any{}, j.count()
		if e.send(&c) != nil {
			return
		}
	}
	_ = e.raw("data: [DONE]\n\n") // nothing follows
}

// pieces sends the choices of one answer as they come.
func (j *job) pieces(ctx context.Context, i int, t *infer.Text, send func(any)) error {
	empty := ""
	if j.chats {
		send(chatChoice{Index: i, Delta: &delta{Role: "assistant", Content: &empty}})
	}
	show := func(s string) {
		switch {
		case s == "":
		case j.chats:
			send(chatChoice{Index: i, Delta: &delta{Content: &s}})
		default:
			send(textChoice{Index: i, Text: s})
		}
	}
	var p *splitter
	if j.calls {
		p = newSplitter(j.s.model.Encoder.Template)
	}
	for {
		s, err := t.NextText(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return err
			}
			break
		}
		if p != nil {
			s = p.add(s)
		}
		show(s)
	}
	reason := string(t.Reason())
	if p != nil {
		rest, calls := p.end()
		if show(rest); len(calls) > 0 {
			reason = "tool_calls"
			send(chatChoice{Index: i, Delta: &delta{ToolCalls: calls}})
		}
	}
	if j.chats {
		send(chatChoice{Index: i, Delta: &delta{}, FinishReason: &reason})
	} else {
		send(textChoice{Index: i, FinishReason: &reason})
	}
	return nil
}

// events writes server-sent events.
type events struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (e *events) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode an event: %w", err)
	}
	return e.raw("data: " + string(b) + "\n\n")
}

func (e *events) raw(s string) error {
	if err := e.c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := e.w.Write([]byte(s)); err != nil {
		return err
	}
	if err := e.c.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// textRequest is the body of a completion.
type textRequest struct {
	common
	Prompt prompts `json:"prompt"`
	Echo   bool    `json:"echo"`
	Suffix string  `json:"suffix"`
	BestOf *int    `json:"best_of"`
}

// prompts are texts or lists of ids.
type prompts struct {
	texts []string
	ids   [][]int32
}

// UnmarshalJSON reads a text, a list of texts, a list of ids, or a list of those.
func (p *prompts) UnmarshalJSON(b []byte) error {
	var one string
	var list []int32
	if json.Unmarshal(b, &one) == nil {
		p.texts = []string{one}
		return nil
	}
	if json.Unmarshal(b, &p.texts) == nil {
		return nil
	}
	p.texts = nil
	if json.Unmarshal(b, &list) == nil {
		p.ids = [][]int32{list}
		return nil
	}
	if json.Unmarshal(b, &p.ids) == nil {
		return nil
	}
	return bad("prompt", "is neither a text nor a list of texts or of tokens")
}

// complete serves POST /v1/completions: the continuation of a text as it is, without a template.
func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	if s.engine == nil {
		writeError(w, notAllowed("this is a reward model: POST /v1/score/evaluation"))
		return
	}
	var q textRequest
	if e := s.read(w, r, &q); e != nil {
		writeError(w, e)
		return
	}
	j, err := s.beginText(r.Context(), &q)
	if err != nil {
		writeError(w, asAPIError(err, "prompt"))
		return
	}
	j.serve(w, r)
}

func (s *Server) beginText(ctx context.Context, q *textRequest) (*job, error) {
	switch {
	case q.Echo:
		return nil, bad("echo", "echo is not supported")
	case q.Suffix != "":
		return nil, bad("suffix", "suffix is not supported")
	case q.BestOf != nil && *q.BestOf > 1:
		return nil, bad("best_of", "best_of is not supported")
	}
	ids := q.Prompt.ids
	for _, text := range q.Prompt.texts {
		ids = append(ids, s.model.Text(text))
	}
	if len(ids) == 0 {
		return nil, bad("prompt", "is missing")
	}
	var all []infer.Request
	per := 0
	for _, p := range ids {
		rs, e := s.requests(&q.common, p, s.model.Encoder.StopIDs())
		if e != nil {
			return nil, e
		}
		all, per = append(all, rs...), len(rs)
	}
	if len(all) > s.o.MaxAnswers {
		return nil, bad("prompt", "%d answers are asked for at once, at most %d are given", len(all), s.o.MaxAnswers)
	}
	j, err := s.job(ctx, &q.common, all, "cmpl-", "text_completion")
	if err == nil {
		j.perPrompt = per
	}
	return j, err
}
