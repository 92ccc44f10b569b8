package schemas

import (
	"fmt"
	"regexp"
	"slices"
)

// CleanSpec says which rows are repaired or dropped before anything else. The steps run in the order of the fields.
type CleanSpec struct {
	// Normalize applies Unicode NFC, drops control characters and folds white space.
	Normalize bool `json:"normalize,omitempty"`
	// Boilerplate drops lines that are no content: cookie and copyright notices, "read more", share buttons, advertising.
	Boilerplate bool `json:"boilerplate,omitempty"`
	// Broken drops rows whose text is damaged: wrongly decoded, mostly punctuation, the same words over and over, cut HTML, no answer.
	Broken bool `json:"broken,omitempty"`
	// Labels, when not empty, drops rows whose label is not listed.
	Labels   []string `json:"labels,omitempty"`
	MinChars int      `json:"min_chars,omitempty"`
	MaxChars int      `json:"max_chars,omitempty"`
	// Languages, when not empty, keeps rows in these languages only (zh, en, ja, ko, ru, ar, de, fr, es, it, pt, nl); a text too short to tell is kept.
	Languages []string `json:"languages,omitempty"`
	// Blocklist drops rows that hold one of these words or phrases, whatever their case.
	Blocklist []string `json:"blocklist,omitempty"`
	// PII is "", "mask" ([EMAIL]), "drop" (the row) or "pseudonym" ([EMAIL_3f9a2c41], the same for the same value in the run).
	PII string `json:"pii,omitempty"`
	// PIITypes limits what is looked for: email, phone, resident_id, bank_card, iban, ip, passport, address, name; empty: all.
	PIITypes []string `json:"pii_types,omitempty"`
	// PIIPatterns are own types of personal data: name to regular expression (RE2).
	PIIPatterns map[string]string `json:"pii_patterns,omitempty"`
	// Dedup drops exact duplicates (after normalization and case folding).
	Dedup bool `json:"dedup,omitempty"`
	// NearDup, when positive, drops rows whose words have at least this Jaccard similarity with an earlier row's (0.8 is usual).
	NearDup float64 `json:"near_dup,omitempty"`
	// Contamination, when positive, drops training rows that similar to a row of eval or test.
	Contamination float64 `json:"contamination,omitempty"`
	// Shingle is the number of words that are compared as one (default 1).
	Shingle int `json:"shingle,omitempty"`
	// Mislabelled is "" or "drop": drops rows whose label is not that of more than half of their group, or, of rows that name no group, of the
	// rows that say nearly the same.
	Mislabelled string `json:"mislabelled,omitempty"`
	// Review holds review.jsonl: people's decisions on rows, applied before Mislabelled.
	Review *Ref `json:"review,omitempty"`
	// ReviewPending is "keep" (default) or "drop": what happens to rows that nobody has decided on.
	ReviewPending string `json:"review_pending,omitempty"`
}

// AugmentSpec adds changed copies of training rows. Rows of eval and test, labels and answers are never changed.
type AugmentSpec struct {
	// Methods are synonym_replacement, random_swap, random_deletion, random_insertion, typo and homophone; copies take them in turn.
	Methods []string `json:"methods"`
	// SynonymDict is a file with a group of synonyms a line; synonym_replacement and random_insertion need it.
	SynonymDict *Ref `json:"synonym_dict,omitempty"`
	// Copies is the number of copies of a row (default 1); Rate the share of its words that change (default 0.1).
	Copies int     `json:"copies,omitempty"`
	Rate   float64 `json:"rate,omitempty"`
	// Protect lists words that never change, besides labels and names.
	Protect []string `json:"protect,omitempty"`
}

// SampleSpec picks training rows after the split.
type SampleSpec struct {
	// Balance is "", "oversample" (repeat rows of rare labels up to the largest) or "undersample" (cut to the smallest).
	Balance string `json:"balance,omitempty"`
	// MaxRows keeps at most so many training rows, each label in proportion.
	MaxRows int `json:"max_rows,omitempty"`
}

// languages that CleanSpec.Languages may name.
func languages() []string {
	return []string{"zh", "en", "ja", "ko", "ru", "ar", "de", "fr", "es", "it", "pt", "nl"}
}

