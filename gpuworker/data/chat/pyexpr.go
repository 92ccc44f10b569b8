package chat

import "slices"

// maxPythonDepth bounds nesting.
const maxPythonDepth = 90

// pyKind is what a node is; expressions that no literal may hold are pyOther.
type pyKind int

const (
	pyOther pyKind = iota
	pyConst
	pyName
	pyList
	pyTuple
	pySet
	pyDict
	pySign
	pySum
	pyCall
)

// pyNode is a part of a parsed expression.
type pyNode struct {
	kind pyKind
	// value of a pyConst.
	value any
	// name of a pyName, or the operator of pySign and pySum.
	name string
	// items of a list, a tuple or a set; values of a dict; operands; positional arguments of a call.
	items []*pyNode
	// keys of a dict, nil for **.
	keys []*pyNode
	// callee and keywords of a call: a keyword "" stands for **.
	callee   *pyNode
	keywords []pyKeyword
}

type pyKeyword struct {
	name  string
	value *pyNode
}

// parsePython parses an expression.
func parsePython(s string) (*pyNode, error) {
	p := &pyParser{s: s}
	items, comma, err := p.list("", (*pyParser).starExpression)
	switch {
	case err != nil:
		return nil, err
	case !p.ended():
		return nil, errSyntax
	case comma:
		return &pyNode{kind: pyTuple, items: items}, nil
	}
	return items[0], nil
}

// deeper runs f one level deeper.
func (p *pyParser) deeper(f func(*pyParser) (*pyNode, error)) (*pyNode, error) {
	if p.depth++; p.depth > maxPythonDepth {
		return nil, errSyntax
	}
	n, err := f(p)
	p.depth--
	return n, err
}

// list reads what commas separate up to end (not taken; "" for wherever it stops), and says whether there was a comma.
func (p *pyParser) list(end string, item func(*pyParser) (*pyNode, error)) (items []*pyNode, comma bool, err error) {
	for {
		x, err := item(p)
		if err != nil {
			return nil, false, err
		}
		if items = append(items, x); !p.take(",") {
			return items, comma, nil
		}
		if comma = true; p.at(end) {
			return items, comma, nil
		}
	}
}

// at reports whether the text that ends a list comes next.
func (p *pyParser) at(end string) bool {
	p.space()
	if p.i >= len(p.s) || p.s[p.i] == '\n' || p.s[p.i] == '#' {
		return true
	}
	return end != "" && p.s[p.i:p.i+1] == end
}

// starExpression is an expression, or *x.
func (p *pyParser) starExpression() (*pyNode, error) {
	if p.take("*", "*") {
		_, err := p.binary(0)
		return &pyNode{}, err
	}
	return p.expression()
}

// starNamed is starExpression that may be name := x.
func (p *pyParser) starNamed() (*pyNode, error) {
	at := p.i
	if _, ok := p.name(); ok && p.take(":=") {
		_, err := p.expression()
		return &pyNode{}, err
	}
	p.i = at
	return p.starExpression()
}

func (p *pyParser) expression() (*pyNode, error) { return p.deeper((*pyParser).conditional) }

func (p *pyParser) conditional() (*pyNode, error) {
	if p.takeWord("lambda") {
		return p.lambda()
	}
	n, err := p.or()
	if err != nil || !p.takeWord("if") {
		return n, err
	}
	if _, err := p.or(); err != nil {
		return nil, err
	}
	if !p.takeWord("else") {
		return nil, errSyntax
	}
	_, err = p.expression()
	return &pyNode{}, err
}

func (p *pyParser) lambda() (*pyNode, error) {
	for !p.take(":") {
		star := p.take("**") || p.take("*")
		if _, ok := p.name(); !ok && !star && !p.take("/") {
			return nil, errSyntax
		}
		if p.take("=", "=") {
			if _, err := p.expression(); err != nil {
				return nil, err
			}
		}
		if !p.take(",") {
			if !p.take(":") {
				return nil, errSyntax
			}
			break
		}
	}
	_, err := p.expression()
	return &pyNode{}, err
}

// chain reads operands with operators between them.
func (p *pyParser) chain(operand func(*pyParser) (*pyNode, error), operator func(*pyParser) bool) (*pyNode, error) {
	n, err := operand(p)
	for err == nil && operator(p) {
		n = &pyNode{}
		_, err = operand(p)
	}
	return n, err
}

func (p *pyParser) or() (*pyNode, error) {
	return p.chain((*pyParser).and, func(p *pyParser) bool { return p.takeWord("or") })
}

func (p *pyParser) and() (*pyNode, error) {
	return p.chain((*pyParser).not, func(p *pyParser) bool { return p.takeWord("and") })
}

func (p *pyParser) not() (*pyNode, error) {
	if p.takeWord("not") {
		_, err := p.deeper((*pyParser).not)
		return &pyNode{}, err
	}
	return p.chain(func(p *pyParser) (*pyNode, error) { return p.binary(0) }, (*pyParser).comparison)
}

