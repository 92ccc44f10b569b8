package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// LastRows copies the last position of each row of x [rows*seq, d] to [rows, d]. It is for generation and has no backward.
func LastRows(t *autograd.Tape, x autograd.Value, rows, seq int) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	xd := t.Data(x)
	d := xd.Dim[1]
	y, h := t.OutLike(xd, int64(rows), d)
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().Copy(kernels.Copy{X: xd.Reshape(int64(rows), int64(seq), d).Select(1, int64(seq-1)), Y: y})
	t.Check("last rows", xd)
	v := t.Hold(y, h)
	t.Release(x)
	return v
}
