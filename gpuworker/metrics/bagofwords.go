package metrics

import (
	"fmt"
	"math"
	"slices"
)

// Settings of the baseline: full-batch gradient descent with momentum on an L2-regularized multinomial logistic regression over word counts
// scaled by inverse document frequency, each row normalized to length 1.
const (
	bowIterations = 300
	bowRate       = 8.0
	bowMomentum   = 0.9
	bowDecay      = 1e-5
)

type feature struct {
	id int
	v  float64
}

// BagOfWords trains a bag-of-words logistic regression and returns its predictions for the test texts: what can be had from words alone,
// without order. It is deterministic.
func BagOfWords(texts, labels, test []string) ([]string, error) {
	if len(texts) != len(labels) || len(texts) == 0 {
		return nil, fmt.Errorf("cannot train the baseline on %d texts with %d labels", len(texts), len(labels))
	}
	classes := slices.Clone(labels)
	slices.Sort(classes)
	classes = slices.Compact(classes)
	vocab, df := map[string]int{}, []int{}
	for _, t := range texts {
		seen := map[string]bool{}
		for _, w := range Words(t) {
			if _, ok := vocab[w]; !ok {
				vocab[w] = len(df)
				df = append(df, 0)
			}
			if !seen[w] {
				seen[w] = true
				df[vocab[w]]++
			}
		}
	}
	idf := make([]float64, len(df))
	for i, n := range df {
		idf[i] = math.Log(float64(1+len(texts))/float64(1+n)) + 1
	}
	x, y := make([][]feature, len(texts)), make([]int, len(texts))
	for i, t := range texts {
		x[i] = vectorize(t, vocab, idf)
		y[i], _ = slices.BinarySearch(classes, labels[i])
	}
	w := fitSoftmax(x, y, len(classes), len(df))
	out := make([]string, len(test))
	for i, t := range test {
		s := scores(w, vectorize(t, vocab, idf))
		best := 0
		for c := range s {
			if s[c] > s[best] {
				best = c
			}
		}
		out[i] = classes[best]
	}
	return out, nil
}

// vectorize returns the features of a text in id order.
func vectorize(text string, vocab map[string]int, idf []float64) []feature {
	counts := map[int]float64{}
	for _, w := range Words(text) {
		if id, ok := vocab[w]; ok {
			counts[id]++
		}
	}
	out := make([]feature, 0, len(counts))
	for id, n := range counts {
		out = append(out, feature{id, n * idf[id]})
	}
	slices.SortFunc(out, func(a, b feature) int { return a.id - b.id })
	norm := 0.0
	for _, f := range out {
		norm += f.v * f.v
	}
	if norm > 0 {
		norm = 1 / math.Sqrt(norm)
	}
	for i := range out {
		out[i].v *= norm
	}
	return out
}

// scores are the class scores: weights [classes][features+1], the last column is the bias.
func scores(w [][]float64, x []feature) []float64 {
	s := make([]float64, len(w))
	for c, row := range w {
		s[c] = row[len(row)-1]
		for _, f := range x {
			s[c] += row[f.id] * f.v
		}
	}
	return s
}

func fitSoftmax(x [][]feature, y []int, classes, features int) [][]float64 {
	matrix := func() [][]float64 {
		m := make([][]float64, classes)
		for c := range m {
			m[c] = make([]float64, features+1)
		}
		return m
	}
	w, velocity, grad := matrix(), matrix(), matrix()
	for range bowIterations {
		for c := range grad {
			clear(grad[c])
		}
		for i := range x {
			s := scores(w, x[i])
			top, sum := slices.Max(s), 0.0
			for c := range s {
				s[c] = math.Exp(s[c] - top)
				sum += s[c]
			}
			for c := range s {
				g := s[c] / sum
				if c == y[i] {
					g--
				}
				g /= float64(len(x))
				for _, f := range x[i] {
					grad[c][f.id] += g * f.v
				}
				grad[c][features] += g
			}
		}
		for c := range w {
			for j := range w[c] {
				velocity[c][j] = bowMomentum*velocity[c][j] - bowRate*(grad[c][j]+bowDecay*w[c][j])
				w[c][j] += velocity[c][j]
			}
		}
	}
	return w
}
