package remote

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/tunefleet/tunefleet/schemas"
)

// splitKeywords are the words by which a path says its split, in datasets' order.
func splitKeywords() []struct {
	split string
	words []string
} {
	return []struct {
		split string
		words []string
	}{
		{"train", []string{"train", "training"}},
		{"validation", []string{"validation", "valid", "dev", "val"}},
		{"test", []string{"test", "testing", "eval", "evaluation"}},
	}
}

// moduleOf is the builder of datasets that reads an ending, "" for one that is no data.
func moduleOf(ext string) string {
	switch ext {
	case "csv":
		return "csv"
	case "tsv":
		return "tsv"
	case "json", "jsonl", "ndjson":
		return "json"
	case "parquet", "geoparquet", "gpq":
		return "parquet"
	case "arrow":
		return "arrow"
	case "txt":
		return "text"
	case "tar", "zip", "xml", "jpg", "jpeg", "png", "gif", "bmp", "webp", "tiff", "wav", "mp3", "flac", "ogg", "opus", "mp4", "mkv", "avi", "mov", "pdf", "h5", "hdf5":
		return "." + ext // known to datasets, not to us
	}
	return ""
}

// dataConfig is one entry of configs in a data set's README.
type dataConfig struct {
	name, dir string
	// splits are in order; patterns nil: by the names of the files.
	splits  []dataSplit
	byRule  bool
	chosen  bool
	unknown []string
}

type dataSplit struct {
	name     string
	patterns []string
}

// readConfigs reads the configs of a README's YAML head. Errors are CodeData.
func readConfigs(place string, readme []byte) ([]dataConfig, error) {
	head, ok := yamlHead(string(readme))
	if !ok {
		return nil, nil
	}
	var card struct {
		Configs []map[string]any `yaml:"configs"`
	}
	if err := yaml.Unmarshal([]byte(head), &card); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, place, "its YAML head cannot be read: %s", strings.SplitN(err.Error(), "\n", 2)[0])
	}
	var out []dataConfig
	for i, m := range card.Configs {
		c, err := readConfig(m)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:configs[%d]", place, i), "%v", err)
		}
		out = append(out, *c)
	}
	return out, nil
}

// yamlHead is what stands between two lines of dashes at the beginning.
func yamlHead(s string) (string, bool) {
	lines := strings.Split(strings.ReplaceAll(strings.TrimPrefix(s, "\ufeff"), "\r\n", "\n"), "\n")
	if lines[0] != "---" {
		return "", false
	}
	end := slices.Index(lines[1:], "---")
	if end < 0 {
		return "", false
	}
	return strings.Join(lines[1:end+1], "\n"), true
}

func readConfig(m map[string]any) (*dataConfig, error) {
	c := &dataConfig{byRule: true}
	for k, v := range m {
		switch k {
		case "config_name":
			c.name = fmt.Sprint(v)
		case "data_dir":
			c.dir = strings.Trim(fmt.Sprint(v), "/")
		case "default":
			c.chosen = v == true
		case "data_files":
			var err error
			if c.splits, err = readSplits(v); err != nil {
				return nil, err
			}
			c.byRule = false
		case "sep", "delimiter", "names", "column_names", "header", "skiprows", "quoting", "quotechar", "escapechar", "encoding", "field", "sample_by", "keep_linebreaks":
			c.unknown = append(c.unknown, k)
		}
	}
	if c.name == "" {
		return nil, fmt.Errorf("has no config_name")
	}
	return c, nil
}

func readSplits(v any) ([]dataSplit, error) {
	bad := fmt.Errorf("data_files must be a pattern, a list of patterns, or a list of {split, path}")
	texts := func(v any) ([]string, error) {
		switch v := v.(type) {
		case string:
			return []string{v}, nil
		case []any:
			var out []string
			for _, x := range v {
				s, ok := x.(string)
				if !ok {
					return nil, bad
				}
				out = append(out, s)
			}
			return out, nil
		}
		return nil, bad
	}
	if list, ok := v.([]any); ok && len(list) > 0 {
		if _, ok := list[0].(map[string]any); ok {
			var out []dataSplit
			for _, x := range list {
				m, ok := x.(map[string]any)
				if !ok || m["split"] == nil {
					return nil, bad
				}
				p, err := texts(m["path"])
				if err != nil {
					return nil, err
				}
				out = append(out, dataSplit{fmt.Sprint(m["split"]), p})
			}
			return out, nil
		}
	}
	p, err := texts(v)
	if err != nil {
		return nil, err
	}
	return []dataSplit{{"train", p}}, nil
}

