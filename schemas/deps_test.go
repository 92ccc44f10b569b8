package schemas_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/tunefleet/tunefleet/"

// forbidden lists the arrows that may not exist (DESIGN 6): packages under From (non-test files) must not import packages under To.
var forbidden = []struct{ from, to, why string }{
	{"schemas", "services", "schemas are the lowest layer"},
	{"schemas", "producer", "schemas are the lowest layer"},
	{"schemas", "gpuworker", "schemas are the lowest layer"},
	{"schemas", "kernels", "schemas are the lowest layer"},
	{"services/queue", "gpuworker", "a port knows no worker"},
	{"services/lease", "gpuworker", "a port knows no worker"},
	{"services/store", "gpuworker", "a port knows no worker"},
	{"services/checkpoint", "gpuworker", "commits know parts and manifests, not models"},
	{"services/control", "gpuworker", "control decides from objects, it never trains"},
	{"services/control", "kernels", "control runs on machines without devices"},
	{"services/api", "gpuworker", "the API runs on machines without devices"},
	{"services/api", "kernels", "the API runs on machines without devices"},
	{"producer", "gpuworker", "the client must build with CGO_ENABLED=0"},
	{"producer", "kernels", "the client must build with CGO_ENABLED=0"},
	{"kernels", "services", "kernels import nothing of ours"},
	{"kernels", "gpuworker", "kernels import nothing of ours"},
	{"kernels", "schemas", "kernels import nothing of ours"},
	{"gpuworker/zoo", "gpuworker/train", "an architecture does not know how it is trained"},
	{"gpuworker/zoo", "gpuworker/adapter", "adapters are transforms; no architecture mentions them"},
	{"gpuworker/nn", "gpuworker/zoo", "modules do not know architectures"},
	{"gpuworker/nn", "gpuworker/adapter", "adapters are transforms; no module mentions them"},
	{"gpuworker/ops", "gpuworker/nn", "ops know only the tape and kernels"},
	{"gpuworker/autograd", "gpuworker/ops", "the tape knows no operation"},
	{"gpuworker/consume", "gpuworker/train", "the agent gets its handlers from the binary"},
	{"gpuworker/consume", "kernels", "the agent never touches a device: only rank processes do"},
	{"gpuworker/collective", "kernels", "collectives move bytes"},
}

// exempt names packages below a forbidden From that are not part of it: examples and benchmarks are programs of their own.
var exempt = []string{"producer/examples", "gpuworker/consume/queuebench"}

type source struct {
	path, pkg string
	imports   []string
	doc       bool
	name      string
	lines     int
}

func sources(t *testing.T) []source {
	t.Helper()
	root := ".."
	var out []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n := d.Name(); d.IsDir() && (n == "testdata" || n == "bin" || (strings.HasPrefix(n, ".") && path != root)) {
			return filepath.SkipDir
		}
		ext := filepath.Ext(path)
		if d.IsDir() || (ext != ".go" && ext != ".c" && ext != ".h" && ext != ".cu" && ext != ".inc") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s := source{path: filepath.ToSlash(rel), pkg: filepath.ToSlash(filepath.Dir(rel)), lines: bytes.Count(b, []byte{'\n'})}
		if ext == ".go" {
			f, err := parser.ParseFile(token.NewFileSet(), path, b, parser.ImportsOnly|parser.ParseComments)
			if err != nil {
				return err
			}
			s.doc, s.name = f.Doc != nil, f.Name.Name
			for _, i := range f.Imports {
				s.imports = append(s.imports, strings.Trim(i.Path.Value, `"`))
			}
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func under(pkg, root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }

func TestArrows(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		for _, imp := range s.imports {
			rel, ours := strings.CutPrefix(imp, module)
			for _, f := range forbidden {
				if ours && under(s.pkg, f.from) && under(rel, f.to) && !under(rel, f.from) && !isExempt(s.pkg) {
					t.Errorf("%s imports %s: %s", s.path, rel, f.why)
				}
			}
		}
	}
}

func isExempt(pkg string) bool {
	for _, e := range exempt {
		if under(pkg, e) {
			return true
		}
	}
	return false
}

func TestEveryPackageIsDocumented(t *testing.T) {
	t.Parallel()
	documented, seen := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.name == "" || strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		seen[s.pkg] = true
		documented[s.pkg] = documented[s.pkg] || s.doc
	}
	for p := range seen {
		if !documented[p] {
			t.Errorf("package %s has no package comment", p)
		}
	}
}

func TestFileSizes(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.lines > 800 && !strings.HasSuffix(s.path, "_gen.go") {
			t.Errorf("%s has %d lines, the limit is 800", s.path, s.lines)
		}
	}
}
