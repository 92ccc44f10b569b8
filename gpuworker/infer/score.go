package infer

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// Scores are a reward model's scores of texts: the value head at each text's last token. A text is cut to limit tokens, or where limit is 0 to what
// the model has positions for. No special tokens are put around it. One goroutine at a time may call it.
func (m *Model) Scores(ctx context.Context, texts []string, limit int) ([]float64, error) {
	if !m.Rewards() {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "model", "has no value head: it answers, and scores nothing")
	}
	if limit <= 0 || limit > m.Context {
		limit = m.Context
	}
	out := make([]float64, len(texts))
	for i, text := range texts {
		ids := m.Encoder.Tokenizer.Encode(text)
		if ids = ids[:min(limit, len(ids))]; len(ids) == 0 {
			return nil, schemas.Errorf(schemas.CodeData, "messages", "text %d has no tokens", i+1)
		}
		s, err := m.loaded.ValueHead.Scores(ctx, m.tape, m.loaded.Model, &nn.Batch{Rows: 1, Seq: len(ids), IDs: ids})
		if err != nil {
			return nil, err
		}
		out[i] = s[0]
	}
	return out, nil
}
