package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/schemas"
)

// goal computes the leaves of an objective. Every rank makes the same calls in the same order; nothing that it computes depends on how
// leaves are dealt over ranks.
type goal interface {
	// metrics names what a leaf reports beside its loss. The step's value is the sum over its leaves.
	metrics() []string
	// begin prepares a step. It may exchange with the other ranks.
	begin(ctx context.Context, step int64) error
	// passes is the number of updates that are made of one begin.
	passes() int
	// leaf runs forward and backward of samples between BeginLeaf and EndLeaf. Without samples it runs over any tokens, to take part in
	// gathers, and its result is not used. A loss that is not finite is in the result, not an error.
	leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error)
	// eval measures samples of other data of the same kind, without gradients; samples may be empty as for leaf.
	eval(ctx context.Context, data Dataset, samples []int32) (evalResult, error)
}

// reporter is a goal whose metrics are told under other names than the sums that make them up, of evaluations, too.
type reporter interface {
	// report names what leaves gave together: the sums over a step's leaves of their shares, or the means over an evaluation's batches.
	report(sums []float64) map[string]float64
}

// leafResult is a leaf's part of the step: loss and metrics are added over leaves in their order.
type leafResult struct {
	loss    float64
	metrics []float64
	tokens  int64
}

// evalResult is a sum of losses, the targets (or rows) that it is over, the labels that transformers divides by, the sum over rows of
// their accuracies where it is asked for, and a reporter's metrics of the batch.
type evalResult struct {
	sum, weight, labels, accuracy float64
	metrics                       []float64
}

// unsupported refuses what the spec can say but this build cannot train yet.
func unsupported(t *schemas.TrainStage) error {
	var errs []error
	no := func(yes bool, key string) {
		if yes {
			errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, key, "is not supported yet"))
		}
	}
	if f := t.Features; f != nil {
		no(f.NEFTune > 0 && (t.Objective == "ppo" || t.Objective == "grpo"), "features.neftune with "+t.Objective)
		no(f.MaxTokens > 0 && t.Order != nil, "features.max_tokens with a given order")
	}
	return errors.Join(errs...)
}

// newGoal makes the goal of the stage's objective.
func (s *session) newGoal(reward RewardFunc) (goal, error) {
	if err := unsupported(s.stage); err != nil {
		return nil, err
	}
	switch s.stage.Objective {
	case "pt", "sft":
		g := &sftGoal{s: s}
		if f := s.stage.Features; f != nil {
			g.loss = objective.SFT{Smoothing: f.LabelSmoothing, ZLoss: f.ZLoss, DFT: f.DFT}
			g.means = f.LeafMeans
		}
		return g, g.loss.Validate()
	case "rm":
		return &rewardGoal{s: s}, s.wantGroups(2)
	case "dpo":
		return &pairGoal{s: s, loss: objective.PairLossOf(s.stage.Pref)}, s.wantGroups(2)
	case "kto":
		p := s.stage.Pref
		return &ktoGoal{s: s, loss: objective.KTO{Beta: p.Beta, Desirable: p.Desirable, Undesirable: p.Undesirable, FTX: p.FTX}}, s.wantGroups(2)
	}
	if s.stage.Objective == "ppo" || s.stage.Objective == "grpo" {
		return s.newRLGoal(reward)
	}
	return nil, schemas.Errorf(schemas.CodeUnsupported, "objective", "%q is not supported", s.stage.Objective)
}

// groupOf is the number of consecutive sequences that make a sample.
func groupOf(d Dataset) int {
	if g, ok := d.(interface{ Group() int }); ok {
		return g.Group()
	}
	return 1
}

// wantGroups refuses data that were prepared for another objective.
func (s *session) wantGroups(n int) error {
	sets := []Dataset{s.data}
	for _, e := range s.evals {
		sets = append(sets, e.data)
	}
	for _, d := range sets {
		if groupOf(d) != n {
			return schemas.Errorf(schemas.CodeData, s.stage.Data, "the data have groups of %d sequences, the objective %s needs groups of %d", groupOf(d), s.stage.Objective, n).
				WithHint("prepare them in the form that belongs to the objective")
		}
	}
	return nil
}

