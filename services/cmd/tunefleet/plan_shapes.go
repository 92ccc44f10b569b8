package main

import (
	"embed"
	"path"
	"strings"
)

// shapes are the config.json of public models as far as they say how large the models are: no weights.
//
//go:embed shapes/*.json
var shapes embed.FS

// publicConfigs are the shapes of public models by name.
func publicConfigs() map[string]string {
	out := map[string]string{}
	entries, err := shapes.ReadDir("shapes")
	if err != nil {
		return out // the folder is part of the program
	}
	for _, e := range entries {
		if raw, err := shapes.ReadFile(path.Join("shapes", e.Name())); err == nil {
			out[strings.TrimSuffix(e.Name(), ".json")] = string(raw)
		}
	}
	return out
}
