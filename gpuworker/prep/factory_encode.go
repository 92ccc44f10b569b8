package prep

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// factoryEncoder turns batches of rows into sequences as LLaMA-Factory's processors do.
type factoryEncoder struct {
	p     *part
	o     *schemas.PrepOutput
	proc  *process.Processor
	attrs []*align.Attr
	vocab int
	// pad is the id that padding has, chat.NoID where labels are never longer than the tokens (see padded).
	pad int32
}

// OpenChatTokenizer loads the tokenizer of a Ref for chat templates: tokenizer.json or tokenizer.model with its configuration.
func OpenChatTokenizer(ctx context.Context, t Files, ref schemas.Ref) (*hftok.Tokenizer, error) {
	var f hftok.Files
	for _, x := range ref.Files {
		dst := map[string]*[]byte{"tokenizer.json": &f.Tokenizer, "tokenizer.model": &f.SentencePiece, "tokenizer_config.json": &f.Config,
			"special_tokens_map.json": &f.SpecialMap, "chat_template.jinja": &f.ChatTemplate}[x.Path]
		if dst == nil {
			continue
		}
		if x.Bytes > hftok.MaxBytes {
			return nil, schemas.Errorf(schemas.CodeModel, x.Path, "has %d bytes, the limit is %d", x.Bytes, hftok.MaxBytes)
		}
		b, err := data.ReadInput(ctx, t.Objects, t.Tenant, x, hftok.MaxBytes)
		if err != nil {
			return nil, err
		}
		*dst = b
	}
	return hftok.New("tokenizer", f)
}

// NewChatEncoder makes the encoder of an output: its template with the options of a LLaMA-Factory preparation (nil: none).
func NewChatEncoder(tok *hftok.Tokenizer, o *schemas.PrepOutput, f *schemas.FactorySpec) (*chat.Encoder, error) {
	now := f.Day(time.Now())
	t, err := chat.ForTokenizer(o.Template, tok, now)
	if err != nil && o.Template == "" && o.Form == "pt" {
		t, err = chat.ByName("empty") // texts need no slots
	}
	if err != nil {
		return nil, err
	}
	if f != nil {
		t, err = t.With(chat.Options{ToolFormat: f.ToolFormat, DefaultSystem: f.DefaultSystem, EnableThinking: f.EnableThinking, PreserveThinking: f.PreserveThinking, Today: now})
		if err != nil {
			return nil, err
		}
	}
	return chat.NewEncoder(t, tok)
}

func (p *part) newEncoder(o *schemas.PrepOutput) (*factoryEncoder, error) {
	f := p.prep.Factory
	enc, err := NewChatEncoder(p.chatTok, o, f)
	if err != nil {
		return nil, err
	}
	proc, err := process.New(enc, process.Settings{Cutoff: o.CutoffLen, TrainOnPrompt: f.TrainOnPrompt, MaskHistory: f.MaskHistory})
	if err != nil {
		return nil, err
	}
	e := &factoryEncoder{p: p, o: o, proc: proc, vocab: p.chatTok.Len(), pad: chat.NoID}
	if enc.Template.EfficientEOS {
		if e.pad = enc.PadID(); e.pad == chat.NoID {
			e.pad = enc.EOSID()
		}
	}
	for i := range p.factory.sets {
		a := attrOf(p.factory.sets[i].set)
		a.Shapes = p.factory.sets[i].shapes
		e.attrs = append(e.attrs, a)
	}
	return e, nil
}

func (e *factoryEncoder) group() int {
	if e.o.Form == "pairwise" || e.o.Form == "kto" {
		return 2
	}
	return 1
}

// made is what becomes of one batch of rows.
type made struct {
	seqs []data.Sequence
	// dropped counts rows that cannot be used: odd roles, no prompt, no answer.
	dropped int64
	// bad are rows that a converter refuses.
	bad []source.BadRowError
	err error
}

