package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// Tensor describes one flat tensor of a checkpoint.
type Tensor struct {
	Name string
	// Shape is the full shape; empty when the writer gave none.
	Shape []int64
	// Elements is the number of elements.
	Elements int64
}

// Reader reads a checkpoint by ranges, whatever world wrote it. What it needs of a part is fetched in blocks, verified against their
// SHA-256 and kept in a scratch folder; parts without blocks are fetched whole. It is safe for concurrent use.
type Reader struct {
	objects  store.Objects
	ref      schemas.ManifestRef
	manifest *schemas.Manifest
	dir      string
	index    map[string][]piece

	mu    sync.Mutex
	files map[int]*fetched
	// lanes are where else parts may be, stored is the store.
	lanes  []*lane
	stored lane
}

// piece is one range of a tensor in a part.
type piece struct {
	schemas.Range
	part int
}

// fetched is one part on local scratch: whole and verified, or with the blocks in have.
type fetched struct {
	once sync.Mutex
	file *os.File
	have []bool
}

// Open reads and verifies the manifest that ref points at. dir is a scratch folder for verified parts; Close removes what was put there.
// A *CorruptError (CodeVerify) when manifest or parts are missing or wrong: end the generation with it and HEAD walks back.
func Open(ctx context.Context, objects store.Objects, ref schemas.ManifestRef, dir string) (*Reader, error) {
	m, err := ReadManifest(ctx, objects, ref)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(dir, "ckpt-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create scratch folder for checkpoint %s: %w", ref.Key, err)
	}
	r := &Reader{objects: objects, ref: ref, manifest: m, dir: scratch, index: map[string][]piece{}, files: map[int]*fetched{}}
	for i, p := range m.Parts {
		for _, rg := range p.Ranges {
			r.index[rg.Tensor] = append(r.index[rg.Tensor], piece{Range: rg, part: i})
		}
	}
	for name, ps := range r.index {
		sort.Slice(ps, func(a, b int) bool { return ps[a].From < ps[b].From })
		at := int64(0)
		for _, p := range ps {
			if p.From != at {
				return nil, errors.Join(&CorruptError{Manifest: ref, Key: ref.Key, Reason: fmt.Sprintf("the parts hold elements of %s up to %d and then from %d", name, at, p.From)}, os.RemoveAll(scratch))
			}
			at = p.To
		}
		if len(ps[0].Shape) > 0 && elements(ps[0].Shape) != at {
			return nil, errors.Join(&CorruptError{Manifest: ref, Key: ref.Key, Reason: fmt.Sprintf("the parts hold %d of the %d elements of %s", at, elements(ps[0].Shape), name)}, os.RemoveAll(scratch))
		}
	}
	return r, nil
}

// OpenNewest opens ref or, when it or one of its parts is corrupt, its newest ancestor that verifies, and says which were passed over.
// It is for readers outside of a gang (eval, export, chat); ranks of a gang use Open and let HEAD walk back for all of them.
func OpenNewest(ctx context.Context, objects store.Objects, ref schemas.ManifestRef, dir string) (r *Reader, skipped []*CorruptError, err error) {
	next := &ref
	for next != nil {
		var parent *schemas.ManifestRef
		r, err := Open(ctx, objects, *next, dir)
		if err == nil {
			if err = r.Verify(ctx); err == nil {
				return r, skipped, nil
			}
			parent = r.manifest.Parent
			err = errors.Join(err, r.Close())
		}
		var bad *CorruptError
		if !errors.As(err, &bad) {
			return nil, skipped, err
		}
		skipped = append(skipped, bad)
		next = parent
	}
	return nil, skipped, fmt.Errorf("cannot open a checkpoint: no ancestor verifies: %w", skipped[len(skipped)-1])
}

// Manifest returns the manifest.
func (r *Reader) Manifest() *schemas.Manifest { return r.manifest }

// Tensors lists the tensors by name.
func (r *Reader) Tensors() []Tensor {
	out := make([]Tensor, 0, len(r.index))
	for _, name := range slices.Sorted(maps.Keys(r.index)) {
		ps := r.index[name]
		out = append(out, Tensor{Name: name, Shape: ps[0].Shape, Elements: ps[len(ps)-1].To})
	}
	return out
}

// Has reports whether the checkpoint holds the tensor.
func (r *Reader) Has(tensor string) bool { return len(r.index[tensor]) > 0 }

