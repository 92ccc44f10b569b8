package metrics

import (
	"fmt"
	"math"
)

// Multiclass is a classification report over class indices, in the operations and their order of scikit-learn 1.9 (zero_division=0).
type Multiclass struct {
	Accuracy float64
	// MCC is Matthews' correlation coefficient for any number of classes (Gorodkin 2004).
	MCC                    float64
	Macro, Micro, Weighted Averages
	PerClass               []Averages
	// Support counts the rows of each true class.
	Support []int
	// Confusion[i][j] counts rows of class i predicted as class j.
	Confusion [][]int
}

// ScoreClasses compares predicted with true classes, both in [0, classes). Every class must occur on one side.
func ScoreClasses(truth, predicted []int, classes int) (*Multiclass, error) {
	if len(truth) != len(predicted) || len(truth) == 0 {
		return nil, fmt.Errorf("cannot compare %d predictions with %d labels", len(predicted), len(truth))
	}
	m := &Multiclass{Confusion: make([][]int, classes), Support: make([]int, classes)}
	for i := range m.Confusion {
		m.Confusion[i] = make([]int, classes)
	}
	for i, t := range truth {
		if t < 0 || t >= classes || predicted[i] < 0 || predicted[i] >= classes {
			return nil, fmt.Errorf("cannot score row %d: class %d or %d is not in [0, %d)", i, t, predicted[i], classes)
		}
		m.Confusion[t][predicted[i]]++
	}
	said := make([]int, classes)
	hits := 0
	for c := range classes {
		hits += m.Confusion[c][c]
		for k := range classes {
			m.Support[c] += m.Confusion[c][k]
			said[c] += m.Confusion[k][c]
		}
	}
	n := len(truth)
	m.Accuracy = float64(hits) / float64(n)
	m.MCC = mcc(hits, n, m.Support, said)
	for c := range classes {
		m.PerClass = append(m.PerClass, averages(m.Confusion[c][c], said[c], m.Support[c]))
	}
	m.Micro = averages(hits, n, n)
	get := func(f func(Averages) float64) (mean, weighted float64) {
		plain, scaled := make([]float64, classes), make([]float64, classes)
		for c, s := range m.PerClass {
			plain[c], scaled[c] = f(s), f(s)*float64(m.Support[c])
		}
		return Mean(plain), pairwise(scaled) / float64(n)
	}
	m.Macro.Precision, m.Weighted.Precision = get(func(a Averages) float64 { return a.Precision })
	m.Macro.Recall, m.Weighted.Recall = get(func(a Averages) float64 { return a.Recall })
	m.Macro.F1, m.Weighted.F1 = get(func(a Averages) float64 { return a.F1 })
	return m, nil
}

// averages are precision, recall and F1 from counts; a division by zero is 0.
func averages(hit, said, support int) Averages {
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	h := float64(hit)
	return Averages{Precision: ratio(h, float64(said)), Recall: ratio(h, float64(support)), F1: ratio(2*h, float64(support)+float64(said))}
}

func mcc(hits, n int, truth, said []int) float64 {
	tp, tt, pp := 0.0, 0.0, 0.0
	for c := range truth {
		tp += float64(truth[c]) * float64(said[c])
		tt += float64(truth[c]) * float64(truth[c])
		pp += float64(said[c]) * float64(said[c])
	}
	n2 := float64(n) * float64(n)
	cov := float64(hits)*float64(n) - tp
	if both := (n2 - pp) * (n2 - tt); both != 0 {
		return cov / math.Sqrt(both)
	}
	return 0
}
