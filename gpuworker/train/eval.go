package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// evalSet is held-out data under the name that its metrics have: "eval", or "eval_<name>".
type evalSet struct {
	prefix string
	data   Dataset
	// answers, when not nil, scores what the model answers; no loss is measured then.
	answers Answers
}

// openEvals opens the stage's evaluation sets.
func (s *session) openEvals(ctx context.Context, o Options) error {
	sets := make([]schemas.EvalSet, 0, 1+len(s.stage.Evals))
	if s.stage.Eval != "" {
		sets = append(sets, schemas.EvalSet{Data: s.stage.Eval})
	}
	for _, e := range append(sets, s.stage.Evals...) {
		d, err := o.OpenData(ctx, s.t, e.Data)
		if err != nil {
			return err
		}
		prefix := "eval"
		if e.Name != "" {
			prefix += "_" + e.Name
		}
		set := evalSet{prefix: prefix, data: d}
		s.evals = append(s.evals, set)
		if s.stage.EvalGenerate == nil {
			continue
		}
		if o.Answers == nil {
			return schemas.Errorf(schemas.CodeUnsupported, s.t.Stage.Name, "this worker cannot evaluate by generating")
		}
		if s.evals[len(s.evals)-1].answers, err = o.Answers(ctx, s.t, e.Data); err != nil {
			return err
		}
	}
	return nil
}

// evaluate measures every set, and reports the values at the current step; all ranks take part and get the same values.
func (s *session) evaluate(ctx context.Context) (map[string]float64, error) {
	defer s.time.To(s.time.To(schemas.TimeEval))
	if s.evaluated == s.done && s.evalValues != nil {
		return s.evalValues, nil
	}
	values := map[string]float64{}
	for _, e := range s.evals {
		start := time.Now()
		measure := s.evalOne
		if e.answers != nil {
			measure = s.evalAnswers
		}
		if err := measure(ctx, e, values); err != nil {
			return nil, fmt.Errorf("cannot measure the evaluation loss: %w", err)
		}
		seconds := time.Since(start).Seconds()
		values[e.prefix+"_runtime"] = seconds
		n, batch := e.data.Len()/groupOf(e.data), s.evalBatch()
		values[e.prefix+"_samples_per_second"] = float64(n) / max(1e-9, seconds)
		values[e.prefix+"_steps_per_second"] = float64((n+batch-1)/batch) / max(1e-9, seconds)
	}
	s.evaluated, s.evalValues = s.done, values
	if s.t.Gang.Rank == 0 {
		e := schemas.Event{At: time.Now().UTC(), Type: schemas.EventProgress, Tenant: s.t.Message.Tenant, Run: s.t.Message.Run, Stage: s.t.Message.Stage,
			Worker: s.t.Worker, Generation: s.t.Gang.Generation, Step: s.done, Values: maps.Clone(values)}
		e.Values["total"] = float64(s.total())
		s.log.add(e)
		s.t.Report(e)
	}
	return values, nil
}

// evalsUntil is how many evaluation sets are gone through before the step that follows step others.
func (s *session) evalsUntil(step int64) int64 {
	if len(s.evals) == 0 {
		return 0
	}
	var n int64
	if s.stage.EvalOnStart {
		n++
	}
	every := s.evalEvery()
	if every > 0 {
		n += step / every
	}
	if s.stage.EvalEachEpoch {
		n += step / s.plan.PerEpoch()
		for at := s.plan.PerEpoch(); every > 0 && at <= step; at += s.plan.PerEpoch() {
			if at%every == 0 {
				n-- // one evaluation serves both
			}
		}
	}
	return n * int64(len(s.evals))
}

// evalEvery is the number of steps between two evaluations, 0: none.
func (s *session) evalEvery() int64 {
	f := s.stage.Features
	switch {
	case f == nil:
		return 0
	case f.EvalShare > 0:
		return int64(math.Ceil(float64(s.plan.Total()) * f.EvalShare))
	}
	return f.EvalEvery
}

