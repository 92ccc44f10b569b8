package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

const maxInputFiles = 2000

// Input is a local file that the spec refers to by content: the caller uploads it before it submits the spec.
type Input struct {
	// Local is the file's path on this machine.
	Local string
	File  schemas.File
}

// Open opens the file for the upload.
func (in Input) Open() (io.ReadCloser, error) { return os.Open(in.Local) }

// collector turns local paths into Refs and remembers the files.
type collector struct {
	dir    string
	inputs []Input
	seen   map[string]schemas.File
	// origins tells of files and folders of the cache where they were fetched from.
	origins map[string]string
	remote  *remote.Fetcher
	say     func(string)
	// modelScope says that names without a scheme are ModelScope's.
	modelScope bool
	// models remembers what a name was found to be.
	models map[string]foundModel
}

func newCollector(dir string, opt Options) *collector {
	return &collector{dir: dir, seen: map[string]schemas.File{}, origins: map[string]string{}, models: map[string]foundModel{}, remote: opt.Remote, say: opt.Say}
}

// fetcher makes the fetcher by the environment when the first address is met.
func (c *collector) fetcher() (*remote.Fetcher, error) {
	if c.remote == nil {
		cfg := remote.FromEnv(os.Getenv)
		cfg.Say = c.say
		f, err := remote.New(cfg)
		if err != nil {
			return nil, err
		}
		c.remote = f
	}
	return c.remote, nil
}

// data gives an address a place on this machine: a file, or a folder of several. A path stays as it is.
func (c *collector) data(ctx context.Context, p string) (string, error) {
	if !remote.IsAddress(p) {
		return p, nil
	}
	f, err := c.fetcher()
	if err != nil {
		return "", err
	}
	found, err := f.Data(ctx, remote.DataQuery{Address: p})
	if err != nil {
		return "", err
	}
	local := found.Dir
	if len(found.Files) == 1 {
		local = filepath.Join(found.Dir, filepath.FromSlash(found.Files[0].Path))
	}
	c.origins[local] = found.Origin
	return local, nil
}

// folder gives the address of a model or adapter a folder on this machine with the files that keep selects.
func (c *collector) folder(ctx context.Context, address string, keep func(string) bool, check func([]string) error) (string, error) {
	f, err := c.fetcher()
	if err != nil {
		return "", err
	}
	found, err := f.Model(ctx, address, keep, check)
	if err != nil {
		return "", err
	}
	c.origins[found.Dir] = found.Origin
	return found.Dir, nil
}

// isURI reports whether a Ref is an address rather than a local path.
func isURI(s string) bool { return strings.HasPrefix(s, "stage:") || strings.HasPrefix(s, "run:") }

func (c *collector) resolve(p string) string {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// ref makes a Ref of a local file or folder; keep (nil: everything) selects the files of a folder by their slash-separated path.
func (c *collector) ref(ctx context.Context, p string, keep func(string) bool) (*schemas.Ref, error) {
	local := c.resolve(p)
	info, err := os.Stat(local)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, schemas.Errorf(schemas.CodeNotFound, p, "no such file or folder")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, p, "cannot read: %v", err)
	}
	ref := &schemas.Ref{Origin: c.origins[local]}
	if !info.IsDir() {
		f, err := c.add(ctx, local, filepath.Base(local))
		if err != nil {
			return nil, err
		}
		ref.Files = []schemas.File{f}
		return ref, nil
	}
	names, err := listFolder(local)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if keep != nil && !keep(n) {
			continue
		}
		f, err := c.add(ctx, filepath.Join(local, filepath.FromSlash(n)), n)
		if err != nil {
			return nil, err
		}
		ref.Files = append(ref.Files, f)
	}
	if len(ref.Files) == 0 {
		return nil, schemas.Errorf(schemas.CodeNotFound, p, "the folder holds no file that can be used here")
	}
	return ref, nil
}

