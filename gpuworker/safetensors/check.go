package safetensors

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// CheckFolder looks at the weights among the named files of a folder without reading tensors: each file must have the bytes that its header
// describes, and an index must have its shards, with the tensors that it names. Of a folder with an index, other weights are passed over. Links
// are followed, as the files of a Hugging Face cache are links. Errors are ErrorInfo with the file's path.
func CheckFolder(dir string, names []string) error {
	var weightMap map[string]string
	if slices.Contains(names, indexName) {
		at := filepath.Join(dir, indexName)
		f, err := os.Open(at)
		if err != nil {
			return schemas.Errorf(schemas.CodeModel, at, "cannot read weight index: %v", schemas.Reason(err))
		}
		weightMap, err = readIndex(f, at)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		names = shardsOf(weightMap)
	}
	s := &Set{where: map[string]*File{}}
	for _, n := range names {
		if path.Ext(n) != ".safetensors" {
			continue
		}
		f, err := checkFile(filepath.Join(dir, n))
		if err != nil {
			return err
		}
		for _, t := range f.infos {
			s.where[t.Name] = f
			s.names = append(s.names, t.Name)
		}
	}
	if weightMap == nil {
		return nil
	}
	return s.match(weightMap)
}

// checkFile reads the header of a file, which is closed again.
func checkFile(at string) (_ *File, err error) {
	r, err := os.Open(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil, schemas.Errorf(schemas.CodeModel, at, "this shard is named in %s and is not there", indexName).WithHint("fetch the model again, or the missing shard")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, at, "cannot read: %v", schemas.Reason(err))
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	info, err := r.Stat()
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, at, "cannot read: %v", schemas.Reason(err))
	}
	f, err := NewFile(r, info.Size(), at)
	if err != nil {
		e := *schemas.AsErrorInfo(err)
		return nil, e.WithHint("the file is damaged or was not fetched whole: fetch it again")
	}
	return f, nil
}
