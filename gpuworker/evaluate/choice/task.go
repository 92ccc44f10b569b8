package choice

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// Limits of what is read of a task.
const (
	// MaxFileBytes bounds a file of a task's folder, and all that is unpacked of an archive.
	MaxFileBytes  = 1 << 30
	maxRowBytes   = 1 << 20
	maxMapping    = 1 << 20
	maxSubjects   = 10_000
	maxQuestions  = 1 << 20
	maxZipEntries = 1 << 16
)

// MappingName is the file that lists a task's subjects.
const MappingName = "mapping.json"

// Categories are what subjects are counted under, in the order of the table.
func Categories() []string {
	return []string{"Average", "STEM", "Social Sciences", "Humanities", "Other"}
}

// Subject is an entry of mapping.json.
type Subject struct {
	// Key names its files and its entry in results.json.
	Key string
	// Name is what the prompt calls it, Category one of Categories but the first.
	Name, Category string
}

// Example is one question.
type Example struct {
	Question string
	// Choices are the answers A, B, C and D, as far as the file has columns for them; Answer is the right one's letter, "" where the file has none.
	Choices []Choice
	Answer  string
}

// Choice is one answer of a question.
type Choice struct{ Letter, Text string }

// Letters are the answers that a model chooses from.
func Letters() []string { return []string{"A", "B", "C", "D"} }

// Folder gives the content of the files of a task's folder; ok is false for one that is not there.
type Folder interface {
	Read(name string, limit int64) (body []byte, ok bool, err error)
}

// Task is an evaluation task: a folder with mapping.json and an archive (mmlu.zip) or CSV files, as LLaMA-Factory's evaluation/ has them.
type Task struct {
	Name     string
	Subjects []Subject

	folder Folder
	// packed are the files of the archive, nil without one.
	packed map[string]*zip.File
	left   int64
}

// Open reads the list of subjects of the task of that name. CodeNotFound without one, CodeData for what is none.
func Open(name string, folder Folder) (*Task, error) {
	t := &Task{Name: name, folder: folder, left: MaxFileBytes}
	raw, ok, err := folder.Read(MappingName, maxMapping)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, schemas.Errorf(schemas.CodeNotFound, name+"/"+MappingName, "the task has no list of subjects").
			WithHint("task_dir is a folder that holds %s/%s beside %s.zip or CSV files, as LLaMA-Factory's evaluation/ does", name, MappingName, name)
	}
	if t.Subjects, err = mapping(raw); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name+"/"+MappingName, "%v", err)
	}
	archive := name + ".zip"
	raw, ok, err = folder.Read(archive, MaxFileBytes)
	if err != nil || !ok {
		return t, err
	}
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name+"/"+archive, "is no zip archive: %v", err)
	}
	if len(z.File) > maxZipEntries {
		return nil, schemas.Errorf(schemas.CodeData, name+"/"+archive, "has %d entries, the limit is %d", len(z.File), maxZipEntries)
	}
	t.packed = map[string]*zip.File{}
	for _, f := range z.File {
		t.packed[strings.TrimPrefix(f.Name, "./")] = f
	}
	return t, nil
}

// mapping reads {"subject": {"name": ..., "category": ...}, ...} in its order.
func mapping(raw []byte) ([]Subject, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("is no JSON object of subjects")
	}
	var out []Subject
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("cannot parse: %w", err)
		}
		var v struct {
			Name     *string `json:"name"`
			Category string  `json:"category"`
		}
		k, _ := key.(string)
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("subject %q is no object with a name and a category: %w", k, err)
		}
		switch {
		case !schemas.ValidPath(k) || strings.Contains(k, "/"):
			return nil, fmt.Errorf("subject %q cannot be the name of a file", k)
		case v.Name == nil:
			return nil, fmt.Errorf("subject %q has no name", k)
		case !slices.Contains(Categories()[1:], v.Category):
			return nil, fmt.Errorf("subject %q has the category %q, expected one of %s", k, v.Category, strings.Join(Categories()[1:], ", "))
		case slices.ContainsFunc(out, func(s Subject) bool { return s.Key == k }):
			return nil, fmt.Errorf("subject %q appears twice", k)
		}
		if out = append(out, Subject{k, *v.Name, v.Category}); len(out) > maxSubjects {
			return nil, fmt.Errorf("has more than %d subjects", maxSubjects)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("has no subjects")
	}
	return out, nil
}

