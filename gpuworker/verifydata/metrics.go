package verifydata

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
)

// scoreTolerance is how far scores may be from the reference library's.
const scoreTolerance = 1e-6

// metricsSuites compute metrics/ and sched/.
func metricsSuites() []Suite {
	file := func(name string) func(string) bool { return func(p string) bool { return p == name } }
	return []Suite{
		{Name: "jieba", Match: file("metrics/jieba_cases.jsonl"), Run: jiebaCases},
		{Name: "scores of pairs", Match: file("metrics/pairs.jsonl"), Run: scorePairs},
		{Name: "corpus scores", Match: file("metrics/corpus.json"), Run: scoreCorpus},
		{Name: "SQuAD", Match: file("metrics/squad.json"), Run: scoreSQuAD},
		{Name: "classification", Match: file("metrics/sklearn.json"), Run: scoreSklearn},
		{Name: "similarity", Match: file("metrics/compute_similarity.json"), Run: scoreSimilarity},
		{Name: "token accuracy", Match: file("metrics/compute_accuracy.json"), Run: scoreAccuracy},
		{Name: "jieba's tables", Input: func(p string) bool { return path.Dir(p) == "metrics/jieba" }, Match: func(string) bool { return false }},
		{Name: "learning rates", Match: file("sched/schedulers.json"), Run: scheduleRates},
		{Name: "warmup steps", Match: file("sched/warmup_steps.json"), Run: warmupSteps},
	}
}

// segmenter is jieba with the tables of the folder or of the base, or else those that ship with the program.
func segmenter(env *Env) (*jieba.Segmenter, error) {
	v, err := env.Shared("metrics/jieba", func() (any, error) {
		dir, err := env.Find("metrics/jieba")
		if err != nil {
			return jieba.Default()
		}
		return jieba.Open(os.DirFS(dir))
	})
	if err != nil {
		return nil, err
	}
	return v.(*jieba.Segmenter), nil
}

// text is a row's string; the error names what is missing.
func text(o *pyjson.Object, key string) (string, error) {
	s, ok := o.Value(key).(string)
	if !ok {
		return "", fmt.Errorf("%q is no string", key)
	}
	return s, nil
}

func jiebaCases(ctx context.Context, env *Env, f *File) ([]Case, error) {
	seg, err := segmenter(env)
	if err != nil {
		return nil, err
	}
	out := make([]Case, len(f.Rows))
	for i := range f.Rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := text(f.Row(i), "text")
		if err != nil {
			out[i] = Case{Err: err, Results: []string{"cut"}}
			continue
		}
		out[i] = Case{Order: []string{"text", "cut", "cut_no_hmm", "cut_all", "cut_for_search"}, Fields: []Field{
			{Key: "cut", Value: seg.Cut(t)}, {Key: "cut_no_hmm", Value: seg.CutNoHMM(t)}, {Key: "cut_all", Value: seg.CutAll(t)},
			{Key: "cut_for_search", Value: seg.CutForSearch(t)}}}
	}
	return out, nil
}

// pairOrder are the keys of a row of pairs.jsonl in the reference's order.
var pairOrder = []string{"id", "prediction", "reference", "jieba_prediction", "jieba_reference", "rouge_empty", "rouge_chinese", "lf_rouge", "bleu4_raw",
	"lf_bleu4", "rouge_score", "rouge_score_stem", "sacrebleu_sentence", "sentence_chrf", "sentence_chrfpp", "sentence_ter", "exact_match_raw", "squad_em",
	"squad_f1", "squad_norm_prediction"}

func scorePairs(ctx context.Context, env *Env, f *File) ([]Case, error) {
	seg, err := segmenter(env)
	if err != nil {
		return nil, err
	}
	out := make([]Case, len(f.Rows))
	for i := range f.Rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out[i] = scorePair(seg, f.Row(i))
	}
	return out, nil
}

