package zoo

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// block is one layer of an architecture: x [tokens, hidden] to the same shape. It does not release x.
type block interface {
	forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value
}

// pass is what the blocks of one forward pass share.
type pass struct {
	*nn.Positions
	cache *Cache
	// aux collects the routers' load-balancing loss, or nil.
	aux *ops.RouterLoss
}

// layer is the cache of a layer, nil without one.
func (p *pass) layer(i int) *ops.LayerCache {
	if p.cache == nil {
		return nil
	}
	return &p.cache.Layers[i]
}

// description is what an architecture tells the shared skeleton. Pointers point into root.
type description struct {
	// root is the module tree; blocks are its layers.
	root   any
	blocks []block
	// info holds the sizes; describe fills Architecture, Config, Tied, Layers and LengthLimit.
	info Info
	// embed is the token table.
	embed *nn.Embedding
	// positions, when not nil, is a table of learned positions, read at position + positionOffset.
	positions      *nn.Embedding
	positionOffset int
	// maskedPositions counts only tokens that are not padding (modeling_opt.py); rotary and other learned positions count all.
	maskedPositions bool
	// embedNorm and projectIn, when not nil, follow the sum of both.
	embedNorm *nn.Norm
	projectIn *nn.Linear
	// norm, when not nil, is the final norm; projectOut follows it.
	norm       *nn.Norm
	projectOut *nn.Linear
	// head is the output projection; without weight it is tied to the embedding.
	head *nn.Linear
	// logitScale multiplies logits (0: 1); softcap, when positive, bounds them.
	logitScale, softcap float64
	// shortRatio, when positive, is the share of a sequence that a group of shifted short attention has; it acts in training only.
	shortRatio float64
	// experts is the number of experts of a layer, where the routers' load-balancing loss can be had.
	experts int
	// ropes are the rotary tables that blocks refer to by index; alibi is what is added to scores instead, or nil.
	ropes []nn.Rope
	alibi *alibi
	// attnDrop is the dropout of attention's probabilities, default the configuration's attention_dropout; embedDrop what the embedding's
	// is, or nil.
	attnDrop  maybe[float64]
	embedDrop *nn.Dropout
	// probDrops are the former, one a block; nil without.
	probDrops []*nn.Dropout
}

// configuration is what every architecture's config struct does.
type configuration[C any] interface {
	// WithDefaults derives what the file leaves out.
	WithDefaults() C
	// Validate reports every problem at once.
	Validate() error
	// dropouts are the probabilities of dropout by their keys in config.json.
	dropouts() map[string]float64
}

// define makes an architecture's entry. defaults are the values of keys that the file does not have; names maps other spellings of keys
// that transformers accepts to those of the struct.
func define[C configuration[C]](name, modelType string, defaults C, names map[string]string, describe func(C) description) entry {
	return entry{name: name, modelTypes: []string{modelType}, build: func(raw json.RawMessage) (Model, error) {
		c := defaults
		keys, err := rename(raw, names)
		if err == nil {
			err = json.Unmarshal(keys, &c)
		}
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
		}
		c = c.WithDefaults()
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("cannot make %s: %w", name, err)
		}
		d := describe(c)
		d.info.Architecture, d.info.ModelType, d.info.Config = name, modelType, raw
		d.info.Dropout = maps.Clone(c.dropouts())
		for i := range d.blocks {
			d.probDrops = append(d.probDrops, nn.NewDropout(d.attnDrop.or(d.info.Dropout["attention_dropout"]), i, nn.DropProbs))
		}
		for _, k := range slices.Sorted(maps.Keys(c.dropouts())) {
			if k != LayerDrop && k != RouterJitter && k != InputJitter {
				d.info.DropoutKeys = append(d.info.DropoutKeys, k)
			}
		}
		maps.DeleteFunc(d.info.Dropout, func(_ string, p float64) bool { return p == 0 })
		return newCausal(d), nil
	}}
}

// rename replaces the other spellings of keys, unless the file has the right one too.
func rename(raw json.RawMessage, names map[string]string) (json.RawMessage, error) {
	if len(names) == 0 {
		return raw, nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, err
	}
	for from, to := range names {
		if _, have := keys[to]; have {
			continue
		}
		if v, ok := keys[from]; ok {
			keys[to] = v
		}
	}
	return json.Marshal(keys)
}

