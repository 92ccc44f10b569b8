package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/tunefleet/tunefleet/schemas"
)

// batchRows is how many rows of a Parquet file are in memory at a time.
const batchRows = 1024

// recordReader is what both Parquet and Arrow readers of the library offer.
type recordReader interface {
	Next() bool
	RecordBatch() arrow.RecordBatch
	Err() error
	Release()
}

// arrowFile gives the rows of record batches as JSON objects.
type arrowFile struct {
	name   string
	r      recordReader
	limits Limits
	batch  arrow.RecordBatch
	at     int
	row    int64
	closer func() error
}

// guard turns a panic of the library, which broken files can cause, into an error of the file.
func guard(name string, err *error) {
	if r := recover(); r != nil {
		*err = schemas.Errorf(schemas.CodeData, name, "the file is broken: %v", r)
	}
}

// bounded refuses allocations that no honest file of the size needs: a broken one may claim any length. It panics, which guard turns into
// an error, since the library's allocators cannot fail otherwise.
type bounded struct {
	memory.Allocator
	most int64
}

func newBounded(size int64, l Limits) *bounded {
	return &bounded{Allocator: memory.NewGoAllocator(), most: max(freeBytes, l.Ratio*min(size, 1<<32))}
}

// Allocate implements memory.Allocator.
func (b *bounded) Allocate(size int) []byte {
	b.check(size)
	return b.Allocator.Allocate(size)
}

// Reallocate implements memory.Allocator.
func (b *bounded) Reallocate(size int, old []byte) []byte {
	b.check(size)
	return b.Allocator.Reallocate(size, old)
}

func (b *bounded) check(size int) {
	if size < 0 || int64(size) > b.most {
		panic(fmt.Sprintf("it claims a part of %d bytes", size))
	}
}

// openParquet needs random access: Parquet's index is at the file's end.
func openParquet(ctx context.Context, name string, r io.ReaderAt, size int64, l Limits) (out Reader, err error) {
	defer guard(name, &err)
	mem := newBounded(size, l)
	props := parquet.NewReaderProperties(mem)
	f, err := file.NewParquetReader(io.NewSectionReader(r, 0, size), file.WithReadProps(props))
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name, "is no Parquet file: %v", err)
	}
	if err := checkParquet(f, size); err != nil {
		return nil, errors.Join(schemas.Errorf(schemas.CodeData, name, "is a broken Parquet file: %v", err), f.Close())
	}
	fr, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{BatchSize: batchRows}, mem)
	if err != nil {
		return nil, errors.Join(schemas.Errorf(schemas.CodeData, name, "cannot read the Parquet file: %v", err), f.Close())
	}
	rr, err := fr.GetRecordReader(ctx, nil, nil)
	if err != nil {
		return nil, errors.Join(schemas.Errorf(schemas.CodeData, name, "cannot read the Parquet file: %v", err), f.Close())
	}
	return &arrowFile{name: name, r: rr, limits: l, closer: f.Close}, nil
}

// openArrow reads the stream and the file form of Arrow IPC. Hugging Face's caches are streams.
func openArrow(name string, r io.ReaderAt, size int64, l Limits) (out Reader, err error) {
	defer guard(name, &err)
	var head [6]byte
	if _, err := r.ReadAt(head[:], 0); err == nil && bytes.Equal(head[:], []byte("ARROW1")) {
		// The file form is a stream between a mark of 8 bytes and an index, which is not needed here.
		r, size = io.NewSectionReader(r, 8, size-8), size-8
	}
	if err := checkArrow(r, size); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name, "is no Arrow stream: %v", err)
	}
	rr, err := ipc.NewReader(io.NewSectionReader(r, 0, size), ipc.WithAllocator(newBounded(size, l)))
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeData, name, "is no Arrow stream: %v", err)
	}
	return &arrowFile{name: name, r: rr, limits: l, closer: func() error { return nil }}, nil
}

// Next implements Reader.
func (a *arrowFile) Next(ctx context.Context) (row Row, err error) {
	defer guard(a.name, &err)
	if err := ctx.Err(); err != nil {
		return Row{}, err
	}
	for a.batch == nil || a.at >= int(a.batch.NumRows()) {
		if !a.r.Next() {
			if err := a.r.Err(); err != nil && !errors.Is(err, io.EOF) {
				return Row{}, schemas.Errorf(schemas.CodeData, placeOf(a.name, a.row+1), "cannot read: %v", err)
			}
			return Row{}, io.EOF
		}
		a.batch, a.at = a.r.RecordBatch(), 0
	}
	a.row++
	place := placeOf(a.name, a.row)
	var b bytes.Buffer
	b.WriteByte('{')
	fields := a.batch.Schema().Fields()
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encodeValue(&b, f.Name); err != nil {
			return Row{}, badRow(place, nil, "%v", err)
		}
		b.WriteByte(':')
		if err := a.value(&b, a.batch.Column(i), a.at, 1); err != nil {
			a.at++
			return Row{}, badRow(place, nil, "column %q: %v", f.Name, err)
		}
	}
	a.at++
	b.WriteByte('}')
	if b.Len() > a.limits.RowBytes {
		return Row{}, badRow(place, b.Bytes(), "the row is longer than %d bytes", a.limits.RowBytes)
	}
	return Row{Place: place, Raw: b.Bytes()}, nil
}

// value writes one value as JSON, structs with their fields in order.
func (a *arrowFile) value(b *bytes.Buffer, col arrow.Array, i, depth int) error {
	if depth > a.limits.Depth {
		return fmt.Errorf("nested deeper than %d levels", a.limits.Depth)
	}
	if col.IsNull(i) {
		b.WriteString("null")
		return nil
	}
	switch c := col.(type) {
	case *array.Struct:
		t, _ := c.DataType().(*arrow.StructType)
		b.WriteByte('{')
		for k := range c.NumField() {
			if k > 0 {
				b.WriteByte(',')
			}
			if err := encodeValue(b, t.Field(k).Name); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := a.value(b, c.Field(k), i, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case *array.Map:
		return encodeValue(b, c.GetOneForMarshal(i))
	case array.ListLike:
		from, to := c.ValueOffsets(i)
		b.WriteByte('[')
		for k := from; k < to; k++ {
			if k > from {
				b.WriteByte(',')
			}
			if err := a.value(b, c.ListValues(), int(k), depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case *array.String:
		return encodeText(b, c.Value(i))
	case *array.LargeString:
		return encodeText(b, c.Value(i))
	case *array.Float64:
		return encodeFloat(b, c.Value(i))
	case *array.Float32:
		return encodeFloat(b, float64(c.Value(i)))
	}
	v := col.GetOneForMarshal(i)
	if raw, ok := v.(json.RawMessage); ok && !json.Valid(raw) {
		return errors.New("cannot be written as JSON")
	}
	return encodeValue(b, v)
}

func encodeText(b *bytes.Buffer, s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	return encodeValue(b, s)
}

func encodeFloat(b *bytes.Buffer, v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		b.WriteString("null") // as pandas has it: NaN is a missing value
		return nil
	}
	return encodeValue(b, v)
}

// Close implements Reader.
func (a *arrowFile) Close() (err error) {
	defer guard(a.name, &err)
	a.r.Release()
	return a.closer()
}
