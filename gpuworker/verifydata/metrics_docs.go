package verifydata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
)

// corpusResults are the keys of corpus.json that are computed.
var corpusResults = []string{"score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature", "lf_mean"}

// scoreCorpus scores the lists of pairs that corpus.json names; the texts are those of pairs.jsonl.
func scoreCorpus(ctx context.Context, env *Env, f *File) ([]Case, error) {
	doc, ok := f.Rows[0].(*pyjson.Object)
	if !ok {
		return nil, fmt.Errorf("%s is no object", f.Path)
	}
	pairs, err := env.ReadFile("metrics/pairs.jsonl")
	if err != nil {
		return nil, err
	}
	type pair struct{ prediction, reference string }
	texts, byID := []pair{}, map[int64]pair{}
	for i := range pairs.Rows {
		row := pairs.Row(i)
		p, err := text(row, "prediction")
		if err != nil {
			return nil, err
		}
		r, err := text(row, "reference")
		if err != nil {
			return nil, err
		}
		texts = append(texts, pair{p, r})
		if id, ok := row.Value("id").(int64); ok {
			byID[id] = pair{p, r}
		}
	}
	ids, err := ints(doc.Value("ids"))
	if err != nil {
		return nil, fmt.Errorf("ids: %w", err)
	}
	second := map[int]string{}
	if refs, err := strs(doc.Value("refs2")); err == nil {
		for i, r := range refs {
			if i < len(ids) {
				second[ids[i]] = r
			}
		}
	}
	seg, err := segmenter(env)
	if err != nil {
		return nil, err
	}
	var all []metrics.Similarity
	for _, t := range texts {
		s, _, _ := metrics.ComputeSimilarity(seg, t.prediction, t.reference)
		all = append(all, s)
	}
	list, ok := doc.Value("corpus").([]any)
	if !ok {
		return nil, errors.New("corpus is no list")
	}
	out := make([]any, len(list))
	for i, v := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o, ok := v.(*pyjson.Object)
		if !ok {
			return nil, fmt.Errorf("corpus[%d] is no object", i)
		}
		which, err := ints(o.Value("ids"))
		if err != nil {
			return nil, fmt.Errorf("corpus[%d].ids: %w", i, err)
		}
		n, _ := o.Value("n_refs").(int64)
		var hyp []string
		var refs [][]string
		for _, id := range which {
			t, ok := byID[int64(id)]
			if !ok {
				return nil, fmt.Errorf("corpus[%d]: there is no pair %d", i, id)
			}
			hyp, refs = append(hyp, t.prediction), append(refs, []string{t.reference})
			if n > 1 {
				refs[len(refs)-1] = append(refs[len(refs)-1], second[id])
			}
		}
		fields, err := corpusScore(o, hyp, refs, int(n))
		if err != nil {
			return nil, fmt.Errorf("corpus[%d]: %w", i, err)
		}
		out[i] = place(o, Case{Order: append([]string{"metric", "args", "ids", "n_refs"}, corpusResults...), Fields: fields})
	}
	value := place(doc, Case{Order: []string{"ids", "lf_mean", "refs2", "corpus"}, Fields: []Field{
		{Key: "lf_mean", Value: similarityObject(metrics.MeanSimilarity(all))}, {Key: "corpus", Value: out}}})
	return []Case{{Doc: &Field{Value: value, Tolerance: scoreTolerance}, Results: corpusResults}}, nil
}

func similarityObject(s metrics.Similarity) *pyjson.Object {
	return pyjson.NewObject("rouge-1", s.Rouge1, "rouge-2", s.Rouge2, "rouge-l", s.RougeL, "bleu-4", s.BLEU4)
}

// kwargs reads keyword arguments and reports those that nobody asked for.
type kwargs struct {
	o    *pyjson.Object
	seen map[string]bool
}

func (k *kwargs) flag(name string) bool {
	k.seen[name] = true
	b, _ := k.o.Value(name).(bool)
	return b
}

func (k *kwargs) num(name string, otherwise float64) float64 {
	k.seen[name] = true
	if v, ok := number(k.o.Value(name)); ok {
		return v
	}
	return otherwise
}

func (k *kwargs) str(name, otherwise string) string {
	k.seen[name] = true
	if s, ok := k.o.Value(name).(string); ok {
		return s
	}
	return otherwise
}

func (k *kwargs) err() error {
	for _, name := range k.o.Keys() {
		if !k.seen[name] {
			return fmt.Errorf("unknown argument %q", name)
		}
	}
	return nil
}

