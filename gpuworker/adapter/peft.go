package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
// An adapter that began with PiSSA belongs to a base that it changed: Plain makes it one of the unchanged base first.
func (a *Adapters) Save(q *kernels.Queue, root *os.Root, base string) error {
	var entries []safetensors.Entry
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
	doc, err := a.encode(base)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", ConfigName, err)
	}
	if err := safetensors.WriteFile(root, WeightsName, entries, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return writeFile(root, ConfigName, doc)
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
