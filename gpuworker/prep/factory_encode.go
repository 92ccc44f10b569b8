package prep

import (
	"context"
	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// factoryEncoder turns batches of rows into sequences.
type factoryEncoder struct {
	p       *part
	o       *schemas.PrepOutput
	t       data.Template
	dropped int64
}

func (p *part) newEncoder(o *schemas.PrepOutput) (*factoryEncoder, error) {
	t, err := data.OutputTemplate(o)
	if err != nil {
		return nil, err
	}
	return &factoryEncoder{p: p, o: o, t: t}, nil
}

func (e *factoryEncoder) group() int {
	if e.o.Form == "pairwise" || e.o.Form == "kto" {
		return 2
	}
	return 1
}

func (e *factoryEncoder) batch(_ context.Context, picks []source.Pick) ([]data.Sequence, error) {
	var rows []data.Row
	for _, k := range picks {
		s := e.p.factory.sets[k.Set]
		var m map[string]any
		if err := json.Unmarshal(s.rows[k.Row].Raw, &m); err != nil {
			return nil, err
		}
		get := func(role string) string { v, _ := m[s.set.Columns[role]].(string); return v }
		r := data.Row{Prompt: get("prompt"), Response: get("response"), System: get("system")}
		if q := get("query"); q != "" {
			r.Prompt += "\n" + q
		}
		if e.o.Form == "pt" {
			r.Text = r.Prompt
		}
		rows = append(rows, r)
	}
	return data.Encode(e.p.tok, e.o, rows, nil)
}
