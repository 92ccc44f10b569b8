package adapter

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// FreezeFirst freezes the first n blocks; embedding, other blocks, final norm and head keep training.
func FreezeFirst(m Model, n int) error {
	return freeze(m, n, func(u *nn.Unit, _ int) bool { return u.Block >= 0 && u.Block < n })
}

// TrainLast freezes everything but the last n blocks (LLaMA-Factory's freeze method).
func TrainLast(m Model, n int) error {
	return freeze(m, n, func(u *nn.Unit, blocks int) bool { return u.Block < blocks-n })
}

func freeze(m Model, n int, frozen func(u *nn.Unit, blocks int) bool) error {
	blocks := countBlocks(m)
	if n < 0 || n > blocks {
		return schemas.Errorf(schemas.CodeInvalid, "freeze_layers", "%d is not between 0 and the model's %d blocks", n, blocks)
	}
	for _, u := range m.Units() {
		if frozen(u, blocks) {
			for _, p := range u.Params {
				p.Frozen = true
			}
		}
	}
	return nil
}

func countBlocks(m Model) int {
	blocks := 0
	for _, u := range m.Units() {
		blocks = max(blocks, u.Block+1)
	}
	return blocks
}

// FreezeConfig says what the method "freeze" trains, as LLaMA-Factory's options freeze_trainable_layers, freeze_trainable_modules and
// freeze_extra_modules do: a parameter is trained when its name contains ".<block>.<module>" of a trainable block, or an extra module's
// name.
type FreezeConfig struct {
	// Layers trains the last n blocks, or the first -n when it is negative. With Spread it is the number of blocks spread evenly over the
	// model instead: those that block expansion added (LLaMA-Pro).
	Layers int
	Spread bool
	// Modules within the blocks; empty or "all" means everything.
	Modules []string
	// Extra are modules outside of the blocks.
	Extra []string
}

// Freeze freezes everything but what the configuration names.
func Freeze(m Model, c FreezeConfig) error {
	ids, err := c.blocks(countBlocks(m))
	if err != nil {
		return err
	}
	inside, outside := moduleNames(m)
	modules := c.Modules
	if len(modules) == 0 {
		modules = []string{"all"}
	}
	var wanted []string
	for _, name := range modules {
		if name == "all" {
			name = ""
		} else if !slices.Contains(inside, name) {
			return schemas.Errorf(schemas.CodeInvalid, "freeze.modules", "module %q is not found", name).WithHint("blocks have %s", strings.Join(inside, ", "))
		}
		for _, i := range ids {
			wanted = append(wanted, fmt.Sprintf(".%d.%s", i, name))
		}
	}
	for _, name := range c.Extra {
		if !slices.Contains(outside, name) {
			return schemas.Errorf(schemas.CodeInvalid, "freeze.extra", "module %q is not found", name).WithHint("outside of the blocks there are %s", strings.Join(outside, ", "))
		}
		wanted = append(wanted, name)
	}
	trained := 0
	for _, u := range m.Units() {
		for _, p := range u.Params {
			// What is frozen from the start, such as the corrections of routers, is no parameter or needs no gradient in the reference.
			p.Frozen = p.Frozen || !slices.ContainsFunc(wanted, func(w string) bool { return strings.Contains(p.Name, w) })
			if !p.Frozen {
				trained++
			}
		}
	}
	if trained == 0 {
		return schemas.Errorf(schemas.CodeInvalid, "freeze", "nothing would be trained")
	}
	return nil
}

// blocks lists the trainable blocks of n.
func (c FreezeConfig) blocks(n int) ([]int, error) {
	var out []int
	switch k := c.Layers; {
	case c.Spread:
		if k < 1 || n%k != 0 {
			return nil, schemas.Errorf(schemas.CodeInvalid, "freeze.trainable_layers", "the model's %d blocks cannot be divided by %d", n, k)
		}
		for i := n/k - 1; i < n; i += n / k {
			out = append(out, i)
		}
	case k >= 0:
		for i := max(0, n-k); i < n; i++ {
			out = append(out, i)
		}
	default:
		for i := range min(-k, n) {
			out = append(out, i)
		}
	}
	return out, nil
}

// moduleNames lists the names below blocks that LLaMA-Factory knows, and the last module name of parameters outside of blocks. It takes what
// follows the last ".0." of a name, or ".1." where there is none, so experts are like blocks: "w1" is a module of Mixtral, and ".3.w1" is in
// expert 3 of every block.
func moduleNames(m Model) (inside, outside []string) {
	numbered := regexp.MustCompile(`\.\d+\.`)
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, u := range m.Units() {
		for _, p := range u.Params {
			for _, number := range [...]string{".0.", ".1."} {
				if at := strings.LastIndex(p.Name, number); at >= 0 {
					first, _, _ := strings.Cut(p.Name[at+len(number):], ".")
					add(&inside, first)
					break
				}
			}
			if numbered.MatchString(p.Name) {
				continue
			}
			if parts := strings.Split(p.Name, "."); len(parts) > 1 {
				add(&outside, parts[len(parts)-2])
			}
		}
	}
	slices.Sort(inside)
	slices.Sort(outside)
	return inside, outside
}
