package config

import (
	"fmt"
	"strings"
)

//go:generate sh -c "UPDATE_TABLE=1 go test -run TestFactoryTable ."

// FactoryTable is a Markdown table of every key of LLaMA-Factory's configuration and what this build does with it.
func FactoryTable() string {
	var b strings.Builder
	b.WriteString("# Keys of LLaMA-Factory's configuration\n\nGenerated from factory_keys.go; do not edit. `tunefleet train x.yaml key=value ...` reads such files.\n" +
		"A key works, has no effect here for the reason given, or is refused when it has another value than its default.\n")
	counts := map[keyStatus]int{}
	group := ""
	for _, k := range factoryKeys() {
		counts[k.status]++
		if k.group != group {
			group = k.group
			fmt.Fprintf(&b, "\n## %s\n\n| key | default | here | remarks |\n|---|---|---|---|\n", group)
		}
		status := map[keyStatus]string{works: "works", noEffect: "no effect", refused: "refused"}[k.status]
		def := k.def
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, def, status, strings.ReplaceAll(k.note, "|", "\\|"))
	}
	fmt.Fprintf(&b, "\n%d keys work, %d have no effect, %d are refused.\n", counts[works], counts[noEffect], counts[refused])
	return b.String()
}
