package nn

import (
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// RopeScaling is the "rope_scaling" (transformers 4) or "rope_parameters" (5) object of a Hugging Face config. Pointers tell an
// absent value from a zero.
type RopeScaling struct {
	Type            string   `json:"rope_type"`
	OldType         string   `json:"type"`
	Theta           *float64 `json:"rope_theta"`
	Factor          *float64 `json:"factor"`
	LowFreqFactor   *float64 `json:"low_freq_factor"`
	HighFreqFactor  *float64 `json:"high_freq_factor"`
	OriginalMax     *float64 `json:"original_max_position_embeddings"`
	AttentionFactor *float64 `json:"attention_factor"`
	BetaFast        *float64 `json:"beta_fast"`
	BetaSlow        *float64 `json:"beta_slow"`
	MScale          *float64 `json:"mscale"`
	MScaleAllDim    *float64 `json:"mscale_all_dim"`
	Truncate        *bool    `json:"truncate"`
	Partial         *float64 `json:"partial_rotary_factor"`
	// Alpha is hunyuan's factor on the base.
	Alpha *float64 `json:"alpha"`
	// LongFactor and ShortFactor divide the frequencies of longrope, one each.
	LongFactor  []float64 `json:"long_factor"`
	ShortFactor []float64 `json:"short_factor"`
	// ShortMScale and LongMScale are phimoe's factors on cos and sin.
	ShortMScale *float64 `json:"short_mscale"`
	LongMScale  *float64 `json:"long_mscale"`
}

// Rope makes rotary-embedding tables as transformers 4.57 does (modeling_rope_utils.py): frequencies are rounded to float32 before
// they are multiplied by the position.
type Rope struct {
	// Dim is the number of rotated elements of a head; Interleaved pairs neighbours instead of halves.
	Dim         int
	Interleaved bool
	// Odd allows an odd Dim: exponents are then fractions of Dim and one more element is rotated, as in GLM.
	Odd bool
	// Original is the config's own original_max_position_embeddings (longrope), 0 when it has none.
	Original int
	// Theta is the base; MaxPos is max_position_embeddings.
	Theta  float64
	MaxPos int
	// Scaling is nil for the default type.
	Scaling *RopeScaling
	// MScales takes ShortMScale or LongMScale, by the length, for the attention factor of longrope; both and OriginalMax are given.
	MScales bool
}

// Kind is the rope type's name, "default" when there is no scaling.
func (r Rope) Kind() string {
	switch {
	case r.Scaling == nil:
		return "default"
	case r.Scaling.Type != "":
		return r.Scaling.Type
	case r.Scaling.OldType != "":
		return r.Scaling.OldType
	}
	return "default"
}

// Validate reports a type or parameter that the tables cannot be made from.
func (r Rope) Validate() error {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeModel, "config.json:rope_scaling", format, args...)
	}
	if r.Dim < 1 || r.Dim%2 != 0 && !r.Odd {
		return bad("rotary dimension %d is not even and positive", r.Dim)
	}
	if !(r.Theta > 0) || r.MaxPos < 1 {
		return bad("rope_theta %g and max_position_embeddings %d must be positive", r.Theta, r.MaxPos)
	}
	s := r.Scaling
	need := func(p *float64, name string) error {
		if p == nil || !(*p > 0) {
			return bad("rope type %q needs a positive %s", r.Kind(), name)
		}
		return nil
	}
	switch r.Kind() {
	case "default":
		return nil
	case "linear", "yarn":
		return need(s.Factor, "factor")
	case "dynamic":
		if r.Dim == 2 {
			return bad("rope type dynamic divides by zero for 2 rotated elements, as in transformers")
		}
		return need(s.Factor, "factor")
	case "longrope":
		return r.validateLong()
	case "llama3":
		for _, e := range []error{need(s.Factor, "factor"), need(s.LowFreqFactor, "low_freq_factor"),
			need(s.HighFreqFactor, "high_freq_factor"), need(s.OriginalMax, "original_max_position_embeddings")} {
			if e != nil {
				return e
			}
		}
		if *s.HighFreqFactor <= *s.LowFreqFactor {
			return bad("high_freq_factor must exceed low_freq_factor")
		}
		return nil
	}
	return schemas.Errorf(schemas.CodeUnsupported, "config.json:rope_scaling", "rope type %q is not supported (default, linear, dynamic, yarn, longrope, llama3 are)", r.Kind())
}

func (r Rope) validateLong() error {
	s := r.Scaling
	for _, f := range []struct {
		name string
		v    []float64
	}{{"long_factor", s.LongFactor}, {"short_factor", s.ShortFactor}} {
		// One value serves both frequencies of 3 elements, as in transformers.
		if fits := len(f.v) == r.half() || r.Dim == 3 && len(f.v) == 1; !fits || slices.ContainsFunc(f.v, func(v float64) bool { return !(v > 0) }) {
			return schemas.Errorf(schemas.CodeModel, "config.json:rope_scaling", "rope type longrope needs %d positive values in %s", r.half(), f.name)
		}
	}
	if r.Original == 0 && s.AttentionFactor == nil && s.Factor == nil {
		return schemas.Errorf(schemas.CodeModel, "config.json:rope_scaling", "rope type longrope needs factor, attention_factor or original_max_position_embeddings")
	}
	return nil
}

// LengthLimit is the number of positions beyond which the frequencies change, 0 when they never do.
func (r Rope) LengthLimit() int {
	switch r.Kind() {
	case "dynamic":
		return r.MaxPos
	case "longrope":
		return r.original()
	}
	return 0
}

// LengthSwitch is the number of positions beyond which other frequencies hold for all positions, 0 when there are no such: a cache is computed
// again there, as Phi3's prepare_inputs_for_generation has it.
func (r Rope) LengthSwitch() int {
	if r.Kind() == "longrope" {
		return r.original()
	}
	return 0
}

