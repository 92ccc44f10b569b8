package adapter

import (
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// The values in testdata were packed by bitsandbytes itself (testdata/pack.py).
func TestPackingEqualsBitsandbytes(t *testing.T) {
	t.Parallel()
	f, err := safetensors.OpenPath("testdata", "packed.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	floats := func(name string) []float32 {
		t.Helper()
		v, _, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	same := func(name string, got []float32) {
		t.Helper()
		want := floats(name)
		if len(got) != len(want) {
			t.Fatalf("%s: %d elements, want %d", name, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%s element %d: %v, want %v", name, i, got[i], want[i])
			}
		}
	}
	codes := func(name string, got []byte) {
		t.Helper()
		want, _, err := f.Int64(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d codes, want %d", name, len(got), len(want))
		}
		for i := range want {
			if got[i] != byte(want[i]) {
				t.Fatalf("%s code %d: %d, want %d", name, i, got[i], want[i])
			}
		}
	}
	table := dynamicMap()
	same("dynamic_map", table[:])
	for name, cols := range map[string]int{"small": 11, "large": 120} {
		w := floats(name)
		out := make([]float32, len(w))
		b := quantizeNF4(w)
		same(name+".nf4.scales", b.scales)
		b.expandNF4(0, out)
		if name == "small" {
			same(name+".nf4.values", out)
		}
		codes(name+".nf4.codes", b.codes)
		d := b.double()
		if got, want := d.scales[len(d.scales)-1], floats(name + ".nf4.double.offset")[0]; math.Abs(float64(got-want)) > 1e-6*math.Abs(float64(want)) {
			t.Errorf("%s: offset %v, want %v", name, got, want)
		}
		codes(name+".nf4.double.scale_codes", d.scaleCodes)
		d.expandNF4(0, out)
		for i, want := range floats(name + ".nf4.double.values") {
			if math.Abs(float64(out[i]-want)) > 1e-6*math.Abs(float64(want)) {
				t.Fatalf("%s, double, element %d: %v, want %v", name, i, out[i], want)
			}
		}
		i8 := quantizeInt8(w, cols)
		same(name+".int8.scales", i8.scales)
		codes(name+".int8.codes", i8.codes)
		i8.expandInt8(int64(cols), 0, out)
		if name == "small" {
			same(name+".int8.values", out)
		}
	}
}
