package choice

import (
	"context"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
)

// Question is one question of a task with what is asked before it.
type Question struct {
	// Subject is the place among the task's subjects, Index that in the subject's split.
	Subject, Index int
	// Messages are the solved examples and the question; the last one is its Answer.
	Messages []chat.Message
	Answer   string
}

// wording is how questions are put in a language. %s of intro is the subject.
type wording struct{ intro, answer string }

// wordings are LLaMA-Factory's (eval/template.py); a model has seen MMLU's, C-Eval's and CMMLU's questions in them.
func wordings() map[string]wording {
	return map[string]wording{
		"en": {"The following are multiple choice questions (with answers) about {subject}.\n\n", "\nAnswer:"},
		"zh": {"以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "\n答案："},
	}
}

// Languages are the languages that questions can be put in.
func Languages() []string { return []string{"en", "zh"} }

// Settings say which questions are asked, and how.
type Settings struct {
	// Split is test, validation or train; Lang one of Languages.
	Split, Lang string
	// Shots is the most examples before a question; they are drawn by Seed from the train split.
	Shots int
	Seed  uint64
}

// Ask gives every question of the task in its order to take, until that fails. The examples of a question depend on the seed and on how many
// questions came before it: Dataset.shuffle without a seed goes by numpy's global generator, which the evaluator seeds once.
func (t *Task) Ask(ctx context.Context, s Settings, take func(Question) error) error {
	words, ok := wordings()[s.Lang]
	if !ok {
		return schemas.Errorf(schemas.CodeInvalid, "lang", "is %q, expected one of %s", s.Lang, strings.Join(Languages(), ", "))
	}
	rng := pyrand.NewMT(uint32(s.Seed))
	for i, subject := range t.Subjects {
		if err := ctx.Err(); err != nil {
			return err
		}
		train, err := t.Examples(subject, "train")
		if err != nil {
			return err
		}
		asked := train
		if s.Split != "train" {
			if asked, err = t.Examples(subject, s.Split); err != nil {
				return err
			}
		}
		intro := strings.ReplaceAll(words.intro, "{subject}", subject.Name)
		for k, e := range asked {
			var messages []chat.Message
			if len(train) > 0 { // an empty set is not shuffled, and draws nothing
				order := pyrand.NewGenerator(uint64(rng.ShuffleSeed())).Permutation(len(train))
				for _, at := range order[:min(s.Shots, len(train))] {
					messages = append(messages, words.messages(train[at])...)
				}
			}
			messages = append(messages, words.messages(e)...)
			messages[0].Content = intro + messages[0].Content
			if err := take(Question{Subject: i, Index: k, Messages: messages, Answer: e.Answer}); err != nil {
				return err
			}
		}
	}
	return nil
}

// messages is a question with its answer.
func (w wording) messages(e Example) []chat.Message {
	var b strings.Builder
	b.WriteString(e.Question)
	for _, c := range e.Choices {
		b.WriteString("\n" + c.Letter + ". " + c.Text)
	}
	b.WriteString(w.answer)
	return []chat.Message{{Role: "user", Content: b.String()}, {Role: "assistant", Content: e.Answer}}
}

// Likeliest is the letter with the greatest logit of its token, the first of equal ones.
func Likeliest(logits []float32, tokens []int32) string {
	scores := make([]float32, len(tokens))
	for i, id := range tokens {
		scores[i] = logits[id]
	}
	return Letters()[slices.Index(scores, slices.Max(scores))]
}
