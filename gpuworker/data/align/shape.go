package align

import (
	"bytes"
	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// Shape is the type that a nested value gets when the rows of a data set become one Arrow table, as the datasets library makes of them before
// LLaMA-Factory sees a row: objects have the keys of all rows, in the order in which they first came, null where a row lacks one; integers
// are floats where one row has a float. Kinds that do not go together, which that library refuses, leave values as they are.
type Shape struct {
	Kind shapeKind `json:"kind,omitempty"`
	// Keys and Of are those of objects; Of is the one of the items of lists.
	Keys []string `json:"keys,omitempty"`
	Of   []*Shape `json:"of,omitempty"`
	// at finds keys.
	at map[string]int
}

type shapeKind string

const (
	shapeNull   shapeKind = ""
	shapeTruth  shapeKind = "truth"
	shapeText   shapeKind = "text"
	shapeWhole  shapeKind = "whole"
	shapeFloat  shapeKind = "float"
	shapeList   shapeKind = "list"
	shapeObject shapeKind = "object"
	shapeMixed  shapeKind = "mixed"
)

// maxShapeKeys bounds the keys of one object; with more a column holds no record but a dictionary, which no prompt shows whole.
const maxShapeKeys = 4096

func kindOf(v any) shapeKind {
	switch v.(type) {
	case nil:
		return shapeNull
	case bool:
		return shapeTruth
	case string:
		return shapeText
	case float64:
		return shapeFloat
	case []any:
		return shapeList
	case *pyjson.Object:
		return shapeObject
	}
	return shapeWhole
}

// Add widens the shape so that it holds v.
func (s *Shape) Add(v any) {
	k := kindOf(v)
	switch {
	case k == shapeNull || s.Kind == shapeMixed || s.Kind == shapeFloat && k == shapeWhole:
		return
	case s.Kind == shapeNull, s.Kind == shapeWhole && k == shapeFloat:
		s.Kind = k
	case s.Kind != k:
		*s = Shape{Kind: shapeMixed}
		return
	}
	switch x := v.(type) {
	case []any:
		if len(s.Of) == 0 {
			s.Of = []*Shape{{}}
		}
		for _, e := range x {
			s.Of[0].Add(e)
		}
	case *pyjson.Object:
		for _, key := range x.Keys() {
			s.key(key).Add(x.Value(key))
		}
		if len(s.Keys) > maxShapeKeys {
			*s = Shape{Kind: shapeMixed}
		}
	}
}

// key is the shape of a key's values.
func (s *Shape) key(name string) *Shape {
	if s.at == nil {
		s.at = map[string]int{}
		for i, k := range s.Keys {
			s.at[k] = i
		}
	}
	i, ok := s.at[name]
	if !ok {
		i = len(s.Keys)
		s.at[name] = i
		s.Keys, s.Of = append(s.Keys, name), append(s.Of, &Shape{})
	}
	return s.Of[i]
}

// Apply is v as the table holds it. A nil shape leaves it as it is.
func (s *Shape) Apply(v any) any {
	if s == nil || s.Kind == shapeMixed {
		return v
	}
	switch x := v.(type) {
	case int64:
		if s.Kind == shapeFloat {
			return float64(x)
		}
	case []any:
		if s.Kind != shapeList {
			return v
		}
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = s.Of[0].Apply(e)
		}
		return out
	case *pyjson.Object:
		if s.Kind != shapeObject {
			return v
		}
		out := &pyjson.Object{}
		for i, k := range s.Keys {
			out.Set(k, s.Of[i].Apply(x.Value(k)))
		}
		return out
	}
	return v
}

// Shapes are those of the nested values of a data set that a prompt shows whole: the descriptions of tools, and the functions that are called.
type Shapes struct {
	Tools Shape `json:"tools,omitzero"`
	Calls Shape `json:"calls,omitzero"`
}

// HasShapes reports whether rows of a formatting have nested values that a prompt shows whole.
func HasShapes(formatting string) bool { return formatting == "openai" }

// Look takes a row, which is a JSON object, into account. What is no good row changes nothing.
func (s *Shapes) Look(raw json.RawMessage, a *Attr) {
	tools, list := a.Columns["tools"], a.Columns["messages"]
	calls := bytes.Contains(raw, []byte(`"tool_calls"`))
	if !calls && (tools == "" || !bytes.Contains(raw, []byte(tools))) {
		return
	}
	o, err := pyjson.ParseObject(string(raw))
	if err != nil {
		return
	}
	if tools != "" {
		s.Tools.Add(o.Value(tools))
	}
	messages, ok := o.Value(list).([]any)
	if !calls || !ok {
		return
	}
	for _, m := range messages {
		m, ok := m.(*pyjson.Object)
		if !ok {
			continue
		}
		made, _ := m.Value("tool_calls").([]any)
		for _, c := range made {
			if c, ok := c.(*pyjson.Object); ok {
				s.Calls.Add(c.Value("function"))
			}
		}
	}
}
