package openai

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/infer"
)

// Bounds of a request.
const (
	maxStops     = 16
	maxStopBytes = 256
	maxMessages  = 4096
	maxTools     = 128
)

// common is what both kinds of completions share.
type common struct {
	Model       string   `json:"model"`
	N           *int     `json:"n"`
	MaxTokens   *int     `json:"max_tokens"`
	Temperature *float64 `json:"temperature"`
	TopP        *float64 `json:"top_p"`
	Stop        texts    `json:"stop"`
	Seed        *int64   `json:"seed"`
	Stream      bool     `json:"stream"`
	StreamOpts  struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	// Of vLLM and LLaMA-Factory:
	DoSample          *bool    `json:"do_sample"`
	TopK              *int     `json:"top_k"`
	MinP              *float64 `json:"min_p"`
	RepetitionPenalty *float64 `json:"repetition_penalty"`
	// Known and not built: refused where they would change something.
	FrequencyPenalty float64         `json:"frequency_penalty"`
	PresencePenalty  float64         `json:"presence_penalty"`
	LogitBias        map[string]any  `json:"logit_bias"`
	LogProbs         json.RawMessage `json:"logprobs"`
}

// texts is a text or a list of them.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	var many []string
	switch {
	case string(b) == "null":
		return nil
	case json.Unmarshal(b, &one) == nil:
		*t = texts{one}
	case json.Unmarshal(b, &many) == nil:
		*t = many
	default:
		return bad("stop", "is neither a text nor a list of texts")
	}
	return nil
}

