package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// prefName is the folder of preference losses.
const prefName = "pref"

// prefLosses is pref/losses.json: settings, and the loss and gradient norm of each method.
type prefLosses struct {
	Beta            *float64       `json:"beta"`
	ChosenRewards   []float64      `json:"chosen_rewards"`
	RejectedRewards []float64      `json:"rejected_rewards"`
	KTO             map[string]any `json:"kto"`
	Reward          map[string]any `json:"reward_pairwise"`
	methods         map[string]lossNorm
}

type lossNorm struct {
	Loss     *float64 `json:"loss"`
	GradNorm *float64 `json:"grad_norm"`
}

// pref is one verification of the folder.
type pref struct {
	t    *train
	root *os.Root
	s    *session
	ref  prefLosses
	have bool // losses.json
	out  map[string]any

	pairs       batch // chosen, rejected, chosen, ...
	refLogps    []objective.LogProb
	policyLogps []objective.LogProb
}

// pairMethods are the pairwise losses of the fixtures by their names there.
func pairMethods(beta float64) map[string]objective.PairLoss {
	return map[string]objective.PairLoss{
		"dpo_sigmoid":        {Name: "sigmoid", Beta: beta},
		"dpo_sigmoid_ls0p1":  {Name: "sigmoid", Beta: beta, Smoothing: 0.1},
		"dpo_robust_ls0p1":   {Name: "robust", Beta: beta, Smoothing: 0.1},
		"dpo_ipo":            {Name: "ipo", Beta: beta},
		"dpo_hinge":          {Name: "hinge", Beta: beta},
		"dpo_sigmoid_ftx0p5": {Name: "sigmoid", Beta: beta, FTX: 0.5},
		"orpo_trl":           {Name: "orpo_trl", Beta: beta},
		"orpo_lf":            {Name: "orpo", Beta: beta},
		"simpo":              {Name: "simpo", Beta: 2, Gamma: 0.5},
	}
}

// preferences checks log-probabilities, losses, gradient norms and gradients of the preference losses: the policy is full_adamw's final
// weights, the reference the base model.
func (t *train) preferences(ctx context.Context) error {
	if st, err := t.root.Stat(prefName); err != nil || !st.IsDir() {
		t.rep.Absent = append(t.rep.Absent, prefName)
		return nil
	}
	root, err := t.root.OpenRoot(prefName)
	if err != nil {
		return fmt.Errorf("cannot open the folder: %w", err)
	}
	defer root.Close()
	if t.emit != nil {
		if err := t.emit.root.MkdirAll(prefName, 0o755); err != nil {
			return fmt.Errorf("cannot make output folder: %w", err)
		}
	}
	p := &pref{t: t, root: root, out: map[string]any{}}
	if err := p.readLosses(); err != nil {
		return err
	}
	if p.s, err = t.openPolicy(ctx); err != nil {
		return err
	}
	defer p.s.close()
	for _, step := range []func(context.Context) error{p.allPairs, p.kto, p.reward} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return p.emitLosses()
}

func (p *pref) readLosses() error {
	err := readJSON(p.root, "losses.json", &p.ref)
	if errors.Is(err, fs.ErrNotExist) {
		p.t.rep.Absent = append(p.t.rep.Absent, path.Join(prefName, "losses.json"))
		return nil
	}
	if err != nil {
		return err
	}
	p.have = true
	var all map[string]json.RawMessage
	if err := readJSON(p.root, "losses.json", &all); err != nil {
		return err
	}
	p.ref.methods = map[string]lossNorm{}
	for name, raw := range all {
		var m lossNorm
		if json.Unmarshal(raw, &m) == nil { // other entries are numbers and lists
			p.ref.methods[name] = m
		}
	}
	return nil
}

func (p *pref) beta() float64 {
	if p.ref.Beta != nil {
		return *p.ref.Beta
	}
	return 0.1
}

// number is a setting of losses.json's entry, or the fixtures' usual value.
func number(m map[string]any, key string, usual float64) float64 {
	if v, ok := m[key].(float64); ok {
		return v
	}
	return usual
}

// rows reads the tensors <prefix>input_ids, attention_mask and labels.
func (p *pref) rows(f *safetensors.File, prefix string) (batch, error) {
	ids, shape, err := readIDs(f, prefix+"input_ids", 2)
	if err != nil {
		return batch{}, err
	}
	mask, ms, err := readIDs(f, prefix+"attention_mask", 2)
	if err != nil {
		return batch{}, err
	}
	labels, ls, err := readIDs(f, prefix+"labels", 2)
	if err != nil {
		return batch{}, err
	}
	if !equal(shape, ms) || !equal(shape, ls) || shape[0] < 1 || shape[1] < 1 {
		return batch{}, schemas.Errorf(schemas.CodeData, prefix+"input_ids", "shapes of ids %v, mask %v and labels %v differ or are empty", shape, ms, ls)
	}
	return batch{rows: int(shape[0]), seq: int(shape[1]), ids: ids, mask: mask, labels: labels}, nil
}

