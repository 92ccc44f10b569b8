package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxChain bounds how many train stages may build on one another.
const maxChain = 64

// Recipe says how the weights of a model come about: a base (a folder of files or random values) and the train stages after it.
type Recipe struct {
	// Config is the config.json of the weights; nil until the base's folder is read.
	Config json.RawMessage
	// Tenant owns the base's files; Base is nil when the values are drawn from Seed.
	Tenant string
	Base   *schemas.Ref
	// Stretch, when not nil, stretches the base's rotary positions.
	Stretch *schemas.RopeScaling
	// ShortAttention and RouterAux change how the base is trained (schemas.ModelSpec).
	ShortAttention bool
	RouterAux      float64
	// Vocab, when positive, is the number of tokens that the base's vocabulary is grown to.
	Vocab int
	Seed  uint64
	// Init says how values are drawn; nil: by Philox from Seed.
	Init *schemas.InitialDraw
	// Layers are the finished train stages in order.
	Layers []Layer
	// Next is the stage that starts from there, nil when a finished model is loaded.
	Next *schemas.Stage
}

// Uploaded reports whether the weights that the last stage trained are just the files that a user uploaded.
func (r *Recipe) Uploaded() bool {
	if r.Base == nil || r.Stretch != nil || r.ShortAttention || r.RouterAux > 0 || r.Vocab > 0 || len(r.Layers) != 1 {
		return false
	}
	t := r.Layers[0].Stage.Train
	merged, _ := folderRefs(t)
	return t.ExpandBlocks == 0 && len(merged) == 0
}

// Layer is what one finished train stage changed.
type Layer struct {
	Stage    *schemas.Stage
	Manifest schemas.ManifestRef
}

// resolver reads specs and HEADs of runs.
type resolver struct {
	objects store.Objects
	heads   *checkpoint.Heads
	specs   map[string]*schemas.RunSpec
}

func newResolver(objects store.Objects, known ...*schemas.RunSpec) *resolver {
	r := &resolver{objects: objects, heads: checkpoint.NewHeads(objects, checkpoint.Config{}), specs: map[string]*schemas.RunSpec{}}
	for _, s := range known {
		r.specs[s.Tenant+"/"+s.ID] = s
	}
	return r
}

func (r *resolver) spec(ctx context.Context, tenant, run string) (*schemas.RunSpec, error) {
	if s := r.specs[tenant+"/"+run]; s != nil {
		return s, nil
	}
	raw, _, err := r.objects.Get(ctx, schemas.SpecKey(tenant, run), schemas.MaxSpecBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, "run:"+tenant+"/"+run, "the run does not exist or has not started")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the spec of run %s/%s: %w", tenant, run, err)
	}
	s, err := schemas.DecodeSpec(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read the spec of run %s/%s: %w", tenant, run, err)
	}
	r.specs[tenant+"/"+run] = s
	return s, nil
}

// parseFrom splits "stage:<name>" or "run:<tenant>/<id>/<stage>" as seen from a run.
func parseFrom(from, tenant, run string) (t, r, stage string, err error) {
	if name, ok := strings.CutPrefix(from, "stage:"); ok && name != "" {
		return tenant, run, name, nil
	}
	if rest, ok := strings.CutPrefix(from, "run:"); ok {
		if p := strings.Split(rest, "/"); len(p) == 3 && p[0] != "" && p[1] != "" && p[2] != "" {
			return p[0], p[1], p[2], nil
		}
	}
	return "", "", "", schemas.Errorf(schemas.CodeInvalid, from, "is neither stage:<name> nor run:<tenant>/<id>/<stage>")
}

// finished builds the recipe of a finished train stage's model.
func (r *resolver) finished(ctx context.Context, from, tenant, run string, depth int) (*Recipe, error) {
	if depth > maxChain {
		return nil, schemas.Errorf(schemas.CodeInvalid, from, "more than %d train stages build on one another", maxChain)
	}
	t, id, name, err := parseFrom(from, tenant, run)
	if err != nil {
		return nil, err
	}
	if t != tenant {
		return nil, schemas.Errorf(schemas.CodeAuth, from, "models of another tenant cannot be read")
	}
	spec, err := r.spec(ctx, t, id)
	if err != nil {
		return nil, err
	}
	stage, err := spec.StageOf(name)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, from, "%v", err)
	}
	if stage.Train == nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, from, "stage %q is no train stage", name)
	}
	ref, err := r.final(ctx, t, id, name)
	if err != nil {
		return nil, err
	}
	rec, err := r.start(ctx, spec, stage, depth+1)
	if err != nil {
		return nil, err
	}
	rec.Layers = append(rec.Layers, Layer{Stage: stage, Manifest: *ref})
	return rec, nil
}

// final is the last commit of a train stage.
func (r *resolver) final(ctx context.Context, tenant, run, stage string) (*schemas.ManifestRef, error) {
	head, _, err := r.heads.Read(ctx, tenant, run)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, "run:"+tenant+"/"+run, "the run has not started")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read HEAD of %s/%s: %w", tenant, run, err)
	}
	if s := head.StageByName(stage); s != nil && s.Manifest != nil {
		return s.Manifest, nil
	}
	if m := head.Manifest; m != nil && m.Stage == stage && m.Final {
		return m, nil
	}
	return nil, schemas.Errorf(schemas.CodeConflict, "run:"+tenant+"/"+run+"/"+stage, "the stage has no final commit yet")
}

// start builds the recipe of the weights that a train stage starts from.
func (r *resolver) start(ctx context.Context, spec *schemas.RunSpec, stage *schemas.Stage, depth int) (*Recipe, error) {
	m := stage.Train.Model
	switch {
	case m.From != "":
		return r.finished(ctx, m.From, spec.Tenant, spec.ID, depth)
	case m.Base != nil:
		if len(m.Base.Files) == 0 {
			return nil, schemas.Errorf(schemas.CodeUnsupported, stage.Name+".model.base", "a base model is given by its files")
		}
		return &Recipe{Tenant: spec.Tenant, Base: m.Base, Stretch: m.RopeScaling, ShortAttention: m.ShortAttention, RouterAux: m.RouterAux,
			Vocab: m.Vocab, Seed: spec.Seed, Init: stage.Train.Init}, nil
	case len(m.Config) > 0:
		return &Recipe{Tenant: spec.Tenant, Config: m.Config, Seed: spec.Seed, Init: stage.Train.Init}, nil
	}
	return nil, schemas.Errorf(schemas.CodeInvalid, stage.Name+".model", "says neither from, base nor config")
}
