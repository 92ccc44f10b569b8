package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// trained is a run whose step 5 was hurt; notes are what its log says of the step. Its twin is one that nothing happened to.
func trained(t *testing.T, verb, note string) (*story, *story) {
	t.Helper()
	one, twin := newStory(t), newStory(t)
	one.notes = map[int64]string{5: note}
	twin.spec.ID = strings.Repeat("b", 26)
	for _, s := range []*story{one, twin} {
		s.events[0].Run = s.spec.ID
		s.submit()
		s.start()
		s.form()
	}
	one.add(Event{Kind: KindTrainer, Verb: verb, Stage: "tune", Step: 5, Twin: twin.spec.ID})
	return one, twin
}

func (s *story) succeed() {
	for range steps / every {
		s.commit(s.train())
	}
	s.finish()
}

// stop ends the run as failed after so many commits and generations.
func (s *story) stop(commits, generations int, info schemas.ErrorInfo) {
	s.events[0].Expect = &Expect{Outcomes: []string{OutcomeFailed}, Stage: "tune", Poison: true}
	for range commits {
		s.commit(s.train())
	}
	for i := range generations {
		if i > 0 {
			if s.head.Manifest != nil {
				s.reload()
			}
			s.form()
		}
		s.lose(schemas.CauseApplication)
	}
	s.swap(func(h *schemas.Head) {
		h.Seats, h.Members = nil, nil
		h.Stages = slices.Clone(h.Stages)
		h.Stages[1].State, h.State, h.Error = schemas.StageFailed, schemas.RunFailed, &info
	})
	s.ack("tf.work.train.cpu.alpha." + s.spec.ID + ".tune.0.1")
	s.put(schemas.EndedKey(s.spec.Tenant, s.spec.ID), "", []byte("{}"))
	s.remove(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID))
	s.drain(1)
}

// TestFaultsOfTheTrainer: histories as a trainer makes them that keeps its promises, and each with one thing wrong.
func TestFaultsOfTheTrainer(t *testing.T) {
	numeric := schemas.ErrorInfo{Code: schemas.CodeNumeric, Message: "step 5: the loss is NaN"}
	shard := schemas.ErrorInfo{Code: schemas.CodeVerify, Message: "cache/alpha/x/shard: does not have the bytes"}
	with := func(e schemas.ErrorInfo, code schemas.Code, message string) schemas.ErrorInfo {
		e.Code, e.Message = code, message
		return e
	}
	for _, c := range []struct {
		name, verb, note string
		want             string // in a violation of R8, "" for none
		story            func(s, twin *story)
	}{
		{"once", TrainerOnce, "gradient_outlier: gone when computed again", "", func(s, _ *story) { s.succeed() }},
		{"once, and nobody noticed", TrainerOnce, "", "no event says", func(s, _ *story) { s.succeed() }},
		{"once, told of as lasting", TrainerOnce, "gradient_outlier: computed again with the same result; keep", "no event says", func(s, _ *story) { s.succeed() }},
		{"once, and other weights", TrainerOnce, "gradient_outlier: gone when computed again", "changed the final state", func(s, _ *story) {
			s.state[0][0] ^= 1
			s.succeed()
		}},
		{"once, and a generation failed", TrainerOnce, "gradient_outlier: gone when computed again", "1 generations failed", func(s, _ *story) {
			s.commit(s.train())
			s.lose(schemas.CauseApplication)
			s.reload()
			s.form()
			s.commit(s.train())
			s.commit(s.train())
			s.finish()
		}},
		{"read once", TrainerRead, "", "", func(s, _ *story) { s.succeed() }},
		{"read once, and other weights", TrainerRead, "", "changed the final state", func(s, _ *story) {
			s.state[0][0] ^= 1
			s.succeed()
		}},
		{"skipped", TrainerSkipped, "gradient_not_finite: computed again with the same result; skip", "", func(s, _ *story) { s.succeed() }},
		{"skipped in silence", TrainerSkipped, "", "no event says", func(s, _ *story) { s.succeed() }},
		{"always", TrainerAlways, "", "", func(s, _ *story) { s.stop(2, 1, numeric) }},
		{"always, and retried", TrainerAlways, "", "3 generations failed", func(s, _ *story) { s.stop(2, 3, numeric) }},
		{"always, and committed", TrainerAlways, "", "step 6 is committed", func(s, _ *story) { s.stop(3, 1, numeric) }},
		{"always, and taken", TrainerAlways, "", "should have failed", func(s, _ *story) { s.succeed() }},
		{"always, of another class", TrainerAlways, "", "it should be numeric", func(s, _ *story) { s.stop(2, 1, with(numeric, schemas.CodeInternal, numeric.Message)) }},
		{"always, and no step named", TrainerAlways, "", "and name step 5", func(s, _ *story) { s.stop(2, 1, with(numeric, schemas.CodeNumeric, "NaN")) }},
		{"stored", TrainerStored, "", "", func(s, _ *story) { s.stop(0, 3, shard) }},
		{"stored, and retried without end", TrainerStored, "", "7 generations failed", func(s, _ *story) { s.stop(0, 7, shard) }},
		{"stored, and no shard named", TrainerStored, "", "and name cache/", func(s, _ *story) { s.stop(0, 3, with(shard, schemas.CodeVerify, "damaged")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, twin := trained(t, c.verb, c.note)
			i := len(s.events) - 1
			if c.verb == TrainerStored {
				s.events[i].Key = "cache/alpha/x/shard"
			}
			twin.succeed()
			c.story(s, twin)
			for k, v := range twin.objects {
				s.objects[k] = v
			}
			rep := Check(append(s.events, twin.events...), s.objects, Limits{})
			if rep.Checked["R8"] != 1 {
				t.Errorf("judged %d times", rep.Checked["R8"])
			}
			var texts []string
			for _, v := range rep.Violations {
				if v.Invariant == "R8" {
					texts = append(texts, v.Text)
				} else if c.want == "" {
					t.Errorf("%+v", v)
				}
			}
			switch {
			case c.want == "" && len(texts) > 0:
				t.Errorf("violations of a healthy history: %v", texts)
			case c.want != "" && !strings.Contains(strings.Join(texts, "\n"), c.want):
				t.Errorf("%q is not among the violations: %v", c.want, texts)
			}
		})
	}
}
