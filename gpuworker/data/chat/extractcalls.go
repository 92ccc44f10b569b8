package chat

import (
	"errors"
	"regexp"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// blank is what \s means within a class in Python's re, space is \s itself.
const (
	blank = `\s\x{1c}-\x{1f}\x{85}\p{Z}\v`
	space = `[` + blank + `]`
)

// whitespace are the characters that str.strip removes.
const whitespace = " \t\n\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

func trim(s string) string { return strings.Trim(s, whitespace) }

//nolint:gochecknoglobals // constant expressions
var (
	reAction    = regexp.MustCompile(`Action:` + space + `*([a-zA-Z0-9_]+)` + space + `*Action Input:` + space + `*`)
	reNext      = regexp.MustCompile(`^` + space + `*(?:Action:|$)`)
	reNextCall  = regexp.MustCompile(`^` + space + `*(?:<tool_call>|$)`)
	reGemma     = regexp.MustCompile(`(?s)<\|tool_call>call:([^{` + blank + `]+)\{(.*?)\}<tool_call\|>`)
	reGemmaText = regexp.MustCompile(`(?s)<\|"\|>(.*?)<\|"\|>`)
	reGemmaKey  = regexp.MustCompile(`(^|[{` + blank + `,])([A-Za-z_][A-Za-z0-9_]*)(` + space + `*:)`)
	reMiniMax1  = regexp.MustCompile(`(?s)<tool_calls>` + space + `*(.+?)` + space + `*</tool_calls>`)
	reMiniMax2  = regexp.MustCompile(`(?s)<minimax:tool_call>` + space + `*(.+?)` + space + `*</minimax:tool_call>`)
	reInvoke    = regexp.MustCompile(`(?s)<invoke name="(.*?)">(.*?)</invoke>`)
	reNamed     = regexp.MustCompile(`(?s)<parameter name="(.*?)">(.*?)</parameter>`)
	reParameter = regexp.MustCompile(`(?s)<parameter=(.*?)>(.*?)</parameter>`)
	reQwen35    = regexp.MustCompile(`(?s)<tool_call>` + space + `*<function=` + space + `*([^` + blank + `<>]+)` + space + `*(.*?)` + space + `*</function>` + space + `*</tool_call>`)
	reSeed      = regexp.MustCompile(`(?s)<seed:tool_call>` + space + `*<function=` + space + `*([^` + blank + `<]+)` + space + `*(.*?)` + space + `*</function>` + space + `*</seed:tool_call>`)
)

// call makes a call of a name and arguments.
func call(name, args any) Call {
	c := Call{Name: pyjson.Str(name), Arguments: dumps(args)}
	if _, ok := name.(string); !ok {
		c.OddName = dumps(name)
	}
	return c
}

func extractDefault(content string) []Call {
	var out []Call
	for at := 0; ; {
		m := reAction.FindStringSubmatchIndex(content[at:])
		if m == nil {
			break
		}
		start := at + m[1]
		if start == len(content) && start > 0 && strings.HasSuffix(content, "Action Input:") {
			break // at least one character must follow
		}
		end := start
		for end < len(content) {
			_, n := runeAt(content, end)
			if end += n; reNext.MatchString(content[end:]) {
				break
			}
		}
		name := content[at+m[2] : at+m[3]]
		input := strings.Trim(strings.Trim(trim(content[start:end]), `"`), "`")
		v, err := pyjson.Parse(input)
		if err != nil {
			return nil
		}
		out = append(out, call(name, v))
		at = end
	}
	return out
}

func extractGemma(content string) []Call {
	var out []Call
	for _, m := range reGemma.FindAllStringSubmatch(content, -1) {
		c := Call{Name: trim(m[1])}
		switch v := gemmaArguments(m[2]).(type) {
		case string:
			c.Arguments = v
		default:
			c.Arguments = dumps(v)
		}
		out = append(out, c)
	}
	return out
}

func gemmaArguments(s string) any {
	s = trim(s)
	if s == "" {
		return &pyjson.Object{}
	}
	norm := reGemmaText.ReplaceAllStringFunc("{"+s+"}", func(m string) string { return dumps(reGemmaText.FindStringSubmatch(m)[1]) })
	norm = reGemmaKey.ReplaceAllString(norm, `$1"$2"$3`)
	if v, err := pyjson.Parse(norm); err == nil {
		return v
	}
	if v, err := pyjson.Parse(s); err == nil {
		return v
	}
	return s
}

func extractGLM4(content string) []Call {
	name, input, ok := strings.Cut(content, "\n")
	if !ok {
		return nil
	}
	v, err := pyjson.Parse(trim(input))
	if err != nil {
		return nil
	}
	return []Call{call(name, v)}
}

// extractJSON reads a call or a list of calls that is the whole message.
func extractJSON(content, key string) []Call {
	v, err := pyjson.Parse(trim(content))
	if err != nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := []Call{}
	for _, x := range list {
		o := object(x, "a call")
		name, okn := o.Get("name")
		args, oka := o.Get(key)
		if !okn || !oka {
			return nil
		}
		out = append(out, call(name, args))
	}
	return out
}

func extractMiniMax1(content string) []Call {
	m := reMiniMax1.FindStringSubmatch(content)
	if m == nil {
		return nil
	}
	out := []Call{}
	for _, line := range strings.Split(m[1], "\n") {
		if line = trim(line); line == "" {
			continue
		}
		v, err := pyjson.Parse(line)
		if err != nil {
			continue
		}
		o := object(v, "a call")
		out = append(out, call(must(o, "name"), must(o, "arguments")))
	}
	return out
}

func extractMiniMax2(content string) []Call {
	m := reMiniMax2.FindStringSubmatch(content)
	if m == nil {
		return nil
	}
	out := []Call{}
	for _, x := range reInvoke.FindAllStringSubmatch(m[1], -1) {
		out = append(out, call(trim(x[1]), parameters(x[2], reNamed, false)))
	}
	return out
}

func extractXML(content string, re, param *regexp.Regexp, trimText bool) []Call {
	var out []Call
	for _, m := range re.FindAllStringSubmatch(content, -1) {
		out = append(out, call(trim(m[1]), parameters(trim(m[2]), param, trimText)))
	}
	return out
}

// parameters reads arguments: JSON where a value is JSON, else its text.
func parameters(block string, re *regexp.Regexp, trimText bool) *pyjson.Object {
	args := &pyjson.Object{}
	for _, m := range re.FindAllStringSubmatch(block, -1) {
		v, err := pyjson.Parse(trim(m[2]))
		if err != nil {
			v = m[2]
			if trimText {
				v = trim(m[2])
			}
		}
		args.Set(m[1], v)
	}
	return args
}

// extractQwen finds <tool_call>...</tool_call> that another one or the end of the message follows.
func extractQwen(content string) []Call {
	const open, end = "<tool_call>", "</tool_call>"
	var out []Call
	for at := 0; ; {
		i := strings.Index(content[at:], open)
		if i < 0 {
			return out
		}
		start := at + i + len(open)
		from, stop := start+1, -1 // at least one character lies between
		for from <= len(content) {
			k := strings.Index(content[min(from, len(content)):], end)
			if k < 0 {
				break
			}
			if reNextCall.MatchString(content[from+k+len(end):]) {
				stop = from + k
				break
			}
			from += k + 1
		}
		if stop < 0 {
			at += i + 1
			continue
		}
		v, err := pyjson.Parse(trim(content[start:stop]))
		if err != nil {
			return nil
		}
		if !contains(v, "name", "a call") || !contains(v, "arguments", "a call") {
			return nil
		}
		o := object(v, "a call")
		out = append(out, call(o.Value("name"), o.Value("arguments")))
		at = stop + len(end)
	}
}

// extractLFM reads calls that are written as Python writes them.
func extractLFM(content string) []Call {
	const open, end = "<|tool_call_start|>", "<|tool_call_end|>"
	_, rest, ok := strings.Cut(content, open)
	if !ok {
		return nil
	}
	expr, _, ok := strings.Cut(rest, end)
	if !ok {
		return nil
	}
	calls, err := parsePythonCalls(trim(expr))
	if errors.Is(err, errNoJSON) {
		fail("%v", err)
	}
	if err != nil {
		return nil
	}
	return calls
}
