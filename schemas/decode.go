package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// maxDepth bounds the nesting of accepted JSON.
const maxDepth = 32

// DecodeSpec reads a RunSpec from JSON: at most MaxSpecBytes, no unknown or duplicate keys, nothing after the value. It does not call
// Validate. Errors are *ErrorInfo with CodeInvalid naming the key.
func DecodeSpec(b []byte) (*RunSpec, error) {
	var s RunSpec
	if err := DecodeStrict(b, &s, MaxSpecBytes); err != nil {
		return nil, err
	}
	return &s, nil
}

// DecodeStrict reads JSON of at most limit bytes into v (a pointer), refusing unknown keys (with the nearest known one), duplicate keys,
// deep nesting and trailing data.
func DecodeStrict(b []byte, v any, limit int) error {
	if len(b) > limit {
		return Errorf(CodeInvalid, "", "JSON has %d bytes, the limit is %d", len(b), limit)
	}
	if err := checkShape(b, reflect.TypeOf(v)); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return Errorf(CodeInvalid, te.Field, "cannot read a JSON %s as %s", te.Value, te.Type)
		}
		return Errorf(CodeInvalid, "", "cannot read JSON: %v", err)
	}
	return nil
}

// checkShape walks the tokens beside the type, so that an unknown key is named with its whole path.
func checkShape(b []byte, t reflect.Type) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := checkValue(d, t, "", 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeInvalid, "", "there is more after the JSON value")
	}
	return nil
}

func checkValue(d *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return Errorf(CodeInvalid, path, "JSON is nested deeper than %d", maxDepth)
	}
	tok, err := d.Token()
	if err != nil {
		return Errorf(CodeInvalid, path, "cannot read JSON: %v", err)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if delim == '{' {
		return checkObject(d, t, path, depth)
	}
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) && t.Elem().Kind() != reflect.Uint8 {
		elem = t.Elem()
	}
	for i := 0; d.More(); i++ {
		if err := checkValue(d, elem, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return syntax(path, err)
}

func checkObject(d *json.Decoder, t reflect.Type, path string, depth int) error {
	var fields map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		fields = Fields(t)
	}
	seen := map[string]bool{}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return syntax(path, err)
		}
		key, _ := tok.(string)
		at := strings.TrimPrefix(path+"."+key, ".")
		if seen[key] {
			return Errorf(CodeInvalid, at, "key appears twice")
		}
		seen[key] = true
		var elem reflect.Type
		if fields != nil {
			if elem, ok := fields[key]; !ok {
				return UnknownKey(at, key, fields)
			} else if err := checkValue(d, elem, at, depth+1); err != nil {
				return err
			}
			continue
		}
		if t != nil && t.Kind() == reflect.Map {
			elem = t.Elem()
		}
		if err := checkValue(d, elem, at, depth+1); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return syntax(path, err)
}

func syntax(path string, err error) error {
	if err == nil {
		return nil
	}
	return Errorf(CodeInvalid, path, "cannot read JSON: %v", err)
}

// Fields returns the JSON keys of a struct type with the types behind them.
func Fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		out[name] = f.Type
	}
	return out
}

// UnknownKey is the error for a key that the fields do not have, with the nearest one as a hint.
func UnknownKey[V any](place, key string, fields map[string]V) *ErrorInfo {
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	e := Errorf(CodeInvalid, place, "unknown key %q", key)
	if near := Nearest(key, names); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	slices.Sort(names)
	if len(names) > 12 {
		names = append(names[:12], "...")
	}
	return e.WithHint("known keys: %s", strings.Join(names, ", "))
}

// Nearest returns the name with the smallest edit distance to s when that is at most a third of its length (at least 2), else "".
func Nearest(s string, names []string) string {
	best, at := "", max(2, len(s)/3)+1
	slices.Sort(names)
	for _, n := range names {
		if d := levenshtein.ComputeDistance(strings.ToLower(s), strings.ToLower(n)); d < at {
			best, at = n, d
		}
	}
	return best
}