func (r Rope) original() int {
	if r.Original > 0 {
		return r.Original
	}
	return r.MaxPos
}

func (r Rope) half() int {
	if r.Dim == 1 && r.Kind() == "yarn" {
		return 0 // transformers has half as many ramps, rounded down, and so no frequency
	}
	return (r.Dim + 1) / 2
}

// RotDim is the number of rotated elements of a head: Dim, rounded up to even, but 0 for yarn over one.
func (r Rope) RotDim() int { return 2 * r.half() }

// Frequencies returns the RotDim/2 inverse frequencies for sequences of seqLen positions, and the factor on cos and sin.
func (r Rope) Frequencies(seqLen int) ([]float32, float64) {
	base, s := r.Theta, r.Scaling
	half := r.half()
	inv := make([]float64, half)
	fill := func() {
		for i := range inv {
			inv[i] = 1 / math.Pow(base, float64(2*i)/float64(r.Dim))
		}
	}
	factor := 1.0
	switch r.Kind() {
	case "linear":
		fill()
		for i := range inv {
			inv[i] /= *s.Factor
		}
	case "dynamic":
		n, m, d := float64(max(seqLen, r.MaxPos)), float64(r.MaxPos), float64(r.Dim)
		base *= math.Pow(*s.Factor*n/m-(*s.Factor-1), d/(d-2))
		fill()
	case "llama3":
		fill()
		llama3(inv, s)
	case "yarn":
		fill()
		factor = r.yarn(inv)
	case "longrope":
		fill()
		factor = r.long(inv, seqLen)
	default:
		fill()
	}
	out := make([]float32, half)
	for i, v := range inv {
		out[i] = float32(v)
	}
	return out, factor
}

func llama3(inv []float64, s *RopeScaling) {
	low, high := *s.OriginalMax / *s.LowFreqFactor, *s.OriginalMax / *s.HighFreqFactor
	for i, f := range inv {
		wave := 2 * math.Pi / f
		switch {
		case wave > low:
			inv[i] = f / *s.Factor
		case wave >= high:
			smooth := (*s.OriginalMax/wave - *s.LowFreqFactor) / (*s.HighFreqFactor - *s.LowFreqFactor)
			inv[i] = (1-smooth)*f / *s.Factor + smooth*f
		}
	}
}

// long divides the frequencies by the factors for long or short sequences (https://arxiv.org/abs/2402.13753) and returns the attention
// factor.
func (r Rope) long(inv []float64, seqLen int) float64 {
	s, orig := r.Scaling, r.original()
	by := s.ShortFactor
	if seqLen > orig {
		by = s.LongFactor
	}
	for i := range inv {
		inv[i] /= by[min(i, len(by)-1)]
	}
	factor := or(s.Factor, 1)
	if r.Original > 0 {
		factor = float64(r.MaxPos) / float64(r.Original)
	}
	switch {
	case r.MScales && float64(seqLen) > *s.OriginalMax:
		return *s.LongMScale
	case r.MScales:
		return *s.ShortMScale
	case s.AttentionFactor != nil:
		return *s.AttentionFactor
	case factor <= 1:
		return 1
	}
	return math.Sqrt(1 + math.Log(factor)/math.Log(float64(orig)))
}

// yarn blends interpolated and original frequencies (https://arxiv.org/abs/2309.00071) and returns the attention factor.
func (r Rope) yarn(inv []float64) float64 {
	s := r.Scaling
	orig := float64(r.MaxPos)
	if s.OriginalMax != nil && *s.OriginalMax != 0 {
		orig = *s.OriginalMax
	}
	fast, slow := or(s.BetaFast, 32), or(s.BetaSlow, 1)
	correction := func(rot float64) float64 {
		return float64(r.Dim) * math.Log(orig/(rot*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	lo, hi := correction(fast), correction(slow)
	if s.Truncate == nil || *s.Truncate {
		lo, hi = math.Floor(lo), math.Ceil(hi)
	}
	lo, hi = max(lo, 0), min(hi, float64(r.Dim-1))
	if lo == hi {
		hi += 0.001
	}
	for at, f := range inv {
		i := at
		if r.Dim == 3 {
			i = 0 // transformers has one ramp for the two frequencies, and none for greater odd numbers
		}
		ramp := min(1, max(0, (float64(i)-lo)/(hi-lo)))
		inv[at] = f / *s.Factor * ramp + f*(1-ramp)
	}
	mscale := func(m float64) float64 {
		if *s.Factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(*s.Factor) + 1
	}
	switch {
	case s.AttentionFactor != nil:
		return *s.AttentionFactor
	case s.MScale != nil && s.MScaleAllDim != nil && *s.MScale != 0 && *s.MScaleAllDim != 0:
		return mscale(*s.MScale) / mscale(*s.MScaleAllDim)
	}
	return mscale(1)
}

func or(p *float64, def float64) float64 {
	if p == nil || *p == 0 {
		return def
	}
	return *p
}

// Tables returns cos and sin of shape [hi-lo, RotDim/2] for positions lo..hi-1 of sequences of seqLen positions.
func (r Rope) Tables(lo, hi, seqLen int) (cos, sin []float32) {
	inv, factor := r.Frequencies(seqLen)
	half := len(inv)
	cos, sin = make([]float32, (hi-lo)*half), make([]float32, (hi-lo)*half)
	for p := range hi - lo {
		for i, f := range inv {
			sn, cs := math.Sincos(float64(float32(lo+p) * f))
			cos[p*half+i] = float32(float64(float32(cs)) * factor)
			sin[p*half+i] = float32(float64(float32(sn)) * factor)
		}
	}
	return cos, sin
}