// causal implements Model for every architecture.
type causal struct {
	description
	// tied, when not nil, is the head of a tied model: a layer with the embedding's weight, which is no part of the tree.
	tied                          *nn.Linear
	embedUnit, normUnit, headUnit *nn.Unit
	blockUnits                    []*nn.Unit
}

func newCausal(d description) *causal {
	m := &causal{description: d}
	if m.logitScale == 0 {
		m.logitScale = 1
	}
	m.info.Layers, m.info.Tied = len(d.blocks), d.head == nil || d.head.Weight == nil
	if m.info.ValueDim == 0 {
		m.info.ValueDim = m.info.HeadDim
	}
	for _, r := range d.ropes {
		m.info.LengthLimit = max(m.info.LengthLimit, r.LengthLimit())
		m.info.LengthSwitch = max(m.info.LengthSwitch, r.LengthSwitch())
	}
	if m.info.Tied && d.head != nil {
		d.head.Weight = &nn.Param{} // for its name only
	}
	nn.Name(d.root)
	if d.head != nil {
		m.info.HeadKey = d.head.Weight.Name
	}
	if m.info.Tied && d.head != nil {
		d.head.Weight = nil
	}
	if m.info.Tied {
		m.tied = &nn.Linear{Weight: d.embed.Weight}
	}
	m.embedUnit = unit(-1, d.embed, d.positions, d.embedNorm, d.projectIn)
	m.normUnit = unit(-1, d.norm, d.projectOut)
	m.headUnit = m.embedUnit
	switch {
	case !m.info.Tied:
		m.headUnit = unit(-1, d.head)
	case d.head != nil:
		m.embedUnit.Params = append(m.embedUnit.Params, nn.Params(d.head)...)
	}
	for i, b := range d.blocks {
		m.blockUnits = append(m.blockUnits, unit(i, b))
	}
	return m
}

// unit groups the parameters of modules (nil ones are skipped). Its name is the path that they share.
func unit(index int, modules ...any) *nn.Unit {
	u := &nn.Unit{Block: index}
	var path []string
	for _, m := range modules {
		for i, p := range nn.Params(m) {
			dirs := strings.Split(p.Name, ".")
			dirs = dirs[:len(dirs)-1]
			if len(u.Params) == 0 && i == 0 {
				path = dirs
			}
			n := 0
			for n < min(len(path), len(dirs)) && path[n] == dirs[n] {
				n++
			}
			path = path[:n]
			u.Params = append(u.Params, p)
		}
	}
	u.Name = strings.Join(path, ".")
	return u
}

// Info implements Model.
func (m *causal) Info() Info { return m.info }

// Root implements Model.
func (m *causal) Root() any { return m.root }

// TiedHead implements Model.
func (m *causal) TiedHead() (path string, head *nn.Linear) {
	return strings.TrimSuffix(m.info.HeadKey, ".weight"), m.tied
}

// Units implements Model.
func (m *causal) Units() []*nn.Unit {
	units := slices.Concat([]*nn.Unit{m.embedUnit}, m.blockUnits)
	if len(m.normUnit.Params) > 0 {
		units = append(units, m.normUnit)
	}
	if m.headUnit != m.embedUnit {
		units = append(units, m.headUnit)
	}
	return units
}

// fail ends the pass with an error.
func (m *causal) fail(t *autograd.Tape, err error) autograd.Value {
	t.Fail(m.info.Architecture, err)
	return autograd.Value{}
}

