package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/infer"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

func (a *app) chatCommand() *cobra.Command {
	var m modelFlags
	var separate bool
	c := &cobra.Command{
		Use: "chat MODEL [key=value ...]", Short: "Chat with a model in the terminal",
		Long: "Chat answers with a model: a folder of Hugging Face's form, a PEFT folder over its base, a model's name, LLaMA-Factory's YAML for inference, or what\n" +
			"a train stage of a run has made (its merged weights are fetched once). key=value are LLaMA-Factory's keys: temperature, top_p, top_k,\n" +
			"max_new_tokens, repetition_penalty, do_sample, template, default_system, enable_thinking, infer_dtype, quantization_bit ...\n\n" +
			"In a terminal: /clear forgets the conversation, /system TEXT sets the system text, /exit leaves; a line that ends in a backslash goes on, and\n" +
			"so does what begins with \"\"\" up to the next \"\"\". Ctrl-C stops an answer.\n\n" +
			"Without a terminal every line of standard input is a question of one conversation (with --separate of its own), and its answer one line of\n" +
			"standard output, in which a line break is written as \\n; with --json one object.",
		Example: "  tunefleet chat ./qwen2.5-0.5b-instruct\n  tunefleet chat ./output temperature=0.2          # a PEFT folder\n" +
			"  tunefleet chat examples/inference/llama3_lora_sft.yaml\n  tunefleet chat RUN\n" +
			"  tunefleet chat ./model do_sample=false --separate --json < questions.txt > answers.jsonl",
		Args: needsModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			inf, err := a.inference(cmd, &m, args)
			if err != nil {
				return err
			}
			if inf.Rewards {
				return schemas.Errorf(schemas.CodeUsage, "stage", "a reward model answers nothing").WithHint("tunefleet api serves its scores")
			}
			return a.chat(cmd.Context(), inf, &m, separate)
		},
	}
	m.add(c)
	c.Flags().BoolVar(&separate, "separate", false, "every line of standard input is a conversation of its own")
	return c
}

