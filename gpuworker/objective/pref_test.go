package objective

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// sample makes log-probabilities of two pairs of unequal responses, with prompts and padding between them.
func sample(seed uint64) (lp []float32, response, whole []int32, spans []Span, ref []LogProb) {
	r := rand.New(rand.NewPCG(seed, 9))
	at := 0
	for k := range 4 {
		n := 7 + k%3
		spans = append(spans, Span{at, at + n})
		for i := range n + 1 { // one position of padding
			lp = append(lp, float32(-0.2-2*r.Float64()))
			target, any := int32(-100), int32(i)
			if i >= n-1 {
				any = -100
			}
			if i >= 2 && i < n-1 {
				target = int32(i)
			}
			response, whole = append(response, target), append(whole, any)
		}
		at += n + 1
		ref = append(ref, LogProb{Sum: -8 + r.Float64(), Len: n - 3})
	}
	return lp, response, whole, spans, ref
}

// The gradient of every pairwise loss by every token equals central differences in float64.
func TestPairLossGradients(t *testing.T) {
	t.Parallel()
	var cases []PairLoss
	for _, n := range schemas.PrefLosses() {
		cases = append(cases, PairLoss{Name: n, Beta: 0.3, Gamma: 0.2}, PairLoss{Name: n, Beta: 0.1, FTX: 0.5}, PairLoss{Name: n, Beta: 0.2, LDAlpha: 0.4})
	}
	cases = append(cases, PairLoss{Name: "sigmoid", Beta: 0.3, Smoothing: 0.2}, PairLoss{Name: "robust", Beta: 0.3, Smoothing: 0.2})
	for _, l := range cases {
		lp, response, whole, spans, ref := sample(3)
		if !l.WholeSequence() {
			whole = response
		}
		const weight = 0.7
		_, grad := l.pairs(lp, response, whole, spans, ref, weight)
		any := false
		for i := range lp {
			f := func(h float32) float64 {
				old := lp[i]
				lp[i] += h
				res, _ := l.pairs(lp, response, whole, spans, ref, weight)
				lp[i] = old
				return weight * res.Sum
			}
			if l.Name == "kto_pair" {
				// The divergence that it compares with is a constant to the gradient: hold it.
				f = func(h float32) float64 { return weight * heldKTO(l, lp, response, spans, ref, i, h) }
			}
			const h = 1.0 / 128
			want := (f(h) - f(-h)) / (2 * h)
			if math.Abs(float64(grad[i])-want) > 1e-4*math.Abs(want)+2e-5 {
				t.Errorf("%+v: token %d has the gradient %g, differences give %g", l, i, grad[i], want)
				break
			}
			any = any || grad[i] != 0
		}
		if !any {
			t.Errorf("%+v: no gradient at all", l)
		}
	}
}

// heldKTO is kto_pair's loss with one log-probability moved, but with the divergences of the unmoved ones.
func heldKTO(l PairLoss, lp []float32, targets []int32, spans []Span, ref []LogProb, i int, h float32) float64 {
	make2 := func(lp []float32) (pairs []Pair, long []float64) {
		s := sums(lp, targets, spans)
		for k := 0; k < len(s); k += 2 {
			c, r := s[k].Sum, s[k+1].Sum
			if l.LDAlpha > 0 {
				short := min(s[k].Len, s[k+1].Len)
				c, r = longSum(lp, targets, spans[k], short, l.LDAlpha), longSum(lp, targets, spans[k+1], short, l.LDAlpha)
			}
			pairs = append(pairs, Pair{c, r, ref[k].Sum, ref[k+1].Sum})
			long = append(long, s[k].Mean())
		}
		return pairs, long
	}
	held, _ := make2(lp)
	moved := append([]float32(nil), lp...)
	moved[i] += h
	pairs, means := make2(moved)
	var sum float64
	for k, p := range pairs {
		loss, _ := l.eval(p, meanKL(held))
		sum += loss - l.FTX*means[k]
	}
	return sum
}

// Known values: DPO of equal models is log 2, IPO of them 1/(2 beta)^2, a hinge beyond its margin 0.
func TestPairLossValues(t *testing.T) {
	t.Parallel()
	same := Pair{Chosen: -3, Rejected: -4, RefChosen: -3, RefRejected: -4}
	for _, c := range []struct {
		l    PairLoss
		p    Pair
		want float64
	}{
		{PairLoss{Name: "sigmoid", Beta: 0.1}, same, math.Ln2},
		{PairLoss{Name: "sigmoid", Beta: 0.1, Smoothing: 0.3}, same, math.Ln2},
		{PairLoss{Name: "robust", Beta: 0.1, Smoothing: 0.3}, same, math.Ln2},
		{PairLoss{Name: "ipo", Beta: 0.1}, same, 25},
		{PairLoss{Name: "hinge", Beta: 0.1}, same, 1},
		{PairLoss{Name: "hinge", Beta: 0.1}, Pair{Chosen: 20}, 0},
		{PairLoss{Name: "simpo", Beta: 2, Gamma: 2}, Pair{Chosen: -3, Rejected: -4}, math.Ln2},
		{PairLoss{Name: "kto_pair", Beta: 0.1}, same, 0.5},
	} {
		if got, _ := c.l.eval(c.p, pairKL{}); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: %g, want %g", c.l.Name, got, c.want)
		}
	}
}