// ReadAt fills dst with elements [from, from+len(dst)) of the flat tensor. CodeNotFound for a tensor or range that is not there.
func (r *Reader) ReadAt(ctx context.Context, tensor string, from int64, dst []float32) error {
	to := from + int64(len(dst))
	ps := r.index[tensor]
	if len(ps) == 0 || from < 0 || to > ps[len(ps)-1].To {
		return schemas.Errorf(schemas.CodeNotFound, r.ref.Key, "the checkpoint does not hold elements [%d, %d) of %s", from, to, tensor)
	}
	i := sort.Search(len(ps), func(i int) bool { return ps[i].To > from })
	var raw []byte
	for ; len(dst) > 0; i++ {
		p := ps[i]
		n := min(int64(len(dst)), p.To-from)
		at := p.Offset + 4*(from-p.From)
		f, err := r.part(ctx, p.part, at, at+4*n)
		if err != nil {
			return err
		}
		if int64(len(raw)) < 4*n {
			raw = make([]byte, 4*n)
		}
		if _, err := f.ReadAt(raw[:4*n], at); err != nil {
			return fmt.Errorf("cannot read verified part %s: %w", r.manifest.Parts[p.part].Key, err)
		}
		for k := range n {
			dst[k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*k:]))
		}
		dst = dst[n:]
		from += n
	}
	return nil
}

