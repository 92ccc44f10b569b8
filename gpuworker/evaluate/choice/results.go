package choice

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// Answered is what a model chose.
type Answered struct {
	// Subject and Index are the question's.
	Subject int `json:"subject"`
	Index   int `json:"index"`
	// Chosen is the model's letter, Answer the right one, "" where none is known.
	Chosen string `json:"chosen"`
	Answer string `json:"answer"`
}

// Score is the share of right answers of a category or a subject.
type Score struct {
	Name string `json:"name"`
	// Right of Questions were answered rightly; Accuracy is their share, 0 to 1.
	Right     int     `json:"right"`
	Questions int     `json:"questions"`
	Accuracy  float64 `json:"accuracy"`
}

func (s *Score) add(right bool) {
	s.Questions++
	if right {
		s.Right++
	}
	s.Accuracy = float64(s.Right) / float64(s.Questions)
}

// Scores count the answers by category, those without questions left out, and by subject. answers are in the order of their questions.
func (t *Task) Scores(answers []Answered) (categories, subjects []Score) {
	byCategory := map[string]*Score{}
	for _, c := range Categories() {
		byCategory[c] = &Score{Name: c}
	}
	subjects = make([]Score, len(t.Subjects))
	for i, s := range t.Subjects {
		subjects[i].Name = s.Key
	}
	for _, a := range answers {
		right := a.Chosen == a.Answer
		subjects[a.Subject].add(right)
		byCategory[t.Subjects[a.Subject].Category].add(right)
		byCategory["Average"].add(right)
	}
	for _, c := range Categories() {
		if s := byCategory[c]; s.Questions > 0 {
			categories = append(categories, *s)
		}
	}
	return categories, subjects
}

// Log is results.log, which is what LLaMA-Factory prints, too: the percentage of right answers by category, without an end of the last line.
func Log(categories []Score) string {
	var lines []string
	for _, c := range categories {
		lines = append(lines, fmt.Sprintf("%15s: %.2f", c.Name, 100*c.Accuracy))
	}
	return strings.Join(lines, "\n")
}

// Results is results.json: the letters by subject and number of the question, as Python's json writes them with an indent of 2. answers are in
// the order of their questions.
func (t *Task) Results(answers []Answered) string {
	subjects := make([]*pyjson.Object, len(t.Subjects))
	all := pyjson.NewObject()
	for i, s := range t.Subjects {
		subjects[i] = pyjson.NewObject()
		all.Set(s.Key, subjects[i])
	}
	for _, a := range answers {
		o := subjects[a.Subject]
		o.Set(strconv.Itoa(o.Len()), a.Chosen)
	}
	return pyjson.Dump(all, pyjson.Style{Indent: 2, ASCII: true})
}
