package config

import (
	"context"
	"reflect"

	"github.com/tunefleet/tunefleet/schemas"
)

// curation is what may be asked of the rows in every form of configuration, in the words of a run spec's prep stage.
type curation struct {
	Clean   schemas.CleanSpec    `json:"clean"`
	Sample  *schemas.SampleSpec  `json:"sample"`
	Augment *schemas.AugmentSpec `json:"augment"`
}

// apply gives a preparation what was asked for. Held-out data of their own are cleaned, too, but neither sampled nor augmented.
func (q curation) apply(p *schemas.PrepStage, training bool) {
	p.Clean = q.Clean
	if !training {
		p.Clean.Review, p.Clean.ReviewPending, p.Clean.Contamination = nil, "", 0
		return
	}
	p.Sample, p.Augment = q.Sample, q.Augment
}

// fileDecoder decodes trees in which files are given by their paths, relative to the configuration.
func fileDecoder(ctx context.Context, p *problems, c *collector) *decoder {
	return &decoder{p: p, ref: func(n *node, path, text string, out *schemas.Ref) {
		text, err := c.data(ctx, text)
		if err == nil {
			var ref *schemas.Ref
			if ref, err = c.ref(ctx, text, nil); err == nil {
				*out = *ref
				return
			}
		}
		p.add(n, "%s: %v", path, err)
	}}
}

// curation reads the keys clean, sample and augment.
func (b *factoryBuilder) curation(ctx context.Context) (curation, error) {
	var q curation
	d := fileDecoder(ctx, b.v.p, b.c)
	for name, out := range map[string]any{"clean": &q.Clean, "sample": &q.Sample, "augment": &q.Augment} {
		if b.v.given(name) {
			d.decode(b.v.node(name), name, reflect.ValueOf(out).Elem())
		}
	}
	return q, b.v.p.err()
}
