package train

import (
	"encoding/json"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// torchValues are values that torch draws: the state of its generator before each tensor.
type torchValues struct {
	before map[string]*pyrand.Torch
	std    map[string]float64
	// zero are the rows of padding by the table's name: transformers makes them zero.
	zero map[string]int64
	// last is the tensor that was drawn last: ranges of one come one after the other.
	last   string
	values []float32
}

// drawModel is what transformers' from_config makes after torch.manual_seed(seed): every module as torch initializes it, in the order of the
// model's parameters, then over them all normal numbers; first what is below the head, then the head. nil for models with other modules than embeddings, Linear and norms, whose order
// of draws is not known.
func drawModel(config json.RawMessage, seed uint64) (*torchValues, error) {
	m, err := zoo.New(config)
	if err != nil {
		return nil, err
	}
	g := pyrand.NewTorch(seed)
	v := &torchValues{before: map[string]*pyrand.Torch{}, std: map[string]float64{}, zero: map[string]int64{}}
	nn.WalkEmbeddings(m.Root(), func(_ string, e *nn.Embedding) {
		if e.Padding != nil {
			v.zero[e.Weight.Name] = int64(*e.Padding)
		}
	})
	var body, head []*nn.Param
	for _, p := range nn.Params(m.Root()) {
		if strings.HasPrefix(p.Name, "lm_head.") {
			head = append(head, p)
		} else {
			body = append(body, p)
		}
	}
	// The model below the head is made and drawn before the head is made.
	for _, params := range [][]*nn.Param{body, head} {
		for _, p := range params {
			switch {
			case p.Role == autograd.RoleNorm && len(p.Shape) == 1:
			case p.Role == autograd.RoleBias:
				g.SkipUniform(p.Len())
			case p.Transposed || len(p.Shape) != 2 || p.Init.Kind != autograd.InitNormal || p.Len() < 16:
				return nil, nil
			case p.Role == autograd.RoleEmbedding:
				g.SkipNormal(p.Len())
			default:
				g.SkipUniform(p.Len())
			}
		}
		for _, p := range params {
			if len(p.Shape) == 2 {
				v.before[p.Name], v.std[p.Name] = g.Clone(), p.Init.Std
				g.SkipNormal(p.Len())
			}
		}
	}
	return v, nil
}

// read gives a range of a tensor; false when it is not among those that are drawn.
func (v *torchValues) read(p *nn.Param, start int64, dst []float32) bool {
	if v == nil || v.before[p.Name] == nil {
		return false
	}
	if v.last != p.Name || int64(len(v.values)) != p.Len() {
		v.last, v.values = p.Name, make([]float32, p.Len())
		v.before[p.Name].Clone().Normal(v.values, 0, v.std[p.Name])
		if row, ok := v.zero[p.Name]; ok {
			clear(v.values[row*p.Shape[1] : (row+1)*p.Shape[1]])
		}
	}
	copy(dst, v.values[start:])
	return true
}

// noise draws the noise of new rows as LLaMA-Factory's resize_vocab does after transformers' resize_token_embeddings: that makes an Embedding
// (and a Linear for a head of its own) of the new size, and draws for each a normal number an element of its new rows. draws is how many
// numbers of 32 bits all of it takes.
func (v *vocabulary) noise(seed uint64) (draws int64) {
	g := pyrand.NewTorch(seed)
	v.drawn = &torchValues{before: map[string]*pyrand.Torch{}, std: map[string]float64{}}
	var matrices []*nn.Param
	for _, p := range v.order {
		if len(p.Shape) == 2 {
			matrices = append(matrices, p)
		}
	}
	fresh := func(p *nn.Param) int64 { return p.Len() - v.old[p.Name].Len() }
	for _, p := range matrices {
		if p.Role == autograd.RoleEmbedding {
			g.SkipNormal(p.Len())
			draws += pyrand.NormalDraws(p.Len())
		} else {
			g.SkipUniform(p.Len())
			draws += p.Len()
		}
		g.SkipNormal(fresh(p))
		draws += pyrand.NormalDraws(fresh(p))
	}
	for _, p := range matrices {
		v.drawn.before[p.Name+rowsSuffix] = g.Clone()
		g.SkipNormal(fresh(p))
		draws += pyrand.NormalDraws(fresh(p))
	}
	return draws
}
