package config

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// positions reads max_position_embeddings of an HF config.json.
func positions(data []byte) (int, bool) {
	var c struct {
		N int `json:"max_position_embeddings"`
	}
	if json.Unmarshal(data, &c) != nil || c.N < 1 {
		return 0, false
	}
	return c.N, true
}

// sniff reads the first row of a data file and says in which form it is (pt: plain text, sft: prompts with responses) and which
// columns play which role. Known shapes: {text}, {instruction, input, output}, {prompt, response}, {question, answer}.
func sniff(ctx context.Context, path, format string) (form string, columns map[string]string, err error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		names, err := listFolder(path)
		if err != nil {
			return "", nil, err
		}
		for _, n := range names {
			if dataFile(n) {
				path = filepath.Join(path, n)
				break
			}
		}
	}
	keys, err := firstRow(ctx, path, format)
	if err != nil {
		return "", nil, err
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if !keys[n] {
				return false
			}
		}
		return true
	}
	columns = map[string]string{}
	pick := func(role, column string) {
		if keys[column] {
			columns[role] = column
		}
	}
	switch {
	case has("instruction", "output"):
		pick("prompt", "instruction")
		pick("query", "input")
		pick("response", "output")
		pick("system", "system")
		return "sft", columns, nil
	case has("prompt", "response"), has("prompt", "completion"), has("question", "answer"):
		pick("prompt", "prompt")
		pick("prompt", "question")
		pick("response", "completion")
		pick("response", "answer")
		pick("response", "response")
		pick("system", "system")
		return "sft", columns, nil
	case has("text"):
		pick("text", "text")
		return "pt", columns, nil
	}
	var names []string
	for k := range keys {
		names = append(names, k)
	}
	return "", nil, schemas.Errorf(schemas.CodeData, path+":1", "cannot tell prompt and response from the columns %s", strings.Join(sorted(names), ", ")).
		WithHint("say so in data.columns, e.g. columns: {prompt: question, response: answer}")
}

// firstRow reads the keys of the first row that can be used.
func firstRow(ctx context.Context, path, format string) (keys map[string]bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, path, "cannot open the data: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, path, "cannot read: %v", err)
	}
	r, err := source.Open(ctx, path, f, info.Size(), source.Options{Format: format, Literal: true})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	keys = map[string]bool{}
	err = source.Each(ctx, r, &source.Bad{Policy: source.PolicySkip}, 1, func(row source.Row) error {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(row.Raw, &m); err != nil {
			return schemas.Errorf(schemas.CodeData, row.Place, "broken JSON: %v", err)
		}
		for k := range m {
			keys[k] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, path, "the data set is empty, or no row can be read")
	}
	return keys, nil
}
