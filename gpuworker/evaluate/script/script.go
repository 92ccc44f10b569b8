// Package script runs a user's own scoring command on predictions: JSONL on its standard input, one JSON object of numbers on its standard
// output. The command runs in a process group of its own, in an empty folder, with a scrubbed environment and limits on time, memory, files
// and output. Only commands that the worker's operator listed are run at all; that list is what protects a worker, for the limits keep a
// script from harming the machine by accident and do not stop a hostile one from reading what the worker's user may read.
package script

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// Variable is the environment variable of a worker that lists the commands that may run, one a line or separated by semicolons. An entry
// allows every command that begins with its words: "python3 /opt/score.py" allows that script with any arguments.
const Variable = "TUNEFLEET_EVAL_COMMANDS"

// Limits of a script.
const (
	DefaultTimeout = 5 * time.Minute
	maxOutput      = 1 << 20
	maxErrors      = 4 << 10
	maxMetrics     = 256
	memoryKiB      = 8 << 20
	openFiles      = 256
	fileBlocks     = 2 << 20 // of 512 bytes
)

var metricName = regexp.MustCompile(`^[A-Za-z0-9_.@/-]{1,64}$`)

// Split cuts a command into words: blanks separate, single and double quotes hold together, a backslash takes the next character as it is.
// No shell reads the command: there are no variables, patterns or pipes.
func Split(command string) ([]string, error) {
	var out []string
	var word strings.Builder
	in, quote, escaped := false, rune(0), false
	for _, c := range command {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				out = append(out, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 || escaped {
		return nil, schemas.Errorf(schemas.CodeInvalid, "command", "%q ends within a quote", command)
	}
	if in {
		out = append(out, word.String())
	}
	if len(out) == 0 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "command", "is empty")
	}
	return out, nil
}

// Allowed reports whether an operator's list allows a command.
func Allowed(list string, argv []string) bool {
	for _, entry := range entries(list) {
		want, err := Split(entry)
		if err == nil && len(argv) >= len(want) && slices.Equal(argv[:len(want)], want) {
			return true
		}
	}
	return false
}

// entries cuts a list at line ends and semicolons that are not quoted.
func entries(list string) []string {
	var out []string
	quote, escaped, start := rune(0), false, 0
	for i, c := range list {
		switch {
		case escaped:
			escaped = false
		case c == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && (c == ';' || c == '\n'):
			out, start = append(out, list[start:i]), i+1
		}
	}
	return append(out, list[start:])
}

// Run runs one script. rows are written to its standard input, one JSON value a line; dir is the folder in which its own is made; allowed is
// the operator's list. Errors: CodeUnsupported when the command is not allowed, CodeInvalid for what it is or prints, with the end of what it
// wrote to its standard error.
func Run[T any](ctx context.Context, s schemas.EvalScript, rows []T, dir, allowed string) (map[string]float64, error) {
	place := "eval.scripts." + s.Name
	argv, err := Split(s.Command)
	if err != nil {
		return nil, fmt.Errorf("cannot read the command of %s: %w", place, err)
	}
	if !Allowed(allowed, argv) {
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "this worker's operator does not allow the command %q", s.Command).
			WithHint("the operator lists commands in %s of the workers", Variable)
	}
	home, err := os.MkdirTemp(dir, "script-*")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for %s: %w", place, err)
	}
	defer os.RemoveAll(home)
	timeout := time.Duration(s.Timeout) * time.Second
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, stderr, err := execute(ctx, argv, home, timeout, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		for i := range rows {
			if err := e.Encode(&rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "did not end within %s", timeout)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "failed: %v%s", err, stderr)
	}
	m, err := parse(out)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "printed no metrics: %v%s", err, stderr)
	}
	return m, nil
}

// execute starts the command behind a shell that sets the limits and then becomes the command, so that they hold from its first instruction.
func execute(ctx context.Context, argv []string, home string, timeout time.Duration, feed func(io.Writer) error) (out []byte, stderr string, err error) {
	limits := fmt.Sprintf(`ulimit -c 0; ulimit -t %d; ulimit -v %d; ulimit -n %d; ulimit -f %d; exec "$@"`, int(timeout.Seconds())+1, memoryKiB, openFiles, fileBlocks)
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", limits, "sh"}, argv...)...)
	cmd.Dir = home
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home, "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What the command started goes with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	stdout, errs := &capped{most: maxOutput}, &capped{most: maxErrors, tail: true}
	cmd.Stdout, cmd.Stderr = stdout, errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", fmt.Errorf("cannot make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("cannot start: %w", err)
	}
	fed := make(chan error, 1)
	go func() {
		err := feed(stdin)
		fed <- errors.Join(err, stdin.Close())
	}()
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind in its group; mostly there is nothing
	ferr := <-fed
	if text := strings.TrimSpace(errs.buf.String()); text != "" {
		stderr = "; it said: " + text
	}
	if err == nil && ferr != nil && !errors.Is(ferr, syscall.EPIPE) && !errors.Is(ferr, os.ErrClosed) {
		err = ferr // a script may stop reading early, that is no error
	}
	if err == nil && stdout.over {
		err = fmt.Errorf("it printed more than %d bytes", maxOutput)
	}
	return stdout.buf.Bytes(), stderr, err
}

// capped keeps the first, or with tail the last, bytes that are written to it. The buffer is no embedded one: its ReadFrom would pass by.
type capped struct {
	buf  bytes.Buffer
	most int
	tail bool
	over bool
}

// Write implements io.Writer; it never fails, so that the writer goes on.
func (c *capped) Write(p []byte) (int, error) {
	n := len(p)
	if c.tail {
		c.buf.Write(p)
		if extra := c.buf.Len() - c.most; extra > 0 {
			c.buf.Next(extra)
		}
		return n, nil
	}
	room := c.most - c.buf.Len()
	if len(p) > room {
		c.over = true
		p = p[:room]
	}
	c.buf.Write(p)
	return n, nil
}

// parse reads one JSON object of finite numbers.
func parse(out []byte) (map[string]float64, error) {
	d := json.NewDecoder(bytes.NewReader(out))
	var m map[string]float64
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("must be one JSON object of numbers: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	if len(m) == 0 || len(m) > maxMetrics {
		return nil, fmt.Errorf("has %d numbers, must have 1 to %d", len(m), maxMetrics)
	}
	for k, v := range m {
		if !metricName.MatchString(k) {
			return nil, fmt.Errorf("%q is no name of a metric", k)
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%s is no finite number", k)
		}
	}
	return m, nil
}
