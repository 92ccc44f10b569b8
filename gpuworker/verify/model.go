package verify

import (
	"context"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

// Limits of the comparison: a tensor passes when ||d|| <= tensorRel ||g|| + tensorFloor; losses and norms when within scalarRel.
const (
	tensorRel   = 1e-4
	tensorFloor = 1e-7
	scalarRel   = 1e-4
	balanceRel  = 1e-5
)

// limits are what a comparison accepts: relative L2 errors of logits and gradients, relative errors of the loss, of the other scalars, of
// the load-balancing loss and of the loss with it. 0 reports without a limit.
type limits struct{ logits, grads, loss, scalars, balance, total float64 }

// limits of the element type: references are fp32, so 16 bits are held to what the digits of bf16 allow.
func (o Options) limits() limits {
	if o.DType == "bf16" || o.DType == "fp16" {
		return limits{logits: 5e-2, loss: 2e-2, total: 2e-2}
	}
	return limits{logits: tensorRel, grads: tensorRel, loss: scalarRel, scalars: scalarRel, balance: balanceRel, total: balanceRel}
}

// reported makes a row one that cannot fail where there is no limit.
func reported(row Row, limit float64) Row {
	if limit == 0 {
		row.OK, row.Limit, row.Note = true, 0, row.Note+" (reported only)"
	}
	return row
}

// newTokens is the number of generated tokens of a golden file (README of the fixtures: always 24).
const newTokens = 24

const goldenName = "golden.safetensors"

// modelResult is what the engine computed for a golden file.
type modelResult struct {
	b        batch
	vocab    int
	logits   []float32
	loss     float64
	gradNorm float64
	params   []*nn.Param
	grads    map[string][]float32
	rowLoss  []float32
	gen      []int64
	// balance is the routers' load-balancing loss, and total the loss with it; models without experts have none.
	balance, total float64
	balanced       bool
	// lengthDependent says that the rotary frequencies of the last generated token differ from those of the first.
	lengthDependent bool
}

// VerifyModel computes logits, loss, every gradient and a greedy continuation for the inputs in dir/golden.safetensors with the model in
// dir, compares them with the references in that file, and with Emit writes them. The error is about running at all; whether results
// agree is Report.Pass (see Report.Err). References that are missing fail the verification, unless the file holds inputs alone and
// results are emitted.
func VerifyModel(ctx context.Context, dir string, o Options) (*Report, error) {
	if err := o.device(); err != nil {
		return nil, err
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := safetensors.Open(root, goldenName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := openSession(ctx, root, o, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	rep := &Report{Kind: "model", Dir: dir}
	res, err := computeModel(ctx, s, f, o)
	if err != nil {
		return nil, err
	}
	if err := emitModel(o.Emit, rep, res); err != nil {
		return nil, err
	}
	if err := compareModel(rep, f, res, o); err != nil {
		return nil, err
	}
	rep.finish()
	return rep, nil
}

func computeModel(ctx context.Context, s *session, f *safetensors.File, o Options) (*modelResult, error) {
	vocab := s.model.Info().Vocab
	bs, err := readBatches(f, 2, vocab)
	if err != nil {
		return nil, err
	}
	r := &modelResult{b: bs[0], vocab: vocab, grads: map[string][]float32{}}
	o.progress("logits", 0, 3)
	if r.logits, err = s.logits(ctx, r.b); err != nil {
		return nil, err
	}
	o.progress("gradients", 1, 3)
	tokens := r.b.shiftedTokens()
	leaf := r.b.leaf()
	if s.model.Info().Experts > 0 {
		// Measured only: the references' gradients are those of the loss without it.
		leaf.Balance = &ops.RouterLoss{}
	}
	got, err := objective.Backward(ctx, s.tape, s.model, leaf, int64(tokens))
	if err != nil {
		return nil, err
	}
	r.loss = got.Sum / float64(tokens)
	if r.balanced = leaf.Balance != nil; r.balanced {
		if r.balance, err = leaf.Balance.Value(s.tape); err != nil {
			return nil, err
		}
		r.total = r.loss + s.model.Info().RouterAuxCoef*r.balance
		leaf.Balance = nil
	}
	if r.gradNorm, err = s.gradNorm(); err != nil {
		return nil, err
	}
	r.params = s.trainable()
	for _, p := range r.params {
		g, err := nn.Read(s.queue, p.Grad)
		if err != nil {
			return nil, err
		}
		r.grads[p.Name] = nn.FileOrder(p, g)
	}
	if err := r.rows(ctx, s, leaf); err != nil {
		return nil, err
	}
	o.progress("generation", 2, 3)
	if r.gen, err = greedy(ctx, s, f, "gen.prompt_ids"); err != nil {
		return nil, err
	}
	if i, ok := f.Info("gen.prompt_ids"); ok && len(i.Shape) == 2 {
		limit := s.model.Info().LengthLimit
		r.lengthDependent = limit > 0 && int(i.Shape[1])+len(r.gen) > limit
	}
	o.progress("generation", 3, 3)
	return r, nil
}

// rows computes the loss sum of each row.
func (r *modelResult) rows(ctx context.Context, s *session, leaf *nn.Batch) error {
	s.tape.Reset(ctx, false)
	lp, err := s.tape.Read(s.model.LogProbs(s.tape, leaf, 1))
	if err != nil {
		return err
	}
	for row := range r.b.rows {
		var sum float64
		for _, v := range lp[row*r.b.seq : (row+1)*r.b.seq] {
			sum -= float64(v)
		}
		r.rowLoss = append(r.rowLoss, float32(sum))
	}
	return nil
}

// gradNorm is the norm over the model's gradients and those of further units.
func (s *session) gradNorm(more ...*nn.Unit) (float64, error) {
	return optim.GradNorm(s.queue, append(slices.Clone(s.model.Units()), more...))
}

// greedy continues the prompt of that name, when the file has it.
func greedy(ctx context.Context, s *session, f *safetensors.File, name string) ([]int64, error) {
	return greedySteps(ctx, s, f, name, nil)
}

// greedySteps also shows the logits of every step.
func greedySteps(ctx context.Context, s *session, f *safetensors.File, name string, observe func(logits []float32)) ([]int64, error) {
	if _, ok := f.Info(name); !ok {
		return nil, nil
	}
	ids, shape, err := readIDs(f, name, 2)
	if err != nil {
		return nil, err
	}
	vocab := int64(s.model.Info().Vocab)
	if shape[0] != 1 || shape[1] < 1 || slices.Min(ids) < 0 || slices.Max(ids) >= vocab {
		return nil, schemas.Errorf(schemas.CodeData, name, "must be one row of ids of the vocabulary")
	}
	prompt := make([]int32, len(ids))
	for i, id := range ids {
		prompt[i] = int32(id)
	}
	out, err := generate.Generate(ctx, s.tape, s.model, [][]int32{prompt}, generate.Options{MaxNewTokens: newTokens, Observe: observe}, nil)
	if err != nil {
		return nil, err
	}
	gen := make([]int64, len(out[0]))
	for i, id := range out[0] {
		gen[i] = int64(id)
	}
	return gen, nil
}

func emitModel(dir string, rep *Report, r *modelResult) error {
	e, err := newEmitter(dir, rep)
	if e == nil || err != nil {
		return err
	}
	defer e.close()
	entries := []safetensors.Entry{
		{Name: "logits", Shape: []int64{int64(r.b.rows), int64(r.b.seq), int64(r.vocab)}, Float32: r.logits},
		{Name: "loss", Float32: []float32{float32(r.loss)}},
		{Name: "grad_norm", Float32: []float32{float32(r.gradNorm)}},
		{Name: "row_loss_sum", Shape: []int64{int64(r.b.rows)}, Float32: r.rowLoss},
	}
	if r.balanced {
		entries = append(entries, safetensors.Entry{Name: "aux_loss", Float32: []float32{float32(r.balance)}},
			safetensors.Entry{Name: "loss_with_aux", Float32: []float32{float32(r.total)}})
	}
	for _, p := range r.params {
		entries = append(entries, safetensors.Entry{Name: "grad." + p.Name, Shape: p.FileShape(), Float32: r.grads[p.Name]})
	}
	if r.gen != nil {
		entries = append(entries, safetensors.Entry{Name: "gen.ids", Shape: []int64{1, int64(len(r.gen))}, Int64: r.gen})
	}
	return e.tensors(goldenName, entries)
}

// scalar is a number to be compared with the reference of that name.
type scalar struct {
	name  string
	got   float64
	limit float64
	// needed references fail the verification when they are missing.
	needed bool
}

// compareModel checks every reference that the folder's layout prescribes.
func compareModel(rep *Report, f *safetensors.File, r *modelResult, o Options) error {
	missing, lim := map[string]bool{}, o.limits()
	tensor := func(name string, got []float32, limit float64, keep func(int) bool) error {
		if _, ok := f.Info(name); !ok {
			missing[name] = true
			return nil
		}
		want, _, err := f.Float32(name)
		if err != nil {
			return err
		}
		rep.add(reported(l2(name, got, want, keep, limit, tensorFloor), limit))
		return nil
	}
	attended := func(i int) bool { return r.b.mask[i/r.vocab] == 1 }
	if err := tensor("logits", r.logits, lim.logits, attended); err != nil {
		return err
	}
	for _, p := range r.params {
		if err := tensor("grad."+p.Name, r.grads[p.Name], lim.grads, nil); err != nil {
			return err
		}
	}
	scalars := []scalar{{"loss", r.loss, lim.loss, true}, {"grad_norm", r.gradNorm, lim.scalars, true}}
	if r.balanced {
		scalars = append(scalars, scalar{"aux_loss", r.balance, lim.balance, false}, scalar{"loss_with_aux", r.total, lim.total, false})
	}
	for _, x := range scalars {
		if _, ok := f.Info(x.name); !ok {
			missing[x.name] = x.needed
			continue
		}
		want, _, err := f.Float32(x.name)
		if err != nil {
			return err
		}
		if len(want) != 1 {
			return schemas.Errorf(schemas.CodeData, x.name, "is not a scalar")
		}
		rep.add(reported(relative(x.name, x.got, float64(want[0]), x.limit, 0), x.limit))
	}
	if _, ok := f.Info("row_loss_sum"); ok {
		want, _, err := f.Float32("row_loss_sum")
		if err != nil {
			return err
		}
		rep.add(reported(l2("row_loss_sum", r.rowLoss, want, nil, lim.loss, tensorFloor), lim.loss))
	}
	if err := compareGen(rep, f, r, o, missing); err != nil {
		return err
	}
	unknownGrads(rep, f, r)
	absent := make([]string, 0, len(missing))
	for n, needed := range missing {
		if needed {
			absent = append(absent, n)
		}
	}
	slices.Sort(absent)
	if len(rep.Rows) == 0 && o.Emit != "" {
		rep.Absent = absent
		return nil
	}
	for _, n := range absent {
		rep.fail(n, "reference tensor is missing from "+goldenName)
	}
	return nil
}

// unknownGrads fails gradients of tensors that the model does not have.
func unknownGrads(rep *Report, f *safetensors.File, r *modelResult) {
	for _, i := range f.Infos() {
		if name, ok := strings.CutPrefix(i.Name, "grad."); ok && r.grads[name] == nil {
			rep.fail(i.Name, "the model has no such parameter")
		}
	}
}

// compareGen compares the greedy continuation. Where the frequencies change with the length (dynamic rope), transformers' cached
// generation differs from a full pass by itself, so only the number of tokens is checked.
func compareGen(rep *Report, f *safetensors.File, r *modelResult, o Options, missing map[string]bool) error {
	const name = "gen.ids"
	if r.gen == nil {
		missing["gen.prompt_ids"] = true
	}
	if _, ok := f.Info(name); !ok {
		missing[name] = true
		return nil
	}
	want, _, err := f.Int64(name)
	if err != nil {
		return err
	}
	row := sameIDs(name, r.gen, want)
	if !row.OK && len(want) == len(r.gen) && r.lengthDependent {
		row.OK, row.Note = true, row.Note+" (not required: rotary frequencies depend on the length)"
	}
	rep.add(reported(row, o.limits().grads))
	return nil
}
