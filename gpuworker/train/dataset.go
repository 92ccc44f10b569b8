package train

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
)

func openDataset(ctx context.Context, t *consume.Task, ref string) (Dataset, error) {
	return nil, schemas.Errorf(schemas.CodeUnsupported, ref, "no reader of token data")
}
