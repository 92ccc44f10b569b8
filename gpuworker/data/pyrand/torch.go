package pyrand

import "math"

// Torch is torch's default generator on the CPU after torch.manual_seed: uniform_ and normal_ of float32 tensors. It is not safe for
// concurrent use.
type Torch struct{ mt MT }

// NewTorch seeds a generator.
func NewTorch(seed uint64) *Torch { return &Torch{*NewMT(uint32(seed))} }

// Clone returns a generator that draws the same numbers from here on.
func (g *Torch) Clone() *Torch { c := *g; return &c }

// SkipUniform leaves out n elements of uniform_.
func (g *Torch) SkipUniform(n int64) { g.mt.Skip(n) }

// SkipNormal leaves out a tensor of n >= 16 elements of normal_.
func (g *Torch) SkipNormal(n int64) { g.mt.Skip(NormalDraws(n)) }

// NormalDraws is the number of 32-bit numbers that normal_ takes for a tensor of n >= 16 elements.
func NormalDraws(n int64) int64 {
	if n%16 != 0 {
		return n + 16
	}
	return n
}

// unit is the next number in [0, 1), of 24 bits.
func (g *Torch) unit() float32 { return float32(g.mt.Uint32()&(1<<24-1)) * (1.0 / (1 << 24)) }

// Uniform fills dst with tensor.uniform_(from, to). torch's build for AVX2 fuses the product with the sum; the product of two float32 is
// exact in float64.
func (g *Torch) Uniform(dst []float32, from, to float64) {
	lo, span := float32(from), float64(float32(to)-float32(from))
	for i := range dst {
		dst[i] = float32(float64(g.unit())*span + float64(lo))
	}
}

// Uint64 is the generator's next number of 64 bits, what random_ takes for wide ranges.
func (g *Torch) Uint64() uint64 {
	high := uint64(g.mt.Uint32()) << 32
	return high | uint64(g.mt.Uint32())
}

// Normal fills dst with tensor.normal_(mean, std): Box-Muller in blocks of 16, the last 16 drawn again when they do not come out even; of fewer
// than 16 elements two by two in float64, as a generator does that has drawn none before. torch's vectorized logarithm, sine and cosine differ from these by at most a few units in the last place.
func (g *Torch) Normal(dst []float32, mean, std float64) {
	if len(dst) < 16 {
		g.few(dst, mean, std)
		return
	}
	for i := range dst {
		dst[i] = g.unit()
	}
	for i := 0; i+16 <= len(dst); i += 16 {
		boxMuller(dst[i:i+16], float32(mean), float32(std))
	}
	if len(dst)%16 != 0 {
		last := dst[len(dst)-16:]
		for i := range last {
			last[i] = g.unit()
		}
		boxMuller(last, float32(mean), float32(std))
	}
}

func (g *Torch) few(dst []float32, mean, std float64) {
	unit := func() float64 { return float64(g.Uint64()&(1<<53-1)) / (1 << 53) }
	for i := 0; i < len(dst); i += 2 {
		u1, u2 := unit(), unit()
		radius := math.Sqrt(-2 * math.Log1p(-u2))
		sin, cos := math.Sincos(2 * math.Pi * u1)
		dst[i] = float32(radius*cos*std + mean)
		if i+1 < len(dst) {
			dst[i+1] = float32(radius*sin*std + mean)
		}
	}
}

func boxMuller(b []float32, mean, std float32) {
	for j := range 8 {
		u1, u2 := 1-b[j], b[j+8]
		radius := float32(math.Sqrt(float64(float32(-2 * float32(math.Log(float64(u1)))))))
		sin, cos := math.Sincos(float64(float32(2*math.Pi) * u2))
		b[j] = float32(float32(radius*float32(cos))*std) + mean
		b[j+8] = float32(float32(radius*float32(sin))*std) + mean
	}
}
