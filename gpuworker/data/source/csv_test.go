package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
)

// TestCSVAsPandas compares with pandas on made-up files (testdata/pandas_csv.py). Where pandas gives up the whole file for one row that is too
// long, that row is a bad row here.
func TestCSVAsPandas(t *testing.T) {
	f, err := os.Open("testdata/csv.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	equal, refused := 0, 0
	for line := 1; sc.Scan(); line++ {
		var c struct {
			Text, Error string
			Columns     []string
			Rows        [][]*string
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		rows, _, err := read(t, "x.csv", []byte(c.Text), Options{}, PolicyFail)
		if c.Error != "" {
			refused++
			if err == nil && !strings.Contains(c.Error, "No columns") {
				t.Errorf("line %d: %q is read, pandas says %s", line, c.Text, c.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("line %d: %q: %v, pandas reads it", line, c.Text, err)
			continue
		}
		var want []string
		for _, r := range c.Rows {
			values := make([]any, len(r))
			for i, v := range r {
				if v != nil {
					values[i] = *v
				}
			}
			raw, err := encodeObject(c.Columns, values)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, string(raw))
		}
		if strings.Join(rows, "\n") != strings.Join(want, "\n") {
			t.Errorf("line %d: %q is\n%s\npandas has\n%s", line, c.Text, strings.Join(rows, "\n"), strings.Join(want, "\n"))
		}
		equal++
	}
	if equal < 200 || refused < 50 {
		t.Errorf("%d files were read, %d refused", equal, refused)
	}
}

// TestMedicalCSV reads real data: GB18030, quotes in the middle of values, line feeds within quotes. The hash is over what pandas reads
// (dtype=str, encoding=gb18030): values with 0x1f between them, rows with 0x1e behind them, 0x00 for a missing value.
func TestMedicalCSV(t *testing.T) {
	name := fixturetest.Data(t, "medical", "internal_medicine_sample.csv")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(context.Background(), name, f, info.Size(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sum, n := sha256.New(), 0
	err = Each(context.Background(), r, &Bad{}, 0, func(row Row) error {
		n++
		var v struct{ Department, Title, Ask, Answer *string }
		if err := json.Unmarshal(row.Raw, &v); err != nil {
			return err
		}
		var values []string
		for _, x := range []*string{v.Department, v.Title, v.Ask, v.Answer} {
			if x == nil {
				x = new("\x00")
			}
			values = append(values, *x)
		}
		_, err := sum.Write([]byte(strings.Join(values, "\x1f") + "\x1e"))
		return err
	})
	if got := hex.EncodeToString(sum.Sum(nil)); err != nil || n != 7644 || got != "2f56f2ed1db91a5b78e3e1eaf944d51191d05261fd1d6d514e383f3ccffdc1a0" {
		t.Errorf("%v; %d rows with hash %s", err, n, got)
	}
}
