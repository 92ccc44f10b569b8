// Package report looks at a data set before it is trained on: it checks every row, shows rows as the model will see them with what is trained
// and what is not, and counts lengths, truncation, packing, duplicates, personal data and classes. It writes for terminals, HTML and JSON.
package report

import (
	"cmp"
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
	// Limit is the most rows that are read (0: all), Problems the most problems that are kept (0: 1,000).
	Limit, Problems int
	// Literal keeps every value of tables as the text that it is, as the preparation of the simple form does; otherwise words such as NA are null.
	Literal bool
	// Set, when not nil, is a data set of a configuration: it says how rows are read, Files (below Base, or whole paths) hold them, and Path is
	// its name. Pretrain says that its rows are trained on as plain texts. With Files and without Set the format is found out.
	Set      *schemas.DataSet
	Base     string
	Files    []string
	Pretrain bool
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

// Set is what is known of a data set while it is read, and after.
type Set struct {
	Name string
	Attr align.Attr
	// Pretrain says that rows are plain text.
	Pretrain bool
	// Problems are the first Config.Problems of Wrong.
	Problems []Problem
	Wrong    int
	// Read counts all rows, unreadable ones too.
	Read int
	// unseen are the columns that the configuration names and no row had so far, by what names them; firstKeys are those of the first row.
	unseen    map[string]string
	firstKeys []string
	// most is how many problems are kept; take gets the records, until it has enough.
	most   int
	take   func(*Set, *Record) error
	enough bool
}

// wrong notes a problem.
func (s *Set) wrong(p Problem) {
	if s.Wrong++; len(s.Problems) < s.most {
		s.Problems = append(s.Problems, p)
	}
}

// Record is one row.
type Record struct {
	File    string
	Row     int
	Example process.Example
	// Plain has the texts of the row for the steps that know no conversations: Prompt is what users say, Response what is answered.
	Plain data.Row
	// Judged is "good" or "bad" for an answer that was judged (KTO).
	Judged string
	// Annotations are the labels of the annotator columns.
	Annotations []string
	// Usable says that the row can be trained on.
	Usable bool
}

// ErrEnough ends Each early when its function returns it: what is read then is what the configuration's columns need to be found.
var ErrEnough = errors.New("no more rows are needed")

const keptProblems = 1000

// Each reads and checks a data set and gives every row that is an object to take (nil: none), in its order and one at a time. Problems of rows are in
// the result; errors are take's, or about the data set as a whole.
func Each(ctx context.Context, c Config, take func(*Set, *Record) error) (*Set, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Set{Name: c.Path, unseen: c.named(), most: cmp.Or(c.Problems, keptProblems), take: take}
	base, files, entry, err := c.locate(ctx)
	if err != nil {
		return nil, err
	}
	if entry != nil {
		s.Attr = align.Attr{Formatting: cmp.Or(c.Formatting, entry.Formatting), Ranking: entry.Ranking, Columns: entry.Columns, Tags: entry.Tags}
		s.override(&c)
	}
	for _, f := range files {
		if err := s.file(ctx, &c, base, f, entry == nil); err != nil {
			return nil, err
		}
		if c.Limit > 0 && s.Read >= c.Limit || s.done() {
			break
		}
	}
	if s.Read == 0 {
		return nil, schemas.Errorf(schemas.CodeData, c.Path, "the data set is empty")
	}
	return s, s.missing()
}

// done reports whether nothing more is to be read: columns that are named may come late.
func (s *Set) done() bool { return s.enough && len(s.unseen) == 0 }

// check refuses what can be wrong without a look at the data.
func (c *Config) check() error {
	if c.Formatting != "" && !slices.Contains([]string{"alpaca", "sharegpt", "openai"}, c.Formatting) {
		return schemas.Errorf(schemas.CodeInvalid, "formatting", "%q is unknown (alpaca, sharegpt, openai)", c.Formatting)
	}
	for role := range c.Columns {
		if !slices.Contains(source.Roles(), role) {
			e := schemas.Errorf(schemas.CodeInvalid, "column", "there is no role %q", role)
			if near := schemas.Nearest(role, source.Roles()); near != "" {
				return e.WithHint("did you mean %q?", near)
			}
			return e.WithHint("the roles are %s", strings.Join(source.Roles(), ", "))
		}
	}
	return nil
}

// named are the columns that the configuration names.
func (c *Config) named() map[string]string {
	out := map[string]string{}
	for role, name := range c.Columns {
		out[name] = role
	}
	for _, a := range c.Annotators {
		out[a] = "an annotator"
	}
	if c.Label != "" {
		out[c.Label] = "the class"
	}
	return out
}

// missing refuses names of columns that no row has.
func (s *Set) missing() error {
	var names []string
	for n := range s.unseen {
		names = append(names, n)
	}
	if len(names) == 0 || s.firstKeys == nil {
		return nil
	}
	slices.Sort(names)
	e := schemas.Errorf(schemas.CodeData, s.Name, "no row has the column %q, which is named for %s", names[0], s.unseen[names[0]])
	if near := schemas.Nearest(names[0], s.firstKeys); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	return e.WithHint("the first row has %s", listed(s.firstKeys))
}

// override applies the columns that the configuration names.
func (s *Set) override(c *Config) {
	for role, name := range c.Columns {
		s.Attr.Columns[role] = name
	}
	if c.Set != nil {
		s.Pretrain = c.Pretrain
		return
	}
	s.Pretrain = s.Attr.Formatting == "alpaca" && s.Attr.Columns["response"] == "" && !s.Attr.Ranking && c.Label == ""
}

// EachRow gives every row of the files to f, with its place, and stops at the first that cannot be read. With texts the rows of JSON files
// may be texts.
func EachRow(ctx context.Context, c Config, texts bool, f func(source.Row) error) error {
	base, files, _, err := c.locate(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, name := range files {
		err := c.open(ctx, base, name, texts, func(r source.Reader) error {
			left := 0
			if c.Limit > 0 {
				left = c.Limit - n
			}
			return source.Each(ctx, r, &source.Bad{}, left, func(row source.Row) error {
				n++
				return f(row)
			})
		})
		if err != nil || c.Limit > 0 && n >= c.Limit {
			return err
		}
	}
	if n == 0 {
		return schemas.Errorf(schemas.CodeData, c.Path, "the data set is empty")
	}
	return nil
}

// open gives f a reader of one file.
func (c *Config) open(ctx context.Context, base, name string, texts bool, f func(source.Reader) error) (err error) {
	file, err := os.Open(filepath.Join(base, filepath.FromSlash(name)))
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, name, "cannot open: %v", schemas.Reason(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	r, err := source.Open(ctx, name, file, info.Size(), source.Options{Format: c.Format, Encoding: c.Encoding, Texts: texts, Literal: c.Literal})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return f(r)
}

// locate finds the files, by dataset_info.json when the path is no file.
func (c *Config) locate(ctx context.Context) (base string, files []string, entry *source.Entry, err error) {
	if c.Set != nil {
		e := source.DefaultEntry(c.Path)
		e.Formatting, e.Ranking, e.Columns, e.Tags = c.Set.Formatting, c.Set.Ranking, c.Set.Columns, c.Set.Tags
		return c.Base, c.Files, e, nil
	}
	if len(c.Files) > 0 {
		return c.Base, c.Files, nil, nil
	}
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
	if err := folderOfSets(c.Path, abs); err != nil {
		return "", nil, nil, err
	}
	base, files, err = source.Locate(filepath.Dir(abs), abs)
	if err != nil && schemas.IsCode(err, schemas.CodeNotFound) && dir == "" && !strings.ContainsAny(c.Path, "/*.") {
		err = schemas.AsErrorInfo(err).WithHint("the name of a data set of %s needs --dataset-dir", source.InfoName)
	}
	return base, files, nil, err
}

// folderOfSets refuses a folder that describes data sets: which of them is meant?
func folderOfSets(path, abs string) error {
	file := filepath.Join(abs, source.InfoName)
	if found, _ := os.Stat(file); found == nil || !found.Mode().IsRegular() {
		return nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	info, err := source.ParseInfo(file, raw)
	if err != nil {
		return err
	}
	var here []string
	for _, n := range info.Names() {
		e, err := info.Entry(n)
		if err != nil || e.Remote() {
			continue
		}
		if _, err := os.Stat(filepath.Join(abs, e.File)); err == nil {
			here = append(here, n)
		}
	}
	return schemas.Errorf(schemas.CodeInvalid, path, "is a folder of data sets, which %s describes", source.InfoName).
		WithHint("name one and add --dataset-dir %s; there are %s", path, listed(here))
}

// listed names the first dozen.
func listed(names []string) string {
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
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
	return c.open(ctx, base, name, false, func(r source.Reader) error { return s.rows(ctx, c, r, guess) })
}

// rows checks the rows of one file.
func (s *Set) rows(ctx context.Context, c *Config, r source.Reader, guess bool) error {
	for (c.Limit == 0 || s.Read < c.Limit) && !s.done() {
		row, err := r.Next(ctx)
		if errors.Is(err, errEOF) {
			return nil
		}
		s.Read++
		var bad *source.BadRowError
		if errors.As(err, &bad) {
			file, n := splitPlace(bad.Place)
			s.wrong(Problem{file, n, "", bad.Reason})
			continue
		}
		if err != nil {
			info := schemas.AsErrorInfo(err)
			if info.Code != schemas.CodeData {
				return err
			}
			// The file ends here: what is broken cannot be read past.
			file, n := splitPlace(info.Place)
			s.wrong(Problem{file, max(n, s.Read), "", info.Message})
			return nil
		}
		o, err := pyjson.ParseObject(string(row.Raw))
		if err != nil {
			file, n := splitPlace(row.Place)
			s.wrong(Problem{file, n, "", err.Error()})
			continue
		}
		if guess {
			s.guess(c, o)
			guess = false
		}
		if s.firstKeys == nil {
			s.firstKeys = o.Keys()
		}
		for _, k := range o.Keys() {
			delete(s.unseen, k)
		}
		rec := s.record(c, row.Place, o)
		if s.take == nil || s.enough {
			continue
		}
		if err := s.take(s, rec); errors.Is(err, ErrEnough) {
			s.enough = true
		} else if err != nil {
			return err
		}
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
	for _, r := range []string{"system", "tools", "history", "kto_tag", "images", "videos", "audios"} {
		if has(r) {
			col[r] = r
		}
	}
	if _, judged := o.Value("label").(bool); judged && c.Label == "" {
		col["kto_tag"] = "label"
	}
	if has("chosen") && has("rejected") {
		s.Attr.Ranking, col["chosen"], col["rejected"] = true, "chosen", "rejected"
	}
	if s.Attr.Formatting == "" {
		s.Attr.Formatting = "alpaca"
		col["prompt"] = first("instruction", "prompt", "question", "ask", "text", "content")
		col["query"], col["response"] = first("input", "query"), first("output", "response", "answer", "completion")
	}
	s.override(c)
}
