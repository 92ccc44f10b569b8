package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

const maxConfigBytes = 1 << 20

// ReadConfig reads adapter_config.json of a PEFT adapter folder.
func ReadConfig(root *os.Root) (Config, error) {
	f, err := root.Open(ConfigName)
	if err != nil {
		return Config{}, fmt.Errorf("cannot open adapter: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("cannot read %s: %w", ConfigName, err)
	}
	if len(raw) > maxConfigBytes {
		return Config{}, schemas.Errorf(schemas.CodeModel, ConfigName, "larger than %d bytes", maxConfigBytes)
	}
	return parsePEFT(raw)
}

// Folder is a PEFT adapter folder as Stored: matrices that the file holds transposed are turned.
type Folder struct {
	set *safetensors.Set
	// turned caches transposed tensors.
	turned map[string][]float32
}

// OpenFolder opens adapter_model.safetensors below root.
func OpenFolder(root *os.Root) (*Folder, error) {
	set, err := safetensors.OpenSet(root, WeightsName)
	if err != nil {
		return nil, err
	}
	return &Folder{set: set, turned: map[string][]float32{}}, nil
}

// Close closes the file.
func (f *Folder) Close() error { return f.set.Close() }

// isTurned reports whether the file holds a parameter as its transpose.
func isTurned(name string) bool { return strings.HasSuffix(name, ".lora_embedding_A") }

// Has implements Stored.
func (f *Folder) Has(name string) bool {
	_, ok := f.set.Info(name)
	return ok
}

// Read implements Stored.
func (f *Folder) Read(_ context.Context, name string, start int64, dst []float32) error {
	if !isTurned(name) {
		return f.set.ReadFloat32(name, start, dst)
	}
	v := f.turned[name]
	if v == nil {
		info, ok := f.set.Info(name)
		if !ok || len(info.Shape) != 2 {
			return schemas.Errorf(schemas.CodeModel, name, "is no matrix of the adapter")
		}
		raw := make([]float32, info.Shape[0]*info.Shape[1])
		if err := f.set.ReadFloat32(name, 0, raw); err != nil {
			return err
		}
		v = transpose(raw, info.Shape[0], info.Shape[1])
		f.turned[name] = v
	}
	copy(dst, v[start:])
	return nil
}

func transpose(v []float32, n, m int64) []float32 {
	out := make([]float32, n*m)
	for i := range n {
		for j := range m {
			out[j*n+i] = v[i*m+j]
		}
	}
	return out
}

// Check compares the adapters with the folder both ways: every missing, misshapen and unused tensor is reported in one joined error. The
// base layers of adapted embeddings, which PEFT may write beside, are left unused.
func (f *Folder) Check(a *Adapters) error {
	var params []*nn.Param
	for _, p := range a.Params() {
		q := &nn.Param{Name: p.Name, Shape: p.Shape}
		if isTurned(p.Name) {
			q.Shape = []int64{p.Shape[1], p.Shape[0]}
		}
		params = append(params, q)
	}
	err := nn.Check(params, f.set, func(key string) bool { return strings.HasSuffix(key, ".base_layer.weight") })
	if err != nil {
		return fmt.Errorf("cannot load adapter: %w", err)
	}
	return nil
}

// Load fills the bound parameters of adapters from adapter_model.safetensors below root. Missing, unused and misshapen tensors are one
// joined error.
func (a *Adapters) Load(ctx context.Context, q *kernels.Queue, root *os.Root) (err error) {
	f, err := OpenFolder(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Check(a); err != nil {
		return err
	}
	for _, p := range a.Params() {
		v := make([]float32, p.Len())
		if err := f.Read(ctx, p.Name, 0, v); err != nil {
			return fmt.Errorf("cannot load %s: %w", p.Name, err)
		}
		if err := kernels.Upload(q, p.Data.Reshape(p.Len()), v); err != nil {
			return fmt.Errorf("cannot load %s: %w", p.Name, err)
		}
	}
	return nil
}

// Save writes a PEFT adapter folder: adapter_config.json and adapter_model.safetensors. base names the base model in the configuration.
// An adapter that began with PiSSA belongs to a changed base: it is written as the plain LoRA of twice the rank that belongs to the
// unchanged one, with A' = [A; A0] and B' = [B, -B0].
func (a *Adapters) Save(q *kernels.Queue, root *os.Root, base string) error {
	c, entries := a.Config, []safetensors.Entry{}
	for _, p := range a.Params() {
		if !isTurned(p.Name) {
			entries = append(entries, nn.Entries(q, []*nn.Param{p})...)
			continue
		}
		v, err := nn.Read(q, p.Data)
		if err != nil {
			return fmt.Errorf("cannot save %s: %w", p.Name, err)
		}
		entries = append(entries, safetensors.Entry{Name: p.Name, Shape: []int64{p.Shape[1], p.Shape[0]}, Float32: transpose(v, p.Shape[0], p.Shape[1])})
	}
	if c.PiSSA {
		var err error
		if c, entries, err = a.convert(q); err != nil {
			return err
		}
	}
	doc, err := encodePEFT(c, base, a.Targets(), a.Layers())
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", ConfigName, err)
	}
	if err := safetensors.WriteFile(root, WeightsName, entries, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return writeFile(root, ConfigName, doc)
}

// convert turns a PiSSA adapter into a plain one.
func (a *Adapters) convert(q *kernels.Queue) (c Config, entries []safetensors.Entry, err error) {
	c = a.Config
	factor := 2.0
	if c.RSLoRA {
		factor = math.Sqrt2
	}
	c.PiSSA, c.Rank, c.Alpha = false, 2*c.Rank, factor*c.Alpha
	c.RankPattern, c.AlphaPattern = maps.Clone(c.RankPattern), maps.Clone(c.AlphaPattern)
	for k := range c.RankPattern {
		c.RankPattern[k] *= 2
	}
	for k := range c.AlphaPattern {
		c.AlphaPattern[k] *= factor
	}
	for _, s := range a.sites {
		l, ok := s.(*lora)
		if !ok {
			entries = append(entries, nn.Entries(q, s.params())...)
			continue
		}
		f := l.start()
		if f == nil {
			return c, nil, schemas.Errorf(schemas.CodeInternal, l.path, "the start of this PiSSA adapter was not computed")
		}
		av, err := nn.Read(q, l.a.Data)
		if err != nil {
			return c, nil, err
		}
		bv, err := nn.Read(q, l.b.Data)
		if err != nil {
			return c, nil, err
		}
		r, in, out := l.a.Shape[0], l.a.Shape[1], l.b.Shape[0]
		both := make([]float32, 0, 2*out*r)
		for i := range out {
			both = append(both, bv[i*r:(i+1)*r]...)
			for _, v := range f.b[i*r : (i+1)*r] {
				both = append(both, -v)
			}
		}
		entries = append(entries, safetensors.Entry{Name: l.a.Name, Shape: []int64{2 * r, in}, Float32: slices.Concat(av, f.a)},
			safetensors.Entry{Name: l.b.Name, Shape: []int64{out, 2 * r}, Float32: both})
	}
	return c, entries, nil
}

// writeFile writes by way of a temporary file and a rename.
func writeFile(root *os.Root, name string, b []byte) error {
	tmp := name + ".part"
	err := root.WriteFile(tmp, b, 0o644)
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, errors.Join(err, removeIfThere(root, tmp)))
	}
	return nil
}

func removeIfThere(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
