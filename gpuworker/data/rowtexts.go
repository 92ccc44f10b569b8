package data

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxRowLine bounds a stored row: a row is at most 16 MiB when it is read, and may use a column several times.
const maxRowLine = 1 << 30

// EachRow reads the cleaned rows that "<prep stage>/<output>" stored and gives them to f, one at a time in memory, those of one part behind those
// of the one before. place is the row's among all rows of the output in their original order. Every object is compared with the SHA-256 of its
// part's result, so when EachRow fails what f saw must not be used. CodeInvalid when the output stored no rows, CodeData when there are none.
func EachRow(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, ref string, f func(place int, r *Row) error) error {
	stage, output, prep, err := FindOutput(spec, ref)
	if err != nil {
		return err
	}
	total := 0
	for part := range prep.Parts {
		r, err := readResult(ctx, objects, schemas.ResultKey(spec.Tenant, spec.ID, stage, part))
		if err != nil {
			return fmt.Errorf("cannot open data %s: %w", ref, err)
		}
		i := slices.IndexFunc(r.Objects, func(o schemas.Object) bool { return o.Name == output+"/"+ObjectRows })
		if i < 0 {
			return schemas.Errorf(schemas.CodeInvalid, ref, "the output stored no rows").WithHint("set rows: true on it")
		}
		n := 0
		err = eachLine(ctx, objects, r.Objects[i], func(row *Row) error {
			n++
			return f((n-1)*prep.Parts+part, row)
		})
		if err != nil {
			return err
		}
		total += n
	}
	if total == 0 {
		return schemas.Errorf(schemas.CodeData, ref, "the split has no rows")
	}
	return nil
}

// eachLine reads an object of rows.
func eachLine(ctx context.Context, objects store.Objects, o schemas.Object, f func(*Row) error) (err error) {
	body, err := objects.Open(ctx, o.Key, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return schemas.Errorf(schemas.CodeNotFound, o.Key, "the object is gone")
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", o.Key, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	sum, n := sha256.New(), &countWriter{}
	sc := bufio.NewScanner(io.TeeReader(io.LimitReader(body, o.Bytes+1), io.MultiWriter(sum, n)))
	sc.Buffer(make([]byte, 64<<10), maxRowLine)
	for sc.Scan() {
		var r Row
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return schemas.Errorf(schemas.CodeData, o.Key, "is no file of rows: %v", err)
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("cannot read %s: %w", o.Key, err)
	}
	if n.n != o.Bytes || hex.EncodeToString(sum.Sum(nil)) != o.SHA256 {
		return schemas.Errorf(schemas.CodeVerify, o.Key, "does not have the %d bytes with SHA-256 %s that its result names", o.Bytes, o.SHA256)
	}
	return nil
}

// countWriter counts bytes.
type countWriter struct{ n int64 }

// Write implements io.Writer.
func (c *countWriter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// EncodeRow writes a row in the form that the object of rows has: one JSON object a line.
func EncodeRow(w io.Writer, r *Row) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("cannot encode a row: %w", err)
	}
	return nil
}
