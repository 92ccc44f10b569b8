package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Names of formats, and of the folders below the stage's output.
const (
	PEFT   = "peft"
	Merged = "merged"
	// Base is the folder of the base model that an adapter belongs to, written where the base is no uploaded folder of the user's.
	Base = "base"
)

// Handle runs an export stage. It returns as consume.Handler says.
func Handle(ctx context.Context, t *consume.Task) (err error) {
	e := t.Stage.Export
	if e == nil {
		return schemas.Errorf(schemas.CodeInternal, t.Message.Stage, "an export message came without an export stage")
	}
	dev, err := kernels.Open(kernels.Options{Threads: t.Threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	t.Phase(consume.PhaseLoad, 0, 0)
	loaded, err := load(ctx, t, q)
	if err != nil {
		return err
	}
	defer loaded.Close()
	tok, err := openTokenizer(ctx, t, e.Tokenizer, loaded.Recipe)
	if err != nil {
		return err
	}
	x := &exporter{t: t, queue: q, loaded: loaded, tokenizer: tok, out: partresult.New(t)}
	// The adapter is written before it is merged away.
	formats := slices.Clone(e.Formats)
	slices.SortFunc(formats, func(a, b string) int { return rank(a) - rank(b) })
	for i, f := range slices.Compact(formats) {
		t.Phase("export", int64(i), int64(len(formats)))
		if err := x.write(ctx, f); err != nil {
			return fmt.Errorf("cannot export %s as %s: %w", e.From, f, err)
		}
	}
	t.Phase("export", int64(len(formats)), int64(len(formats)))
	return x.out.Commit(ctx)
}

// load loads what is exported: a finished stage's model, or files with adapters merged into them.
func load(ctx context.Context, t *consume.Task, q *kernels.Queue) (*train.Loaded, error) {
	e := t.Stage.Export
	switch {
	case e.Model == nil:
		return train.LoadModel(ctx, t.Objects, t.Spec, t.Message.Tenant, t.Message.Run, e.From, q, t.Dir)
	case e.Model.From != "":
		return train.LoadModel(ctx, t.Objects, t.Spec, t.Message.Tenant, t.Message.Run, e.Model.From, q, t.Dir)
	}
	return train.LoadFiles(ctx, t.Objects, t.Message.Tenant, e.Model.Base, e.Adapters, q, t.Dir)
}

func rank(format string) int { return slices.Index([]string{PEFT, Merged}, format) }

type exporter struct {
	t         *consume.Task
	queue     *kernels.Queue
	loaded    *train.Loaded
	tokenizer *tokenizer
	out       *partresult.Writer
}

func (x *exporter) write(ctx context.Context, format string) error {
	switch format {
	case PEFT:
		return x.peft(ctx)
	case Merged:
		if err := x.loaded.Merge(ctx, x.queue); err != nil {
			return err
		}
		return x.model(ctx, Merged)
	}
	return schemas.Errorf(schemas.CodeUnsupported, "formats", "%q is unknown (peft, merged)", format)
}

// peft writes the adapter's folder, and the base's where only this run has it.
func (x *exporter) peft(ctx context.Context) error {
	if x.loaded.Adapters == nil {
		return schemas.Errorf(schemas.CodeInvalid, "formats", "the stage trained no adapters").WithHint(`export it as "merged"`)
	}
	base := ""
	if !x.loaded.Recipe.Uploaded() {
		base = "../" + Base
		if err := x.model(ctx, Base); err != nil {
			return err
		}
	}
	return x.folder(ctx, PEFT, func(root *os.Root) error {
		return errors.Join(x.loaded.Adapters.Save(x.queue, root, base), x.valueHead(root))
	})
}

// valueHead writes the head of a reward model beside it, as TRL and LLaMA-Factory do.
func (x *exporter) valueHead(root *os.Root) error {
	h := x.loaded.ValueHead
	if h == nil {
		return nil
	}
	return safetensors.WriteFile(root, train.HeadFile, nn.Entries(x.queue, h.Unit().Params), map[string]string{"format": "pt"})
}

// model writes a Hugging Face folder of the base parameters as they are now.
func (x *exporter) model(ctx context.Context, name string) error {
	return x.folder(ctx, name, func(root *os.Root) error {
		entries, raw, err := x.entries(name)
		if err != nil {
			return err
		}
		if err := safetensors.WriteFile(root, "model.safetensors", entries, map[string]string{"format": "pt"}); err != nil {
			return err
		}
		if name == Merged {
			if err := x.valueHead(root); err != nil {
				return err
			}
		}
		config, generation, err := configs(raw, x.loaded.Model.Info(), x.tokenizer)
		if err != nil {
			return err
		}
		files := map[string][]byte{"config.json": config, "generation_config.json": generation}
		for name, raw := range x.tokenizer.files {
			files[name] = raw
		}
		for name, raw := range files {
			if err := root.WriteFile(name, raw, 0o644); err != nil {
				return fmt.Errorf("cannot write %s: %w", name, err)
			}
		}
		return nil
	})
}

// entries are the tensors of a model's folder and its configuration. Modules that were trained whole lie beside the base's until they are
// merged; a head that was tied to one of them becomes a tensor of its own then.
func (x *exporter) entries(name string) ([]safetensors.Entry, json.RawMessage, error) {
	config := x.loaded.Recipe.Config
	if a := x.loaded.Adapters; a != nil {
		a.Enable(false)
		defer a.Enable(true)
	}
	entries := nn.Entries(x.queue, nn.Params(x.loaded.Model.Root()))
	if head := x.loaded.Head; head != nil && name == Merged {
		e := nn.Entries(x.queue, []*nn.Param{head})[0]
		e.Name = x.loaded.HeadName
		config, err := train.Untie(config)
		return append(entries, e), config, err
	}
	return entries, config, nil
}

// folder lets fill write into a scratch folder and stores what it wrote under name.
func (x *exporter) folder(ctx context.Context, name string, fill func(root *os.Root) error) (err error) {
	dir, err := os.MkdirTemp(x.t.Dir, "export-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot open the scratch folder: %w", err), os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, root.Close(), os.RemoveAll(dir)) }()
	if err := fill(root); err != nil {
		return err
	}
	return x.out.Folder(ctx, root, name)
}

