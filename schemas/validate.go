package schemas

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
)

// Limits of a spec.
const (
	maxStages = 64
	maxParts  = 4096
	maxWorld  = 4096
	maxWhole  = 1 << 20
)

// problems collects every problem of a spec, so that a user mends them all at once.
type problems []error

func (p *problems) add(place, format string, args ...any) {
	*p = append(*p, Errorf(CodeInvalid, place, format, args...))
}

func (p *problems) check(ok bool, place, format string, args ...any) {
	if !ok {
		p.add(place, format, args...)
	}
}

// WithDefaults fills what may be left out: version, tenant, aux pool, and per stage the optimizer's betas and epsilon, dtype, sharding,
// reduction, commit interval and world. It changes and returns s.
func (s *RunSpec) WithDefaults() *RunSpec {
	if s.Version == 0 {
		s.Version = SpecVersion
	}
	if s.Tenant == "" {
		s.Tenant = "default"
	}
	if s.Pool == "" {
		s.Pool = "cpu"
	}
	if s.AuxPool == "" {
		s.AuxPool = s.Pool
	}
	for i := range s.Stages {
		st := &s.Stages[i]
		if st.Prep != nil {
			if st.Prep.Parts == 0 {
				st.Prep.Parts = 1
			}
			if st.Prep.Factory != nil {
				st.Prep.Factory.WithDefaults()
			}
		}
		if st.Eval != nil && st.Eval.Slices == 0 {
			st.Eval.Slices = 1
		}
		if st.Train != nil {
			st.Train.withDefaults()
		}
	}
	return s
}

func (t *TrainStage) withDefaults() {
	str := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	num := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	str(&t.Method, "full")
	str(&t.DType, "fp32")
	str(&t.Sharding, "auto")
	str(&t.Reduction, "canonical")
	str(&t.Optim.Name, "adamw")
	str(&t.Optim.Schedule, "cosine")
	num(&t.Optim.Beta1, 0.9)
	num(&t.Optim.Beta2, 0.999)
	num(&t.Optim.Eps, 1e-8)
	num(&t.Optim.MaxGradNorm, 1)
	t.MicroBatch, t.Leaves = max(t.MicroBatch, 1), max(t.Leaves, 1)
	if t.CommitEvery == 0 {
		t.CommitEvery = 50
	}
	if t.World.Max == 0 {
		t.World.Max = max(1, t.World.Min)
	}
	if t.World.Min == 0 {
		t.World.Min = 1
	}
	if t.World.Nominal == 0 {
		t.World.Nominal = 1
	}
	t.adapterDefaults()
	t.objectiveDefaults()
}

// Validate reports every problem of the spec at once (errors.Join of *ErrorInfo with CodeInvalid and the place); nil when there is none.
func (s *RunSpec) Validate() error {
	var p problems
	p.check(s.Version == SpecVersion, "version", "is %d, this build reads %d", s.Version, SpecVersion)
	for _, f := range []struct{ place, v string }{{"tenant", s.Tenant}, {"pool", s.Pool}, {"aux_pool", s.AuxPool}} {
		p.check(ValidName(f.v), f.place, "%q is not a name (lower-case letters, digits, - and _, at most 63)", f.v)
	}
	p.check(s.ID == "" || ValidName(s.ID), "id", "%q is not a name", s.ID)
	p.check(len(s.Key) <= 256, "key", "has %d bytes, the limit is 256", len(s.Key))
	p.check(len(s.Name) <= 256, "name", "has %d bytes, the limit is 256", len(s.Name))
	p.check(s.Priority >= 0 && s.Priority <= 3, "priority", "is %d, must be 0 to 3", s.Priority)
	s.validateWhen(&p)
	p.check(len(s.Stages) > 0, "stages", "is empty: a run needs at least one stage")
	p.check(len(s.Stages) <= maxStages, "stages", "has %d stages, the limit is %d", len(s.Stages), maxStages)
	before := map[string]*Stage{}
	for i := range s.Stages {
		st := &s.Stages[i]
		place := fmt.Sprintf("stages[%d]", i)
		p.check(ValidName(st.Name), place+".name", "%q is not a name", st.Name)
		p.check(before[st.Name] == nil, place+".name", "%q appears twice", st.Name)
		for _, n := range st.Needs {
			p.check(before[n] != nil, place+".needs", "%q is not an earlier stage", n)
		}
		p.stage(st, place, before)
		before[st.Name] = st
	}
	return errors.Join(p...)
}

