// Package generate makes JSON Schemas from the Go types of package schemas.
package generate

import (
	"encoding/json"
	"fmt"

	"github.com/invopop/jsonschema"

	"github.com/tunefleet/tunefleet/schemas"
)

// All returns file name -> JSON Schema (2020-12) of each wire type.
func All() (map[string][]byte, error) {
	r := &jsonschema.Reflector{BaseSchemaID: "https://tunefleet.dev/schemas/v1"}
	out := map[string][]byte{}
	for name, v := range map[string]any{
		"run-spec": schemas.RunSpec{}, "head": schemas.Head{}, "ledger": schemas.Ledger{}, "manifest": schemas.Manifest{},
		"message": schemas.Message{}, "stage-result": schemas.StageResult{}, "failure": schemas.Failure{}, "event": schemas.Event{},
		"error": schemas.ErrorInfo{}, "policy": schemas.Policy{}, "dead-letter": schemas.DeadLetter{},
	} {
		b, err := json.MarshalIndent(r.Reflect(v), "", "  ")
		if err != nil {
			return nil, fmt.Errorf("cannot generate the schema of %s: %w", name, err)
		}
		out[name+".schema.json"] = append(b, '\n')
	}
	return out, nil
}
