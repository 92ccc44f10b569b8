package source

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Options say how a file is read.
type Options struct {
	// Format is one of Formats; "" is the format of the file's name.
	Format string
	// Encoding is one of Encodings; "" is found out.
	Encoding string
	Limits   Limits
	// Literal keeps every value of CSV and TSV files as the text that it is; otherwise words such as NA are null, as for pandas.
	Literal bool
	// Truths names columns of CSV and TSV files that hold truth values (True, false), which become JSON's.
	Truths []string
	// Texts takes a text of a JSON or JSONL file for a row, too: its Raw is then no object.
	Texts bool
	// Dir is where a compressed Parquet or Arrow file is unpacked to; "" is the system's temporary folder.
	Dir string
}

// Formats lists the formats by their names: json, jsonl, csv, tsv, txt, parquet, arrow.
func Formats() []string { return []string{"json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow"} }

// FormatOf is the format of a file by its name, under .gz or .zst too; "" when it says nothing.
func FormatOf(name string) string {
	name = strings.ToLower(name)
	if e := path.Ext(name); e == ".gz" || e == ".zst" {
		name = strings.TrimSuffix(name, e)
	}
	switch e := strings.TrimPrefix(path.Ext(name), "."); e {
	case "json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow":
		return e
	case "ndjson":
		return "jsonl"
	case "text":
		return "txt"
	}
	return ""
}

// Input is an open file.
type Input interface {
	io.Reader
	io.ReaderAt
}

// Open reads a file of size bytes; name is for messages and, without Options.Format, gives the format. The caller closes the reader first
// and the input then. Errors are ErrorInfo: CodeData for what the file is, CodeInvalid for options.
func Open(ctx context.Context, name string, in Input, size int64, o Options) (Reader, error) {
	l := o.Limits.WithDefaults()
	format := o.Format
	if format == "" {
		if format = FormatOf(name); format == "" {
			return nil, schemas.Errorf(schemas.CodeData, name, "the file's name does not say its format").
				WithHint("known endings: .%s, each also with .gz or .zst", strings.Join(Formats(), ", ."))
		}
	}
	switch format {
	case "parquet", "arrow":
		return openColumns(ctx, name, format, in, size, l, o.Dir)
	case "json", "jsonl", "csv", "tsv", "txt":
	default:
		return nil, schemas.Errorf(schemas.CodeInvalid, name, "unknown format %q", format).WithHint("known: %s", strings.Join(Formats(), ", "))
	}
	plain, free, err := decompress(name, in, l)
	if err != nil {
		return nil, err
	}
	text, err := decodeText(name, plain, o.Encoding)
	if err != nil {
		free()
		return nil, err
	}
	_, untouched := text.(*bufio.Reader)
	r, err := openText(name, format, text, &o, l, !untouched)
	if err != nil {
		free()
		return nil, err
	}
	return &freeing{Reader: r, free: free}, nil
}

func openText(name, format string, r io.Reader, o *Options, l Limits, decoded bool) (Reader, error) {
	cut := lines{name: name, r: bufio.NewReaderSize(r, 256<<10), limit: l.RowBytes}
	switch format {
	case "jsonl":
		return &jsonLines{l: cut, limits: l, decoded: decoded, check: rowChecker{depth: l.Depth, texts: o.Texts}}, nil
	case "txt":
		cut.universal = true
		return &textLines{l: cut, limits: l, decoded: decoded}, nil
	case "csv":
		return openCSV(name, r, l, decoded, ',', o)
	case "tsv":
		return openCSV(name, r, l, decoded, '\t', o)
	}
	return openJSON(name, r, l, decoded, o.Texts)
}

// freeing frees the decompressor after the reader.
type freeing struct {
	Reader
	free func()
}

// Close implements Reader.
func (f *freeing) Close() error {
	err := f.Reader.Close()
	f.free()
	return err
}

// openColumns opens a Parquet or Arrow file, unpacked to a temporary file when it is compressed as a whole.
func openColumns(ctx context.Context, name, format string, in Input, size int64, l Limits, dir string) (Reader, error) {
	open := func(r io.ReaderAt, size int64) (Reader, error) {
		if format == "parquet" {
			return openParquet(ctx, name, r, size, l)
		}
		return openArrow(name, r, size, l)
	}
	var head [2]byte
	if _, err := in.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if ext := strings.ToLower(path.Ext(name)); ext != ".gz" && ext != ".zst" {
		return open(in, size)
	}
	plain, free, err := decompress(name, in, l)
	if err != nil {
		return nil, err
	}
	defer free()
	f, err := os.CreateTemp(dir, "unpacked-*")
	if err != nil {
		return nil, err
	}
	drop := func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	n, err := io.Copy(f, plain)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	r, err := open(f, n)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	return &dropping{Reader: r, drop: drop}, nil
}

// dropping removes the unpacked file after the reader.
type dropping struct {
	Reader
	drop func() error
}

// Close implements Reader.
func (d *dropping) Close() error { return errors.Join(d.Reader.Close(), d.drop()) }
