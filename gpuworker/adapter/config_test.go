package adapter

import (
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestPEFTConfigRoundTrip(t *testing.T) {
	t.Parallel()
	in := Config{Rank: 4, Alpha: 12.5, RSLoRA: true, Targets: []string{"v_proj", "q_proj"}}
	b, err := encodePEFT(in, "base", []string{"v_proj", "q_proj"}, []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePEFT(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rank != 4 || got.Alpha != 12.5 || !got.RSLoRA || strings.Join(got.Targets, ",") != "q_proj,v_proj" {
		t.Fatalf("%+v", got)
	}
	if got.Layers == nil || got.Layers(0) || !got.Layers(2) {
		t.Fatal("layers_to_transform lost")
	}
}

func TestPEFTConfigRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	const base = `"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"]`
	for extra, code := range map[string]schemas.Code{
		`"use_dora":true`:                    schemas.CodeUnsupported,
		`"modules_to_save":["lm_head"]`:      schemas.CodeUnsupported,
		`"bias":"all"`:                       schemas.CodeUnsupported,
		`"rank_pattern":{"q_proj":2}`:        schemas.CodeUnsupported,
		`"peft_type":"IA3"`:                  schemas.CodeUnsupported,
		`"target_modules":".*q_proj"`:        schemas.CodeUnsupported,
		`"target_modules":[]`:                schemas.CodeModel,
		`"r":0`:                              schemas.CodeInvalid,
		`"lora_alpha":-1`:                    schemas.CodeInvalid,
		`"layers_to_transform":"everything"`: schemas.CodeModel,
	} {
		_, err := parsePEFT([]byte("{" + base + "," + extra + "}"))
		if !schemas.IsCode(err, code) {
			t.Errorf("%s: %v, want code %s", extra, err, code)
		}
	}
	if _, err := parsePEFT([]byte("{" + base + "}")); err != nil {
		t.Error(err)
	}
}

func FuzzPEFTConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"]}`))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear","layers_to_transform":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parsePEFT(b)
		if err == nil && c.Validate() != nil {
			t.Fatalf("accepted an invalid configuration: %+v", c)
		}
	})
}