// listFolder lists regular files below dir, slash-separated and sorted, without hidden ones. Links that lead out of the folder are
// refused, but for the snapshots of a Hugging Face cache, whose files are links to its blobs.
func listFolder(dir string) ([]string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve %s: %w", dir, err)
	}
	top, sub := abs, "."
	if filepath.Base(filepath.Dir(abs)) == "snapshots" {
		top = filepath.Dir(filepath.Dir(abs))
		sub = path.Join("snapshots", filepath.Base(abs))
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, dir, "cannot open the folder: %v", err)
	}
	defer root.Close()
	var names []string
	err = fs.WalkDir(root.FS(), sub, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != sub && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		info, err := root.Stat(p)
		if err != nil {
			return schemas.Errorf(schemas.CodeInvalid, filepath.Join(top, p), "cannot read, or a link that leads out of the folder: %v", err)
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		if len(names) >= maxInputFiles {
			return schemas.Errorf(schemas.CodeInvalid, dir, "the folder holds more than %d files", maxInputFiles)
		}
		rel := p
		if sub != "." {
			rel = strings.TrimPrefix(p, sub+"/")
		}
		names = append(names, rel)
		return nil
	})
	slices.Sort(names)
	return names, err
}

func (c *collector) add(ctx context.Context, local, name string) (schemas.File, error) {
	if f, ok := c.seen[local]; ok {
		f.Path = name
		return f, nil
	}
	r, err := os.Open(local)
	if err != nil {
		return schemas.File{}, schemas.Errorf(schemas.CodeInvalid, local, "cannot read: %v", err)
	}
	defer r.Close()
	if info, err := r.Stat(); err != nil || !info.Mode().IsRegular() {
		return schemas.File{}, schemas.Errorf(schemas.CodeInvalid, local, "is no regular file")
	}
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, r})
	if err != nil {
		return schemas.File{}, fmt.Errorf("cannot read %s: %w", local, err)
	}
	f := schemas.File{Path: name, SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: n}
	if err := keptPromise(local, f.SHA256); err != nil {
		return schemas.File{}, err
	}
	c.seen[local] = f
	c.inputs = append(c.inputs, Input{Local: local, File: f})
	return f, nil
}

// contextReader stops a long read when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// headFileName is the file of a reward model's value head beside its weights.
const headFileName = "value_head.safetensors"

// modelFile selects what a base model needs.
func modelFile(name string) bool {
	if strings.Contains(name, "/") {
		return false
	}
	switch path.Ext(name) {
	case ".safetensors":
		return name != "golden.safetensors" && name != headFileName
	case ".json", ".jinja", ".txt", ".model":
		return true
	}
	return false
}

// checkModelFolder refuses what cannot be a base model, naming the file: pickle weights above all, which could run code.
func checkModelFolder(dir string) error {
	names, err := listFolder(dir)
	if err != nil {
		return err
	}
	return checkModelNames(dir, names)
}

// checkModelNames does the same with the names alone.
func checkModelNames(dir string, names []string) error {
	weights, pickle := false, ""
	for _, n := range names {
		switch path.Ext(n) {
		case ".safetensors":
			weights = weights || modelFile(n)
		case ".bin", ".pt", ".pth", ".ckpt", ".pkl":
			pickle = n
		}
	}
	switch {
	case !slices.Contains(names, "config.json"):
		return schemas.Errorf(schemas.CodeModel, dir, "has no config.json: this is no Hugging Face model folder")
	case !weights && pickle != "":
		return schemas.Errorf(schemas.CodeModel, filepath.Join(dir, pickle), "weights in pickle form are refused: loading them can run code").
			WithHint("convert them to safetensors first")
	case !weights:
		return schemas.Errorf(schemas.CodeModel, dir, "has no *.safetensors").WithHint("give a folder with the weights: hf download OWNER/NAME --local-dir FOLDER fetches all files of a model")
	}
	return nil
}
