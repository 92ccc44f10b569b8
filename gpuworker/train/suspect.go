package train

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxNamedRows is how many rows of a step an error names.
const maxNamedRows = 16

// notFinite is the error of a step whose numbers are not finite, nil when they are. Computed again with the same result it is the data's or
// the model's, and no retry helps. With another result the machine is to blame: the generation ends, nothing of the step is committed, and
// the retry budget allows others to try from the last commit.
func (s *session) notFinite(step int64, r stepResult, same bool) error {
	if finite(r.loss) && finite(r.norm) {
		return nil
	}
	err := schemas.Errorf(schemas.CodeNumeric, fmt.Sprintf("step %d", step+1), "the loss is %v and the gradient norm %v, over %s", r.loss, r.norm, s.rowsOf(step))
	if same {
		return err.WithHint("nothing of this step was committed; lower the learning rate, look at the data of this step, or set on_anomaly to skip or rollback")
	}
	err.Permanent = false
	return err.WithHint("computed twice from the same state it gave two results: suspect this machine's memory or device; nothing of this step was committed")
}

// rowsOf names the rows of the prepared data that a step, counted from 0, trains on.
func (s *session) rowsOf(step int64) string {
	var rows []int
	for leaf := range s.plan.Leaves(step) {
		for _, i := range s.plan.Leaf(step, leaf) {
			rows = append(rows, int(i))
		}
	}
	slices.Sort(rows)
	var b strings.Builder
	fmt.Fprintf(&b, "rows ")
	for k, i := range rows[:min(len(rows), maxNamedRows)] {
		if k > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, i)
	}
	if n := len(rows) - maxNamedRows; n > 0 {
		fmt.Fprintf(&b, " and %d more", n)
	}
	fmt.Fprintf(&b, " of %s", s.stage.Data)
	return b.String()
}