// group lists the sequences of samples: all of each group, or only the part-th when part is not negative.
func group(d Dataset, samples []int32, part int) []int32 {
	g := int32(groupOf(d))
	if g == 1 {
		return samples
	}
	out := make([]int32, 0, len(samples)*int(g))
	for _, i := range samples {
		for k := range g {
			if part < 0 || int(k) == part {
				out = append(out, i*g+k)
			}
		}
	}
	return out
}

// ghostPairs is a batch of as many sequences as a pair has.
func ghostPairs() *nn.Batch {
	return &nn.Batch{Rows: 2, Seq: 2, IDs: []int32{0, 0, 0, 0}, Labels: []int32{nn.IgnoreLabel, 0, nn.IgnoreLabel, 0}}
}

// once makes one update a step.
type once struct{}

func (once) passes() int { return 1 }

// sftGoal is pretraining and supervised fine-tuning: the loss is divided by the labels of the whole step.
type sftGoal struct {
	once
	s    *session
	loss objective.SFT
	// labels are those that the step's leaves are divided by; carried are those of its first leaves where a stream left them over.
	labels, carried int64
	// means adds up the leaves' own means.
	means bool
}

func (g *sftGoal) metrics() []string { return nil }

func (g *sftGoal) begin(_ context.Context, step int64) error {
	samples := g.s.plan.Step(step)
	g.labels, g.carried = 0, 0
	for leaf := range g.s.plan.Leaves(step) {
		n, err := g.count(g.s.plan.Leaf(step, leaf))
		if err != nil {
			return err
		}
		if leaf < g.s.plan.Carried(step) {
			g.carried += n
		} else {
			g.labels += n
		}
	}
	if g.labels < 1 || g.carried < 1 && g.s.plan.Carried(step) > 0 {
		return schemas.Errorf(schemas.CodeData, fmt.Sprintf("step %d", step+1), "none of its %d sequences has a token to train on", len(samples))
	}
	return nil
}

// count adds up the labels of a leaf's samples, and those of its padding where that is trained on.
func (g *sftGoal) count(samples []int32) (int64, error) {
	labels, err := padLabels(g.s.data, g.s.stage.Pad, samples)
	for _, i := range samples {
		labels += g.s.data.LabelTokens(int(i))
	}
	return labels, err
}

func (g *sftGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	b := ghost()
	if len(samples) > 0 {
		var err error
		if b, err = g.s.trainLeaf(ctx, samples); err != nil {
			return leafResult{}, err
		}
	}
	over := g.labels
	if leaf < g.s.plan.Carried(g.s.step) {
		over = g.carried
	}
	if g.means {
		over = 0
		for _, t := range b.Targets() {
			if t >= 0 {
				over++
			}
		}
		over = max(1, over)
	}
	r, err := g.loss.Backward(ctx, g.s.tape, g.s.model, b, over)
	return leafResult{loss: r.Sum / float64(over), tokens: int64(len(b.IDs))}, err
}

func (g *sftGoal) eval(ctx context.Context, data Dataset, samples []int32) (evalResult, error) {
	b := ghost()
	if len(samples) > 0 {
		var err error
		if b, err = g.s.leaf(ctx, data, samples); err != nil {
			return evalResult{}, err
		}
	}
	measure := objective.SFT{DFT: g.loss.DFT} // which upstream measures, too
	if g.means {
		measure.Smoothing = g.loss.Smoothing
	}
	r, err := measure.Loss(ctx, g.s.tape, g.s.model, b)
	if err != nil {
		return evalResult{}, err
	}
	out := evalResult{sum: r.Sum, weight: float64(r.Targets), labels: float64(b.LabelTokens())}
	if g.means { // upstream's label smoother divides by what it scores, which a label at position 0 is not
		out.labels = out.weight
	}
	if g.s.stage.EvalAccuracy {
		g.s.tape.Reset(ctx, false)
		logits, err := g.s.tape.Read(g.s.model.Logits(g.s.tape, b))
		if err != nil {
			return out, err
		}
		out.accuracy = rowAccuracy(b, logits)
	}
	return out, nil
}
