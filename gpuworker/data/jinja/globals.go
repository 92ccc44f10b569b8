package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// maxRange bounds range(), as Jinja's sandbox does.
const maxRange = 100_000

// RaisedError is what a template raised with raise_exception.
type RaisedError struct{ Message string }

// Error implements error.
func (e *RaisedError) Error() string { return e.Message }

// global is a function that every template has.
func global(name string) (any, bool) {
	var f func(e *env, a values) (any, error)
	switch name {
	case "range":
		f = rangeOf
	case "dict":
		f = dictOf
	case "namespace":
		f = func(e *env, a values) (any, error) {
			o, err := dictOf(e, a)
			if err != nil {
				return nil, err
			}
			return &namespace{o.(*pyjson.Object)}, nil //nolint:forcetypeassert // made by dictOf
		}
	case "raise_exception":
		f = func(_ *env, a values) (any, error) { return nil, &RaisedError{str(a.get(0, "message", ""))} }
	case "strftime_now":
		f = func(e *env, a values) (any, error) {
			s, ok := a.get(0, "format", nil).(string)
			if !ok {
				return nil, errors.New("strftime_now needs a format")
			}
			return strftime(e.opts.Now, s), nil
		}
	case "cycler":
		f = cyclerOf
	case "joiner":
		f = joinerOf
	default:
		return nil, false
	}
	return &function{name: name, call: f}, true
}

func rangeOf(_ *env, a values) (any, error) {
	var n [3]int64
	for i, v := range a.pos {
		_, k, whole, ok := number(v)
		if !ok || !whole || i > 2 {
			return nil, errors.New("range needs one to three whole numbers")
		}
		n[i] = k
	}
	from, to, step := int64(0), n[0], int64(1)
	switch len(a.pos) {
	case 0:
		return nil, errors.New("range needs a number")
	case 3:
		step = n[2]
		fallthrough
	case 2:
		from, to = n[0], n[1]
	}
	if step == 0 {
		return nil, errors.New("the step of a range must not be zero")
	}
	out := []any{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if out = append(out, i); len(out) > maxRange {
			return nil, fmt.Errorf("a range of more than %d numbers", maxRange)
		}
	}
	return span{from, to, step, out}, nil
}

func dictOf(_ *env, a values) (any, error) {
	o := &pyjson.Object{}
	if len(a.pos) > 0 {
		switch x := a.pos[0].(type) {
		case *pyjson.Object:
			o = x.Clone()
		default:
			list, err := iterate(x)
			if err != nil {
				return nil, err
			}
			for _, p := range list {
				kv, ok := items(p)
				if !ok || len(kv) != 2 {
					return nil, errors.New("dict needs pairs")
				}
				k, ok := kv[0].(string)
				if !ok {
					return nil, errors.New("keys other than strings are not built")
				}
				o.Set(k, kv[1])
			}
		}
	}
	for i, n := range a.names {
		o.Set(n, a.named[i])
	}
	return o, nil
}

func cyclerOf(_ *env, a values) (any, error) {
	if len(a.pos) == 0 {
		return nil, errors.New("at least one item has to be provided")
	}
	n := &namespace{pyjson.NewObject("current", a.pos[0])}
	at := 0
	move := func(to int) any {
		was := a.pos[at]
		at = to % len(a.pos)
		n.vars.Set("current", a.pos[at])
		return was
	}
	n.vars.Set("next", &function{name: "next", call: func(*env, values) (any, error) { return move(at + 1), nil }})
	n.vars.Set("reset", &function{name: "reset", call: func(*env, values) (any, error) { move(0); return nil, nil }})
	return n, nil
}

func joinerOf(_ *env, a values) (any, error) {
	used := false
	sep := a.get(0, "sep", ", ")
	return &function{name: "joiner", call: func(*env, values) (any, error) {
		if !used {
			used = true
			return "", nil
		}
		return sep, nil
	}}, nil
}

// strftime formats a time by the codes of C's strftime, as far as Python has them for dates and times of day.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		bare := format[i] == '-' && i+1 < len(format) // %-d: without leading zeros
		if bare {
			i++
		}
		layout, ok := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'I': "03", 'y': "06", 'b': "Jan", 'B': "January", 'h': "Jan",
			'a': "Mon", 'A': "Monday", 'p': "PM", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'c': "Mon Jan _2 15:04:05 2006",
			'x': "01/02/06", 'X': "15:04:05", 'e': "_2", 'f': "000000"}[format[i]]
		s := ""
		switch {
		case format[i] == '%':
			s = "%"
		case format[i] == 'n':
			s = "\n"
		case format[i] == 't':
			s = "\t"
		case format[i] == 'j':
			s = fmt.Sprintf("%03d", t.YearDay())
		case format[i] == 'w':
			s = fmt.Sprint(int(t.Weekday()))
		case format[i] == 'u':
			s = fmt.Sprint((int(t.Weekday())+6)%7 + 1)
		case format[i] == 'f':
			s = fmt.Sprintf("%06d", t.Nanosecond()/1000)
		case format[i] == 's':
			s = fmt.Sprint(t.Unix())
		case format[i] == 'Z', format[i] == 'z': // the time has no zone, as Python's datetime.now()
		case format[i] == 'U': // weeks from the first Sunday
			s = fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7)
		case format[i] == 'W': // weeks from the first Monday
			s = fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7)
		case format[i] == 'V', format[i] == 'G':
			year, week := t.ISOWeek()
			if s = fmt.Sprintf("%02d", week); format[i] == 'G' {
				s = fmt.Sprint(year)
			}
		case format[i] == 'C':
			s = fmt.Sprintf("%02d", t.Year()/100)
		case ok:
			s = t.Format(layout)
		default:
			s = "%" + format[i:i+1]
		}
		if bare {
			if s = strings.TrimLeft(s, "0 "); s == "" {
				s = "0"
			}
		}
		b.WriteString(s)
	}
	return b.String()
}
