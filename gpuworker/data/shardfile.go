package data

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tunefleet/tunefleet/schemas"
)

// ShardFile writes a shard of any size in constant memory: each column is a scratch file until the shard is read.
type ShardFile struct {
	columns           [columnCount]*column
	group             int
	tagged, open      bool
	sequences, tokens int64
	docs              int64
	buf               []byte
	head              []byte
	columnBytes       int64
}

// The columns in the order of the format.
const (
	columnOffsets = iota
	columnDocOffsets
	columnCounts
	columnTags
	columnDocs
	columnIDs
	columnLabels
	columnCount
)

type column struct {
	f *os.File
	w *bufio.Writer
}

// NewShardFile makes an empty shard whose scratch files are in dir. group and tagged are as for NewGroupWriter. The caller closes it.
func NewShardFile(dir string, group int, tagged bool) (*ShardFile, error) {
	w := &ShardFile{group: group, tagged: tagged}
	for i := range w.columns {
		f, err := os.CreateTemp(dir, "column-*")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot create a scratch file: %w", err), w.Close())
		}
		w.columns[i] = &column{f, bufio.NewWriterSize(f, 128<<10)}
	}
	if err := errors.Join(w.longs(columnOffsets, 0), w.longs(columnDocOffsets, 0)); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Len is the number of sequences added.
func (w *ShardFile) Len() int { return int(w.sequences) }

// Tokens is the number of tokens added.
func (w *ShardFile) Tokens() int64 { return w.tokens }

func (w *ShardFile) write(column int) error {
	if _, err := w.columns[column].w.Write(w.buf); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return nil
}

func (w *ShardFile) longs(column int, v int64) error {
	w.buf = binary.LittleEndian.AppendUint64(w.buf[:0], uint64(v))
	return w.write(column)
}

func (w *ShardFile) ints(column int, v ...int32) error {
	w.buf = w.buf[:0]
	for _, x := range v {
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(x))
	}
	return w.write(column)
}

// Add appends a sequence.
func (w *ShardFile) Add(s Sequence) error {
	if len(s.IDs) == 0 || len(s.IDs) != len(s.Labels) {
		return fmt.Errorf("cannot add a sequence of %d ids and %d labels", len(s.IDs), len(s.Labels))
	}
	if err := checkDocs(s.Docs, len(s.IDs)); err != nil {
		return fmt.Errorf("cannot add a sequence: %w", err)
	}
	if w.sequences > 0 && w.open != s.Open {
		return fmt.Errorf("cannot add a sequence: documents see each other in all sequences of a shard or in none")
	}
	if w.sequences >= maxShardSequences || w.tokens+int64(len(s.IDs)) > maxShardTokens {
		return schemas.Errorf(schemas.CodeData, "", "a part has more than %d sequences or %d tokens", maxShardSequences, int64(maxShardTokens)).WithHint("prepare it in more parts")
	}
	w.open = s.Open
	w.sequences++
	w.tokens += int64(len(s.IDs))
	w.docs += int64(len(s.Docs))
	errs := []error{w.longs(columnOffsets, w.tokens), w.longs(columnDocOffsets, w.docs), w.ints(columnCounts, int32(s.Trained())), w.ints(columnDocs, s.Docs...),
		w.ints(columnIDs, s.IDs...), w.ints(columnLabels, s.Labels...)}
	if w.tagged {
		errs = append(errs, w.ints(columnTags, s.Tag))
	}
	return errors.Join(errs...)
}

// Finish ends the shard and returns its size and SHA-256, as an object.
func (w *ShardFile) Finish() (size int64, sum string, err error) {
	if w.group > 1 && w.sequences%int64(w.group) != 0 {
		return 0, "", fmt.Errorf("cannot write a shard: %d sequences are not groups of %d", w.sequences, w.group)
	}
	for _, c := range w.columns {
		if err := c.w.Flush(); err != nil {
			return 0, "", fmt.Errorf("cannot write a scratch file: %w", err)
		}
	}
	h := sha256.New()
	if w.columnBytes, err = io.Copy(h, io.NewSectionReader(w.body(), 0, 1<<62)); err != nil {
		return 0, "", fmt.Errorf("cannot read a scratch file: %w", err)
	}
	group := 0
	if w.group > 1 {
		group = w.group
	}
	head, err := json.Marshal(shardHeader{Version: 1, Sequences: w.sequences, Tokens: w.tokens, Docs: w.docs, Group: group, Tags: w.tagged, Open: w.open,
		SHA256: hex.EncodeToString(h.Sum(nil))})
	if err != nil {
		return 0, "", fmt.Errorf("cannot write a shard: %w", err)
	}
	for (len(shardMagic)+4+len(head))%8 != 0 {
		head = append(head, ' ')
	}
	w.head = binary.LittleEndian.AppendUint32([]byte(shardMagic), uint32(len(head)))
	w.head = append(w.head, head...)
	whole := sha256.New()
	if _, err := io.Copy(whole, w.Reader()); err != nil {
		return 0, "", fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return int64(len(w.head)) + w.columnBytes, hex.EncodeToString(whole.Sum(nil)), nil
}

// joined reads files one after the other.
type joined []io.ReaderAt

// ReadAt implements io.ReaderAt; each file is read to its end before the next one.
func (j joined) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for _, r := range j {
		size := int64(0)
		switch x := r.(type) {
		case *io.SectionReader:
			size = x.Size()
		case *bytes.Reader:
			size = x.Size()
		}
		if off >= size {
			off -= size
			continue
		}
		n, err := r.ReadAt(p[done:min(len(p), done+int(size-off))], off)
		if done += n; err != nil && !errors.Is(err, io.EOF) {
			return done, err
		}
		if off = 0; done == len(p) {
			return done, nil
		}
	}
	return done, io.EOF
}

// body reads the columns one after the other.
func (w *ShardFile) body() joined {
	per := [columnCount]int64{8 * (w.sequences + 1), 8 * (w.sequences + 1), 4 * w.sequences, 0, 4 * w.docs, 4 * w.tokens, 4 * w.tokens}
	if w.tagged {
		per[columnTags] = 4 * w.sequences
	}
	var all joined
	for i, c := range w.columns {
		all = append(all, io.NewSectionReader(c.f, 0, per[i]))
	}
	return all
}

// Reader reads the finished shard from its beginning; it may be called again.
func (w *ShardFile) Reader() *io.SectionReader {
	return io.NewSectionReader(append(joined{bytes.NewReader(w.head)}, w.body()...), 0, int64(len(w.head))+w.columnBytes)
}

// Close removes the scratch files.
func (w *ShardFile) Close() error {
	var errs []error
	for _, c := range w.columns {
		if c != nil {
			errs = append(errs, c.f.Close(), os.Remove(c.f.Name()))
		}
	}
	return errors.Join(errs...)
}
