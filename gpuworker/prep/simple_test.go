package prep_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// mixedRows are rows that every step has something to do with: doubles in other case, near doubles, personal data, blanks, labels that span
// groups, rows without label or group.
func mixedRows(n int) []byte {
	r := rand.New(rand.NewPCG(3, uint64(n)))
	words := strings.Fields("the supplier shall pay invoice within thirty days after receipt of notice audit rights term renew 合同 付款 ends early 🙂 naïve")
	var b strings.Builder
	for range n {
		var text []string
		for range 4 + r.IntN(20) {
			text = append(text, words[r.IntN(len(words))])
		}
		s := strings.Join(text, " ")
		switch r.IntN(12) {
		case 0:
			s = "The SUPPLIER shall  pay the invoice within thirty days, number " + fmt.Sprint(r.IntN(n/20+1))
		case 1:
			s += " write to someone@example.com"
		case 2:
			s = "short"
		}
		fmt.Fprintf(&b, `{"text":%q,"explanation":"because of %d"`, s, r.IntN(9))
		if k := r.IntN(5); k > 0 {
			fmt.Fprintf(&b, `,"label":"l%d"`, k%3)
		} else {
			b.WriteString(`,"label":"audit"`)
		}
		if r.IntN(3) > 0 {
			fmt.Fprintf(&b, `,"group":"g%d"`, r.IntN(n/8+1))
		}
		b.WriteString("}\n")
	}
	return []byte(b.String())
}

// simpleCases are settings of the simple form; what they give is written down in TestSimpleFormKeepsItsBytes.
func simpleCases() map[string]schemas.PrepStage {
	out := func(outs ...schemas.PrepOutput) []schemas.PrepOutput { return outs }
	text := schemas.PrepOutput{Name: "text", Form: "pt", Split: "train", CutoffLen: 48, Packing: true}
	neat := schemas.PrepOutput{Name: "neat", Form: "pt", Split: "train", CutoffLen: 33, Packing: true, Neat: true}
	cut := schemas.PrepOutput{Name: "cut", Form: "pt", Split: "train", CutoffLen: 9}
	huge := schemas.PrepOutput{Name: "huge", Form: "pt", Split: "test", CutoffLen: 1 << 20, Packing: true}
	chat := schemas.PrepOutput{Name: "chat", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 96}
	sacks := schemas.PrepOutput{Name: "sacks", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 120, Packing: true}
	apart := schemas.PrepOutput{Name: "apart", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 120, Packing: true, Neat: true}
	held := schemas.PrepOutput{Name: "held", Form: "sft", Split: "test", Template: "contract-review", CutoffLen: 128, Rows: true}
	eval := schemas.PrepOutput{Name: "eval", Form: "sft", Split: "eval", Template: "contract-review", CutoffLen: 128, Rows: true}
	both := schemas.SplitSpec{Eval: 0.1, Test: 0.2}
	return map[string]schemas.PrepStage{
		"plain":       {Outputs: out(chat, text, cut)},
		"parts":       {Outputs: out(chat, text, neat, held), Split: schemas.SplitSpec{Test: 0.2}, Parts: 3},
		"many parts":  {Outputs: out(chat, held, eval), Split: both, Parts: 150},
		"packed":      {Outputs: out(sacks, apart, huge), Split: schemas.SplitSpec{Test: 0.1}, Parts: 2},
		"cleaned":     {Outputs: out(chat, held, eval), Split: both, Parts: 2, Clean: schemas.CleanSpec{Normalize: true, Dedup: true, PII: "mask", MinChars: 8, Broken: true, Blocklist: []string{"renew"}}},
		"pseudonyms":  {Outputs: out(chat), Clean: schemas.CleanSpec{Dedup: true, PII: "pseudonym", Boilerplate: true, Languages: []string{"en"}}},
		"labels":      {Outputs: out(chat, held), Split: both, Clean: schemas.CleanSpec{Labels: []string{"l0", "l1"}, PII: "drop"}, Parts: 2},
		"folds":       {Outputs: out(chat, eval, held), Split: schemas.SplitSpec{Test: 0.1, Folds: 4, Fold: 2}, Parts: 2},
		"near":        {Outputs: out(chat, held), Split: both, Clean: schemas.CleanSpec{NearDup: 0.8, Contamination: 0.6, Mislabelled: "drop"}, Parts: 2},
		"sampled":     {Outputs: out(chat, held), Split: both, Sample: &schemas.SampleSpec{MaxRows: 200, Balance: "oversample"}, Parts: 2},
		"permuted":    {Outputs: out(chat, held), Split: schemas.SplitSpec{Test: 0.2, PermuteLabels: true}, Clean: schemas.CleanSpec{Dedup: true}, Parts: 2},
		"augmented":   {Outputs: out(chat, held), Split: both, Augment: &schemas.AugmentSpec{Methods: []string{"random_swap", "random_deletion"}}, Parts: 2},
		"copies":      {Outputs: out(chat, held), Split: both, Sample: &schemas.SampleSpec{MaxRows: 300, Balance: "oversample"}, Augment: &schemas.AugmentSpec{Methods: []string{"random_swap", "typo"}, Copies: 2}, Parts: 2},
		"fewer":       {Outputs: out(chat, text, held, eval), Split: both, Clean: schemas.CleanSpec{Dedup: true, NearDup: 0.6}, Sample: &schemas.SampleSpec{Balance: "undersample"}, Parts: 3},
		"shuffled":    {Outputs: out(chat, text, held), Split: schemas.SplitSpec{Test: 0.3, Eval: 0.1, PermuteLabels: true}, Clean: schemas.CleanSpec{NearDup: 0.8, Contamination: 0.4, Mislabelled: "drop"}, Sample: &schemas.SampleSpec{MaxRows: 150, Balance: "oversample"}, Parts: 2},
		"outvoted":    {Outputs: out(chat, held), Split: both, Clean: schemas.CleanSpec{Dedup: true, NearDup: 0.7, Contamination: 0.5, PII: "pseudonym", Broken: true, Mislabelled: "drop"}, Augment: &schemas.AugmentSpec{Methods: []string{"random_deletion"}}, Parts: 3},
		"everything":  {Outputs: out(chat, held, eval), Split: both, Clean: schemas.CleanSpec{NearDup: 0.05, Contamination: 0.05}, Sample: &schemas.SampleSpec{MaxRows: 1 << 30}, Parts: 3},
		"pairs":       {Outputs: out(chat, held, eval), Split: schemas.SplitSpec{Test: 0.1, Folds: 4, Fold: 2}, Clean: schemas.CleanSpec{NearDup: 0.4, Shingle: 2, MinChars: 8}, Sample: &schemas.SampleSpec{MaxRows: 1 << 30}, Parts: 1},
		"quarantined": {Outputs: out(chat), OnBadRow: "quarantine", Parts: 2},
	}
}

