package train

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
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
