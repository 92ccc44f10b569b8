package collective

import "testing"

func FuzzHeader(f *testing.F) {
	var b [headerBytes]byte
	header{kind: kindBarrier, rank: 3, generation: 9, seq: 1 << 40, bytes: 12}.put(b[:])
	f.Add(b[:])
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := parseHeader(raw)
		if err != nil {
			return
		}
		var again [headerBytes]byte
		h.put(again[:])
		if string(again[:]) != string(raw) {
			t.Fatalf("%x parses, but is written as %x", raw, again)
		}
	})
}

func FuzzHello(f *testing.F) {
	h := hello{generation: 5, from: 2, to: 1, world: 3}
	f.Add(h.bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := parseHello(raw)
		if err != nil {
			return
		}
		again := h.bytes()
		copy(again[28:32], raw[28:32]) // reserved
		if string(again) != string(raw) {
			t.Fatalf("%x parses, but is written as %x", raw, again)
		}
	})
}
