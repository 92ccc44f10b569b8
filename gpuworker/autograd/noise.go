package autograd

// Noise identifies a leaf to operations that draw random numbers while training: what they draw is a function of it and of the module's
// own stream, so it does not depend on the world, on recomputation or on when training was interrupted.
type Noise struct {
	// Seed is the run's, Step counts optimizer steps from 0.
	Seed uint64
	Step int64
	// IDs names every token of the leaf: global sample and position, see TokenID.
	IDs []int64
}

// TokenID is the number of a token: the global index of its sample and its position there.
func TokenID(sample int64, position int) int64 { return sample<<24 | int64(position) }

// NoiseRows is a leaf's noise on the device.
type NoiseRows struct {
	Seed uint64
	Step int64
	// Rows are the token ids, i64 [tokens]; IDs are the same on the host.
	Rows Tensor
	IDs  []int64
}

// SetNoise sets the noise of the following training passes; nil switches it off. Evaluation passes have none.
func (t *Tape) SetNoise(n *Noise) { t.noise, t.noiseRows = n, Tensor{} }

// Noise is the noise of this pass; ok is false where nothing random may happen.
func (t *Tape) Noise() (n NoiseRows, ok bool) {
	if t.noise == nil || !t.train || t.err != nil {
		return n, false
	}
	if !t.noiseRows.Present() {
		t.noiseRows = t.longs(t.noise.IDs)
	}
	return NoiseRows{Seed: t.noise.Seed, Step: t.noise.Step, Rows: t.noiseRows, IDs: t.noise.IDs}, t.err == nil
}

// Mix spreads a number over 64 bits (the finalizer of SplitMix64), to make a stream of a step.
func Mix(n int64) uint64 {
	z := uint64(n) + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
