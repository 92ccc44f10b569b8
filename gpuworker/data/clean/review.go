package clean

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// ReviewEntry is one line of review.jsonl: a row whose label is in doubt, and what people said. The file is written by `tunefleet data stats
// --review`, filled in by people, and applied by a later preparation (clean.review).
type ReviewEntry struct {
	// ID names the row by its content (see RowID), so that it is found again in any order of the data.
	ID     string `json:"id"`
	Text   string `json:"text"`
	Label  string `json:"label"`
	Reason string `json:"reason,omitempty"`
	// Suggested is what the near-identical rows say.
	Suggested string     `json:"suggested,omitempty"`
	Decisions []Decision `json:"decisions"`
}

// Decision is one person's word. The arbiter's beats the reviewers'; of several on one level the last counts.
type Decision struct {
	By string `json:"by"`
	// Level is "reviewer" or "arbiter".
	Level string `json:"level"`
	// Label is the right label; Drop says that the row should go.
	Label string `json:"label,omitempty"`
	Drop  bool   `json:"drop,omitempty"`
	Note  string `json:"note,omitempty"`
}

// Status is pending, reviewed or decided (by an arbiter), with the decision that counts.
func (e *ReviewEntry) Status() (string, *Decision) {
	var d *Decision
	status := "pending"
	for i := range e.Decisions {
		c := &e.Decisions[i]
		if status == "decided" && c.Level != "arbiter" {
			continue
		}
		d, status = c, map[bool]string{true: "decided", false: "reviewed"}[c.Level == "arbiter"]
	}
	return status, d
}

// RowID is the name of a row by what the user says, case and white space aside: 16 hexadecimal digits.
func RowID(r *data.Row) string {
	h := sha256.Sum256([]byte(strings.ToLower(Normalize(r.User()))))
	return hex.EncodeToString(h[:8])
}

const maxReviewLine = 1 << 20

// ReadReview reads review.jsonl. Errors are CodeData with the line.
func ReadReview(name string, r io.Reader) ([]ReviewEntry, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxReviewLine)
	var out []ReviewEntry
	for line := 1; sc.Scan(); line++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		place := fmt.Sprintf("%s:%d", name, line)
		var e ReviewEntry
		if err := schemas.DecodeStrict(sc.Bytes(), &e, maxReviewLine); err != nil {
			info := schemas.AsErrorInfo(err)
			return nil, schemas.Errorf(schemas.CodeData, strings.TrimSuffix(place+": "+info.Place, ": "), "%s", info.Message)
		}
		if len(e.ID) != 16 {
			return nil, schemas.Errorf(schemas.CodeData, place+": id", "must have 16 hexadecimal digits")
		}
		for i, d := range e.Decisions {
			at := fmt.Sprintf("%s: decisions[%d]", place, i)
			if d.Level != "reviewer" && d.Level != "arbiter" {
				return nil, schemas.Errorf(schemas.CodeData, at+".level", "%q is unknown (reviewer, arbiter)", d.Level)
			}
			if (d.Label == "") != d.Drop {
				return nil, schemas.Errorf(schemas.CodeData, at, "must have either a label or drop: true")
			}
		}
		out = append(out, e)
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, schemas.Errorf(schemas.CodeData, name, "a line is longer than %d bytes", maxReviewLine)
	} else if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return out, nil
}

// WriteReview writes entries as JSONL.
func WriteReview(w io.Writer, entries []ReviewEntry) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range entries {
		if entries[i].Decisions == nil {
			entries[i].Decisions = []Decision{}
		}
		if err := e.Encode(&entries[i]); err != nil {
			return fmt.Errorf("cannot write the review: %w", err)
		}
	}
	return nil
}

// Verdicts are what people decided on rows.
type Verdicts struct {
	byID    map[string]verdict
	pending string
}

type verdict struct {
	status string
	d      *Decision
}

// NewVerdicts reads review.jsonl. Errors are CodeData.
func NewVerdicts(r io.Reader, spec *schemas.CleanSpec) (*Verdicts, error) {
	entries, err := ReadReview("review.jsonl", r)
	if err != nil {
		return nil, err
	}
	v := &Verdicts{byID: map[string]verdict{}, pending: spec.ReviewPending}
	for i := range entries {
		s, d := entries[i].Status()
		v.byID[entries[i].ID] = verdict{s, d}
	}
	return v, nil
}

// Judge says what becomes of the row with an ID (RowID, of the row as it is in the file): it is dropped, or has another label.
func (v *Verdicts) Judge(id, label string) (drop bool, to string) {
	x, ok := v.byID[id]
	switch {
	case !ok:
	case x.d == nil:
		return v.pending == "drop", label
	case x.d.Drop:
		return true, label
	default:
		return false, x.d.Label
	}
	return false, label
}
