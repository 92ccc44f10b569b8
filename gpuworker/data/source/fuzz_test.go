package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

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
			var bad *BadRowError
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

// FuzzArrow covers streams and files.
func FuzzArrow(f *testing.F) { fuzzFormat(f, "x.arrow", arrowStream(f), arrowRandom(f)) }

// FuzzCompressed covers gz, FuzzZstandard zst: what they unpack to is bounded like everything else.
func FuzzCompressed(f *testing.F) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte("{\"a\":1}\n{\"b\":2}\n")); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	fuzzFormat(f, "x.jsonl.gz", b.Bytes(), b.Bytes()[:b.Len()/2], append(bytes.Clone(b.Bytes()), b.Bytes()...))
}

func FuzzZstandard(f *testing.F) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	b := w.EncodeAll([]byte("a,b\n1,2\n"), nil)
	fuzzFormat(f, "x.csv.zst", b, b[:len(b)/2], append(bytes.Clone(b), b...))
}

// FuzzSlices: whatever a split says, its rows are rows of the data set.
func FuzzSlices(f *testing.F) {
	for _, s := range []string{"train", "train[:10%]", "train[:5]+train[-5:]", "a.b[10%:-1%](pct1_dropremainder)", "train[9_9:]"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, spec string, n int) {
		parts, err := ParseSlices(spec)
		if err != nil {
			return
		}
		n = int(uint(n) % 1000)
		rows, err := parts.Rows(n)
		if err != nil {
			return
		}
		for _, r := range rows {
			if r < 0 || int(r) >= n {
				t.Fatalf("%q of %d rows has row %d", spec, n, r)
			}
		}
	})
}

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

// TestMutatedColumnFiles changes bytes of good files: the readers must end with an error or rows, without exhausting memory. (The fuzzing
// engine runs these formats slowly, since it watches the whole of the library.)
func TestMutatedColumnFiles(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	for kind, seed := range map[string][]byte{"x.parquet": parquetFile(t), "x.arrow": arrowStream(t), "file.arrow": arrowRandom(t)} {
		name := kind
		r := rand.New(rand.NewPCG(7, 9))
		for i := range n {
			b := bytes.Clone(seed)
			for range 1 + r.IntN(9) {
				b[r.IntN(len(b))] = byte(r.UintN(256))
			}
			if i%10 == 0 {
				b = b[:r.IntN(len(b))]
			}
			readMutated(t, name, b)
		}
	}
}

func readMutated(t *testing.T, name string, b []byte) {
	t.Helper()
	ctx := context.Background()
	r, err := Open(ctx, name, bytes.NewReader(b), int64(len(b)), Options{Limits: Limits{RowBytes: 1 << 16}})
	for rows := 0; err == nil && rows < 10_000; rows++ {
		var row Row
		if row, err = r.Next(ctx); errors.As(err, new(*BadRowError)) {
			err = nil
			continue
		}
		if err == nil && !json.Valid(row.Raw) {
			t.Fatalf("%s: %q is no JSON", row.Place, row.Raw)
		}
	}
	if r != nil {
		_ = r.Close()
	}
	if err != nil && !errors.Is(err, io.EOF) && schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
		t.Fatalf("error without a code: %v", err)
	}
}