func corpusScore(o *pyjson.Object, hyp []string, refs [][]string, n int) ([]Field, error) {
	args, _ := o.Value("args").(*pyjson.Object)
	k := &kwargs{o: args, seen: map[string]bool{}}
	switch o.Value("metric") {
	case "bleu":
		opts := metrics.BLEUOptions{Tokenize: k.str("tokenize", ""), Lowercase: k.flag("lowercase"), Smooth: k.str("smooth_method", ""),
			Value: k.num("smooth_value", 0), MaxOrder: int(k.num("max_ngram_order", 0)), EffectiveOrder: k.flag("effective_order")}.WithDefaults()
		k.flag("force") // only silences a warning
		if err := k.err(); err != nil {
			return nil, err
		}
		s, err := metrics.CorpusBLEU(hyp, refs, opts)
		if err != nil {
			return nil, err
		}
		// Python's counts become floats where a float was added; nothing is added to a text without a hit.
		_, fraction := k.o.Value("smooth_value").(float64)
		fraction = fraction && slices.ContainsFunc(s.Counts, func(c float64) bool { return c != 0 })
		count := func(v []float64) []any {
			out := make([]any, len(v))
			for i, x := range v {
				out[i] = int64(x)
				if fraction && i > 0 && opts.Smooth == "add-k" {
					out[i] = x
				}
			}
			return out
		}
		precisions := make([]any, len(s.Precisions))
		for i, p := range s.Precisions {
			precisions[i] = p
		}
		return []Field{{Key: "score", Value: s.Score}, {Key: "counts", Value: count(s.Counts)}, {Key: "totals", Value: count(s.Totals)},
			{Key: "precisions", Value: precisions}, {Key: "bp", Value: s.BP}, {Key: "sys_len", Value: int64(s.SysLen)},
			{Key: "ref_len", Value: int64(s.RefLen)}, {Key: "signature", Value: opts.Signature(n)}}, nil
	case "chrf":
		d := metrics.DefaultChrF()
		opts := metrics.ChrFOptions{CharOrder: int(k.num("char_order", float64(d.CharOrder))), WordOrder: int(k.num("word_order", 0)),
			Beta: k.num("beta", d.Beta), Lowercase: k.flag("lowercase"), Whitespace: k.flag("whitespace"), EpsSmoothing: k.flag("eps_smoothing")}
		if err := k.err(); err != nil {
			return nil, err
		}
		s, err := metrics.CorpusChrF(hyp, refs, opts)
		return withSignature(o, s, opts.Signature(n)), err
	case "ter":
		opts := metrics.TEROptions{Normalized: k.flag("normalized"), NoPunct: k.flag("no_punct"), AsianSupport: k.flag("asian_support"),
			CaseSensitive: k.flag("case_sensitive")}
		if err := k.err(); err != nil {
			return nil, err
		}
		s, err := metrics.CorpusTER(hyp, refs, opts)
		return withSignature(o, s, opts.Signature(n)), err
	}
	return nil, fmt.Errorf("unknown metric %v", o.Value("metric"))
}

// withSignature is a score, with the signature where the row has one: the reference writes it for BLEU only.
func withSignature(o *pyjson.Object, score float64, signature string) []Field {
	out := []Field{{Key: "score", Value: score}}
	if _, ok := o.Get("signature"); ok {
		out = append(out, Field{Key: "signature", Value: signature})
	}
	return out
}

var sklearnOrder = []string{"y_true", "y_pred", "accuracy", "mcc", "labels", "confusion_matrix", "macro", "micro", "weighted", "per_class", "binary_pos1"}

func scoreSklearn(_ context.Context, _ *Env, f *File) ([]Case, error) {
	results := append(slices.Clone(sklearnOrder[2:]), "precision", "recall", "f1", "support")
	return rebuild(f, sklearnOrder, results, func(o *pyjson.Object) ([]Field, error) {
		truth, ok1 := o.Value("y_true").([]any)
		predicted, ok2 := o.Value("y_pred").([]any)
		if !ok1 || !ok2 {
			return nil, errors.New("y_true and y_pred must be lists")
		}
		labels := slices.Concat(truth, predicted)
		slices.SortFunc(labels, comparePython)
		labels = slices.CompactFunc(labels, pyjson.Equal)
		index := func(v []any) []int {
			out := make([]int, len(v))
			for i, x := range v {
				out[i] = slices.IndexFunc(labels, func(l any) bool { return pyjson.Equal(l, x) })
			}
			return out
		}
		m, err := metrics.ScoreClasses(index(truth), index(predicted), len(labels))
		if err != nil {
			return nil, err
		}
		object := func(a metrics.Averages) *pyjson.Object {
			return pyjson.NewObject("precision", a.Precision, "recall", a.Recall, "f1", a.F1)
		}
		var confusion, precision, recall, f1, support []any
		for c, s := range m.PerClass {
			confusion = append(confusion, anys(m.Confusion[c]))
			precision, recall, f1 = append(precision, s.Precision), append(recall, s.Recall), append(f1, s.F1)
			if m.Accuracy == 0 { // scikit-learn counts in float64 where nothing is right
				support = append(support, float64(m.Support[c]))
			} else {
				support = append(support, int64(m.Support[c]))
			}
		}
		fields := []Field{{Key: "accuracy", Value: m.Accuracy}, {Key: "mcc", Value: m.MCC}, {Key: "labels", Value: labels},
			{Key: "confusion_matrix", Value: confusion}, {Key: "macro", Value: object(m.Macro)}, {Key: "micro", Value: object(m.Micro)},
			{Key: "weighted", Value: object(m.Weighted)},
			{Key: "per_class", Value: pyjson.NewObject("precision", precision, "recall", recall, "f1", f1, "support", support)}}
		if len(labels) == 2 && pyjson.Equal(labels[0], int64(0)) && pyjson.Equal(labels[1], int64(1)) {
			fields = append(fields, Field{Key: "binary_pos1", Value: object(m.PerClass[1])})
		}
		return fields, nil
	})
}

