package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// fuzzFormat feeds anything to a reader: it must end, give valid JSON objects, and fail with an error that has a code.
func fuzzFormat(f *testing.F, name string, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx := context.Background()
		r, err := Open(ctx, name, bytes.NewReader(b), int64(len(b)), Options{Limits: Limits{RowBytes: 1 << 16, Bytes: 1 << 22}, Dir: t.TempDir()})
		if err != nil {
			if schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		for range 10_000 {
			row, err := r.Next(ctx)
			var bad *BadRow
			if errors.As(err, &bad) {
				continue
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				if schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
					t.Fatalf("error without a code: %v", err)
				}
				break
			}
			if !json.Valid(row.Raw) || row.Raw[0] != '{' {
				t.Fatalf("%s: %q is no object", row.Place, row.Raw)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzJSONLines(f *testing.F) {
	fuzzFormat(f, "x.jsonl", []byte("{\"a\":1}\n{\"b\":[{}]}\n"), []byte("\xff\xfe{\x00"), []byte("\x1f\x8b\x08"))
}

func FuzzJSON(f *testing.F) { fuzzFormat(f, "x.json", []byte("[{\"a\":1},{}]"), []byte("{}\n{}")) }

func FuzzCSV(f *testing.F) { fuzzFormat(f, "x.csv", []byte("a,b\n1,\"2\n\"\n"), []byte("\"")) }

func FuzzText(f *testing.F) { fuzzFormat(f, "x.txt", []byte("a\r\nb\rc\n"), []byte("\xd6\xd0\n")) }

func FuzzParquet(f *testing.F) { fuzzFormat(f, "x.parquet", parquetFile(f)) }

func FuzzInfo(f *testing.F) {
	f.Add([]byte(`{"a":{"file_name":"x","columns":{"prompt":"q"},"tags":{"role_tag":null}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ParseInfo("x", b)
		if err != nil {
			return
		}
		for _, n := range i.Names() {
			if e, err := i.Entry(n); err == nil && e.Name != n {
				t.Fatalf("entry %q is %+v", n, e)
			}
		}
	})
}
