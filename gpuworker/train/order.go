package train

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
)

// philox is Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): 128 random bits from a key and a counter.
func philox(key [2]uint32, ctr [4]uint32) [4]uint32 {
	const m0, m1, w0, w1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
	for range 10 {
		hi0, lo0 := bits.Mul32(m0, ctr[0])
		hi1, lo1 := bits.Mul32(m1, ctr[2])
		ctr = [4]uint32{hi1 ^ ctr[1] ^ key[0], lo1, hi0 ^ ctr[3] ^ key[1], lo0}
		key[0] += w0
		key[1] += w1
	}
	return ctr
}

// orderStream keeps the counters of the sample order apart from every other use of the seed.
const orderStream = 0x6f726472

// permutation is the order of n samples in an epoch: a Fisher-Yates shuffle with Philox keyed by the seed, its counter by (position,
// epoch). Indices are drawn by the high word of a 64-bit product, whose bias is below n/2^64.
func permutation(seed uint64, epoch int64, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(i)
	}
	key := [2]uint32{uint32(seed), uint32(seed >> 32)}
	for i := n - 1; i > 0; i-- {
		r := philox(key, [4]uint32{uint32(i), uint32(epoch), uint32(epoch >> 32), orderStream})
		j, _ := bits.Mul64(uint64(r[0])<<32|uint64(r[1]), uint64(i+1))
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Planner says which samples each leaf of each step has. It does no I/O.
type Planner struct {
	seed            uint64
	samples         int
	micro, leaves   int
	order           *schemas.SampleOrder
	batches         int // micro-batches of an epoch
	perEpoch, total int64

	// length, when not nil, is the number of tokens of a sample; byLength groups samples by it, maxTokens fills leaves by it.
	length    func(sample int) int
	byLength  bool
	maxTokens int
	// evals, when not nil, says how many evaluation sets have been gone through when a step begins (kind torch_global).
	evals func(step int64) int64
	// firsts[e] is the first step of epoch e, where epochs differ in their steps.
	firsts []int64
	// passes are where the passes of a stream begin among the samples, and the end; nil: each pass has all samples.
	passes []int

	epoch   int64
	current []int32
	bounds  []int // where each leaf of the epoch begins in current, and the end
}

// NewPlanner plans steps over samples: micro sequences a leaf, leaves a step. As in transformers' Trainer an epoch has
// ceil(samples/(micro*leaves)) steps, its last one short when they do not divide, and the stage ends after steps (when positive), else
// after ceil(epochs * steps of an epoch). order nil is a shuffle by Philox; else samples are dealt as it says.
func NewPlanner(seed uint64, samples, micro, leaves int, epochs float64, steps int64, order *schemas.SampleOrder) (*Planner, error) {
	if samples < 1 || samples > math.MaxInt32 {
		return nil, fmt.Errorf("cannot plan steps over %d samples", samples)
	}
	if micro < 1 || leaves < 1 {
		return nil, fmt.Errorf("cannot plan steps of %d leaves with %d sequences", leaves, micro)
	}
	p := &Planner{seed: seed, samples: samples, micro: micro, leaves: leaves, order: order, epoch: -1}
	if p.batches = p.batchesOf(samples); p.batches == 0 {
		return nil, fmt.Errorf("cannot plan steps: %d samples fill no batch of %d", samples, micro*max(1, order.Deal))
	}
	p.perEpoch = int64((p.batches + leaves - 1) / leaves)
	if order != nil && order.Stream {
		if p.perEpoch = int64(p.batches / leaves); p.perEpoch == 0 {
			return nil, shortStream(p.batches, leaves)
		}
	}
	p.total = steps
	if steps <= 0 {
		p.total = int64(math.Ceil(epochs * float64(p.perEpoch)))
	}
	if p.total < 1 {
		return nil, fmt.Errorf("cannot plan steps: %g epochs of %d steps are none", epochs, p.perEpoch)
	}
	return p, nil
}

// shortStream is the error of a stream that ends before its first step: the Trainer begins it again for ever.
func shortStream(batches, leaves int) error {
	return schemas.Errorf(schemas.CodeData, "streaming", "the stream ends after %d micro-batches, a step needs %d: LLaMA-Factory never makes one", batches, leaves).
		WithHint("lower gradient_accumulation_steps, or leave out streaming")
}

// batchesOf is the number of micro-batches of so many samples.
func (p *Planner) batchesOf(samples int) int {
	n := (samples + p.micro - 1) / p.micro
	if p.order == nil {
		return n
	}
	deal := max(1, p.order.Deal)
	if p.order.DropLast {
		n = samples / p.micro
		return n - n%deal
	}
	return (n + deal - 1) / deal * deal
}

// SetPasses says how many samples the passes of a stream have, which lie one behind the other; they begin again where there are no more. Without
// it every pass has all samples.
func (p *Planner) SetPasses(samples []int) error {
	if len(samples) == 0 {
		return nil
	}
	if p.order == nil || !p.order.Stream {
		return fmt.Errorf("cannot plan passes: the samples are no stream")
	}
	p.passes, p.firsts, p.epoch = []int{0}, []int64{0}, -1
	for k, n := range samples {
		p.passes = append(p.passes, p.passes[k]+n)
		if b := p.batchesOf(n); b < p.leaves {
			return shortStream(b, p.leaves)
		}
	}
	if got := p.passes[len(samples)]; got != p.samples {
		return fmt.Errorf("cannot plan passes of %d samples over %d", got, p.samples)
	}
	p.perEpoch = p.stepsUntil(1)
	return nil
}

// pass is the range of samples of an epoch of a stream.
func (p *Planner) pass(epoch int64) (from, to int) {
	if p.passes == nil {
		return 0, p.samples
	}
	k := epoch % int64(len(p.passes)-1)
	return p.passes[k], p.passes[k+1]
}

// GroupByLength makes samples of like length meet in a step, as transformers' LengthGroupedSampler does: the epoch's order is cut into
// stretches of up to 50 global batches of one device, each is sorted by length, longest first, and the longest sample of all comes first.
func (p *Planner) GroupByLength(length func(sample int) int) {
	p.length, p.byLength = length, true
}

// FillTokens makes leaves of as many samples, in the epoch's order, as have at most limit tokens together (at least one), in place of a
// fixed number. Epochs may differ in their number of steps; the plan's total is counted anew.
func (p *Planner) FillTokens(limit int, length func(sample int) int, epochs float64, steps int64) error {
	if limit < 1 {
		return fmt.Errorf("cannot plan leaves of at most %d tokens", limit)
	}
	p.length, p.maxTokens = length, limit
	p.firsts, p.epoch = []int64{0}, -1
	whole := int(epochs)
	for e := range whole {
		p.stepsUntil(int64(e) + 1)
	}
	p.perEpoch = p.stepsUntil(1)
	p.total = p.stepsUntil(int64(whole))
	if rest := epochs - float64(whole); rest > 0 {
		p.total += int64(math.Ceil(rest * float64(p.stepsUntil(int64(whole)+1)-p.total)))
	}
	if steps > 0 {
		p.total = steps
	}
	if p.total < 1 {
		return fmt.Errorf("cannot plan steps: %g epochs of %d steps are none", epochs, p.perEpoch)
	}
	return nil
}

// stepsUntil is the first step of an epoch, where epochs differ.
func (p *Planner) stepsUntil(epoch int64) int64 {
	for int64(len(p.firsts)) <= epoch {
		e := int64(len(p.firsts)) - 1
		if p.passes != nil {
			from, to := p.pass(e)
			p.firsts = append(p.firsts, p.firsts[e]+int64(p.batchesOf(to-from)/p.leaves))
			continue
		}
		p.load(e)
		leaves := len(p.bounds) - 1
		p.firsts = append(p.firsts, p.firsts[e]+int64((leaves+p.leaves-1)/p.leaves))
	}
	return p.firsts[epoch]
}

// locate is the epoch of a step and its place there.
func (p *Planner) locate(step int64) (epoch int64, at int) {
	if p.maxTokens == 0 && p.passes == nil {
		return step / p.perEpoch, int(step % p.perEpoch)
	}
	for p.stepsUntil(epoch+1) <= step {
		epoch++
	}
	return epoch, int(step - p.firsts[epoch])
}

// load computes order and leaves of an epoch.
func (p *Planner) load(epoch int64) {
	if epoch == p.epoch {
		return
	}
	order := p.shuffled(epoch)
	if p.byLength {
		deal := 1
		if p.order != nil {
			deal = max(1, p.order.Deal)
		}
		order = groupByLength(order, p.micro*p.leaves/deal, p.length)
	}
	p.current, p.epoch, p.bounds = p.fill(order), epoch, p.bounds[:0]
	for at := 0; at < len(p.current); {
		p.bounds = append(p.bounds, at)
		n := min(p.micro, len(p.current)-at)
		if p.maxTokens > 0 {
			n = 1
			for sum := p.length(int(p.current[at])); at+n < len(p.current); n++ {
				if sum += p.length(int(p.current[at+n])); sum > p.maxTokens {
					break
				}
			}
		}
		at += n
	}
	p.bounds = append(p.bounds, len(p.current))
}

// groupByLength reorders samples; see GroupByLength.
func groupByLength(order []int32, batch int, length func(int) int) []int32 {
	multiple := min(len(order)/(batch*4), 50)
	size := max(1, multiple) * batch
	out := slices.Clone(order)
	longest := 0
	for at := 0; at < len(out); at += size {
		mega := out[at:min(at+size, len(out))]
		slices.SortStableFunc(mega, func(a, b int32) int { return length(int(b)) - length(int(a)) })
		if length(int(mega[0])) > length(int(out[longest])) {
			longest = at
		}
	}
	out[0], out[longest] = out[longest], out[0]
	return out
}

// Total is the number of steps of the stage, PerEpoch that of one epoch.
func (p *Planner) Total() int64 { return p.total }

// PerEpoch is the number of steps of one epoch.
func (p *Planner) PerEpoch() int64 { return p.perEpoch }

// Epoch is how many epochs are done after so many steps: whole ones, and the share of this one's micro-batches, as transformers logs it.
func (p *Planner) Epoch(steps int64) float64 {
	if steps < 1 {
		return 0
	}
	if p.maxTokens > 0 {
		epoch, at := p.locate(steps - 1)
		return float64(epoch) + float64(at+1)/float64(p.stepsUntil(epoch+1)-p.firsts[epoch])
	}
	if p.order != nil && p.order.Stream {
		epoch, at := p.locate(steps - 1)
		return float64(epoch) + float64(at+1)/float64(p.total) // the length of a pass is not known: it counts as the whole of training
	}
	epoch, at := (steps-1)/p.perEpoch, (steps-1)%p.perEpoch+1
	return float64(epoch) + float64(min(int(at)*p.leaves, p.batches))/float64(p.batches)
}

// shuffled is the samples of an epoch in the order of the sampler.
func (p *Planner) shuffled(epoch int64) []int32 {
	if p.order == nil {
		return permutation(p.seed, epoch, p.samples)
	}
	var out []int32
	var err error
	switch p.order.Kind {
	case "torch":
		out, err = pyrand.Randperm(p.samples, p.order.Seed+uint64(epoch))
	case "torch_global":
		// Every loader draws a seed for its workers (64 bits) when it begins; those of evaluations before the epoch, too.
		skip := 2*(epoch+1) + int64(p.samples-1)*epoch
		if p.evals != nil {
			skip += 2 * p.evals(epoch*p.perEpoch)
		}
		out, err = pyrand.RandpermAfter(p.samples, p.order.Seed, skip)
	default:
		from, to := p.pass(epoch)
		out = make([]int32, to-from)
		for i := range out {
			out[i] = int32(from + i)
		}
	}
	if err != nil {
		// More samples than torch shuffles with 32-bit draws: there is no order to reproduce.
		return permutation(p.order.Seed, epoch, p.samples)
	}
	return out
}

// fill deals a sampler's order: without what is dropped, and with samples from its beginning where devices do not come out even.
func (p *Planner) fill(out []int32) []int32 {
	if p.order == nil {
		return out
	}
	want := p.batchesOf(len(out)) * p.micro
	if p.order.Deal <= 1 {
		want = min(want, len(out))
	}
	for n := len(out); len(out) < want; {
		out = append(out, out[len(out)-n]) // from the epoch's beginning, again and again where there are fewer samples than devices
	}
	return out[:want]
}

// evalOrder is the samples 0 to n-1 in batches of micro, as they are dealt for evaluation: in order, and, over several nominal devices, the
// last turn filled from the beginning, as accelerate does.
func evalOrder(n, micro int, order *schemas.SampleOrder) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	if order == nil || order.Deal <= 1 || n == 0 {
		return out
	}
	turn := micro * order.Deal
	for len(out)%turn != 0 {
		out = append(out, out[len(out)-n])
	}
	return out
}

