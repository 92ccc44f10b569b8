package verify

import (
	"math"
	"math/rand/v2"
)

// refConfig holds the keys of config.json that the reference model reads.
type refConfig struct {
	Vocab     int     `json:"vocab_size"`
	Hidden    int     `json:"hidden_size"`
	Inner     int     `json:"intermediate_size"`
	Layers    int     `json:"num_hidden_layers"`
	Heads     int     `json:"num_attention_heads"`
	KVHeads   int     `json:"num_key_value_heads"`
	HeadDim   int     `json:"head_dim"`
	Eps       float64 `json:"rms_norm_eps"`
	RopeTheta float64 `json:"rope_theta"`
	Tied      bool    `json:"tie_word_embeddings"`
}

// refModel is a llama in plain float64 loops, written from the formulas and sharing nothing with the engine: the yardstick of this
// package's own tests. Gradients come from central differences.
type refModel struct {
	c refConfig
	w map[string][]float64
	// lora maps module paths to A [r, in] and B [out, r]; scale multiplies the update.
	lora  map[string][2][]float64
	rank  int
	scale float64
}

func (m *refModel) linear(path string, x [][]float64, out int) [][]float64 {
	w := m.w[path+".weight"]
	y := make([][]float64, len(x))
	for n, row := range x {
		y[n] = make([]float64, out)
		for o := range out {
			for i, v := range row {
				y[n][o] += v * w[o*len(row)+i]
			}
		}
		if ab, ok := m.lora[path]; ok {
			for r := range m.rank {
				var h float64
				for i, v := range row {
					h += v * ab[0][r*len(row)+i]
				}
				for o := range out {
					y[n][o] += m.scale * h * ab[1][o*m.rank+r]
				}
			}
		}
	}
	return y
}

func (m *refModel) norm(path string, x [][]float64) [][]float64 {
	w := m.w[path+".weight"]
	y := make([][]float64, len(x))
	for n, row := range x {
		var s float64
		for _, v := range row {
			s += v * v
		}
		r := 1 / math.Sqrt(s/float64(len(row))+m.c.Eps)
		y[n] = make([]float64, len(row))
		for i, v := range row {
			y[n][i] = v * r * w[i]
		}
	}
	return y
}

func (m *refModel) rotate(x [][]float64, heads int) {
	d := m.c.HeadDim
	for p, row := range x {
		for h := range heads {
			for i := range d / 2 {
				a := float64(p) / math.Pow(m.c.RopeTheta, float64(2*i)/float64(d))
				c, s := math.Cos(a), math.Sin(a)
				u, v := row[h*d+i], row[h*d+i+d/2]
				row[h*d+i], row[h*d+i+d/2] = u*c-v*s, v*c+u*s
			}
		}
	}
}

// row computes the logits of one sequence; visible masks keys.
func (m *refModel) row(ids []int64, visible func(j int) bool) [][]float64 {
	c := m.c
	x := make([][]float64, len(ids))
	for n, id := range ids {
		x[n] = append([]float64(nil), m.w["model.embed_tokens.weight"][int(id)*c.Hidden:(int(id)+1)*c.Hidden]...)
	}
	add := func(y [][]float64) {
		for n := range x {
			for i := range x[n] {
				x[n][i] += y[n][i]
			}
		}
	}
	for l := range c.Layers {
		p := "model.layers." + string(rune('0'+l))
		h := m.norm(p+".input_layernorm", x)
		q := m.linear(p+".self_attn.q_proj", h, c.Heads*c.HeadDim)
		k := m.linear(p+".self_attn.k_proj", h, c.KVHeads*c.HeadDim)
		v := m.linear(p+".self_attn.v_proj", h, c.KVHeads*c.HeadDim)
		m.rotate(q, c.Heads)
		m.rotate(k, c.KVHeads)
		add(m.linear(p+".self_attn.o_proj", m.attend(q, k, v, visible), c.Hidden))
		h = m.norm(p+".post_attention_layernorm", x)
		g, u := m.linear(p+".mlp.gate_proj", h, c.Inner), m.linear(p+".mlp.up_proj", h, c.Inner)
		for n := range g {
			for i, z := range g[n] {
				g[n][i] = z / (1 + math.Exp(-z)) * u[n][i]
			}
		}
		add(m.linear(p+".mlp.down_proj", g, c.Hidden))
	}
	return m.linear("lm_head", m.norm("model.norm", x), c.Vocab)
}

