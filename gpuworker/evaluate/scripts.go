package evaluate

import (
	"context"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/script"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
)

// scriptRow is what a user's script reads of one row.
type scriptRow struct {
	Index     int    `json:"index"`
	Label     string `json:"label,omitempty"`
	Predicted string `json:"predicted,omitempty"`
	Text      string `json:"text"`
	Reference string `json:"reference"`
}

// runScripts adds the numbers of the user's own scripts to a model's report.
func runScripts(ctx context.Context, t *consume.Task, m modelSlice, out *ModelReport) error {
	if len(t.Stage.Eval.Scripts) == 0 {
		return nil
	}
	rows := make([]scriptRow, len(m.Records))
	for i, r := range m.Records {
		rows[i] = scriptRow{Index: r.Index, Label: r.Label, Predicted: r.Predicted, Text: r.Text, Reference: r.Reference}
	}
	out.Scripts = map[string]map[string]float64{}
	for i, s := range t.Stage.Eval.Scripts {
		t.Phase("scripts", int64(i), int64(len(t.Stage.Eval.Scripts)))
		// The agent hands the operator's list to its rank processes by the environment, and nothing else of its own.
		values, err := script.Run(ctx, s, rows, t.Dir, os.Getenv(script.Variable))
		if err != nil {
			return err
		}
		out.Scripts[s.Name] = values
	}
	return nil
}

// predictScripts adds them to the values of a prediction, named <script>/<metric>; a script reads what generated_predictions.jsonl holds.
func predictScripts(ctx context.Context, t *consume.Task, rows []prediction, values map[string]float64) error {
	type line struct {
		Prompt  string `json:"prompt"`
		Predict string `json:"predict"`
		Label   string `json:"label"`
	}
	if len(t.Stage.Eval.Scripts) == 0 {
		return nil
	}
	lines := make([]line, len(rows))
	for i, r := range rows {
		lines[i] = line{r.Prompt, r.Predict, r.Label}
	}
	for _, s := range t.Stage.Eval.Scripts {
		m, err := script.Run(ctx, s, lines, t.Dir, os.Getenv(script.Variable))
		if err != nil {
			return err
		}
		for k, v := range m {
			values[s.Name+"/"+k] = v
		}
	}
	return nil
}

// corpus scores all generated texts together.
func (r *ModelReport) corpus(texts []string, references [][]string) error {
	o := metrics.DefaultBLEU()
	o.Tokenize = "zh"
	b, err := metrics.CorpusBLEU(texts, references, o)
	if err != nil {
		return err
	}
	r.SacreBLEU = b.Score
	r.ChrF, err = metrics.CorpusChrF(texts, references, metrics.DefaultChrF())
	return err
}