// Verify fetches and checks every part.
func (r *Reader) Verify(ctx context.Context) error {
	for i, p := range r.manifest.Parts {
		if _, err := r.part(ctx, i, 0, p.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// Fetched is the number of bytes read from the store so far, without the manifest.
func (r *Reader) Fetched() int64 { return r.From()[FromStore] }

// StateHash is the SHA-256 over name, element count and content (fp32, little endian) of the tensors that keep accepts (nil: all), in
// the order of their names: equal for equal states whatever the world size that wrote them.
func (r *Reader) StateHash(ctx context.Context, keep func(tensor string) bool) (string, error) {
	sum := sha256.New()
	buf := make([]float32, 64<<10)
	raw := make([]byte, 4*len(buf))
	for _, t := range r.Tensors() {
		if keep != nil && !keep(t.Name) {
			continue
		}
		fmt.Fprintf(sum, "%s\x00%d\x00", t.Name, t.Elements)
		for at := int64(0); at < t.Elements; {
			n := min(int64(len(buf)), t.Elements-at)
			if err := r.ReadAt(ctx, t.Name, at, buf[:n]); err != nil {
				return "", err
			}
			for i, v := range buf[:n] {
				binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
			}
			sum.Write(raw[:4*n])
			at += n
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Close removes the scratch folder.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, f := range r.files {
		if f.file != nil {
			errs = append(errs, f.file.Close())
		}
	}
	r.files = map[int]*fetched{}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// part returns the local copy of a part, in which bytes [from, to) are there and verified.
func (r *Reader) part(ctx context.Context, i int, from, to int64) (*os.File, error) {
	r.mu.Lock()
	f := r.files[i]
	if f == nil {
		f = &fetched{}
		r.files[i] = f
	}
	r.mu.Unlock()
	f.once.Lock()
	defer f.once.Unlock()
	blocks := len(r.manifest.Parts[i].Blocks) > 0
	if f.file != nil && !blocks {
		return f.file, nil
	}
	retry := NewHeads(r.objects, Config{}).newRetry()
	for second := false; ; {
		l := r.choose(r.manifest.Parts[i])
		var err error
		if blocks {
			err = r.fetchBlocks(ctx, i, f, from, to, &l)
		} else {
			f.file, err = r.fetch(ctx, i, l)
		}
		if err == nil {
			return f.file, nil
		}
		if ctx.Err() == nil && !schemas.IsCode(err, schemas.CodeDiskFull) && r.pass(l) {
			continue // another source may have what this one lost or spoiled; the store has the last word
		}
		// Bytes may be damaged on their way: only what is wrong twice is corrupt.
		if bad := (*CorruptError)(nil); errors.As(err, &bad) && !second {
			second = true
			continue
		}
		if !retryable(err) {
			return nil, err
		}
		if err := retry.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

// fetch brings a whole part to scratch.
func (r *Reader) fetch(ctx context.Context, i int, l *lane) (_ *os.File, err error) {
	p, began := r.manifest.Parts[i], time.Now()
	body, err := r.open(ctx, l, p, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	file, err := os.Create(r.scratch(i))
	if err != nil {
		return nil, fmt.Errorf("cannot create scratch file for part %s: %w", p.Key, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(body, p.Bytes+1))
	r.count(l, n, time.Since(began))
	if errors.Is(err, syscall.ENOSPC) {
		return nil, schemas.Errorf(schemas.CodeDiskFull, r.dir, "cannot fetch part %s: no space left on the scratch disk", p.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read part %s: %w: %w", p.Key, store.ErrUnavailable, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); (n != p.Bytes || got != p.SHA256) && !plantedbug.Is(plantedbug.UnverifiedParts) {
		return nil, &CorruptError{Manifest: r.ref, Key: p.Key, Reason: fmt.Sprintf("%d bytes with SHA-256 %s, the manifest says %d bytes with %s", n, got, p.Bytes, p.SHA256)}
	}
	return file, nil
}

func (r *Reader) scratch(part int) string {
	return filepath.Join(r.dir, fmt.Sprintf("part-%05d.bin", part))
}

// fetchBlocks brings the blocks of a part that hold bytes [from, to) to scratch: what is missing in a row by one request, or by several where
// there is a choice of sources. l is the source to begin with, and afterwards the one that was asked last.
func (r *Reader) fetchBlocks(ctx context.Context, i int, f *fetched, from, to int64, l **lane) error {
	p := r.manifest.Parts[i]
	if f.file == nil {
		file, err := os.Create(r.scratch(i))
		if err != nil {
			return fmt.Errorf("cannot create scratch file for part %s: %w", p.Key, err)
		}
		f.file, f.have = file, make([]bool, len(p.Blocks))
	}
	last := (min(to, p.Bytes) + schemas.BlockBytes - 1) / schemas.BlockBytes
	for b := from / schemas.BlockBytes; b < last; b++ {
		if f.have[b] {
			continue
		}
		end := b + 1
		for end < last && !f.have[end] && (len(r.lanes) == 0 || end-b < rowBlocks) {
			end++
		}
		if err := r.fetchRow(ctx, *l, p, f, b, end); err != nil {
			return err
		}
		b = end - 1
		*l = r.choose(p)
	}
	return nil
}

// fetchRow fetches blocks [first, end) by a lane, each verified before it is kept.
func (r *Reader) fetchRow(ctx context.Context, l *lane, p schemas.Part, f *fetched, first, end int64) (err error) {
	began := time.Now()
	body, err := r.open(ctx, l, p, first*schemas.BlockBytes, min(end*schemas.BlockBytes, p.Bytes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	buf := make([]byte, schemas.BlockBytes)
	for b := first; b < end; b++ {
		raw := buf[:min(schemas.BlockBytes, p.Bytes-b*schemas.BlockBytes)]
		n, err := io.ReadFull(body, raw)
		r.count(l, int64(n), time.Since(began))
		began = time.Now()
		if l.src == nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			if info, serr := r.objects.Stat(ctx, p.Key); serr == nil && info.Bytes != p.Bytes {
				return &CorruptError{Manifest: r.ref, Key: p.Key, Reason: fmt.Sprintf("it has %d bytes, the manifest says %d", info.Bytes, p.Bytes)}
			}
		}
		if err != nil {
			return fmt.Errorf("cannot read part %s: %w: %w", p.Key, store.ErrUnavailable, err)
		}
		sum := sha256.Sum256(raw)
		if got := hex.EncodeToString(sum[:]); got != p.Blocks[b] && !plantedbug.Is(plantedbug.UnverifiedParts) {
			return &CorruptError{Manifest: r.ref, Key: p.Key, Reason: fmt.Sprintf("block %d has SHA-256 %s, the manifest says %s", b, got, p.Blocks[b])}
		}
		if _, err := f.file.WriteAt(raw, b*schemas.BlockBytes); errors.Is(err, syscall.ENOSPC) {
			return schemas.Errorf(schemas.CodeDiskFull, r.dir, "cannot fetch part %s: no space left on the scratch disk", p.Key)
		} else if err != nil {
			return fmt.Errorf("cannot keep part %s: %w", p.Key, err)
		}
		f.have[b] = true
	}
	return nil
}