// outcome runs all parts and hashes what they stored, and their counters.
func (f *fixture) outcome() string {
	f.t.Helper()
	h := sha256.New()
	for part := range f.spec.Stages[0].Prep.Parts {
		if err := f.handle(f.t.Context(), part); err != nil {
			f.t.Fatal(err)
		}
		r := f.result(part)
		for _, o := range r.Objects {
			fmt.Fprintln(h, part, o.Name, o.Bytes, o.SHA256)
		}
		var names []string
		for k := range r.Counters {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			fmt.Fprintln(h, part, k, r.Counters[k])
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// TestSimpleFormKeepsItsBytes: rows that stream through scratch files, dealt out once, give the shards, rows and counters that they gave when
// every part held all rows in memory. The hashes were taken from that code.
func TestSimpleFormKeepsItsBytes(t *testing.T) {
	want := map[string]string{
		"augmented":   "d9c67bcb7380879c",
		"copies":      "e9b1fdd5202f1bf6",
		"shuffled":    "46a5b43ec95520c9",
		"outvoted":    "c8226c684a36cc7d",
		"fewer":       "e1097446bcd745b5",
		"everything":  "bdac608777022022",
		"pairs":       "1020031ca5ec1d14",
		"cleaned":     "fb74999adc18d1cc",
		"folds":       "e366d5011d6de5ef",
		"labels":      "c605d1099a67ec05",
		"many parts":  "1196b1f8c45a0267",
		"near":        "cd5949ed6dd39c01",
		"packed":      "1e763f6b680286d8",
		"parts":       "4219bab154ff9d65",
		"permuted":    "63f12aac5f013499",
		"plain":       "923672477f62e9a1",
		"pseudonyms":  "770ae6ac3c14c1f5",
		"quarantined": "0c523f3ce1058a35",
		"sampled":     "ce0fa5e88800bac2",
	}
	rows := mixedRows(900)
	for name, stage := range simpleCases() {
		t.Run(name, func(t *testing.T) {
			body := rows
			if stage.OnBadRow != "" {
				body = append(slices.Clone(rows), []byte("[1]\n{\"text\":\"one more\",\"label\":\"l0\"}\nnull\n")...)
			}
			if got := newFixture(t, "rows.jsonl", body, stage).outcome(); got != want[name] {
				t.Errorf("%q: %q,", name, got)
			}
		})
	}
}

// TestSimplePartsReadTheirOwnRows: the file is read once, by the first part; the others read their own rows and the plan.
func TestSimplePartsReadTheirOwnRows(t *testing.T) {
	const parts = 5
	f := newFixture(t, "rows.jsonl", mixedRows(3000), schemas.PrepStage{Outputs: outputs()[:2], Split: schemas.SplitSpec{Test: 0.2}, Parts: parts})
	m := newMeter(f.objects)
	f.objects = m
	file := f.spec.Stages[0].Prep.Data.Files[0]
	for part := range parts {
		if err := f.handle(t.Context(), part); err != nil {
			t.Fatal(err)
		}
		if got := m.read[schemas.InputKey("acme", file.SHA256)]; got != file.Bytes {
			t.Fatalf("after part %d the file was read %.2f times", part, float64(got)/float64(file.Bytes))
		}
	}
	for part := range parts {
		suffix := fmt.Sprintf("/train-%05d", part)
		want := int64(1)
		if part == 0 {
			want = 0 // it made them
		}
		if read, written := m.sum(m.read, suffix), m.sum(m.written, suffix); written == 0 || read != want*written {
			t.Errorf("of the %d bytes of part %d's rows %d were read", written, part, read)
		}
	}
	if m.sum(m.written, "/test-00000") != 0 {
		t.Error("rows of a split that no output has were stored")
	}
}

// TestASimpleLostWorkerRepeatsOnePart: whatever upload a worker dies at, what others stored is not made again.
func TestASimpleLostWorkerRepeatsOnePart(t *testing.T) {
	const parts, lost = 4, 2
	stage := schemas.PrepStage{Outputs: outputs(), Split: schemas.SplitSpec{Test: 0.2}, Parts: parts}
	whole := newFixture(t, "rows.jsonl", mixedRows(500), stage).outcome()
	f := newFixture(t, "rows.jsonl", mixedRows(500), stage)
	m := newMeter(f.objects)
	f.objects = m
	died := errors.New("killed")
	for at := 1; ; at++ { // the first part dies at every upload it makes
		n := 0
		m.stop = func(string) error {
			if n++; n == at {
				return died
			}
			return nil
		}
		if err := f.handle(t.Context(), 0); err == nil {
			break
		} else if !errors.Is(err, died) {
			t.Fatal(err)
		}
	}
	m.stop = nil
	for part := range lost {
		if err := f.handle(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	before := f.uploads(m)
	m.stop = func(key string) error {
		if strings.HasSuffix(key, "/shard") {
			return died
		}
		return nil
	}
	if err := f.handle(t.Context(), lost); !errors.Is(err, died) {
		t.Fatalf("the part ends with %v", err)
	}
	m.stop = nil
	if got := f.outcome(); got != whole {
		t.Error("after the deaths the parts are others")
	}
	after := f.uploads(m)
	for k, n := range before {
		if after[k] != n {
			t.Errorf("%s was written again", k)
		}
	}
	if len(after) != 3*parts {
		t.Errorf("%d shards, want %d", len(after), 3*parts)
	}
}

// TestASimplePlanIsMadeAgain: a plan whose rows are gone is made again; rows with another content are an error.
func TestASimplePlanIsMadeAgain(t *testing.T) {
	stage := schemas.PrepStage{Outputs: outputs()[:2], Split: schemas.SplitSpec{Test: 0.2}, Parts: 2}
	f := newFixture(t, "rows.jsonl", mixedRows(300), stage)
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	key := f.damage("/train-00001")
	if err := f.handle(t.Context(), 1); !schemas.IsCode(err, schemas.CodeVerify) {
		t.Fatalf("damaged rows: %v", err)
	}
	if err := f.objects.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got, want := f.outcome(), newFixture(t, "rows.jsonl", mixedRows(300), stage).outcome(); got != want {
		t.Error("rows that were made again are others")
	}
}

// heapPeak is the largest heap, in MiB, while f runs.
func heapPeak(f func()) int64 {
	runtime.GC()
	done := make(chan struct{})
	var wg sync.WaitGroup
	var peak uint64
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			peak = max(peak, s.HeapInuse)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	f()
	close(done)
	wg.Wait()
	return int64(peak >> 20)
}

// TestASimplePlanIsSmall: cleaning, finding exact and near duplicates and contamination, and splitting five times as many rows takes no more memory: 300,000 rows held at once
// were over 200 MiB.
func TestASimplePlanIsSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("reads half a million rows")
	}
	peak := func(n int) int64 {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `{"text":"row%[1]d has%[1]d many%[1]d words%[1]d of%[1]d its%[1]d own%[1]d and%[1]d none%[1]d that%[1]d others%[1]d have","label":"l%[2]d"}`+"\n", i, i%3)
		}
		f := newFixture(t, "rows.jsonl.gz", gzipped(t, []byte(b.String())), schemas.PrepStage{Outputs: outputs()[2:], Split: schemas.SplitSpec{Test: 100 / float64(n)}, Clean: schemas.CleanSpec{Dedup: true, NearDup: 0.99, Contamination: 0.99}})
		b.Reset()
		return heapPeak(func() {
			if err := f.handle(t.Context(), 0); err != nil {
				t.Error(err)
			}
		})
	}
	small, large := peak(60_000), peak(300_000)
	t.Logf("heap: %d MiB of 60,000 rows, %d MiB of 300,000", small, large)
	if large > small+40 {
		t.Errorf("the heap grows from %d MiB to %d MiB", small, large)
	}
}
