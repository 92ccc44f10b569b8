package config

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

const sniffBytes = 1 << 20

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
func sniff(path, format string) (form string, columns map[string]string, err error) {
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
	if format == "" {
		format = strings.TrimPrefix(filepath.Ext(path), ".")
	}
	keys, err := firstRow(path, format)
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

func firstRow(path, format string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, path, "cannot open the data: %v", err)
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, sniffBytes))
	keys := map[string]bool{}
	switch format {
	case "csv":
		header, err := csv.NewReader(r).Read()
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, path+":1", "cannot read the header: %v", err)
		}
		for _, h := range header {
			keys[strings.TrimPrefix(h, "\ufeff")] = true
		}
		return keys, nil
	case "json", "jsonl":
	default:
		return nil, schemas.Errorf(schemas.CodeData, path, "the format %q is unknown: expected .jsonl, .json or .csv", format)
	}
	for {
		b, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil, schemas.Errorf(schemas.CodeData, path, "the data set is empty")
		}
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, path, "cannot read: %v", err)
		}
		if !bytes.ContainsRune([]byte(" \t\r\n[\xef\xbb\xbf"), rune(b)) && b < 0x80 {
			if err := r.UnreadByte(); err != nil {
				return nil, schemas.Errorf(schemas.CodeData, path, "cannot read: %v", err)
			}
			break
		}
		if b >= 0x80 && b != 0xef && b != 0xbb && b != 0xbf {
			return nil, schemas.Errorf(schemas.CodeData, path+":1", "is no JSON")
		}
	}
	var row map[string]json.RawMessage
	if err := json.NewDecoder(r).Decode(&row); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, path+":1", "the first row is no JSON object: %v", err)
	}
	for k := range row {
		keys[k] = true
	}
	return keys, nil
}
