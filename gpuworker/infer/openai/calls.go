package openai

import (
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
)

// opener is what a call begins with in a format of tools; "" for formats whose calls are the whole message.
func opener(format string) string {
	switch format {
	case "default":
		return "Action:"
	case "qwen", "qwen3_5", "glm4_moe", "ling":
		return "<tool_call>"
	case "gemma4":
		return "<|tool_call>"
	case "minimax1":
		return "<tool_calls>"
	case "minimax2":
		return "<minimax:tool_call>"
	case "seed_oss":
		return "<seed:tool_call>"
	case "lfm2":
		return "<|tool_call_start|>"
	}
	return ""
}

// splitter parts an answer into text that is shown as it comes and what may be calls, which waits for the end.
type splitter struct {
	t *chat.Template
	// mark is what calls begin with, all the text so far, of which shown bytes were handed on; held says that calls may have begun.
	mark  string
	all   strings.Builder
	shown int
	held  bool
}

func newSplitter(t *chat.Template) *splitter { return &splitter{t: t, mark: opener(t.ToolFormat)} }

// add takes a piece and gives what can be shown.
func (s *splitter) add(piece string) string {
	s.all.WriteString(piece)
	text := s.all.String()
	if s.held {
		return ""
	}
	if s.mark == "" {
		// The whole message is a call, as JSON, or in glm4's form a name, which nothing tells from other words.
		if body := strings.TrimSpace(text); body == "" || s.t.ToolFormat == "glm4" || body[0] == '{' || body[0] == '[' {
			s.held = body != ""
			return ""
		}
		return s.show(len(text))
	}
	if i := strings.Index(text[s.shown:], s.mark); i >= 0 {
		s.held = true
		return s.show(s.shown + i)
	}
	end := len(text)
	for n := min(len(s.mark)-1, end-s.shown); n > 0; n-- {
		if strings.HasSuffix(text, s.mark[:n]) {
			end -= n
			break
		}
	}
	return s.show(end)
}

func (s *splitter) show(end int) string {
	out := s.all.String()[s.shown:end]
	s.shown = end
	return out
}

// end gives the calls, or the rest of the text when there are none.
func (s *splitter) end() (rest string, calls []toolCall) {
	text := s.all.String()
	found, err := s.t.Extract(text)
	if err != nil || len(found) == 0 {
		return s.show(len(text)), nil
	}
	for i, c := range found {
		calls = append(calls, toolCall{Index: &i, ID: newID("call_"), Type: "function", Function: functionCall{c.Name, c.Arguments}})
	}
	return "", calls
}
