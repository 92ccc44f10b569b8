package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/report"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

func (a *app) dataCommand() *cobra.Command {
	return group("data", "Look at data before it is trained on", a.dataPreviewCommand(), a.dataStatsCommand(), a.dataValidateCommand(),
		a.dataPIICommand())
}

// piiRow is one line of `data pii --json`. Rows count from 0; positions are Unicode code points of the text, which is the row's string, its
// field "text", or --field.
type piiRow struct {
	Row   int       `json:"row"`
	Spans []piiSpan `json:"spans"`
}

type piiSpan struct {
	pii.Span
	// Field is set when several fields of the row were looked at.
	Field string `json:"field,omitempty"`
}

func (a *app) dataPIICommand() *cobra.Command {
	var types, patterns []string
	var field, mask string
	var read report.Config
	c := &cobra.Command{
		Use: "pii PATH", Short: "Find personal data in the rows of a data set", Args: exactArgs("PATH"),
		Long: "Find personal data in the rows of a file, folder or data set: e-mail, phone, Chinese resident id, bank card, IBAN, IP, passport, address.\n" +
			"With --json a line a row: {row, spans: [{start, end, type}]}, rows from 0, positions in Unicode code points, end exclusive. The text of a row is the\n" +
			"row itself when it is a string, else its field \"text\", else all its strings, those of messages too (each span then names its field).\n" +
			"With --mask mask|pseudonym the rows are printed as JSONL with the finds replaced instead.",
		Example: "  tunefleet data pii rows.jsonl --json\n  tunefleet data pii tickets.csv --type email,phone\n  tunefleet data pii rows.jsonl --mask mask > masked.jsonl\n" +
			"  tunefleet data pii rows.jsonl --pattern 'ticket=TCK-[0-9]{6}'",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := pii.Config{Types: types, Patterns: map[string]string{}}
			for _, p := range patterns {
				name, re, ok := strings.Cut(p, "=")
				if !ok {
					return schemas.Errorf(schemas.CodeUsage, "--pattern", "%q must be NAME=REGEXP", p)
				}
				cfg.Patterns[name] = re
			}
			finder, err := pii.New(cfg)
			if err != nil {
				return err
			}
			replace, err := piiReplacement(mask)
			if err != nil {
				return err
			}
			read.Path, read.Fetch = args[0], a.fetch
			if info, err := os.Stat(read.Path); err == nil && info.Mode().IsRegular() && read.Format == "" && source.FormatOf(read.Path) == "" {
				read.Format = "jsonl"
			}
			scan := &piiScan{app: a, finder: finder, field: field, replace: replace, out: bufio.NewWriter(a.out), counts: map[string]int{}}
			err = report.EachRow(cmd.Context(), read, true, scan.row)
			if err == nil {
				err = scan.summary()
			}
			if ferr := scan.out.Flush(); err == nil {
				err = ferr
			}
			return err
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&types, "type", nil, "only these types ("+strings.Join(pii.Types(), ", ")+")")
	fl.StringArrayVar(&patterns, "pattern", nil, "NAME=REGEXP: an own pattern (repeatable)")
	fl.StringVar(&field, "field", "", "the field that holds the text")
	fl.StringVar(&mask, "mask", "", "print the rows with finds replaced: mask ([EMAIL]) or pseudonym ([EMAIL_3f9a2c41], the key in TUNEFLEET_PII_KEY)")
	readFlags(fl, &read)
	return c
}

// piiReplacement is nil for no replacement.
func piiReplacement(mode string) (func(kind, found string) string, error) {
	switch mode {
	case "":
		return nil, nil
	case "mask":
		return pii.Mask, nil
	case "pseudonym":
		key := os.Getenv("TUNEFLEET_PII_KEY")
		if key == "" {
			return nil, schemas.Errorf(schemas.CodeUsage, "--mask", "pseudonyms need a secret key").WithHint("set TUNEFLEET_PII_KEY")
		}
		return pii.Pseudonyms([]byte(key)), nil
	}
	return nil, schemas.Errorf(schemas.CodeUsage, "--mask", "%q is unknown (mask, pseudonym)", mode)
}

type piiScan struct {
	app     *app
	finder  *pii.Finder
	field   string
	replace func(kind, found string) string
	out     *bufio.Writer
	counts  map[string]int
	hits    int
	rows    int
}

func (s *piiScan) summary() error {
	if s.app.json || s.replace != nil {
		return nil
	}
	t := newTable("TYPE", "FINDS")
	var kinds []string
	for k := range s.counts {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		t.row(k, fmt.Sprint(s.counts[k]))
	}
	if err := t.write(s.out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "%d of %s with personal data\n", s.hits, plural(s.rows, "row"))
	return err
}

// piiText is a text of a row that is looked at: its field's name, and how it is replaced.
type piiText struct {
	name, text string
	set        func(string)
}

// texts are the strings of a row that are looked at.
func (s *piiScan) texts(row *any) ([]piiText, error) {
	o, ok := (*row).(*pyjson.Object)
	if !ok {
		text, _ := (*row).(string)
		return []piiText{{text: text, set: func(t string) { *row = t }}}, nil
	}
	key := s.field
	if key == "" {
		key = "text"
	}
	if t, ok := o.Value(key).(string); ok {
		return []piiText{{key, t, func(t string) { o.Set(key, t) }}}, nil
	}
	if s.field != "" {
		return nil, fmt.Errorf("has no string %q", s.field)
	}
	return objectTexts(nil, "", o), nil
}

// objectTexts adds the strings of an object, and of what is in it, by their names, such as messages[0].content.
func objectTexts(out []piiText, at string, o *pyjson.Object) []piiText {
	keys := slices.Clone(o.Keys())
	slices.Sort(keys)
	for _, k := range keys {
		name := strings.TrimPrefix(at+"."+k, ".")
		out = piiTexts(out, name, o.Value(k), func(t string) { o.Set(k, t) })
	}
	return out
}

func piiTexts(out []piiText, name string, v any, set func(string)) []piiText {
	switch v := v.(type) {
	case string:
		return append(out, piiText{name, v, set})
	case *pyjson.Object:
		return objectTexts(out, name, v)
	case []any:
		for i := range v {
			out = piiTexts(out, fmt.Sprintf("%s[%d]", name, i), v[i], func(t string) { v[i] = t })
		}
	}
	return out
}

func (s *piiScan) row(r source.Row) error {
	row, err := pyjson.Parse(string(r.Raw))
	if err != nil {
		return schemas.Errorf(schemas.CodeData, r.Place, "broken JSON: %v", err)
	}
	texts, err := s.texts(&row)
	if err != nil {
		return schemas.Errorf(schemas.CodeData, r.Place, "%v", err)
	}
	out := piiRow{Row: s.rows, Spans: []piiSpan{}}
	s.rows++
	for _, t := range texts {
		for _, x := range s.finder.Find(t.text) {
			s.counts[x.Type]++
			span := piiSpan{Span: x}
			if len(texts) > 1 {
				span.Field = t.name
			}
			out.Spans = append(out.Spans, span)
		}
		if s.replace != nil {
			masked, _ := s.finder.Replace(t.text, s.replace)
			t.set(masked)
		}
	}
	if len(out.Spans) > 0 {
		s.hits++
	}
	switch {
	case s.replace != nil:
		_, err = fmt.Fprintln(s.out, pyjson.Dump(row, pyjson.Style{Item: ",", Pair: ":"}))
	case s.app.json:
		err = encodeLine(s.out, out)
	}
	return err
}

func encodeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
