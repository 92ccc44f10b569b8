package source

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
)

// streamDraws is how many numbers Hugging Face's shuffle buffer draws at once.
const streamDraws = 1000

// Stream orders the rows of streamed data sets as the first pass of Hugging Face's concatenate_datasets(...).shuffle(buffer, seed) over
// IterableDatasets of one shard each: the sets one after the other in a drawn order, through a buffer from which a drawn row leaves for every
// one that comes.
func Stream(lengths []int, buffer int, seed uint64) (Order, error) {
	if buffer < 1 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "buffer_size", "is %d, expected 1 or more", buffer)
	}
	sets := make([]int32, len(lengths))
	total := 0
	for i, n := range lengths {
		if n < 1 || n > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "", "data set %d has %d rows", i, n)
		}
		sets[i] = int32(i)
		total += n
	}
	if total > math.MaxInt32 {
		return nil, schemas.Errorf(schemas.CodeData, "", "the data sets have %d rows, more than %d", total, math.MaxInt32)
	}
	pyrand.Shuffle(pyrand.NewGenerator(seed), sets)
	g := pyrand.NewGenerator(seed)
	out, held := make(list, 0, total), make([]Pick, 0, min(buffer, total))
	var draws []int32
	for _, s := range sets {
		for row := range lengths[s] {
			p := Pick{s, int32(row)}
			if len(held) < buffer {
				held = append(held, p)
				continue
			}
			if len(draws) == 0 {
				draws = g.Integers(buffer, streamDraws)
			}
			out = append(out, held[draws[0]])
			held[draws[0]], draws = p, draws[1:]
		}
	}
	pyrand.Shuffle(g, held)
	return append(out, held...), nil
}