// comparePython orders numbers by value and strings by code point.
func comparePython(a, b any) int {
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return cmp.Compare(x, y)
	}
	s, _ := a.(string)
	t, _ := b.(string)
	return strings.Compare(s, t)
}

func scoreAccuracy(_ context.Context, _ *Env, f *File) ([]Case, error) {
	return rebuild(f, []string{"predictions", "label_ids", "result"}, []string{"result"}, func(o *pyjson.Object) ([]Field, error) {
		p, err := matrix(o.Value("predictions"))
		if err != nil {
			return nil, fmt.Errorf("predictions: %w", err)
		}
		l, err := matrix(o.Value("label_ids"))
		if err != nil {
			return nil, fmt.Errorf("label_ids: %w", err)
		}
		if len(p) != len(l) {
			return nil, fmt.Errorf("%d predictions for %d rows of labels", len(p), len(l))
		}
		return []Field{{Key: "result", Value: pyjson.NewObject("accuracy", metrics.TokenAccuracy(p, l))}}, nil
	})
}

func scoreSimilarity(ctx context.Context, env *Env, f *File) ([]Case, error) {
	seg, err := segmenter(env)
	if err != nil {
		return nil, err
	}
	return rebuild(f, []string{"tokenizer", "predictions", "label_ids", "pad_token_id", "result"}, []string{"result"}, func(o *pyjson.Object) ([]Field, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name, err := text(o, "tokenizer")
		if err != nil {
			return nil, err
		}
		decode, err := rowDecoder(env, name)
		if err != nil {
			return nil, err
		}
		pad, _ := o.Value("pad_token_id").(int64)
		var texts [2][]string
		for k, key := range []string{"predictions", "label_ids"} {
			rows, err := matrix(o.Value(key))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			for _, ids := range rows {
				texts[k] = append(texts[k], decode(ids, int(pad)))
			}
		}
		if len(texts[0]) != len(texts[1]) {
			return nil, fmt.Errorf("%d predictions for %d labels", len(texts[0]), len(texts[1]))
		}
		var all []metrics.Similarity
		for i := range texts[0] {
			s, _, _ := metrics.ComputeSimilarity(seg, texts[0][i], texts[1][i])
			all = append(all, s)
		}
		return []Field{{Key: "result", Value: similarityObject(metrics.MeanSimilarity(all))}}, nil
	})
}

// rowDecoder decodes ids as transformers' batch_decode(skip_special_tokens=True) does, ignored positions as padding.
func rowDecoder(env *Env, name string) (func(ids []int, pad int) string, error) {
	dir, err := env.Find("tokenizers/" + name)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the tokenizer %s: %w", name, err)
	}
	v, err := env.Shared("metrics/tokenizer/"+name, func() (any, error) { return data.NewTokenizer(name, raw) })
	if err != nil {
		return nil, err
	}
	tok := v.(*data.HFTokenizer)
	clean := false
	if resolved, err := env.ReadFile("tokenizers/" + name + "/resolved.json"); err == nil {
		clean, _ = resolved.Row(0).Value("clean_up_tokenization_spaces").(bool)
	}
	return func(ids []int, pad int) string {
		out := make([]int32, len(ids))
		for i, id := range ids {
			if id == metrics.IgnoreLabel {
				id = pad
			}
			out[i] = int32(id)
		}
		s := tok.Decode(out)
		if clean {
			s = spaceCleaner.Replace(s)
		}
		return s
	}, nil
}

// spaceCleaner is transformers' clean_up_tokenization. Its replacements come one after another there; in one pass they give the same, as
// none makes the beginning of another.
var spaceCleaner = strings.NewReplacer(" .", ".", " ?", "?", " !", "!", " ,", ",", " ' ", "'", " n't", "n't", " 'm", "'m", " 's", "'s", " 've", "'ve",
	" 're", "'re")
