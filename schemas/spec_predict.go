package schemas

// Prediction answers every prompt of a data set with one model, and scores the answers against those of the data as LLaMA-Factory does
// (predict_rouge-1, predict_rouge-2, predict_rouge-l, predict_bleu-4). The data are an output of the form "predict".
type Prediction struct {
	// Model is a finished stage or a folder of files; Adapters are PEFT folders that are merged into it in order.
	Model    ModelSpec `json:"model"`
	Adapters []Ref     `json:"adapters,omitempty"`
	// Batch is the number of prompts answered at a time; answers do not depend on it.
	Batch      int        `json:"batch,omitempty"`
	Generation Generation `json:"generation"`
}

// Generation says how answers are generated.
type Generation struct {
	// MaxNewTokens bounds an answer. MaxLength, when positive, bounds a batch's longest prompt, its padding and the answer together in its place
	// (TrainStage.EvalPad).
	MaxNewTokens int `json:"max_new_tokens"`
	MaxLength    int `json:"max_length,omitempty"`
	// Stop are the ids that end an answer; none: the tokenizer's end of a sequence and its additional special tokens.
	Stop []int32 `json:"stop,omitempty"`
	// Sample draws tokens; otherwise the likeliest one is taken. Temperature, TopK and TopP (0: off) shape the draw.
	Sample      bool    `json:"sample,omitempty"`
	Temperature float64 `json:"temperature,omitempty"`
	TopK        int     `json:"top_k,omitempty"`
	TopP        float64 `json:"top_p,omitempty"`
	// RepetitionPenalty divides the logits of tokens that occurred (0 or 1: off).
	RepetitionPenalty float64 `json:"repetition_penalty,omitempty"`
	// Beams above 1 searches with that many beams, without drawing; LengthPenalty is the power of the length that the scores of ended ones are
	// divided by (nil: 1).
	Beams         int      `json:"beams,omitempty" jsonschema:"minimum=0"`
	LengthPenalty *float64 `json:"length_penalty,omitempty"`
	// KeepSpecial keeps special tokens in the text of answers.
	KeepSpecial bool `json:"keep_special,omitempty"`
}

// prediction checks a prediction stage.
func (p *problems) prediction(st *Stage, e *EvalStage, at string, before map[string]*Stage) {
	p.check(len(e.Models) == 0, at+".models", "cannot be given beside predict")
	p.model(st, &e.Predict.Model, at+".predict.model", before)
	for _, a := range e.Predict.Adapters {
		p.ref(a, at+".predict.adapters")
	}
	p.check(e.Predict.Batch >= 0 && e.Predict.Batch <= 1<<12, at+".predict.batch", "is %d, must be 0 to 4096", e.Predict.Batch)
	p.generation(&e.Predict.Generation, at+".predict.generation")
}

// generation checks how answers are generated.
func (p *problems) generation(g *Generation, gp string) {
	p.check(g.Beams >= 0 && g.Beams <= 256, gp+".beams", "is %d, must be 0 to 256", g.Beams)
	p.check(g.LengthPenalty == nil || finite(*g.LengthPenalty), gp+".length_penalty", "must be a number")
	p.check(g.Beams < 2 || !g.Sample, gp+".beams", "beam search does not draw: sample must be off")
	p.check(g.MaxLength >= 0 && g.MaxLength <= 1<<20, gp+".max_length", "is %d, must be 0 to 1048576", g.MaxLength)
	p.check(g.MaxNewTokens >= 1 && g.MaxNewTokens <= 1<<20, gp+".max_new_tokens", "is %d, must be 1 to 1048576", g.MaxNewTokens)
	p.check(finite(g.Temperature) && g.Temperature >= 0, gp+".temperature", "is %g, must be >= 0", g.Temperature)
	p.check(g.TopK >= 0, gp+".top_k", "is %d, must be >= 0", g.TopK)
	p.check(g.TopP >= 0 && g.TopP <= 1, gp+".top_p", "is %g, must be in [0, 1]", g.TopP)
	p.check(finite(g.RepetitionPenalty) && g.RepetitionPenalty >= 0, gp+".repetition_penalty", "is %g, must be >= 0", g.RepetitionPenalty)
}