// leafBounds are the bounds of a step's leaves within the epoch's order.
func (p *Planner) leafBounds(step int64) []int {
	epoch, at := p.locate(step)
	p.load(epoch)
	lo := min(at*p.leaves, len(p.bounds)-1)
	return p.bounds[lo:min(lo+p.leaves+1, len(p.bounds))]
}

// Carried is how many of a step's leaves, its first ones, are the rest of the pass before: they count by themselves.
func (p *Planner) Carried(step int64) int {
	if p.order == nil || !p.order.Stream {
		return 0
	}
	epoch, at := p.locate(step)
	if epoch == 0 || at > 0 {
		return 0
	}
	from, to := p.pass(epoch - 1)
	return p.batchesOf(to-from) % p.leaves
}

// Leaves is the number of leaves of a step that have samples.
func (p *Planner) Leaves(step int64) int { return p.Carried(step) + len(p.leafBounds(step)) - 1 }

// Leaf lists the samples of a leaf. The slice is valid until another epoch is asked for.
func (p *Planner) Leaf(step int64, leaf int) []int32 {
	c := p.Carried(step)
	if leaf < c {
		epoch, _ := p.locate(step)
		before := p.fill(p.shuffled(epoch - 1))
		at := (p.batchesOf(len(before)) - c + leaf) * p.micro
		return before[at:min(at+p.micro, len(before))]
	}
	b := p.leafBounds(step)
	return p.current[b[leaf-c]:b[leaf-c+1]]
}

// Window is how many leaves of a step are averaged together with a leaf: all, unless some are carried.
func (p *Planner) Window(step int64, leaf int) int {
	c := p.Carried(step)
	if leaf < c {
		return c
	}
	return p.Leaves(step) - c
}

// Step lists all samples of a step, but for carried leaves.
func (p *Planner) Step(step int64) []int32 {
	b := p.leafBounds(step)
	return p.current[b[0]:b[len(b)-1]]
}