// Splits are the splits of a task, and the folder that each lies in.
func Splits() map[string]string {
	return map[string]string{"train": "dev", "validation": "val", "test": "test"}
}

// Examples reads the questions of a subject's split (train, validation or test). CodeNotFound when there is no such file.
func (t *Task) Examples(s Subject, split string) ([]Example, error) {
	dir := Splits()[split]
	var looked []string
	for _, top := range []string{"", "data/"} {
		for _, file := range []string{s.Key + "_" + dir, s.Key} {
			name := top + dir + "/" + file + ".csv"
			body, ok, err := t.read(name)
			if err != nil {
				return nil, err
			}
			if ok {
				return t.parse(name, body)
			}
			looked = append(looked, name)
		}
	}
	where := "the folder"
	if t.packed != nil {
		where = t.Name + ".zip"
	}
	return nil, schemas.Errorf(schemas.CodeNotFound, t.Name+"/"+s.Key, "the subject has no %s split: %s holds none of %s", split, where, strings.Join(looked, ", "))
}

// read gives a file of the archive or, without one, of the folder.
func (t *Task) read(name string) (body []byte, ok bool, err error) {
	if t.packed == nil {
		return t.folder.Read(name, MaxFileBytes)
	}
	f := t.packed[name]
	if f == nil {
		return nil, false, nil
	}
	r, err := f.Open()
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(r, t.left+1))
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return nil, false, schemas.Errorf(schemas.CodeData, t.Name+".zip/"+name, "cannot unpack: %v", err)
	}
	if t.left -= int64(len(body)); t.left < 0 {
		return nil, false, schemas.Errorf(schemas.CodeData, t.Name+".zip", "holds more than %d bytes unpacked", MaxFileBytes)
	}
	return body, true, nil
}

// headless are the columns of files without names in their first line, which are those of MMLU.
func headless() []string { return []string{"question", "A", "B", "C", "D", "answer"} }

// parse reads the questions of a file. Values are what pandas makes of them.
func (t *Task) parse(name string, body []byte) ([]Example, error) {
	place := t.Name + "/" + name
	table, err := source.CSVTable(place, bytes.NewReader(body), maxRowBytes)
	if err != nil {
		return nil, err
	}
	if len(table) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, place, "the file is empty")
	}
	if len(table) > maxQuestions {
		return nil, schemas.Errorf(schemas.CodeData, place, "has more than %d questions", maxQuestions)
	}
	head := headless()
	if named := slices.ContainsFunc(table[0], func(s string) bool { return strings.EqualFold(s, "question") }); named && t.Name != "mmlu" {
		head, table = table[0], table[1:]
	} else if len(table[0]) != len(head) {
		return nil, schemas.Errorf(schemas.CodeData, place, "has %d columns and no line that names them, expected %d: %s", len(table[0]), len(head), strings.Join(head, ", "))
	}
	columns := map[string][]string{}
	for i, h := range head {
		values := make([]string, len(table))
		for k, row := range table {
			values[k] = row[i]
		}
		switch {
		case slices.Contains(Letters(), h):
			columns[h] = source.PandasText(values)
		case strings.EqualFold(h, "question"), strings.EqualFold(h, "answer"):
			columns[strings.ToLower(h)] = source.PandasText(values)
		}
	}
	if len(columns["A"]) != len(table) || len(columns["B"]) != len(table) {
		return nil, schemas.Errorf(schemas.CodeData, place, "has the columns %s, expected question, A, B, C, D and answer", strings.Join(head, ", "))
	}
	out := make([]Example, len(table))
	for i := range table {
		e := Example{Question: columns["question"][i]}
		for _, l := range Letters() {
			if c := columns[l]; c != nil {
				e.Choices = append(e.Choices, Choice{l, c[i]})
			}
		}
		if a := columns["answer"]; a != nil {
			e.Answer = a[i]
		}
		out[i] = e
	}
	return out, nil
}
