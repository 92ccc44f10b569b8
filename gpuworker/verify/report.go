// Package verify compares the engine with reference results of transformers and PEFT, tensor by tensor and step by step.
package verify

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// Row is one comparison: a tensor, a step of a trajectory, or a file that is missing.
type Row struct {
	// Place names what was compared: "grad.lm_head.weight", "lora/trajectory.json:step 3 loss".
	Place string `json:"place"`
	// Error is the measured difference and Limit the largest accepted one, in the unit that Note names.
	Error float64 `json:"error"`
	Limit float64 `json:"limit"`
	OK    bool    `json:"ok"`
	Note  string  `json:"note,omitempty"`
}

// Report is the outcome of a verification.
type Report struct {
	Kind string `json:"kind"` // "model", "train" or "e2e"
	Dir  string `json:"dir"`
	Pass bool   `json:"pass"`
	// Compared counts the rows that had a reference.
	Compared int   `json:"compared"`
	Failed   int   `json:"failed"`
	Rows     []Row `json:"rows"`
	// Worst is the row nearest to, or farthest over, its limit.
	Worst *Row `json:"worst,omitempty"`
	// Unsupported names run folders that hold a method this build does not train. They are neither passed nor failed unless asked for by name.
	Unsupported []string `json:"unsupported,omitempty"`
	// Absent names references that the folder does not hold (inputs alone).
	Absent []string `json:"absent,omitempty"`
	// Emitted lists the files written.
	Emitted []string `json:"emitted,omitempty"`
}

func (r *Report) add(row Row) {
	if math.IsNaN(row.Error) {
		row.OK = false
		row.Error = math.MaxFloat64
		row.Note = join(row.Note, "not a number")
	}
	if math.IsInf(row.Error, 0) {
		row.Error = math.MaxFloat64
	}
	r.Rows = append(r.Rows, row)
}

// Fail adds a comparison that failed for a reason in words.
func (r *Report) Fail(place, note string) { r.fail(place, note) }

// Note adds a comparison that passed with a remark in words.
func (r *Report) Note(place, note string) { r.add(Row{Place: place, OK: true, Note: note}) }

// Relative adds a comparison of |got - want| with rel*|want|.
func (r *Report) Relative(place string, got, want, rel float64) {
	r.add(relative(place, got, want, rel, 0))
}

// Finish counts and decides; call it when everything was added.
func (r *Report) Finish() { r.finish() }

func (r *Report) fail(place, note string) { r.add(Row{Place: place, Note: note}) }

// finish counts, finds the worst row and decides.
func (r *Report) finish() {
	severity := func(w Row) float64 {
		switch {
		case w.Limit > 0:
			return w.Error / w.Limit
		case w.OK:
			return 0
		}
		return math.MaxFloat64
	}
	for i := range r.Rows {
		r.Compared++
		if !r.Rows[i].OK {
			r.Failed++
		}
	}
	if len(r.Rows) > 0 {
		w := slices.MaxFunc(r.Rows, func(a, b Row) int {
			if a.OK != b.OK {
				if a.OK {
					return -1
				}
				return 1
			}
			return cmp.Compare(severity(a), severity(b))
		})
		r.Worst = &w
	}
	r.Pass = r.Failed == 0
}

// Err is nil when the verification passed, otherwise an error with the code verify_failed that names the worst place.
func (r *Report) Err() error {
	if r.Pass {
		return nil
	}
	if r.Worst == nil {
		return schemas.Errorf(schemas.CodeVerify, r.Dir, "nothing could be compared")
	}
	w := r.Worst
	if w.Limit == 0 {
		return schemas.Errorf(schemas.CodeVerify, w.Place, "%s (%d of %d comparisons failed)", w.Note, r.Failed, r.Compared)
	}
	return schemas.Errorf(schemas.CodeVerify, w.Place, "error %.3g exceeds %.3g %s (%d of %d comparisons failed)", w.Error, w.Limit, w.Note, r.Failed, r.Compared)
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// l2 compares ||got - want|| with rel*||want|| + floor over the elements for which keep is true (nil: all).
func l2(place string, got, want []float32, keep func(i int) bool, rel, floor float64) Row {
	if len(got) != len(want) {
		return Row{Place: place, Note: "sizes differ"}
	}
	var d, g float64
	for i := range want {
		if keep != nil && !keep(i) {
			continue
		}
		e := float64(got[i]) - float64(want[i])
		d += e * e
		g += float64(want[i]) * float64(want[i])
	}
	row := Row{Place: place, Error: math.Sqrt(d), Limit: rel*math.Sqrt(g) + floor, Note: "||d||"}
	row.OK = row.Error <= row.Limit
	return row
}

// relative compares |got - want| with rel*|want| + floor.
func relative(place string, got, want, rel, floor float64) Row {
	row := Row{Place: place, Error: math.Abs(got - want), Limit: rel*math.Abs(want) + floor, Note: "|d|"}
	row.OK = row.Error <= row.Limit
	return row
}

// quantile demands that the share q of all differences is at most limit and that none exceeds most.
func quantile(place string, got, want []float32, q, limit, most float64) Row {
	if len(got) != len(want) {
		return Row{Place: place, Note: "sizes differ"}
	}
	ds := make([]float64, len(want))
	for i := range want {
		ds[i] = math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(ds[i]) {
			ds[i] = math.Inf(1)
		}
	}
	slices.Sort(ds)
	if len(ds) == 0 {
		return Row{Place: place, OK: true, Note: "empty"}
	}
	at := min(len(ds)-1, int(math.Ceil(q*float64(len(ds))))-1)
	row := Row{Place: place, Error: ds[max(0, at)], Limit: limit, Note: "|d| at the 99.9th percentile"}
	row.OK = row.Error <= row.Limit
	if worst := ds[len(ds)-1]; row.OK && worst > most {
		row.Error, row.Limit, row.Note, row.OK = worst, most, "largest |d|", false
	}
	return row
}

// largest demands that no difference exceeds limit.
func largest(place string, got, want []float32, limit float64) Row {
	row := Row{Place: place, Limit: limit, Note: "largest |d|"}
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= row.Error) {
			row.Error = d
		}
	}
	row.OK = row.Error <= limit
	return row
}
