package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels/kerneltest"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var out, talk bytes.Buffer
	if code := run([]string{"-op", "rope", "-json"}, &out, &talk); code != 0 {
		t.Fatalf("exit %d: %s", code, talk.String())
	}
	dec := json.NewDecoder(&out)
	n := 0
	for dec.More() {
		var r kerneltest.Result
		if err := dec.Decode(&r); err != nil || r.Op != "rope" || r.Status != kerneltest.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		n++
	}
	if n == 0 {
		t.Error("no results")
	}
	out.Reset()
	if code := run([]string{"-op", "rope", "-mode", "perf", "-time", "1ms"}, &out, &talk); code != 0 || !strings.Contains(out.String(), "GB/s") {
		t.Errorf("perf: exit %d, %s", code, out.String())
	}
	for _, args := range [][]string{{"-mode", "x"}, {"-op", "conv"}, {"-backend", "/no/such.so"}, {"-dtype", "f7"}, {"-what"}} {
		if code := run(args, &out, &talk); code != 2 {
			t.Errorf("%v: exit %d, want 2", args, code)
		}
	}
}
