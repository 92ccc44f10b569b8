package metrics

import "strings"

// Similarity scores one pair as LLaMA-Factory's ComputeSimilarity does: ROUGE F1 on jieba's words and BLEU-4 on characters, times 100 and
// rounded to four digits.
type Similarity struct {
	Rouge1 float64 `json:"rouge-1"`
	Rouge2 float64 `json:"rouge-2"`
	RougeL float64 `json:"rouge-l"`
	BLEU4  float64 `json:"bleu-4"`
}

// Cutter cuts a text into words; jieba.Segmenter is one.
type Cutter interface {
	Cut(text string) []string
}

// ComputeSimilarity scores one pair. The rouges are those of rouge_chinese (zero when a text has no word).
func ComputeSimilarity(c Cutter, prediction, reference string) (Similarity, ChineseRouge, bool) {
	p, r := c.Cut(prediction), c.Cut(reference)
	s := Similarity{BLEU4: round4(BLEU4(prediction, reference) * 100)}
	if blank(p) || blank(r) {
		return s, ChineseRouge{}, false
	}
	rouge, ok := RougeChinese(strings.Join(p, " "), strings.Join(r, " "))
	s.Rouge1, s.Rouge2, s.RougeL = round4(rouge.R1.F*100), round4(rouge.R2.F*100), round4(rouge.RL.F*100)
	return s, rouge, ok
}

// MeanSimilarity averages over pairs as numpy.mean does.
func MeanSimilarity(all []Similarity) Similarity {
	mean := func(get func(Similarity) float64) float64 {
		v := make([]float64, len(all))
		for i, s := range all {
			v[i] = get(s)
		}
		return Mean(v)
	}
	return Similarity{
		Rouge1: mean(func(s Similarity) float64 { return s.Rouge1 }), Rouge2: mean(func(s Similarity) float64 { return s.Rouge2 }),
		RougeL: mean(func(s Similarity) float64 { return s.RougeL }), BLEU4: mean(func(s Similarity) float64 { return s.BLEU4 }),
	}
}

// IgnoreLabel marks positions without a label.
const IgnoreLabel = -100

// TokenAccuracy is LLaMA-Factory's ComputeAccuracy: of every row the share of labelled positions whose prediction one position earlier is
// right, averaged over the rows. predictions and labels have shape [rows][length]; a row without a label counts NaN there and is left out
// here.
func TokenAccuracy(predictions, labels [][]int) float64 {
	var rows []float64
	for i := range labels {
		hit, n := 0, 0
		for j := 1; j < len(labels[i]); j++ {
			if labels[i][j] == IgnoreLabel {
				continue
			}
			n++
			if j-1 < len(predictions[i]) && predictions[i][j-1] == labels[i][j] {
				hit++
			}
		}
		if n > 0 {
			rows = append(rows, float64(hit)/float64(n))
		}
	}
	return Mean(rows)
}
