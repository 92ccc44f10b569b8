package remote

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// FuzzParse: an address is refused with a code, or is told the same way again; its path stays within its folder.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"hf://owner/name", "hf://datasets/owner/name@v1/data/*.jsonl", "ms://a/b/c@refs%2Fpr%2F1", "s3://bucket/a/b.jsonl", "https://h/x?y#z", "hf://squad@main", "http://x", "gs://b/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s, KindData)
		if err != nil {
			if schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		if !IsAddress(s) {
			t.Fatalf("%q was parsed and is no address", s)
		}
		if a.URL == nil && (strings.HasPrefix(path.Clean(a.Path+"/x"), "../") || path.IsAbs(a.Path)) {
			t.Fatalf("%q leads to %q", s, a.Path)
		}
		if a.URL == nil && !strings.ContainsAny(a.Path+a.Revision, "@%/ ") {
			b, err := Parse(a.String(), KindData)
			if err != nil || b.String() != a.String() {
				t.Fatalf("%q is %q, which is %v, %v", s, a, b, err)
			}
		}
	})
}

// FuzzReadme: the YAML head of a README gives configs or an error with a code.
func FuzzReadme(f *testing.F) {
	f.Add("---\nconfigs:\n- config_name: a\n  default: true\n  data_files:\n  - split: train\n    path: [x, y/*]\n---\n", "x")
	f.Add("---\nconfigs: 3\n---\n", "data/train-00000-of-00001.parquet")
	f.Add("---\nconfigs:\n- config_name: a\n  data_files: '[!a-z]*'\n---\n", "0")
	f.Fuzz(func(t *testing.T, readme, name string) {
		configs, err := readConfigs("README.md", []byte(readme))
		if err != nil {
			if schemas.AsErrorInfo(err).Code != schemas.CodeData {
				t.Fatalf("code of %v", err)
			}
			return
		}
		for _, split := range []string{"", "test"} {
			files, err := splitFiles("repo", []string{name, "data/x.jsonl"}, configs, choice{split: split})
			if err != nil && schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
				t.Fatalf("error without a code: %v", err)
			}
			for _, x := range files {
				if x != name && x != "data/x.jsonl" {
					t.Fatalf("found %q", x)
				}
			}
		}
	})
}

// FuzzNextPage: a list goes on at the same server or not at all.
func FuzzNextPage(f *testing.F) {
	f.Add(`<http://h/x>; rel="next"`)
	f.Add(`<http://h.evil/x>; rel="next", <http://h/y>; rel="last"`)
	f.Fuzz(func(t *testing.T, link string) {
		next, err := nextPage(&site{name: "hub", base: "http://h"}, link)
		if err != nil || next == "" {
			return
		}
		if u, err := url.Parse(next); err != nil || u.Scheme != "http" || u.Host != "h" {
			t.Fatalf("%q leads to %q", link, next)
		}
	})
}