// choice is what a user asks of a repository.
type choice struct{ subset, split, folder string }

// splitFiles finds the files of a split as datasets' load_dataset does: by the README's configs, else by the files' names.
func splitFiles(place string, names []string, configs []dataConfig, want choice) ([]string, error) {
	folder := strings.Trim(want.folder, "/")
	if len(configs) == 0 {
		if want.subset != "" && want.subset != "default" {
			return nil, schemas.Errorf(schemas.CodeInvalid, place, "there is no subset %q: the repository has only one", want.subset)
		}
		splits, err := byNames(names, folder)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, place, "%v", err)
		}
		return oneSplit(place, splits, want.split)
	}
	c, err := pickConfig(place, configs, want.subset)
	if err != nil {
		return nil, err
	}
	if len(c.unknown) > 0 {
		slices.Sort(c.unknown)
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "subset %q sets %s, which is not read here", c.name, strings.Join(c.unknown, ", "))
	}
	if c.byRule || folder != "" {
		splits, err := byNames(names, path.Join(folder, c.dir))
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, place, "subset %q: %v", c.name, err)
		}
		return oneSplit(place, splits, want.split)
	}
	found := map[string][]string{}
	var order []string
	for _, s := range c.splits {
		order = append(order, s.name)
		for _, p := range s.patterns {
			if c.dir != "" {
				p = c.dir + "/" + p
			}
			files, err := choose(names, path.Clean(strings.TrimPrefix(p, "./")))
			if err != nil {
				return nil, schemas.Errorf(schemas.CodeData, place, "subset %q: %v", c.name, err)
			}
			found[s.name] = append(found[s.name], files...)
		}
	}
	files, err := oneSplit(place, split{order, found}, want.split)
	if err != nil {
		return nil, err
	}
	// Files that are listed are meant: none is left out for its format.
	for _, n := range found[first(want.split, "train")] {
		if !slices.Contains(files, n) {
			return nil, schemas.Errorf(schemas.CodeData, place, "subset %q lists files of different formats: %s and %s", c.name, files[0], n)
		}
	}
	return files, nil
}

// pickConfig is the subset that is asked for; without a name it is the only one, the one called default, or the one marked so.
func pickConfig(place string, configs []dataConfig, subset string) (*dataConfig, error) {
	var names []string
	var def *dataConfig
	for i := range configs {
		c := &configs[i]
		names = append(names, c.name)
		if c.name == subset {
			return c, nil
		}
		if len(configs) == 1 || c.name == "default" || c.chosen {
			if def != nil && subset == "" {
				return nil, schemas.Errorf(schemas.CodeData, place, "has two default subsets, %q and %q", def.name, c.name).WithHint("name the subset")
			}
			def = c
		}
	}
	if subset != "" {
		e := schemas.Errorf(schemas.CodeInvalid, place, "there is no subset %q", subset)
		if near := schemas.Nearest(subset, names); near != "" {
			return nil, e.WithHint("did you mean %q?", near)
		}
		return nil, e.WithHint("it has: %s", strings.Join(names[:min(len(names), 20)], ", "))
	}
	if def == nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "has several subsets and no default").WithHint("name one of: %s", strings.Join(names[:min(len(names), 20)], ", "))
	}
	return def, nil
}

// split is the files of every split, in order.
type split struct {
	order []string
	files map[string][]string
}

// oneSplit takes the files of a split that have the format which most of them have.
func oneSplit(place string, s split, name string) ([]string, error) {
	if strings.ContainsAny(name, "[+]") {
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "split %q: sums and slices of splits are not read", name).WithHint("name one split; max_samples takes the first rows")
	}
	if name == "" {
		name = "train"
	}
	files, ok := s.files[name]
	if !ok {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "there is no split %q", name).WithHint("it has: %s", strings.Join(s.order, ", "))
	}
	var seen []string
	once := map[string]bool{}
	for _, f := range files {
		if !once[f] {
			seen = append(seen, f)
		}
		once[f] = true
	}
	module := commonModule(seen)
	if module == "" {
		return nil, schemas.Errorf(schemas.CodeData, place, "split %q has no data file: %s", name, strings.Join(seen[:min(len(seen), 5)], ", "))
	}
	if strings.HasPrefix(module, ".") {
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "its data are %s files, which are not read", module)
	}
	var out []string
	for _, f := range seen {
		if slices.ContainsFunc(endings(f), func(e string) bool { return moduleOf(e) == module }) {
			out = append(out, f)
		}
	}
	return out, nil
}

