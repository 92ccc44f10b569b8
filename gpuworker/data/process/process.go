package process

import (
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/schemas"
)

// Ignore is the label of a token that is not trained on.
const Ignore = -100

// Example is a conversation: a prompt that ends with the user, and its answers (one for supervised data, two for pairs and KTO).
type Example struct {
	Prompt, Response []chat.Message
	System, Tools    string
	// Media names what the row has besides text ("images", ...), "" for nothing: such a row cannot be encoded.
	Media string
}

// Settings say how sequences are made.
type Settings struct {
	// Cutoff is the most tokens of a sequence (for packed supervised data one less than the packed length).
	Cutoff int
	// TrainOnPrompt labels the prompts, too; MaskHistory labels the last answer only and keeps the last turns when they are too many.
	TrainOnPrompt, MaskHistory bool
}

// Sample is one sequence. Labels are not shifted.
type Sample struct{ IDs, Labels []int32 }

// Processor makes sequences with an encoder. It is safe for concurrent use.
type Processor struct {
	enc *chat.Encoder
	set Settings
}

// New makes a processor. CodeInvalid for settings that the template cannot follow.
func New(enc *chat.Encoder, set Settings) (*Processor, error) {
	switch {
	case set.Cutoff < 1:
		return nil, schemas.Errorf(schemas.CodeInvalid, "cutoff_len", "must be at least 1, is %d", set.Cutoff)
	case set.TrainOnPrompt && enc.Template.EfficientEOS:
		return nil, schemas.Errorf(schemas.CodeInvalid, "train_on_prompt", "the template %s does not support it", enc.Template.Name)
	}
	return &Processor{enc, set}, nil
}

// Encoder is the encoder the processor was made with.
func (p *Processor) Encoder() *chat.Encoder { return p.enc }

// Supervised reports whether an example can be used for supervised training, Pairs whether for pairs and KTO, Prompted whether it has a prompt.
func (e *Example) Supervised() bool { return e.Prompted() && len(e.Response) == 1 }

// Pairs reports whether an example has two answers.
func (e *Example) Pairs() bool { return e.Prompted() && len(e.Response) >= 2 }

// Prompted reports whether an example has a prompt that ends with a question.
func (e *Example) Prompted() bool { return len(e.Prompt)%2 == 1 }

// textOnly refuses a row with media, as the reference does for templates of text models: without them the text would mean something else.
func (e *Example) textOnly() error {
	if e.Media == "" {
		return nil
	}
	return schemas.Errorf(schemas.CodeData, e.Media, "the row has %s, models here take text only", e.Media)
}

// Supervised makes a supervised sample: turns are kept from the first one on (from the last one with MaskHistory) until Cutoff is reached;
// the pair that reaches it is cut.
func (p *Processor) Supervised(e *Example) (Sample, error) {
	if err := e.textOnly(); err != nil {
		return Sample{}, err
	}
	t := p.enc.Template
	pairs, err := p.enc.Turns(slices.Concat(e.Prompt, e.Response), e.System, e.Tools, p.set.MaskHistory && !t.PreserveThinking)
	if err != nil {
		return Sample{}, err
	}
	total := 0
	if t.EfficientEOS {
		total = 1
	}
	if p.set.MaskHistory {
		slices.Reverse(pairs)
	}
	kept := 0
	for _, x := range pairs {
		if total >= p.set.Cutoff {
			break
		}
		ns, nt := InferLengths(len(x.Prompt), len(x.Response), p.set.Cutoff-total)
		pairs[kept] = chat.Pair{Prompt: x.Prompt[:ns], Response: x.Response[:nt]}
		total += ns + nt
		kept++
	}
	pairs = pairs[:kept]
	out := Sample{IDs: make([]int32, 0, total), Labels: make([]int32, 0, total)}
	for i := range pairs {
		turn := i
		if p.set.MaskHistory {
			turn = len(pairs) - 1 - i // pairs are reversed
		}
		x := pairs[turn]
		out.IDs = append(append(out.IDs, x.Prompt...), x.Response...)
		out.Labels = p.promptLabels(out.Labels, x.Prompt, turn)
		if p.set.MaskHistory && turn != 0 {
			out.Labels = appendIgnore(out.Labels, len(x.Response))
		} else {
			out.Labels = append(out.Labels, x.Response...)
		}
	}
	if t.EfficientEOS {
		out.IDs, out.Labels = append(out.IDs, p.enc.EOSID()), append(out.Labels, p.enc.EOSID())
	}
	return out, nil
}

// promptLabels adds the labels of a prompt. With an efficient end of sequence the first token after an answer is where it ends, so that the
// prompt of a later turn begins with that label.
func (p *Processor) promptLabels(labels, prompt []int32, turn int) []int32 {
	switch {
	case p.set.TrainOnPrompt:
		return append(labels, prompt...)
	case p.enc.Template.EfficientEOS && turn != 0:
		return appendIgnore(append(labels, p.enc.EOSID()), len(prompt)-1)
	}
	return appendIgnore(labels, len(prompt))
}

func appendIgnore(labels []int32, n int) []int32 {
	for range n {
		labels = append(labels, Ignore)
	}
	return labels
}

