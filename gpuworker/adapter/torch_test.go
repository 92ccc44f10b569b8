package adapter_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// TestLoRAIsDrawnAsPEFTDraws compares with testdata/torch_draws.json, which torch_draws.py wrote: for every architecture the modules in the
// order in which PEFT makes them, every bit of lora_A, and the next number of torch's generator.
func TestLoRAIsDrawnAsPEFTDraws(t *testing.T) {
	raw, err := os.ReadFile("testdata/torch_draws.json")
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string]struct {
		Modules []string
		SHA256  string
		After   float32
	}{}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	models := fixturetest.Dir(t, "models")
	compared := 0
	for arch, want := range golden {
		config, err := os.ReadFile(filepath.Join(models, arch, "config.json"))
		if err != nil {
			continue // another set of models
		}
		compared++
		t.Run(arch, func(t *testing.T) {
			m, err := zoo.New(config)
			if err != nil {
				t.Fatal(err)
			}
			a, err := adapter.Apply(m, adapter.Config{Rank: 4, Alpha: 8, Targets: []string{"all-linear"}, Torch: &adapter.TorchDraws{Seed: 7}})
			if err != nil {
				t.Fatal(err)
			}
			var modules []string
			sum := sha256.New()
			for _, p := range a.Params() {
				name, ok := strings.CutSuffix(strings.TrimPrefix(p.Name, adapter.Prefix), ".lora_A.weight")
				if !ok {
					continue
				}
				modules = append(modules, name)
				// Values come by ranges, as ranks read them.
				v := make([]float32, p.Len())
				for _, r := range [][2]int64{{0, p.Len() / 3}, {p.Len() / 3, p.Len()}} {
					if ok, err := a.Initial(t.Context(), p, r[0], v[r[0]:r[1]], nil); !ok || err != nil {
						t.Fatalf("%s is not drawn: %v", p.Name, err)
					}
				}
				for _, x := range v {
					sum.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(x)))
				}
			}
			if !slices.Equal(modules, want.Modules) {
				t.Fatalf("modules in the order\n%v\nwant\n%v", modules, want.Modules)
			}
			if got := hex.EncodeToString(sum.Sum(nil)); got != want.SHA256 {
				t.Errorf("lora_A has the SHA-256 %s, want %s", got, want.SHA256)
			}
			var next [1]float32
			a.Torch().Uniform(next[:], 0, 1)
			if next[0] != want.After {
				t.Errorf("the next number is %g, want %g", next[0], want.After)
			}
			skipped := *a.Config.Torch
			skipped.Skip = a.Draws()
			b, err := adapter.Apply(mustModel(t, config), adapter.Config{Rank: 4, Alpha: 8, Targets: []string{"all-linear"}, Torch: &skipped})
			if err != nil {
				t.Fatal(err)
			}
			if p := first(b.Params(), autograd.RoleLoRAA); p != nil {
				v := make([]float32, 1)
				if _, err := b.Initial(t.Context(), p, 0, v, nil); err != nil || v[0] == 0 {
					t.Fatalf("%v %v", v, err)
				}
			}
		})
	}
	if compared < 50 {
		t.Fatalf("only %d architectures were compared", compared)
	}
}

func mustModel(t *testing.T, config []byte) zoo.Model {
	t.Helper()
	m, err := zoo.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func first(params []*autograd.Param, role autograd.Role) *autograd.Param {
	for _, p := range params {
		if p.Role == role {
			return p
		}
	}
	return nil
}