func scorePair(seg *jieba.Segmenter, row *pyjson.Object) Case {
	c := Case{Order: pairOrder, Results: pairOrder[3:]}
	p, err := text(row, "prediction")
	if err != nil {
		c.Err = err
		return c
	}
	r, err := text(row, "reference")
	if err != nil {
		c.Err = err
		return c
	}
	set := func(key string, v any) {
		c.Fields = append(c.Fields, Field{Key: key, Value: v, Tolerance: scoreTolerance})
	}
	set("jieba_prediction", seg.Cut(p))
	set("jieba_reference", seg.Cut(r))
	sim, rouge, ok := metrics.ComputeSimilarity(seg, p, r)
	if !ok {
		set("rouge_empty", true)
	}
	chinese := func(s metrics.PRF) any {
		if !ok {
			return pyjson.NewObject("f", 0.0)
		}
		return pyjson.NewObject("r", s.R, "p", s.P, "f", s.F)
	}
	set("rouge_chinese", pyjson.NewObject("rouge-1", chinese(rouge.R1), "rouge-2", chinese(rouge.R2), "rouge-l", chinese(rouge.RL)))
	set("lf_rouge", pyjson.NewObject("rouge-1", sim.Rouge1, "rouge-2", sim.Rouge2, "rouge-l", sim.RougeL))
	bleu := metrics.BLEU4(p, r)
	set("bleu4_raw", bleu)
	set("lf_bleu4", zeroAsInt(sim.BLEU4, bleu == 0))
	set("rouge_score", rougeObject(metrics.RougeScore(p, r), p, r))
	set("rouge_score_stem", rougeObject(metrics.RougeScoreStemmed(p, r), p, r))
	sentence := &pyjson.Object{}
	refs := [][]string{{r}}
	for _, tok := range []string{"13a", "zh", "char"} {
		o := metrics.DefaultBLEU()
		o.Tokenize, o.EffectiveOrder = tok, true
		s, err := metrics.CorpusBLEU([]string{p}, refs, o)
		if err != nil {
			c.Err = err
			return c
		}
		sentence.Set(tok, s.Score)
	}
	set("sacrebleu_sentence", sentence)
	plain, plus := metrics.DefaultChrF(), metrics.DefaultChrF()
	plus.WordOrder = 2
	chrf, err1 := metrics.CorpusChrF([]string{p}, refs, plain)
	chrfpp, err2 := metrics.CorpusChrF([]string{p}, refs, plus)
	ter, err3 := metrics.CorpusTER([]string{p}, refs, metrics.TEROptions{})
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			c.Err = err
			return c
		}
	}
	set("sentence_chrf", chrf)
	set("sentence_chrfpp", chrfpp)
	set("sentence_ter", ter)
	set("exact_match_raw", flag(p == r))
	em, f1 := metrics.SQuAD(p, []string{r})
	set("squad_em", flag(em))
	set("squad_f1", f1)
	set("squad_norm_prediction", metrics.SQuADNormalize(p))
	return c
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// zeroAsInt is an integer zero where the Python library returns one.
func zeroAsInt(v float64, zero bool) any {
	if zero {
		return int64(0)
	}
	return v
}

// rougeObject writes rouge-score's numbers; its longest common subsequences of nothing are integers.
func rougeObject(s metrics.Rouge, p, r string) any {
	empty := len(metrics.Words(p)) == 0 || len(metrics.Words(r)) == 0
	one := func(x metrics.PRF, zero bool) any {
		return pyjson.NewObject("p", zeroAsInt(x.P, zero), "r", zeroAsInt(x.R, zero), "f", zeroAsInt(x.F, zero))
	}
	return pyjson.NewObject("rouge1", one(s.R1, false), "rouge2", one(s.R2, false), "rougeL", one(s.RL, empty), "rougeLsum", one(s.LSum, empty))
}

// document is the one value of a JSON file as a list of objects.
func document(f *File) ([]*pyjson.Object, error) {
	list, ok := f.Rows[0].([]any)
	if !ok {
		return nil, fmt.Errorf("%s is no list", f.Path)
	}
	out := make([]*pyjson.Object, len(list))
	for i, v := range list {
		if out[i], ok = v.(*pyjson.Object); !ok {
			return nil, fmt.Errorf("%s: item %d is no object", f.Path, i)
		}
	}
	return out, nil
}

// rebuild computes a list document: every item is copied and its computed keys are put in place, in the reference's order.
func rebuild(f *File, order, results []string, compute func(o *pyjson.Object) ([]Field, error)) ([]Case, error) {
	return rebuildWithin(f, scoreTolerance, order, results, compute)
}

// rebuildWithin is rebuild with a tolerance of its own.
func rebuildWithin(f *File, tolerance float64, order, results []string, compute func(o *pyjson.Object) ([]Field, error)) ([]Case, error) {
	items, err := document(f)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, o := range items {
		fields, err := compute(o)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		out[i] = place(o, Case{Order: order, Fields: fields})
	}
	return []Case{{Doc: &Field{Value: out, Tolerance: tolerance}, Results: results}}, nil
}

func scoreSQuAD(_ context.Context, _ *Env, f *File) ([]Case, error) {
	return rebuild(f, []string{"prediction", "answers", "exact_match", "f1"}, []string{"exact_match", "f1"}, func(o *pyjson.Object) ([]Field, error) {
		p, err := text(o, "prediction")
		if err != nil {
			return nil, err
		}
		answers, err := strs(o.Value("answers"))
		if err != nil {
			return nil, fmt.Errorf("answers: %w", err)
		}
		em, f1 := metrics.SQuAD(p, answers)
		return []Field{{Key: "exact_match", Value: flag(em)}, {Key: "f1", Value: f1}}, nil
	})
}

func strs(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("is no list")
	}
	out := make([]string, len(list))
	for i, x := range list {
		if out[i], ok = x.(string); !ok {
			return nil, fmt.Errorf("item %d is no string", i)
		}
	}
	return out, nil
}

func ints(v any) ([]int, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("is no list")
	}
	out := make([]int, len(list))
	for i, x := range list {
		n, ok := x.(int64)
		if !ok {
			return nil, fmt.Errorf("item %d is no integer", i)
		}
		out[i] = int(n)
	}
	return out, nil
}

func matrix(v any) ([][]int, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("is no list")
	}
	out := make([][]int, len(list))
	for i, x := range list {
		var err error
		if out[i], err = ints(x); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return out, nil
}
