package zoo

import (
	"encoding/json"
	"math"

	"github.com/tunefleet/tunefleet/schemas"
)

// Stretch gives a configuration the rotary scaling of that type (linear, dynamic, yarn or llama3) for sequences of length positions, as
// LLaMA-Factory's rope_scaling does: the factor is the least whole one that covers them, and max_position_embeddings grows by it. A model
// that is long enough already stays as it is. An architecture without rotary positions is an error.
func Stretch(config []byte, kind string, length int) ([]byte, error) {
	m, err := New(config)
	if err != nil {
		return nil, err
	}
	c, ok := m.(*causal)
	if !ok || len(c.ropes) == 0 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "rope_scaling", "%s has no rotary positions to stretch", m.Info().Architecture)
	}
	var file struct {
		Scaling *struct {
			Original float64 `json:"original_max_position_embeddings"`
		} `json:"rope_scaling"`
	}
	if err := json.Unmarshal(config, &file); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	old := float64(m.Info().MaxPositions)
	if file.Scaling != nil && file.Scaling.Original > 0 {
		old = file.Scaling.Original
	}
	if float64(length) <= old {
		return config, nil
	}
	factor := math.Ceil(float64(length) / old)
	scaling := map[string]any{"rope_type": kind, "factor": json.RawMessage(floatText(factor))}
	switch kind {
	case "linear":
	case "dynamic", "yarn":
		scaling["original_max_position_embeddings"] = old
	case "llama3":
		scaling["original_max_position_embeddings"] = old
		scaling["low_freq_factor"], scaling["high_freq_factor"] = json.RawMessage("1.0"), json.RawMessage("4.0")
	default:
		return nil, schemas.Errorf(schemas.CodeInvalid, "rope_scaling", "%q is unknown (linear, dynamic, yarn and llama3 are known)", kind)
	}
	out, err := Override(config, map[string]any{"rope_scaling": scaling, "max_position_embeddings": int(old * factor)})
	if err != nil {
		return nil, err
	}
	stretched, err := New(out)
	if err != nil {
		return nil, err
	}
	if r := stretched.(*causal).ropes[0]; r.Kind() != kind {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "rope_scaling", "%s takes no rotary scaling of type %s", m.Info().Architecture, kind)
	}
	return out, nil
}

// ShortAttention gives a configuration shifted short attention over groups of a quarter of a sequence (S2, https://arxiv.org/abs/2309.12307),
// as LLaMA-Factory's shift_attn does. An architecture other than llama is an error, as is an odd number of heads.
func ShortAttention(config []byte) ([]byte, error) {
	out, err := Override(config, map[string]any{"group_size_ratio": 0.25})
	if err != nil {
		return nil, err
	}
	m, err := New(out)
	if err != nil {
		return nil, err
	}
	if c, ok := m.(*causal); !ok || c.shortRatio == 0 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "shift_attn", "%s has no shifted short attention; LlamaForCausalLM has", m.Info().Architecture)
	}
	return out, nil
}

// BalanceExperts makes training add the routers' load-balancing loss with that weight. A model without such a loss is an error.
func BalanceExperts(config []byte, weight float64) ([]byte, error) {
	out, err := Override(config, map[string]any{"router_aux_loss_coef": weight, "output_router_logits": true})
	if err != nil {
		return nil, err
	}
	m, err := New(out)
	if err != nil {
		return nil, err
	}
	if i := m.Info(); i.Experts == 0 || !i.RouterAux || i.RouterAuxCoef != weight {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "moe_aux_loss_coef", "%s has no load-balancing loss", i.Architecture)
	}
	return out, nil
}

// floatText writes a whole number as a float: transformers warns of integers.
func floatText(v float64) string {
	b, err := json.Marshal(v)
	if err != nil || v != math.Trunc(v) {
		return string(b)
	}
	return string(b) + ".0"
}
