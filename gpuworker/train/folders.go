package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Folders are the files of a model on this machine, which are read where they lie.
type Folders struct {
	// Base is a model folder of Hugging Face's form (config.json, safetensors).
	Base string
	// Adapters are PEFT folders, in order. They are merged into the base, but for the last one where the base is packed, or where it is a bottleneck
	// adapter, which cannot be merged.
	Adapters []string
	// Quant packs the matrices of the base's blocks.
	Quant adapter.QuantConfig
	// Head reads the value head of a reward model: of the last adapter, or without adapters of the base's folder.
	Head bool
}

// OpenFolders opens a model of folders. q is used to load values. Errors of the files have CodeModel or CodeNotFound.
func OpenFolders(f Folders, q *kernels.Queue) (_ *Finished, err error) {
	if f.Quant.Type != "" && len(f.Adapters) > 1 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "adapters", "a packed base takes one adapter, %d were given", len(f.Adapters)).
			WithHint("merge the others first")
	}
	out := &Finished{Recipe: &Recipe{}}
	s := &source{recipe: out.Recipe, q: q, borrowed: true, plain: len(f.Adapters) == 0}
	out.src = s
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.root, err = openFolderRoot(f.Base); err != nil {
		return nil, err
	}
	if err := s.openRoot(); err != nil {
		return nil, fmt.Errorf("cannot open model %s: %w", f.Base, err)
	}
	last, read, err := s.putOver(f)
	if err != nil {
		return nil, err
	}
	s.readers = append(s.readers, read)
	if out.Model, err = zoo.New(out.Recipe.Config); err != nil {
		return nil, err
	}
	out.base, out.read, out.merged = nn.Params(out.Model.Root()), read, read
	var own adapter.Stored
	switch {
	case last != nil:
		own, last.config.Quant = last.file, f.Quant
		if out.Adapters, err = adapter.Apply(out.Model, last.config); err == nil {
			err = last.file.Check(out.Adapters)
		}
	case f.Quant.Type != "":
		out.Adapters, err = adapter.Pack(out.Model, f.Quant)
	}
	if err != nil {
		return nil, err
	}
	out.values = s.filler(read, out.Adapters, own)
	if f.Head {
		err = out.readHead(s)
	}
	return out, err
}

// putOver opens the adapters and puts those that are merged over the base's reader; last is the one that is not.
func (s *source) putOver(f Folders) (last *folder, read adapter.Reader, err error) {
	k := &link{stage: &schemas.Stage{Name: "model"}}
	s.links = append(s.links, k)
	for i, name := range f.Adapters {
		root, err := openFolderRoot(name)
		if err != nil {
			return nil, nil, err
		}
		one, err := (&folder{root: root, borrowed: true}).open()
		if err != nil {
			return nil, nil, fmt.Errorf("cannot open adapter %s: %w", name, err)
		}
		if i == len(f.Adapters)-1 && (f.Quant.Type != "" || one.config.Kind == adapter.KindBottleneck) {
			k.resumed, last = one, one
			break
		}
		k.folders = append(k.folders, one)
		if err := s.fits(one); err != nil {
			return nil, nil, fmt.Errorf("cannot use adapter %s: %w", name, err)
		}
		if s.recipe.Config, one.untied, err = untie(s.recipe.Config, one.config); err != nil {
			return nil, nil, err
		}
	}
	return last, k.under(s.base), nil
}

// fits compares an adapter that is to be merged with the model: merging would pass over tensors of another one.
func (s *source) fits(f *folder) error {
	m, err := zoo.New(s.recipe.Config)
	if err != nil {
		return err
	}
	a, err := adapter.Apply(m, f.config)
	if err != nil {
		return err
	}
	return f.file.Check(a)
}

// readHead reads the value head of the last adapter, or of the base's folder.
func (f *Finished) readHead(s *source) (err error) {
	root := s.root
	for _, k := range s.links {
		if n := len(k.folders); n > 0 {
			root = k.folders[n-1].root
		}
		if k.resumed != nil {
			root = k.resumed.root
		}
	}
	f.ValueHead = objective.NewValueHead(f.Model.Info().Hidden)
	if f.head, err = readHead(root, f.ValueHead); errors.Is(err, fs.ErrNotExist) {
		return schemas.Errorf(schemas.CodeModel, root.Name(), "has no %s: it is no reward model", HeadFile)
	}
	return err
}

// openFolderRoot opens a folder of the user's.
func openFolderRoot(name string) (*os.Root, error) {
	root, err := os.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, schemas.Errorf(schemas.CodeNotFound, name, "no such folder")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, name, "cannot open: %v", schemas.Reason(err))
	}
	return root, nil
}

// LoadFolders opens a model of folders and loads it in the precision that dtype names; "" or "auto" is the model's own, as far as the device
// multiplies it. why says where the precision comes from.
func LoadFolders(ctx context.Context, f Folders, q *kernels.Queue, dtype string) (l *Loaded, precision, why string, err error) {
	open, err := OpenFolders(f, q)
	if err != nil {
		return nil, "", "", err
	}
	defer func() { err = errors.Join(err, open.Close()) }()
	info, err := q.Device().Info()
	if err != nil {
		return nil, "", "", err
	}
	precision, why = open.Precision(dtype, info)
	l, err = open.Load(ctx, q, precision)
	return l, precision, why, err
}
