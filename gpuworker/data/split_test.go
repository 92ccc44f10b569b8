package data

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestSplitKeepsGroupsAndShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var rows []Row
		labels := rapid.IntRange(1, 4).Draw(rt, "labels")
		groups := rapid.IntRange(10, 30).Draw(rt, "groups")
		for l := range labels {
			for g := range groups {
				for i := range rapid.IntRange(1, 6).Draw(rt, "rows") {
					rows = append(rows, Row{Text: fmt.Sprint(l, g, i), Label: fmt.Sprint(l), Group: fmt.Sprint(l, "-", g)})
				}
			}
		}
		spec := schemas.SplitSpec{Eval: 0.1, Test: 0.2}
		seed := rapid.Uint64().Draw(rt, "seed")
		Split(rows, spec, seed)
		where := map[string]string{}
		count := map[string]map[string]int{}
		for _, r := range rows {
			if s, ok := where[r.Group]; ok && s != r.Split {
				rt.Fatalf("group %s is in %s and %s", r.Group, s, r.Split)
			}
			where[r.Group] = r.Split
			if count[r.Label] == nil {
				count[r.Label] = map[string]int{}
			}
			count[r.Label][r.Split]++
		}
		for l, c := range count {
			n := float64(c["train"] + c["eval"] + c["test"])
			for split, share := range map[string]float64{"eval": 0.1, "test": 0.2} {
				if d := float64(c[split]) - share*n; d > 4 || d < -6 {
					rt.Fatalf("label %s has %d of %.0f rows in %s", l, c[split], n, split)
				}
			}
		}
		again := slices.Clone(rows)
		Split(again, spec, seed)
		if !slices.Equal(rows, again) {
			rt.Fatal("the same seed split otherwise")
		}
	})
}

// TestFoldsCoverEveryRowOnce: each row is in the eval split of exactly one fold, labels are spread evenly, groups stay whole.
func TestFoldsCoverEveryRowOnce(t *testing.T) {
	var rows []Row
	for i := range 300 {
		rows = append(rows, Row{Text: fmt.Sprint("row ", i), Label: fmt.Sprint(i % 3), Group: fmt.Sprint(i / 3 % 60)})
	}
	times := make([]int, len(rows))
	for fold := range 5 {
		part := slices.Clone(rows)
		Split(part, schemas.SplitSpec{Folds: 5, Fold: fold}, 9)
		count := map[string]int{}
		where := map[string]string{}
		for i, r := range part {
			if w, ok := where[r.Group]; ok && w != r.Split {
				t.Fatalf("fold %d cuts group %s", fold, r.Group)
			}
			where[r.Group] = r.Split
			if r.Split == "eval" {
				times[i]++
				count[r.Label]++
			}
		}
		for l, n := range count {
			if n < 15 || n > 25 {
				t.Errorf("fold %d has %d rows of label %s, want about 20", fold, n, l)
			}
		}
	}
	for i, n := range times {
		if n != 1 {
			t.Fatalf("row %d is in %d folds", i, n)
		}
	}
}

func TestPermuteLabelsTouchesTrainingOnly(t *testing.T) {
	var rows []Row
	for i := range 600 {
		rows = append(rows, Row{Text: fmt.Sprint("row ", i), Label: fmt.Sprint(i % 6), Explanation: fmt.Sprint("because ", i%6), Group: fmt.Sprint(i % 60)})
	}
	plain := slices.Clone(rows)
	Split(plain, schemas.SplitSpec{Test: 0.2}, 3)
	Split(rows, schemas.SplitSpec{Test: 0.2, PermuteLabels: true}, 3)
	same, n := 0, 0
	old, now := map[string]int{}, map[string]int{}
	for i, r := range rows {
		if r.Split != plain[i].Split || r.Text != plain[i].Text {
			t.Fatalf("row %d is %+v, was %+v", i, r, plain[i])
		}
		if r.Split != "train" {
			if r != plain[i] {
				t.Fatalf("row %d of %s changed", i, r.Split)
			}
			continue
		}
		if !strings.HasSuffix(r.Explanation, r.Label) {
			t.Fatalf("label %s came without its explanation %q", r.Label, r.Explanation)
		}
		old[plain[i].Label]++
		now[r.Label]++
		n++
		if r.Label == plain[i].Label {
			same++
		}
	}
	if !maps.Equal(old, now) || same > n/3 {
		t.Fatalf("%d of %d labels stayed; counts %v and %v", same, n, old, now)
	}
}

// Split is what Splitter does, in memory and by the words of its rules. It assigns every row to train, eval or test: a deterministic function of seed and rows. Rows of one group always stay together, and
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
		return cmp.Compare(PermutationKey(&rows[a], seed), PermutationKey(&rows[b], seed))
	})
	old := slices.Clone(rows)
	for k, i := range train {
		from := old[order[k]]
		rows[i].Label, rows[i].Response, rows[i].Explanation = from.Label, from.Response, from.Explanation
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
