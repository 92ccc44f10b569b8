package data

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// Split assigns every row to train, eval or test: a deterministic function of seed and rows. Rows of one group always stay together, and
// the shares hold within every label as well as whole groups allow (stratified group sampling). Rows without a group are groups of one. With
// folds the groups that the test split leaves are dealt out to the folds, each going to the one with the fewest rows of its label so far, and
// the named fold is the eval split.
func Split(rows []Row, spec schemas.SplitSpec, seed uint64) {
	type group struct {
		hash uint64
		rows []int
	}
	strata := map[string]map[string]*group{}
	for i, r := range rows {
		name := groupName(&r)
		if strata[r.Label] == nil {
			strata[r.Label] = map[string]*group{}
		}
		g := strata[r.Label][name]
		if g == nil {
			g = &group{hash: hash64(seed, name)}
			strata[r.Label][name] = g
		}
		g.rows = append(g.rows, i)
	}
	// A group that spans labels goes where the hash puts it in every stratum, so it is assigned once for all.
	assigned := map[string]string{}
	for _, label := range sortedKeys(strata) {
		groups := strata[label]
		names := sortedKeys(groups)
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(groups[a].hash, groups[b].hash) })
		total := 0
		for _, n := range names {
			total += len(groups[n].rows)
		}
		test, eval := 0, 0
		folds := make([]int, spec.Folds)
		for _, n := range names {
			g := groups[n]
			split, ok := assigned[n]
			if !ok {
				switch {
				case spec.Folds > 0 && float64(test)+float64(len(g.rows))/2 > spec.Test*float64(total):
					k := fewest(folds, int(hash64(seed, label)%uint64(spec.Folds)))
					folds[k] += len(g.rows)
					split = "train"
					if k == spec.Fold {
						split = "eval"
					}
				case float64(test)+float64(len(g.rows))/2 <= spec.Test*float64(total) && spec.Test > 0:
					split = "test"
				case float64(eval)+float64(len(g.rows))/2 <= spec.Eval*float64(total) && spec.Eval > 0:
					split = "eval"
				default:
					split = "train"
				}
				assigned[n] = split
			}
			switch split {
			case "test":
				test += len(g.rows)
			case "eval":
				eval += len(g.rows)
			}
			for _, i := range g.rows {
				rows[i].Split = split
			}
		}
	}
	if spec.PermuteLabels {
		permuteLabels(rows, seed)
	}
}

// groupName names the group of a row; rows without one are grouped by what they say.
func groupName(r *Row) string {
	if r.Group != "" {
		return r.Group
	}
	return "\x00" + r.Text + "\x00" + r.Prompt
}

// fewest is the place of the least number; of equal ones the first from a place on, so that small classes do not all land in fold 0.
func fewest(v []int, from int) int {
	best := from
	for i := range v {
		if k := (from + i) % len(v); v[k] < v[best] {
			best = k
		}
	}
	return best
}

// permuteLabels shuffles labels (with response and explanation, which depend on them) among the training rows, by hash order.
func permuteLabels(rows []Row, seed uint64) {
	var train []int
	for i, r := range rows {
		if r.Split == "train" {
			train = append(train, i)
		}
	}
	order := slices.Clone(train)
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(hash64(seed^0x7065726d, rows[a].Text+rows[a].Prompt), hash64(seed^0x7065726d, rows[b].Text+rows[b].Prompt))
	})
	old := slices.Clone(rows)
	for k, i := range train {
		from := old[order[k]]
		rows[i].Label, rows[i].Response, rows[i].Explanation = from.Label, from.Response, from.Explanation
	}
}

// hash64 is the first 8 bytes of SHA-256 over seed and text: stable across machines and versions.
func hash64(seed uint64, s string) uint64 {
	sum := seededSum(seed, s)
	return binary.LittleEndian.Uint64(sum[:])
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
