package train

import (
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func FuzzReport(f *testing.F) {
	f.Add(report{tokens: 12, control: schemas.ControlPause, stored: true}.append(nil))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseReport(raw)
		if err != nil {
			return
		}
		again, err := parseReport(r.append(nil))
		if err != nil || again != r {
			t.Fatalf("%+v is read again as %+v, %v", r, again, err)
		}
	})
}

func FuzzFrom(f *testing.F) {
	f.Add("stage:base")
	f.Add("run:acme/01H/tuned")
	f.Add("run://")
	f.Fuzz(func(t *testing.T, s string) {
		tenant, run, stage, err := parseFrom(s, "me", "here")
		if err == nil && (tenant == "" || run == "" || stage == "") {
			t.Fatalf("%q is accepted as %q, %q, %q", s, tenant, run, stage)
		}
		if err != nil && !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
