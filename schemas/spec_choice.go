package schemas

import "slices"

// MultipleChoice asks a model the questions of an evaluation task, a few solved ones before each, and counts how often the letter that it finds
// likeliest is the right one, as LLaMA-Factory's evaluator does (MMLU, C-Eval, CMMLU).
type MultipleChoice struct {
	// Model is a finished stage or a folder of files; Adapters are PEFT folders that are merged into it in order.
	Model    ModelSpec `json:"model"`
	Adapters []Ref     `json:"adapters,omitempty"`
	// Tokenizer holds tokenizer.json, with tokenizer_config.json and a chat template where Template is empty.
	Tokenizer Ref `json:"tokenizer"`
	// Template names the chat template; empty is the tokenizer's own. DefaultSystem, EnableThinking (nil: neither) and PreserveThinking change it.
	Template         string  `json:"template,omitempty"`
	DefaultSystem    *string `json:"default_system,omitempty"`
	EnableThinking   *bool   `json:"enable_thinking,omitempty"`
	PreserveThinking bool    `json:"preserve_thinking,omitempty"`
	// Date is the day of submission as YYYY-MM-DD, which some prompts tell.
	Date string `json:"date,omitempty"`
	// Task names the task, mmlu for instance; Files are mapping.json and <task>.zip or CSV files. Split is test, validation or train.
	Task  string `json:"task"`
	Files Ref    `json:"files"`
	Split string `json:"split" jsonschema:"enum=test,enum=validation,enum=train"`
	// Lang is the language of the words around a question.
	Lang string `json:"lang" jsonschema:"enum=en,enum=zh"`
	// Shots is the number of solved questions of the train split before each, drawn by the run's seed.
	Shots int `json:"shots" jsonschema:"minimum=0"`
	// Batch is the number of questions answered at a time; answers do not depend on it.
	Batch int `json:"batch,omitempty"`
}

// choice checks a stage of multiple choice.
func (p *problems) choice(st *Stage, e *EvalStage, at string, before map[string]*Stage) {
	c := e.Choice
	p.check(len(e.Models) == 0 && e.Predict == nil, at+".choice", "cannot be given beside models or predict")
	p.check(e.Data == "", at+".data", "cannot be given beside choice, which has its own files")
	p.check(len(e.Scripts) == 0, at+".scripts", "cannot be given beside choice")
	p.model(st, &c.Model, at+".choice.model", before)
	p.check(len(c.Model.Config) == 0, at+".choice.model.config", "a model without weights is not evaluated")
	for _, a := range c.Adapters {
		p.ref(a, at+".choice.adapters")
	}
	p.ref(c.Tokenizer, at+".choice.tokenizer")
	p.ref(c.Files, at+".choice.files")
	p.check(len(c.Files.Files) > 0, at+".choice.files", "are uploaded files")
	p.check(ValidPath(c.Task), at+".choice.task", "%q is not a name", c.Task)
	p.check(slices.Contains([]string{"test", "validation", "train"}, c.Split), at+".choice.split", "%q is unknown (test, validation, train)", c.Split)
	p.check(slices.Contains([]string{"en", "zh"}, c.Lang), at+".choice.lang", "%q is unknown (en, zh)", c.Lang)
	p.check(c.Shots >= 0 && c.Shots <= 1<<16, at+".choice.shots", "is %d, must be 0 to 65536", c.Shots)
	p.check(c.Batch >= 0 && c.Batch <= 1<<12, at+".choice.batch", "is %d, must be 0 to 4096", c.Batch)
}
