package evaluate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/choice"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train/traintest"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// choiceConfig is the model of testdata/choice/golden.py.
const choiceConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
	"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
	"tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "torch_dtype": "float32"}`

// choiceWeights are golden.py's weights(): a hash of the place.
func choiceWeights(number int, out []float32, scale float64) {
	for i := range out {
		h := uint32(uint64(i+number*1_000_003) * 2654435761)
		h = uint32(uint64(h^h>>15) * 2246822519)
		h ^= h >> 13
		out[i] = float32((float64(h>>8)/(1<<23) - 1) * scale)
	}
}

// choiceModel uploads that model and its tokenizer.
func choiceModel(t *testing.T, s *traintest.Stack) (base, tokenizer schemas.Ref) {
	t.Helper()
	m, err := zoo.New(json.RawMessage(choiceConfig))
	if err != nil {
		t.Fatal(err)
	}
	params := nn.Params(m.Root())
	slices.SortFunc(params, func(a, b *nn.Param) int { return strings.Compare(a.Name, b.Name) })
	var entries []safetensors.Entry
	for i, p := range params {
		v := make([]float32, p.Len())
		switch {
		case strings.HasSuffix(p.Name, "norm.weight"):
			for k := range v {
				v[k] = 1
			}
		case strings.Contains(p.Name, "embed"):
			choiceWeights(i, v, 1)
		default:
			choiceWeights(i, v, 0.25)
		}
		entries = append(entries, nn.ReadEntry(p, safetensors.F32, func(start int64, dst []float32) error {
			copy(dst, v[start:])
			return nil
		}))
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, entries, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	base.Files = []schemas.File{s.Upload("config.json", []byte(choiceConfig)), s.Upload("model.safetensors", b.Bytes())}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		raw, err := os.ReadFile(filepath.Join("../../producer/examples/contract-review/tokenizer", name))
		if err != nil {
			t.Fatal(err)
		}
		tokenizer.Files = append(tokenizer.Files, s.Upload(name, raw))
	}
	return base, tokenizer
}

