package control

import (
	"encoding/json"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// FuzzHandle: whatever is handed in, the front answers with a run or an error, and a refused spec leaves nothing behind.
func FuzzHandle(f *testing.F) {
	good, err := json.Marshal(prepSpec("aaaaaaaa", 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"tenant":"a","pool":"cpu","stages":[{"name":"x","kind":"export","export":{"from":"run:a/bbbbbbbb/c","formats":["peft"]}}]}`))
	f.Add([]byte(`{"id":"../../x"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		objects := memstore.New()
		var reply schemas.SubmitReply
		if err := json.Unmarshal(NewFront(objects, nil, nil).Handle(t.Context(), body, nil), &reply); err != nil {
			t.Fatalf("the reply is no JSON: %v", err)
		}
		stored := 0
		for info := range objects.List(t.Context(), "open/") {
			stored++
			if tenant, run, ok := parseOpen(info.Key); !ok || tenant != reply.Tenant || run != reply.Run {
				t.Fatalf("%s is read as %q %q, the reply is %+v", info.Key, tenant, run, reply)
			}
		}
		if accepted := reply.Error == nil && reply.Run != ""; accepted != (stored == 1) || !accepted && reply.Error == nil {
			t.Fatalf("reply %+v with %d open objects", reply, stored)
		}
	})
}
