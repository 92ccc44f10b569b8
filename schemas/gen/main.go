// Command gen writes the JSON Schemas of the wire types to a folder: `go run ./schemas/gen schemas/jsonschema`. schemas' freshness test
// fails when they are not current.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tunefleet/tunefleet/schemas/gen/generate"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen FOLDER")
		os.Exit(2)
	}
	files, err := generate.All()
	if err == nil {
		err = os.MkdirAll(os.Args[1], 0o755)
	}
	for name, b := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(os.Args[1], name), b, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