// interleave makes chosen, rejected, chosen, ... of two batches.
func interleave(a, b batch) (batch, error) {
	if a.rows != b.rows || a.seq != b.seq {
		return batch{}, schemas.Errorf(schemas.CodeData, "chosen_input_ids", "%dx%d chosen and %dx%d rejected ids", a.rows, a.seq, b.rows, b.seq)
	}
	out := batch{rows: 2 * a.rows, seq: a.seq}
	for r := range a.rows {
		lo, hi := r*a.seq, (r+1)*a.seq
		out.ids = append(append(out.ids, a.ids[lo:hi]...), b.ids[lo:hi]...)
		out.mask = append(append(out.mask, a.mask[lo:hi]...), b.mask[lo:hi]...)
		out.labels = append(append(out.labels, a.labels[lo:hi]...), b.labels[lo:hi]...)
	}
	return out, nil
}

// open opens a file of the folder; nil when it is not there.
func (p *pref) open(name string) (*safetensors.File, error) {
	return p.t.openExtra(path.Join(prefName, name))
}

// score computes the log-probabilities of batches under the base model.
func (p *pref) score(ctx context.Context, batches ...batch) ([][]objective.LogProb, error) {
	s, err := openSession(ctx, p.t.base, p.t.o, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var out [][]objective.LogProb
	for _, b := range batches {
		l, err := objective.Score(ctx, s.tape, s.model, b.leaf())
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// zeroGrads clears what a pass may leave unwritten.
func (p *pref) zeroGrads(units []*nn.Unit) error {
	for _, u := range units {
		for _, q := range u.Params {
			if !q.Frozen { // the corrections of routers, which no training changes, have no gradient
				p.s.queue.Fill(kernels.Fill{Y: q.Grad})
			}
		}
	}
	return p.s.queue.Err()
}

// allPairs runs every pairwise loss.
func (p *pref) allPairs(ctx context.Context) error {
	f, err := p.open("batch.safetensors")
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	chosen, err := p.rows(f, "chosen_")
	if err != nil {
		return err
	}
	rejected, err := p.rows(f, "rejected_")
	if err != nil {
		return err
	}
	if p.pairs, err = interleave(chosen, rejected); err != nil {
		return err
	}
	ref, err := p.score(ctx, p.pairs)
	if err != nil {
		return err
	}
	p.refLogps = ref[0]
	methods := pairMethods(p.beta())
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if err := p.pair(ctx, name, methods[name]); err != nil {
			return fmt.Errorf("cannot verify %s: %w", name, err)
		}
	}
	return p.logps()
}

func (p *pref) pair(ctx context.Context, name string, l objective.PairLoss) error {
	if err := p.zeroGrads(p.s.model.Units()); err != nil {
		return err
	}
	n := float64(p.pairs.rows / 2)
	res, err := l.Backward(ctx, p.s.tape, p.s.model, p.pairs.leaf(), p.refLogps, 1/n)
	if err != nil {
		return err
	}
	if name == "dpo_sigmoid" {
		p.policyLogps = res.Policy
		var c, r []float64
		for i := 0; i < len(res.Rewards); i += 2 {
			c, r = append(c, res.Rewards[i]), append(r, res.Rewards[i+1])
		}
		p.list("chosen_rewards", c, p.ref.ChosenRewards)
		p.list("rejected_rewards", r, p.ref.RejectedRewards)
	}
	norm, err := p.s.gradNorm()
	if err != nil {
		return err
	}
	return p.result(name, name+".safetensors", res.Sum/n, norm, nil, p.s.trainable())
}

// result compares and emits loss and gradient norm of a method, its tensors, and the gradients.
func (p *pref) result(name, file string, loss, norm float64, more func(x *extraFile) error, params []*nn.Param) error {
	entry := map[string]any{"loss": loss, "grad_norm": norm}
	if old, ok := p.out[name].(map[string]any); ok {
		maps.Copy(old, entry)
		entry = old
	}
	p.out[name] = entry
	if want, ok := p.ref.methods[name]; ok {
		place := path.Join(prefName, "losses.json") + ":" + name
		p.scalar(place+".loss", loss, want.Loss)
		p.scalar(place+".grad_norm", norm, want.GradNorm)
	} else if p.have {
		p.t.rep.Absent = append(p.t.rep.Absent, path.Join(prefName, "losses.json")+":"+name)
	}
	ref, err := p.open(file)
	if err != nil {
		return err
	}
	if ref != nil {
		defer ref.Close()
	}
	x := p.t.extraFile(path.Join(prefName, file), ref)
	err = errors.Join(x.floats("loss", nil, []float32{float32(loss)}), x.floats("grad_norm", nil, []float32{float32(norm)}), x.grads(p.s, params))
	if more != nil {
		err = errors.Join(err, more(x))
	}
	return errors.Join(err, x.close())
}

func (p *pref) scalar(place string, got float64, want *float64) {
	if want == nil {
		p.t.rep.Absent = append(p.t.rep.Absent, place)
		return
	}
	p.t.rep.add(relative(place, got, *want, scalarRel, tensorFloor))
}

// entry compares a number of losses.json's entry m, which may hold settings alone.
func (p *pref) entry(place string, m map[string]any, key string, got, rel, floor float64) {
	want, ok := m[key].(float64)
	if !ok {
		p.t.rep.Absent = append(p.t.rep.Absent, place+key)
		return
	}
	p.t.rep.add(relative(place+key, got, want, rel, floor))
}

// list compares numbers that are differences of sums: to the tolerance of those sums.
func (p *pref) list(key string, got, want []float64) {
	p.out[key] = got
	place := path.Join(prefName, "losses.json") + ":" + key
	if want == nil {
		p.t.rep.Absent = append(p.t.rep.Absent, place)
		return
	}
	row := Row{Place: place, OK: len(got) == len(want), Limit: 1e-4, Note: "largest |d|"}
	for i := range min(len(got), len(want)) {
		row.Error = max(row.Error, math.Abs(got[i]-want[i]))
	}
	row.OK = row.OK && row.Error <= row.Limit
	p.t.rep.add(row)
}

func split(l []objective.LogProb, first int) (sum []float32, n []int64) {
	for i := first; i < len(l); i += 2 {
		sum, n = append(sum, float32(l[i].Sum)), append(n, int64(l[i].Len))
	}
	return sum, n
}

func every(l []objective.LogProb) []float32 {
	var out []float32
	for _, x := range l {
		out = append(out, float32(x.Sum))
	}
	return out
}

// logps compares the summed log-probabilities.
func (p *pref) logps() error {
	ref, err := p.open("logps.safetensors")
	if err != nil {
		return err
	}
	if ref != nil {
		defer ref.Close()
	}
	x := p.t.extraFile(path.Join(prefName, "logps.safetensors"), ref)
	pc, cl := split(p.policyLogps, 0)
	pr, rl := split(p.policyLogps, 1)
	rc, _ := split(p.refLogps, 0)
	rr, _ := split(p.refLogps, 1)
	n := []int64{int64(len(pc))}
	return errors.Join(x.ints("chosen_len", n, cl), x.ints("rejected_len", n, rl),
		x.floats("policy_chosen_logps", n, pc), x.floats("policy_rejected_logps", n, pr),
		x.floats("ref_chosen_logps", n, rc), x.floats("ref_rejected_logps", n, rr), x.close())
}

// kto runs KTO over the rows of kto_batch, whose kl_* rows give the divergence.
func (p *pref) kto(ctx context.Context) error {
	f, err := p.open("kto_batch.safetensors")
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	rows, err := p.rows(f, "")
	if err != nil {
		return err
	}
	kl, err := p.rows(f, "kl_")
	if err != nil {
		return err
	}
	marks, shape, err := readIDs(f, "desirable", 1)
	if err != nil {
		return err
	}
	if shape[0] != int64(rows.rows) {
		return schemas.Errorf(schemas.CodeData, "desirable", "%d marks for %d rows", shape[0], rows.rows)
	}
	desirable := make([]bool, len(marks))
	for i, m := range marks {
		desirable[i] = m != 0
	}
	ref, err := p.score(ctx, rows, kl)
	if err != nil {
		return err
	}
	policyKL, err := objective.Score(ctx, p.s.tape, p.s.model, kl.leaf())
	if err != nil {
		return err
	}
	k := objective.KTO{Beta: p.beta(), Desirable: number(p.ref.KTO, "desirable_weight", 1), Undesirable: number(p.ref.KTO, "undesirable_weight", 1.3)}
	raw := objective.Divergence(policyKL, ref[1])
	if err := p.zeroGrads(p.s.model.Units()); err != nil {
		return err
	}
	n := float64(rows.rows)
	res, err := k.Backward(ctx, p.s.tape, p.s.model, rows.leaf(), ref[0], desirable, max(0, raw), 1/n)
	if err != nil {
		return err
	}
	norm, err := p.s.gradNorm()
	if err != nil {
		return err
	}
	p.out["kto"] = map[string]any{"kl": max(0, raw), "kl_raw": raw, "desirable_weight": k.Desirable, "undesirable_weight": k.Undesirable}
	if p.ref.KTO != nil {
		place := path.Join(prefName, "losses.json") + ":kto."
		// A mean of differences of sums: to the tolerance of those.
		p.entry(place, p.ref.KTO, "kl", max(0, raw), scalarRel, 1e-4)
		p.entry(place, p.ref.KTO, "kl_raw", raw, scalarRel, 1e-4)
	}
	rowsShape := []int64{int64(rows.rows)}
	return p.result("kto", "kto.safetensors", res.Sum/n, norm, func(x *extraFile) error {
		return errors.Join(x.floats("kl", nil, []float32{float32(max(0, raw))}),
			x.floats("policy_logps", rowsShape, every(res.Policy)), x.floats("ref_logps", rowsShape, every(ref[0])),
			x.floats("policy_kl_logps", rowsShape, every(policyKL)), x.floats("ref_kl_logps", rowsShape, every(ref[1])))
	}, p.s.trainable())
}

// reward runs the pairwise loss of a reward model with the value head that the folder gives.
func (p *pref) reward(ctx context.Context) error {
	f, err := p.open("reward.safetensors")
	if f == nil || err != nil || p.pairs.rows == 0 {
		return err
	}
	defer f.Close()
	head := objective.NewValueHead(p.s.model.Info().Hidden)
	store, err := nn.NewStorage(p.s.dev, p.s.queue, []*nn.Unit{head.Unit()}, true)
	if err != nil {
		return err
	}
	defer store.Close()
	weights := map[string][]float32{}
	for _, q := range head.Unit().Params {
		q.Name = "v_head." + path.Ext(q.Name)[1:]
		v, _, err := f.Float32(q.Name)
		if err != nil {
			return err
		}
		if int64(len(v)) != q.Len() {
			return schemas.Errorf(schemas.CodeData, q.Name, "has %d elements, the model needs %d", len(v), q.Len())
		}
		if err := kernels.Upload(p.s.queue, q.Data, v); err != nil {
			return err
		}
		weights[q.Name] = v
	}
	units := append(slices.Clone(p.s.model.Units()), head.Unit())
	if err := p.zeroGrads(units); err != nil {
		return err
	}
	n := float64(p.pairs.rows / 2)
	res, err := head.Reward(ctx, p.s.tape, p.s.model, p.pairs.leaf(), 1/n, true)
	if err != nil {
		return err
	}
	norm, err := p.s.gradNorm(head.Unit())
	if err != nil {
		return err
	}
	accuracy := float64(res.Correct()) / n
	p.out["reward_pairwise"] = map[string]any{"accuracy": accuracy}
	if p.ref.Reward != nil {
		p.entry(path.Join(prefName, "losses.json")+":reward_pairwise.", p.ref.Reward, "accuracy", accuracy, 1e-6, 0)
	}
	var chosen, rejected []float32
	for i := 0; i < len(res.Scores); i += 2 {
		chosen, rejected = append(chosen, float32(res.Scores[i])), append(rejected, float32(res.Scores[i+1]))
	}
	shape := []int64{int64(len(chosen))}
	return p.result("reward_pairwise", "reward.safetensors", res.Sum/n, norm, func(x *extraFile) error {
		errs := []error{x.floats("chosen_scores", shape, chosen), x.floats("rejected_scores", shape, rejected)}
		for _, q := range head.Unit().Params {
			errs = append(errs, x.floats(q.Name, q.Shape, weights[q.Name]))
		}
		return errors.Join(errs...)
	}, append(p.s.trainable(), head.Unit().Params...))
}

func (p *pref) emitLosses() error {
	if p.t.emit == nil {
		return nil
	}
	p.out["beta"] = p.beta()
	doc, err := json.MarshalIndent(p.out, "", " ")
	if err != nil {
		return fmt.Errorf("cannot encode losses: %w", err)
	}
	file := path.Join(prefName, "losses.json")
	if err := p.t.emit.root.WriteFile(file, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write losses: %w", err)
	}
	p.t.rep.Emitted = append(p.t.rep.Emitted, file)
	return nil
}
