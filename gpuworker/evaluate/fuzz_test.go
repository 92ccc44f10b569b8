package evaluate

import "testing"

func FuzzSlice(f *testing.F) {
	f.Add([]byte(`{"models":[{"name":"base","records":[{"index":1,"label":"a","predicted":"b","nll":1.5,"tokens":2,"generated":true,"text":"b\nx","reference":"x"}]}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := decodeSlice(raw)
		if err != nil {
			return
		}
		for _, m := range s.Models {
			if r, err := score(m); err == nil && (r.Accuracy < 0 || r.Accuracy > 1 || r.Generated > len(m.Records)) {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestWrittenIsWhatFollowsTheLabel(t *testing.T) {
	for _, c := range []struct {
		text, want string
		labelled   bool
	}{{" rent\nIt says money.", "It says money.", true}, {"rent", "", true}, {" all of it\n", "all of it", false}} {
		if got := written(c.text, c.labelled); got != c.want {
			t.Errorf("written(%q) = %q, want %q", c.text, got, c.want)
		}
	}
}
