package infer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// defaultContext bounds prompt and answer of a model whose configuration names no number of positions.
const defaultContext = 1 << 15

// Options say which model is opened, and how.
type Options struct {
	// Folders are the model's files; the tokenizer lies in the base's folder.
	train.Folders
	// Template is the name of a chat template; "" is what the tokenizer's own says, or plain text when it has none.
	Template string
	// Chat changes the template. Its Today is the day of opening when it is zero.
	Chat chat.Options
	// DType is what is computed in: fp32, bf16, fp16; "" or "auto" is the model's own as far as the device multiplies it.
	DType string
	// Backend and Threads are the device's, see kernels.Options.
	Backend string
	Threads int
}

// Model is a model in the memory of a device with its tokenizer and template. One goroutine at a time may compute with it (an Engine does);
// its template and tokenizer are safe for concurrent use.
type Model struct {
	// Encoder is the tokenizer under the chat template.
	Encoder *chat.Encoder
	// DType is what it computes in, Why says where that comes from; Device is the device.
	DType, Why, Device string
	// Context is the most tokens of a prompt and its answer.
	Context int

	loaded *train.Loaded
	dev    *kernels.Device
	queue  *kernels.Queue
	mem    *autograd.Memory
	tape   *autograd.Tape
	plain  *hftok.Tokenizer // without what the template adds
}

// Open loads a model. Errors have CodeModel, CodeNotFound, CodeUnsupported, CodeInvalid (template) or CodeMemory.
func Open(ctx context.Context, o Options) (_ *Model, err error) {
	m := &Model{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.plain, err = hftok.Load(o.Base); err != nil {
		return nil, err
	}
	if m.Encoder, err = newEncoder(m.plain, o); err != nil {
		return nil, err
	}
	if err := m.load(ctx, o); err != nil {
		return nil, err
	}
	return m, m.checkVocabulary(o)
}

// load puts the weights on a device.
func (m *Model) load(ctx context.Context, o Options) (err error) {
	if m.dev, err = kernels.Open(kernels.Options{Backend: o.Backend, Threads: o.Threads}); err != nil {
		return err
	}
	info, err := m.dev.Info()
	if err != nil {
		return err
	}
	m.Device = info.Name + " " + info.ISA
	if m.queue, err = m.dev.NewQueue(kernels.Compute); err != nil {
		return err
	}
	if m.loaded, m.DType, m.Why, err = train.LoadFolders(ctx, o.Folders, m.queue, o.DType); err != nil {
		return err
	}
	if m.Context = m.loaded.Model.Info().MaxPositions; m.Context <= 0 {
		m.Context = defaultContext
	}
	m.mem = autograd.NewMemory(m.dev, m.queue, 0)
	m.tape = autograd.New(m.mem, autograd.Config{Compute: m.loaded.Compute})
	return nil
}

// newEncoder makes the chat encoder of a tokenizer.
func newEncoder(tok *hftok.Tokenizer, o Options) (*chat.Encoder, error) {
	if o.Chat.Today.IsZero() {
		o.Chat.Today = time.Now()
	}
	t, err := chat.ForTokenizer(o.Template, tok, o.Chat.Today)
	if err != nil {
		return nil, err
	}
	if t, err = t.With(o.Chat); err != nil {
		return nil, err
	}
	return chat.NewEncoder(t, tok)
}

// checkVocabulary refuses a template whose tokens the model has no rows for.
func (m *Model) checkVocabulary(o Options) error {
	vocab := m.loaded.Model.Info().Vocab
	var missing []string
	for s, id := range m.Encoder.Added {
		if int(id) >= vocab {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return schemas.Errorf(schemas.CodeModel, "template", "the template adds %q to the tokenizer, for which the model (%d ids) has no rows", missing, vocab).
		WithHint("name the template that %s was tuned with", filepath.Base(o.Base))
}

// Close frees the model.
func (m *Model) Close() error {
	var errs []error
	if m.mem != nil {
		errs = append(errs, m.mem.Close())
	}
	if m.loaded != nil {
		errs = append(errs, m.queue.Sync())
		m.loaded.Close()
	}
	if m.dev != nil {
		errs = append(errs, m.dev.Close())
	}
	return errors.Join(errs...)
}

// Rewards reports whether the model has a value head: it scores texts and does not answer.
func (m *Model) Rewards() bool { return m.loaded.ValueHead != nil }

// Architecture is the model's class in transformers.
func (m *Model) Architecture() string { return m.loaded.Model.Info().Architecture }

// Conversation is what a model answers.
type Conversation struct {
	// Messages alternate: a user's (or an observation), an assistant's (or its calls), ..., a user's.
	Messages []chat.Message
	// System is the system text, "" for the template's own; Tools are descriptions of tools as a JSON list, "" for none.
	System, Tools string
}

// Prompt is a conversation as ids, up to where the answer begins. Errors have CodeData or CodeInvalid.
func (m *Model) Prompt(c Conversation) ([]int32, error) {
	// As LLaMA-Factory's chat engine does it: the answer is an empty message, of which templates with thoughts may put something before the answer.
	pair, err := m.Encoder.OneTurn(append(slices.Clip(slices.Clone(c.Messages)), chat.Message{Role: chat.RoleAssistant}), c.System, c.Tools)
	var info *schemas.ErrorInfo
	if err != nil && !errors.As(err, &info) {
		return nil, schemas.Errorf(schemas.CodeData, "messages", "%v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the prompt: %w", err)
	}
	if len(pair.Prompt) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, "messages", "the conversation has no tokens")
	}
	return pair.Prompt, nil
}

// Text is the prompt of a plain text, with the tokens that the tokenizer puts before one.
func (m *Model) Text(text string) []int32 { return m.plain.EncodeSpecial(text) }