// all makes the sequences of every batch, several batches at a time, and gives them to take in their order. A few batches are in memory,
// however many there are.
func (e *factoryEncoder) all(ctx context.Context, order source.Order, batches [][2]int, threads int, take func(i int, m made) error) error {
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	done := make([]chan made, len(batches))
	for i := range done {
		done[i] = make(chan made, 1)
	}
	ahead := make(chan struct{}, 2*threads) // batches begun and not taken
	var next atomic.Int64
	for range min(threads, len(batches)) {
		wg.Go(func() {
			for {
				select {
				case ahead <- struct{}{}:
				case <-ctx.Done():
					return
				}
				i := int(next.Add(1)) - 1
				if i >= len(batches) {
					return
				}
				done[i] <- e.batch(ctx, source.Picks(order, batches[i][0], batches[i][1]))
			}
		})
	}
	for i := range batches {
		m := <-done[i]
		if m.err != nil {
			return m.err
		}
		if err := take(i, m); err != nil {
			return err
		}
		<-ahead
	}
	return nil
}

// examples converts the rows of a batch. A row that a converter refuses is a bad row; it stays in the batch as an empty example, since
// batches are counted in rows.
func (e *factoryEncoder) examples(picks []source.Pick, m *made) ([]process.Example, error) {
	out := make([]process.Example, len(picks))
	for i, k := range picks {
		row, err := e.row(k)
		if err != nil {
			return nil, err
		}
		if out[i], err = e.example(row, k.Set); err != nil {
			m.bad = append(m.bad, source.BadRowError{Place: row.Place, Reason: reason(err), Text: string(row.Raw[:min(len(row.Raw), 4096)])})
		}
	}
	return out, nil
}

// reason is an error's message without place.
func reason(err error) string {
	var info *schemas.ErrorInfo
	if errors.As(err, &info) {
		return info.Message
	}
	return err.Error()
}

func (e *factoryEncoder) row(k source.Pick) (source.Row, error) {
	s := &e.p.factory.sets[k.Set]
	return s.spool.Row(s.at(k.Row))
}

func (e *factoryEncoder) place(k source.Pick) string {
	s := &e.p.factory.sets[k.Set]
	return s.spool.Place(s.at(k.Row))
}

func (e *factoryEncoder) example(row source.Row, set int32) (process.Example, error) {
	o, err := pyjson.ParseObject(string(row.Raw))
	if err != nil {
		return process.Example{}, err
	}
	r, err := align.Convert(o, e.attrs[set])
	if err != nil {
		return process.Example{}, err
	}
	x, err := r.Example()
	if err != nil {
		return process.Example{}, err
	}
	return *x, nil
}

// batch makes the sequences of one batch.
func (e *factoryEncoder) batch(ctx context.Context, picks []source.Pick) (m made) {
	if m.err = ctx.Err(); m.err != nil {
		return m
	}
	if e.p.prep.Factory.Tokenized {
		e.tokenized(picks, &m)
		return m
	}
	examples, err := e.examples(picks, &m)
	if err != nil {
		return made{err: err}
	}
	switch {
	case e.o.Form == "pt":
		e.pretrain(examples, &m)
	case e.o.Form == "pairwise":
		e.each(picks, examples, (*process.Example).Pairs, e.pair, &m)
	case e.o.Form == "kto":
		e.kto(examples, &m)
	case e.o.Form == "predict":
		e.each(picks, examples, (*process.Example).Prompted, e.prompt, &m)
	case e.o.Packing:
		e.packed(picks, examples, &m)
	default:
		e.each(picks, examples, (*process.Example).Supervised, e.supervised, &m)
	}
	return m
}

func (e *factoryEncoder) supervised(x *process.Example) ([]data.Sequence, error) {
	s, err := e.proc.Supervised(x)
	if !e.o.Packing {
		s.IDs = e.padded(s.IDs, s.Labels)
	}
	return []data.Sequence{sequence(s)}, err
}

// padded makes the tokens of a sample as long as its labels. Upstream gives a later turn whose prompt is cut to nothing the label of an
// efficient end of sequence all the same, so that labels are longer; its collator pads the tokens, whose padding then bears the last label.
func (e *factoryEncoder) padded(ids, labels []int32) []int32 {
	for e.pad != chat.NoID && len(ids) > 0 && len(ids) < len(labels) {
		ids = append(ids, e.pad)
	}
	return ids
}

