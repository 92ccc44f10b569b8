package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// Models is the alias table, by alias.
func Models() []Model {
	return []Model{
		{"code-llama-7b", "codellama/CodeLlama-7b-hf", "default"},
		{"code-llama-7b-instruct", "codellama/CodeLlama-7b-Instruct-hf", "llama2"},
		{"llama-13b", "huggyllama/llama-13b", "default"},
		{"llama-2-13b", "meta-llama/Llama-2-13b-hf", "default"},
		{"llama-2-13b-chat", "meta-llama/Llama-2-13b-chat-hf", "llama2"},
		{"llama-2-70b", "meta-llama/Llama-2-70b-hf", "default"},
		{"llama-2-7b", "meta-llama/Llama-2-7b-hf", "default"},
		{"llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", "llama2"},
		{"llama-3-70b", "meta-llama/Meta-Llama-3-70B", "default"},
		{"llama-3-8b", "meta-llama/Meta-Llama-3-8B", "default"},
		{"llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3"},
		{"llama-3.1-70b", "meta-llama/Llama-3.1-70B", "default"},
		{"llama-3.1-8b", "meta-llama/Llama-3.1-8B", "default"},
		{"llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", "llama3"},
		{"llama-3.2-1b", "meta-llama/Llama-3.2-1B", "default"},
		{"llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama3"},
		{"llama-3.2-3b", "meta-llama/Llama-3.2-3B", "default"},
		{"llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", "llama3"},
		{"llama-30b", "huggyllama/llama-30b", "default"},
		{"llama-65b", "huggyllama/llama-65b", "default"},
		{"llama-7b", "huggyllama/llama-7b", "default"},
		{"smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "default"},
		{"smollm2-360m", "HuggingFaceTB/SmolLM2-360M", "default"},
		{"smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "chatml"},
		{"tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "default"},
		{"vicuna-7b", "lmsys/vicuna-7b-v1.5", "vicuna"},
	}
}

// FindModel resolves base_model: a folder on this machine, or a name of the alias table or hub id whose files lie in the local
// Hugging Face cache. It returns the folder and the row of the table ({} when the folder's name matches none).
func FindModel(name, dir string) (folder string, m Model, err error) {
	if name == "" {
		return "", Model{}, schemas.Errorf(schemas.CodeInvalid, "model.base_model", "is missing").WithHint("give a folder or a model name")
	}
	c := collector{dir: dir}
	local := c.resolve(name)
	if info, err := os.Stat(local); err == nil && info.IsDir() {
		return local, byName(filepath.Base(local)), nil
	}
	if strings.HasPrefix(name, ".") || filepath.IsAbs(name) || strings.HasPrefix(name, "~") {
		return "", Model{}, schemas.Errorf(schemas.CodeNotFound, name, "model.base_model: no such folder")
	}
	m = byName(name)
	if m.Hub == "" {
		e := schemas.Errorf(schemas.CodeNotFound, name, "model.base_model is neither a folder nor a known model name")
		var names []string
		for _, k := range Models() {
			names = append(names, k.Alias)
		}
		if near := Nearest(name, names, 3); len(near) > 0 {
			return "", Model{}, e.WithHint("nearest names: %s", strings.Join(near, ", "))
		}
		return "", Model{}, e.WithHint("tunefleet models lists the names")
	}
	if snapshot := cachedSnapshot(m.Hub); snapshot != "" {
		return snapshot, m, nil
	}
	return "", m, schemas.Errorf(schemas.CodeNotFound, name, "model.base_model is %s on the Hugging Face hub, which is not in the local cache; this version downloads no models", m.Hub).
		WithHint("hf download %s --local-dir ./%s, then model.base_model: ./%s", m.Hub, m.Alias, m.Alias)
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
