package check

import (
	"strings"
	"testing"
)

// TestAutoscaling: answers to autoscalers about a run with one seat, and each with one thing wrong.
func TestAutoscaling(t *testing.T) {
	ask := func(s *story, count int, names ...string) {
		s.at += 1.5
		s.add(Event{Kind: KindDemand, Proc: "autoscaler-1", Count: count, Names: names})
		s.events[len(s.events)-1].Ended = s.at
		s.at += 1.5
	}
	for _, c := range []struct {
		name, want string
		story      func(s *story)
	}{
		{"others are removable", "", func(s *story) { ask(s, 1, "worker-2", "worker-3") }},
		{"the seat's worker is called removable", "worker-1 is called removable", func(s *story) { ask(s, 1, "worker-2", "worker-1") }},
		{"so it is after a commit too", "worker-1 is called removable", func(s *story) {
			s.commit(s.train())
			ask(s, 1, "worker-1")
		}},
		{"its record is a moment late", "", func(s *story) {
			s.add(Event{Kind: KindDemand, Proc: "autoscaler-1", Count: 1, Names: []string{"worker-1"}})
			s.events[len(s.events)-1].Ended = s.at
			s.at += 1.5
		}},
		{"it was killed and came back without its seat", "", func(s *story) {
			s.at += 2
			s.add(Event{Kind: KindKill, Proc: "worker-1"})
			ask(s, 1, "worker-1")
		}},
		{"more is asked for than the run can use", "3 workers are asked for", func(s *story) { ask(s, 3) }},
		{"the group is at its maximum", "", func(s *story) { s.add(Event{Kind: KindCloud, Proc: "cloud", Count: 4, Limit: 4}) }},
		{"the group is beyond its maximum", "5 instances run", func(s *story) { s.add(Event{Kind: KindCloud, Proc: "cloud", Count: 5, Limit: 4}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(t)
			s.submit()
			s.start()
			s.form()
			c.story(s)
			for s.head.Step < steps {
				s.commit(s.train())
			}
			s.finish()
			rep := Check(s.events, s.objects, Limits{})
			var texts []string
			for _, v := range rep.Violations {
				texts = append(texts, v.Invariant+": "+v.Text)
			}
			all := strings.Join(texts, "\n")
			if rep.Checked["R9"] == 0 || c.want == "" && all != "" || c.want != "" && !strings.Contains(all, "R9: "+c.want) {
				t.Errorf("judged %d times; %q is wanted: %s", rep.Checked["R9"], c.want, all)
			}
		})
	}
	// After the run has ended nothing is needed, and everybody may go.
	s := whole(t)
	s.at += demandSettle + 1
	s.add(Event{Kind: KindDemand, Proc: "autoscaler-1", Count: 1, Names: []string{"worker-1", "worker-2"}})
	s.events[len(s.events)-1].Ended = s.at
	rep := Check(s.events, s.objects, Limits{})
	if len(rep.Violations) != 1 || rep.Violations[0].Text != "1 workers are asked for, 0 open runs can use 0" {
		t.Errorf("%+v", rep.Violations)
	}
}
