package source

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Slices are the parts of splits that a split of dataset_info.json asks for, one after the other: "train", "train[:10%]", "train[:5]+train[-5:]"
// (datasets.ReadInstruction).
type Slices []slice

// slice is a part of a split; a bound that is nil is open.
type slice struct {
	name     string
	from, to *int
	percent  bool
	// whole takes percents as multiples of a whole hundredth of the rows, and leaves the rest out.
	whole bool
}

// maxSlices bounds the parts of a split.
const maxSlices = 1000

func sliceForm() *regexp.Regexp {
	return regexp.MustCompile(`^(\w+(?:\.\w+)*)(\[(?:(-?[\d_]+)(%)?)?:(?:(-?[\d_]+)(%)?)?\])?(?:\(([^)]*)\))?$`)
}

// ParseSlices reads a split. CodeInvalid when it is none.
func ParseSlices(spec string) (Slices, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeInvalid, "split", format, args...).WithHint("such as train, train[:100], train[10%%:90%%] or train[:5]+train[-5:]")
	}
	parts := strings.Split(spec, "+")
	if len(parts) > maxSlices {
		return nil, bad("has more than %d parts", maxSlices)
	}
	var out Slices
	form := sliceForm()
	for _, p := range parts {
		m := form.FindStringSubmatch(strings.TrimSpace(p))
		if m == nil {
			return nil, bad("%q is no split", p)
		}
		s := slice{name: m[1], percent: m[4]+m[6] != ""}
		var err error
		if s.from, err = bound(m[3]); err == nil {
			s.to, err = bound(m[5])
		}
		for _, b := range []*int{s.from, s.to} {
			if err == nil && s.percent && b != nil && (*b < -100 || *b > 100) {
				return nil, bad("%q has more than 100 percent", p)
			}
		}
		switch {
		case err != nil:
			return nil, bad("%q has a bound that is no number", p)
		case m[7] == "pct1_dropremainder" && s.percent:
			s.whole = true
		case m[7] != "" && (m[7] != "closest" || !s.percent):
			return nil, bad("%q cannot be rounded by %q", p, m[7])
		}
		out = append(out, s)
	}
	return out, nil
}

func bound(text string) (*int, error) {
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 32)
	i := int(n)
	return &i, err
}

// Name is the split that all parts are of; false when they are of several.
func (s Slices) Name() (string, bool) {
	for _, p := range s {
		if p.name != s[0].name {
			return "", false
		}
	}
	return s[0].name, true
}

// Whole reports whether a whole split is asked for.
func (s Slices) Whole() bool { return len(s) == 1 && s[0].from == nil && s[0].to == nil }

// Rows are the rows of a split of n rows that are asked for, in order. CodeData when there is none.
func (s Slices) Rows(n int) ([]int32, error) {
	var out []int32
	for _, p := range s {
		from, to, err := p.bounds(n)
		if err != nil {
			return nil, err
		}
		if len(out)+to-from > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "split", "has more than %d rows", math.MaxInt32)
		}
		for i := from; i < to; i++ {
			out = append(out, int32(i))
		}
	}
	if len(out) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, "split", "leaves none of the %d rows", n)
	}
	return out, nil
}

// bounds are those of a part among n rows.
func (p *slice) bounds(n int) (from, to int, err error) {
	if p.whole && n < 100 {
		return 0, 0, schemas.Errorf(schemas.CodeData, "split", "pct1_dropremainder leaves nothing of %d rows, which are less than 100", n)
	}
	at := func(b *int, open int) int {
		k := open
		if b != nil {
			switch k = *b; {
			case p.whole:
				k *= n / 100
			case p.percent:
				k = int(math.RoundToEven(float64(k*n) / 100))
			}
		}
		if k < 0 {
			k = max(n+k, 0)
		}
		return min(k, n)
	}
	from, to = at(p.from, 0), at(p.to, n)
	if from > to {
		return 0, 0, schemas.Errorf(schemas.CodeData, "split", "ends at row %d, before it begins at %d", to, from)
	}
	return from, to, nil
}
