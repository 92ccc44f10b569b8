package kernels

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
)

const bitsFile = "testdata/bits.json"

// bits are sums of what cases give, by test and in their order there. They are the same on every processor; a change of the arithmetic shows
// in them. TUNEFLEET_WRITE_BITS=1 go test ./kernels writes them anew.
var bits struct {
	mu        sync.Mutex
	want, got map[string][]string
}

func wantBits(t *testing.T, o outputs) {
	t.Helper()
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(o)) {
		fmt.Fprintln(h, name, len(o[name]))
		for _, v := range o[name] {
			u := math.Float32bits(v)
			if v != v {
				u = 0x7fc00000 // processors differ in the sign of a NaN that they make
			}
			h.Write(binary.LittleEndian.AppendUint32(nil, u))
		}
	}
	sum := hex.EncodeToString(h.Sum(nil)[:8])
	bits.mu.Lock()
	defer bits.mu.Unlock()
	if bits.got == nil {
		bits.got = map[string][]string{}
		raw, err := os.ReadFile(bitsFile)
		if err == nil {
			err = json.Unmarshal(raw, &bits.want)
		}
		if err != nil && os.Getenv("TUNEFLEET_WRITE_BITS") == "" {
			t.Fatal(err)
		}
	}
	at := len(bits.got[t.Name()])
	if at == 0 {
		name := t.Name()
		t.Cleanup(func() {
			if os.Getenv("TUNEFLEET_WRITE_BITS") == "" {
				bits.mu.Lock()
				defer bits.mu.Unlock()
				delete(bits.got, name) // for -count
			}
		})
	}
	bits.got[t.Name()] = append(bits.got[t.Name()], sum)
	if os.Getenv("TUNEFLEET_WRITE_BITS") == "" && (at >= len(bits.want[t.Name()]) || bits.want[t.Name()][at] != sum) {
		t.Errorf("case %d: %v has other bits than %s", at, setups(t)[0], bitsFile)
	}
}

// writeBits is for TestMain.
func writeBits() error {
	if os.Getenv("TUNEFLEET_WRITE_BITS") == "" {
		return nil
	}
	raw, err := json.MarshalIndent(bits.got, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(bitsFile, append(raw, '\n'), 0o644)
}
