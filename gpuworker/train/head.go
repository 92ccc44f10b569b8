package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

const (
	// headPrefix stands before the names of a value head's parameters.
	headPrefix = "v_head."
	// HeadFile is the file of a value head beside an adapter or a model, with TRL's tensor names.
	HeadFile = "value_head.safetensors"
)

// hasHead reports whether the stage trains a value head beside the model.
func hasHead(t *schemas.TrainStage) bool { return t.Objective == "rm" || t.Objective == "ppo" }

// addHead gives the model the value head of its objective and returns all units. Values come from the folder that the spec names for it,
// or from the adapter folder that training goes on with; without either they are drawn.
func (s *session) addHead(ctx context.Context, k *link) ([]*nn.Unit, error) {
	units := s.model.Units()
	if !hasHead(s.stage) {
		return units, nil
	}
	s.head = objective.NewValueHead(s.model.Info().Hidden)
	s.head.Dropout = s.headDropout()
	units = append(slices.Clone(units), s.head.Unit())
	if r := s.stage.Reward; r != nil && r.Head != nil {
		var err error
		s.headValues, err = fetchHead(ctx, s.t.Objects, s.t.Spec.Tenant, r.Head, s.t.Dir, s.head)
		return units, err
	}
	if k != nil && k.resumed != nil {
		if err := s.readHead(k.resumed.root); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if s.headValues == nil && s.stage.Init != nil {
		s.drawHead()
	}
	return units, nil
}

// drawHead draws the head as TRL makes it after PEFT made the adapters: a torch.nn.Linear, its weight first.
func (s *session) drawHead() {
	g := s.adapters.Torch()
	if g == nil {
		g = pyrand.NewTorch(s.stage.Init.Seed)
	}
	s.headValues = map[string][]float32{}
	bound := 1 / math.Sqrt(float64(s.model.Info().Hidden))
	for _, p := range []*nn.Param{s.head.Head.Summary.Weight, s.head.Head.Summary.Bias} {
		v := make([]float32, p.Len())
		g.Uniform(v, -bound, bound)
		s.headValues[p.Name] = v
	}
}

// headDropout is the dropout before the head: the spec's, else the configuration's summary_dropout_prob, else 0.1 as TRL has it.
func (s *session) headDropout() float64 {
	if r := s.stage.Reward; r != nil && r.Dropout != nil {
		return *r.Dropout
	}
	return objective.HeadDropout(s.model.Info().Config)
}

// readHead keeps the values of a value_head.safetensors.
func (s *session) readHead(root *os.Root) (err error) {
	s.headValues, err = readHead(root, s.head)
	return err
}

// readHead reads the values of a value_head.safetensors for a head, by the names of its parameters.
func readHead(root *os.Root, head *objective.ValueHead) (map[string][]float32, error) {
	f, err := safetensors.Open(root, HeadFile)
	if err != nil {
		return nil, fmt.Errorf("cannot open the value head: %w", err)
	}
	defer f.Close()
	out := map[string][]float32{}
	for _, p := range head.Unit().Params {
		v, _, err := f.Float32(p.Name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the value head: %w", err)
		}
		if int64(len(v)) != p.Len() {
			return nil, schemas.Errorf(schemas.CodeModel, p.Name, "the value head has %d elements, the model needs %d", len(v), p.Len())
		}
		out[p.Name] = v
	}
	return out, nil
}

// fetchHead is readHead for an uploaded folder.
func fetchHead(ctx context.Context, objects store.Objects, tenant string, folder *schemas.Ref, dir string, head *objective.ValueHead) (map[string][]float32, error) {
	root, err := fetchFiles(ctx, objects, tenant, folder.Files, dir, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the value head: %w", err)
	}
	name := root.Name()
	v, err := readHead(root, head)
	return v, errors.Join(err, root.Close(), os.RemoveAll(name))
}

// isHead reports whether a parameter is a value head's.
func isHead(p *autograd.Param) bool { return strings.HasPrefix(p.Name, headPrefix) }

// fill writes a range of a parameter's initial values: the head's from its file or drawn, all others from the source.
func (s *session) fill(ctx context.Context, f *filler, p *autograd.Param, start int64, dst kernels.Tensor) error {
	if !isHead(p) {
		return f.fill(ctx, p, start, dst)
	}
	if v, ok := s.headValues[p.Name]; ok {
		return kernels.UploadFloats(s.queue, dst, v[start:start+dst.Numel()])
	}
	if dst.DType == kernels.F32 {
		nn.InitRange(s.queue, p, dst, start, s.t.Spec.Seed)
		return s.queue.Err()
	}
	v := make([]float32, dst.Numel()) // a head is small
	if err := f.s.draw(ctx, p, start, v); err != nil {
		return err
	}
	return kernels.UploadFloats(s.queue, dst, v)
}