// oneTurn encodes prompt and answer; an efficient end of sequence ends the answer.
func (p *Processor) oneTurn(e *Example, answer chat.Message) (chat.Pair, error) {
	if err := e.textOnly(); err != nil {
		return chat.Pair{}, err
	}
	x, err := p.enc.OneTurn(append(slices.Clone(e.Prompt), answer), e.System, e.Tools)
	if err == nil && p.enc.Template.EfficientEOS {
		x.Response = append(x.Response, p.enc.EOSID())
	}
	return x, err
}

// join makes a sample of a prompt and its answer, which alone is trained.
func join(prompt, answer []int32) Sample {
	return Sample{slices.Concat(prompt, answer), append(appendIgnore(make([]int32, 0, len(prompt)+len(answer)), len(prompt)), answer...)}
}

// Unsupervised makes a prompt to complete, and the answer that the data has (for an example without one, what an empty answer is).
func (p *Processor) Unsupervised(e *Example) (prompt, answer []int32, err error) {
	a := chat.Message{Role: chat.RoleAssistant}
	if len(e.Response) == 1 {
		a = e.Response[0]
	}
	x, err := p.oneTurn(e, a)
	if err != nil {
		return nil, nil, err
	}
	ns, nt := InferLengths(len(x.Prompt), len(x.Response), p.set.Cutoff)
	return x.Prompt[:ns], x.Response[:nt], nil
}

// Pairwise makes a chosen and a rejected sample with the same prompt: the chosen one's.
func (p *Processor) Pairwise(e *Example) (chosen, rejected Sample, err error) {
	c, err := p.oneTurn(e, e.Response[0])
	if err != nil {
		return chosen, rejected, err
	}
	r, err := p.oneTurn(e, e.Response[1])
	if err != nil {
		return chosen, rejected, err
	}
	ns, nt := InferLengths(len(c.Prompt), max(len(c.Response), len(r.Response)), p.set.Cutoff)
	cut := func(ids []int32) []int32 { return ids[:min(nt, len(ids))] }
	return join(c.Prompt[:ns], cut(c.Response)), join(c.Prompt[:ns], cut(r.Response)), nil
}

// Judged is a KTO sample.
type Judged struct {
	// Sample is the answer that was judged, KL the prompt with another row's answer.
	Sample, KL Sample
	// Desired is the judgement.
	Desired bool
}

// KTO makes judged samples of a batch of examples: the KL answer of an example is the one of the example before it in the batch (of the
// first, the last one's). Examples without two answers are dropped; kept tells the places of the others.
func (p *Processor) KTO(batch []Example) (samples []Judged, kept []int, err error) {
	for i := range batch {
		e := &batch[i]
		if !e.Pairs() {
			continue
		}
		j := Judged{Desired: e.Response[0].Content != ""}
		if j.Sample, err = p.judged(e, e.Response); err != nil {
			return nil, nil, err
		}
		other := batch[(i+len(batch)-1)%len(batch)].Response
		if len(other) < 2 && (len(other) == 0 || other[0].Content == "") {
			return nil, nil, schemas.Errorf(schemas.CodeData, "", "the row before a judged row has no judged answer, which its KL term needs")
		}
		if j.KL, err = p.judged(e, other); err != nil {
			return nil, nil, err
		}
		samples, kept = append(samples, j), append(kept, i)
	}
	return samples, kept, nil
}

// judged is the sample of the answer that is not empty.
func (p *Processor) judged(e *Example, answers []chat.Message) (Sample, error) {
	a := answers[0]
	if a.Content == "" {
		a = answers[1]
	}
	x, err := p.oneTurn(e, a)
	if err != nil {
		return Sample{}, err
	}
	ns, nt := InferLengths(len(x.Prompt), len(x.Response), p.set.Cutoff)
	return join(x.Prompt[:ns], x.Response[:nt]), nil
}

// TextEnd is the text that ends a document in pretraining.
func (p *Processor) TextEnd() string {
	if p.enc.Template.Name == "llama3" {
		return "<|end_of_text|>"
	}
	s, _ := p.enc.Tokenizer.Special(hftok.EOS)
	return s
}

// Pretrain makes sequences of a batch of texts: each text with its end, cut to Cutoff; or, packed, all of them laid end to end and cut into
// blocks of Cutoff, whose rest is dropped. Where the tokenizer begins texts with a token (AddBOS), each sequence begins with it; in a
// packed block it takes the place of the first one. Every token is a label.
func (p *Processor) Pretrain(texts []string, packed bool) []Sample {
	var out []Sample
	tok := p.enc.Tokenizer
	bos := tok.AddBOS() && p.enc.BOSID() != chat.NoID
	if !packed {
		begin := ""
		if bos {
			begin, _ = tok.Special(hftok.BOS)
		}
		for _, t := range texts {
			ids := tok.Encode(begin + t + p.TextEnd())
			ids = ids[:min(len(ids), p.set.Cutoff)]
			out = append(out, Sample{ids, slices.Clone(ids)})
		}
		return out
	}
	var all []int32
	for _, t := range texts {
		all = tok.AppendEncode(all, t+p.TextEnd())
	}
	for n := p.set.Cutoff; len(all) >= n; all = all[n:] {
		ids := slices.Clone(all[:n])
		if bos {
			ids[0] = p.enc.BOSID()
		}
		out = append(out, Sample{ids, slices.Clone(ids)})
	}
	return out
}
