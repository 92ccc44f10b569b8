package train

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// Sequence is one row of token data.
type Sequence = data.Sequence

// Dataset is token data that rows are read from by index; *data.Dataset is one.
type Dataset interface {
	// Len is the number of sequences.
	Len() int
	// LabelTokens counts the labels of a sequence that are not ignored, position 0 included.
	LabelTokens(i int) int64
	// Sequence reads one row.
	Sequence(ctx context.Context, i int) (Sequence, error)
	// Fingerprint identifies the content.
	Fingerprint() string
	Close() error
}

// openDataset opens what a prep stage of the run wrote.
func openDataset(ctx context.Context, t *consume.Task, ref string) (Dataset, error) {
	d, err := data.OpenDataset(ctx, t.Objects, t.Spec, ref, t.Dir)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// planLengths makes the plan follow the samples' lengths where the stage's features ask for it.
func (s *session) planLengths() error {
	f := s.stage.Features
	if f == nil || f.MaxTokens == 0 && !f.GroupByLength {
		return nil
	}
	d, ok := s.data.(interface{ Length(i int) int })
	if !ok {
		return schemas.Errorf(schemas.CodeUnsupported, "features", "these data do not tell the lengths of their sequences")
	}
	g := groupOf(s.data)
	length := func(sample int) int {
		n := 0
		for k := range g {
			n += d.Length(sample*g + k)
		}
		return n
	}
	if f.GroupByLength {
		s.plan.GroupByLength(length)
		s.plan.evals = s.evalsUntil
	}
	if f.MaxTokens > 0 {
		return s.plan.FillTokens(f.MaxTokens, length, s.stage.Epochs, s.stage.Steps)
	}
	return nil
}
