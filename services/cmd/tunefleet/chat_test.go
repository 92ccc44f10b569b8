package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunefleet/tunefleet/gpuworker/infer/infertest"
)

// piped runs a command line with a standard input.
func piped(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// A script pipes questions: one line an answer, or one object.
func TestChatAnswersLineByLine(t *testing.T) {
	t.Parallel()
	dir := infertest.Folder(t, nil)
	over := []string{"template=tunefleet", "max_new_tokens=9", "do_sample=false"}
	r := piped(t, "who?\n\nand now?\n/clear\nwho?\n", append([]string{"chat", dir, "--json", "-q"}, over...)...)
	r.want(t, 0)
	var got []reply
	for line := range strings.Lines(r.out) {
		var x reply
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		got = append(got, x)
	}
	if len(got) != 3 || got[0].Answer == "" || got[0].Answer != got[2].Answer || got[0].Question != "who?" {
		t.Fatalf("answers %+v", got)
	}
	if a, b := got[0], got[1]; b.CachedTokens < a.PromptTokens || b.PromptTokens <= a.PromptTokens+a.CompletionTokens || b.CompletionTokens != 9 || b.FinishReason != "length" || a.FinishReason != "stop" || a.TokensPerSecond <= 0 {
		t.Errorf("figures %+v, %+v", a, b)
	}
	plain := piped(t, "who?\nand now?\n", append([]string{"chat", dir, "-q"}, over...)...)
	plain.want(t, 0)
	want := strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r").Replace(got[0].Answer) + "\n"
	if !strings.HasPrefix(plain.out, want) || strings.Count(plain.out, "\n") != 2 || plain.err != "" {
		t.Errorf("plain %q, want first %q; said %q", plain.out, want, plain.err)
	}
	apart := piped(t, "who?\nwho?\n", append([]string{"chat", dir, "--separate", "-q"}, over...)...)
	if apart.want(t, 0); apart.out != want+want {
		t.Errorf("separate conversations: %q", apart.out)
	}
}

// The YAML of llamafactory-cli chat is read with its keys, and what makes no sense is told with its place.
func TestChatReadsInferenceYAML(t *testing.T) {
	t.Parallel()
	dir := infertest.Folder(t, nil)
	file := filepath.Join(t.TempDir(), "chat.yaml")
	write := func(s string) {
		if err := os.WriteFile(file, []byte("model_name_or_path: "+dir+"\ntemplate: tunefleet\ninfer_backend: huggingface\ntrust_remote_code: true\n"+s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("max_new_tokens: 5\ninfer_dtype: float32\ndo_sample: false\ndefault_system: be brief\n")
	yes := piped(t, "who?\n", "chat", file, "--json")
	yes.want(t, 0, `"completion_tokens":5`, "in fp32", "template tunefleet")
	other := piped(t, "who?\n", "chat", file, "--json", "default_system=be long and wide", "quantization_bit=8")
	other.want(t, 0, `"completion_tokens":5`)
	if yes.out == other.out {
		t.Errorf("the system text changes nothing: %s", yes.out)
	}
	for text, want := range map[string]string{"temprature: 1\n": "temperature", "do_train: true\n": "tunefleet train", "num_beams: 4\n": "beam search", "infer_dtype: float8\n": "infer_dtype",
		"temperature: -1\n": "temperature", "adapter_name_or_path: nowhere\n": "no such folder", "quantization_bit: 3\n": "quantization_bit"} {
		write(text)
		r := piped(t, "who?\n", "chat", file)
		if r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%q: code %d, %s", text, r.code, r.err)
		}
	}
	if r := piped(t, "", "chat"); r.code != 2 {
		t.Errorf("without a model: %d %s", r.code, r.err)
	}
	write("")
	if r := piped(t, "who?\n", "chat", file, "--context", "3"); r.code == 0 || !strings.Contains(r.err, "--context") {
		t.Errorf("no room for the prompt: %d %s", r.code, r.err)
	}
}

// pty is a pseudo-terminal: what is written to the master is typed.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// screen collects what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func (s *screen) read(r io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		s.mu.Lock()
		s.text.Write(b[:n])
		s.mu.Unlock()
		select {
		case s.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// after waits until the text behind from holds want, and gives where it ends.
func (s *screen) after(ctx context.Context, t *testing.T, from int, want string) int {
	t.Helper()
	for {
		s.mu.Lock()
		all := s.text.String()
		s.mu.Unlock()
		if i := strings.Index(all[from:], want); i >= 0 {
			return from + i + len(want)
		}
		select {
		case <-s.news:
		case <-ctx.Done():
			t.Fatalf("%q does not appear; the terminal shows\n%s", want, all[from:])
		}
	}
}

// In a terminal answers stream, lines go on, commands work, and Ctrl-C stops an answer and not the program.
func TestChatInATerminal(t *testing.T) {
	t.Parallel()
	dir := infertest.Endless(t, map[string]any{"max_position_embeddings": 1 << 17})
	master, slave := pty(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "chat", dir, "template=tunefleet", "max_new_tokens=100000", "do_sample=false")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	s := &screen{news: make(chan struct{}, 1)}
	go s.read(master)
	typed := func(text string) {
		if _, err := io.WriteString(master, text); err != nil {
			t.Fatal(err)
		}
	}
	at := s.after(ctx, t, 0, "> ")
	typed("who are\\\r")
	at = s.after(ctx, t, at, ". ")
	typed("you?\r")
	at = s.after(ctx, t, at, "you?\r\n")
	// The answer has begun: its words are there while it goes on.
	at = s.after(ctx, t, at, " ")
	typed("\x03")
	at = s.after(ctx, t, at, "[stopped]")
	at = s.after(ctx, t, at, "> ")
	typed("/clear\r")
	at = s.after(ctx, t, at, "begins anew")
	at = s.after(ctx, t, at, "> ")
	typed("/nothing\r")
	at = s.after(ctx, t, at, "is no command")
	at = s.after(ctx, t, at, "> ")
	typed("half a line\x03")
	at = s.after(ctx, t, at, "to leave)")
	at = s.after(ctx, t, at, "> ")
	typed("/exit\r")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	_ = at
}

func TestShownHasNoControlCharacters(t *testing.T) {
	t.Parallel()
	if got := shown("a\x1b[2Jb\tc\nd\r\x07\n"); got != "a\uFFFD[2Jb\tc\nd\uFFFD\uFFFD\n" {
		t.Errorf("shown %q", got)
	}
}
