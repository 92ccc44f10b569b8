package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// InfoName is the file that describes data sets in a LLaMA-Factory data folder.
const InfoName = "dataset_info.json"

// MaxInfoBytes bounds it.
const MaxInfoBytes = 4 << 20

// Entry is one data set of dataset_info.json. Columns and Tags are complete: a role that is absent has no column.
type Entry struct {
	Name string
	// Where the data are, in order of precedence: a repository of a hub, a script, an object in the cloud, a file or folder.
	HFHub, MSHub, OMHub, Script, Cloud, File string
	// Subset and Folder choose within a repository; so does the name of Split (ParseSlices), whose parts choose rows.
	Subset, Split, Folder string

	Formatting string
	Ranking    bool
	NumSamples int
	Columns    map[string]string
	Tags       map[string]string
}

// Remote reports whether the data lie elsewhere than in the folder of dataset_info.json.
func (e *Entry) Remote() bool {
	return e.HFHub+e.MSHub+e.OMHub+e.Script+e.Cloud != "" || strings.Contains(e.File, "://")
}

// DefaultEntry is a data set of which nothing is said: alpaca's columns, the split train.
func DefaultEntry(name string) *Entry {
	e := &Entry{Name: name, Formatting: "alpaca", Split: "train", Columns: map[string]string{}, Tags: map[string]string{}}
	for from, to := range map[*map[string]string]map[string]string{&e.Columns: columnRoles(), &e.Tags: tagRoles()} {
		for role, n := range to {
			if n != "" {
				(*from)[role] = n
			}
		}
	}
	return e
}

// Info is a parsed dataset_info.json.
type Info struct {
	file    string
	entries map[string]json.RawMessage
}

// ParseInfo reads the names; entries are checked when they are used, so that a fault in one does not disturb the others.
func ParseInfo(file string, raw []byte) (*Info, error) {
	if len(raw) > MaxInfoBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "has %d bytes, the limit is %d", len(raw), MaxInfoBytes)
	}
	c := rowChecker{depth: 16}
	if why := c.object(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))); why != "" {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "%s", why)
	}
	i := &Info{file: file}
	if err := json.Unmarshal(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), &i.entries); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "cannot read: %v", err)
	}
	return i, nil
}

// Names lists the data sets, sorted.
func (i *Info) Names() []string {
	out := make([]string, 0, len(i.entries))
	for n := range i.entries {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// columnRoles and tagRoles are the roles with the names that they have when an entry lists none; "" is no column.
func columnRoles() map[string]string {
	return map[string]string{"prompt": "instruction", "query": "input", "response": "output", "history": "", "messages": "conversations",
		"system": "", "tools": "", "images": "", "videos": "", "audios": "", "chosen": "", "rejected": "", "kto_tag": ""}
}

// Roles lists the roles that a column can have, sorted.
func Roles() []string { return sortedKeys(columnRoles()) }

func tagRoles() map[string]string {
	return map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
		"observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}
}

// Entry reads one data set. Unknown names, keys and roles are CodeInvalid with the nearest known one.
func (i *Info) Entry(name string) (*Entry, error) {
	raw, ok := i.entries[name]
	if !ok {
		e := schemas.Errorf(schemas.CodeNotFound, i.file, "there is no data set %q", name)
		if near := schemas.Nearest(name, i.Names()); near != "" {
			return nil, e.WithHint("did you mean %q?", near)
		}
		return nil, e.WithHint("it has: %s", shorten(i.Names(), 12))
	}
	return ParseEntry(i.file, name, raw)
}

// ParseEntry reads the description of one data set, as it stands in dataset_info.json or in a configuration.
func ParseEntry(file, name string, raw json.RawMessage) (*Entry, error) {
	place := file + ":" + name
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeInvalid, place, format, args...)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil || keys == nil {
		return nil, bad("is no JSON object")
	}
	e := &Entry{Name: name, Formatting: "alpaca", Split: "train"}
	var columns, tags map[string]*string
	fields := map[string]any{"hf_hub_url": &e.HFHub, "ms_hub_url": &e.MSHub, "om_hub_url": &e.OMHub, "script_url": &e.Script, "cloud_file_name": &e.Cloud,
		"file_name": &e.File, "subset": &e.Subset, "split": &e.Split, "folder": &e.Folder, "formatting": &e.Formatting, "ranking": &e.Ranking,
		"num_samples": &e.NumSamples, "columns": &columns, "tags": &tags}
	var problems []string
	for k, v := range keys {
		dst, ok := fields[k]
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("unknown key %q%s", k, meant(k, sortedKeys(fields))))
		case json.Unmarshal(v, dst) != nil:
			problems = append(problems, fmt.Sprintf("%s: %s is not acceptable", k, v))
		}
	}
	resolve := func(what string, given map[string]*string, roles map[string]string) map[string]string {
		out := map[string]string{}
		if _, listed := keys[what]; !listed {
			for r, n := range roles {
				if n != "" {
					out[r] = n
				}
			}
			return out
		}
		for r, n := range given {
			if _, ok := roles[r]; !ok {
				problems = append(problems, fmt.Sprintf("unknown role %q in %s%s", r, what, meant(r, sortedKeys(roles))))
			} else if n != nil && *n != "" {
				out[r] = *n
			}
		}
		return out
	}
	e.Columns, e.Tags = resolve("columns", columns, columnRoles()), resolve("tags", tags, tagRoles())
	if !slices.Contains([]string{"alpaca", "sharegpt", "openai"}, e.Formatting) {
		problems = append(problems, fmt.Sprintf("formatting %q is unknown (alpaca, sharegpt, openai)%s", e.Formatting, meant(e.Formatting, []string{"alpaca", "sharegpt", "openai"})))
	}
	if _, err := ParseSlices(e.Split); err != nil {
		problems = append(problems, fmt.Sprintf("split: %q is none", e.Split))
	}
	if e.NumSamples < 0 {
		problems = append(problems, fmt.Sprintf("num_samples is %d", e.NumSamples))
	}
	if e.HFHub+e.MSHub+e.OMHub+e.Script+e.Cloud+e.File == "" {
		problems = append(problems, "says neither file_name nor a hub's address")
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		return nil, bad("%s", strings.Join(problems, "; "))
	}
	return e, nil
}

func meant(word string, names []string) string {
	if near := schemas.Nearest(word, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

func shorten(names []string, n int) string {
	if len(names) > n {
		return strings.Join(names[:n], ", ") + fmt.Sprintf(" and %d more", len(names)-n)
	}
	return strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