func (m *refModel) attend(q, k, v [][]float64, visible func(j int) bool) [][]float64 {
	c := m.c
	d, group := c.HeadDim, c.Heads/c.KVHeads
	o := make([][]float64, len(q))
	for i := range q {
		o[i] = make([]float64, c.Heads*d)
		for h := range c.Heads {
			kh := h / group
			var ws []float64
			var sum float64
			for j := range i + 1 {
				var s float64
				for e := range d {
					s += q[i][h*d+e] * k[j][kh*d+e]
				}
				w := math.Exp(s / math.Sqrt(float64(d)))
				if !visible(j) {
					w = 0
				}
				ws, sum = append(ws, w), sum+w
			}
			for j, w := range ws {
				for e := range d {
					o[i][h*d+e] += w / max(sum, 1e-300) * v[j][kh*d+e]
				}
			}
		}
	}
	return o
}

// loss is the mean cross-entropy over the shifted labels, with the sum of each row; logits are those of all rows.
func (m *refModel) loss(b batch) (mean float64, rows []float64, logits [][]float64) {
	var total float64
	for r := range b.rows {
		at := r * b.seq
		z := m.row(b.ids[at:at+b.seq], func(j int) bool { return b.mask[at+j] == 1 })
		logits = append(logits, z...)
		var sum float64
		for s := range b.seq - 1 {
			if t := b.labels[at+s+1]; t >= 0 {
				sum += lse(z[s]) - z[s][t]
			}
		}
		rows = append(rows, sum)
		total += sum
	}
	return total / float64(b.shiftedTokens()), rows, logits
}

func lse(z []float64) float64 {
	top := math.Inf(-1)
	for _, v := range z {
		top = max(top, v)
	}
	var s float64
	for _, v := range z {
		s += math.Exp(v - top)
	}
	return top + math.Log(s)
}

// gradient is the central difference of the loss with respect to every element of w.
func (m *refModel) gradient(b batch, w []float64) []float64 {
	const eps = 1e-5
	g := make([]float64, len(w))
	for i, v := range w {
		w[i] = v + eps
		up, _, _ := m.loss(b)
		w[i] = v - eps
		down, _, _ := m.loss(b)
		w[i] = v
		g[i] = (up - down) / (2 * eps)
	}
	return g
}

// greedy continues a prompt by full passes.
func (m *refModel) greedy(prompt []int64, n int) (ids []int64, margin float64) {
	seq := append([]int64(nil), prompt...)
	margin = math.Inf(1)
	for range n {
		z := m.row(seq, func(int) bool { return true })
		last := z[len(z)-1]
		best, second := 0, -1
		for i := 1; i < len(last); i++ {
			switch {
			case last[i] > last[best]:
				best, second = i, best
			case second < 0 || last[i] > last[second]:
				second = i
			}
		}
		margin = min(margin, last[best]-last[second])
		seq = append(seq, int64(best))
		ids = append(ids, int64(best))
	}
	return ids, margin
}

// refAdamW is torch.optim.AdamW in float64.
type refAdamW struct {
	m, v map[string][]float64
	step int
}

func (a *refAdamW) update(name string, w, g []float64, s *summary, lr, clip float64) {
	if a.m[name] == nil {
		a.m[name], a.v[name] = make([]float64, len(w)), make([]float64, len(w))
	}
	b1, b2 := s.HParams.Betas[0], s.HParams.Betas[1]
	c1, c2 := 1-math.Pow(b1, float64(a.step)), 1-math.Pow(b2, float64(a.step))
	for i := range w {
		d := g[i] * clip
		a.m[name][i] += (1 - b1) * (d - a.m[name][i])
		a.v[name][i] = b2*a.v[name][i] + (1-b2)*d*d
		w[i] *= 1 - lr*s.HParams.WD
		w[i] -= lr / c1 * a.m[name][i] / (math.Sqrt(a.v[name][i])/math.Sqrt(c2) + s.HParams.Eps)
	}
}

// refBatch draws a batch in the fixtures' form: row 1 padded on the right, some labels ignored.
func refBatch(rng *rand.Rand, rows, seq, vocab int) batch {
	b := batch{rows: rows, seq: seq}
	for r := range rows {
		for s := range seq {
			id := int64(rng.IntN(vocab))
			label, mask := id, int64(1)
			if s < 2-r%2 {
				label = -100
			}
			if r == 1 && s >= seq-seq/3 {
				id, label, mask = 0, -100, 0
			}
			b.ids, b.labels, b.mask = append(b.ids, id), append(b.labels, label), append(b.mask, mask)
		}
	}
	return b
}