func sequence(s process.Sample) data.Sequence { return data.Sequence{IDs: s.IDs, Labels: s.Labels} }

// each makes sequences of every example that can be used, in order; the others are dropped, as is one without a token.
func (e *factoryEncoder) each(picks []source.Pick, examples []process.Example, usable func(*process.Example) bool,
	f func(*process.Example) ([]data.Sequence, error), m *made) {
	for i := range examples {
		if !usable(&examples[i]) {
			m.dropped++
			continue
		}
		seqs, err := f(&examples[i])
		if err != nil {
			m.err = fmt.Errorf("%s: %w", e.place(picks[i]), err)
			return
		}
		if len(seqs) == 0 || len(seqs[0].IDs) == 0 {
			m.dropped++
			continue
		}
		m.seqs = append(m.seqs, seqs...)
	}
}

func (e *factoryEncoder) pair(x *process.Example) ([]data.Sequence, error) {
	c, r, err := e.proc.Pairwise(x)
	return []data.Sequence{sequence(c), sequence(r)}, err
}

// prompt keeps a prompt and the reference answer as one sequence; the labels begin where the answer does.
func (e *factoryEncoder) prompt(x *process.Example) ([]data.Sequence, error) {
	p, a, err := e.proc.Unsupervised(x)
	s := data.Sequence{IDs: append(append([]int32(nil), p...), a...), Labels: make([]int32, 0, len(p)+len(a))}
	for range p {
		s.Labels = append(s.Labels, data.IgnoreLabel)
	}
	s.Labels = append(s.Labels, a...)
	return []data.Sequence{s}, err
}

func (e *factoryEncoder) kto(examples []process.Example, m *made) {
	judged, kept, err := e.proc.KTO(examples)
	if err != nil {
		m.err = err
		return
	}
	m.dropped += int64(len(examples) - len(kept))
	for _, j := range judged {
		s, kl := sequence(j.Sample), sequence(j.KL)
		if j.Desired {
			s.Tag = 1
		}
		m.seqs = append(m.seqs, s, kl)
	}
}

// pretrain takes the first message of each row.
func (e *factoryEncoder) pretrain(examples []process.Example, m *made) {
	var texts []string
	for i := range examples {
		if len(examples[i].Prompt) == 0 {
			m.dropped++
			continue
		}
		texts = append(texts, examples[i].Prompt[0].Content)
	}
	for _, s := range e.proc.Pretrain(texts, e.o.Packing) {
		if len(s.IDs) > 0 {
			m.seqs = append(m.seqs, sequence(s))
		}
	}
}

// packed packs the samples of a batch. Padding is not stored: it is at the end, where nothing sees it and it trains nothing.
func (e *factoryEncoder) packed(picks []source.Pick, examples []process.Example, m *made) {
	e.each(picks, examples, (*process.Example).Supervised, e.supervised, m)
	samples := make([]process.Sample, 0, len(m.seqs))
	for _, s := range m.seqs {
		if len(s.IDs) > e.o.CutoffLen {
			m.dropped++ // an efficient end of sequence can exceed the length
			continue
		}
		samples = append(samples, process.Sample{IDs: s.IDs, Labels: s.Labels})
	}
	m.seqs = nil
	for _, p := range process.Pack(samples, e.o.CutoffLen, e.o.Neat, 0) {
		n := len(p.IDs) - p.Padding
		m.seqs = append(m.seqs, data.Sequence{IDs: p.IDs[:n], Labels: p.Labels[:n], Docs: p.Bounds[:len(p.Bounds)-1], Open: !e.o.Neat})
	}
}

// tellsDate reports whether an output's tokens can depend on the day: by the description of tools, or by a tokenizer's own chat template.
func tellsDate(o *schemas.PrepOutput, f *schemas.FactorySpec) bool {
	if o.Template == "" {
		return o.Form != "pt"
	}
	format := f.ToolFormat
	if t, err := chat.ByName(o.Template); err == nil && format == "" {
		format = t.ToolFormat
	}
	return format == "llama3"
}