// chatRequest is the body of a chat completion.
type chatRequest struct {
	common
	Messages            []message       `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ResponseFormat      struct {
		Type string `json:"type"`
	} `json:"response_format"`
}

type message struct {
	Role      string     `json:"role"`
	Content   content    `json:"content"`
	ToolCalls []toolCall `json:"tool_calls"`
}

// content is a message's text; null is none.
type content string

// UnmarshalJSON reads a text, null, or a list of parts of text.
func (c *content) UnmarshalJSON(b []byte) error {
	var s *string
	if json.Unmarshal(b, &s) == nil {
		if s != nil {
			*c = content(*s)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return bad("messages", "a message's content is neither a text nor a list of parts")
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return bad("messages", "a message has a part of type %q; this model reads text alone", p.Type)
		}
		all.WriteString(p.Text)
	}
	*c = content(all.String())
	return nil
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// refused names what is asked for and not built.
func (c *common) refused() *apiError {
	no := func(key string) *apiError {
		e := bad(key, "%s is not supported", key)
		e.Code = optional("unsupported_parameter")
		return e
	}
	switch {
	case c.FrequencyPenalty != 0:
		return no("frequency_penalty")
	case c.PresencePenalty != 0:
		return no("presence_penalty")
	case len(c.LogitBias) > 0:
		return no("logit_bias")
	case len(c.LogProbs) > 0 && !slices.Contains([]string{"null", "false", "0"}, string(c.LogProbs)):
		return no("logprobs")
	}
	return nil
}

// drawing is how a request's tokens are drawn: the server's own way, changed by what the request says.
func (s *Server) drawing(c *common) (g generate.Sampling, n int, e *apiError) {
	if e := c.refused(); e != nil {
		return g, 0, e
	}
	g, n = s.o.Sampling, 1
	within := func(key string, v, low, top float64) {
		if e == nil && !(v >= low && v <= top) {
			e = bad(key, "%s is %g, expected %g to %g", key, v, low, top)
		}
	}
	if c.N != nil {
		n = *c.N
		within("n", float64(n), 1, float64(s.o.MaxAnswers))
	}
	if c.Temperature != nil {
		g.Temperature = *c.Temperature
		within("temperature", g.Temperature, 0, 2)
	}
	if c.TopP != nil {
		within("top_p", *c.TopP, 0, 1)
		g.TopP = max(*c.TopP, 1e-9) // 0 is the likeliest token alone
	}
	if c.TopK != nil {
		within("top_k", float64(*c.TopK), -1, 1<<20)
		g.TopK = max(0, *c.TopK)
	}
	if c.MinP != nil {
		g.MinP = *c.MinP
		within("min_p", g.MinP, 0, 1)
	}
	if c.RepetitionPenalty != nil {
		g.RepetitionPenalty = *c.RepetitionPenalty
		within("repetition_penalty", g.RepetitionPenalty, 0, 100)
	}
	switch {
	case c.DoSample != nil && !*c.DoSample:
		g.Temperature = 0
	case g.Temperature == 0 && (n > 1 && c.Temperature == nil || c.DoSample != nil && c.Temperature == nil):
		g.Temperature = 1 // several answers that are all the same serve nobody: LLaMA-Factory's rule
	}
	if len(c.Stop) > maxStops || slices.ContainsFunc(c.Stop, func(w string) bool { return len(w) > maxStopBytes }) {
		e = bad("stop", "has more than %d texts, or one of more than %d bytes", maxStops, maxStopBytes)
	}
	if e == nil && c.MaxTokens != nil && *c.MaxTokens < 1 {
		e = bad("max_tokens", "%d is not positive", *c.MaxTokens)
	}
	return g, n, e
}

// requests are those of n answers to a prompt.
func (s *Server) requests(c *common, prompt []int32, stop []int32) ([]infer.Request, *apiError) {
	g, n, e := s.drawing(c)
	if e != nil {
		return nil, e
	}
	r := infer.Request{Prompt: prompt, MaxNewTokens: s.o.MaxNewTokens, Stop: stop, Sampling: g}
	if c.MaxTokens != nil {
		r.MaxNewTokens = *c.MaxTokens
	}
	if c.Seed != nil {
		r.Seed = uint64(*c.Seed)
	} else if s.o.Seed != nil {
		r.Seed = s.o.Seed()
	}
	out := make([]infer.Request, n)
	for i := range out {
		out[i] = r
		out[i].Row = uint64(i)
	}
	return out, nil
}

// conversation is what the request's messages and tools are for the template. The order of roles is what LLaMA-Factory's server takes; results of
// several calls, which stand one after another, are one message.
func (q *chatRequest) conversation(t *chat.Template) (c infer.Conversation, e *apiError) {
	list := q.Messages
	if len(list) == 0 || len(list) > maxMessages {
		return c, bad("messages", "there are %d messages, expected 1 to %d", len(list), maxMessages)
	}
	if list[0].Role == "system" || list[0].Role == "developer" {
		c.System, list = string(list[0].Content), list[1:]
	}
	for i, m := range list {
		x := chat.Message{Content: string(m.Content)}
		switch m.Role {
		case "user":
			x.Role = chat.RoleUser
		case "tool", "function":
			x.Role = chat.RoleObservation
			if n := len(c.Messages); i > 0 && n > 0 && c.Messages[n-1].Role == chat.RoleObservation {
				c.Messages[n-1].Content += "\n" + x.Content
				continue
			}
		case "assistant":
			x.Role = chat.RoleAssistant
			if len(m.ToolCalls) > 0 {
				x.Role, x.Content = chat.RoleFunction, writtenCalls(t, m)
			}
		default:
			return c, bad("messages", "message %d has the role %q: roles are system (the first alone), user, assistant and tool", i+1, m.Role)
		}
		asks := x.Role == chat.RoleUser || x.Role == chat.RoleObservation
		if asks != (len(c.Messages)%2 == 0) {
			return c, bad("messages", "message %d (%s) is out of turn: questions (user, tool) and answers (assistant) take turns", i+1, m.Role)
		}
		c.Messages = append(c.Messages, x)
	}
	if len(c.Messages)%2 == 0 {
		return c, bad("messages", "the last message has to be a user's, or a tool's")
	}
	c.Tools, e = q.tools()
	return c, e
}

// writtenCalls is the content of a message that calls tools: its text and the calls as JSON.
func writtenCalls(t *chat.Template, m message) string {
	calls := make([]any, len(m.ToolCalls))
	for i, c := range m.ToolCalls {
		var args any = c.Function.Arguments
		if v, err := pyjson.Parse(c.Function.Arguments); err == nil {
			args = v // as the model was taught, not text that holds JSON
		}
		calls[i] = pyjson.NewObject("name", c.Function.Name, "arguments", args)
	}
	s := pyjson.Dumps(calls)
	if m.Content != "" && t.Class != chat.ClassLlama2 && t.ToolCallWords[0] != "" {
		s = string(m.Content) + t.ToolCallWords[0] + s + t.ToolCallWords[1]
	}
	return s
}

// tools are the functions as JSON, "" for none.
func (q *chatRequest) tools() (string, *apiError) {
	switch choice := string(q.ToolChoice); {
	case choice == `"none"`:
		return "", nil
	case choice != "" && choice != "null" && choice != `"auto"`:
		e := bad("tool_choice", "tool_choice is %s: only auto and none are supported, the model decides whether it calls", choice)
		e.Code = optional("unsupported_parameter")
		return "", e
	case len(q.Tools) == 0:
		return "", nil
	case len(q.Tools) > maxTools:
		return "", bad("tools", "%d tools are more than %d", len(q.Tools), maxTools)
	}
	list := make([]any, len(q.Tools))
	for i, t := range q.Tools {
		at := fmt.Sprintf("tools[%d]", i)
		if t.Type != "function" || t.Function.Name == "" {
			return "", bad(at, "a tool has to be a function with a name")
		}
		var params any = pyjson.NewObject("type", "object", "properties", &pyjson.Object{})
		if len(t.Function.Parameters) > 0 && string(t.Function.Parameters) != "null" {
			v, err := pyjson.Parse(string(t.Function.Parameters))
			if _, ok := v.(*pyjson.Object); err != nil || !ok {
				return "", bad(at+".function.parameters", "is no JSON schema of an object")
			}
			params = v
		}
		list[i] = pyjson.NewObject("name", t.Function.Name, "description", t.Function.Description, "parameters", params)
	}
	return pyjson.Dumps(list), nil
}