// chat opens the model and talks.
func (a *app) chat(ctx context.Context, inf *config.Inference, m *modelFlags, separate bool) (err error) {
	model, err := a.openModel(ctx, inf, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	e, err := infer.NewEngine(model, infer.EngineOptions{Context: m.context})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	t := &talk{a: a, e: e, inf: inf, seed: seed(inf), separate: separate}
	if in, ok := a.in.(*os.File); ok && !a.json && term.IsTerminal(int(in.Fd())) {
		return t.terminal(ctx, in)
	}
	return t.lines(ctx)
}

// talk is one conversation, or several one after another.
type talk struct {
	a        *app
	e        *infer.Engine
	inf      *config.Inference
	messages []chat.Message
	system   string
	separate bool
	// seed and asked, the number of questions so far, decide the draws.
	seed, asked uint64
}

// answer asks a question and hands on the text as it comes. The conversation has both afterwards, also when ctx ends it early; not when the question
// cannot be asked.
func (t *talk) answer(ctx context.Context, question string, show func(string)) (*infer.Text, string, error) {
	if t.separate {
		t.messages = nil
	}
	messages := append(t.messages, chat.Message{Role: chat.RoleUser, Content: question})
	model := t.e.Model()
	prompt, err := model.Prompt(infer.Conversation{Messages: messages, System: t.system})
	if err != nil {
		return nil, "", err
	}
	g := t.inf.Generation
	r := infer.Request{Prompt: prompt, MaxNewTokens: g.MaxNewTokens, Stop: model.Encoder.StopIDs(), Sampling: sampling(t.inf), Seed: t.seed, Row: t.asked}
	t.asked++
	list, err := t.e.Submit(ctx, r)
	var long *infer.TooLongError
	if errors.As(err, &long) {
		return nil, "", schemas.Errorf(schemas.CodeData, "", "%v", err).WithHint("/clear forgets what was said; --context allows for more")
	}
	if err != nil {
		return nil, "", err
	}
	text := t.e.Text(list[0], infer.TextOptions{KeepSpecial: g.KeepSpecial})
	var b strings.Builder
	for {
		var s string
		// A question that was given up is told by the engine, with what there is of its answer.
		if s, err = text.NextText(context.WithoutCancel(ctx)); err != nil {
			break
		}
		b.WriteString(s)
		show(s)
	}
	t.messages = append(messages, chat.Message{Role: chat.RoleAssistant, Content: b.String()})
	if isEOF(err) {
		err = nil
	}
	return text, b.String(), err
}

// reply is an answer for machines.
type reply struct {
	Question string `json:"question"`
	Answer   string `json:"answer"`
	// FinishReason is stop or length.
	FinishReason string `json:"finish_reason"`
	// PromptTokens are those of the whole prompt, CachedTokens those of them that were not computed again.
	PromptTokens     int `json:"prompt_tokens"`
	CachedTokens     int `json:"cached_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	// SecondsToFirst is the wait for the first token, TokensPerSecond the speed after it.
	SecondsToFirst  float64 `json:"seconds_to_first_token"`
	TokensPerSecond float64 `json:"tokens_per_second"`
}

// command runs what begins with a slash; done says that the conversation is over. ok is false for what is no command.
func (t *talk) command(line string) (done, ok bool) {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "/exit", "/quit":
		return true, true
	case "/clear":
		t.messages = nil
		t.a.say("the conversation begins anew")
	case "/system":
		if t.system = rest; rest == "" {
			t.a.say("the system text is the template's again")
		} else {
			t.a.say("the system text is set")
		}
	case "/help":
		t.a.say("/clear forgets the conversation; /system TEXT sets the system text, without TEXT the template's; /exit leaves.\n" +
			"A line that ends in \\ goes on; \"\"\" begins and ends several lines. Ctrl-C stops an answer.")
	default:
		return false, false
	}
	return false, true
}

// lines answers standard input line by line.
func (t *talk) lines(ctx context.Context) error {
	a := t.a
	lines := newLines(a.in)
	for {
		line, err := lines.next(ctx)
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		if done, ok := t.command(line); done {
			return nil
		} else if ok {
			continue
		}
		escape := strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r")
		var broken error
		text, answer, err := t.answer(ctx, line, func(s string) {
			if !a.json && broken == nil {
				_, broken = fmt.Fprint(a.out, escape.Replace(s))
			}
		})
		if err != nil {
			return err
		}
		if a.json {
			s := text.Stats()
			broken = a.print(reply{line, answer, string(text.Reason()), s.Prompt, s.Reused, s.New, s.Wait.Seconds(), s.PerSecond()})
		} else if broken == nil {
			_, broken = fmt.Fprintln(a.out)
		}
		if broken != nil {
			return fmt.Errorf("cannot write the answer: %w", broken)
		}
	}
}

// terminal talks with a person. The first Ctrl-C during an answer stops it; SIGTERM ends the program.
func (t *talk) terminal(ctx context.Context, in *os.File) error {
	a := t.a
	// main's context ends with the first Ctrl-C, which here means something else.
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	r := newPrompt(in, a.err)
	a.say("type /help for help, /exit to leave")
	for ctx.Err() == nil {
		question, err := r.question(ctx)
		switch {
		case isEOF(err):
			return nil
		case errors.Is(err, errInterrupted):
			a.say("(/exit or Ctrl-D to leave)")
			continue
		case err != nil:
			return err
		}
		if strings.TrimSpace(question) == "" {
			continue
		}
		word := strings.TrimSpace(question)
		// The words of LLaMA-Factory's chat.
		if word == "exit" || word == "clear" {
			word = "/" + word
		}
		if done, ok := t.command(word); done {
			return nil
		} else if ok {
			continue
		}
		if strings.HasPrefix(word, "/") && !strings.ContainsAny(word, " \n") {
			a.say("%s is no command; /help lists them", word)
			continue
		}
		if err := t.show(ctx, question); err != nil {
			return err
		}
	}
	return schemas.Errorf(schemas.CodeInterrupted, "", "interrupted")
}

// show prints an answer as it comes; Ctrl-C stops it. What goes wrong with one question does not end the conversation.
func (t *talk) show(ctx context.Context, question string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	a := t.a
	var broken error
	text, _, err := t.answer(ctx, question, func(s string) {
		if broken == nil {
			_, broken = fmt.Fprint(a.out, shown(s))
		}
	})
	if text != nil && broken == nil {
		_, broken = fmt.Fprintln(a.out)
	}
	switch {
	case broken != nil:
		return fmt.Errorf("cannot write the answer: %w", broken)
	case errors.Is(err, context.Canceled):
		a.say("[stopped]")
	case err != nil:
		a.fail(err)
	default:
		s := text.Stats()
		note := ""
		if text.Reason() == infer.ReasonLength {
			note = "; cut off by max_new_tokens or the context"
		}
		a.say("[%d tokens, %.1f a second, the first after %.1f s; %d of %d of the prompt from the cache%s]", s.New, s.PerSecond(), s.Wait.Seconds(), s.Reused, s.Prompt, note)
	}
	return nil
}

// shown is text for a terminal: a model's control characters do not reach it.
func shown(s string) string {
	var b strings.Builder
	for part := range strings.SplitAfterSeq(s, "\n") {
		body, line := strings.CutSuffix(part, "\n")
		for k, cell := range strings.Split(body, "\t") {
			if k > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(printable(cell))
		}
		if line {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
