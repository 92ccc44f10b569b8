package schemas

import (
	"fmt"
	"strings"
)

// EvalScript is a scoring command of the user's own: it reads predictions as JSONL ({index, label, predicted, text, reference} a line) and
// prints one JSON object of numbers.
type EvalScript struct {
	// Name is what the report calls it.
	Name string `json:"name"`
	// Command is the program with its arguments, split as a shell does but without one. The workers' operator must allow it.
	Command string `json:"command"`
	// Timeout is in seconds (default 300).
	Timeout int `json:"timeout,omitempty"`
}

const (
	maxScripts       = 16
	maxScriptTimeout = 86_400
)

func (p *problems) scripts(list []EvalScript, at string) {
	p.check(len(list) <= maxScripts, at, "has %d scripts, the limit is %d", len(list), maxScripts)
	seen := map[string]bool{}
	for i, s := range list {
		place := fmt.Sprintf("%s[%d]", at, i)
		p.check(ValidName(s.Name), place+".name", "%q is not a name", s.Name)
		p.check(!seen[s.Name], place+".name", "%q appears twice", s.Name)
		seen[s.Name] = true
		p.check(strings.TrimSpace(s.Command) != "" && len(s.Command) <= 4096, place+".command", "must have 1 to 4096 bytes")
		p.check(s.Timeout >= 0 && s.Timeout <= maxScriptTimeout, place+".timeout", "is %d seconds, must be 0 to %d", s.Timeout, maxScriptTimeout)
	}
}
