package train

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
)

// neftuneStream keeps the counters of embedding noise apart from every other use of the seed.
const neftuneStream = 0x6e656674

// neftune makes the noise of https://arxiv.org/abs/2310.05914 for a batch: uniform within alpha/sqrt(length * width), where length is that
// of the token's sequence. Each number is a function of (seed, step, sample, position, column); ids are the tokens' ids.
func neftune(b *nn.Batch, alpha float64, seed uint64, step int64, ids []int64) func(width int) []float32 {
	return func(width int) []float32 {
		out := make([]float32, len(b.IDs)*width)
		mixed := autograd.Mix(step) ^ seed
		key := [2]uint32{uint32(mixed), uint32(mixed >> 32)}
		for _, s := range objective.Spans(b) {
			most := alpha / math.Sqrt(float64(s.To-s.From)*float64(width))
			for p := s.From; p < s.To; p++ {
				row := out[p*width : (p+1)*width]
				for c := 0; c < width; c += 4 {
					r := philox(key, [4]uint32{uint32(c / 4), uint32(ids[p]), uint32(ids[p] >> 32), neftuneStream})
					for k := range min(4, width-c) {
						u := float64(r[k]) / (1 << 32)
						row[c+k] = float32(most * (2*u - 1))
					}
				}
			}
		}
		return out
	}
}
