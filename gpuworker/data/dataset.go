package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Names of the objects of an output within a part's result: "<output>/shard" and "<output>/rows".
const (
	ObjectShard = "shard"
	ObjectRows  = "rows"
)

const (
	maxResultBytes = 16 << 20
	maxObjectBytes = 16 << 30
)

// Dataset is the token data of one output of a prep stage, all parts in order. Shards lie in files of a scratch folder; the index is in
// memory. It is safe for concurrent reads.
type Dataset struct {
	objects store.Objects
	dir     string
	files   []*os.File
	shards  []*Shard
	starts  []int
	passes  []int
	print   string
}

// OpenDataset downloads the shards of "<prep stage>/<output>" of a run to a new folder below dir and opens them. Every shard is checked
// against the SHA-256 of its part's result. The prep stage must have succeeded.
func OpenDataset(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, ref, dir string) (d *Dataset, err error) {
	stage, output, prep, err := FindOutput(spec, ref)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(dir, "tokens-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	d = &Dataset{objects: objects, dir: scratch, starts: []int{0}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
			d = nil
		}
	}()
	sum := sha256.New()
	for part := range prep.Parts {
		r, err := readResult(ctx, objects, schemas.ResultKey(spec.Tenant, spec.ID, stage, part))
		if err != nil {
			return d, fmt.Errorf("cannot open data %s: %w", ref, err)
		}
		for n, ok := int64(0), true; ok && prep.Parts == 1; {
			if n, ok = r.Counters[output+"."+PassCounter(len(d.passes))]; ok {
				d.passes = append(d.passes, int(n))
			}
		}
		found := false
		for _, o := range r.Objects {
			if o.Name == output+"/"+ObjectShard {
				if err := d.add(ctx, o); err != nil {
					return d, fmt.Errorf("cannot open data %s: %w", ref, err)
				}
				fmt.Fprintln(sum, o.SHA256)
				found = true
			}
		}
		if !found {
			return d, schemas.Errorf(schemas.CodeData, ref, "part %d of stage %s stored no shard of %q", part, stage, output)
		}
	}
	d.print = hex.EncodeToString(sum.Sum(nil))
	return d, nil
}

// FindOutput finds the prep stage and the output that "<prep stage>/<output>" names.
func FindOutput(spec *schemas.RunSpec, ref string) (stage, output string, prep *schemas.PrepStage, err error) {
	stage, output, _ = strings.Cut(ref, "/")
	for i := range spec.Stages {
		if s := &spec.Stages[i]; s.Name == stage && s.Prep != nil {
			for _, o := range s.Prep.Outputs {
				if o.Name == output {
					return stage, output, s.Prep, nil
				}
			}
		}
	}
	return "", "", nil, schemas.Errorf(schemas.CodeInvalid, ref, "there is no such output of a prep stage")
}

// Output returns the settings of an output by name, nil when there is none.
func Output(prep *schemas.PrepStage, name string) *schemas.PrepOutput {
	for i := range prep.Outputs {
		if prep.Outputs[i].Name == name {
			return &prep.Outputs[i]
		}
	}
	return nil
}

func readResult(ctx context.Context, objects store.Objects, key string) (*schemas.StageResult, error) {
	raw, _, err := objects.Get(ctx, key, maxResultBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, key, "the part has no result yet")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", key, err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, key, "is no result: %v", err)
	}
	return &r, nil
}

// add downloads one shard.
func (d *Dataset) add(ctx context.Context, o schemas.Object) error {
	f, err := os.CreateTemp(d.dir, "shard-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch file: %w", err)
	}
	d.files = append(d.files, f)
	err = Download(ctx, d.objects, o, f)
	if schemas.IsCode(err, schemas.CodeVerify) {
		// What was flipped on its way here is not flipped again; what is wrong in the store is.
		if err = rewind(f); err == nil {
			err = Download(ctx, d.objects, o, f)
		}
		if info := schemas.AsErrorInfo(err); schemas.IsCode(err, schemas.CodeVerify) {
			return info.WithHint("it was read twice; %s", d.forget(ctx, o))
		}
	}
	if err != nil {
		return err
	}
	s, err := OpenShard(f, o.Bytes, o.Key)
	if err != nil {
		return err
	}
	for _, other := range d.shards {
		if s.Len() > 0 && other.Len() > 0 && s.Group() != other.Group() {
			return schemas.Errorf(schemas.CodeData, o.Key, "has groups of %d sequences, an earlier shard groups of %d", s.Group(), other.Group())
		}
	}
	d.shards = append(d.shards, s)
	d.starts = append(d.starts, d.starts[len(d.starts)-1]+s.Len())
	return nil
}

