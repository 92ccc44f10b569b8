package train

import (
	"fmt"
	"math"
	"math/bits"

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

	epoch   int64
	current []int32
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
	p := &Planner{seed: seed, samples: samples, micro: micro, leaves: leaves, order: order, epoch: -1, batches: (samples + micro - 1) / micro}
	if order != nil {
		deal := max(1, order.Deal)
		if order.DropLast {
			p.batches = samples / micro
			p.batches -= p.batches % deal
		} else {
			p.batches = (p.batches + deal - 1) / deal * deal
		}
		if p.batches == 0 {
			return nil, fmt.Errorf("cannot plan steps: %d samples fill no batch of %d", samples, micro*deal)
		}
	}
	p.perEpoch = int64((p.batches + leaves - 1) / leaves)
	p.total = steps
	if steps <= 0 {
		p.total = int64(math.Ceil(epochs * float64(p.perEpoch)))
	}
	if p.total < 1 {
		return nil, fmt.Errorf("cannot plan steps: %g epochs of %d steps are none", epochs, p.perEpoch)
	}
	return p, nil
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
	epoch, at := (steps-1)/p.perEpoch, (steps-1)%p.perEpoch+1
	return float64(epoch) + float64(min(int(at)*p.leaves, p.batches))/float64(p.batches)
}

// epochOrder is the samples of an epoch in the order in which they are dealt.
func (p *Planner) epochOrder(epoch int64) []int32 {
	var out []int32
	switch {
	case p.order == nil:
		return permutation(p.seed, epoch, p.samples)
	case p.order.Kind == "torch":
		var err error
		if out, err = pyrand.Randperm(p.samples, p.order.Seed+uint64(epoch)); err != nil {
			// More samples than torch shuffles with 32-bit draws: there is no order to reproduce.
			return permutation(p.order.Seed, epoch, p.samples)
		}
	default:
		out = make([]int32, p.samples)
		for i := range out {
			out[i] = int32(i)
		}
	}
	want := p.batches * p.micro
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

// batch is the samples of a step, counted from 0.
func (p *Planner) batch(step int64) []int32 {
	epoch, at := step/p.perEpoch, int(step%p.perEpoch)
	if epoch != p.epoch {
		p.current, p.epoch = p.epochOrder(epoch), epoch
	}
	lo := at * p.micro * p.leaves
	return p.current[lo:min(lo+p.micro*p.leaves, len(p.current))]
}

// Leaves is the number of leaves of a step that have samples.
func (p *Planner) Leaves(step int64) int {
	return (len(p.batch(step)) + p.micro - 1) / p.micro
}

// Leaf lists the samples of a leaf. The slice is valid until another epoch is asked for.
func (p *Planner) Leaf(step int64, leaf int) []int32 {
	b := p.batch(step)
	return b[leaf*p.micro : min((leaf+1)*p.micro, len(b))]
}

// Step lists all samples of a step.
func (p *Planner) Step(step int64) []int32 { return p.batch(step) }
