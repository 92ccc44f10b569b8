package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/tunefleet/tunefleet/schemas"
)

// Limits on what is read.
const (
	// MaxFileBytes is the largest configuration file.
	MaxFileBytes = 1 << 20
	maxDepth     = 32
	maxNodes     = 100_000
)

// node is one value of the configuration with its position. Exactly one of the three kinds is set; a scalar may be nil (null).
type node struct {
	line, col int
	// override is the argument of the command line that the value is from, empty for the file's.
	override string
	isMap    bool
	isList   bool
	keys     []string
	values   map[string]*node
	list     []*node
	// scalar is nil, bool, int64, uint64, float64 or string.
	scalar any
	// text is the scalar as written: "1e-4" is a string for YAML 1.1 readers, a number for everybody else.
	text string
}

func (n *node) kind() string {
	switch {
	case n.isMap:
		return "a mapping"
	case n.isList:
		return "a list"
	case n.scalar == nil:
		return "nothing"
	}
	switch n.scalar.(type) {
	case bool:
		return "true or false"
	case string:
		return "text"
	}
	return "a number"
}

func newMap() *node { return &node{isMap: true, values: map[string]*node{}} }

func (n *node) set(key string, v *node) {
	if _, ok := n.values[key]; !ok {
		n.keys = append(n.keys, key)
	}
	n.values[key] = v
}

// problems collects what is wrong, so that a user sees everything at once.
type problems struct {
	file string
	list []problem
}

type problem struct {
	line, col int
	override  string
	text      string
}

func (p *problems) add(n *node, format string, args ...any) {
	pr := problem{text: fmt.Sprintf(format, args...)}
	if n != nil {
		pr.line, pr.col, pr.override = n.line, n.col, n.override
	}
	p.list = append(p.list, pr)
}

// err is nil, or one ErrorInfo (CodeInvalid) that lists every problem by position.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b problem) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return a.col - b.col
	})
	lines := make([]string, len(p.list))
	for i, pr := range p.list {
		lines[i] = pr.text
		if pr.override != "" {
			lines[i] = pr.override + " (on the command line): " + pr.text
		} else if pr.line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", p.file, pr.line, pr.text)
		} else if p.file != "" {
			lines[i] = p.file + ": " + pr.text
		}
	}
	return schemas.Errorf(schemas.CodeInvalid, "", "%s", strings.Join(lines, "\n"))
}

// with is err with errors that have a code of their own: one of them alone keeps it, together with other problems the list is the answer.
func (p *problems) with(errs []error) error {
	if len(errs) == 1 && len(p.list) == 0 {
		return errs[0]
	}
	for _, err := range errs {
		var info *schemas.ErrorInfo
		if text := err.Error(); !errors.As(err, &info) || info.Hint == "" {
			p.add(nil, "%s", text)
		} else {
			p.add(nil, "%s: %s (%s)", info.Place, info.Message, info.Hint)
		}
	}
	return p.err()
}

// parse reads one YAML (or JSON) document. Errors are ErrorInfo with CodeInvalid and the place.
func parse(file string, data []byte) (*node, error) {
	if len(data) > MaxFileBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "%d bytes are more than the %d that a configuration may have", len(data), MaxFileBytes)
	}
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		at, text := yamlPlace(firstLine(err.Error()))
		return nil, schemas.Errorf(schemas.CodeInvalid, file+at, "cannot read YAML: %s", text)
	}
	var docs []ast.Node
	for _, d := range f.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	if len(docs) == 0 {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "the configuration is empty")
	}
	if len(docs) > 1 {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "the file holds %d documents, expected one", len(docs))
	}
	c := converter{p: &problems{file: file}}
	n := c.convert(docs[0], 0)
	if err := c.p.err(); err != nil {
		return nil, err
	}
	if !n.isMap {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "the configuration is %s, expected a mapping", n.kind())
	}
	return n, nil
}

type converter struct {
	p     *problems
	nodes int
}

func (c *converter) convert(a ast.Node, depth int) *node {
	n := &node{}
	if t := a.GetToken(); t != nil && t.Position != nil {
		n.line, n.col = t.Position.Line, t.Position.Column
	}
	c.nodes++
	if depth > maxDepth || c.nodes > maxNodes {
		if c.nodes <= maxNodes+1 {
			c.p.add(n, "nested deeper than %d levels, or more than %d values", maxDepth, maxNodes)
		}
		return n
	}
	switch v := a.(type) {
	case *ast.MappingNode:
		n.isMap, n.values = true, map[string]*node{}
		for _, e := range v.Values {
			c.entry(n, e, depth)
		}
	case *ast.MappingValueNode:
		n.isMap, n.values = true, map[string]*node{}
		c.entry(n, v, depth)
	case *ast.SequenceNode:
		n.isList = true
		for _, e := range v.Values {
			n.list = append(n.list, c.convert(e, depth+1))
		}
	case *ast.NullNode:
	case *ast.BoolNode:
		n.scalar, n.text = v.Value, strconv.FormatBool(v.Value)
	case *ast.IntegerNode:
		n.scalar, n.text = v.Value, v.Token.Value
	case *ast.FloatNode:
		n.scalar, n.text = v.Value, v.Token.Value
	case *ast.InfinityNode:
		n.scalar, n.text = v.Value, v.Token.Value
	case *ast.NanNode:
		n.scalar, n.text = math.NaN(), v.Token.Value
	case *ast.StringNode:
		n.scalar, n.text = v.Value, v.Value
	case *ast.LiteralNode:
		n.scalar, n.text = v.Value.Value, v.Value.Value
	case *ast.AnchorNode, *ast.AliasNode:
		c.p.add(n, "anchors and aliases are not allowed: write the value out")
	case *ast.TagNode:
		c.p.add(n, "tags are not allowed")
	default:
		c.p.add(n, "cannot use this YAML construct here")
	}
	return n
}