// stage checks the member that the kind names, and that there is no other.
func (p *problems) stage(st *Stage, place string, before map[string]*Stage) {
	set := map[StageKind]bool{KindPrep: st.Prep != nil, KindTrain: st.Train != nil, KindEval: st.Eval != nil, KindExport: st.Export != nil}
	if !slices.Contains(Kinds(), st.Kind) {
		p.add(place+".kind", "%q is unknown (prep, train, eval, export)", st.Kind)
		return
	}
	for _, k := range Kinds() {
		p.check(set[k] == (k == st.Kind), place+"."+string(k), "a stage of kind %s must have %s and nothing else", st.Kind, st.Kind)
	}
	if !set[st.Kind] {
		return
	}
	at := place + "." + string(st.Kind)
	switch st.Kind {
	case KindPrep:
		p.prep(st.Prep, at)
	case KindTrain:
		p.train(st, st.Train, at, before)
	case KindEval:
		p.eval(st, st.Eval, at, before)
	case KindExport:
		if m := st.Export.Model; m != nil {
			p.check(st.Export.From == "", at+".model", "cannot be given beside from")
			p.model(st, m, at+".model", before)
		} else {
			p.from(st, st.Export.From, at+".from", before)
		}
		for _, a := range st.Export.Adapters {
			p.ref(a, at+".adapters")
		}
		p.check(len(st.Export.Formats) > 0, at+".formats", "is empty (peft, merged)")
		for _, f := range st.Export.Formats {
			p.check(f == "peft" || f == "merged", at+".formats", "%q is unknown (peft, merged)", f)
		}
		p.precision(st.Export.DType, at+".dtype")
		if st.Export.Tokenizer != nil {
			p.ref(*st.Export.Tokenizer, at+".tokenizer")
		}
	}
}

func (p *problems) prep(s *PrepStage, at string) {
	if s.Factory != nil {
		p.factory(s.Factory, at+".factory")
	} else {
		p.ref(s.Data, at+".data")
	}
	p.ref(s.Tokenizer, at+".tokenizer")
	p.check(slices.Contains([]string{"", "json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow"}, s.Format), at+".format", "%q is unknown (json, jsonl, csv, tsv, txt, parquet, arrow)", s.Format)
	p.check(slices.Contains([]string{"", "fail", "skip", "quarantine"}, s.OnBadRow), at+".on_bad_row", "%q is unknown (fail, skip, quarantine)", s.OnBadRow)
	p.clean(&s.Clean, at+".clean")
	p.split(&s.Split, at+".split")
	p.sample(s.Sample, at+".sample")
	p.augment(s.Augment, at+".augment")
	p.check(s.Parts >= 1 && s.Parts <= maxParts, at+".parts", "is %d, must be 1 to %d", s.Parts, maxParts)
	p.check(len(s.Outputs) > 0, at+".outputs", "is empty")
	seen := map[string]bool{}
	for i, o := range s.Outputs {
		op := fmt.Sprintf("%s.outputs[%d]", at, i)
		p.check(ValidName(o.Name), op+".name", "%q is not a name", o.Name)
		p.check(!seen[o.Name], op+".name", "%q appears twice", o.Name)
		seen[o.Name] = true
		p.output(s, &o, op)
		p.check(o.CutoffLen >= 2 && o.CutoffLen <= 1<<20, op+".cutoff_len", "is %d, must be 2 to 1048576", o.CutoffLen)
	}
}

