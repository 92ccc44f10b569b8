package prep

import (
	"bytes"
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data/augment"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

func droppedAll(t *consume.Task, r *clean.Report) error {
	return schemas.Errorf(schemas.CodeData, t.Stage.Name, "cleaning dropped all %d rows", r.Read).WithHint("dropped: %s", r.Summary())
}

// readVerdicts reads the review file of a stage, nil when there is none.
func readVerdicts(ctx context.Context, t *consume.Task, spec *schemas.CleanSpec) (*clean.Verdicts, error) {
	if spec.Review == nil {
		return nil, nil //nolint:nilnil // no review is no error
	}
	b, err := oneFile(ctx, t.Objects, t.Spec.Tenant, *spec.Review, "clean.review")
	if err != nil {
		return nil, err
	}
	return clean.NewVerdicts(bytes.NewReader(b), spec)
}

func newAugmenter(ctx context.Context, t *consume.Task) (*augment.Augmenter, error) {
	spec := *t.Stage.Prep.Augment
	var synonyms augment.Synonyms
	if spec.SynonymDict != nil {
		b, err := oneFile(ctx, t.Objects, t.Spec.Tenant, *spec.SynonymDict, "augment.synonym_dict")
		if err != nil {
			return nil, err
		}
		if synonyms, err = augment.ReadSynonyms(spec.SynonymDict.Files[0].Path, bytes.NewReader(b)); err != nil {
			return nil, err
		}
	}
	cut, err := jieba.Default()
	if err != nil {
		return nil, err
	}
	return augment.New(spec, synonyms, cut, t.Spec.Seed)
}

// oneFile reads the one uploaded file of a reference.
func oneFile(ctx context.Context, objects store.Objects, tenant string, ref schemas.Ref, place string) ([]byte, error) {
	if len(ref.Files) != 1 {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "must be one file, there are %d", len(ref.Files))
	}
	return readInput(ctx, objects, tenant, ref.Files[0])
}
