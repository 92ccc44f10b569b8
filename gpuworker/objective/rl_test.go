package objective

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-7*math.Abs(want)+1e-8 {
		t.Errorf("%s is %.10g, TRL has %.10g", what, got, want)
	}
}

func nearAll(t *testing.T, what string, got, want [][]float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, TRL has %d", what, len(got), len(want))
	}
	for i := range want {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("%s: row %d has %d values, TRL's %d", what, i, len(got[i]), len(want[i]))
		}
		for k := range want[i] {
			near(t, what, got[i][k], want[i][k])
		}
	}
}

// Losses, gradients, advantages and returns equal TRL 0.24's on fixed log-probabilities (testdata/rl_golden.py).
func TestReinforcementEqualsTRL(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/rl_golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		GRPO []struct {
			LossType      string  `json:"loss_type"`
			Beta          float64 `json:"beta"`
			MaxLen        int     `json:"max_len"`
			New, Old, Ref [][]float64
			Advantages    []float64
			Loss          float64
			Grad          [][]float64
		}
		Advantages []struct {
			Scale               string
			Group               int
			Rewards, Advantages []float64
		}
		PPO []struct {
			Whiten              bool
			Gamma               float64
			Old, Ref, Values    [][]float64
			Scores              []float64
			Advantages, Returns [][]float64
			New, VPred          [][]float64
			Loss                float64
			PGLoss              float64 `json:"pg_loss"`
			VFLoss              float64 `json:"vf_loss"`
			Grad, VGrad         [][]float64
		}
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.GRPO) != 12 || len(g.PPO) != 2 || len(g.Advantages) != 3 {
		t.Fatalf("%d, %d and %d cases", len(g.GRPO), len(g.PPO), len(g.Advantages))
	}
	for _, c := range g.GRPO {
		o := GRPO{Beta: c.Beta, ClipLow: 0.2, ClipHigh: 0.28, LossType: c.LossType, MaxLen: c.MaxLen}
		var cs []Completion
		tokens := 0
		for i := range c.New {
			cs = append(cs, Completion{Old: c.Old[i], Ref: c.Ref[i], Advantage: c.Advantages[i]})
			tokens += len(c.New[i])
		}
		loss, grad := o.Loss(cs, c.New, 1, tokens)
		near(t, c.LossType+" loss", loss, c.Loss)
		nearAll(t, c.LossType+" gradient", grad, c.Grad)
	}
	for _, c := range g.Advantages {
		got, err := GroupAdvantages(c.Rewards, c.Group, c.Scale)
		if err != nil {
			t.Fatal(err)
		}
		nearAll(t, "advantages by "+c.Scale, [][]float64{got}, [][]float64{c.Advantages})
	}
	for _, c := range g.PPO {
		o := PPO{Beta: 0.05, Clip: 0.2, ValueClip: 0.2, ValueWeight: 0.1, Discount: c.Gamma, Lambda: 0.95, Whiten: c.Whiten}
		var rs []Rollout
		tokens, values := 0, 0
		for i := range c.Old {
			rs = append(rs, Rollout{Old: c.Old[i], Ref: c.Ref[i], Values: c.Values[i], Score: c.Scores[i]})
			tokens, values = tokens+len(c.Old[i]), values+len(c.Values[i])
		}
		adv, ret := o.Estimates(rs)
		nearAll(t, "PPO advantages", adv, c.Advantages)
		nearAll(t, "PPO returns", ret, c.Returns)
		l := o.Loss(rs, adv, ret, c.New, c.VPred, tokens, values)
		near(t, "PPO policy loss", l.Policy, c.PGLoss)
		near(t, "PPO value loss", l.Value, c.VFLoss)
		near(t, "PPO loss", o.Total(l), c.Loss)
		nearAll(t, "PPO gradient", l.DPolicy, c.Grad)
		nearAll(t, "PPO value gradient", l.DValue, c.VGrad)
	}
	if _, err := GroupAdvantages(make([]float64, 7), 2, "group"); err == nil {
		t.Error("7 rewards in groups of 2 were accepted")
	}
}
