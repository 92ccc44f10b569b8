// Package report looks at a data set before it is trained on: it checks every row, shows rows as the model will see them with what is trained
// and what is not, and counts lengths, truncation, packing, duplicates, personal data and classes. It writes for terminals, HTML and JSON.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// Config names a data set and how it is read.
type Config struct {
	// Path is a file, folder or pattern, or the name of a data set of dataset_info.json in DatasetDir.
	Path       string
	DatasetDir string
	// Format and Encoding are found out when empty.
	Format, Encoding string
	// Formatting is alpaca, sharegpt or openai; found out from the first row when empty. Columns maps roles (prompt, query, response, messages,
	// ...) to columns and wins over what is found out.
	Formatting string
	Columns    map[string]string
	// Label names the column of the class, Annotators those of several people's labels.
	Label      string
	Annotators []string
	// Limit is the most rows that are read (0: all).
	Limit int
	// Fetch brings data that lie elsewhere (addresses, entries of dataset_info.json that name a hub); nil refuses them.
	Fetch func(ctx context.Context, q remote.DataQuery) (*remote.Folder, error)
}

// Problem is something wrong with one row.
type Problem struct {
	File string `json:"file"`
	// Row counts from 1: the line of line-based formats, else the row.
	Row int `json:"row"`
	// Key is the column, or the place within it; empty when the whole row is meant.
	Key  string `json:"key,omitempty"`
	What string `json:"problem"`
}

// String is file:row: key: what.
func (p Problem) String() string {
	s := p.File + ":" + strconv.Itoa(p.Row)
	if p.Key != "" {
		s += ": " + p.Key
	}
	return s + ": " + p.What
}

// Set is a data set as read.
type Set struct {
	Name string
	Attr align.Attr
	// Pretrain says that rows are plain text.
	Pretrain bool
	// Records are the rows that could be read, Examples and Plain the same converted and as single texts.
	Records  []Record
	Problems []Problem
	// Read counts all rows, unreadable ones too.
	Read int
}

// Record is one row.
type Record struct {
	File    string
	Row     int
	Example process.Example
	// Plain has the texts of the row for the steps that know no conversations: Prompt is what users say, Response what is answered.
	Plain data.Row
	// Annotations are the labels of the annotator columns.
	Annotations []string
	// Usable says that the row can be trained on.
	Usable bool
}

// Load reads and checks a data set. Problems of rows are in the result; errors are about the data set as a whole.
func Load(ctx context.Context, c Config) (*Set, error) {
	s := &Set{Name: c.Path}
	base, files, entry, err := c.locate(ctx)
	if err != nil {
		return nil, err
	}
	if entry != nil {
		s.Attr = align.Attr{Formatting: entry.Formatting, Ranking: entry.Ranking, Columns: entry.Columns, Tags: entry.Tags}
	}
	for _, f := range files {
		if err := s.file(ctx, &c, base, f, entry == nil); err != nil {
			return nil, err
		}
		if c.Limit > 0 && s.Read >= c.Limit {
			break
		}
	}
	if s.Read == 0 {
		return nil, schemas.Errorf(schemas.CodeData, c.Path, "the data set is empty")
	}
	return s, nil
}

// locate finds the files, by dataset_info.json when the path is no file.
func (c *Config) locate(ctx context.Context) (base string, files []string, entry *source.Entry, err error) {
	dir := c.DatasetDir
	if dir != "" {
		raw, err := os.ReadFile(filepath.Join(dir, source.InfoName))
		if err == nil {
			info, err := source.ParseInfo(filepath.Join(dir, source.InfoName), raw)
			if err != nil {
				return "", nil, nil, err
			}
			if slices.Contains(info.Names(), c.Path) {
				if entry, err = info.Entry(c.Path); err != nil {
					return "", nil, nil, err
				}
				if entry.Remote() {
					q, err := remote.QueryOf(entry, false)
					if err != nil {
						return "", nil, nil, err
					}
					base, files, err = c.fetch(ctx, q)
					return base, files, entry, err
				}
				base, files, err = source.Locate(dir, entry.File)
				return base, files, entry, err
			}
			if _, err := os.Stat(c.Path); err != nil && !strings.ContainsAny(c.Path, "/*.") {
				_, err := info.Entry(c.Path)
				return "", nil, nil, err
			}
		}
	}
	if remote.IsAddress(c.Path) {
		base, files, err = c.fetch(ctx, remote.DataQuery{Address: c.Path})
		return base, files, nil, err
	}
	abs, err := filepath.Abs(c.Path)
	if err != nil {
		return "", nil, nil, fmt.Errorf("cannot find %s: %w", c.Path, err)
	}
	base, files, err = source.Locate(filepath.Dir(abs), abs)
	return base, files, nil, err
}

