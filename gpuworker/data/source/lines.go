package source

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// lines cuts a stream at line feeds and skips what is longer than the limit.
type lines struct {
	name  string
	r     *bufio.Reader
	limit int
	line  int64
	buf   []byte
	// universal also ends lines at carriage returns, as Python's text mode does; rest is what was read beyond one.
	universal bool
	rest      []byte
	hasRest   bool
	restEnds  bool // rest ended with a line feed
}

// next returns a line without its end; long says that it was cut at the limit. The slice is valid until the next call.
func (l *lines) next() (line []byte, long bool, err error) {
	if l.hasRest {
		return l.carriage(l.rest, l.restEnds, false)
	}
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if room := l.limit - len(l.buf); len(part) > room {
			if !errors.Is(err, bufio.ErrBufferFull) && len(part)-room == 1 && part[len(part)-1] == '\n' {
				room++
			} else {
				long = true
			}
			part = part[:min(len(part), max(0, room))]
		}
		l.buf = append(l.buf, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(l.buf) == 0) {
			return nil, false, err
		}
		break
	}
	line, ended := bytes.CutSuffix(l.buf, []byte("\n"))
	if long {
		l.line++
		return line, true, nil
	}
	if l.universal {
		return l.carriage(line, ended, true)
	}
	l.line++
	return bytes.TrimSuffix(line, []byte("\r")), false, nil
}

// carriage cuts at the first carriage return; "\r\n" is one end.
func (l *lines) carriage(line []byte, ended, fresh bool) ([]byte, bool, error) {
	l.line++
	l.hasRest = false
	i := bytes.IndexByte(line, '\r')
	if i < 0 {
		return line, false, nil
	}
	rest := line[i+1:]
	if len(rest) > 0 {
		if fresh {
			rest = bytes.Clone(rest)
		}
		l.rest, l.hasRest, l.restEnds = rest, true, ended
	}
	return line[:i], false, nil
}

// jsonLines reads one JSON object a line.
type jsonLines struct {
	l       lines
	limits  Limits
	decoded bool
	check   rowChecker
}

// Next implements Reader.
func (j *jsonLines) Next(ctx context.Context) (Row, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Row{}, err
		}
		line, long, err := j.l.next()
		if err != nil {
			return Row{}, err
		}
		place := placeOf(j.l.name, j.l.line)
		if long {
			return Row{}, badRow(place, line, "the line is longer than %d bytes", j.limits.RowBytes)
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if why := textProblem(line, j.decoded); why != "" {
			return Row{}, badRow(place, line, "%s", why)
		}
		if why := j.check.object(line); why != "" {
			return Row{}, badRow(place, line, "%s", why)
		}
		return Row{Place: place, Raw: bytes.Clone(line)}, nil
	}
}

// Close implements Reader.
func (j *jsonLines) Close() error { return nil }

// rowChecker checks that a text is one JSON object: syntax, duplicate keys at any depth, depth. texts takes a JSON text, too.
type rowChecker struct {
	depth int
	texts bool
	r     bytes.Reader
	d     jsontext.Decoder
}

// object returns what is wrong, "" when nothing is.
func (c *rowChecker) object(b []byte) string {
	c.r.Reset(b)
	c.d.Reset(&c.r)
	if k := c.d.PeekKind(); k != '{' && (k != '"' || !c.texts) {
		if err := firstError(&c.d); err != nil {
			return "broken JSON: " + syntaxText(err)
		}
		return "is no JSON object, but " + kindName(c.d.PeekKind())
	}
	for {
		_, err := c.d.ReadToken()
		if err != nil {
			return "broken JSON: " + syntaxText(err)
		}
		if c.d.StackDepth() > c.depth {
			return "is nested deeper than " + itoa(c.depth) + " levels"
		}
		if c.d.StackDepth() == 0 {
			break
		}
	}
	if _, err := c.d.ReadToken(); !errors.Is(err, io.EOF) {
		return "broken JSON: there is more after the object"
	}
	return ""
}

func firstError(d *jsontext.Decoder) error {
	if d.PeekKind() != 0 {
		return nil
	}
	_, err := d.ReadToken()
	return err
}

// syntaxText is the library's message without its package name.
func syntaxText(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		var s *jsontext.SyntacticError
		if errors.As(err, &s) {
			return "the key " + s.JSONPointer.LastToken() + " appears twice"
		}
	}
	return string(bytes.TrimPrefix([]byte(err.Error()), []byte("jsontext: ")))
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '[':
		return "an array"
	case '"':
		return "a text"
	case '0':
		return "a number"
	case 't', 'f':
		return "a truth value"
	case 'n':
		return "null"
	}
	return "something else"
}

// textLines reads plain text, one row {"text": line} a line, empty lines included (as Hugging Face's text loader does).
type textLines struct {
	l       lines
	limits  Limits
	decoded bool
}

// Next implements Reader.
func (t *textLines) Next(ctx context.Context) (Row, error) {
	if err := ctx.Err(); err != nil {
		return Row{}, err
	}
	line, long, err := t.l.next()
	if err != nil {
		return Row{}, err
	}
	place := placeOf(t.l.name, t.l.line)
	if long {
		return Row{}, badRow(place, line, "the line is longer than %d bytes", t.limits.RowBytes)
	}
	if why := textProblem(line, t.decoded); why != "" {
		return Row{}, badRow(place, line, "%s", why)
	}
	raw, err := encodeObject([]string{"text"}, []any{string(line)})
	if err != nil {
		return Row{}, badRow(place, line, "%v", err)
	}
	return Row{Place: place, Raw: raw}, nil
}

// Close implements Reader.
func (t *textLines) Close() error { return nil }

// encodeObject writes an object with its keys in order. Values are anything that JSON has.
func encodeObject(keys []string, values []any) (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encodeValue(&b, k); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := encodeValue(&b, values[i]); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func encodeValue(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's line feed
	return nil
}
