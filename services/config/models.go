package config

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

// Model is a row of the alias table.
type Model struct {
	// Alias is the short name, Hub the repository on the Hugging Face hub.
	Alias string `json:"alias"`
	Hub   string `json:"hub"`
	// Template is the chat template that the model was tuned with; "default" for base models.
	Template string `json:"template"`
}

// foundModel is what a model's name was found to be.
type foundModel struct {
	folder string
	row    Model
}

// model resolves base_model: a folder on this machine; an address (hf://, ms://, s3://); or a name of the alias table or of a hub, whose files
// lie in the local Hugging Face cache or are fetched. It gives the folder and the row of the table ({} when the name matches none). revision
// is a branch, tag or commit of a hub, "" or main for the newest.
func (c *collector) model(ctx context.Context, name, revision string) (folder string, m Model, err error) {
	key := name + "@" + revision
	if found, ok := c.models[key]; ok {
		return found.folder, found.row, nil
	}
	if folder, m, err = c.findModel(ctx, name, revision); err == nil {
		c.models[key] = foundModel{folder, m}
	}
	return folder, m, err
}

func (c *collector) findModel(ctx context.Context, name, revision string) (folder string, m Model, err error) {
	if name == "" {
		return "", Model{}, schemas.Errorf(schemas.CodeInvalid, "model.base_model", "is missing").WithHint("give a folder or a model name")
	}
	if remote.IsAddress(name) {
		a, err := remote.Parse(name, remote.KindModel)
		if err != nil {
			return "", Model{}, err
		}
		folder, err = c.fetchModel(ctx, name)
		return folder, byName(a.Repo), err
	}
	if local := c.localModel(name); local != "" {
		return local, byName(filepath.Base(local)), nil
	}
	if isPath(name) {
		return "", Model{}, c.noFolder(name)
	}
	m = byName(name)
	id := name
	if m.Hub != "" {
		id = m.Hub
	}
	if !remote.RepoID(id) {
		e := schemas.Errorf(schemas.CodeNotFound, name, "model.base_model is neither a folder nor a known model name")
		var names []string
		for _, k := range Models() {
			names = append(names, k.Alias)
		}
		if near := Nearest(name, names, 3); len(near) > 0 {
			return "", Model{}, e.WithHint("nearest names: %s; or owner/name of a hub", strings.Join(near, ", "))
		}
		return "", Model{}, e.WithHint("tunefleet models lists the names; or give owner/name of a hub")
	}
	if revision == "main" {
		revision = ""
	}
	if snapshot := cachedSnapshot(id); snapshot != "" && revision == "" {
		return snapshot, m, nil
	}
	f, err := c.fetcher()
	if err != nil {
		return "", m, err
	}
	address := c.hub(f) + "://" + id
	if revision != "" {
		address += "@" + url.PathEscape(revision)
	}
	if folder, err = c.fetchModel(ctx, address); err != nil {
		return "", m, notFetched(err, name, id, m)
	}
	return folder, m, nil
}

// localModel is the folder that a name is, "" when it is none.
func (c *collector) localModel(name string) string {
	if remote.IsAddress(name) {
		return ""
	}
	local := c.resolve(name)
	if info, err := os.Stat(local); err != nil || !info.IsDir() {
		return ""
	}
	return local
}

// isPath reports whether a name can only be a folder's.
func isPath(name string) bool {
	return strings.HasPrefix(name, ".") || filepath.IsAbs(name) || strings.HasPrefix(name, "~")
}

func (c *collector) noFolder(name string) error {
	if info, err := os.Stat(c.resolve(name)); err == nil && !info.IsDir() {
		return schemas.Errorf(schemas.CodeInvalid, name, "model.base_model is a file").WithHint("give the folder that holds config.json, the weights and the tokenizer")
	}
	return schemas.Errorf(schemas.CodeNotFound, name, "model.base_model: no such folder").
		WithHint("a folder on this machine, or owner/name of a model on a hub")
}

// hub is where names without a scheme are looked up.
func (c *collector) hub(f *remote.Fetcher) string {
	if c.modelScope {
		return "ms"
	}
	return f.Default()
}

func (c *collector) fetchModel(ctx context.Context, address string) (string, error) {
	return c.folder(ctx, address, func(n string) bool { return modelFile(n) || tokenizerFile(n) || n == headFileName },
		func(names []string) error { return checkModelNames(address, names) })
}

// notFetched says that a name was taken for a repository of a hub, when there is no such one.
func notFetched(err error, name, id string, m Model) error {
	var info *schemas.ErrorInfo
	if !errors.As(err, &info) || info.Code != schemas.CodeNotFound && info.Code != schemas.CodeUnavailable {
		return err
	}
	e := *info
	e.Place = name
	e.Message = "model.base_model is no folder here, and as a model of a hub (" + id + "): " + info.Message
	if e.Hint == "" && info.Code == schemas.CodeUnavailable {
		e.Hint = fmt.Sprintf("HF_ENDPOINT names a mirror; or fetch it where there is a connection, and give the folder: hf download %s --local-dir ./%s", id, path.Base(id))
	}
	if e.Hint == "" && m.Alias != "" {
		e.Hint = fmt.Sprintf("fetch it by other means and give the folder: hf download %s --local-dir ./%s", m.Hub, m.Alias)
	}
	return &e
}

// byName finds a row by alias or hub id, in any spelling of case, dashes and the "-hf" suffix; "llama2-7b" is "llama-2-7b".
func byName(name string) Model {
	squeeze := func(s string) string {
		s = strings.ToLower(s)
		s = strings.TrimSuffix(s, "-hf")
		s = strings.TrimPrefix(s, "meta-")
		return strings.NewReplacer("-", "", "_", "", " ", "").Replace(s)
	}
	want := squeeze(name)
	rows := Models()
	i := slices.IndexFunc(rows, func(m Model) bool {
		_, repo, _ := strings.Cut(m.Hub, "/")
		return want == squeeze(m.Alias) || want == squeeze(m.Hub) || want == squeeze(repo)
	})
	if i < 0 {
		return Model{}
	}
	return rows[i]
}

// cachedSnapshot finds the newest snapshot of a hub repository in the local Hugging Face cache, "" when there is none.
func cachedSnapshot(hub string) string {
	dir := os.Getenv("HF_HUB_CACHE")
	if dir == "" {
		home := os.Getenv("HF_HOME")
		if home == "" {
			u, err := os.UserHomeDir()
			if err != nil {
				return ""
			}
			home = filepath.Join(u, ".cache", "huggingface")
		}
		dir = filepath.Join(home, "hub")
	}
	snapshots, err := filepath.Glob(filepath.Join(dir, "models--"+strings.ReplaceAll(hub, "/", "--"), "snapshots", "*"))
	if err != nil {
		return ""
	}
	best, newest := "", int64(0)
	for _, s := range snapshots {
		if info, err := os.Stat(filepath.Join(s, "config.json")); err == nil && info.ModTime().UnixNano() > newest {
			best, newest = s, info.ModTime().UnixNano()
		}
	}
	return best
}