// configs makes config.json and generation_config.json: the base's own keys, with what transformers needs to load them.
func configs(raw []byte, info zoo.Info, tok *tokenizer) (config, generation []byte, err error) {
	// Values stay as they are written: "8.0" does not become 8, which transformers warns of.
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	missing := func(key, v string) {
		if old := doc[key]; old == nil || string(old) == "null" {
			doc[key] = json.RawMessage(v)
		}
	}
	missing("architectures", fmt.Sprintf("[%q]", info.Architecture))
	missing("model_type", strconv.Quote(info.ModelType))
	delete(doc, "dtype")
	doc["torch_dtype"] = json.RawMessage(`"float32"`)
	gen := map[string]json.RawMessage{"_from_model_config": json.RawMessage("true")}
	for _, s := range []struct {
		key string
		id  int32
	}{{"bos_token_id", tok.bos}, {"eos_token_id", tok.eos}, {"pad_token_id", tok.pad}} {
		if s.id >= 0 {
			missing(s.key, strconv.Itoa(int(s.id)))
		}
		if v := doc[s.key]; v != nil && string(v) != "null" {
			gen[s.key] = v
		}
	}
	if config, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return nil, nil, fmt.Errorf("cannot encode config.json: %w", err)
	}
	if generation, err = json.MarshalIndent(gen, "", "  "); err != nil {
		return nil, nil, fmt.Errorf("cannot encode generation_config.json: %w", err)
	}
	return append(config, '\n'), append(generation, '\n'), nil
}
