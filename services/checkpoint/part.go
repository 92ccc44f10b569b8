package checkpoint

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// PartKey is the key of a rank's part within a checkpoint; index numbers the parts of one rank.
func PartKey(tenant, run string, step int64, generation uint64, rank, index int) string {
	return fmt.Sprintf("%srank-%05d-%03d.bin", schemas.CheckpointPrefix(tenant, run, step, generation), rank, index)
}

// PartWriter writes one part: flat fp32 ranges (little endian) to a scratch file while hashing, then to the store. It is a snapshot:
// once Add has returned, the caller may change its memory.
type PartWriter struct {
	file *os.File
	buf  *bufio.Writer
	sum  hash.Hash
	blks blockHash
	part schemas.Part
	raw  []byte
	done bool
}

// NewPartWriter starts a part in a scratch file in dir.
func NewPartWriter(dir, key string, rank int) (*PartWriter, error) {
	f, err := os.CreateTemp(dir, "part-*.bin")
	if err != nil {
		return nil, fmt.Errorf("cannot create scratch file for part %s: %w", key, err)
	}
	w := &PartWriter{file: f, sum: sha256.New(), part: schemas.Part{Key: key, Rank: rank}, raw: make([]byte, 64<<10)}
	w.buf = bufio.NewWriterSize(io.MultiWriter(f, w.sum, &w.blks), 256<<10)
	return w, nil
}

// Add appends elements [from, from+len(data)) of a flat tensor; shape is the tensor's full shape. Empty ranges are left out.
func (w *PartWriter) Add(tensor string, shape []int64, from int64, data []float32) error {
	if w.done {
		return fmt.Errorf("cannot add %s to part %s: it is finished", tensor, w.part.Key)
	}
	if len(data) == 0 {
		return nil
	}
	r := schemas.Range{Tensor: tensor, From: from, To: from + int64(len(data)), Offset: w.part.Bytes, Shape: append([]int64(nil), shape...)}
	if n := elements(shape); len(shape) > 0 && (from < 0 || r.To > n) {
		return fmt.Errorf("cannot add %s to part %s: range [%d, %d) is outside of its %d elements", tensor, w.part.Key, r.From, r.To, n)
	}
	for len(data) > 0 {
		n := min(len(data), len(w.raw)/4)
		for i, v := range data[:n] {
			binary.LittleEndian.PutUint32(w.raw[4*i:], math.Float32bits(v))
		}
		if _, err := w.buf.Write(w.raw[:4*n]); err != nil {
			return fmt.Errorf("cannot write scratch file of part %s: %w", w.part.Key, err)
		}
		data = data[n:]
	}
	w.part.Ranges = append(w.part.Ranges, r)
	w.part.Bytes += 4 * (r.To - r.From)
	return nil
}

// Upload stores the part and returns its description for the manifest. A store that does not answer is tried again until ctx ends.
func (w *PartWriter) Upload(ctx context.Context, objects store.Objects) (schemas.Part, error) {
	if !w.done {
		if err := w.buf.Flush(); err != nil {
			return schemas.Part{}, fmt.Errorf("cannot write scratch file of part %s: %w", w.part.Key, err)
		}
		w.part.SHA256 = hex.EncodeToString(w.sum.Sum(nil))
		if w.part.Bytes > schemas.BlockBytes {
			w.part.Blocks = w.blks.sums()
		}
		w.done = true
	}
	err := uploadRetry(ctx, objects, w.part.Key, w.part.Bytes, func() io.Reader { return io.NewSectionReader(w.file, 0, w.part.Bytes) })
	return w.part, err
}

// blockHash hashes what is written in blocks of schemas.BlockBytes.
type blockHash struct {
	sum  hash.Hash
	n    int // bytes in the running block
	done []string
}

func (b *blockHash) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if b.sum == nil {
			b.sum = sha256.New()
		}
		n := min(len(p), schemas.BlockBytes-b.n)
		b.sum.Write(p[:n])
		if b.n += n; b.n == schemas.BlockBytes {
			b.finish()
		}
		p = p[n:]
	}
	return total, nil
}

func (b *blockHash) finish() {
	b.done = append(b.done, hex.EncodeToString(b.sum.Sum(nil)))
	b.sum.Reset()
	b.n = 0
}

// sums are the hashes of all blocks; nothing is written afterwards.
func (b *blockHash) sums() []string {
	if b.n > 0 {
		b.finish()
	}
	return b.done
}

// Close removes the scratch file.
func (w *PartWriter) Close() error {
	return errors.Join(w.file.Close(), os.Remove(w.file.Name()))
}

// UploadBytes stores a small part (a segment's log, for instance) whole and returns its description.
func UploadBytes(ctx context.Context, objects store.Objects, key string, data []byte) (schemas.Part, error) {
	sum := sha256.Sum256(data)
	err := uploadRetry(ctx, objects, key, int64(len(data)), func() io.Reader { return bytes.NewReader(data) })
	return schemas.Part{Key: key, Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}, err
}

func uploadRetry(ctx context.Context, objects store.Objects, key string, size int64, open func() io.Reader) error {
	r := NewHeads(objects, Config{Budget: math.MaxInt64}).newRetry()
	for {
		err := objects.Upload(ctx, key, open(), size)
		if err == nil {
			return nil
		}
		if !retryable(err) {
			return fmt.Errorf("cannot store part %s: %w", key, err)
		}
		if err := r.wait(ctx, err); err != nil {
			return fmt.Errorf("cannot store part %s: %w", key, err)
		}
	}
}

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}
