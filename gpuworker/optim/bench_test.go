package optim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/kernels"
)

// decomposition is GaLore's projection as galore-torch makes it.
const decomposition = `
import json, numpy, sys, time, torch
torch.set_num_threads(int(sys.argv[4]))
a = torch.from_numpy(numpy.fromfile(sys.argv[1], dtype=numpy.float32).reshape(int(sys.argv[2]), int(sys.argv[3])))
wall, cpu = time.time(), time.process_time()
torch.linalg.svd(a, full_matrices=False)
print(json.dumps({"wall": time.time() - wall, "cpu": time.process_time() - cpu}))
`

// BenchmarkProjection makes GaLore's projection of rank 128 here and by torch in the same run: of noise, whose
// singular values are as close to each other as a gradient's may be, and of noise in rows of falling length, whose values fall too. Beside the
// time it gives seconds of processors, which other processes disturb less.
func BenchmarkProjection(b *testing.B) {
	const rank, threads = 128, 2
	for _, s := range []struct{ m, n int }{{1024, 1024}, {4096, 4096}, {4096, 11008}} {
		for _, falling := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dx%d/falling=%v", s.m, s.n, falling), func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 2))
				a := make([]float32, s.m*s.n)
				for i := range a {
					a[i] = float32(rng.NormFloat64())
					if falling {
						a[i] /= float32(1 + i/s.n)
					}
				}
				q, arena := deviceOf(b, kernels.CPU, threads)
				block := int(blockOf(int64(s.m), int64(s.n), rank))
				var products int
				before := processors(b)
				for b.Loop() {
					var err error
					if _, products, err = found(b, q, arena, a, s.m, s.n, block, rank); err != nil {
						b.Fatal(err)
					}
				}
				cpu := (processors(b) - before) / float64(b.N)
				b.ReportMetric(float64(products), "products")
				b.ReportMetric(cpu, "cpu-s/op")
				torch := timeTorch(b, a, s.m, s.n, threads)
				b.ReportMetric(torch.Wall, "torch-s")
				b.ReportMetric(torch.CPU, "torch-cpu-s")
				b.ReportMetric(torch.Wall/(b.Elapsed().Seconds()/float64(b.N)), "times-faster")
				b.ReportMetric(torch.CPU/cpu, "times-less-cpu")
			})
		}
	}
}

// processors is the time that this process has had of processors.
func processors(b *testing.B) float64 {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}

type torchTime struct{ Wall, CPU float64 }

// timeTorch skips the benchmark where there is no reference Python.
func timeTorch(b *testing.B, a []float32, m, n, threads int) (t torchTime) {
	b.Helper()
	python := fixturetest.Python(b)
	raw := make([]byte, 4*len(a))
	for i, x := range a {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	file := filepath.Join(b.TempDir(), "a")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.CommandContext(b.Context(), python, "-c", decomposition, file, fmt.Sprint(m), fmt.Sprint(n), fmt.Sprint(threads)).Output()
	if err != nil {
		b.Fatal(err)
	}
	if err := json.Unmarshal(out, &t); err != nil {
		b.Fatal(err)
	}
	return t
}

// BenchmarkDraws draws a random matrix of APOLLO as apollo-torch does, of rank 128 for a side of 4,096, at the tenth projection.
func BenchmarkDraws(b *testing.B) {
	p := &autograd.Param{Name: "w"}
	d := &apolloDraws{first: map[*autograd.Param]uint64{p: 7}, rank: 11.3}
	for b.Loop() {
		d.draw(p, 10, 128*4096)
	}
}
