package augment

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/schemas"
)

// Synonyms maps a word (lower case) to the other words of its groups.
type Synonyms map[string][]string

const (
	maxDictLine = 1 << 20
	maxDictRows = 2_000_000
)

// cilin is the code that begins a line of Tongyici Cilin: Aa01A01= (synonyms), # (related words), @ (a word by itself).
var cilin = regexp.MustCompile(`^[A-Z][a-z]\d{2}[A-Z]\d{2}([=#@]) ?`)

// ReadSynonyms reads a dictionary: a group of synonyms a line, separated by commas, tabs or blanks (the first of these that the line has), or
// in the format of Tongyici Cilin, of which only the lines of synonyms (=) are taken. Lines that begin with # are comments. Errors are CodeData
// with the line.
func ReadSynonyms(name string, r io.Reader) (Synonyms, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxDictLine)
	out := Synonyms{}
	for line := 1; sc.Scan(); line++ {
		text := strings.TrimSpace(strings.TrimPrefix(sc.Text(), "\ufeff"))
		if !utf8.ValidString(text) {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", name, line), "is not valid UTF-8").WithHint("save the dictionary as UTF-8")
		}
		if text == "" || text[0] == '#' {
			continue
		}
		if line > maxDictRows {
			return nil, schemas.Errorf(schemas.CodeData, name, "has more than %d lines", maxDictRows)
		}
		var words []string
		if m := cilin.FindStringSubmatch(text); m != nil {
			if m[1] != "=" {
				continue
			}
			words = strings.Fields(text[len(m[0]):])
		} else {
			words = splitGroup(text)
		}
		for _, w := range words {
			key := strings.ToLower(w)
			for _, o := range words {
				if strings.ToLower(o) != key && !slices.Contains(out[key], o) {
					out[key] = append(out[key], o)
				}
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name, "cannot read the synonyms: %v", err)
	}
	if len(out) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, name, "has no group of two words").WithHint("write the synonyms of one word on a line: big, large, huge")
	}
	return out, nil
}

func splitGroup(text string) []string {
	for _, marks := range []string{",，", "\t", " \u3000"} {
		if !strings.ContainsAny(text, marks) {
			continue
		}
		var out []string
		for _, w := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(marks, c) }) {
			if w = strings.TrimSpace(w); w != "" {
				out = append(out, w)
			}
		}
		return out
	}
	return nil
}
