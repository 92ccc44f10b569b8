// Package registry records model versions: what an export stage wrote, under a name and a number, with the lineage that leads back to
// spec, data and commit. A version is one immutable object, registry/<tenant>/<name>/<number>.json.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Bounds of what is read and tried.
const (
	maxRecordBytes = 16 << 20
	maxRaces       = 100
)

// Version is one version of a model.
type Version struct {
	Schema int    `json:"version"`
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	// Number counts the versions of a name from 1.
	Number int `json:"number"`
	// Run and Stage are the run and its export stage.
	Run   string `json:"run"`
	Stage string `json:"stage"`
	// Objects are the exported files.
	Objects []schemas.Object `json:"objects"`
	Lineage Lineage          `json:"lineage"`
	Created time.Time        `json:"created"`
}

// Lineage says what a version was made from.
type Lineage struct {
	// Spec is the key of the run's spec.
	Spec string `json:"spec"`
	// From is the reference of the exported train stage: "stage:<name>" or "run:<tenant>/<id>/<stage>".
	From string `json:"from"`
	// Train are the final commits of the run's train stages, in order.
	Train []schemas.ManifestRef `json:"train,omitempty"`
	// Results are the keys of the results of the run's prep and eval stages.
	Results []string `json:"results,omitempty"`
}

// Registry writes and reads versions.
type Registry struct{ objects store.Objects }

// New makes a registry over an object store.
func New(objects store.Objects) *Registry { return &Registry{objects: objects} }

func prefix(tenant, name string) string { return "registry/" + tenant + "/" + name + "/" }

// Name makes a model's name from a run's label: lower case, what a name may not hold becomes "-"; fallback when nothing is left.
func Name(label, fallback string) string {
	b := []byte(strings.ToLower(label))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			b[i] = '-'
		}
	}
	s := strings.Trim(string(b), "-_")
	s = strings.TrimRight(s[:min(len(s), 63)], "-_")
	if !schemas.ValidName(s) {
		return fallback
	}
	return s
}

// Register records what an export stage wrote as the next version of a name. The same run and stage are registered once: a second call
// returns the version that is there. head must show the stages that the version was made from.
func (r *Registry) Register(ctx context.Context, spec *schemas.RunSpec, head *schemas.Head, result *schemas.StageResult) (*Version, error) {
	stage, err := spec.StageOf(result.Stage)
	if err != nil || stage.Export == nil {
		return nil, fmt.Errorf("cannot register a version: stage %q is no export: %w", result.Stage, err)
	}
	v := &Version{Schema: 1, Tenant: spec.Tenant, Name: Name(spec.Name, spec.ID), Run: spec.ID, Stage: stage.Name, Objects: result.Objects, Created: result.At,
		Lineage: Lineage{Spec: schemas.SpecKey(spec.Tenant, spec.ID), From: stage.Export.From}}
	for _, st := range head.Stages {
		switch {
		case st.Manifest != nil:
			v.Lineage.Train = append(v.Lineage.Train, *st.Manifest)
		case st.Result != "" && st.Name != stage.Name:
			v.Lineage.Results = append(v.Lineage.Results, st.Result)
		}
	}
	for range maxRaces {
		last, have, err := r.find(ctx, v)
		if err != nil || have != nil {
			return have, err
		}
		v.Number = last + 1
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("cannot encode version %d of %s: %w", v.Number, v.Name, err)
		}
		_, err = r.objects.Put(ctx, fmt.Sprintf("%s%06d.json", prefix(v.Tenant, v.Name), v.Number), data, store.Condition{Absent: true})
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, store.ErrPrecondition) && !errors.Is(err, store.ErrAmbiguous) {
			return nil, fmt.Errorf("cannot register version %d of %s: %w", v.Number, v.Name, err)
		}
	}
	return nil, fmt.Errorf("cannot register a version of %s: lost %d races: %w", v.Name, maxRaces, store.ErrPrecondition)
}

// find returns the highest number of the name, and the version of the same run and stage if there is one.
func (r *Registry) find(ctx context.Context, v *Version) (last int, have *Version, err error) {
	all, err := r.List(ctx, v.Tenant, v.Name)
	for i := range all {
		last = max(last, all[i].Number)
		if all[i].Run == v.Run && all[i].Stage == v.Stage {
			return last, &all[i], nil
		}
	}
	return last, nil, err
}

// List returns the versions of a name, oldest first.
func (r *Registry) List(ctx context.Context, tenant, name string) ([]Version, error) {
	var out []Version
	for info, err := range r.objects.List(ctx, prefix(tenant, name)) {
		if err != nil {
			return nil, fmt.Errorf("cannot list versions of %s: %w", name, err)
		}
		data, _, err := r.objects.Get(ctx, info.Key, maxRecordBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read version %s: %w", info.Key, err)
		}
		var v Version
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, fmt.Errorf("cannot decode version %s: %w", info.Key, err)
		}
		out = append(out, v)
	}
	return out, nil
}
