package remote

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// checkPath refuses paths that lead out of a folder or that no file of a repository has.
func checkPath(p string) error {
	if p == "" {
		return nil
	}
	if !filepath.IsLocal(filepath.FromSlash(strings.TrimSuffix(p, "/"))) || strings.ContainsAny(p, "\x00\\") {
		return fmt.Errorf("%q leads out of its folder", p)
	}
	return nil
}

func isPattern(s string) bool { return strings.ContainsAny(s, "*?[") }

// pattern is a file pattern as fsspec has it: "*" and "?" within a name, "**" as a whole component for any number of folders, [...] and
// [!...].
type pattern struct {
	text string
	re   *regexp.Regexp
}

func compile(text string) (*pattern, error) {
	parts := strings.Split(text, "/")
	var b strings.Builder
	b.WriteString("^")
	for i, p := range parts {
		last := i == len(parts)-1
		if p == "**" {
			if last {
				b.WriteString(".*")
			} else {
				b.WriteString("(?:[^/]+/)*")
			}
			continue
		}
		writeName(&b, p)
		if !last {
			b.WriteString("/")
		}
	}
	b.WriteString("$")
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, fmt.Errorf("%q is no pattern: %w", text, err)
	}
	return &pattern{text: text, re: re}, nil
}

// writeName translates one component.
func writeName(b *strings.Builder, p string) {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*':
			b.WriteString("[^/]*")
		case '?':
			b.WriteString("[^/]")
		case '[':
			end := strings.IndexByte(p[i+1:], ']')
			if end <= 0 {
				b.WriteString(`\[`)
				continue
			}
			class := p[i+1 : i+1+end]
			i += end + 1
			negated := ""
			if class[0] == '!' {
				negated, class = "^", class[1:]
			}
			// A dash after a range, as in [-._ 0-9], is itself.
			class = strings.NewReplacer(`\`, `\\`, `^`, `\^`, `[`, `\[`).Replace(class)
			fmt.Fprintf(b, "[%s%s]", negated, class)
		default:
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		}
	}
}

// ignored are names that datasets takes for no data.
func ignored(name string) bool {
	return slices.Contains([]string{"README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"}, name)
}

// choose lists the names that a pattern finds, sorted, without what datasets leaves out unless the pattern names it: its own files, hidden
// ones and what lies below hidden or __special__ folders.
func choose(names []string, text string) ([]string, error) {
	p, err := compile(text)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if !p.re.MatchString(n) || ignored(path.Base(n)) && path.Base(n) != path.Base(text) {
			continue
		}
		if special(n) > special(text) {
			continue
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// special counts the hidden and __special__ parts of a path.
func special(p string) int {
	n := 0
	parts := strings.Split(p, "/")
	for i, s := range parts {
		if strings.HasPrefix(s, ".") && strings.Trim(s, ".") != "" || strings.HasPrefix(s, "__") && i < len(parts)-1 {
			n++
		}
	}
	return n
}