// choiceFiles uploads a task of testdata/choice.
func choiceFiles(t *testing.T, s *traintest.Stack, task string) (out schemas.Ref) {
	t.Helper()
	dir := filepath.Join("testdata/choice", task)
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		out.Files = append(out.Files, s.Upload(filepath.ToSlash(rel), raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// choiceCase is what LLaMA-Factory's evaluator did, see testdata/choice/golden.py.
type choiceCase struct {
	Case struct {
		Task     string  `json:"task"`
		Template string  `json:"template"`
		Lang     string  `json:"lang"`
		Shots    *int    `json:"n_shot"`
		Seed     *uint64 `json:"seed"`
		Batch    int     `json:"batch_size"`
		System   *string `json:"default_system"`
	} `json:"case"`
	Results string `json:"results"`
	Log     string `json:"log"`
	// Prompts are the ids of the first three and the last one, of the others a checksum.
	Prompts []json.RawMessage `json:"prompts"`
	Margin  float64           `json:"margin"`
}

func choiceCases(t *testing.T) (out []choiceCase) {
	t.Helper()
	raw, err := os.ReadFile("testdata/choice/golden.json")
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// stage is the case as a spec has it, and its seed.
func (c *choiceCase) stage() (*schemas.MultipleChoice, uint64) {
	task, split, _ := strings.Cut(c.Case.Task, "_")
	out := &schemas.MultipleChoice{Task: task, Split: split, Template: c.Case.Template, Lang: "en", Shots: 5, Batch: c.Case.Batch, DefaultSystem: c.Case.System}
	if c.Case.Lang != "" {
		out.Lang = c.Case.Lang
	}
	if c.Case.Shots != nil {
		out.Shots = *c.Case.Shots
	}
	seed := uint64(42)
	if c.Case.Seed != nil {
		seed = *c.Case.Seed
	}
	return out, seed
}

// TestChoicesAreLLaMAFactorys: the same prompts, the same answers, and the same bytes of both files as LLaMA-Factory's evaluator.
func TestChoicesAreLLaMAFactorys(t *testing.T) {
	for i, c := range choiceCases(t) {
		t.Run(c.Case.Task+"-"+c.Case.Template, func(t *testing.T) {
			if c.Margin < 1e-3 {
				t.Fatalf("two choices of the golden run lie %g apart: it decides nothing", c.Margin)
			}
			s := traintest.New(t)
			what, seed := c.stage()
			s.Spec.Seed = seed
			base, tokenizer := choiceModel(t, s)
			what.Model.Base, what.Tokenizer, what.Files = &base, tokenizer, choiceFiles(t, s, what.Task)
			slices := 1 + i%3
			s.Start(schemas.Stage{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Choice: what, Slices: slices}})
			if err := s.Spec.WithDefaults().Validate(); err != nil {
				t.Fatal(err)
			}
			samePrompts(t, s, what, seed, c.Prompts)
			for part := range slices {
				s.Part(evaluate.Handle, "eval", part, slices)
			}
			res := s.Part(evaluate.Handle, "eval", slices, slices)
			got := map[string]string{}
			for _, o := range res.Objects {
				raw, _, err := s.Objects.Get(t.Context(), o.Key, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				got[o.Name] = string(raw)
			}
			if got[evaluate.ChoiceResultsName] != c.Results {
				t.Errorf("results.json\n%s\nLLaMA-Factory's\n%s", got[evaluate.ChoiceResultsName], c.Results)
			}
			if got[evaluate.ChoiceLogName] != c.Log {
				t.Errorf("results.log\n%s\nLLaMA-Factory's\n%s", got[evaluate.ChoiceLogName], c.Log)
			}
			var rep evaluate.ChoiceReport
			if err := json.Unmarshal([]byte(got[evaluate.ChoiceReportName]), &rep); err != nil || rep.Categories[0].Questions != len(c.Prompts) || rep.Task != what.Task {
				t.Errorf("report %+v (%v)", rep, err)
			}
		})
	}
}

// samePrompts compares the tokens that the model reads.
func samePrompts(t *testing.T, s *traintest.Stack, what *schemas.MultipleChoice, seed uint64, want []json.RawMessage) {
	t.Helper()
	tok, err := prep.OpenChatTokenizer(t.Context(), prep.Files{Objects: s.Objects, Tenant: s.Spec.Tenant}, what.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	var enc *chat.Encoder
	enc, err = prep.NewChatEncoder(tok, &schemas.PrepOutput{Form: "sft", Template: what.Template}, &schemas.FactorySpec{DefaultSystem: what.DefaultSystem})
	if err != nil {
		t.Fatal(err)
	}
	task, err := choice.Open(what.Task, taskFolder(filepath.Join("testdata/choice", what.Task)))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = task.Ask(t.Context(), choice.Settings{Split: what.Split, Lang: what.Lang, Shots: what.Shots, Seed: seed}, func(q choice.Question) error {
		pair, err := enc.OneTurn(q.Messages, "", "")
		if err != nil {
			return err
		}
		var got string
		if n < 3 || n == len(want)-1 {
			raw, err := json.Marshal(pair.Prompt)
			if err != nil {
				return err
			}
			got = string(raw)
		} else {
			sum := int64(0)
			for j, id := range pair.Prompt {
				sum += int64(j+1) * int64(id)
			}
			got = fmt.Sprint(sum)
		}
		if n >= len(want) || got != strings.ReplaceAll(string(want[n]), " ", "") {
			return fmt.Errorf("prompt %d is\n%s\nLLaMA-Factory's is\n%s\n(%q)", n, got, want[min(n, len(want)-1)], q.Messages)
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Fatalf("%d prompts of %d: %v", n, len(want), err)
	}
}

// taskFolder is a folder on this machine.
type taskFolder string

func (d taskFolder) Read(name string, _ int64) ([]byte, bool, error) {
	b, err := os.ReadFile(filepath.Join(string(d), filepath.FromSlash(name)))
	if os.IsNotExist(err) {
		return nil, false, nil
	}
	return b, err == nil, err
}

// TestChoicesThatCannotBeAsked: what is wrong is told, with its place.
func TestChoicesThatCannotBeAsked(t *testing.T) {
	s := traintest.New(t)
	base, tokenizer := choiceModel(t, s)
	small := schemas.Ref{Files: slices.Clone(base.Files)}
	small.Files[0] = s.Upload("config.json", []byte(strings.Replace(choiceConfig, `"vocab_size": 2048`, `"vocab_size": 70`, 1)))
	m, err := zoo.New(json.RawMessage(strings.Replace(choiceConfig, `"vocab_size": 2048`, `"vocab_size": 70`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	var entries []safetensors.Entry
	for _, p := range nn.Params(m.Root()) {
		entries = append(entries, nn.ReadEntry(p, safetensors.F32, func(_ int64, dst []float32) error { clear(dst); return nil }))
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, entries, nil); err != nil {
		t.Fatal(err)
	}
	small.Files[1] = s.Upload("model.safetensors", b.Bytes())
	files := choiceFiles(t, s, "mmlu")
	for name, c := range map[string]struct {
		model schemas.Ref
		task  string
		files schemas.Ref
		split string
		code  schemas.Code
		want  string
	}{
		"vocabulary": {small, "mmlu", files, "test", schemas.CodeModel, "the model's vocabulary is 70"},
		"no split":   {base, "cmmlu", choiceFiles(t, s, "cmmlu"), "validation", schemas.CodeNotFound, "has no validation split"},
		"no mapping": {base, "mmlu", schemas.Ref{Files: files.Files[1:]}, "test", schemas.CodeNotFound, "no list of subjects"},
	} {
		s.Spec.Stages = []schemas.Stage{{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Slices: 1,
			Choice: &schemas.MultipleChoice{Model: schemas.ModelSpec{Base: &c.model}, Tokenizer: tokenizer, Files: c.files, Task: c.task, Split: c.split, Template: "fewshot", Lang: "en", Shots: 1}}}}
		if err := evaluate.Handle(t.Context(), s.Task("eval", 0, 1)); !schemas.IsCode(err, c.code) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEqualLogitsChooseTheFirst as torch.argmax does.
func TestEqualLogitsChooseTheFirst(t *testing.T) {
	low := float32(math.Inf(-1))
	if got := choice.Likeliest([]float32{9, 1, 2, 2, low}, []int32{4, 1, 2, 3}); got != "C" {
		t.Errorf("chose %s", got)
	}
}