func (p *problems) train(st *Stage, t *TrainStage, at string, before map[string]*Stage) {
	p.objective(st, t, at, before)
	p.method(t, at)
	p.data(st, t.Data, at+".data", before)
	if t.Eval != "" {
		p.data(st, t.Eval, at+".eval", before)
	}
	p.order(st, t, at, before)
	p.model(st, &t.Model, at+".model", before)
	p.check(t.Steps > 0 || (finite(t.Epochs) && t.Epochs > 0), at+".epochs", "epochs or steps must be positive")
	p.check(t.Steps >= 0 && t.Epochs >= 0 && t.Epochs <= 1e6, at+".epochs", "steps and epochs must not be negative")
	p.check(t.MicroBatch >= 1 && t.MicroBatch <= 1<<16, at+".micro_batch", "is %d, must be 1 to 65536", t.MicroBatch)
	p.check(t.Leaves >= 1 && t.Leaves <= 1<<16, at+".leaves", "is %d, must be 1 to 65536", t.Leaves)
	p.check(slices.Contains([]string{"auto", "fp32", "bf16", "fp16"}, t.DType), at+".dtype", "%q is unknown (auto, fp32, bf16, fp16)", t.DType)
	m, _ := math.Frexp(t.LossScale)
	p.check(t.LossScale == 0 || m == 0.5 && t.LossScale >= 1 && t.LossScale <= 1<<40, at+".loss_scale", "is %g, must be a power of two from 1 to 2^40", t.LossScale)
	p.check(!t.PureBF16 || t.DType == "bf16", at+".pure_bf16", "needs dtype bf16, not %s", t.DType)
	p.check(slices.Contains([]string{"auto", "none", "zero2", "zero3", "hybrid"}, t.Sharding), at+".sharding", "%q is unknown (auto, none, zero2, zero3, hybrid)", t.Sharding)
	p.check(slices.Contains([]string{"canonical", "fast"}, t.Reduction), at+".reduction", "%q is unknown (canonical, fast)", t.Reduction)
	p.check(t.CommitEvery >= 1, at+".commit_every", "is %d, must be positive", t.CommitEvery)
	w := t.World
	p.check(w.Min >= 1 && w.Min <= w.Max && w.Max <= maxWorld, at+".world", "min %d and max %d: 1 <= min <= max <= %d must hold", w.Min, w.Max, maxWorld)
	p.check(w.Max <= t.Leaves, at+".world.max", "is %d, but a step has only %d leaves to deal out", w.Max, t.Leaves)
	p.check(slices.Contains([]string{"", "off", "on", "auto"}, t.Recompute), at+".recompute", "%q is unknown (off, on, auto)", t.Recompute)
	p.check(!t.OffloadActivations || t.Recompute != "off", at+".offload_activations",
		"keeps the inputs that blocks are computed again from in the host's memory, but recompute is off: without recomputation there are none")
	if g := t.EvalGenerate; g != nil {
		p.check(t.Objective == "sft" && t.Eval != "" && len(t.Evals) == 0 && !t.EvalAccuracy, at+".eval_generate", "needs objective sft and eval, without evals and eval_accuracy")
		f := t.Features
		p.check(f == nil || f.EarlyStopping == 0 && !f.LoadBest, at+".eval_generate", "measures no loss, which early_stopping and load_best need")
		p.generation(g, at+".eval_generate")
	}
	p.check(t.Pad == nil || slices.Contains([]string{"pt", "sft", "dpo", "kto"}, t.Objective), at+".pad", "is for the objectives pt, sft, dpo and kto, not %s", t.Objective)
	p.check(t.EvalPad == nil && t.EvalLast == nil || t.EvalGenerate != nil, at+".eval_pad", "needs eval_generate, as eval_last does")
	if t.EvalLast != nil {
		p.generation(t.EvalLast, at+".eval_last")
	}
	for key, d := range map[string]*Padding{".pad": t.Pad, ".eval_pad": t.EvalPad} {
		if d != nil {
			p.check(d.Multiple >= 1 && d.Multiple <= 1<<12, at+key+".multiple", "is %d, must be 1 to 4096", d.Multiple)
			p.check(d.ID >= 0, at+key+".id", "is %d, must be a token", d.ID)
			p.check(d.Whole >= 0 && d.Whole <= maxWhole, at+key+".whole", "is %d, must be 0 to %d", d.Whole, maxWhole)
		}
	}
	p.check(t.StepDelayMS >= 0 && t.StepDelayMS <= 60_000, at+".step_delay_ms", "is %d, must be 0 to 60000", t.StepDelayMS)
	p.optim(&t.Optim, at+".optim")
}

