package source

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxFiles bounds the files of one data set.
const maxFiles = 10_000

// Locate finds the data files that name stands for below the folder dir: a file, a folder (all files below it that have a known format), or
// a pattern with *, ? and [...]. An absolute name is taken for itself. Links may not lead out of the folder, and all files must have one
// format. The result is sorted, slash-separated and relative to base.
func Locate(dir, name string) (base string, files []string, err error) {
	base = dir
	if filepath.IsAbs(name) {
		base, name = splitAbsolute(name)
	}
	name = path.Clean(filepath.ToSlash(name))
	root, err := os.OpenRoot(base)
	if err != nil {
		return "", nil, schemas.Errorf(schemas.CodeNotFound, base, "cannot open the folder: %v", schemas.Reason(err))
	}
	defer root.Close()
	info, err := root.Stat(name)
	switch {
	case err == nil && info.Mode().IsRegular():
		return base, []string{name}, nil
	case err == nil && info.IsDir():
		files, err = walk(root, base, name)
	case errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(name, "*?["):
		files, err = match(root, base, name)
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, missing(root, base, name)
	case err == nil:
		return "", nil, schemas.Errorf(schemas.CodeInvalid, filepath.Join(base, name), "is neither a file nor a folder")
	default:
		return "", nil, schemas.Errorf(schemas.CodeInvalid, filepath.Join(base, name), "cannot read, or a link that leads out of the folder: %v", schemas.Reason(err)).
			WithHint("name what the link points to, or copy it here")
	}
	if err != nil {
		return "", nil, err
	}
	if len(files) == 0 {
		return "", nil, schemas.Errorf(schemas.CodeNotFound, filepath.Join(base, name), "there is no data file").WithHint("known endings: .%s", strings.Join(Formats(), ", ."))
	}
	slices.Sort(files)
	for _, f := range files[1:] {
		if FormatOf(f) != FormatOf(files[0]) {
			return "", nil, schemas.Errorf(schemas.CodeInvalid, filepath.Join(base, name), "holds files of different formats: %s and %s", files[0], f).
				WithHint("name a pattern, such as *.%s", FormatOf(files[0]))
		}
	}
	return base, files, nil
}

// splitAbsolute takes the folder of an absolute name, the part before a pattern.
func splitAbsolute(name string) (base, rest string) {
	base = filepath.Dir(name)
	for strings.ContainsAny(base, "*?[") {
		base = filepath.Dir(base)
	}
	rest, err := filepath.Rel(base, name)
	if err != nil {
		return filepath.Dir(name), filepath.Base(name)
	}
	return base, rest
}

// missing names a file that is nearly what was asked for.
func missing(root *os.Root, base, name string) error {
	e := schemas.Errorf(schemas.CodeNotFound, filepath.Join(base, name), "no such file or folder")
	list, err := fs.ReadDir(root.FS(), path.Dir(name))
	if err != nil {
		return e
	}
	var names []string
	for _, d := range list {
		names = append(names, d.Name())
	}
	if near := schemas.Nearest(path.Base(name), names); near != "" {
		return e.WithHint("did you mean %q?", path.Join(path.Dir(name), near))
	}
	return e
}

func walk(root *os.Root, base, dir string) ([]string, error) {
	var out []string
	err := fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return schemas.Errorf(schemas.CodeInvalid, filepath.Join(base, p), "cannot read: %v", schemas.Reason(err))
		}
		if p != dir && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || FormatOf(p) == "" || d.Name() == InfoName {
			return nil
		}
		out, err = take(root, base, p, out)
		return err
	})
	return out, err
}

func match(root *os.Root, base, pattern string) ([]string, error) {
	names, err := fs.Glob(root.FS(), pattern)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, pattern, "is no pattern: %v", err)
	}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(path.Base(n), ".") && !strings.HasPrefix(path.Base(pattern), ".") {
			continue // as a shell has it
		}
		if out, err = take(root, base, n, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// take adds a regular file; a link that leads out of the folder is refused.
func take(root *os.Root, base, name string, out []string) ([]string, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, filepath.Join(base, name), "cannot read, or a link that leads out of the folder: %v", schemas.Reason(err))
	}
	if !info.Mode().IsRegular() {
		return out, nil
	}
	if len(out) >= maxFiles {
		return nil, schemas.Errorf(schemas.CodeInvalid, base, "more than %d files", maxFiles)
	}
	return append(out, name), nil
}
