package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
	"github.com/tunefleet/tunefleet/schemas"
)

func (a *app) dataCommand() *cobra.Command {
	return group("data", "Look at data before it is trained on", a.dataPreviewCommand(), a.dataStatsCommand(), a.dataValidateCommand(),
		a.dataPIICommand())
}

// maxDataLine bounds a line of a file that is read for personal data.
const maxDataLine = 64 << 20

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
	c := &cobra.Command{
		Use: "pii FILE.jsonl", Short: "Find personal data in the rows of a JSONL file", Args: exactArgs("FILE.jsonl"),
		Long: "Find personal data in the rows of a JSONL file: e-mail, phone, Chinese resident id, bank card, IBAN, IP, passport, address.\n" +
			"With --json a line a row: {row, spans: [{start, end, type}]}, rows from 0, positions in Unicode code points, end exclusive. The text of a row is the\n" +
			"row itself when it is a string, else its field \"text\", else all its strings (each span then names its field).\n" +
			"With --mask mask|pseudonym the rows are printed with the finds replaced instead.",
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
			f, err := os.Open(args[0])
			if err != nil {
				return schemas.Errorf(schemas.CodeNotFound, args[0], "cannot open: %v", err)
			}
			defer f.Close()
			scan := &piiScan{app: a, finder: finder, field: field, replace: replace, name: args[0], out: bufio.NewWriter(a.out), counts: map[string]int{}}
			if err := scan.run(cmd, f); err != nil {
				return err
			}
			return scan.out.Flush()
		},
	}
	c.Flags().StringSliceVar(&types, "type", nil, "only these types ("+strings.Join(pii.Types(), ", ")+")")
	c.Flags().StringArrayVar(&patterns, "pattern", nil, "NAME=REGEXP: an own pattern (repeatable)")
	c.Flags().StringVar(&field, "field", "", "the field that holds the text")
	c.Flags().StringVar(&mask, "mask", "", "print the rows with finds replaced: mask ([EMAIL]) or pseudonym ([EMAIL_3f9a2c41], the key in TUNEFLEET_PII_KEY)")
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
	name    string
	out     *bufio.Writer
	counts  map[string]int
	hits    int
}

func (s *piiScan) run(cmd *cobra.Command, r io.Reader) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxDataLine)
	row := 0
	for line := 1; sc.Scan(); line++ {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		b := sc.Bytes()
		if line == 1 {
			b = bytes.TrimPrefix(b, []byte("\ufeff"))
		}
		if len(bytes.TrimSpace(b)) == 0 {
			continue
		}
		if err := s.row(row, b); err != nil {
			return schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", s.name, line), "%v", err)
		}
		row++
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", s.name, row+1), "the line is longer than %d bytes", maxDataLine)
	} else if err != nil {
		return fmt.Errorf("cannot read %s: %w", s.name, err)
	}
	if row == 0 {
		return schemas.Errorf(schemas.CodeData, s.name, "the data set is empty")
	}
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
	_, err := fmt.Fprintf(s.out, "%d of %d rows hold personal data\n", s.hits, row)
	return err
}

// texts are the strings of a row that are looked at, with the field's name when there are several.
func (s *piiScan) texts(b []byte) (names, texts []string, row any, err error) {
	if err := json.Unmarshal(b, &row); err != nil {
		return nil, nil, nil, fmt.Errorf("broken JSON: %w", err)
	}
	switch v := row.(type) {
	case string:
		return []string{""}, []string{v}, row, nil
	case map[string]any:
		key := s.field
		if key == "" {
			key = "text"
		}
		if t, ok := v[key].(string); ok {
			return []string{key}, []string{t}, row, nil
		}
		if s.field != "" {
			return nil, nil, nil, fmt.Errorf("has no string %q", s.field)
		}
		for k, x := range v {
			if _, ok := x.(string); ok {
				names = append(names, k)
			}
		}
		slices.Sort(names)
		for _, k := range names {
			t, _ := v[k].(string)
			texts = append(texts, t)
		}
		return names, texts, row, nil
	}
	return nil, nil, nil, errors.New("is neither an object nor a string")
}

func (s *piiScan) row(index int, b []byte) error {
	names, texts, row, err := s.texts(b)
	if err != nil {
		return err
	}
	out := piiRow{Row: index, Spans: []piiSpan{}}
	for i, t := range texts {
		for _, x := range s.finder.Find(t) {
			s.counts[x.Type]++
			span := piiSpan{Span: x}
			if len(names) > 1 {
				span.Field = names[i]
			}
			out.Spans = append(out.Spans, span)
		}
		if s.replace == nil {
			continue
		}
		masked, _ := s.finder.Replace(t, s.replace)
		if m, ok := row.(map[string]any); ok {
			m[names[i]] = masked
		} else {
			row = masked
		}
	}
	if len(out.Spans) > 0 {
		s.hits++
	}
	switch {
	case s.replace != nil:
		return encodeLine(s.out, row)
	case s.app.json:
		return encodeLine(s.out, out)
	}
	return nil
}

func encodeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