// evalDue reports whether the step just done is one to evaluate after.
func (s *session) evalDue() bool {
	if s.stage.EvalEachEpoch && len(s.evals) > 0 && s.done%s.plan.PerEpoch() == 0 {
		return true
	}
	every := s.evalEvery()
	return every > 0 && len(s.evals) > 0 && s.done%every == 0
}

// finalEval evaluates at the end and keeps the values in the checkpoint's state.
func (s *session) finalEval(ctx context.Context, state map[string]string) error {
	values, err := s.evaluate(ctx)
	if err != nil {
		return err
	}
	for _, e := range s.evals {
		for _, k := range []string{"_loss", "_accuracy"} {
			if v, ok := values[e.prefix+k]; ok {
				state[e.prefix+k] = strconv.FormatFloat(v, 'g', -1, 64)
			}
		}
	}
	return nil
}

// evalBatch is the number of samples of an evaluation batch.
func (s *session) evalBatch() int {
	if s.stage.EvalBatch > 0 {
		return s.stage.EvalBatch
	}
	return s.stage.MicroBatch
}

// evalFields are what a rank tells of one batch: the sum of its losses, its targets, its labels (position 0 included), its rows, and the sum
// over rows of their accuracy. The goal's metrics follow.
const evalFields = 5

// evalOne measures one set: batches are dealt over the ranks, and their values are added in the order of the batches.
func (s *session) evalOne(ctx context.Context, e evalSet, values map[string]float64) error {
	rank, world, micro := s.t.Gang.Rank, s.t.Gang.World, s.evalBatch()
	order := evalOrder(e.data.Len()/groupOf(e.data), micro, s.stage.Order)
	batches := (len(order) + micro - 1) / micro
	passes := (batches + world - 1) / world
	fields := evalFields + len(s.goal.metrics())
	mine := make([]byte, 0, 8*fields*passes)
	for pass := range passes {
		at := pass*world + rank
		has := at < batches
		var samples []int32
		if has {
			samples = order[at*micro : min((at+1)*micro, len(order))]
		}
		r, err := s.goal.eval(ctx, e.data, samples)
		if err != nil {
			return fmt.Errorf("cannot evaluate batch %d: %w", at, err)
		}
		told := make([]float64, fields)
		if has {
			copy(told, []float64{r.sum, r.weight, r.labels, float64(len(samples)), r.accuracy})
			copy(told[evalFields:], r.metrics)
		}
		for _, v := range told {
			mine = binary.LittleEndian.AppendUint64(mine, math.Float64bits(v))
		}
		s.t.Phase("eval_loss", int64(pass+1), int64(passes))
	}
	all := make([][]byte, world)
	for r := range all {
		all[r] = make([]byte, len(mine))
	}
	if err := s.t.Gang.Collective.AllGather(ctx, mine, all); err != nil {
		return fmt.Errorf("cannot share the evaluation loss: %w", err)
	}
	total := make([][]float64, batches)
	for b := range total {
		total[b] = make([]float64, fields)
		for f := range total[b] {
			total[b][f] = math.Float64frombits(binary.LittleEndian.Uint64(all[b%world][8*(fields*(b/world)+f):]))
		}
	}
	s.reduceEval(e, total, values)
	return nil
}

