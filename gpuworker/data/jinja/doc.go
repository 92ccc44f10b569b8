// Package jinja renders Jinja templates as transformers renders chat templates: Jinja2 3.1's language in an immutable sandbox, with
// trim_blocks, lstrip_blocks, loop controls, the generation tag, tojson without escaping, raise_exception and strftime_now.
//
// Templates come from model folders and are not trusted: steps, output, nesting and ranges are bounded, nothing outside of the given variables
// can be reached, and values cannot be changed. (The libraries for Go that were measured differ too much: gonja v2 rendered 320 of 600 chat
// template cases as transformers does.)
//
// Values are those of pyjson (nil, bool, int64, float64, string, []any, *pyjson.Object), and within templates also tuples, namespaces, macros
// and undefined values.
package jinja
