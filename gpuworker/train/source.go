package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxConfigBytes bounds config.json.
const maxConfigBytes = 1 << 20

// peftPrefix stands before a module's path in the names of adapter parameters.
const peftPrefix = "base_model.model."

// source gives the values of a recipe's parameters by ranges.
type source struct {
	recipe *Recipe
	root   *os.Root
	set    *safetensors.Set
	layers []*checkpoint.Reader
	// pairs caches the adapter matrices that merged ranges need, by layer and module.
	pairs map[string]*pair
	host  []float32
}

// pair is one module's LoRA update, rank by in and out by rank.
type pair struct {
	a, b     []float32
	in, rank int64
	scale    float64
}

// openSource fetches the base's files and opens the checkpoints below dir. It fills the recipe's Config.
func openSource(ctx context.Context, objects store.Objects, r *Recipe, dir string, progress func(done, total int64)) (s *source, err error) {
	s = &source{recipe: r, pairs: map[string]*pair{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if r.Base != nil {
		if s.root, err = fetchFiles(ctx, objects, r.Tenant, r.Base.Files, dir, progress); err != nil {
			return s, fmt.Errorf("cannot fetch the base model: %w", err)
		}
		f, err := s.root.Open("config.json")
		if err != nil {
			return s, schemas.Errorf(schemas.CodeModel, "config.json", "the base model's folder has none: %v", err)
		}
		raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
		if err = errors.Join(err, f.Close()); err != nil || len(raw) > maxConfigBytes {
			return s, schemas.Errorf(schemas.CodeModel, "config.json", "cannot read the base model's configuration (at most %d bytes): %v", maxConfigBytes, err)
		}
		r.Config = raw
		if s.set, err = safetensors.OpenModel(s.root); err != nil {
			return s, fmt.Errorf("cannot open the base model's weights: %w", err)
		}
	}
	for _, l := range r.Layers {
		c, err := checkpoint.Open(ctx, objects, l.Manifest, dir)
		if err != nil {
			return s, fmt.Errorf("cannot open the weights of stage %s: %w", l.Stage.Name, err)
		}
		s.layers = append(s.layers, c)
	}
	return s, nil
}

// Close frees files and scratch space.
func (s *source) Close() error {
	var errs []error
	for _, l := range s.layers {
		errs = append(errs, l.Close())
	}
	if s.set != nil {
		errs = append(errs, s.set.Close())
	}
	if s.root != nil {
		name := s.root.Name()
		errs = append(errs, s.root.Close(), os.RemoveAll(name))
	}
	return errors.Join(errs...)
}

// check compares the model's parameters with the base's tensors, both ways.
func (s *source) check(params []*nn.Param, tied bool) error {
	if s.set == nil {
		return nil
	}
	allow := func(key string) bool { return zoo.Unused(key) || tied && key == "lm_head.weight" }
	if err := nn.Check(params, s.set, allow); err != nil {
		return fmt.Errorf("the base model's weights do not fit its configuration: %w", err)
	}
	return nil
}

// fill writes elements [start, start+dst.Numel()) of a parameter, after the first upto layers, to dst on the device.
func (s *source) fill(ctx context.Context, q *kernels.Queue, p *nn.Param, start int64, dst kernels.Tensor, upto int) error {
	if !s.inBase(p) && !s.changed(p.Name, upto) {
		nn.InitRange(q, p, dst, start, s.recipe.Seed)
		return q.Err()
	}
	n := dst.Numel()
	if int64(cap(s.host)) < n {
		s.host = make([]float32, n)
	}
	host := s.host[:n]
	if err := s.read(ctx, q, p, start, dst, host, upto); err != nil {
		return err
	}
	return kernels.Upload(q, dst, host)
}

// inBase reports whether the base's files hold the parameter: those of adapters they do not.
func (s *source) inBase(p *nn.Param) bool {
	return s.set != nil && !strings.HasPrefix(p.Name, peftPrefix)
}

// changed reports whether any of the first upto layers touches a parameter.
func (s *source) changed(name string, upto int) bool {
	for i := range upto {
		if s.layers[i].Has(zero.ParamPrefix+name) || s.layers[i].Has(loraName(name, "A")) {
			return true
		}
	}
	return false
}

// loraName is the checkpoint's name of the adapter matrix of a module's weight.
func loraName(weight, ab string) string {
	return zero.ParamPrefix + peftPrefix + strings.TrimSuffix(weight, ".weight") + ".lora_" + ab + ".weight"
}

// read fills host: the newest layer that stores the parameter, or the base, and then the updates of the adapters trained after that.
// dst is scratch of the same size on the device.
func (s *source) read(ctx context.Context, q *kernels.Queue, p *nn.Param, start int64, dst kernels.Tensor, host []float32, upto int) error {
	from := upto - 1
	for from >= 0 && !s.layers[from].Has(zero.ParamPrefix+p.Name) {
		from--
	}
	switch {
	case from >= 0:
		if err := s.layers[from].ReadAt(ctx, zero.ParamPrefix+p.Name, start, host); err != nil {
			return err
		}
	case s.inBase(p):
		if err := s.set.ReadFloat32(p.Name, start, host); err != nil {
			return err
		}
	default:
		nn.InitRange(q, p, dst, start, s.recipe.Seed)
		if err := kernels.Download(q, host, dst); err != nil {
			return err
		}
	}
	for i := from + 1; i < upto; i++ {
		if err := s.merge(ctx, i, p, start, host); err != nil {
			return fmt.Errorf("cannot merge the adapters of stage %s: %w", s.recipe.Layers[i].Stage.Name, err)
		}
	}
	return nil
}

// merge adds the update of layer i's adapter, W += scale * B A, to a range of W. Sums are float64 and rounded once, so the result does
// not depend on how the range was cut.
func (s *source) merge(ctx context.Context, i int, p *nn.Param, start int64, host []float32) error {
	if s.recipe.Layers[i].LoRA == nil || len(p.Shape) != 2 || !s.layers[i].Has(loraName(p.Name, "A")) {
		return nil
	}
	m, err := s.pair(ctx, i, p)
	if err != nil {
		return err
	}
	sum := make([]float64, min(m.in, int64(len(host))))
	for at := int64(0); at < int64(len(host)); {
		row, col := (start+at)/m.in, (start+at)%m.in
		n := min(m.in-col, int64(len(host))-at)
		clear(sum[:n])
		for k := range m.rank {
			b := float64(m.b[row*m.rank+k])
			for j, a := range m.a[k*m.in+col : k*m.in+col+n] {
				sum[j] += float64(b * float64(a)) // the conversion keeps the compiler from fusing, so bits are equal everywhere
			}
		}
		for j := range n {
			host[at+j] = float32(float64(host[at+j]) + float64(m.scale*sum[j]))
		}
		at += n
	}
	return nil
}

func (s *source) pair(ctx context.Context, i int, p *nn.Param) (*pair, error) {
	key := fmt.Sprintf("%d/%s", i, p.Name)
	if m := s.pairs[key]; m != nil {
		return m, nil
	}
	c := s.recipe.Layers[i].LoRA
	m := &pair{in: p.Shape[1], rank: int64(c.Rank), scale: c.Scale()}
	m.a, m.b = make([]float32, m.rank*m.in), make([]float32, p.Shape[0]*m.rank)
	for _, x := range []struct {
		ab  string
		dst []float32
	}{{"A", m.a}, {"B", m.b}} {
		if err := s.layers[i].ReadAt(ctx, loraName(p.Name, x.ab), 0, x.dst); err != nil {
			return nil, err
		}
	}
	s.pairs[key] = m
	return m, nil
}

// fetchFiles downloads uploaded files below dir and verifies them.
func fetchFiles(ctx context.Context, objects store.Objects, tenant string, files []schemas.File, dir string, progress func(done, total int64)) (root *os.Root, err error) {
	scratch, err := os.MkdirTemp(dir, "files-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	root, err = os.OpenRoot(scratch)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close(), os.RemoveAll(scratch))
			root = nil
		}
	}()
	var total, done int64
	for _, f := range files {
		total += f.Bytes
	}
	for _, f := range files {
		if err := fetchFile(ctx, objects, tenant, f, root, func(n int64) {
			if progress != nil {
				progress(done+n, total)
			}
		}); err != nil {
			return root, err
		}
		done += f.Bytes
	}
	return root, nil
}

// InputFile reads a small uploaded file whole and verifies it.
func InputFile(ctx context.Context, objects store.Objects, tenant string, f schemas.File, limit int64) ([]byte, error) {
	raw, _, err := objects.Get(ctx, schemas.InputKey(tenant, f.SHA256), limit)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the SHA-256 %s that the spec names", f.SHA256)
	}
	return raw, nil
}

func fetchFile(ctx context.Context, objects store.Objects, tenant string, f schemas.File, root *os.Root, progress func(int64)) (err error) {
	if d := path.Dir(f.Path); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("cannot create folder %s: %w", d, err)
		}
	}
	body, err := objects.Open(ctx, schemas.InputKey(tenant, f.SHA256), 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	defer body.Close()
	out, err := root.Create(f.Path)
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", f.Path, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum, counter(progress)), io.LimitReader(body, f.Bytes+1))
	err = errors.Join(err, out.Close())
	if errors.Is(err, syscall.ENOSPC) {
		return schemas.Errorf(schemas.CodeDiskFull, f.Path, "no space left on the scratch disk")
	}
	if err != nil {
		return fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 || n != f.Bytes {
		return schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the %d bytes with SHA-256 %s that the spec names", f.Bytes, f.SHA256)
	}
	return nil
}

// counter is a writer that reports the bytes written so far.
func counter(report func(int64)) io.Writer { return &counting{report: report} }

type counting struct {
	n      int64
	report func(int64)
}

func (c *counting) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.report(c.n)
	return len(b), nil
}
