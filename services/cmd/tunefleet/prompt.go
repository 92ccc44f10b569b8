package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/term"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxQuestion bounds a question.
const maxQuestion = 1 << 20

// errInterrupted says that Ctrl-C was pressed at the prompt.
var errInterrupted = errors.New("interrupted")

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// lines reads lines of a stream, with a context: a read that nobody waits for any more stays behind.
type lines struct {
	ch  chan string
	err error
}

func newLines(r io.Reader) *lines {
	l := &lines{ch: make(chan string)}
	go func() {
		defer close(l.ch)
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxQuestion)
		for s.Scan() {
			l.ch <- s.Text()
		}
		if l.err = s.Err(); errors.Is(l.err, bufio.ErrTooLong) {
			l.err = schemas.Errorf(schemas.CodeData, "standard input", "a line has more than %d bytes", maxQuestion)
		}
	}()
	return l
}

func (l *lines) next(ctx context.Context) (string, error) {
	select {
	case s, ok := <-l.ch:
		switch {
		case ok:
			return s, nil
		case l.err != nil:
			return "", l.err
		}
		return "", io.EOF
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// prompt reads questions from a terminal, with a line editor and a history.
type prompt struct {
	in     *os.File
	out    io.Writer
	editor *term.Terminal
	keys   *keys
}

func newPrompt(in *os.File, out io.Writer) *prompt {
	p := &prompt{in: in, out: out, keys: &keys{r: in}}
	p.renew(nil)
	return p
}

// renew makes a new editor with the history of the old one.
func (p *prompt) renew(old *term.Terminal) {
	p.editor = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{p.keys, p.out}, "")
	if old != nil {
		p.editor.History = old.History
	}
}

// keys notes Ctrl-C, which the editor does not tell from the end of input.
type keys struct {
	r     io.Reader
	ctrlC atomic.Bool
}

// Read implements io.Reader, a byte at a time, so that nothing behind a line is read before an answer is over.
func (k *keys) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := k.r.Read(b[:1])
	if n == 1 && b[0] == 3 {
		k.ctrlC.Store(true)
	}
	return n, err
}

// question reads a question: a line; lines that end in a backslash, and the next; what stands between triple quotes; what is pasted at once.
func (p *prompt) question(ctx context.Context) (string, error) {
	state, err := term.MakeRaw(int(p.in.Fd()))
	if err != nil {
		return "", schemas.Errorf(schemas.CodeInternal, "terminal", "cannot be read key by key: %v", err)
	}
	// The terminal is as it was, also when the program is told to end while it waits for a key.
	undo := context.AfterFunc(ctx, func() { _ = term.Restore(int(p.in.Fd()), state) })
	defer func() {
		undo()
		p.editor.SetBracketedPasteMode(false)
		_ = term.Restore(int(p.in.Fd()), state)
	}()
	if w, h, err := term.GetSize(int(p.in.Fd())); err == nil && w > 0 {
		_ = p.editor.SetSize(w, h) // a line is wrapped at another place, at worst
	}
	p.editor.SetBracketedPasteMode(true)
	var all []string
	quoted := false
	size := 0
	for mark := "> "; ; mark = ". " {
		p.editor.SetPrompt(mark)
		line, err := p.line(ctx)
		pasted := errors.Is(err, term.ErrPasteIndicator)
		if err != nil && !pasted {
			return "", err
		}
		if size += len(line); size > maxQuestion {
			return "", schemas.Errorf(schemas.CodeData, "question", "has more than %d bytes", maxQuestion)
		}
		text := strings.TrimSpace(line)
		switch {
		case !quoted && len(all) == 0 && strings.HasPrefix(text, `"""`):
			quoted = true
			line = strings.TrimPrefix(text, `"""`)
			if body, ok := strings.CutSuffix(line, `"""`); ok {
				return body, nil
			}
			if line != "" {
				all = append(all, line)
			}
			continue
		case quoted:
			if body, ok := strings.CutSuffix(text, `"""`); ok {
				if body != "" {
					all = append(all, body)
				}
				return strings.Join(all, "\n"), nil
			}
			all = append(all, line)
			continue
		}
		body, more := strings.CutSuffix(line, "\\")
		all = append(all, body)
		if !more && !pasted {
			return strings.Join(all, "\n"), nil
		}
	}
}

// line reads a line from the editor. It goes on waiting for a key when ctx has ended: the program is over then.
func (p *prompt) line(ctx context.Context) (string, error) {
	type read struct {
		line string
		err  error
	}
	ch := make(chan read, 1)
	go func() {
		line, err := p.editor.ReadLine()
		ch <- read{line, err}
	}()
	select {
	case r := <-ch:
		if isEOF(r.err) && p.keys.ctrlC.Swap(false) {
			p.renew(p.editor)
			_, _ = io.WriteString(p.out, "\r\n")
			return "", errInterrupted
		}
		if isEOF(r.err) {
			_, _ = io.WriteString(p.out, "\r\n")
		}
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