// evalAnswers lets the model answer the prompts of a set, and scores the answers. Every rank answers all of them: ranks that share the model's
// weights must take the same steps.
func (s *session) evalAnswers(ctx context.Context, e evalSet, values map[string]float64) error {
	n, batch := e.data.Len(), s.evalBatch()
	seed := s.t.Spec.Seed ^ autograd.Mix(s.done)
	due, g := s.evalDue() || s.done == 0, s.stage.EvalGenerate
	if !due && s.stage.EvalLast != nil {
		g = s.stage.EvalLast
	}
	stop := g.Stop
	if len(stop) == 0 {
		stop = e.answers.Stops()
	}
	var answers, references [][]int32
	tokens := 0
	for at := 0; at < n; at += batch {
		var prompts [][]int32
		var rows []int64
		for i := at; i < min(at+batch, n); i++ {
			q, err := e.data.Sequence(ctx, i)
			if err != nil {
				return err
			}
			k := len(q.IDs) - q.Trained()
			prompts, references, rows = append(prompts, q.IDs[:k]), append(references, q.IDs[k:]), append(rows, int64(i))
		}
		var made [][]int32
		var err error
		if due && s.stage.EvalPad != nil {
			made, err = generate.AnswerPadded(ctx, s.tape, s.model, prompts, rows, g, stop, seed, *s.stage.EvalPad)
		} else {
			made, err = generate.Answer(ctx, s.tape, s.model, prompts, rows, g, stop, seed)
		}
		if err != nil {
			return err
		}
		for _, ids := range made {
			tokens += len(ids)
		}
		answers = append(answers, made...)
		s.t.Phase("eval_answers", int64(min(at+batch, n)), int64(n))
	}
	scores, err := e.answers.Score(e.prefix+"_", answers, references)
	if err != nil {
		return err
	}
	maps.Copy(values, scores)
	values[e.prefix+"_tokens"] = float64(tokens)
	return nil
}

// rowAccuracy adds up the rows' shares of labels that are the likeliest token, as LLaMA-Factory's ComputeAccuracy does. logits is
// [positions, vocabulary]; of equal logits the first counts.
func rowAccuracy(b *nn.Batch, logits []float32) float64 {
	targets := b.Targets()
	vocab := len(logits) / max(1, len(targets))
	bounds := b.Docs
	if len(bounds) == 0 {
		for r := range b.Rows + 1 {
			bounds = append(bounds, int32(r*b.Seq))
		}
	}
	sum := 0.0
	for d := 1; d < len(bounds); d++ {
		right, all := 0, 0
		for i := bounds[d-1]; i < bounds[d]; i++ {
			if targets[i] < 0 {
				continue
			}
			all++
			row := logits[int(i)*vocab : (int(i)+1)*vocab]
			best := 0
			for j, v := range row {
				if v > row[best] {
					best = j
				}
			}
			if best == int(targets[i]) {
				right++
			}
		}
		if all > 0 {
			sum += float64(right) / float64(all)
		}
	}
	return sum
}

// reduceEval turns the batches' values into the set's, as EvalReduce says. transformers divides the losses of the batches that its devices
// compute at a time by the number of all their labels (position 0 included) and averages over these turns.
func (s *session) reduceEval(e evalSet, batches [][]float64, values map[string]float64) {
	var loss, weight, targets, rows, accuracy float64
	turn := 1
	if s.stage.EvalReduce == "batches" && s.stage.Order != nil {
		turn = max(1, s.stage.Order.Deal)
	}
	for at := 0; at < len(batches); at += turn {
		var t [evalFields]float64
		for _, b := range batches[at:min(at+turn, len(batches))] {
			for f := range t {
				t[f] += b[f]
			}
		}
		targets, rows, accuracy = targets+t[1], rows+t[3], accuracy+t[4]
		if t[1] == 0 {
			continue
		}
		switch s.stage.EvalReduce {
		case "batches":
			loss, weight = loss+t[0]/t[2], weight+1
		case "rows":
			loss, weight = loss+t[0]/t[1]*t[3], weight+t[3]
		default:
			loss, weight = loss+t[0], weight+t[1]
		}
	}
	values[e.prefix+"_loss"] = loss / max(1, weight)
	values[e.prefix+"_tokens"] = targets
	if s.stage.EvalAccuracy {
		values[e.prefix+"_accuracy"] = accuracy / max(1, rows)
	}
	if r, ok := s.goal.(reporter); ok {
		mean := make([]float64, len(s.goal.metrics()))
		for _, b := range batches {
			for k := range mean {
				mean[k] += b[evalFields+k] / float64(len(batches))
			}
		}
		for name, v := range r.report(mean) {
			values[e.prefix+"_"+name] = v
		}
	}
}
