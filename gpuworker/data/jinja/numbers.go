package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
)

// maxDigits bounds integers as written, maxBits as computed.
const (
	maxDigits = 4000
	maxBits   = 1 << 14
)

var errZero = errors.New("division by zero")

// small is an integer as an int64 where it fits.
func small(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

// integer is a value as a whole number of any size; nil when it is none.
func integer(v any) *big.Int {
	switch x := v.(type) {
	case bool:
		if x {
			return big.NewInt(1)
		}
		return new(big.Int)
	case int64:
		return big.NewInt(x)
	case *big.Int:
		return x
	}
	return nil
}

// truncated is a float without its fraction; false for what is not finite.
func truncated(f float64) (any, bool) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, false
	}
	n, _ := big.NewFloat(f).Int(nil)
	return small(n), true
}

// intArith is Python's arithmetic on whole numbers: it never overflows.
func intArith(op string, a, b *big.Int) (any, error) {
	if b.Sign() == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, errZero
	}
	n := new(big.Int)
	switch op {
	case "+":
		n.Add(a, b)
	case "-":
		n.Sub(a, b)
	case "*":
		if a.BitLen()+b.BitLen() > maxBits {
			return nil, fmt.Errorf("a number of more than %d bits", maxBits)
		}
		n.Mul(a, b)
	case "/":
		f, _ := new(big.Rat).SetFrac(a, b).Float64()
		if math.IsInf(f, 0) {
			return nil, errors.New("the quotient of integers is too large for a float")
		}
		return f, nil
	case "//", "%":
		q, m := new(big.Int).QuoRem(a, b, new(big.Int))
		if m.Sign() != 0 && m.Sign() != b.Sign() {
			q.Sub(q, big.NewInt(1))
			m.Add(m, b)
		}
		if n = q; op == "%" {
			n = m
		}
	default:
		return intPower(a, b)
	}
	return small(n), nil
}

func intPower(a, b *big.Int) (any, error) {
	if b.Sign() < 0 {
		x, _ := new(big.Float).SetInt(a).Float64()
		y, _ := new(big.Float).SetInt(b).Float64()
		return floatArith("**", x, y)
	}
	if a.BitLen() > 1 && (!b.IsInt64() || b.Int64() > maxBits || int64(a.BitLen())*b.Int64() > maxBits) {
		return nil, fmt.Errorf("a power of more than %d bits", maxBits)
	}
	if a.BitLen() <= 1 { // 0, 1 and -1
		b = new(big.Int).Sub(b, new(big.Int).Mul(big.NewInt(2), new(big.Int).Rsh(new(big.Int).Sub(b, big.NewInt(1)), 1)))
	}
	return small(new(big.Int).Exp(a, b, nil)), nil
}

func floatArith(op string, a, b float64) (any, error) {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, errZero
	}
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "/":
		return a / b, nil
	case "//", "%":
		q, m := floorDivide(a, b)
		if op == "%" {
			return m, nil
		}
		return q, nil
	}
	switch p := math.Pow(a, b); {
	case a == 0 && b < 0:
		return nil, errors.New("zero cannot be raised to a negative power")
	case math.IsNaN(p) && a < 0:
		return nil, errors.New("a complex number is not built")
	case math.IsInf(p, 0) && !math.IsInf(a, 0) && !math.IsInf(b, 0):
		return nil, errors.New("the power is too large for a float")
	default:
		return p, nil
	}
}

// floorDivide is CPython's float divmod.
func floorDivide(a, b float64) (quotient, rest float64) {
	m := math.Mod(a, b)
	div := (a - m) / b
	if m != 0 {
		if (b < 0) != (m < 0) {
			m += b
			div--
		}
	} else {
		m = math.Copysign(0, b)
	}
	if div == 0 {
		return math.Copysign(0, a/b), m
	}
	q := math.Floor(div)
	if div-q > 0.5 {
		q++
	}
	return q, m
}

// round is Python's round with a number of digits: halves go to the even digit of the exact value.
func round(v any, digits int64) (any, error) {
	if n := integer(v); n != nil {
		if digits >= 0 {
			return small(n), nil
		}
		if digits < -maxDigits {
			return int64(0), nil
		}
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(-digits), nil)
		q, m := new(big.Int).DivMod(n, scale, new(big.Int))
		twice := new(big.Int).Lsh(m, 1)
		if c := twice.Cmp(scale); c > 0 || c == 0 && q.Bit(0) == 1 {
			q.Add(q, big.NewInt(1))
		}
		return small(q.Mul(q, scale)), nil
	}
	f, ok := v.(float64)
	if !ok {
		return nil, fmt.Errorf("cannot round %s", typeName(v))
	}
	if math.IsInf(f, 0) || math.IsNaN(f) || digits > 308 {
		return f, nil
	}
	if digits < -308 {
		return math.Copysign(0, f), nil
	}
	exact := new(big.Rat).SetFloat64(f)
	scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(max(digits, -digits)), nil))
	if digits < 0 {
		scale.Inv(scale)
	}
	exact.Mul(exact, scale)
	q, m := new(big.Int).DivMod(exact.Num(), exact.Denom(), new(big.Int))
	twice := new(big.Int).Lsh(m, 1)
	if c := twice.Cmp(exact.Denom()); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	out, _ := new(big.Rat).Mul(new(big.Rat).SetInt(q), scale.Inv(scale)).Float64()
	return math.Copysign(out, f), nil
}
