package main

import (
	"errors"
	"syscall"

	"github.com/tunefleet/tunefleet/schemas"
)

// diskError gives a failed write the code that its exit status comes from.
func diskError(place string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return schemas.Errorf(schemas.CodeDiskFull, place, "cannot write: %v", err).WithHint("make room and try again")
	}
	return schemas.Errorf(schemas.CodeInvalid, place, "cannot write: %v", schemas.Reason(err)).WithHint("name a folder that this user can write to: output_dir, log_dir or --dir")
}
