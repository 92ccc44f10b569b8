package prep

import (
	"bytes"
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/augment"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// choice is what was decided on the rows of a data set, in their final order.
type choice struct {
	rows   []data.Row
	report *clean.Report
	// sampled is by how many rows sampling and balancing changed the training split, augmented how many copies were added.
	sampled, augmented int
}

// counters are those of the cleaning report and of what came after.
func (c *choice) counters() map[string]int64 {
	out := c.report.Counters()
	out["sampled_rows"], out["augmented_rows"] = int64(c.sampled), int64(c.augmented)
	return out
}

// decide cleans, splits, decontaminates, samples, balances and augments, in this order, so that copies are of training rows only and nothing
// of a held-out row comes into training.
func decide(ctx context.Context, t *consume.Task, rows []data.Row) (*choice, error) {
	prep := t.Stage.Prep
	o := clean.Options{Seed: t.Spec.Seed}
	if prep.Clean.Review != nil {
		b, err := oneFile(ctx, t.Objects, t.Spec.Tenant, *prep.Clean.Review, "clean.review")
		if err != nil {
			return nil, err
		}
		o.Review = bytes.NewReader(b)
	}
	kept, report, err := clean.Run(rows, prep.Clean, o)
	if err != nil {
		return nil, err
	}
	if len(kept) == 0 {
		return nil, droppedAll(t, report)
	}
	data.Split(kept, prep.Split, t.Spec.Seed)
	kept = clean.Decontaminate(kept, prep.Clean, t.Spec.Seed, report)
	c := &choice{rows: kept, report: report}
	if s := prep.Sample; s != nil {
		// Origins name rows by their number, so rows are numbered anew whenever some are gone.
		c.rows = number(labels.Sample(c.rows, s.MaxRows, t.Spec.Seed))
		c.rows = number(labels.Balance(c.rows, s.Balance, t.Spec.Seed))
		c.sampled = len(c.rows) - len(kept)
	}
	if prep.Augment != nil {
		if c.rows, c.augmented, err = augmentRows(ctx, t, c.rows); err != nil {
			return nil, err
		}
	}
	c.rows = number(c.rows)
	return c, nil
}

func droppedAll(t *consume.Task, r *clean.Report) error {
	return schemas.Errorf(schemas.CodeData, t.Stage.Name, "cleaning dropped all %d rows", r.Read).WithHint("dropped: %s", r.Summary())
}

func number(rows []data.Row) []data.Row {
	for i := range rows {
		rows[i].Index = i
	}
	return rows
}

func augmentRows(ctx context.Context, t *consume.Task, rows []data.Row) ([]data.Row, int, error) {
	spec := *t.Stage.Prep.Augment
	var synonyms augment.Synonyms
	if spec.SynonymDict != nil {
		b, err := oneFile(ctx, t.Objects, t.Spec.Tenant, *spec.SynonymDict, "augment.synonym_dict")
		if err != nil {
			return nil, 0, err
		}
		if synonyms, err = augment.ReadSynonyms(spec.SynonymDict.Files[0].Path, bytes.NewReader(b)); err != nil {
			return nil, 0, err
		}
	}
	cut, err := jieba.Default()
	if err != nil {
		return nil, 0, err
	}
	a, err := augment.New(spec, synonyms, cut, t.Spec.Seed)
	if err != nil {
		return nil, 0, err
	}
	out, n := a.Rows(rows)
	return out, n, nil
}

// oneFile reads the one uploaded file of a reference.
func oneFile(ctx context.Context, objects store.Objects, tenant string, ref schemas.Ref, place string) ([]byte, error) {
	if len(ref.Files) != 1 {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "must be one file, there are %d", len(ref.Files))
	}
	return readInput(ctx, objects, tenant, ref.Files[0])
}