// AugmentMethods lists the methods of AugmentSpec.
func AugmentMethods() []string {
	return []string{"synonym_replacement", "random_swap", "random_deletion", "random_insertion", "typo", "homophone"}
}

func (p *problems) clean(c *CleanSpec, at string) {
	p.check(slices.Contains([]string{"", "mask", "drop", "pseudonym"}, c.PII), at+".pii", "%q is unknown (mask, drop, pseudonym)", c.PII)
	p.check(slices.Contains([]string{"", "drop"}, c.Mislabelled), at+".mislabelled", "%q is unknown (drop)", c.Mislabelled)
	p.check(slices.Contains([]string{"", "keep", "drop"}, c.ReviewPending), at+".review_pending", "%q is unknown (keep, drop)", c.ReviewPending)
	p.check(c.MinChars >= 0 && c.MaxChars >= 0 && (c.MaxChars == 0 || c.MaxChars >= c.MinChars), at+".max_chars", "%d to %d is no range", c.MinChars, c.MaxChars)
	p.check(c.Shingle >= 0 && c.Shingle <= 32, at+".shingle", "is %d, must be 1 to 32", c.Shingle)
	for _, s := range []struct {
		key string
		v   float64
	}{{"near_dup", c.NearDup}, {"contamination", c.Contamination}} {
		p.check(s.v == 0 || s.v >= 0.3 && s.v <= 1, at+"."+s.key, "is %g, must be 0.3 to 1", s.v)
	}
	for i, l := range c.Languages {
		p.check(slices.Contains(languages(), l), fmt.Sprintf("%s.languages[%d]", at, i), "%q is unknown (%v)", l, languages())
	}
	for i, b := range c.Blocklist {
		p.check(b != "", fmt.Sprintf("%s.blocklist[%d]", at, i), "is empty")
	}
	for name, re := range c.PIIPatterns {
		_, err := regexp.Compile(re)
		p.check(err == nil, at+".pii_patterns."+name, "is no regular expression: %v", err)
	}
	if c.Review != nil {
		p.ref(*c.Review, at+".review")
	}
}

func (p *problems) augment(a *AugmentSpec, at string) {
	if a == nil {
		return
	}
	p.check(len(a.Methods) > 0, at+".methods", "is empty (%v)", AugmentMethods())
	needs := false
	for i, m := range a.Methods {
		place := fmt.Sprintf("%s.methods[%d]", at, i)
		if !slices.Contains(AugmentMethods(), m) {
			p.add(place, "%q is unknown (%v)", m, AugmentMethods())
			continue
		}
		needs = needs || m == "synonym_replacement" || m == "random_insertion"
	}
	p.check(!needs || a.SynonymDict != nil, at+".synonym_dict", "is needed for synonym_replacement and random_insertion")
	p.check(a.Copies >= 0 && a.Copies <= 16, at+".copies", "is %d, must be 1 to 16", a.Copies)
	p.check(a.Rate >= 0 && a.Rate <= 1, at+".rate", "is %g, must be 0 to 1", a.Rate)
	if a.SynonymDict != nil {
		p.ref(*a.SynonymDict, at+".synonym_dict")
	}
}

func (p *problems) sample(s *SampleSpec, at string) {
	if s == nil {
		return
	}
	p.check(slices.Contains([]string{"", "oversample", "undersample"}, s.Balance), at+".balance", "%q is unknown (oversample, undersample)", s.Balance)
	p.check(s.MaxRows >= 0, at+".max_rows", "is %d, must not be negative", s.MaxRows)
}

func (p *problems) split(s *SplitSpec, at string) {
	share := s.Eval + s.Test
	p.check(s.Eval >= 0 && s.Test >= 0 && share < 1, at, "eval and test are %g and %g: both must be >= 0 and leave rows for training", s.Eval, s.Test)
	p.check(s.Folds == 0 || s.Folds >= 2 && s.Folds <= 100, at+".folds", "is %d, must be 2 to 100", s.Folds)
	p.check(s.Fold >= 0 && (s.Fold == 0 || s.Fold < s.Folds), at+".fold", "is %d, must be 0 to %d", s.Fold, max(0, s.Folds-1))
	p.check(s.Folds == 0 || s.Eval == 0, at+".eval", "and folds exclude each other: the fold is the eval split")
}
