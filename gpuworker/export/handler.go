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
	model, err := open(ctx, t, q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	tok, err := openTokenizer(ctx, t, e.Tokenizer, model.Recipe)
	if err != nil {
		return err
	}
	x := &exporter{t: t, queue: q, model: model, tokenizer: tok, out: partresult.New(t)}
	if x.dtype, err = elementType(e.DType); err != nil {
		return err
	}
	formats := slices.Clone(e.Formats)
	slices.Sort(formats)
	for i, f := range slices.Compact(formats) {
		t.Phase("export", int64(i), int64(len(formats)))
		if err := x.write(ctx, f); err != nil {
			return fmt.Errorf("cannot export %s as %s: %w", e.From, f, err)
		}
	}
	t.Phase("export", int64(len(formats)), int64(len(formats)))
	return x.out.Commit(ctx)
}

// open opens what is exported: a finished stage's model, or files with adapters merged into them. Weights are read while they are written: no more
// than a tensor is in memory at a time.
func open(ctx context.Context, t *consume.Task, q *kernels.Queue) (*train.Finished, error) {
	e := t.Stage.Export
	from := e.From
	if e.Model != nil {
		from = e.Model.From
	}
	if from == "" {
		return train.OpenFiles(ctx, t.Objects, t.Message.Tenant, e.Model.Base, e.Adapters, q, t.Dir)
	}
	return train.OpenFinished(ctx, t.Objects, t.Spec, t.Message.Tenant, t.Message.Run, from, q, t.Dir)
}

// elementType is what all tensors are written in; "" is what the base's files hold.
func elementType(dtype string) (safetensors.DType, error) {
	switch dtype {
	case "", "auto":
		return "", nil
	case "fp32":
		return safetensors.F32, nil
	case "bf16":
		return safetensors.BF16, nil
	case "fp16":
		return safetensors.F16, nil
	}
	return "", schemas.Errorf(schemas.CodeInvalid, "export.dtype", "%q is unknown (auto, fp32, bf16, fp16)", dtype)
}

type exporter struct {
	t         *consume.Task
	queue     *kernels.Queue
	model     *train.Finished
	dtype     safetensors.DType
	tokenizer *tokenizer
	out       *partresult.Writer
}

func (x *exporter) write(ctx context.Context, format string) error {
	switch format {
	case PEFT:
		return x.peft(ctx)
	case Merged:
		return x.folderOf(ctx, Merged)
	}
	return schemas.Errorf(schemas.CodeUnsupported, "formats", "%q is unknown (peft, merged)", format)
}

// peft writes the adapter's folder, and the base's where only this run has it.
func (x *exporter) peft(ctx context.Context) (err error) {
	if x.model.Adapters == nil {
		return schemas.Errorf(schemas.CodeInvalid, "formats", "the stage trained no adapters").WithHint(`export it as "merged"`)
	}
	base := ""
	if !x.model.Recipe.Uploaded() {
		base = "../" + Base
		if err := x.folderOf(ctx, Base); err != nil {
			return err
		}
	}
	storage, err := x.model.LoadAdapters(ctx, x.queue)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, x.queue.Sync())
		storage.Close()
	}()
	return x.folder(ctx, PEFT, func(root *os.Root) error {
		return errors.Join(x.model.Adapters.Save(x.queue, root, base), x.valueHead(ctx, root))
	})
}

// valueHead writes the head of a reward model beside it, as TRL and LLaMA-Factory do.
func (x *exporter) valueHead(ctx context.Context, root *os.Root) error {
	if x.model.ValueHead == nil {
		return nil
	}
	return safetensors.WriteFile(root, train.HeadFile, x.model.HeadTensors(ctx), map[string]string{"format": "pt"})
}

// folderOf writes a Hugging Face folder: of the base, or of the base with the adapters merged into it.
func (x *exporter) folderOf(ctx context.Context, name string) error {
	return x.folder(ctx, name, func(root *os.Root) error {
		entries, raw, err := x.model.Tensors(ctx, name == Merged, x.dtype)
		if err != nil {
			return err
		}
		if err := safetensors.WriteFile(root, "model.safetensors", entries, map[string]string{"format": "pt"}); err != nil {
			return err
		}
		if name == Merged {
			if err := x.valueHead(ctx, root); err != nil {
				return err
			}
		}
		config, generation, err := configs(raw, x.model.Model.Info(), x.tokenizer, torchType(entries))
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

// torchType is torch's name for what most elements are written in, which transformers loads all tensors in.
func torchType(entries []safetensors.Entry) string {
	n := map[safetensors.DType]int64{}
	for _, e := range entries {
		len := int64(1)
		for _, d := range e.Shape {
			len *= d
		}
		n[e.DType] += len
	}
	switch {
	case n[safetensors.BF16] > max(n[safetensors.F32], n[safetensors.F16]):
		return "bfloat16"
	case n[safetensors.F16] > n[safetensors.F32]:
		return "float16"
	}
	return "float32"
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
func configs(raw []byte, info zoo.Info, tok *tokenizer, dtype string) (config, generation []byte, err error) {
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
	doc["torch_dtype"] = json.RawMessage(strconv.Quote(dtype))
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