// endings are the parts of a name behind its dots, in lower case.
func endings(name string) []string { return strings.Split(strings.ToLower(path.Base(name)), ".")[1:] }

// commonModule is the builder of the most frequent ending of the first ten files; Parquet, then JSON lines, JSON and CSV win a draw.
func commonModule(files []string) string {
	count := map[string]int{}
	for _, f := range files[:min(len(files), 10)] {
		for _, e := range endings(f) {
			count[e]++
		}
	}
	var list []string
	for e := range count {
		list = append(list, e)
	}
	rank := func(e string) int { return slices.Index([]string{"csv", "json", "jsonl", "parquet"}, e) }
	slices.SortFunc(list, func(a, b string) int {
		switch {
		case count[a] != count[b]:
			return count[b] - count[a]
		case rank(a) != rank(b):
			return rank(b) - rank(a)
		}
		return strings.Compare(b, a)
	})
	for _, e := range list {
		if m := moduleOf(e); m != "" {
			return m
		}
	}
	return ""
}

// byNames finds the splits by the names of files and folders: data/<split>-00000-of-00001*, else folders called by a split's words, else
// files called so, else everything is for training.
func byNames(names []string, dir string) (split, error) {
	local := names
	prefix := ""
	if dir = strings.Trim(path.Clean("/"+dir), "/"); dir != "" {
		prefix = dir + "/"
		local = nil
		for _, n := range names {
			if rest, ok := strings.CutPrefix(n, prefix); ok {
				local = append(local, rest)
			}
		}
		if len(local) == 0 {
			return split{}, fmt.Errorf("there is no file below %q", dir)
		}
	}
	s := sharded(local)
	for _, in := range []bool{true, false} {
		if len(s.order) > 0 {
			break
		}
		var err error
		if s, err = byWords(local, in); err != nil {
			return split{}, err
		}
	}
	if len(s.order) == 0 {
		all, err := choose(local, "**")
		if err != nil {
			return split{}, err
		}
		if all = dataOnly(all); len(all) == 0 {
			return split{}, fmt.Errorf("there is no data file")
		}
		s = split{[]string{"train"}, map[string][]string{"train": all}}
	}
	for _, list := range s.files {
		for i := range list {
			list[i] = prefix + list[i]
		}
	}
	return s, nil
}

// dataOnly leaves out files with endings that datasets does not know.
func dataOnly(names []string) []string {
	var out []string
	for _, n := range names {
		if slices.ContainsFunc(endings(n), func(e string) bool { return moduleOf(e) != "" }) {
			out = append(out, n)
		}
	}
	return out
}

// sharded finds data/<split>-00000-of-00001.<ending>.
func sharded(names []string) split {
	re := regexp.MustCompile(`^data/(.*)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*$`)
	s := split{files: map[string][]string{}}
	sorted := slices.Sorted(slices.Values(names))
	for _, n := range sorted {
		if m := re.FindStringSubmatch(n); m != nil && !strings.Contains(m[1], "/") {
			s.files[m[1]] = append(s.files[m[1]], n)
		}
	}
	for _, k := range splitKeywords() {
		if len(s.files[k.split]) > 0 {
			s.order = append(s.order, k.split)
		}
	}
	var other []string
	for name := range s.files {
		if !slices.Contains(s.order, name) {
			other = append(other, name)
		}
	}
	slices.Sort(other)
	s.order = append(s.order, other...)
	return s
}

// byWords finds splits by the words in the names of folders or files.
func byWords(names []string, folders bool) (split, error) {
	const sep = "[-._ 0-9]"
	s := split{files: map[string][]string{}}
	for _, k := range splitKeywords() {
		var found []string
		hit := false
		for _, w := range k.words {
			patterns := []string{"**/" + w + sep + "*", "**/*" + sep + w + sep + "*"}
			if folders {
				patterns = []string{"**/" + w + "/**", "**/" + w + sep + "*/**", "**/*" + sep + w + "/**", "**/*" + sep + w + sep + "*/**"}
			}
			for _, p := range patterns {
				files, err := choose(names, p)
				if err != nil {
					return s, err
				}
				hit = hit || len(files) > 0
				found = append(found, dataOnly(files)...)
			}
		}
		if hit && len(found) > 0 {
			s.order = append(s.order, k.split)
			s.files[k.split] = found
		}
	}
	return s, nil
}
