package optim

import "github.com/tunefleet/tunefleet/kernels"

// host is staging memory for what is calculated on the host: projections.
type host struct {
	buf []float32
}

// idle reports that the device only counts: there is nothing to calculate with on the host.
func idle(q *kernels.Queue) bool { return q.Device().Counting() }

// load copies a tensor to staging memory. A failure sticks to the queue.
func (h *host) load(q *kernels.Queue, t kernels.Tensor) []float32 {
	if n := t.Numel(); int64(cap(h.buf)) < n {
		h.buf = make([]float32, n)
	}
	v := h.buf[:t.Numel()]
	if err := kernels.Download(q, v, t); err != nil {
		q.Fail(err)
	}
	return v
}

func (h *host) store(q *kernels.Queue, t kernels.Tensor, v []float32) {
	if err := kernels.Upload(q, t, v); err != nil {
		q.Fail(err)
	}
}
