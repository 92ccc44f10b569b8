package clean

import (
	"crypto/sha256"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// NeedsAll reports whether a step of the settings looks at all rows together, so that Stream cannot do it. Duplicates and contamination are
// none: their keys can be sorted anywhere (Key, minhash.Spilled).
func NeedsAll(spec *schemas.CleanSpec) bool { return spec.Review != nil || spec.Mislabelled == "drop" }

// Compared is the text of a row that near duplicates and contamination are told by.
func Compared(r *data.Row) string { return r.Text + "\n" + r.Prompt + "\n" + r.Response }

// Stream repairs and drops rows one at a time, as Run does row by row.
type Stream struct {
	state *state
	dedup bool
}

// NewStream makes a stream that counts in rep. Errors are CodeInvalid.
func NewStream(spec schemas.CleanSpec, seed uint64, rep *Report) (*Stream, error) {
	dedup := spec.Dedup
	spec.Dedup = false
	st, err := newState(&spec, Options{Seed: seed}, rep)
	if err != nil {
		return nil, err
	}
	return &Stream{st, dedup}, nil
}

// Row repairs a row; false drops it. place is the row's among the rows read, from 0. Duplicates are left to the caller (Dedup, Key).
func (s *Stream) Row(r *data.Row, place int) bool {
	s.state.rep.Read++
	return s.state.row(r, place)
}

// Dedup reports whether rows with the Key of an earlier one are to be dropped.
func (s *Stream) Dedup() bool { return s.dedup }

// Key is equal for rows that are exact duplicates: the same but for case, white space and Unicode form.
func Key(r *data.Row) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.ToLower(Normalize(r.Text) + "\x00" + Normalize(r.Prompt) + "\x00" + Normalize(r.Response))))
}
