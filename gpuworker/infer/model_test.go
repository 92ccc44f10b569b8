package infer

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/infer/infertest"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

func open(t *testing.T, o Options) *Model {
	t.Helper()
	o.Threads = 2
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// A reward model of a PEFT folder scores as transformers and PEFT compute it: the value head on the last hidden state.
func TestScoresEqualTransformers(t *testing.T) {
	t.Parallel()
	dir := fixturetest.Dir(t, "e2e")
	m := open(t, Options{Folders: train.Folders{Base: filepath.Join(dir, "model_llama3"), Adapters: []string{filepath.Join(dir, "rm_lora", "out")}, Head: true}, Template: "llama3"})
	got, err := m.Scores(t.Context(), []string{"hello there", "Who are you? I am an assistant."}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{0.9931397438049316, -0.21747957170009613} { // torch 2.9.1, transformers 4.57.6
		if math.Abs(got[i]-want) > 1e-5 {
			t.Errorf("text %d: %g, want %g", i, got[i], want)
		}
	}
	if cut, err := m.Scores(t.Context(), []string{"hello there", "hello"}, 1); err != nil || cut[0] != cut[1] {
		t.Errorf("cut to a token: %v, %v", cut, err)
	}
	if _, err := m.Scores(t.Context(), []string{""}, 0); err == nil {
		t.Error("an empty text was scored")
	}
	if _, err := NewEngine(m, EngineOptions{}); err == nil {
		t.Error("a reward model answers")
	}
}

// Over a packed base the adapter stays apart; the model still says what it was taught.
func TestPackedBaseAnswers(t *testing.T) {
	t.Parallel()
	dir := fixturetest.Dir(t, "e2e")
	for kind, q := range map[string]adapter.QuantConfig{"int8": {Type: adapter.Int8}, "nf4": {Type: adapter.NF4, Double: true}} {
		f := train.Folders{Base: filepath.Join(dir, "model_llama3_memo"), Adapters: []string{filepath.Join(dir, "sft_lora_on_memo", "out")}}
		var said [][]int32
		for _, pack := range []adapter.QuantConfig{{}, q} {
			f.Quant = pack
			m := open(t, Options{Folders: f, Template: "llama3"})
			p, err := m.Prompt(Conversation{Messages: []chat.Message{{Role: chat.RoleUser, Content: "hi! Who are you?"}}})
			if err != nil {
				t.Fatal(err)
			}
			got, _ := answers(t, engine(t, m, EngineOptions{}), Request{Prompt: p, MaxNewTokens: 20})
			said = append(said, got[0])
		}
		if n := common(said[0], said[1]); n < 2 || slices.Equal(said[1][:1], []int32{0}) {
			t.Errorf("%s: plain %v, packed %v", kind, said[0], said[1])
		}
	}
	alone := open(t, Options{Folders: train.Folders{Base: filepath.Join(dir, "model_llama3_memo"), Quant: adapter.QuantConfig{Type: adapter.NF4}}, Template: "llama3"})
	if got, _ := answers(t, engine(t, alone, EngineOptions{}), Request{Prompt: []int32{5, 6, 7}, MaxNewTokens: 4}); len(got[0]) != 4 {
		t.Errorf("a packed base without adapters: %v", got)
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	t.Parallel()
	dir := infertest.Folder(t, nil)
	for name, o := range map[string]Options{
		"no folder":      {Folders: train.Folders{Base: filepath.Join(dir, "nothing")}},
		"no template":    {Folders: train.Folders{Base: dir}, Template: "qwem"},
		"no adapter":     {Folders: train.Folders{Base: dir, Adapters: []string{dir}}},
		"no value head":  {Folders: train.Folders{Base: dir, Head: true}, Template: "qwen"},
		"two over nf4":   {Folders: train.Folders{Base: dir, Adapters: []string{dir, dir}, Quant: adapter.QuantConfig{Type: adapter.NF4}}, Template: "qwen"},
		"foreign tokens": {Folders: train.Folders{Base: dir}, Template: "llama3"},
	} {
		m, err := Open(t.Context(), o)
		var info *schemas.ErrorInfo
		if err == nil || !errors.As(err, &info) && name != "no adapter" {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = m.Close()
		}
	}
}
