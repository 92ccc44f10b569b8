package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
)

// parseHeader reads the JSON header of a file whose data section has dataLen bytes.
func parseHeader(raw []byte, dataLen int64) ([]Info, map[string]string, error) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, nil, errors.New("header does not begin with '{'")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if _, err := dec.Token(); err != nil {
		return nil, nil, fmt.Errorf("cannot parse header: %w", err)
	}
	var infos []Info
	var meta map[string]string
	seen := map[string]bool{}
	for dec.More() {
		name, err := key(dec)
		if err != nil {
			return nil, nil, err
		}
		if seen[name] {
			return nil, nil, fmt.Errorf("duplicate name %q in header", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if meta, err = stringMap(dec); err != nil {
				return nil, nil, fmt.Errorf("cannot parse __metadata__: %w", err)
			}
			continue
		}
		if len(infos) >= maxTensors {
			return nil, nil, fmt.Errorf("more than %d tensors", maxTensors)
		}
		info, err := parseInfo(dec, name)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		infos = append(infos, info)
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, fmt.Errorf("cannot parse header: %w", err)
	}
	if rest := bytes.Trim(raw[dec.InputOffset():], " "); len(rest) != 0 {
		return nil, nil, errors.New("bytes after the header's closing brace")
	}
	return infos, meta, checkLayout(infos, dataLen)
}

// checkLayout demands that the tensors, ordered by offset, cover [0, dataLen) exactly. infos are sorted in place.
func checkLayout(infos []Info, dataLen int64) error {
	sort.SliceStable(infos, func(a, b int) bool {
		if infos[a].Begin != infos[b].Begin {
			return infos[a].Begin < infos[b].Begin
		}
		return infos[a].End < infos[b].End
	})
	at := int64(0)
	for _, t := range infos {
		if t.Begin < at {
			return fmt.Errorf("tensor %q overlaps the one before it (begins at %d, expected %d)", t.Name, t.Begin, at)
		}
		if t.Begin > at {
			return fmt.Errorf("hole of %d bytes before tensor %q", t.Begin-at, t.Name)
		}
		at = t.End
	}
	if at != dataLen {
		return fmt.Errorf("data section has %d bytes, the header describes %d", dataLen, at)
	}
	return nil
}

func parseInfo(dec *json.Decoder, name string) (Info, error) {
	info := Info{Name: name}
	if err := delim(dec, '{'); err != nil {
		return info, err
	}
	var haveD, haveS, haveO bool
	for dec.More() {
		k, err := key(dec)
		if err != nil {
			return info, err
		}
		switch {
		case k == "dtype" && !haveD:
			haveD = true
			tok, err := dec.Token()
			s, ok := tok.(string)
			if err != nil || !ok {
				return info, errors.New("dtype is not a string")
			}
			if info.DType = DType(s); info.DType.Size() == 0 {
				return info, fmt.Errorf("unknown dtype %q", s)
			}
		case k == "shape" && !haveS:
			haveS = true
			if info.Shape, err = ints(dec, 16); err != nil {
				return info, fmt.Errorf("shape: %w", err)
			}
		case k == "data_offsets" && !haveO:
			haveO = true
			off, err := ints(dec, 2)
			if err != nil || len(off) != 2 {
				return info, errors.New("data_offsets is not a pair of integers")
			}
			info.Begin, info.End = off[0], off[1]
		default:
			return info, fmt.Errorf("unknown or repeated key %q", k)
		}
	}
	if err := delim(dec, '}'); err != nil {
		return info, err
	}
	if !haveD || !haveS || !haveO {
		return info, errors.New("dtype, shape and data_offsets are required")
	}
	size, err := byteSize(info.DType, info.Shape)
	if err != nil {
		return info, err
	}
	if info.End < info.Begin || info.End-info.Begin != size {
		return info, fmt.Errorf("data_offsets [%d, %d] do not fit %s %v (%d bytes)", info.Begin, info.End, info.DType, info.Shape, size)
	}
	return info, nil
}

// byteSize multiplies with overflow checks.
func byteSize(d DType, shape []int64) (int64, error) {
	n := d.Size()
	zero := false
	for _, s := range shape {
		if s < 0 {
			return 0, fmt.Errorf("negative dimension in shape %v", shape)
		}
		if s == 0 {
			zero = true
			continue
		}
		if n > math.MaxInt64/s {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n *= s
	}
	if zero {
		return 0, nil
	}
	return n, nil
}

func key(dec *json.Decoder) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", fmt.Errorf("cannot parse header: %w", err)
	}
	s, ok := tok.(string)
	if !ok {
		return "", fmt.Errorf("expected a name in header, found %v", tok)
	}
	return s, nil
}

func delim(dec *json.Decoder, want json.Delim) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if d, ok := tok.(json.Delim); !ok || d != want {
		return fmt.Errorf("expected %q, found %v", want.String(), tok)
	}
	return nil
}

func stringMap(dec *json.Decoder) (map[string]string, error) {
	if err := delim(dec, '{'); err != nil {
		return nil, err
	}
	m := map[string]string{}
	for dec.More() {
		k, err := key(dec)
		if err != nil {
			return nil, err
		}
		if _, dup := m[k]; dup {
			return nil, fmt.Errorf("duplicate key %q", k)
		}
		if m[k], err = key(dec); err != nil {
			return nil, err
		}
	}
	return m, delim(dec, '}')
}

func ints(dec *json.Decoder, limit int) ([]int64, error) {
	if err := delim(dec, '['); err != nil {
		return nil, err
	}
	out := []int64{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		num, ok := tok.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v is not an integer", tok)
		}
		v, err := num.Int64()
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s is not a non-negative integer", num)
		}
		if len(out) >= limit {
			return nil, fmt.Errorf("more than %d entries", limit)
		}
		out = append(out, v)
	}
	return out, delim(dec, ']')
}

// readHeader reads length and header from the start of a file of the given size.
func readHeader(r io.ReaderAt, name string, size int64) ([]Info, map[string]string, int64, error) {
	var head [16]byte
	n, err := r.ReadAt(head[:min(16, max(0, size))], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, 0, err
	}
	if err := CheckPickle(name, head[:n]); err != nil {
		return nil, nil, 0, err
	}
	if n < 8 {
		return nil, nil, 0, fmt.Errorf("file of %d bytes is too short", size)
	}
	hlen := le64(head[:8])
	if hlen > MaxHeader {
		return nil, nil, 0, fmt.Errorf("header of %d bytes exceeds the limit of %d", hlen, MaxHeader)
	}
	if int64(hlen) > size-8 {
		return nil, nil, 0, fmt.Errorf("header of %d bytes exceeds the file of %d", hlen, size)
	}
	raw := make([]byte, hlen)
	if _, err := r.ReadAt(raw, 8); err != nil {
		return nil, nil, 0, fmt.Errorf("cannot read header: %w", err)
	}
	base := 8 + int64(hlen)
	infos, meta, err := parseHeader(raw, size-base)
	return infos, meta, base, err
}

func le64(b []byte) uint64 {
	var v uint64
	for i := 7; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}
