package source

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/tunefleet/tunefleet/schemas"
)

// freeBytes may come out of any compressed file before its ratio counts.
const freeBytes = 64 << 20

// zstdMemory bounds the window of a zstd stream.
const zstdMemory = 256 << 20

// decompress unpacks gzip and zstd by their first bytes, not by the name. closer frees the decoder.
func decompress(name string, r io.Reader, l Limits) (out io.Reader, closer func(), err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	in := &counter{r: b}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, packed(name, err)
		}
		return &guarded{name: name, r: z, in: in, l: l}, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<62), zstd.WithDecoderMaxWindow(zstdMemory))
		if err != nil {
			return nil, nil, packed(name, err)
		}
		return &guarded{name: name, r: z, in: in, l: l}, z.Close, nil
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return nil, nil, schemas.Errorf(schemas.CodeUnsupported, name, "zip archives are not read").WithHint("unpack it, or use gzip or zstd")
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\xfd7zX")):
		return nil, nil, schemas.Errorf(schemas.CodeUnsupported, name, "only gzip and zstd are unpacked")
	}
	switch path.Ext(strings.ToLower(name)) {
	case ".gz", ".zst":
		if len(head) > 0 {
			return nil, nil, schemas.Errorf(schemas.CodeData, name, "is named as a compressed file but is none")
		}
	}
	return &guarded{name: name, r: in, in: in, l: l}, func() {}, nil
}

// packed names what is wrong with a compressed file.
func packed(name string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return schemas.Errorf(schemas.CodeData, name, "the compressed file is cut off").WithHint("copy it again and compare its size")
	}
	return schemas.Errorf(schemas.CodeData, name, "cannot unpack: %v", err)
}

type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// guarded stops a stream that grows beyond the limits, and names errors of the decompressor.
type guarded struct {
	name string
	r    io.Reader
	in   *counter
	out  int64
	l    Limits
}

// Read implements io.Reader.
func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	g.out += int64(n)
	if g.out > g.l.Bytes {
		return 0, schemas.Errorf(schemas.CodeData, g.name, "holds more than %d bytes", g.l.Bytes)
	}
	if g.out > freeBytes && g.out > g.l.Ratio*g.in.n {
		return 0, schemas.Errorf(schemas.CodeData, g.name, "unpacks to more than %d times its size: this looks like an archive made to exhaust memory", g.l.Ratio)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		var info *schemas.ErrorInfo
		if !errors.As(err, &info) {
			return n, packed(g.name, err)
		}
	}
	return n, err
}
