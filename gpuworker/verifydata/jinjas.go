package verifydata

import (
	"context"
	"os"
	"path"

	"github.com/tunefleet/tunefleet/gpuworker/data/jinja"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

func jinjaSuite() Suite {
	return Suite{Name: "chat templates in Jinja",
		Match: func(p string) bool { ok, _ := path.Match("chat_templates/*.jsonl", p); return ok },
		Run: func(ctx context.Context, env *Env, f *File) ([]Case, error) {
			out := make([]Case, len(f.Rows))
			for i := range f.Rows {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				out[i] = jinjaCase(env, f.Row(i))
			}
			return out, nil
		}}
}

// jinjaTemplate parses the row's own template, or the file that it names.
func (e *Env) jinjaTemplate(row *pyjson.Object) (*jinja.Template, error) {
	if src, ok := row.Value("chat_template").(string); ok {
		return jinja.Parse(src)
	}
	file, _ := row.Value("template").(string)
	v, err := e.Shared("jinja "+file, func() (any, error) {
		p, err := e.Find("chat_templates/jinja/" + path.Base(file))
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		return jinja.Parse(string(b))
	})
	if err != nil {
		return nil, err
	}
	return v.(*jinja.Template), nil //nolint:forcetypeassert // made above
}

func jinjaCase(env *Env, row *pyjson.Object) Case {
	c := Case{Order: []string{"template", "chat_template", "case", "messages", "tools", "kwargs", "bos_token", "eos_token", "add_generation_prompt", "rendered", "error"},
		Results: []string{"rendered"}}
	if _, ok := row.Get("chat_template"); !ok {
		c.Order = []string{"template", "case", "messages", "tools", "kwargs", "add_generation_prompt", "bos_token", "eos_token", "rendered", "error"}
	}
	t, err := env.jinjaTemplate(row)
	if err != nil {
		c.Err = err
		return c
	}
	// What apply_chat_template gives a template: tools and documents are there even when they are null.
	vars := pyjson.NewObject("messages", row.Value("messages"), "tools", row.Value("tools"), "documents", nil, "add_generation_prompt", row.Value("add_generation_prompt"))
	for _, k := range []string{"bos_token", "eos_token"} {
		if v, ok := row.Get(k); ok && v != nil {
			vars.Set(k, v)
		}
	}
	kwargs, _ := row.Value("kwargs").(*pyjson.Object)
	for _, k := range kwargs.Keys() {
		vars.Set(k, kwargs.Value(k))
	}
	var s string
	if s, c.Err = t.Render(vars, jinja.Options{Now: today()}); c.Err == nil {
		c.Fields = []Field{{Key: "rendered", Value: s}}
	}
	return c
}
