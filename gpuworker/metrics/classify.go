package metrics

import (
	"fmt"
	"slices"
)

// Averages are precision, recall and F1 averaged over classes.
type Averages struct {
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
}

// ClassScore is one class's row of a report.
type ClassScore struct {
	Label string `json:"label"`
	Averages
	Support int `json:"support"`
}

// Report is a classification report as scikit-learn computes it (zero_division=0).
type Report struct {
	Rows     int          `json:"rows"`
	Accuracy float64      `json:"accuracy"`
	Macro    Averages     `json:"macro"`
	Micro    Averages     `json:"micro"`
	Weighted Averages     `json:"weighted"`
	PerClass []ClassScore `json:"per_class"`
	// Confusion[i][j] counts rows of class i predicted as class j, in the order of PerClass.
	Confusion [][]int `json:"confusion"`
	// MCC is Matthews' correlation coefficient.
	MCC float64 `json:"mcc"`
	// MajorityShare is the share of the most frequent true class: the accuracy of always answering it.
	MajorityShare float64 `json:"majority_share"`
}

// Classification compares predictions with the truth. Classes are all labels that occur, sorted.
func Classification(truth, predicted []string) (*Report, error) {
	if len(truth) != len(predicted) || len(truth) == 0 {
		return nil, fmt.Errorf("cannot compare %d predictions with %d labels", len(predicted), len(truth))
	}
	labels := slices.Concat(truth, predicted)
	slices.Sort(labels)
	labels = slices.Compact(labels)
	index := make(map[string]int, len(labels))
	r := &Report{Rows: len(truth), Confusion: make([][]int, len(labels))}
	for i, l := range labels {
		index[l] = i
		r.Confusion[i] = make([]int, len(labels))
	}
	hits := 0
	for i := range truth {
		r.Confusion[index[truth[i]]][index[predicted[i]]]++
		if truth[i] == predicted[i] {
			hits++
		}
	}
	r.Accuracy = float64(hits) / float64(len(truth))
	r.Micro = Averages{r.Accuracy, r.Accuracy, r.Accuracy}
	supports, saids := make([]int, len(labels)), make([]int, len(labels))
	for i := range truth {
		supports[index[truth[i]]]++
		saids[index[predicted[i]]]++
	}
	r.MCC = mcc(hits, len(truth), supports, saids)
	for c, l := range labels {
		tp, said, support := r.Confusion[c][c], 0, 0
		for k := range labels {
			said += r.Confusion[k][c]
			support += r.Confusion[c][k]
		}
		s := prf(tp, said, support)
		r.PerClass = append(r.PerClass, ClassScore{Label: l, Averages: Averages{s.P, s.R, s.F}, Support: support})
		w, n := float64(support)/float64(len(truth)), float64(len(labels))
		add(&r.Macro, s, 1/n)
		add(&r.Weighted, s, w)
		r.MajorityShare = max(r.MajorityShare, w)
	}
	return r, nil
}

func add(a *Averages, s PRF, w float64) {
	a.Precision += w * s.P
	a.Recall += w * s.R
	a.F1 += w * s.F
}
