package report

import (
	"fmt"
	"html/template"
	"io"
	"slices"
)

// Page is what an HTML report shows; Stats and Problems may be empty.
type Page struct {
	Title string
	Stats *Stats
	Shown []Shown
	// Problems are the first of Wrong.
	Problems []Problem
	Wrong    int
}

// maxPageProblems bounds the problems that a page lists.
const maxPageProblems = 1000

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"kappa":   func(k *float64) string { return fmt.Sprintf("%.3f", *k) },
	"percent": func(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) },
	"first":   func(p []Problem) []Problem { return p[:min(len(p), maxPageProblems)] },
	"width": func(n int, bins []Bin) string {
		most := 1
		for _, b := range bins {
			most = max(most, b.Count)
		}
		return fmt.Sprintf("%.1f%%", 100*float64(n)/float64(most))
	},
	"sorted": func(m map[string]int) []Class {
		var out []Class
		for k, n := range m {
			out = append(out, Class{Label: k, Rows: n})
		}
		slices.SortFunc(out, func(a, b Class) int { return b.Rows - a.Rows })
		return out
	},
}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{.Title}}</title><style>
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:#3a7bd5;height:.8rem;min-width:1px}.row{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #8886;border-radius:.4rem;padding:.6rem;margin:.6rem 0;font-family:ui-monospace,monospace;font-size:.85rem}
.t{background:#2e9d4a33}.bad{color:#c0392b}small{opacity:.7}</style></head><body>
<h1>{{.Title}}</h1>
{{with .Stats}}<table>
<tr><td>rows</td><td class="n">{{.Rows}}</td></tr><tr><td>usable</td><td class="n">{{.Usable}}</td></tr><tr><td>problems</td><td class="n">{{.Problems}}</td></tr>
<tr><td>format</td><td>{{.Format}}</td></tr><tr><td>duplicates</td><td class="n">{{.Duplicates}}</td></tr><tr><td>near duplicates</td><td class="n">{{.NearDuplicates}}</td></tr>
{{if .EvalRows}}<tr><td>similar to one of {{.EvalRows}} evaluation rows</td><td class="n">{{.Contaminated}}</td></tr>{{end}}
<tr><td>rows with personal data</td><td class="n">{{.PIIRows}}</td></tr>
{{if .CohenKappa}}<tr><td>Cohen's kappa</td><td class="n">{{kappa .CohenKappa}}</td></tr>{{end}}{{if .FleissKappa}}<tr><td>Fleiss' kappa</td><td class="n">{{kappa .FleissKappa}}</td></tr>{{end}}
</table>
<h2>Languages</h2><table>{{range sorted .Languages}}<tr><td>{{.Label}}</td><td class="n">{{.Rows}}</td></tr>{{end}}</table>
{{if .PII}}<h2>Personal data</h2><table>{{range sorted .PII}}<tr><td>{{.Label}}</td><td class="n">{{.Rows}}</td></tr>{{end}}</table>{{end}}
{{if .Classes}}<h2>Classes</h2><table>{{range .Classes}}<tr><td>{{.Label}}</td><td class="n">{{.Rows}}</td><td class="n">{{percent .Share}}</td></tr>{{end}}</table>
<p>The largest class has {{printf "%.1f" .Imbalance}} times the rows of the smallest; {{.ConflictGroups}} groups of rows say the same under different labels.</p>{{end}}
{{with .Tokens}}<h2>Tokens <small>template {{.Template}}</small></h2>
<p>{{.Total}} tokens, {{.Trained}} of them trained; a sequence has {{.Mean}} in the mean, half of them at most {{.P50}}, 90 % {{.P90}}, 99 % {{.P99}}, the longest {{.Max}}.</p>
{{if .Cutoff}}<p>Cut at {{.Cutoff}}: {{percent .Truncated}} of the sequences lose {{percent .Lost}} of the tokens. Packing makes {{.PackedSequences}} sequences, {{percent .PackedFill}} full;
without it batches of 8 are {{percent .PaddedFill}} full.</p>{{end}}
<table>{{$h := .Histogram}}{{range .Histogram}}<tr><td class="n">{{.From}}–{{.To}}</td><td class="n">{{.Count}}</td><td style="width:30rem"><div class="bar" style="width:{{width .Count $h}}"></div></td></tr>{{end}}</table>{{end}}{{end}}
{{if .Problems}}<h2>Problems</h2>{{if gt .Wrong (len (first .Problems))}}<p>{{.Wrong}} problems, the first {{len (first .Problems)}} of them:</p>{{end}}<table>{{range first .Problems}}<tr class="bad"><td>{{.File}}:{{.Row}}</td><td>{{.Key}}</td><td>{{.What}}</td></tr>{{end}}</table>{{end}}
{{if .Shown}}<h2>Rows <small>what is trained is coloured</small></h2>{{range .Shown}}
<small>{{.File}}:{{.Row}}{{if .Answer}}, {{.Answer}}{{end}}{{if .Tokens}}, {{.Tokens}} tokens{{end}}{{if .Truncated}}, truncated{{end}}</small>
<div class="row">{{range .Pieces}}<span{{if .Trained}} class="t"{{end}}>{{.Text}}</span>{{end}}</div>{{end}}{{end}}
</body></html>
`))

// WriteHTML writes a page that needs nothing else: no script, no other file.
func WriteHTML(w io.Writer, p *Page) error {
	if err := page.Execute(w, p); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}
