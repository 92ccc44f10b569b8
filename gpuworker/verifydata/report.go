package verifydata

import (
	"github.com/tunefleet/tunefleet/schemas"
)

// FileReport is the outcome for one file.
type FileReport struct {
	// File is the path from the folder, with slashes.
	File string `json:"file"`
	// Cases counts the rows that hold something to compare with, Equal those of them that were computed equal.
	Cases int `json:"cases"`
	Equal int `json:"equal"`
	// Rows counts all rows.
	Rows int `json:"rows"`
	// First is the first difference, with its row.
	First string `json:"first_difference,omitempty"`
}

// Report is the outcome of a verification.
type Report struct {
	Kind  string       `json:"kind"` // "data"
	Dir   string       `json:"dir"`
	Pass  bool         `json:"pass"`
	Cases int          `json:"cases"`
	Equal int          `json:"equal"`
	Files []FileReport `json:"files"`
	// Unsupported names files that no suite of this build computes. They are neither passed nor failed.
	Unsupported []string `json:"unsupported,omitempty"`
	// Emitted lists the files written.
	Emitted []string `json:"emitted,omitempty"`
}

// Err is nil when all cases are equal, otherwise an error with the code verify_failed that names the first row that differs.
func (r *Report) Err() error {
	if r.Pass {
		return nil
	}
	for _, f := range r.Files {
		if f.First != "" {
			return schemas.Errorf(schemas.CodeVerify, f.File, "%s (%d of %d cases are equal)", f.First, r.Equal, r.Cases)
		}
	}
	return schemas.Errorf(schemas.CodeVerify, r.Dir, "nothing could be compared").WithHint("the folder has none of the files that reference folders have")
}
