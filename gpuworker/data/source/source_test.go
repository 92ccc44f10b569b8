package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/text/encoding/simplifiedchinese"
	textunicode "golang.org/x/text/encoding/unicode"

	"github.com/tunefleet/tunefleet/schemas"
)

func read(t testing.TB, name string, b []byte, o Options, policy Policy) ([]string, *Bad, error) {
	t.Helper()
	ctx := context.Background()
	r, err := Open(ctx, name, bytes.NewReader(b), int64(len(b)), o)
	if err != nil {
		return nil, nil, err
	}
	bad := &Bad{Policy: policy}
	rows, err := All(ctx, r, bad, 0)
	if cerr := r.Close(); cerr != nil {
		t.Errorf("close: %v", cerr)
	}
	var out []string
	for _, row := range rows {
		if !json.Valid(row.Raw) {
			t.Errorf("%s is no JSON: %s", row.Place, row.Raw)
		}
		out = append(out, string(row.Raw))
	}
	return out, bad, err
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func encoded(t testing.TB, b []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// table is a record with texts, numbers, a list of structs and missing values.
func table(t testing.TB) arrow.RecordBatch {
	t.Helper()
	turn := arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.String, Nullable: true})
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true}, {Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "x", Type: arrow.PrimitiveTypes.Float64}, {Name: "ok", Type: arrow.FixedWidthTypes.Boolean}, {Name: "turns", Type: arrow.ListOf(turn)},
	}, nil))
	rows := `[{"text":"a\"b\n中","n":1,"x":0.5,"ok":true,"turns":[{"role":"user","content":"hi"},{"role":"assistant","content":null}]},
		{"text":null,"n":null,"x":2,"ok":false,"turns":[]}]`
	if err := b.UnmarshalJSON([]byte(strings.ReplaceAll(rows, "\n", " "))); err != nil {
		// The builder reads one object after the other.
		d := json.NewDecoder(strings.NewReader(rows))
		var list []json.RawMessage
		if err := d.Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if err := json.Unmarshal(r, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.NewRecordBatch()
}

var wantTable = []string{`{"text":"a\"b\n中","n":1,"x":0.5,"ok":true,"turns":[{"role":"user","content":"hi"},{"role":"assistant","content":null}]}`,
	`{"text":null,"n":null,"x":2,"ok":false,"turns":[]}`}

func parquetFile(t testing.TB) []byte {
	t.Helper()
	rec := table(t)
	var b bytes.Buffer
	w, err := pqarrow.NewFileWriter(rec.Schema(), &b, parquet.NewWriterProperties(), pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func arrowStream(t testing.TB) []byte {
	t.Helper()
	rec := table(t)
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(rec.Schema()))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func arrowRandom(t testing.TB) []byte {
	t.Helper()
	rec := table(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "x.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(rec.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(f.Name())
	return encoded(t, out, err)
}

func TestEveryFormat(t *testing.T) {
	two := []string{`{"a":"1","b":"é中"}`, `{"a":"2","b":"x"}`}
	lines := "{\"a\":\"1\",\"b\":\"é中\"}\n{\"a\":\"2\",\"b\":\"x\"}\n"
	utf16, err := textunicode.UTF16(textunicode.LittleEndian, textunicode.UseBOM).NewEncoder().String("a,b\n1,é中\n2,x\n")
	le := encoded(t, []byte(utf16), err)
	utf16, err = textunicode.UTF16(textunicode.BigEndian, textunicode.IgnoreBOM).NewEncoder().String("a,b\n1,é中\n2,x\n")
	be := encoded(t, []byte(utf16), err)
	gbText, err := simplifiedchinese.GB18030.NewEncoder().String("a,b\n1,中文，标点。\n2,x\n")
	gb := encoded(t, []byte(gbText), err)
	han := []string{`{"a":"1","b":"中文，标点。"}`, `{"a":"2","b":"x"}`}
	for _, c := range []struct {
		name string
		b    []byte
		o    Options
		want []string
	}{
		{"x.jsonl", []byte(lines), Options{}, two},
		{"x.jsonl", []byte("\xef\xbb\xbf" + strings.ReplaceAll(lines, "\n", "\r\n\r\n")), Options{}, two},
		{"x.json", []byte("[" + strings.Replace(strings.TrimSpace(lines), "\n", ",\n", 1) + "]"), Options{}, two},
		{"x.json", []byte(lines), Options{}, two},
		{"x.csv", []byte("a,b\r\n1,é中\r\n2,x\r\n"), Options{}, two},
		{"x.csv", []byte("a,b\n1,\"line\nbreak \"\"q\"\"\"\n"), Options{}, []string{`{"a":"1","b":"line\nbreak \"q\""}`}},
		{"x.tsv", []byte("a\tb\n1\té中\n2\tx\n"), Options{}, two},
		{"x.txt", []byte("one\n\ntwo\r\nthree\rfour"), Options{}, []string{`{"text":"one"}`, `{"text":""}`, `{"text":"two"}`, `{"text":"three"}`, `{"text":"four"}`}},
		{"x.txt", []byte("a\r\r\nb\r"), Options{}, []string{`{"text":"a"}`, `{"text":""}`, `{"text":"b"}`}},
		{"x.jsonl.gz", gz(t, []byte(lines)), Options{}, two},
		{"x.jsonl.zst", zst(t, []byte(lines)), Options{}, two},
		{"x.csv", le, Options{}, two},
		{"x.csv", be, Options{}, two},
		{"x.csv", gb, Options{}, han},
		{"x.csv", gb, Options{Encoding: GB18030}, han},
		{"data", []byte(lines), Options{Format: "jsonl"}, two},
		{"x.json", nil, Options{}, nil},
		{"x.json", []byte(" [ ] "), Options{}, nil},
		{"x.parquet", parquetFile(t), Options{}, wantTable},
		{"x.parquet.gz", gz(t, parquetFile(t)), Options{Dir: t.TempDir()}, wantTable},
		{"x.arrow", arrowStream(t), Options{}, wantTable},
		{"x.arrow", arrowRandom(t), Options{}, wantTable},
	} {
		got, _, err := read(t, c.name, c.b, c.o, PolicyFail)
		if err != nil || strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s %.30q: %v\n%s\nwant\n%s", c.name, c.b, err, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestBadInputIsNamed(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	long := `{"a":"` + strings.Repeat("x", 5000) + `"}`
	small := Options{Limits: Limits{RowBytes: 1000}}
	good := "{\"a\":1}\n"
	for _, c := range []struct {
		name string
		b    []byte
		o    Options
		// left is the number of rows that are kept when bad ones are skipped, -1 when the file is refused.
		left int
		want string
	}{
		{"x.jsonl", []byte(good + "{\"a\":\n" + good), Options{}, 2, "x.jsonl:2: broken JSON"},
		{"x.jsonl", []byte(good + "{\"a\":1,\"a\":2}\n" + good), Options{}, 2, "the key a appears twice"},
		{"x.jsonl", []byte(good + "{\"b\":{\"a\":1,\"a\":2}}\n"), Options{}, 1, "the key a appears twice"},
		{"x.jsonl", []byte(good + "{\"a\":" + deep + "}\n" + good), Options{}, 2, "x.jsonl:2: is nested deeper than 64 levels"},
		{"x.jsonl", []byte(good + "[1]\n"), Options{}, 1, "is no JSON object, but an array"},
		{"x.jsonl", []byte(good + "{} {}\n"), Options{}, 1, "there is more after the object"},
		{"x.jsonl", []byte(good + "{\"a\":\"\xff\"}\n"), Options{Encoding: UTF8}, 1, "is not valid UTF-8"},
		{"x.jsonl", []byte(good + "{\"a\":\"\x00\"}\n"), Options{Encoding: UTF8}, 1, "holds a NUL byte"},
		{"x.jsonl", []byte(good + long + "\n" + good), small, 2, "the line is longer than 1000 bytes"},
		{"x.txt", []byte("a\n" + long + "\nb"), small, 2, "x.txt:2: the line is longer"},
		{"x.json", []byte("[" + good + "," + long + "]"), small, 1, "x.json:2: the row is longer than 1000 bytes"},
		{"x.json", []byte("[" + good + ",{\"a\":1,\"a\":2}," + good + "]"), Options{}, 2, "x.json:2: broken JSON: the key a appears twice"},
		{"x.json", []byte("[" + good + ",{\"a\"]"), Options{}, -1, "x.json:2: broken JSON"},
		{"x.json", []byte("[" + good), Options{}, -1, "x.json:2: broken JSON: it ends too early"},
		{"x.json", []byte("\"text\""), Options{}, -1, "begins with"},
		{"x.csv", []byte("a,b\n1,2\n1,2,3\n4,5\n"), Options{}, 2, "x.csv:3: has 3 values, the header names 2 columns"},
		{"x.csv", []byte("a,b\n1,2\n3,\"never closed\n4,5\n"), Options{}, -1, "x.csv:3: the quote that opens in this row is never closed"},
		{"x.csv", []byte("a,a\n1,2\n"), Options{}, -1, "the column \"a\" appears twice"},
		{"x.csv", []byte("a,b\n1,\"never closed" + strings.Repeat("x\n", 90_000)), small, -1, "a row is longer than 1000 bytes"},
		{"x.jsonl.gz", gz(t, []byte(strings.Repeat(good, 1000)))[:60], Options{}, -1, "is cut off"},
		{"x.jsonl.gz", []byte(good), Options{}, -1, "named as a compressed file but is none"},
		{"x.jsonl", []byte("PK\x03\x04zip"), Options{}, -1, "zip archives"},
		{"x.doc", []byte(good), Options{}, -1, "does not say its format"},
		{"x.jsonl", []byte(good), Options{Format: "xml"}, -1, "unknown format"},
		{"x.jsonl", []byte(good), Options{Encoding: "latin-1"}, -1, "unknown encoding"},
		{"x.csv", []byte("a\ncaf\xe9 cr\xe8me br\xfbl\xe9e na\xefve\n"), Options{}, -1, "the encoding is none of"},
		{"x.parquet", []byte("PAR1 nothing PAR1"), Options{}, -1, "x.parquet"},
		{"x.parquet", parquetFile(t)[:200], Options{}, -1, "x.parquet"},
		{"x.arrow", []byte("no arrow at all, but bytes"), Options{}, -1, "x.arrow"},
	} {
		_, _, err := read(t, c.name, c.b, c.o, PolicyFail)
		if info := schemas.AsErrorInfo(err); err == nil || !strings.Contains(err.Error(), c.want) || info.Code != schemas.CodeData && info.Code != schemas.CodeInvalid && info.Code != schemas.CodeUnsupported {
			t.Errorf("%s %.40q: error is %v, want %q", c.name, c.b, err, c.want)
		}
		got, bad, err := read(t, c.name, c.b, c.o, PolicyQuarantine)
		switch {
		case c.left < 0 && err == nil && c.o.Limits.RowBytes == 0:
			t.Errorf("%s %.40q: was read", c.name, c.b)
		case c.left >= 0 && err == nil && (len(got) != c.left || bad.Skipped < 1 || len(bad.Quarantined) != int(bad.Skipped) || bad.Quarantined[0].Reason == ""):
			t.Errorf("%s %.40q: kept %d rows, skipped %d, want %d kept", c.name, c.b, len(got), bad.Skipped, c.left)
		}
	}
}

// zeroes gives a JSON line of any length without holding it.
type zeroes struct{ left int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.left))
	for i := range n {
		p[i] = 'x'
	}
	z.left -= int64(n)
	return n, nil
}

func (z *zeroes) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func TestALineOfAGigabyteTakesNoMemory(t *testing.T) {
	for _, format := range []string{"jsonl", "csv", "txt", "json"} {
		in := &zeroes{left: 1 << 30}
		if testing.Short() {
			in.left = 1 << 26
		}
		var from io.Reader = in
		if format == "json" {
			from = io.MultiReader(strings.NewReader(`[{"a":"`), in)
		}
		start := io.MultiReader(from, strings.NewReader("\n{\"text\":1}\n"))
		r, err := Open(t.Context(), "x."+format, readerOnly{start}, 0, Options{})
		if err == nil {
			_, err = r.Next(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: %v", format, err)
		}
	}
}

type readerOnly struct{ io.Reader }

func (readerOnly) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func TestAnArchiveMadeToExhaustMemoryIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{"x.txt.gz": gz(t, make([]byte, 80<<20)), "x.txt.zst": zst(t, make([]byte, 80<<20))} {
		ctx := t.Context()
		r, err := Open(ctx, name, bytes.NewReader(b), int64(len(b)), Options{Encoding: UTF8})
		for err == nil {
			if _, err = r.Next(ctx); errors.As(err, new(*BadRowError)) {
				err = nil
			}
		}
		if !strings.Contains(err.Error(), "made to exhaust memory") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"one.json", "set/b.jsonl", "set/a.jsonl", "set/notes.md", "set/.hidden.jsonl", "mixed/a.json", "mixed/b.csv", "empty/readme.md"} {
		p := filepath.Join(dir, f)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte("{}"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "leak.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("one.json", filepath.Join(dir, "fine.json")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want, err string }{
		{"one.json", "one.json", ""}, {"fine.json", "fine.json", ""}, {"set", "set/a.jsonl set/b.jsonl", ""}, {"set/*.jsonl", "set/a.jsonl set/b.jsonl", ""},
		{"leak.json", "", "leads out of the folder"}, {"../x.json", "", "leads out"}, {"onee.json", "", "did you mean"}, {"mixed", "", "different formats"},
		{"empty", "", "there is no data file"}, {"set/*.csv", "", "there is no data file"}, {filepath.Join(dir, "set", "*.jsonl"), "a.jsonl b.jsonl", ""},
	} {
		_, files, err := Locate(dir, c.name)
		text := fmt.Sprint(err)
		if info := schemas.AsErrorInfo(err); err != nil {
			text += info.Hint
		}
		if (err != nil) != (c.err != "") || !strings.Contains(text, c.err) || strings.Join(files, " ") != c.want {
			t.Errorf("%s: %v, %s", c.name, files, text)
		}
	}
}

func TestInfo(t *testing.T) {
	i, err := ParseInfo("dataset_info.json", []byte(`{"plain":{"file_name":"a.json"},"cols":{"file_name":"b.json","columns":{"prompt":"q","response":"a"},"tags":{"role_tag":"role"},"formatting":"sharegpt"},
		"odd":{"file_nam":"x"},"roles":{"file_name":"x","columns":{"promt":"q"}},"hub":{"hf_hub_url":"a/b","split":"test","num_samples":5}}`))
	if err != nil {
		t.Fatal(err)
	}
	e, err := i.Entry("plain")
	if err != nil || e.Columns["query"] != "input" || e.Tags["user_tag"] != "human" || e.Formatting != "alpaca" || e.File != "a.json" {
		t.Fatalf("%+v %v", e, err)
	}
	if _, ok := e.Columns["system"]; ok {
		t.Fatal("system has a column")
	}
	e, err = i.Entry("cols")
	if err != nil || len(e.Columns) != 2 || len(e.Tags) != 1 || e.Columns["prompt"] != "q" {
		t.Fatalf("listed columns reset the others: %+v %v", e, err)
	}
	if e, err = i.Entry("hub"); err != nil || e.HFHub != "a/b" || e.Split != "test" || e.NumSamples != 5 {
		t.Fatalf("%+v %v", e, err)
	}
	for name, want := range map[string]string{"plian": "plain", "odd": "file_name", "roles": "prompt"} {
		_, err := i.Entry(name)
		if err == nil || !strings.Contains(err.Error()+schemas.AsErrorInfo(err).Hint, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseInfo("x", []byte(`{"a":{},"a":{}}`)); err == nil {
		t.Error("a name twice is accepted")
	}
}
