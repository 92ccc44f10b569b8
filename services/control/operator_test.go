package control

import (
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// TestPolicyIsSwapped: a policy is validated whole, and of two that were made from the same version one wins.
func TestPolicyIsSwapped(t *testing.T) {
	s := NewService(memstore.New(), nil, nil, nil)
	p, version, err := s.Policy(t.Context(), "cpu")
	if err != nil || version != "" || p.Pool != "cpu" {
		t.Fatalf("policy %+v, version %q: %v", p, version, err)
	}
	bad := &schemas.Policy{Pool: "cpu", Tenants: map[string]schemas.Quota{"NO": {Running: -1}}}
	if _, _, err := s.SetPolicy(t.Context(), bad, ""); !schemas.IsCode(err, schemas.CodeInvalid) || !strings.Contains(err.Error(), "neither a name") || !strings.Contains(err.Error(), "negative") {
		t.Fatalf("bad policy: %v", err)
	}
	p.Tenants = map[string]schemas.Quota{"research": {Share: 3, Devices: 8}}
	if _, version, err = s.SetPolicy(t.Context(), p, ""); err != nil || version == "" {
		t.Fatalf("version %q: %v", version, err)
	}
	if _, _, err := s.SetPolicy(t.Context(), p, ""); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("a second first policy: %v", err)
	}
	if _, _, err := s.SetPolicy(t.Context(), &schemas.Policy{Pool: "cpu", Cordon: true}, version); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.SetPolicy(t.Context(), p, version); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("a policy made from an old version: %v", err)
	}
	if got, _, err := s.Policy(t.Context(), "cpu"); err != nil || !got.Cordon || len(got.Tenants) != 0 {
		t.Fatalf("policy %+v: %v", got, err)
	}
}

// TestFrontAdmits: a tenant has at most so many runs in line, submitting again is no second run, and a parent must exist.
func TestFrontAdmits(t *testing.T) {
	objects := memstore.New()
	s := NewService(objects, nil, nil, nil)
	if _, _, err := s.SetPolicy(t.Context(), &schemas.Policy{Pool: "cpu", Tenants: map[string]schemas.Quota{"t": {Queued: 2}}}, ""); err != nil {
		t.Fatal(err)
	}
	submit := func(id string, prio int, edit func(*schemas.RunSpec)) error {
		spec := acceptable(id, prio)
		if edit != nil {
			edit(spec)
		}
		_, err := s.Submit(t.Context(), spec)
		return err
	}
	if err := submit("aaaaaaaa", 0, nil); err != nil {
		t.Fatal(err)
	}
	err := submit("bbbbbbbb", 1, func(r *schemas.RunSpec) { r.After = []schemas.Dependency{{Run: "missing0"}, {Run: "aaaaaaaa"}} })
	if !schemas.IsCode(err, schemas.CodeInvalid) || !strings.Contains(err.Error(), "after[0].run") || strings.Contains(err.Error(), "after[1]") {
		t.Fatalf("a run after one that does not exist: %v", err)
	}
	if err := submit("bbbbbbbb", 1, func(r *schemas.RunSpec) { r.After = []schemas.Dependency{{Run: "aaaaaaaa"}} }); err != nil {
		t.Fatal(err)
	}
	if err := submit("cccccccc", 1, nil); !schemas.IsCode(err, schemas.CodeConflict) || !strings.Contains(err.Error(), "2 open runs") {
		t.Fatalf("a third run: %v", err)
	}
	if err := submit("aaaaaaaa", 0, nil); err != nil {
		t.Fatalf("the first again: %v", err)
	}
	if err := submit("cccccccc", 1, func(r *schemas.RunSpec) { r.Tenant = "other" }); err != nil {
		t.Fatalf("another tenant: %v", err)
	}
}

// acceptable is a spec that the front takes.
func acceptable(id string, prio int) *schemas.RunSpec {
	file := schemas.Ref{Files: []schemas.File{{Path: "x.jsonl", SHA256: strings.Repeat("0", 64), Bytes: 1}}}
	return &schemas.RunSpec{Version: 1, ID: id, Tenant: "t", Pool: "cpu", Priority: prio, Stages: []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep,
		Prep: &schemas.PrepStage{Parts: 1, Data: file, Tokenizer: file, Outputs: []schemas.PrepOutput{{Name: "train", Form: "pt", Split: "train", CutoffLen: 16}}}}}}
}

// TestDeadLetters: a failed run is buried once, listed by tenant in pages, retried as one new run, and dropped.
func TestDeadLetters(t *testing.T) {
	objects := memstore.New()
	s := NewService(objects, nil, nil, nil)
	for _, id := range []string{"aaaaaaaa", "bbbbbbbb", "cccccccc"} {
		spec := acceptable(id, 1)
		if id == "cccccccc" {
			spec.Tenant = "other"
		}
		if _, err := s.Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		h := NewHead(spec)
		h.State, h.Stages[0].State, h.Updated = schemas.RunFailed, schemas.StageFailed, time.Now()
		h.Error = schemas.Errorf(schemas.CodeData, "row 3", "broken")
		h.Ended = []schemas.GenerationEnd{{Cause: schemas.CausePreempted}, {Cause: schemas.CauseApplication}, {Cause: schemas.CauseApplication}}
		for range 2 {
			if err := bury(t.Context(), objects, spec, &h); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := s.DeadLetters(t.Context(), "", "", 2)
	if err != nil || len(list.DeadLetters) != 2 || list.Next != "t/aaaaaaaa" {
		t.Fatalf("first page %+v: %v", list, err)
	}
	list, err = s.DeadLetters(t.Context(), "", list.Next, 2)
	if err != nil || len(list.DeadLetters) != 1 || list.Next != "" {
		t.Fatalf("second page %+v: %v", list, err)
	}
	list, err = s.DeadLetters(t.Context(), "t", "", 0)
	if err != nil || len(list.DeadLetters) != 2 {
		t.Fatalf("of t %+v: %v", list, err)
	}
	d := list.DeadLetters[0]
	if d.Run != "aaaaaaaa" || d.Stage != "prep" || d.Error.Code != schemas.CodeData || d.Ended[schemas.CauseApplication] != 2 || d.Ended[schemas.CausePreempted] != 1 {
		t.Fatalf("dead letter %+v", d)
	}
	reply, err := s.RetryDeadLetter(t.Context(), "t", "aaaaaaaa")
	if err != nil || reply.Run == "aaaaaaaa" || reply.Duplicate {
		t.Fatalf("reply %+v: %v", reply, err)
	}
	if _, err := s.RetryDeadLetter(t.Context(), "t", "aaaaaaaa"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Fatalf("retried twice: %v", err)
	}
	if err := s.DropDeadLetter(t.Context(), "t", "bbbbbbbb"); err != nil {
		t.Fatal(err)
	}
	if err := s.DropDeadLetter(t.Context(), "t", "bbbbbbbb"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Fatalf("dropped twice: %v", err)
	}
	if list, err = s.DeadLetters(t.Context(), "t", "", 0); err != nil || len(list.DeadLetters) != 0 {
		t.Fatalf("left %+v: %v", list, err)
	}
}
