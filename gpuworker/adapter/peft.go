package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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

// Load fills the bound parameters of adapters from adapter_model.safetensors below root. Missing, unused and misshapen tensors are one
// joined error.
func (a *Adapters) Load(ctx context.Context, q *kernels.Queue, root *os.Root) error {
	set, err := safetensors.OpenSet(root, WeightsName)
	if err != nil {
		return err
	}
	defer set.Close()
	if err := nn.Check(a.Params(), set, nil); err != nil {
		return fmt.Errorf("cannot load adapter: %w", err)
	}
	return nn.Load(ctx, q, a.Params(), set)
}

// Save writes a PEFT adapter folder: adapter_config.json and adapter_model.safetensors. base names the base model in the configuration.
func (a *Adapters) Save(q *kernels.Queue, root *os.Root, base string) error {
	doc, err := encodePEFT(a.Config, base, a.Targets(), a.Layers())
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", ConfigName, err)
	}
	if err := safetensors.WriteFile(root, WeightsName, nn.Entries(q, a.Params()), map[string]string{"format": "pt"}); err != nil {
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