func (p *problems) eval(st *Stage, e *EvalStage, at string, before map[string]*Stage) {
	switch {
	case e.Choice != nil:
		p.choice(st, e, at, before)
	case e.Predict != nil:
		p.prediction(st, e, at, before)
	default:
		p.check(len(e.Models) > 0, at+".models", "is empty")
	}
	seen := map[string]bool{}
	for i, m := range e.Models {
		mp := fmt.Sprintf("%s.models[%d]", at, i)
		p.check(ValidName(m.Name), mp+".name", "%q is not a name", m.Name)
		p.check(!seen[m.Name], mp+".name", "%q appears twice", m.Name)
		seen[m.Name] = true
		if m.Base == nil {
			p.from(st, m.From, mp+".from", before)
		} else {
			p.check(m.From == "", mp+".base", "cannot be given beside from")
			p.ref(*m.Base, mp+".base")
		}
		p.check(m.Base != nil || len(m.Adapters) == 0, mp+".adapters", "are merged into a base; a stage has its own")
		for _, a := range m.Adapters {
			p.ref(a, mp+".adapters")
		}
	}
	for _, m := range e.Measures {
		p.check(slices.Contains([]string{MeasureClassification, MeasurePerplexity, MeasureGeneration}, m), at+".measures", "%q is unknown (%s, %s, %s)", m, MeasureClassification, MeasurePerplexity, MeasureGeneration)
	}
	if e.Choice == nil {
		p.data(st, e.Data, at+".data", before)
	}
	p.check(e.Slices >= 1 && e.Slices <= maxParts, at+".slices", "is %d, must be 1 to %d", e.Slices, maxParts)
	p.check(e.MaxNewTokens >= 0 && e.GenerateRows >= 0, at, "max_new_tokens and generate_rows must not be negative")
	p.scripts(e.Scripts, at+".scripts")
	p.precision(e.DType, at+".dtype")
}

// precision checks what something finished is computed or written in.
func (p *problems) precision(dtype, at string) {
	p.check(slices.Contains([]string{"", "auto", "fp32", "bf16", "fp16"}, dtype), at, "%q is unknown (auto, fp32, bf16, fp16)", dtype)
}

// data checks "<prep stage>/<output>".
func (p *problems) data(st *Stage, ref, place string, before map[string]*Stage) {
	stage, output, ok := strings.Cut(ref, "/")
	if !ok {
		p.add(place, "%q must be <prep stage>/<output>", ref)
		return
	}
	s := before[stage]
	if s == nil || s.Prep == nil {
		p.add(place, "%q: there is no earlier prep stage %q", ref, stage)
		return
	}
	if !slices.ContainsFunc(s.Prep.Outputs, func(o PrepOutput) bool { return o.Name == output }) {
		p.add(place, "%q: stage %q has no output %q", ref, stage, output)
	}
	p.check(needs(before, st.Needs, stage), place, "stage %q must need %q", st.Name, stage)
}

