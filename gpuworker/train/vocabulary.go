package train

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// vocabulary gives the base model rows for more tokens: each new row is the mean of the old ones plus normal noise of standard deviation
// 1/sqrt(width), drawn from the run's seed or as torch draws it; an entry of a bias is the mean. So LLaMA-Factory's resize_vocab does it.
type vocabulary struct {
	// old are the parameters of the files that have a row for each token, by name; grown their new shapes.
	old   map[string]*nn.Param
	grown map[string]*nn.Param
	means map[string][]float32
	// order is what has grown in the model's order; drawn, when not nil, is the noise that torch draws, in torchDraws numbers.
	order []*nn.Param
	// head is the path of a tied head, which grows with the embedding; "" where it is a module of its own.
	head       string
	drawn      *torchValues
	torchDraws int64
}

// rowsSuffix names the new rows of a parameter.
const rowsSuffix = ".rows"

// growVocabulary changes the base's configuration to rows tokens and finds what grows with it.
func growVocabulary(base zoo.Model, rows int) (*vocabulary, zoo.Model, error) {
	have := base.Info().Vocab
	if rows <= have {
		return nil, nil, schemas.Errorf(schemas.CodeInvalid, "model.vocab", "the model has %d tokens already, %d were asked for", have, rows)
	}
	raw, err := zoo.Override(base.Info().Config, map[string]any{"vocab_size": rows})
	if err != nil {
		return nil, nil, err
	}
	m, err := zoo.New(raw)
	if err != nil {
		return nil, nil, err
	}
	v := &vocabulary{old: map[string]*nn.Param{}, grown: map[string]*nn.Param{}, means: map[string][]float32{}}
	before := map[string]*nn.Param{}
	for _, p := range nn.Params(base.Root()) {
		before[p.Name] = p
	}
	for _, p := range nn.Params(m.Root()) {
		q := before[p.Name]
		if q == nil || slices.Equal(p.Shape, q.Shape) {
			continue
		}
		if p.Transposed || p.Shape[0] != int64(rows) || q.Shape[0] != int64(have) {
			return nil, nil, schemas.Errorf(schemas.CodeUnsupported, "model.vocab", "%s of %s does not grow by rows", p.Name, m.Info().Architecture)
		}
		v.old[p.Name], v.grown[p.Name] = q, p
		v.order = append(v.order, p)
	}
	if path, head := m.TiedHead(); head != nil {
		v.head = path
	}
	return v, m, nil
}

// modules are the last names of the modules that have grown: what is trained whole beside adapters, since new rows mean nothing yet.
func (v *vocabulary) modules() []string {
	var out []string
	if v.head != "" {
		out = append(out, v.head[strings.LastIndexByte(v.head, '.')+1:])
	}
	for name := range v.grown {
		parts := strings.Split(name, ".")
		if m := parts[len(parts)-2]; !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// read is the base's reader for a parameter that has grown.
func (v *vocabulary) read(ctx context.Context, s *source, p *nn.Param, start int64, dst []float32) error {
	old := v.old[p.Name]
	n := old.Len()
	if start < n {
		m := min(int64(len(dst)), n-start)
		if err := s.file.Read(old, start, dst[:m]); err != nil {
			return err
		}
		start, dst = start+m, dst[m:]
	}
	if len(dst) == 0 {
		return nil
	}
	mean, err := v.mean(ctx, s, old)
	if err != nil {
		return fmt.Errorf("cannot add rows to %s: %w", p.Name, err)
	}
	width := int64(len(mean))
	if len(old.Shape) == 1 {
		for i := range dst {
			dst[i] = mean[0]
		}
		return nil
	}
	fresh := &nn.Param{Name: p.Name + rowsSuffix, Shape: []int64{p.Shape[0] - old.Shape[0], width}, Init: autograd.Init{Kind: autograd.InitNormal, Std: 1 / math.Sqrt(float64(width))}}
	if v.drawn != nil {
		v.drawn.std[fresh.Name] = fresh.Init.Std
	}
	if !v.drawn.read(fresh, start-n, dst) {
		if err := s.draw(ctx, fresh, start-n, dst); err != nil {
			return err
		}
	}
	for i := range dst {
		dst[i] += mean[(start+int64(i))%width]
	}
	return nil
}

// mean is the mean of the old rows, added in their order in float64.
func (v *vocabulary) mean(ctx context.Context, s *source, old *nn.Param) ([]float32, error) {
	if m, ok := v.means[old.Name]; ok {
		return m, nil
	}
	width := int64(1)
	if len(old.Shape) > 1 {
		width = old.Shape[1]
	}
	sum := make([]float64, width)
	step := max(1, drawStep/width) * width
	buf := make([]float32, min(step, old.Len()))
	for at := int64(0); at < old.Len(); at += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buf[:min(step, old.Len()-at)]
		if err := s.file.Read(old, at, part); err != nil {
			return nil, err
		}
		for i, x := range part {
			sum[int64(i)%width] += float64(x)
		}
	}
	out := make([]float32, width)
	for i := range out {
		out[i] = float32(sum[i] / float64(old.Shape[0]))
	}
	v.means[old.Name] = out
	return out, nil
}
