package evaluate

import (
	"reflect"
	"testing"
)

// TestPaddingOfPredictions: widths are those of the widest batch, a trained run's rounded up to 8.
func TestPaddingOfPredictions(t *testing.T) {
	row := func(prompt int, predict, label []int32) prediction {
		return prediction{IDs: &predictedIDs{prompt, predict, label}}
	}
	rows := []prediction{row(3, []int32{5, 6}, []int32{7}), row(1, []int32{0, 5}, []int32{7, 8, 9}), row(2, []int32{1, 2, 3}, []int32{4})}
	got, labels := padding{batch: 2, multiple: 1}.arrays(rows)
	if want := [][]int32{{5, 6, 0, 0, 0}, {5, 0, 0, 0, 0}, {1, 2, 3, 0, 0}}; !reflect.DeepEqual(got, want) {
		t.Errorf("predictions %v, want %v", got, want)
	}
	if want := [][]int32{{0, 0, 7}, {7, 8, 9}, {4, 0, 0}}; !reflect.DeepEqual(labels, want) {
		t.Errorf("labels %v, want %v", labels, want)
	}
	got, labels = padding{batch: 1, multiple: 8, least: 20}.arrays(rows)
	if len(got[0]) != 20 || len(labels[0]) != 8 || labels[0][7] != 7 {
		t.Errorf("%v, %v", got, labels)
	}
}
