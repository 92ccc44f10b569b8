package align_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// FuzzConvert gives any object to every converter: it ends, and what it refuses has a code.
func FuzzConvert(f *testing.F) {
	for _, row := range []string{`{"instruction":"q","input":null,"output":["a","b"],"history":[["x","y"],["z"]],"system":7}`,
		`{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"{}"},{"from":"gpt","value":null}],"tools":[{}],"label":true}`,
		`{"messages":[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{"}}]},{"role":"tool"}],"chosen":{"from":"gpt"},"rejected":"x"}`,
		`{"conversations":{"from":"human"},"messages":[[],3,"x"],"chosen":[],"rejected":null,"images":"one"}`} {
		f.Add(row, uint8(0))
	}
	messages := map[string]string{"messages": "conversations", "system": "system", "tools": "tools", "images": "images"}
	f.Fuzz(func(t *testing.T, text string, how uint8) {
		row, err := pyjson.ParseObject(text)
		if err != nil {
			return
		}
		share := map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}
		open := map[string]string{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function_call", "system_tag": "system"}
		with := func(more ...string) map[string]string {
			out := map[string]string{}
			for k, v := range messages {
				out[k] = v
			}
			for i := 0; i < len(more); i += 2 {
				out[more[i]] = more[i+1]
			}
			return out
		}
		for _, a := range []align.Attr{
			{Formatting: "alpaca", Columns: map[string]string{"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}},
			{Formatting: "alpaca", Ranking: true, Columns: map[string]string{"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
			{Formatting: "alpaca", Columns: map[string]string{"prompt": "instruction", "response": "output", "kto_tag": "label"}},
			{Formatting: "sharegpt", Columns: messages, Tags: share}, {Formatting: "sharegpt", Ranking: true, Columns: with("chosen", "chosen", "rejected", "rejected"), Tags: share},
			{Formatting: "sharegpt", Columns: with("kto_tag", "label"), Tags: share}, {Formatting: "openai", Columns: with("messages", "messages"), Tags: open},
			{Formatting: "openai", Ranking: true, Columns: with("messages", "messages", "chosen", "chosen", "rejected", "rejected"), Tags: open},
		} {
			a.Strict = how&1 != 0
			r, err := align.Convert(row, &a)
			if err == nil {
				_, err = r.Example()
			}
			if err != nil && schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
				t.Fatalf("%s: error without a code: %v", a.Formatting, err)
			}
		}
	})
}