// model checks that exactly one source of weights is named.
func (p *problems) model(st *Stage, m *ModelSpec, at string, before map[string]*Stage) {
	n := 0
	for _, set := range []bool{m.From != "", m.Base != nil, len(m.Config) > 0} {
		if set {
			n++
		}
	}
	p.check(n == 1, at, "exactly one of from, base and config must be given, not %d", n)
	if m.From != "" {
		p.from(st, m.From, at+".from", before)
	}
	if m.Base != nil {
		p.ref(*m.Base, at+".base")
	}
	p.check(!m.ShortAttention || m.Base != nil, at+".short_attention", "only a base model can be given shifted short attention")
	p.check(m.RouterAux == 0 || m.Base != nil, at+".router_aux", "only a base model can be given a load-balancing loss")
	p.check(m.Vocab == 0 || m.Base != nil, at+".vocab", "only a base model's vocabulary can be grown")
	p.check(m.Vocab >= 0 && m.Vocab <= 1<<24, at+".vocab", "%d is not between 0 and %d", m.Vocab, 1<<24)
	p.check(m.RouterAux >= 0 && m.RouterAux <= 1e6, at+".router_aux", "%g is not between 0 and 1e6", m.RouterAux)
	if r := m.RopeScaling; r != nil {
		p.check(m.Base != nil, at+".rope_scaling", "only a base model can be stretched")
		p.check(slices.Contains(RopeScalings(), r.Type), at+".rope_scaling.type", "%q is unknown (%s are known)", r.Type, strings.Join(RopeScalings(), ", "))
		p.check(r.Length > 0 && r.Length <= 1<<24, at+".rope_scaling.length", "%d is not between 1 and %d", r.Length, 1<<24)
	}
}

// from checks "stage:<name>" and "run:<tenant>/<id>/<stage>".
func (p *problems) from(st *Stage, uri, place string, before map[string]*Stage) {
	if name, ok := strings.CutPrefix(uri, "stage:"); ok {
		s := before[name]
		if s == nil || s.Kind != KindTrain {
			p.add(place, "%q: there is no earlier train stage %q", uri, name)
			return
		}
		p.check(needs(before, st.Needs, name), place, "stage %q must need %q", st.Name, name)
		return
	}
	_, _, _, err := ParseRunURI(uri)
	p.check(err == nil, place, "%q must be stage:<name> or run:<tenant>/<id>/<stage>", uri)
}

// ref checks uploaded files.
func (p *problems) ref(r Ref, place string) {
	if r.URI != "" {
		_, _, _, err := ParseRunURI(r.URI)
		p.check(err == nil || strings.HasPrefix(r.URI, "stage:"), place, "%q must be run:<tenant>/<id>/<stage> or stage:<name>; files of hubs and other servers are fetched by tunefleet submit and train, which put their checksums here", r.URI)
		return
	}
	p.check(len(r.Files) > 0, place, "names no file")
	p.check(len(r.Origin) <= 2048, place, "origin has %d bytes, the limit is 2048", len(r.Origin))
	for _, f := range r.Files {
		p.check(ValidPath(f.Path), place, "%q is not a clean relative path", f.Path)
		p.check(ValidSHA256(f.SHA256), place, "%q: sha256 must be 64 lower-case hex digits", f.Path)
		p.check(f.Bytes >= 0, place, "%q: bytes must not be negative", f.Path)
	}
}

// needs reports whether stage is reachable through the needs of names; every stage is visited once.
func needs(before map[string]*Stage, names []string, stage string) bool {
	seen, todo := map[string]bool{}, slices.Clone(names)
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n == stage {
			return true
		}
		if s := before[n]; s != nil && !seen[n] {
			seen[n] = true
			todo = append(todo, s.Needs...)
		}
	}
	return false
}

// ParseRunURI reads "run:<tenant>/<id>/<stage>".
func ParseRunURI(uri string) (tenant, run, stage string, err error) {
	rest, ok := strings.CutPrefix(uri, "run:")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || !ValidName(parts[0]) || !ValidName(parts[1]) || !ValidName(parts[2]) {
		return "", "", "", Errorf(CodeInvalid, "", "%q is not run:<tenant>/<id>/<stage>", uri)
	}
	return parts[0], parts[1], parts[2], nil
}

// ValidPath reports whether s is a clean relative slash path without ".." and control characters, at most 512 bytes.
func ValidPath(s string) bool {
	if s == "" || len(s) > 512 || path.Clean(s) != s || path.IsAbs(s) || s == "." || s == ".." || strings.HasPrefix(s, "../") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == '\\' || r == 0x7f })
}

// ValidSHA256 reports whether s is 64 lower-case hexadecimal digits.
func ValidSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
