package metrics

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

// The reference libraries are written in Python; these are its rules where Go's differ.

// isSpace is str.isspace of one character, and \s of Python's re.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// fields is str.split().
func fields(s string) []string { return strings.FieldsFunc(s, isSpace) }

// squeeze is ' '.join(s.split()).
func squeeze(s string) string { return strings.Join(fields(s), " ") }

// trimRight is str.rstrip().
func trimRight(s string) string { return strings.TrimRightFunc(s, isSpace) }

// round4 is Python's round(x, 4): the nearest four-digit decimal of the exact value of x.
func round4(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	v, err := strconv.ParseFloat(strconv.FormatFloat(x, 'f', 4, 64), 64)
	if err != nil {
		return x
	}
	return v
}

// Mean is numpy.mean of float64: numpy's pairwise sum over the length. 0 of nothing.
func Mean(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return pairwise(v) / float64(len(v))
}

// pairwise is numpy's summation: eight running sums in blocks of up to 128, halves above.
func pairwise(v []float64) float64 {
	n := len(v)
	switch {
	case n < 8:
		s := 0.0
		for _, x := range v {
			s += x
		}
		return s
	case n <= 128:
		var r [8]float64
		copy(r[:], v[:8])
		i := 8
		for ; i+8 <= n; i += 8 {
			for k := range r {
				r[k] += v[i+k]
			}
		}
		s := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
		for ; i < n; i++ {
			s += v[i]
		}
		return s
	}
	half := n / 2
	half -= half % 8
	return pairwise(v[:half]) + pairwise(v[half:])
}
