package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

var errEOF = io.EOF

// record checks and converts one row.
func (s *Set) record(c *Config, place string, o *pyjson.Object) *Record {
	rec := &Record{}
	rec.File, rec.Row = splitPlace(place)
	wrong := func(key, format string, args ...any) {
		s.wrong(Problem{rec.File, rec.Row, key, fmt.Sprintf(format, args...)})
	}
	before := s.Wrong
	s.columns(o, wrong)
	if c.Label != "" {
		rec.Plain.Label = s.label(o, c.Label, wrong)
	}
	for _, a := range c.Annotators {
		v, _ := o.Value(a).(string)
		rec.Annotations = append(rec.Annotations, strings.TrimSpace(v))
	}
	if s.Wrong == before {
		s.convert(o, rec, wrong)
	}
	return rec
}

// label is a class as text.
func (s *Set) label(o *pyjson.Object, key string, wrong func(key, format string, args ...any)) string {
	v, ok := o.Get(key)
	if !ok {
		wrong(key, "there is no such column%s", near(key, o.Keys()))
		return ""
	}
	text, ok := v.(string)
	if !ok && v != nil {
		text = pyjson.Dumps(v)
	}
	if strings.TrimSpace(text) == "" {
		wrong(key, "is empty")
	}
	return text
}

func near(key string, names []string) string {
	if n := schemas.Nearest(key, names); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return fmt.Sprintf(" (there are %s)", listed(names))
}

// columns checks that the columns of the format are there and hold what they should.
func (s *Set) columns(o *pyjson.Object, wrong func(key, format string, args ...any)) {
	col := s.Attr.Columns
	isText := func(role string, required bool) {
		key := col[role]
		if key == "" {
			if required {
				wrong("", "no column is known for %s; the row has %s", role, listed(o.Keys()))
			}
			return
		}
		v, ok := o.Get(key)
		switch x := v.(type) {
		case string:
			if required && strings.TrimSpace(x) == "" {
				wrong(key, "is empty")
			}
		case nil:
			if required {
				if ok {
					wrong(key, "is null")
				} else {
					wrong(key, "is missing%s", near(key, o.Keys()))
				}
			}
		default:
			wrong(key, "must be text, is %s", pyjson.Dumps(v)[:min(40, len(pyjson.Dumps(v)))])
		}
	}
	if s.Attr.Formatting == "alpaca" {
		isText("prompt", true)
		isText("query", false)
		isText("system", false)
		if !s.Attr.Ranking && col["kto_tag"] == "" && !s.Pretrain {
			isText("response", col["response"] != "")
		}
		if s.Attr.Ranking {
			isText("chosen", true)
			isText("rejected", true)
		}
		if h := col["history"]; h != "" {
			if v := o.Value(h); v != nil {
				if _, ok := v.([]any); !ok {
					wrong(h, "must be a list of pairs")
				}
			}
		}
		return
	}
	key := col["messages"]
	v, ok := o.Get(key)
	list, isList := v.([]any)
	switch {
	case !ok:
		wrong(key, "is missing%s", near(key, o.Keys()))
	case !isList:
		wrong(key, "must be a list of messages")
	case len(list) == 0:
		wrong(key, "is empty")
	}
	for i, m := range list {
		s.message(fmt.Sprintf("%s[%d]", key, i), m, wrong)
	}
}

// message checks one turn.
func (s *Set) message(at string, m any, wrong func(key, format string, args ...any)) {
	o, ok := m.(*pyjson.Object)
	if !ok {
		wrong(at, "must be an object with role and content")
		return
	}
	t := s.Attr.Tags
	role, ok := o.Value(t["role_tag"]).(string)
	if !ok {
		wrong(at+"."+t["role_tag"], "is missing or no text")
		return
	}
	known := []string{t["user_tag"], t["assistant_tag"], t["observation_tag"], t["function_tag"], t["system_tag"]}
	found := false
	for _, k := range known {
		found = found || k != "" && k == role
	}
	if !found {
		wrong(at+"."+t["role_tag"], "role %q is unknown%s", role, near(role, known))
	}
	content, has := o.Get(t["content_tag"])
	text, isText := content.(string)
	switch {
	case !has:
		wrong(at+"."+t["content_tag"], "is missing")
	case isText && strings.TrimSpace(text) == "" && role == t["assistant_tag"]:
		wrong(at+"."+t["content_tag"], "the answer is empty")
	}
}

// convert makes the conversation and the plain texts.
func (s *Set) convert(o *pyjson.Object, rec *Record, wrong func(key, format string, args ...any)) {
	key := s.Attr.Columns["messages"]
	if s.Attr.Formatting == "alpaca" {
		key = s.Attr.Columns["prompt"]
	}
	r, err := align.Convert(o, &s.Attr)
	if err != nil {
		info := schemas.AsErrorInfo(err)
		if info.Place != "" {
			key = info.Place
		}
		wrong(key, "%s", info.Message)
		return
	}
	if r.Broken != "" {
		wrong(key, "%s", r.Broken)
		return
	}
	x, err := r.Example()
	if err != nil {
		wrong(key, "%s", schemas.AsErrorInfo(err).Message)
		return
	}
	if x.Media != "" {
		wrong(s.Attr.Columns[x.Media], "the row has %s, models here take text only", x.Media)
		return
	}
	if s.Attr.Columns["kto_tag"] != "" && len(x.Response) == 2 {
		rec.Judged = "good"
		if x.Response[0].Content == "" {
			rec.Judged = "bad"
			x.Response = x.Response[1:]
		}
		x.Response = x.Response[:1] // the other one is empty
	}
	if rec.Plain.Label != "" && len(x.Response) == 0 && x.Prompted() {
		x.Response = []chat.Message{{Role: chat.RoleAssistant, Content: rec.Plain.Label}}
	}
	rec.Example = *x
	rec.Usable = x.Supervised() || x.Pairs() || s.Pretrain && x.Prompted()
	var users, answers []string
	for i, m := range x.Prompt {
		if i%2 == 0 {
			users = append(users, m.Content)
		} else {
			answers = append(answers, m.Content)
		}
	}
	for _, m := range x.Response {
		answers = append(answers, m.Content)
	}
	rec.Plain = data.Row{Index: s.Read - 1, Label: rec.Plain.Label, System: x.System, Prompt: strings.Join(users, "\n"), Response: strings.Join(answers, "\n")}
}
