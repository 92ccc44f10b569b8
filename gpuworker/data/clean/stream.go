package clean

import (
	"crypto/sha256"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// Compared is the text of a row that near duplicates and contamination are told by.
func Compared(r *data.Row) string { return r.Text + "\n" + r.Prompt + "\n" + r.Response }

// Stream repairs and drops rows one at a time, in the order of the settings' fields. What looks at several rows is left to the caller:
// duplicates (Dedup, Key), near ones and contamination (Compared, minhash.Spilled), reviews (Verdicts) and wrong labels (Consensus).
type Stream struct {
	state *state
	dedup bool
}

// NewStream makes a stream that counts in rep. Errors are CodeInvalid.
func NewStream(spec schemas.CleanSpec, seed uint64, rep *Report) (*Stream, error) {
	dedup := spec.Dedup
	spec.Dedup = false
	st, err := newState(&spec, seed, rep)
	if err != nil {
		return nil, err
	}
	return &Stream{st, dedup}, nil
}

// Row repairs a row and counts it; false drops it.
func (s *Stream) Row(r *data.Row) bool {
	s.state.rep.Read++
	if !s.state.row(r) {
		return false
	}
	s.state.rep.Kept++
	return true
}

// Dedup reports whether rows with the Key of an earlier one are to be dropped.
func (s *Stream) Dedup() bool { return s.dedup }

// Key is equal for rows that are exact duplicates: the same but for case, white space and Unicode form.
func Key(r *data.Row) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.ToLower(Normalize(r.Text) + "\x00" + Normalize(r.Prompt) + "\x00" + Normalize(r.Response))))
}
