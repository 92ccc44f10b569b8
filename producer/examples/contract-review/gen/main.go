// Command gen writes the contract-review example: clauses.jsonl and tokenizer/tokenizer.json. The same seed gives the same bytes.
//
//	go run ./producer/examples/contract-review/gen -out producer/examples/contract-review
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// question is what the run files ask about every clause.
const question = "Which type of clause is this?\nThis clause is a matter of"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("gen", flag.ContinueOnError)
	dir := fs.String("out", "producer/examples/contract-review", "folder to write to")
	c := DefaultConfig()
	truth := fs.Bool("truth", false, "also write truth.jsonl: what was planted in which row")
	fs.Uint64Var(&c.Seed, "seed", c.Seed, "seed of every choice")
	fs.IntVar(&c.Rows, "rows", c.Rows, "number of rows")
	if err := fs.Parse(args); err != nil {
		return err
	}
	set, err := Generate(c)
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	if files["clauses.jsonl"], err = lines(set.Clauses); err != nil {
		return err
	}
	if *truth {
		if files["truth.jsonl"], err = lines(set.Truth); err != nil {
			return err
		}
	}
	texts := make([]string, 0, 3*len(set.Clauses))
	for _, r := range set.Clauses {
		texts = append(texts, r.Text, question, r.Label+"\n"+r.Explanation)
	}
	if files["tokenizer/tokenizer.json"], err = TrainTokenizer(texts, c.Vocab); err != nil {
		return err
	}
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(*dir, name)), 0o755); err != nil {
			return fmt.Errorf("cannot create a folder for %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(*dir, name), b, 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	fmt.Fprintf(out, "%d clauses of %d types in %d families\n", len(set.Clauses), len(classes()), set.Families)
	return nil
}

func lines[T any](v []T) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, x := range v {
		if err := e.Encode(x); err != nil {
			return nil, fmt.Errorf("cannot write a row: %w", err)
		}
	}
	return b.Bytes(), nil
}