// forget takes a damaged shard out of the cache of prepared data and says what to do.
func (d *Dataset) forget(ctx context.Context, o schemas.Object) string {
	if !strings.HasPrefix(o.Key, "cache/") {
		return "prepare the data again"
	}
	if err := d.objects.Delete(ctx, path.Dir(o.Key)+"/entry.json"); err != nil {
		return "delete " + path.Dir(o.Key) + "/ in the store and submit the run again"
	}
	return "it is out of the cache now: submit the run again, and its data are prepared anew"
}

// rewind empties a file, so that it is written from the start again.
func rewind(f *os.File) error {
	err := f.Truncate(0)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("cannot empty a scratch file: %w", err)
	}
	return nil
}

// Download copies an object to w and compares its length and SHA-256.
func Download(ctx context.Context, objects store.Objects, o schemas.Object, w io.Writer) error {
	if o.Bytes < 0 || o.Bytes > maxObjectBytes {
		return schemas.Errorf(schemas.CodeData, o.Key, "has %d bytes, the limit is %d", o.Bytes, int64(maxObjectBytes))
	}
	body, err := objects.Open(ctx, o.Key, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return schemas.Errorf(schemas.CodeNotFound, o.Key, "the object is gone")
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", o.Key, err)
	}
	defer body.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(body, o.Bytes+1))
	if errors.Is(err, syscall.ENOSPC) {
		return schemas.Errorf(schemas.CodeDiskFull, o.Key, "no space left on the scratch disk")
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", o.Key, err)
	}
	if n != o.Bytes || hex.EncodeToString(sum.Sum(nil)) != o.SHA256 {
		return schemas.Errorf(schemas.CodeVerify, o.Key, "does not have the %d bytes with SHA-256 %s that its result names", o.Bytes, o.SHA256)
	}
	return nil
}

// Len is the number of sequences.
func (d *Dataset) Len() int { return d.starts[len(d.starts)-1] }

// Group is the number of consecutive sequences that belong together (pairwise and kto: 2), at least 1.
func (d *Dataset) Group() int {
	g := 1
	for _, s := range d.shards {
		g = max(g, s.Group())
	}
	return g
}

// find is the shard of sequence i and its place there.
func (d *Dataset) find(i int) (*Shard, int) {
	k := sort.SearchInts(d.starts, i+1) - 1
	return d.shards[k], i - d.starts[k]
}

// LabelTokens counts the labels of a sequence that are not ignored, position 0 included. i must be in [0, Len).
func (d *Dataset) LabelTokens(i int) int64 {
	s, j := d.find(i)
	return s.LabelTokens(j)
}

// Length is the number of tokens of a sequence. i must be in [0, Len).
func (d *Dataset) Length(i int) int {
	s, j := d.find(i)
	return s.Length(j)
}

// Tokens is the number of tokens of all sequences.
func (d *Dataset) Tokens() int64 {
	n := int64(0)
	for _, s := range d.shards {
		n += s.Tokens()
	}
	return n
}

// Sequence reads one sequence.
func (d *Dataset) Sequence(ctx context.Context, i int) (Sequence, error) {
	if err := ctx.Err(); err != nil {
		return Sequence{}, err
	}
	if i < 0 || i >= d.Len() {
		return Sequence{}, fmt.Errorf("cannot read sequence %d of %d", i, d.Len())
	}
	s, j := d.find(i)
	return s.Sequence(j)
}

// Fingerprint identifies the content: a SHA-256 over those of the shards in order.
func (d *Dataset) Fingerprint() string { return d.print }

// PassCounter names the counter of the samples of a pass over a stream, where several were prepared.
func PassCounter(pass int) string { return fmt.Sprintf("pass_%d", pass) }

// Passes are the numbers of samples of the passes over a stream, which lie one behind the other; nil: there is one.
func (d *Dataset) Passes() []int { return d.passes }

// Close removes the scratch files.
func (d *Dataset) Close() error {
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}
