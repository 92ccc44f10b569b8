package remote

import (
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// QueryOf says what an entry of dataset_info.json means, in LLaMA-Factory's order of precedence: a hub (ModelScope's when it is preferred or
// the only one that is named), an object in the cloud, an address as file_name. Scripts and openMind are CodeUnsupported.
func QueryOf(e *source.Entry, modelScope bool) (DataQuery, error) {
	parts, err := source.ParseSlices(e.Split)
	if err != nil {
		return DataQuery{}, err
	}
	name, one := parts.Name()
	q := DataQuery{Subset: e.Subset, Split: name, Folder: e.Folder}
	no := func(key, why, hint string) error {
		return schemas.Errorf(schemas.CodeUnsupported, e.Name, "%s: %s", key, why).WithHint("%s", hint)
	}
	if !one {
		return q, no("split", "parts of several splits are not joined", "name a data set for each")
	}
	hub := func(scheme, name string) (DataQuery, error) {
		q.Address = name
		if !strings.Contains(name, "://") {
			q.Address = scheme + "://" + name
		}
		return q, nil
	}
	switch {
	case e.MSHub != "" && (modelScope || e.HFHub == ""):
		return hub("ms", e.MSHub)
	case e.OMHub != "" && e.HFHub == "":
		return q, no("om_hub_url", "openMind is not read", "name it on another hub, or give its files")
	case e.HFHub != "":
		return hub("hf", e.HFHub)
	case e.Script != "":
		return q, no("script_url", "code of a data set is never run", "run it yourself and give its files as file_name")
	case e.Cloud != "":
		q.Address = e.Cloud
	default:
		q.Address = e.File
	}
	if q.Split == "train" {
		q.Split = ""
	}
	return q, nil
}