// begin checks a batch and uploads its positions.
func (m *causal) begin(t *autograd.Tape, b *nn.Batch, cache *Cache) *pass {
	if err := b.Validate(m.info.Vocab); err != nil {
		m.fail(t, err)
		return nil
	}
	p := &pass{cache: cache}
	switch {
	case cache == nil:
		p.Positions = b.Upload(t, m.ropes, 0)
	case cache.Starts != nil:
		p.Positions = b.UploadStarts(t, m.ropes, cache.Starts)
	default:
		p.Positions = b.Upload(t, m.ropes, cache.Len)
	}
	if b.Balance != nil && m.experts > 0 {
		b.Balance.Begin(t, m.experts, len(b.IDs), b.Mask)
		p.aux = b.Balance
	}
	if m.shortRatio > 0 && t.Training() {
		short, err := b.UploadShort(t, m.shortRatio)
		if err != nil {
			m.fail(t, err)
			return nil
		}
		p.Short = short
	}
	if cache != nil && cache.KVFirst != nil {
		p.KVFirst = t.Ints(cache.KVFirst, int64(b.Rows))
	}
	if m.alibi != nil {
		p.Bias = m.alibi.upload(t, b, cache)
	}
	return p
}

// embedding computes what the first block reads.
func (m *causal) embedding(t *autograd.Tape, b *nn.Batch, start int) autograd.Value {
	x := m.embed.Forward(t, b.IDs)
	step := func(y autograd.Value) {
		t.Release(x)
		x = y
	}
	if b.EmbedNoise != nil && t.OK() {
		n, width := int64(len(b.IDs)), t.Data(x).Dim[1]
		noise := t.Const(t.Floats(b.EmbedNoise(int(width)), n, width))
		step(ops.Add(t, x, noise, 1))
		t.Release(noise)
	}
	if m.projectIn != nil {
		step(m.projectIn.Forward(t, x))
	}
	if m.positions != nil {
		pos := m.learnedPositions(b, start)
		most := m.positions.Weight.Shape[0]
		for i := range pos {
			if pos[i] += int32(m.positionOffset); int64(pos[i]) >= most {
				return m.fail(t, schemas.Errorf(schemas.CodeData, "positions", "position %d is beyond the %d that the model has learned", int(pos[i])-m.positionOffset, int(most)-m.positionOffset))
			}
		}
		pe := m.positions.Forward(t, pos)
		step(ops.Add(t, x, pe, 1))
		t.Release(pe)
	}
	if m.embedNorm != nil {
		step(m.embedNorm.Forward(t, x))
	}
	if m.embedDrop.Acts(t) {
		x = m.embedDrop.Add(t, x, autograd.Value{})
	}
	return x
}

// learnedPositions are the positions of the tokens [rows*seq], before the offset; padding that is not counted has -1.
func (m *causal) learnedPositions(b *nn.Batch, start int) []int32 {
	pos := slices.Clone(b.PositionIDs(start))
	if !m.maskedPositions || b.Positions != nil || b.Mask == nil || b.Docs != nil {
		return pos
	}
	for row := range b.Rows {
		n := int32(start)
		for i := row * b.Seq; i < (row+1)*b.Seq; i++ {
			pos[i] = -1
			if b.Mask[i] != 0 {
				pos[i] = n
				n++
			}
		}
	}
	return pos
}

// hidden computes the final norm's output [tokens, hidden]. last keeps only the last position of each row before the norm.
func (m *causal) hidden(t *autograd.Tape, b *nn.Batch, cache *Cache, last bool) autograd.Value {
	p := m.begin(t, b, cache)
	if p == nil || !t.OK() {
		return autograd.Value{}
	}
	t.Enter(m.embedUnit)
	x := m.embedding(t, b, p.Start)
	if m.headUnit != m.embedUnit {
		t.Leave(m.embedUnit)
	}
	for i, u := range m.blockUnits {
		x = t.Block(u, x, func(x autograd.Value) autograd.Value {
			p.Drop = m.probDrops[i] // also when the block is computed again
			return m.blocks[i].forward(t, x, p, i)
		})
	}
	if last && b.Seq > 1 {
		x = ops.LastRows(t, x, b.Rows, b.Seq)
	}
	if m.norm == nil && m.projectOut == nil {
		return x
	}
	if len(m.normUnit.Params) > 0 {
		t.Enter(m.normUnit)
		defer t.Leave(m.normUnit)
	}
	for _, f := range []interface {
		Forward(t *nn.Tape, x nn.Value) nn.Value
	}{m.norm, m.projectOut} {
		if f == (*nn.Norm)(nil) || f == (*nn.Linear)(nil) {
			continue
		}
		y := f.Forward(t, x)
		t.Release(x)
		x = y
	}
	return x
}