func (c *converter) entry(n *node, e *ast.MappingValueNode, depth int) {
	at := &node{}
	if t := e.Key.GetToken(); t != nil && t.Position != nil {
		at.line, at.col = t.Position.Line, t.Position.Column
	}
	var key string
	switch k := e.Key.(type) {
	case *ast.StringNode:
		key = k.Value
	case *ast.MergeKeyNode:
		c.p.add(at, "merge keys (<<) are not allowed: write the values out")
		return
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		key = k.GetToken().Value
	default:
		c.p.add(at, "a key must be plain text")
		return
	}
	if _, ok := n.values[key]; ok {
		c.p.add(at, "key %q appears twice", key)
		return
	}
	child := &node{line: at.line, col: at.col}
	if e.Value != nil {
		child = c.convert(e.Value, depth+1)
		// The key's line is the one to show: a mapping's own position is that of its first entry.
		child.line, child.col = at.line, at.col
	}
	n.set(key, child)
}

// yamlPlace takes the place, [line:column], off the parser's words: ":line:column", or nothing.
func yamlPlace(s string) (at, text string) {
	place, text, ok := strings.Cut(strings.TrimPrefix(s, "["), "] ")
	line, column, two := strings.Cut(place, ":")
	if _, err := strconv.ParseUint(line+column, 10, 63); !ok || !two || err != nil || s[0] != '[' {
		return "", s
	}
	return ":" + place, text
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// override applies "a.b.c=value" to the tree. A list of named things is entered by name or index: stages.lora.train.optim.lr=1e-3.
func override(root *node, arg string) error {
	key, value, ok := strings.Cut(arg, "=")
	if !ok || key == "" {
		return schemas.Errorf(schemas.CodeUsage, arg, "expected key=value")
	}
	var v *node
	if strings.TrimSpace(value) == "" {
		v = &node{scalar: "", text: ""}
	} else {
		f, err := parser.ParseBytes([]byte(value), 0)
		if err != nil || len(f.Docs) != 1 || f.Docs[0].Body == nil {
			return schemas.Errorf(schemas.CodeUsage, arg, "cannot read the value as YAML")
		}
		c := converter{p: &problems{file: "override " + key}}
		v = c.convert(f.Docs[0].Body, 0)
		if err := c.p.err(); err != nil {
			return err
		}
	}
	overridden(v, arg)
	parts := strings.Split(key, ".")
	if len(parts) > maxDepth {
		return schemas.Errorf(schemas.CodeUsage, arg, "the key is too deep")
	}
	cur := root
	for i, p := range parts {
		last := i == len(parts)-1
		switch {
		case cur.isMap:
			if last {
				cur.set(p, v)
				return nil
			}
			next, ok := cur.values[p]
			if !ok || (!next.isMap && !next.isList) {
				next = newMap()
				cur.set(p, next)
			}
			cur = next
		case cur.isList:
			j := indexOf(cur, p)
			if j < 0 {
				return schemas.Errorf(schemas.CodeUsage, arg, "%q is no entry of %s", p, strings.Join(parts[:i], "."))
			}
			if last {
				cur.list[j] = v
				return nil
			}
			cur = cur.list[j]
		default:
			return schemas.Errorf(schemas.CodeUsage, arg, "%s is %s, not a mapping", strings.Join(parts[:i], "."), cur.kind())
		}
	}
	return nil
}

// overridden notes that a value is an argument's and has no place in the file.
func overridden(n *node, arg string) {
	n.line, n.col, n.override = 0, 0, arg
	for _, c := range n.values {
		overridden(c, arg)
	}
	for _, c := range n.list {
		overridden(c, arg)
	}
}

// indexOf finds a list entry by its name key or its index.
func indexOf(n *node, p string) int {
	for i, e := range n.list {
		if e.isMap && e.values["name"] != nil && e.values["name"].text == p {
			return i
		}
	}
	if i, err := strconv.Atoi(p); err == nil && i >= 0 && i < len(n.list) {
		return i
	}
	return -1
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
