package objective

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Span is the positions [From, To) of one sequence in a batch laid out flat, without padding at its end.
type Span struct{ From, To int }

// Spans lists the sequences of a batch: its documents, or its rows up to their last position that is attended or, where padding is trained on, has
// a label.
func Spans(b *nn.Batch) []Span {
	var out []Span
	if len(b.Docs) > 0 {
		for i := 1; i < len(b.Docs); i++ {
			out = append(out, Span{int(b.Docs[i-1]), int(b.Docs[i])})
		}
		return out
	}
	for r := range b.Rows {
		s := Span{r * b.Seq, (r + 1) * b.Seq}
		for b.Mask != nil && s.To > s.From && b.Mask[s.To-1] == 0 && (len(b.Labels) == 0 || b.Labels[s.To-1] == nn.IgnoreLabel) {
			s.To--
		}
		out = append(out, s)
	}
	return out
}

// LogProb is the log-probability of one sequence's response: the sum over its targets, and their number.
type LogProb struct {
	Sum float64
	Len int
}

// Mean is the average over the targets.
func (l LogProb) Mean() float64 {
	if l.Len == 0 {
		return 0
	}
	return l.Sum / float64(l.Len)
}

// sums adds the log-probabilities lp of targets, sequence by sequence, in order.
func sums(lp []float32, targets []int32, spans []Span) []LogProb {
	out := make([]LogProb, len(spans))
	for i, s := range spans {
		for p := s.From; p < s.To; p++ {
			if targets[p] >= 0 {
				out[i].Sum += float64(lp[p])
				out[i].Len++
			}
		}
	}
	return out
}

// Score computes the log-probability of every sequence of a batch without gradients: what a reference model says.
func Score(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch) ([]LogProb, error) {
	t.Reset(ctx, false)
	lp, err := t.Read(m.LogProbs(t, b, 1))
	if err != nil {
		return nil, fmt.Errorf("cannot score sequences: %w", err)
	}
	return sums(lp, b.Targets(), Spans(b)), nil
}

// finite reports a loss that is not.
func finite(loss float64) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return schemas.Errorf(schemas.CodeNumeric, "loss", "the loss is not finite (%v)", loss)
	}
	return nil
}

// logSigmoid is log(1/(1+exp(-x))) without overflow; sigmoid its argument's logistic function.
func logSigmoid(x float64) float64 {
	if x < 0 {
		return x - math.Log1p(math.Exp(x))
	}
	return -math.Log1p(math.Exp(-x))
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// errGroups says that a leaf does not have the sequences its objective needs.
var errGroups = errors.New("the leaf's sequences do not come in groups of two")
