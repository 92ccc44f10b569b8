package zoo_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// half converts to bfloat16 or float16 by dropping bits: the values written are those that a reader must give back.
func half(dt safetensors.DType, v float32) (stored uint16, value float32) {
	b := math.Float32bits(v)
	if dt == safetensors.BF16 {
		return uint16(b >> 16), math.Float32frombits(b &^ 0xffff)
	}
	e := int(b>>23&0xff) - 112
	if e < 1 {
		return 0, 0
	}
	return uint16(b>>16&0x8000 | uint32(e)<<10 | b>>13&0x3ff), math.Float32frombits(b &^ 0x1fff)
}

// saved reads the entries of a model as the files hold them.
func saved(t *testing.T, r *rig) []safetensors.Entry {
	t.Helper()
	es := nn.Entries(r.queue, nn.Params(r.model.Root()))
	for i := range es {
		var buf bytes.Buffer
		if err := es[i].Stream(&buf); err != nil {
			t.Fatal(err)
		}
		v := make([]float32, buf.Len()/4)
		if err := binary.Read(&buf, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
		es[i].Float32, es[i].Stream = v, nil
	}
	return es
}

// as stores entries in another type and returns the values that come back.
func as(dt safetensors.DType, es []safetensors.Entry) ([]safetensors.Entry, map[string][]float32) {
	out, values := make([]safetensors.Entry, len(es)), map[string][]float32{}
	for i, e := range es {
		if dt == safetensors.F32 {
			out[i], values[e.Name] = e, e.Float32
			continue
		}
		raw := make([]byte, 0, 2*len(e.Float32))
		back := make([]float32, len(e.Float32))
		for k, v := range e.Float32 {
			var s uint16
			s, back[k] = half(dt, v)
			raw = binary.LittleEndian.AppendUint16(raw, s)
		}
		values[e.Name] = back
		out[i] = safetensors.Entry{Name: e.Name, Shape: e.Shape, DType: dt, Stream: func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		}}
	}
	return out, values
}

// write writes a checkpoint of one file, or of two with an index.
func write(t *testing.T, root *os.Root, es []safetensors.Entry, sharded bool) {
	t.Helper()
	if !sharded {
		if err := safetensors.WriteFile(root, "model.safetensors", es, nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	where := map[string]string{}
	for s := range 2 {
		name := fmt.Sprintf("model-%05d-of-00002.safetensors", s+1)
		var part []safetensors.Entry
		for i, e := range es {
			if i%2 == s {
				part = append(part, e)
				where[e.Name] = name
			}
		}
		if err := safetensors.WriteFile(root, name, part, nil); err != nil {
			t.Fatal(err)
		}
	}
	doc, err := json.Marshal(map[string]any{"metadata": map[string]int{"total_size": 1}, "weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile("model.safetensors.index.json", doc, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLoadingForms loads checkpoints of every type, whole and in shards, with and without the base model's prefix, with transposed
// matrices, and with the head of a tied model once more.
func TestLoadingForms(t *testing.T) {
	for _, name := range []string{"GPT2LMHeadModel", "BloomForCausalLM", "LlamaForCausalLM", "GPTNeoXForCausalLM"} {
		r := newModelRig(t, small(t, name), autograd.Config{}, nil)
		es := saved(t, r)
		info := r.model.Info()
		for _, dt := range []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.F16} {
			for form := range 4 {
				sharded, bare := form%2 == 1, form > 1
				root, err := os.OpenRoot(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				files, values := as(dt, es)
				for i := range files {
					if bare {
						files[i].Name = strings.TrimPrefix(files[i].Name, info.Prefix+".")
					}
				}
				if info.Tied {
					files = append(files, safetensors.Entry{Name: info.HeadKey, Shape: []int64{1}, Float32: []float32{1}})
				}
				write(t, root, files, sharded)
				set, err := zoo.OpenWeights(root, info)
				if err != nil {
					t.Fatal(err)
				}
				params := nn.Params(r.model.Root())
				if err := zoo.CheckWeights(info, params, set); err != nil {
					t.Fatalf("%s %s form %d: %v", name, dt, form, err)
				}
				if err := nn.Load(t.Context(), r.queue, params, set); err != nil {
					t.Fatal(err)
				}
				for _, e := range saved(t, r) {
					near(t, fmt.Sprintf("%s %s form %d: %s", name, dt, form, e.Name), e.Float32, values[e.Name], 0)
				}
				set.Close()
				root.Close()
			}
		}
	}
}

// TestTransposedRanges reads a transposed matrix in pieces, as shards of training do.
func TestTransposedRanges(t *testing.T) {
	r := newModelRig(t, small(t, "GPT2LMHeadModel"), autograd.Config{}, nil)
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	write(t, root, saved(t, r), false)
	set, err := zoo.OpenWeights(root, r.model.Info())
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	reader := nn.NewReader(set)
	transposed := 0
	for _, p := range nn.Params(r.model.Root()) {
		want, err := nn.Read(r.queue, p.Data)
		if err != nil {
			t.Fatal(err)
		}
		if p.Transposed {
			transposed++
		}
		for at := int64(0); at < p.Len(); at += 37 {
			got := make([]float32, min(37, p.Len()-at))
			if err := reader.Read(p, at, got); err != nil {
				t.Fatal(err)
			}
			near(t, p.Name, got, want[at:at+int64(len(got))], 0)
		}
	}
	if transposed != 12 {
		t.Errorf("%d transposed matrices, expected 4 a layer", transposed)
	}
}
