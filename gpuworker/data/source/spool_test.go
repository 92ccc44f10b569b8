package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestSpool(t *testing.T) {
	s, err := NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := s.Append(Row{Place: fmt.Sprintf("f%d.jsonl:%d", i/400, i+1), Raw: []byte(fmt.Sprintf(`{"n":%d}`, i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	var stored [2]bytes.Buffer
	for i, r := range []io.Reader{s.Rows(), s.Index()} {
		if _, err := io.Copy(&stored[i], r); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenSpool(head, bytes.NewReader(stored[0].Bytes()), bytes.NewReader(stored[1].Bytes()))
	if err != nil || again.Len() != 1000 {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 255, 256, 399, 400, 999, 655, 656, 3} {
		r, err := s.Row(i)
		if r2, err2 := again.Row(i); err2 != nil || r2.Place != r.Place || !bytes.Equal(r2.Raw, r.Raw) {
			t.Fatalf("row %d is %s at %s when opened again, %v", i, r2.Raw, r2.Place, err2)
		}
		if err != nil || string(r.Raw) != fmt.Sprintf(`{"n":%d}`, i) || r.Place != fmt.Sprintf("f%d.jsonl:%d", i/400, i+1) {
			t.Fatalf("row %d is %s at %s, %v", i, r.Raw, r.Place, err)
		}
	}
	if _, err := s.Row(1000); err == nil || s.Len() != 1000 {
		t.Fatalf("%d rows, %v", s.Len(), err)
	}
	for _, broken := range []string{`{`, `{"rows":3}`, `{"rows":1,"files":["f"],"blocks":[{"first":0,"rows":1,"index":5,"index_to":9}]}`, strings.Replace(string(head), `"file":0`, `"file":7`, 1)} {
		if _, err := OpenSpool(json.RawMessage(broken), nil, nil); err == nil {
			t.Errorf("%.60s is opened", broken)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