func (c *Config) fetch(ctx context.Context, q remote.DataQuery) (base string, files []string, err error) {
	if c.Fetch == nil {
		return "", nil, schemas.Errorf(schemas.CodeUnsupported, c.Path, "is no local data set")
	}
	f, err := c.Fetch(ctx, q)
	if err != nil {
		return "", nil, err
	}
	for _, x := range f.Files {
		files = append(files, x.Path)
	}
	return f.Dir, files, nil
}

func (s *Set) file(ctx context.Context, c *Config, base, name string, guess bool) error {
	f, err := os.Open(filepath.Join(base, filepath.FromSlash(name)))
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, name, "cannot open: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	r, err := source.Open(ctx, name, f, info.Size(), source.Options{Format: c.Format, Encoding: c.Encoding})
	if err != nil {
		return err
	}
	defer r.Close()
	for c.Limit == 0 || s.Read < c.Limit {
		row, err := r.Next(ctx)
		if errors.Is(err, errEOF) {
			return nil
		}
		s.Read++
		var bad *source.BadRowError
		if errors.As(err, &bad) {
			file, n := splitPlace(bad.Place)
			s.Problems = append(s.Problems, Problem{file, n, "", bad.Reason})
			continue
		}
		if err != nil {
			info := schemas.AsErrorInfo(err)
			if info.Code != schemas.CodeData {
				return err
			}
			// The file ends here: what is broken cannot be read past.
			file, n := splitPlace(info.Place)
			s.Problems = append(s.Problems, Problem{file, max(n, s.Read), "", info.Message})
			return nil
		}
		o, err := pyjson.ParseObject(string(row.Raw))
		if err != nil {
			file, n := splitPlace(row.Place)
			s.Problems = append(s.Problems, Problem{file, n, "", err.Error()})
			continue
		}
		if guess {
			s.guess(c, o)
			guess = false
		}
		s.record(c, row.Place, o)
	}
	return nil
}

// splitPlace parts "file:row".
func splitPlace(place string) (string, int) {
	if k := strings.LastIndexByte(place, ':'); k >= 0 {
		if n, err := strconv.Atoi(place[k+1:]); err == nil {
			return place[:k], n
		}
	}
	return place, 0
}

// guess finds out the format from the first row, as far as the configuration does not say it.
func (s *Set) guess(c *Config, o *pyjson.Object) {
	entry, err := source.ParseEntry("", "set", json.RawMessage(`{"file_name":"x"}`))
	if err != nil {
		return
	}
	s.Attr = align.Attr{Formatting: c.Formatting, Columns: entry.Columns, Tags: entry.Tags}
	col := s.Attr.Columns
	has := func(k string) bool { _, ok := o.Get(k); return ok }
	first := func(names ...string) string {
		for _, n := range names {
			if has(n) {
				return n
			}
		}
		return ""
	}
	if m := first("conversations", "messages"); m != "" && s.Attr.Formatting == "" {
		s.Attr.Formatting = "sharegpt"
		col["messages"], col["prompt"] = m, ""
		if list, ok := o.Value(m).([]any); ok && len(list) > 0 {
			if turn, ok := list[0].(*pyjson.Object); ok {
				if _, ok := turn.Get("role"); ok {
					s.Attr.Tags = map[string]string{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool",
						"function_tag": "function", "system_tag": "system"}
				}
			}
		}
	}
	for _, r := range []string{"system", "tools", "history", "kto_tag"} {
		if has(r) {
			col[r] = r
		}
	}
	if has("chosen") && has("rejected") {
		s.Attr.Ranking, col["chosen"], col["rejected"] = true, "chosen", "rejected"
	}
	if s.Attr.Formatting == "" {
		s.Attr.Formatting = "alpaca"
		col["prompt"] = first("instruction", "prompt", "question", "ask", "text", "content")
		col["query"], col["response"] = first("input", "query"), first("output", "response", "answer", "completion")
	}
	for k, v := range c.Columns {
		col[k] = v
	}
	s.Pretrain = s.Attr.Formatting == "alpaca" && col["response"] == "" && !s.Attr.Ranking && c.Label == ""
}
