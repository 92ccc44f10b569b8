package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// MaxInputBytes bounds a data file that prep reads whole.
const MaxInputBytes = 4 << 30

// ReadInput returns an uploaded input file, verified by its SHA-256. CodeNotFound when it was never uploaded or is gone.
func ReadInput(ctx context.Context, objects store.Objects, tenant string, f schemas.File, limit int64) ([]byte, error) {
	b, _, err := objects.Get(ctx, schemas.InputKey(tenant, f.SHA256), limit)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded").WithHint("submit the run again: tunefleet uploads its files")
	case errors.Is(err, store.ErrTooLarge):
		return nil, schemas.Errorf(schemas.CodeData, f.Path, "the file is larger than %d bytes", limit)
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, schemas.Errorf(schemas.CodeData, f.Path, "the stored file is damaged (SHA-256 differs)")
	}
	return b, nil
}
