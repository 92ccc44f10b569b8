package collective

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Kinds of calls, as they travel.
const (
	kindAllToAll byte = 1 + iota
	kindAllGather
	kindBarrier
)

func kindName(k byte) string {
	switch k {
	case kindAllToAll:
		return "all-to-all"
	case kindAllGather:
		return "all-gather"
	case kindBarrier:
		return "barrier"
	case kindShare:
		return "share"
	}
	return fmt.Sprintf("kind %d", k)
}

// A frame is a header of headerBytes and its payload:
//
//	0  u16 magic    2 u8 kind    3 u8 zero    4 u32 sending rank
//	8  u64 generation            16 u64 sequence number of the call
//	24 u64 payload bytes
const (
	headerBytes = 32
	frameMagic  = 0x7f46
)

type header struct {
	kind       byte
	rank       uint32
	generation uint64
	seq        uint64
	bytes      uint64
}

func (h header) put(b []byte) {
	binary.LittleEndian.PutUint16(b, frameMagic)
	b[2], b[3] = h.kind, 0
	binary.LittleEndian.PutUint32(b[4:], h.rank)
	binary.LittleEndian.PutUint64(b[8:], h.generation)
	binary.LittleEndian.PutUint64(b[16:], h.seq)
	binary.LittleEndian.PutUint64(b[24:], h.bytes)
}

func parseHeader(b []byte) (header, error) {
	if len(b) != headerBytes || binary.LittleEndian.Uint16(b) != frameMagic || b[3] != 0 {
		return header{}, errors.New("not a frame header")
	}
	h := header{kind: b[2], rank: binary.LittleEndian.Uint32(b[4:]), generation: binary.LittleEndian.Uint64(b[8:]),
		seq: binary.LittleEndian.Uint64(b[16:]), bytes: binary.LittleEndian.Uint64(b[24:])}
	if h.kind < kindAllToAll || h.kind > kindBarrier {
		return header{}, fmt.Errorf("unknown frame kind %d", h.kind)
	}
	return h, nil
}

// The handshake: the dialing rank sends a hello, the accepting rank answers with its own nonce and a MAC over both, the dialer confirms
// with its MAC. Either side thus knows that the other one has the gang's key and stands for the same run and generation.
const (
	helloBytes   = 88
	replyBytes   = 48
	confirmBytes = 32
)

var helloMagic = [8]byte{'T', 'F', 'M', 'E', 'S', 'H', '0', '2'}

type hello struct {
	generation      uint64
	from, to, world uint32
	run             [32]byte
	nonce           [24]byte
}

func (h hello) bytes() []byte {
	b := make([]byte, 0, helloBytes)
	b = append(b, helloMagic[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.generation)
	b = binary.LittleEndian.AppendUint32(b, h.from)
	b = binary.LittleEndian.AppendUint32(b, h.to)
	b = binary.LittleEndian.AppendUint32(b, h.world)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, h.run[:]...)
	return append(b, h.nonce[:]...)
}

func parseHello(b []byte) (hello, error) {
	if len(b) != helloBytes || [8]byte(b[:8]) != helloMagic {
		return hello{}, errors.New("not a hello of a tunefleet rank")
	}
	h := hello{generation: binary.LittleEndian.Uint64(b[8:]), from: binary.LittleEndian.Uint32(b[16:]), to: binary.LittleEndian.Uint32(b[20:]),
		world: binary.LittleEndian.Uint32(b[24:]), run: [32]byte(b[32:64]), nonce: [24]byte(b[64:88])}
	return h, nil
}

// mac authenticates one side ("accept" or "dial") of a handshake.
func mac(key []byte, side string, helloRaw, acceptNonce []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(side))
	m.Write(helloRaw)
	m.Write(acceptNonce)
	return m.Sum(nil)
}
