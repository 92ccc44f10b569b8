package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
	maxIndex   = 64 << 20
)

// Set is the weights of one model: a single file, or the shards of an index.
type Set struct {
	files []*File
	where map[string]*File
	names []string
	// stored maps names that Rename has given to those in the files.
	stored map[string]string
}

// OpenModel opens the weights in a Hugging Face model folder: model.safetensors, or the shards of model.safetensors.index.json.
// A folder that holds only pickle weights gives an error wrapping ErrPickle.
func OpenModel(root *os.Root) (*Set, error) {
	if _, err := root.Stat(indexName); err == nil {
		return openIndex(root)
	}
	f, err := Open(root, singleName)
	if err == nil {
		return newSet(f)
	}
	if errors.Is(err, os.ErrNotExist) {
		if name := findPickle(root); name != "" {
			return nil, pickleError(name)
		}
	}
	return nil, err
}

// OpenSet opens one named safetensors file as a set.
func OpenSet(root *os.Root, name string) (*Set, error) {
	f, err := Open(root, name)
	if err != nil {
		return nil, err
	}
	return newSet(f)
}

func newSet(files ...*File) (*Set, error) {
	s := &Set{files: files, where: map[string]*File{}}
	for _, f := range files {
		for _, t := range f.infos {
			if other, dup := s.where[t.Name]; dup {
				s.Close()
				return nil, schemas.Errorf(schemas.CodeModel, f.name, "tensor %q is also in %s", t.Name, other.name)
			}
			s.where[t.Name] = f
			s.names = append(s.names, t.Name)
		}
	}
	sort.Strings(s.names)
	return s, nil
}

func openIndex(root *os.Root) (*Set, error) {
	f, err := root.Open(indexName)
	if err != nil {
		return nil, fmt.Errorf("cannot open weight index: %w", err)
	}
	weightMap, err := readIndex(f, indexName)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	var files []*File
	for _, n := range shardsOf(weightMap) {
		sf, err := Open(root, n)
		if err != nil {
			for _, o := range files {
				o.Close()
			}
			return nil, fmt.Errorf("cannot open shard named in %s: %w", indexName, err)
		}
		files = append(files, sf)
	}
	s, err := newSet(files...)
	if err != nil {
		return nil, err
	}
	if err := s.match(weightMap); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// match compares the shards with an index: which tensor is where.
func (s *Set) match(weightMap map[string]string) error {
	var errs []error
	for name, shard := range weightMap {
		if f := s.where[name]; f == nil || path.Base(f.name) != shard {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, indexName, "tensor %q is not in shard %s", name, shard))
		}
	}
	for _, name := range s.names {
		if _, ok := weightMap[name]; !ok {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, s.where[name].name, "tensor %q is not in the index", name))
		}
	}
	sort.Slice(errs, func(a, b int) bool { return errs[a].Error() < errs[b].Error() })
	return errors.Join(errs[:min(len(errs), 20)]...)
}

// readIndex reads which tensor is in which shard; name is used in errors.
func readIndex(r io.Reader, name string) (map[string]string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err == nil && len(raw) > maxIndex {
		err = fmt.Errorf("larger than %d bytes", maxIndex)
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, name, "cannot read weight index: %v", err)
	}
	weightMap, err := parseIndex(raw)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, name, "cannot parse weight index: %v", err)
	}
	return weightMap, nil
}

// shardsOf lists the files of an index.
func shardsOf(weightMap map[string]string) []string {
	names := slices.Sorted(maps.Values(weightMap))
	return slices.Compact(names)
}

// parseIndex reads weight_map, refusing repeated names and shard names that are not plain file names.
func parseIndex(raw []byte) (map[string]string, error) {
	var doc struct {
		WeightMap json.RawMessage `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if len(doc.WeightMap) == 0 {
		return nil, errors.New("weight_map is missing")
	}
	m, err := stringMap(json.NewDecoder(bytes.NewReader(doc.WeightMap)))
	if err != nil {
		return nil, err
	}
	if len(m) > maxTensors {
		return nil, fmt.Errorf("more than %d tensors", maxTensors)
	}
	for k, v := range m {
		if v == "" || path.Base(v) != v || strings.ContainsAny(v, "\\\x00") {
			return nil, fmt.Errorf("tensor %q: shard name %q is not a plain file name", k, v)
		}
	}
	return m, nil
}

func findPickle(root *os.Root) string {
	d, err := root.Open(".")
	if err != nil {
		return ""
	}
	defer d.Close()
	names, _ := d.Readdirnames(10000)
	sort.Strings(names)
	for _, n := range names {
		if errors.Is(CheckPickle(n, nil), ErrPickle) {
			return n
		}
	}
	return ""
}

// Names lists all tensors in lexical order.
func (s *Set) Names() []string { return s.names }

// Rename gives tensors other names, for checkpoints that were written with another prefix. name returns the new name of a tensor, or the
// old one to keep it. Two tensors must not get one name.
func (s *Set) Rename(name func(string) string) error {
	where, stored := map[string]*File{}, map[string]string{}
	names := make([]string, 0, len(s.names))
	for _, old := range s.names {
		n := name(old)
		if _, dup := where[n]; dup {
			return schemas.Errorf(schemas.CodeModel, n, "two tensors of the checkpoint have this name")
		}
		where[n], stored[n] = s.where[old], s.storedName(old)
		names = append(names, n)
	}
	sort.Strings(names)
	s.where, s.stored, s.names = where, stored, names
	return nil
}

func (s *Set) storedName(name string) string {
	if old, ok := s.stored[name]; ok {
		return old
	}
	return name
}

// Info finds a tensor by name.
func (s *Set) Info(name string) (Info, bool) {
	f := s.where[name]
	if f == nil {
		return Info{}, false
	}
	i, ok := f.Info(s.storedName(name))
	i.Name = name
	return i, ok
}

// ReadFloat32 reads a range of a tensor, as File.ReadFloat32.
func (s *Set) ReadFloat32(name string, start int64, dst []float32) error {
	f := s.where[name]
	if f == nil {
		return schemas.Errorf(schemas.CodeModel, "", "tensor %q is missing", name)
	}
	return f.ReadFloat32(s.storedName(name), start, dst)
}

// Close closes all files.
func (s *Set) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
