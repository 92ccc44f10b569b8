package autograd

import "github.com/tunefleet/tunefleet/kernels"

// Ints uploads int32 values into memory of this pass.
func (t *Tape) Ints(v []int32, shape ...int64) Tensor {
	return upload(t, kernels.I32, v, shape)
}

// Longs uploads int64 values into memory of this pass.
func (t *Tape) Longs(v []int64, shape ...int64) Tensor {
	return upload(t, kernels.I64, v, shape)
}

// Floats uploads float32 values into memory of this pass.
func (t *Tape) Floats(v []float32, shape ...int64) Tensor {
	return upload(t, kernels.F32, v, shape)
}

// Bytes uploads bytes into memory of this pass.
func (t *Tape) Bytes(v []uint8, shape ...int64) Tensor {
	return upload(t, kernels.U8, v, shape)
}

func (t *Tape) longs(v []int64) Tensor {
	return upload(t, kernels.I64, v, []int64{int64(len(v))})
}

func upload[T kernels.Element](t *Tape, dt kernels.DType, v []T, shape []int64) Tensor {
	if t.err != nil {
		return Tensor{}
	}
	b, err := t.mem.alloc(int64(len(v)) * dt.Size())
	if err != nil {
		t.Fail("upload", err)
		return Tensor{}
	}
	x := kernels.NewTensor(t.mem.segments[b.seg-1].base+kernels.Addr(b.off), dt, shape...)
	if err := kernels.Upload(t.mem.queue, x, v); err != nil {
		t.Fail("upload", err, x)
	}
	return x
}

// Read downloads a value's data as float32, after waiting for the queue.
func (t *Tape) Read(v Value) ([]float32, error) {
	if t.err != nil {
		return nil, t.err
	}
	x := t.Data(v)
	out := make([]float32, x.Numel())
	if x.DType != kernels.F32 {
		y, h := t.Out(x.Shape()...)
		if t.err != nil {
			return nil, t.err
		}
		defer t.Free(&h)
		t.mem.queue.Copy(kernels.Copy{X: x, Y: y})
		x = y
	}
	return out, kernels.Download(t.mem.queue, out, x)
}