func (p *pyParser) comparison() bool {
	for _, op := range [...]string{"==", "!=", "<=", ">="} {
		if p.take(op) {
			return true
		}
	}
	if p.take("<", "<") || p.take(">", ">") || p.takeWord("in") {
		return true
	}
	if p.takeWord("is") {
		p.takeWord("not")
		return true
	}
	at := p.i
	if p.takeWord("not") && p.takeWord("in") {
		return true
	}
	p.i = at
	return false
}

// operators are the binary ones from the weakest to the strongest.
func operators() [][]string {
	return [][]string{{"|"}, {"^"}, {"&"}, {"<<", ">>"}, {"+", "-"}, {"*", "/", "//", "%", "@"}}
}

func (p *pyParser) binary(level int) (*pyNode, error) {
	if level == len(operators()) {
		return p.factor()
	}
	n, err := p.binary(level + 1)
	for err == nil {
		op := p.operator(operators()[level])
		if op == "" {
			break
		}
		var right *pyNode
		if right, err = p.binary(level + 1); op == "+" || op == "-" {
			n = &pyNode{kind: pySum, name: op, items: []*pyNode{n, right}}
		} else {
			n = &pyNode{}
		}
	}
	return n, err
}

func (p *pyParser) operator(of []string) string {
	if slices.Contains(of, "//") && p.take("//", "=") {
		return "//"
	}
	for _, op := range of {
		after := []string{"="} // an assignment
		if op == "*" || op == "/" {
			after = append(after, op)
		}
		if p.take(op, after...) {
			return op
		}
	}
	return ""
}

func (p *pyParser) factor() (*pyNode, error) {
	for _, op := range [...]string{"+", "-", "~"} {
		if !p.take(op, "=") {
			continue
		}
		x, err := p.deeper((*pyParser).factor)
		if op == "~" {
			return &pyNode{}, err
		}
		return &pyNode{kind: pySign, name: op, items: []*pyNode{x}}, err
	}
	awaited := p.takeWord("await")
	n, err := p.primary()
	if err != nil {
		return nil, err
	}
	if awaited {
		n = &pyNode{}
	}
	if p.take("**", "=") {
		_, err = p.deeper((*pyParser).factor)
		n = &pyNode{}
	}
	return n, err
}

// primary is an atom with what follows it: attributes, calls and subscripts.
func (p *pyParser) primary() (*pyNode, error) {
	n, err := p.atom()
	for err == nil {
		switch {
		case p.take("("):
			n, err = p.arguments(n)
		case p.take("["):
			n, err = &pyNode{}, p.bracketed("]", func() error {
				_, _, err := p.list("]", (*pyParser).slice)
				return err
			})
		case p.take(".", "."):
			if _, ok := p.name(); !ok {
				return nil, errSyntax
			}
			n = &pyNode{}
		default:
			return n, nil
		}
	}
	return nil, err
}

// bracketed runs f behind an open bracket and takes the closing one.
func (p *pyParser) bracketed(end string, f func() error) error {
	p.open++
	err := f()
	if err == nil && !p.take(end) {
		err = errSyntax
	}
	p.open--
	return err
}

// slice is an index, or a:b:c with parts left out.
func (p *pyParser) slice() (*pyNode, error) {
	colon := false
	for range 3 {
		p.space()
		if p.i < len(p.s) && p.s[p.i] != ':' && p.s[p.i] != ',' && p.s[p.i] != ']' {
			if _, err := p.starNamed(); err != nil {
				return nil, err
			}
		} else if p.at("]") && !colon || p.i < len(p.s) && p.s[p.i] == ',' && !colon {
			return nil, errSyntax
		}
		if !p.take(":", "=") {
			break
		}
		colon = true
	}
	return &pyNode{}, nil
}

// arguments reads the arguments of a call of n, whose bracket is open.
func (p *pyParser) arguments(n *pyNode) (*pyNode, error) {
	c := &pyNode{kind: pyCall, callee: n}
	err := p.bracketed(")", func() error {
		for !p.at(")") {
			if err := p.argument(c); err != nil {
				return err
			}
			if !p.take(",") {
				break
			}
		}
		return nil
	})
	return c, err
}

func (p *pyParser) argument(c *pyNode) error {
	unpacked := slices.ContainsFunc(c.keywords, func(k pyKeyword) bool { return k.name == "" })
	if p.take("**") {
		v, err := p.expression()
		c.keywords = append(c.keywords, pyKeyword{"", v})
		return err
	}
	at := p.i
	if k, ok := p.name(); ok && p.take("=", "=") {
		v, err := p.expression()
		c.keywords = append(c.keywords, pyKeyword{k, v})
		return err
	}
	p.i = at
	star := p.take("*", "*")
	p.i = at
	if unpacked || !star && len(c.keywords) > 0 {
		return errSyntax // after a keyword there are no other arguments, after ** none at all
	}
	v, err := p.starNamed()
	if err != nil {
		return err
	}
	if word := p.word(); word == "for" || word == "async" { // a generator is the only argument, or has brackets of its own
		if len(c.items) > 0 {
			return errSyntax
		}
		if err := p.comprehension(); err != nil {
			return err
		}
		if !p.at(")") {
			return errSyntax
		}
	}
	c.items = append(c.items, v)
	return nil
}

