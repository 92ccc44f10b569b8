package report

import (
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
)

// Encoding says how rows become tokens.
type Encoding struct {
	// Tokenizer is the folder of a tokenizer; empty: nothing is counted in tokens.
	Tokenizer string
	// Template is the tokenizer's own when empty ("default" when it has none), changed by Options where there are any.
	Template string
	Options  *chat.Options
	Cutoff   int
	// TrainOnPrompt and MaskHistory are LLaMA-Factory's.
	TrainOnPrompt, MaskHistory bool
}

// whole is a cutoff that cuts nothing.
const whole = 1 << 24

func (e *Encoding) open(cutoff int) (*process.Processor, *hftok.Tokenizer, error) {
	tok, err := hftok.Load(e.Tokenizer)
	if err != nil {
		return nil, nil, err
	}
	t, err := e.template(tok)
	if err != nil {
		return nil, nil, err
	}
	enc, err := chat.NewEncoder(t, tok)
	if err != nil {
		return nil, nil, err
	}
	p, err := process.New(enc, process.Settings{Cutoff: cutoff, TrainOnPrompt: e.TrainOnPrompt, MaskHistory: e.MaskHistory})
	return p, tok, err
}

func (e *Encoding) template(tok *hftok.Tokenizer) (*chat.Template, error) {
	name := e.Template
	if _, own := tok.ChatTemplate(); name == "" && !own {
		name = "default"
	}
	t, err := chat.ForTokenizer(name, tok, time.Now())
	if err != nil || e.Options == nil {
		return t, err
	}
	return t.With(*e.Options)
}

// encode makes the sequences of a record: of pairs the chosen one's and the rejected one's.
func encode(p *process.Processor, s *Set, r *Record) ([]process.Sample, error) {
	if s.Pretrain {
		return p.Pretrain([]string{r.Plain.Prompt}, false), nil
	}
	if r.Example.Pairs() {
		chosen, rejected, err := p.Pairwise(&r.Example)
		return []process.Sample{chosen, rejected}, err
	}
	x, err := p.Supervised(&r.Example)
	return []process.Sample{x}, err
}

// Class is one label.
type Class struct {
	Label string  `json:"label"`
	Rows  int     `json:"rows"`
	Share float64 `json:"share"`
}

// Stats is the report on a data set.
type Stats struct {
	Name      string         `json:"name"`
	Format    string         `json:"formatting"`
	Rows      int            `json:"rows"`
	Usable    int            `json:"usable"`
	Problems  int            `json:"problems"`
	Tokens    *Tokens        `json:"tokens,omitempty"`
	Languages map[string]int `json:"languages"`
	// Duplicates and NearDuplicates count rows that repeat an earlier one.
	Duplicates     int `json:"duplicates"`
	NearDuplicates int `json:"near_duplicates"`
	// Contaminated counts rows that are similar to one of the evaluation set, of which there are EvalRows.
	Contaminated int `json:"contaminated"`
	EvalRows     int `json:"eval_rows,omitempty"`
	// PII counts finds by type, PIIRows the rows that hold one.
	PII     map[string]int `json:"pii"`
	PIIRows int            `json:"pii_rows"`
	// Classes are the labels, most frequent first; Imbalance is the largest over the smallest, Conflicts are groups of rows that say the same under
	// different labels.
	Classes   []Class `json:"classes,omitempty"`
	Imbalance float64 `json:"imbalance,omitempty"`
	// Conflicts are the first 1,000 of ConflictGroups.
	Conflicts      []labels.Conflict `json:"conflicts,omitempty"`
	ConflictGroups int               `json:"conflict_groups,omitempty"`
	// CohenKappa (of two annotators) and FleissKappa are absent without annotator columns.
	CohenKappa  *float64 `json:"cohen_kappa,omitempty"`
	FleissKappa *float64 `json:"fleiss_kappa,omitempty"`
}