// output runs f with the head in use and the operand of its product: x, or what an adapter makes of it.
func (m *causal) output(t *autograd.Tape, x autograd.Value, f func(x autograd.Value, h ops.Head) autograd.Value) autograd.Value {
	if m.headUnit != m.embedUnit {
		t.Enter(m.headUnit)
	}
	h := ops.Head{Scale: float32(m.logitScale), Softcap: float32(m.softcap), Unit: m.headUnit}
	if m.tied != nil {
		x, h.W = m.tied.Operands(t, x)
	} else {
		x, h.W = m.head.Operands(t, x)
	}
	if m.head != nil {
		h.B = t.Param(m.head.Bias)
	}
	y := f(x, h)
	t.Leave(m.headUnit)
	return y
}

// targets uploads the targets of a batch.
func (m *causal) targets(t *autograd.Tape, b *nn.Batch) autograd.Tensor {
	if len(b.Labels) != len(b.IDs) {
		m.fail(t, fmt.Errorf("batch has no labels"))
		return autograd.Tensor{}
	}
	ids := b.Targets()
	return t.Ints(ids, int64(len(ids)))
}

// LogProbs implements Model.
func (m *causal) LogProbs(t *autograd.Tape, b *nn.Batch, scale float32) autograd.Value {
	return m.logProbs(t, b, nil, scale)
}

func (m *causal) logProbs(t *autograd.Tape, b *nn.Batch, c *Cache, scale float32) autograd.Value {
	x := m.hidden(t, b, c, false)
	ids := m.targets(t, b)
	logp := m.output(t, x, func(x autograd.Value, h ops.Head) autograd.Value {
		h.Extra = b.Extra
		return ops.LinearXent(t, x, h, ids, scale)
	})
	t.Release(x)
	return logp
}

// TokenLogProbs implements Model.
func (m *causal) TokenLogProbs(t *autograd.Tape, b *nn.Batch) autograd.Value {
	x, logp := m.HiddenLogProbs(t, b)
	t.Release(x)
	return logp
}

// HiddenLogProbs implements Model.
func (m *causal) HiddenLogProbs(t *autograd.Tape, b *nn.Batch) (hidden, logp autograd.Value) {
	hidden = m.hidden(t, b, nil, false)
	t.Pin(hidden) // the head's backward comes before the norm's
	ids := m.targets(t, b)
	return hidden, m.output(t, hidden, func(x autograd.Value, h ops.Head) autograd.Value {
		if b.Temperature > 0 && b.Temperature != 1 {
			if h.Softcap > 0 {
				return m.fail(t, schemas.Errorf(schemas.CodeUnsupported, "temperature", "a model with a softcap takes no other temperature than 1 in training"))
			}
			h.Scale /= b.Temperature
		}
		return ops.LinearLogProb(t, x, h, ids)
	})
}

// Hidden implements Model.
func (m *causal) Hidden(t *autograd.Tape, b *nn.Batch) autograd.Value {
	x := m.hidden(t, b, nil, false)
	t.Pin(x) // the backward of what reads it comes before the norm's
	if m.headUnit == m.embedUnit {
		t.Leave(m.embedUnit)
	}
	return x
}

// Logits implements Model.
func (m *causal) Logits(t *autograd.Tape, b *nn.Batch) autograd.Value {
	return m.project(t, m.hidden(t, b, nil, false))
}

func (m *causal) project(t *autograd.Tape, x autograd.Value) autograd.Value {
	return m.output(t, x, func(x2 autograd.Value, h ops.Head) autograd.Value {
		y := ops.Linear(t, x2, h.W, h.B, autograd.Value{})
		t.Release(x)
		return ops.LogitsOf(t, y, h.Scale, h.Softcap)
	})
}

// Decode implements Model.
func (m *causal) Decode(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value {
	if err := c.check(b); err != nil {
		return m.fail(t, err)
	}
	y := m.project(t, m.hidden(t, b, c, true))
	c.Len += b.Seq
	return y
}

// Continue implements Model.
func (m *causal) Continue(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value {
	if err := c.check(b); err != nil {
		return m.fail(t, err)
	}
	return m.logProbs(t, b, c, 1)
}
