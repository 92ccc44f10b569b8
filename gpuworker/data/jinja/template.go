package jinja

import (
	"fmt"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// MaxBytes bounds a template.
const MaxBytes = 1 << 20

// Template is a parsed template. It is safe for concurrent use.
type Template struct{ body []stmt }

// Parse parses a template. The error is a *SyntaxError, or says that the template is too large.
func Parse(src string) (*Template, error) {
	if len(src) > MaxBytes {
		return nil, fmt.Errorf("cannot parse the template: it has %d bytes, the limit is %d", len(src), MaxBytes)
	}
	body, err := parse(src)
	if err != nil {
		return nil, err
	}
	return &Template{body}, nil
}

// Options of a rendering.
type Options struct {
	// Now is what strftime_now formats.
	Now time.Time
}

// Render renders the template with variables. The error says what the template raised or could not compute.
func (t *Template) Render(vars *pyjson.Object, o Options) (string, error) {
	root := &scope{vars: map[string]any{}}
	for _, k := range vars.Keys() {
		root.vars[k] = vars.Value(k)
	}
	top := &scope{map[string]any{}, root}
	e := &env{opts: &o, scope: top, top: top, out: &strings.Builder{}}
	if err := e.run(t.body); err != nil {
		return "", fmt.Errorf("cannot render the template: %w", err)
	}
	return e.out.String(), nil
}
