package kernels

import (
	"slices"
	"testing"
)

// TestPacked runs products with packed matrices; compare wants equal bits from every instruction set and thread count, and those of the
// product with the expanded matrix. Several chunks of the matrix are expanded one after another. The numbers are checked in kerneltest.
func TestPacked(t *testing.T) {
	const m, rows, cols = 3, 2500, 1100
	const n, blocks = rows * cols, (rows*cols + 63) / 64
	codes := make([]uint8, n)
	for i, v := range noise(1, n) {
		codes[i] = uint8(int(v * 100))
	}
	x, dy, scales, bias := noise(2, m*cols), noise(3, m*rows), noise(4, blocks+600), noise(5, rows)
	bytes := func(e *env, v []uint8) Tensor {
		i, err := e.a.New(U8, int64(len(v)))
		if err == nil {
			err = Upload(e.q, i, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for name, kind := range map[string]PackedKind{"nf4": PackedNF4, "nf4 double": PackedNF4, "int8": PackedInt8} {
		t.Run(name, func(t *testing.T) {
			compare(t, 0, func(e *env) outputs {
				w := Packed{Rows: rows, Cols: cols, Kind: kind}
				switch name {
				case "int8":
					w.Codes, w.Scales = bytes(e, codes), e.f32(scales[:rows], rows)
				case "nf4":
					w.Codes, w.Scales = bytes(e, codes[:(n+1)/2]), e.f32(scales[:blocks], blocks)
				default:
					k := 256 + (blocks+255)/256 + 1
					w.Codes, w.ScaleCodes, w.Scales = bytes(e, codes[:(n+1)/2]), bytes(e, codes[:blocks]), e.f32(scales[:k], int64(k))
				}
				X, DY, B := e.f32(x, m, cols), e.f32(dy, m, rows), e.f32(bias, rows)
				y, dx, plain, y2, dx2 := e.empty(m, rows), e.empty(m, cols), e.empty(rows, cols), e.empty(m, rows), e.empty(m, cols)
				e.q.PackedGemm(PackedGemm{W: w, A: X, C: y, Bias: B, Alpha: 1})
				e.q.PackedGemm(PackedGemm{W: w, A: DY, C: dx, Alpha: 1, Transposed: 1})
				e.q.Unpack(Unpack{W: w, Y: plain})
				e.q.Gemm(Gemm{A: X, B: plain.T(), C: y2, Bias: B, Alpha: 1})
				e.q.Gemm(Gemm{A: DY, B: plain, C: dx2, Alpha: 1})
				out := outputs{"y": get[float32](e, y), "dx": get[float32](e, dx)}
				if !slices.Equal(out["y"], get[float32](e, y2)) || !slices.Equal(out["dx"], get[float32](e, dx2)) {
					t.Error("a product with the packed matrix is not that with the expanded one")
				}
				return out
			}, nil)
		})
	}
}
