package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func file(header string, data int) []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint64(len(header)))
	b.WriteString(header)
	b.Write(make([]byte, data))
	return b.Bytes()
}

func open(b []byte) (*File, error) {
	return NewFile(bytes.NewReader(b), int64(len(b)), "x.safetensors")
}

func TestHeaderRules(t *testing.T) {
	t.Parallel()
	const ok = `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}}`
	huge := file(ok, 12)
	binary.LittleEndian.PutUint64(huge, MaxHeader+1)
	cases := []struct {
		name string
		raw  []byte
		want string
	}{
		{"fine", file(ok, 12), ""},
		{"padded", file(ok+"   ", 12), ""},
		{"empty", nil, "too short"},
		{"header limit", huge, "limit"},
		{"header past end", file(ok, 12)[:40], "exceeds the file"},
		{"not an object", file(`[1]`, 0), "'{'"},
		{"trailing data", file(ok, 13), "13 bytes"},
		{"missing data", file(ok, 11), "11 bytes"},
		{"junk after header", file(ok+"x", 12), "closing brace"},
		{"duplicate", file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}`, 8), "duplicate"},
		{"unknown dtype", file(`{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}`, 8), "unknown dtype"},
		{"overflow", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}`, 0), "overflows"},
		{"negative dimension", file(`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, 8), "non-negative"},
		{"size mismatch", file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), "do not fit"},
		{"overlap", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), "overlaps"},
		{"hole", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), "hole"},
		{"extra key", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}`, 8), "unknown or repeated"},
		{"missing key", file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "required"},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}`, 8), "pair"},
		{"fraction", file(`{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}`, 8), "integer"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := open(c.raw)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if !schemas.IsCode(err, schemas.CodeModel) {
				t.Fatalf("error %v has not the code %s", err, schemas.CodeModel)
			}
		})
	}
}

func TestRoundTripAndDeterminism(t *testing.T) {
	t.Parallel()
	es := []Entry{
		{Name: "b", Shape: []int64{2, 2}, Float32: []float32{1, -2, 3.5, float32(math.Inf(1))}},
		{Name: "ids", Shape: []int64{3}, Int64: []int64{1, -5, 1 << 40}},
		{Name: "a", Shape: nil, Float32: []float32{7}},
		{Name: "s", Shape: []int64{2}, DType: BF16, Stream: func(w io.Writer) error { _, err := w.Write([]byte{0x80, 0x3f, 0, 0xc0}); return err }},
	}
	var one, two bytes.Buffer
	if err := Write(&one, es, map[string]string{"format": "pt", "z": "1"}); err != nil {
		t.Fatal(err)
	}
	es[0], es[2] = es[2], es[0]
	if err := Write(&two, es, map[string]string{"z": "1", "format": "pt"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Fatal("bytes depend on the order of entries")
	}
	f, err := open(one.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if v, _, err := f.Float32("b"); err != nil || v[2] != 3.5 || !math.IsInf(float64(v[3]), 1) {
		t.Fatal(v, err)
	}
	if v, _, err := f.Int64("ids"); err != nil || v[1] != -5 || v[2] != 1<<40 {
		t.Fatal(v, err)
	}
	part := make([]float32, 2)
	if err := f.ReadFloat32("b", 1, part); err != nil || part[0] != -2 || part[1] != 3.5 {
		t.Fatal(part, err)
	}
	if err := f.ReadFloat32("b", 3, part); err == nil {
		t.Fatal("range past the end was read")
	}
	if v, _, err := f.Float32("s"); err != nil || v[0] != 1 || v[1] != -2 {
		t.Fatal(v, err)
	}
	if f.Metadata()["format"] != "pt" {
		t.Fatal("metadata lost")
	}
}

func TestHalfConversion(t *testing.T) {
	t.Parallel()
	for bits, want := range map[uint16]float32{0: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: 5.9604645e-08, 0x0400: 6.1035156e-05, 0x3555: 0.33325195, 0x7c00: float32(math.Inf(1))} {
		if got := halfToFloat(bits); got != want {
			t.Errorf("halfToFloat(%#04x) = %g, want %g", bits, got, want)
		}
	}
	if !math.IsNaN(float64(halfToFloat(0x7e00))) {
		t.Error("NaN lost")
	}
}

func TestPickleRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "pytorch_model.bin"), []byte("PK\x03\x04xxxx"), 0o600)
	os.WriteFile(filepath.Join(dir, "zip.safetensors"), []byte("PK\x03\x04xxxxxxxxxxxx"), 0o600)
	os.WriteFile(filepath.Join(dir, "pkl.safetensors"), []byte("\x80\x04\x95xxxxxxxxxxxxxxx"), 0o600)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := OpenModel(root); !errors.Is(err, ErrPickle) || !strings.Contains(err.Error(), "pytorch_model.bin") {
		t.Fatalf("folder with pickle only: %v", err)
	}
	for _, n := range []string{"pytorch_model.bin", "zip.safetensors", "pkl.safetensors"} {
		if _, err := Open(root, n); !errors.Is(err, ErrPickle) {
			t.Errorf("%s: %v", n, err)
		}
	}
}

func TestIndexedSet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	write := func(name string, es ...Entry) {
		if err := WriteFile(root, name, es, nil); err != nil {
			t.Fatal(err)
		}
	}
	write("model-1.safetensors", Entry{Name: "a", Shape: []int64{1}, Float32: []float32{1}})
	write("model-2.safetensors", Entry{Name: "b", Shape: []int64{1}, Float32: []float32{2}})
	index := func(s string) { os.WriteFile(filepath.Join(dir, indexName), []byte(s), 0o600) }
	index(`{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}`)
	s, err := OpenModel(root)
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, 1)
	if err := s.ReadFloat32("b", 0, v); err != nil || v[0] != 2 {
		t.Fatal(v, err)
	}
	s.Close()
	for _, bad := range []string{
		`{"weight_map":{"a":"../model-1.safetensors"}}`,
		`{"weight_map":{"a":"model-1.safetensors","a":"model-1.safetensors"}}`,
		`{"weight_map":{"a":"model-1.safetensors","b":"model-1.safetensors"}}`,
		`{"weight_map":{"a":"model-1.safetensors","c":"model-3.safetensors"}}`,
		`{"weight_map":{"a":"model.bin"}}`,
		`{}`,
	} {
		index(bad)
		if s, err := OpenModel(root); err == nil {
			s.Close()
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestWriteFileLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, _ := os.OpenRoot(dir)
	defer root.Close()
	err := WriteFile(root, "m.safetensors", []Entry{{Name: "a", Shape: []int64{4}, DType: F32, Stream: func(io.Writer) error { return errors.New("boom") }}}, nil)
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8))
	f.Add(file(`{"__metadata__":{"k":"v"},"a":{"dtype":"BF16","shape":[1,0],"data_offsets":[0,0]}}`, 0))
	f.Add(file(`{"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}`, 8))
	f.Add([]byte("\x80\x04\x95"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sf, err := open(b)
		if err != nil {
			return
		}
		var total int64
		for _, i := range sf.Infos() {
			raw, err := sf.Bytes(i.Name)
			if err != nil {
				t.Fatalf("tensor %q of an accepted file cannot be read: %v", i.Name, err)
			}
			total += int64(len(raw))
		}
		if total+sf.base != int64(len(b)) {
			t.Fatalf("tensors cover %d of %d bytes", total+sf.base, len(b))
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"model-1.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseIndex(b)
		if err != nil {
			return
		}
		for k, v := range m {
			if v == "" || v != filepath.Base(v) {
				t.Fatalf("accepted shard name %q of %q", v, k)
			}
		}
	})
}
