package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// feed is the events of a short run that loses a worker.
func feed() []schemas.Event {
	step := func(generation uint64, n int64, loss float64) schemas.Event {
		return schemas.Event{Type: schemas.EventStep, Stage: "tuned", Generation: generation, Step: n, Worker: "worker-1",
			Values: map[string]float64{"total": 4, "loss": loss, "tokens_per_second": 100}}
	}
	part := func(worker string, done float64) schemas.Event {
		return schemas.Event{Type: schemas.EventProgress, Stage: "prep", Worker: worker, Values: map[string]float64{"rows": done, "total": 50}}
	}
	state := func(stage, phase string) schemas.Event {
		return schemas.Event{Type: schemas.EventStage, Stage: stage, Message: phase}
	}
	return []schemas.Event{
		{Type: schemas.EventState, Message: "running"}, state("prep", "running"), part("a", 10), part("b", 50), part("a", 50), state("prep", "succeeded"),
		state("tuned", "running"), step(1, 1, 4), step(1, 2, 3), {Type: schemas.EventMemberLost, Stage: "tuned", Worker: "worker-2", Step: 2},
		{Type: schemas.EventGeneration, Stage: "tuned", Generation: 2, Values: map[string]float64{"world": 2}},
		{Type: schemas.EventNote, Stage: "tuned", Message: "precision fp32: as asked"},
		{Type: schemas.EventMemberLost, Stage: "tuned", Worker: "worker-9"}, step(2, 2, 3), step(2, 3, 2.5), step(2, 4, 2), state("tuned", "succeeded"), {Type: schemas.EventState, Message: "succeeded"},
	}
}

func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, false)
	now := time.Unix(0, 0)
	p.now = func() time.Time { now = now.Add(2 * time.Second); return now }
	for _, e := range feed() {
		p.event(e)
	}
	p.close()
	for _, want := range []string{"prep: started", "prep: 100/100 rows", "prep: done in", "tuned: generation 2, 2 worker(s)", "tuned: worker-2 lost its gang after step 2\n",
		"tuned: worker-9 lost its gang\n", "tuned: precision fp32: as asked\n", "tuned: 4/4 steps  loss 2.0000  100 tokens/s", "run succeeded"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
}

// TestProgressOfThePast takes the events of a run that is over, which come all at once: what they say of time is when they happened.
func TestProgressOfThePast(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, false)
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, e := range feed() {
		e.At = began.Add(time.Duration(i) * 10 * time.Second)
		p.event(e)
	}
	p.close()
	for _, want := range []string{"prep: done in 40s", "tuned: 4/4 steps  loss 2.0000  100 tokens/s", "tuned: done in 1m40s", "run succeeded"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "4/4 steps"); n != 1 {
		t.Errorf("the last step is said %d times in\n%s", n, out.String())
	}
}

func TestBarsDrawEveryStage(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, true)
	for _, e := range feed() {
		p.event(e)
	}
	p.close()
	for _, want := range []string{"prep", "tuned", "run succeeded"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
}

func TestDemoJudgesEveryCriterion(t *testing.T) {
	good := func() *demoSummary {
		return &demoSummary{Hash: "a", HashAlone: "a", Report: &evaluate.Report{MajorityShare: 0.1, BagOfWords: &evaluate.Baseline{Accuracy: 0.8},
			Models: []evaluate.ModelReport{{Name: "base", Accuracy: 0.1}, {Name: "tuned", Accuracy: 0.9}}}}
	}
	if s := good(); true {
		if s.judge(); len(s.Missed) != 0 {
			t.Errorf("a good result missed %v", s.Missed)
		}
	}
	for name, spoil := range map[string]func(s *demoSummary){
		"is under":          func(s *demoSummary) { s.Report.Models[1].Accuracy = 0.79 },
		"points over base":  func(s *demoSummary) { s.Report.Models[0].Accuracy = 0.80 },
		"majority class":    func(s *demoSummary) { s.Report.MajorityShare = 0.7 },
		"outside 0.60-0.95": func(s *demoSummary) { s.Report.BagOfWords.Accuracy = 0.96 },
		"no bag-of-words":   func(s *demoSummary) { s.Report.BagOfWords = nil },
		"the weights":       func(s *demoSummary) { s.HashAlone = "b" },
	} {
		s := good()
		spoil(s)
		if s.judge(); len(s.Missed) != 1 || !strings.Contains(s.Missed[0], name) {
			t.Errorf("%s: missed %v", name, s.Missed)
		}
	}
}

func TestTemplatesOfTheAliasTableExist(t *testing.T) {
	for _, m := range config.Models() {
		if _, err := data.TemplateByName(m.Template); err != nil {
			t.Errorf("%s: %v", m.Alias, err)
		}
	}
}
