package verifydata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// maxFileBytes bounds a reference file.
const maxFileBytes = 1 << 30

// Env gives suites the folder and what lies beside it. It is safe for concurrent use.
type Env struct {
	dir, base string
	mu        sync.Mutex
	shared    map[string]*onceValue
}

type onceValue struct {
	once  sync.Once
	value any
	err   error
}

// Find returns the file or folder with the path (slashes) in the verified folder, or else in the base folder.
func (e *Env) Find(path string) (string, error) {
	for _, d := range []string{e.dir, e.base} {
		if d == "" {
			continue
		}
		p := filepath.Join(d, filepath.FromSlash(path))
		if _, err := os.Stat(p); err == nil {
			return p, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot look for %s: %w", path, err)
		}
	}
	return "", schemas.Errorf(schemas.CodeNotFound, path, "is neither in %s nor in the base folder %q", e.dir, e.base).WithHint("give --base DIR")
}

// Shared returns the value of a key, made once for all suites; make must not ask for the same key.
func (e *Env) Shared(key string, make func() (any, error)) (any, error) {
	e.mu.Lock()
	v := e.shared[key]
	if v == nil {
		v = &onceValue{}
		e.shared[key] = v
	}
	e.mu.Unlock()
	v.once.Do(func() { v.value, v.err = make() })
	return v.value, v.err
}

// ReadFile reads and parses a JSON or JSONL file of the folder (or of the base).
func (e *Env) ReadFile(path string) (*File, error) {
	p, err := e.Find(path)
	if err != nil {
		return nil, err
	}
	return readFile(p, path)
}

func readFile(file, path string) (*File, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if info.Size() > maxFileBytes {
		return nil, schemas.Errorf(schemas.CodeData, path, "has %d bytes, the limit is %d", info.Size(), maxFileBytes)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	text := string(b)
	f := &File{Path: path, newline: strings.HasSuffix(text, "\n")}
	if !strings.HasSuffix(path, ".jsonl") {
		v, err := pyjson.Parse(text)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, path, "is no JSON: %v", err)
		}
		f.Rows, f.indent = []any{v}, indentOf(text)
		return f, nil
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		v, err := pyjson.Parse(line)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", path, i+1), "is no JSON: %v", err)
		}
		f.Rows = append(f.Rows, v)
	}
	return f, nil
}

// indentOf is the indentation of the second line of a JSON document, 0 when it has one line.
func indentOf(text string) int {
	nl := strings.IndexByte(text, '\n')
	if nl < 0 {
		return 0
	}
	rest := text[nl+1:]
	return len(rest) - len(strings.TrimLeft(rest, " "))
}
