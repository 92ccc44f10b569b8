package infer

import (
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// slot is a row of the key-value cache. Only the engine's goroutine touches it.
type slot struct {
	row int
	// answer is what the row works for, nil when it is idle.
	answer *Answer
	// ids are the tokens whose keys and values the row holds; they stay when the answer has ended.
	ids []int32
	// prompt is what of the prompt is still to be computed, next (where there is none) the token that was chosen and is not computed yet.
	prompt []int32
	next   int32
	// used orders slots by when they were given an answer.
	used uint64
}

// common is the number of ids at the beginning that are equal.
func common(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// begin gives an answer to the slot: what it holds of the prompt is kept, but for the last token, whose logits are needed. limit is the number of
// positions beyond which rotary frequencies depend on the length (0: never).
func (s *slot) begin(a *Answer, limit int) {
	n := min(common(s.ids, a.r.Prompt), len(a.r.Prompt)-1)
	if limit > 0 && (len(a.r.Prompt) > limit || len(s.ids) > limit) {
		n = 0 // keys were rotated by other frequencies
	}
	s.answer, s.ids, s.prompt = a, s.ids[:n], a.r.Prompt[n:]
	a.mu.Lock()
	a.placed, a.reused = time.Now(), n
	a.mu.Unlock()
}

// place is the idle slot that holds the most of a prompt; of equals the one that is unused for longest. nil when none is idle.
func (e *Engine) place(prompt []int32) *slot {
	var best *slot
	most := -1
	for _, s := range e.slots {
		if s.answer != nil {
			continue
		}
		if n := common(s.ids, prompt); n > most || n == most && s.used < best.used {
			best, most = s, n
		}
	}
	return best
}

// reserve makes the cache long enough for n positions in every row.
func (e *Engine) reserve(n int) error {
	if e.cache != nil && n <= e.cache.Cap {
		return nil
	}
	size := 256
	if e.cache != nil {
		size = e.cache.Cap
	}
	for size < n {
		size *= 2
	}
	size = min(size, e.context+1)
	m := e.model
	c, err := zoo.NewCache(m.dev, m.loaded.Model.Info(), m.tape.Compute(), len(e.slots), size)
	if err != nil {
		return err
	}
	if e.cache != nil {
		for _, s := range e.slots {
			if len(s.ids) > 0 {
				c.Prefix(m.queue, e.cache, s.row, len(s.ids))
			}
		}
		if err := m.queue.Sync(); err != nil {
			c.Close()
			return err
		}
		e.cache.Close()
	}
	e.cache = c
	return nil
}

// prefill computes the next piece of a slot's prompt, of at most n tokens; with the last one it chooses the answer's first token.
func (e *Engine) prefill(s *slot, n int) error {
	info := e.model.loaded.Model.Info()
	if info.LengthLimit > 0 && len(s.ids)+len(s.prompt) > info.LengthLimit {
		n = len(s.prompt) // frequencies depend on the length: all keys are rotated by those of the whole prompt
	}
	part := s.prompt[:min(n, len(s.prompt))]
	if err := e.reserve(len(s.ids) + len(part) + 1); err != nil {
		return err
	}
	c := e.cache.Every(s.row, 1, 1)
	c.Len = len(s.ids)
	t := e.model.tape
	t.Reset(e.ctx, false)
	logits := e.model.loaded.Model.Decode(t, &nn.Batch{Rows: 1, Seq: len(part), IDs: part}, c)
	if err := t.Err(); err != nil {
		return err
	}
	if s.ids, s.prompt = append(s.ids, part...), s.prompt[len(part):]; len(s.prompt) > 0 {
		return e.model.queue.Sync()
	}
	return e.choose(logits, []*slot{s})
}

// step computes one token of every answer that has begun.
func (e *Engine) step(active []*slot) error {
	longest := 0
	for _, s := range active {
		longest = max(longest, len(s.ids))
	}
	if err := e.reserve(longest + 1); err != nil {
		return err
	}
	rows := e.rows(active)
	first, stride := rows[0].row, 1
	if len(rows) > 1 {
		stride = rows[1].row - rows[0].row
	}
	c := e.cache.Every(first, stride, len(rows))
	b := &nn.Batch{Rows: len(rows), Seq: 1}
	for _, s := range rows {
		// An idle row between others writes behind what it holds, and sees only that.
		id, pos, from := int32(0), 0, len(s.ids)
		if s.computes() {
			id, pos, from = s.next, len(s.ids), 0
		}
		at := min(len(s.ids), c.Cap-1)
		b.IDs, b.Positions = append(b.IDs, id), append(b.Positions, int32(pos))
		c.Starts, c.KVFirst = append(c.Starts, at), append(c.KVFirst, int32(min(from, at)))
	}
	if len(rows) == len(active) {
		c.KVFirst = nil
	}
	t := e.model.tape
	t.Reset(e.ctx, false)
	logits := e.model.loaded.Model.Decode(t, b, c)
	if err := t.Err(); err != nil {
		return err
	}
	for _, s := range active {
		s.ids = append(s.ids, s.next)
	}
	return e.choose(logits, rows)
}

// computes reports whether the slot's answer has begun.
func (s *slot) computes() bool { return s.answer != nil && len(s.prompt) == 0 }

// rows are the rows that a step computes: the active ones, at equal distances; where they are not, with the idle ones between them.
func (e *Engine) rows(active []*slot) []*slot {
	even := true
	for i := 2; i < len(active); i++ {
		even = even && active[i].row-active[i-1].row == active[1].row-active[0].row
	}
	if even {
		return active
	}
	return e.slots[active[0].row : active[len(active)-1].row+1]
}

// choose picks the next token of each row that computes, from logits [rows, vocab], and gives it to its answer.
func (e *Engine) choose(logits nn.Value, rows []*slot) error {
	t := e.model.tape
	greedy := true
	for _, s := range rows {
		greedy = greedy && (!s.computes() || s.answer.greedy())
	}
	ids := make([]int32, len(rows))
	if greedy {
		x := t.Ints(ids, int64(len(rows)), 1)
		t.Queue().RowTopK(kernels.RowTopK{X: t.Data(logits), IDs: x, K: 1})
		t.Check("argmax", t.Data(logits))
		if err := t.Err(); err != nil {
			return err
		}
		if err := kernels.Download(t.Queue(), ids, x); err != nil {
			return err
		}
	} else {
		all, err := t.Read(logits)
		if err != nil {
			return err
		}
		v := len(all) / len(rows)
		z := make([]float64, v)
		for r, s := range rows {
			if !s.computes() {
				continue
			}
			for i, x := range all[r*v : (r+1)*v] {
				z[i] = float64(x)
			}
			a := s.answer
			ids[r] = a.r.Choose(z, s.ids, generate.Uniform(a.r.Seed, a.r.Row, a.made))
		}
	}
	for r, s := range rows {
		if s.computes() {
			s.next = ids[r]
			s.answer.add(ids[r])
		}
	}
	return nil
}