// comprehension reads for x in y if z, once or more often.
func (p *pyParser) comprehension() error {
	for {
		async := p.takeWord("async")
		if !p.takeWord("for") {
			if async {
				return errSyntax
			}
			return nil
		}
		if _, _, err := p.list("", (*pyParser).target); err != nil {
			return err
		}
		if !p.takeWord("in") {
			return errSyntax
		}
		if _, err := p.or(); err != nil {
			return err
		}
		for p.takeWord("if") {
			if _, err := p.or(); err != nil {
				return err
			}
		}
	}
}

func (p *pyParser) target() (*pyNode, error) {
	p.take("*", "*")
	n, err := p.primary()
	if err == nil && n.kind != pyName && n.kind != pyTuple && n.kind != pyList && n.kind != pyOther {
		err = errSyntax
	}
	return n, err
}

func (p *pyParser) atom() (*pyNode, error) {
	p.space()
	if p.i >= len(p.s) {
		return nil, errSyntax
	}
	if p.stringPrefix() >= 0 {
		return p.strings()
	}
	switch c := p.s[p.i]; {
	case c >= '0' && c <= '9' || c == '.' && p.i+1 < len(p.s) && p.s[p.i+1] >= '0' && p.s[p.i+1] <= '9':
		v, err := p.number()
		return &pyNode{kind: pyConst, value: v}, err
	case p.take("..."):
		return &pyNode{kind: pyConst, value: pyOdd{"ellipsis"}}, nil
	case p.take("("):
		return p.display(")")
	case p.take("["):
		return p.display("]")
	case p.take("{"):
		return p.braces()
	}
	switch w := p.word(); w {
	case "True", "False", "None":
		p.i += len(w)
		v := any(w == "True")
		if w == "None" {
			v = nil
		}
		return &pyNode{kind: pyConst, value: v}, nil
	}
	if name, ok := p.name(); ok {
		return &pyNode{kind: pyName, name: name}, nil
	}
	return nil, errSyntax
}

// display reads a list, or what stands in parentheses.
func (p *pyParser) display(end string) (*pyNode, error) {
	n := &pyNode{kind: pyTuple}
	if end == "]" {
		n.kind = pyList
	}
	err := p.bracketed(end, func() error {
		if p.at(end) {
			return nil
		}
		if end == ")" && p.takeWord("yield") {
			*n = pyNode{}
			return p.yield(end)
		}
		p.space()
		star := p.i < len(p.s) && p.s[p.i] == '*'
		items, comma, err := p.list(end, (*pyParser).starNamed)
		if err != nil {
			return err
		}
		if w := p.word(); (w == "for" || w == "async") && !comma && !star {
			*n = pyNode{}
			return p.comprehension()
		}
		switch n.items = items; {
		case end == "]" || comma:
		case star:
			return errSyntax // (*x)
		default:
			*n = *items[0]
		}
		return nil
	})
	return n, err
}

// yield reads what stands behind the word.
func (p *pyParser) yield(end string) error {
	if p.takeWord("from") {
		_, err := p.expression()
		return err
	}
	if p.at(end) {
		return nil
	}
	_, _, err := p.list(end, (*pyParser).starExpression)
	return err
}

// braces reads a dict or a set.
func (p *pyParser) braces() (*pyNode, error) {
	n := &pyNode{kind: pyDict}
	err := p.bracketed("}", func() error {
		for !p.at("}") {
			pair, err := p.entry(n)
			if err != nil {
				return err
			}
			kind := pySet
			if pair {
				kind = pyDict
			}
			if len(n.items) > 1 && n.kind != kind {
				return errSyntax
			}
			n.kind = kind
			if w := p.word(); len(n.items) == 1 && (w == "for" || w == "async") {
				*n = pyNode{}
				return p.comprehension()
			}
			if !p.take(",") {
				break
			}
		}
		return nil
	})
	return n, err
}

// entry reads a pair of a dict (true) or an item of a set.
func (p *pyParser) entry(n *pyNode) (bool, error) {
	if p.take("**") {
		v, err := p.binary(0)
		n.keys, n.items = append(n.keys, nil), append(n.items, v)
		return true, err
	}
	k, err := p.starNamed()
	if err != nil {
		return false, err
	}
	if !p.take(":", "=") {
		n.items = append(n.items, k)
		return false, nil
	}
	v, err := p.expression()
	n.keys, n.items = append(n.keys, k), append(n.items, v)
	return true, err
}
