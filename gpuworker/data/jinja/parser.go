package jinja

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
)

// maxNesting bounds how deep expressions and blocks may be nested.
const maxNesting = 200

type parser struct {
	toks  []token
	i     int
	depth int
}

// bail carries a syntax error up through the parser, within this file.
type bail struct{ err error }

func parse(src string) (body []stmt, err error) {
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			b, ok := r.(bail)
			if !ok {
				panic(r)
			}
			body, err = nil, b.err
		}
	}()
	p := &parser{toks: toks}
	body = p.body()
	if t := p.peek(); t.kind != tEOF {
		p.fail("unexpected tag %q", p.toks[p.i+1].text)
	}
	return body, nil
}

func (p *parser) fail(format string, args ...any) {
	panic(bail{&SyntaxError{p.peek().line, fmt.Sprintf(format, args...)}})
}

func (p *parser) enter() func() {
	if p.depth++; p.depth > maxNesting {
		p.fail("nested deeper than %d", maxNesting)
	}
	return func() { p.depth-- }
}

func (p *parser) peek() token { return p.toks[p.i] }

func (p *parser) next() token {
	t := p.toks[p.i]
	if t.kind != tEOF {
		p.i++
	}
	return t
}

func (p *parser) is(k kind, text string) bool { t := p.peek(); return t.kind == k && t.text == text }

func (p *parser) op(text string) bool {
	if p.is(tOp, text) {
		p.i++
		return true
	}
	return false
}

func (p *parser) word(text string) bool {
	if p.is(tName, text) {
		p.i++
		return true
	}
	return false
}

func (p *parser) want(k kind, text string) token {
	t := p.next()
	if t.kind != k || text != "" && t.text != text {
		p.i--
		p.fail("expected %q, found %q", text, t.text)
	}
	return t
}

func (p *parser) ident() string { return p.want(tName, "").text }

// body reads statements up to one of the end words, which it leaves ("{%" is the next token), or to the end.
func (p *parser) body(ends ...string) []stmt {
	defer p.enter()()
	var out []stmt
	for {
		switch t := p.peek(); t.kind {
		case tEOF:
			if len(ends) > 0 {
				p.fail("%q is missing", ends[len(ends)-1])
			}
			return out
		case tData:
			p.i++
			out = append(out, &data{t.text})
		case tVarBegin:
			p.i++
			out = append(out, &output{p.tuple()})
			p.want(tVarEnd, "}}")
		case tBlockBegin:
			w := p.toks[p.i+1]
			if w.kind == tName && slices.Contains(ends, w.text) {
				return out
			}
			if len(w.text) > 3 && w.text[:3] == "end" || w.text == "else" || w.text == "elif" {
				if len(ends) == 0 {
					return out
				}
				p.fail("unexpected tag %q", w.text)
			}
			p.i++
			out = append(out, p.statement())
		default:
			p.fail("unexpected %q", t.text)
		}
	}
}

// end reads "{% word %}" and returns the word.
func (p *parser) end() string {
	p.want(tBlockBegin, "{%")
	w := p.ident()
	p.want(tBlockEnd, "%}")
	return w
}

func (p *parser) block(end string) []stmt {
	p.want(tBlockEnd, "%}")
	b := p.body(end)
	p.end()
	return b
}

func (p *parser) statement() stmt {
	switch w := p.ident(); w {
	case "if":
		return p.ifStatement()
	case "for":
		return p.forStatement()
	case "set":
		return p.setStatement()
	case "macro":
		m := p.signature(p.ident())
		p.macroBody(m, "endmacro")
		return m
	case "call":
		c := &macroStmt{name: "caller"}
		if p.is(tOp, "(") {
			c = p.signature("caller")
		}
		x, ok := p.expression().(*call)
		if !ok {
			p.fail("call needs a call")
		}
		p.macroBody(c, "endcall")
		return &callStmt{x, c}
	case "filter":
		f := []filter{p.filterName()}
		for p.op("|") {
			f = append(f, p.filterName())
		}
		return &filterStmt{f, p.block("endfilter")}
	case "with":
		s := &withStmt{}
		for !p.is(tBlockEnd, "%}") {
			if len(s.targets) > 0 && !p.op(",") {
				p.fail("a comma is missing")
			}
			s.targets = append(s.targets, p.targetList())
			p.want(tOp, "=")
			s.values = append(s.values, p.expression())
		}
		s.body = p.block("endwith")
		return s
	case "block":
		return p.blockStatement()
	case "generation":
		return &group{p.block("endgeneration")}
	case "break", "continue":
		p.want(tBlockEnd, "%}")
		return &loopSignal{w == "break"}
	default:
		p.i--
		p.fail("unknown tag %q", w)
	}
	return nil
}

// blockStatement reads a block of a template that extends no other: it is shown where it stands.
func (p *parser) blockStatement() stmt {
	b := &blockStmt{name: p.ident()}
	for p.peek().kind == tName {
		switch w := p.ident(); w {
		case "scoped":
			b.scoped = true
		default:
			p.fail("unexpected %q", w)
		}
	}
	p.want(tBlockEnd, "%}")
	b.body = p.body("endblock")
	p.want(tBlockBegin, "{%")
	p.ident()
	if p.peek().kind == tName && p.ident() != b.name {
		p.fail("the end of block %q has another name", b.name)
	}
	p.want(tBlockEnd, "%}")
	return b
}

// macroBody reads a macro's body and notes which of its special variables it uses.
func (p *parser) macroBody(m *macroStmt, end string) {
	from := p.i
	m.body = p.block(end)
	m.uses = map[string]bool{}
	for i := from; i < p.i; i++ {
		t, before, after := p.toks[i], p.toks[i-1], p.toks[i+1]
		if t.kind != tName || before.kind == tOp && (before.text == "." || before.text == "|") || before.kind == tName && before.text == "is" {
			continue
		}
		keyword := after.kind == tOp && after.text == "=" && before.kind == tOp
		switch t.text {
		case "varargs", "kwargs", "caller":
			m.uses[t.text] = m.uses[t.text] || !keyword
		}
	}
}

func (p *parser) ifStatement() stmt {
	s := &ifStmt{}
	for {
		s.conds = append(s.conds, p.tuple())
		p.want(tBlockEnd, "%}")
		s.bodies = append(s.bodies, p.body("elif", "else", "endif"))
		p.want(tBlockBegin, "{%")
		switch p.ident() {
		case "elif":
			continue
		case "else":
			s.other = p.block("endif")
			return s
		}
		p.want(tBlockEnd, "%}")
		return s
	}
}

func (p *parser) forStatement() stmt {
	s := &forStmt{target: p.targetList()}
	p.want(tName, "in")
	s.in = p.tupleOf(func() expr { return p.condition(false) })
	if p.word("if") {
		s.cond = p.expression()
	}
	s.recursive = p.word("recursive")
	p.want(tBlockEnd, "%}")
	s.body = p.body("else", "endfor")
	if p.end() == "else" {
		s.other = p.body("endfor")
		p.end()
	}
	return s
}

func (p *parser) targetList() target {
	t := p.target()
	if !p.is(tOp, ",") {
		return t
	}
	all := target{parts: []target{t}}
	for p.op(",") {
		if t := p.peek(); t.kind != tName && !p.is(tOp, "(") || t.text == "in" {
			break
		}
		all.parts = append(all.parts, p.target())
	}
	return all
}

func (p *parser) target() target {
	if p.op("(") {
		t := p.targetList()
		p.want(tOp, ")")
		return t
	}
	t := target{name: p.ident()}
	if p.op(".") {
		t.attr = p.ident()
	}
	return t
}

func (p *parser) setStatement() stmt {
	s := &setStmt{target: p.targetList()}
	if p.op("=") {
		s.value = p.tuple()
		p.want(tBlockEnd, "%}")
		return s
	}
	for p.op("|") {
		s.filters = append(s.filters, p.filterName())
	}
	s.body = p.block("endset")
	return s
}

func (p *parser) signature(name string) *macroStmt {
	m := &macroStmt{name: name}
	p.want(tOp, "(")
	for !p.op(")") {
		if len(m.params) > 0 {
			p.want(tOp, ",")
			if p.op(")") {
				break
			}
		}
		name := p.ident()
		if slices.Contains(m.params, name) {
			p.fail("the parameter %q is there twice", name)
		}
		m.params = append(m.params, name)
		if p.op("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			p.fail("a parameter without a default follows one with")
		}
	}
	return m
}

// tuple is an expression, or several with commas between them.
func (p *parser) tuple() expr { return p.tupleOf(p.expression) }

func (p *parser) tupleOf(one func() expr) expr {
	first := one()
	if !p.is(tOp, ",") {
		return first
	}
	l := &list{items: []expr{first}, tuple: true}
	for p.op(",") {
		if t := p.peek(); t.kind == tVarEnd || t.kind == tBlockEnd || p.is(tOp, ")") || t.kind == tName && t.text == "if" {
			break
		}
		l.items = append(l.items, one())
	}
	return l
}

func (p *parser) expression() expr { return p.condition(true) }

func (p *parser) condition(withChoice bool) expr {
	defer p.enter()()
	x := p.or()
	for withChoice && p.word("if") {
		c := &choice{cond: p.or(), yes: x}
		if p.word("else") {
			c.no = p.condition(true)
		}
		x = c
	}
	return x
}

func (p *parser) or() expr {
	x := p.and()
	for p.word("or") {
		x = &logic{true, x, p.and()}
	}
	return x
}

func (p *parser) and() expr {
	x := p.not()
	for p.word("and") {
		x = &logic{false, x, p.not()}
	}
	return x
}

func (p *parser) not() expr {
	defer p.enter()()
	if p.word("not") {
		return &unary{"not", p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	x := p.sum()
	c := &compare{first: x}
	for {
		op := ""
		switch t := p.peek(); {
		case t.kind == tOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
			p.i++
		case t.kind == tName && t.text == "in":
			op = "in"
			p.i++
		case t.kind == tName && t.text == "not" && p.toks[p.i+1].kind == tName && p.toks[p.i+1].text == "in":
			op = "not in"
			p.i += 2
		}
		if op == "" {
			break
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, p.sum())
	}
	if len(c.ops) == 0 {
		return x
	}
	return c
}

// operators reads a chain of operators that bind to the left.
func (p *parser) operators(operand func() expr, ops ...string) expr {
	x := operand()
	for t := p.peek(); t.kind == tOp && slices.Contains(ops, t.text); t = p.peek() {
		p.i++
		x = &binary{t.text, x, operand()}
	}
	return x
}

func (p *parser) sum() expr     { return p.operators(p.concat, "+", "-") }
func (p *parser) concat() expr  { return p.operators(p.product, "~") }
func (p *parser) product() expr { return p.operators(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr   { return p.operators(func() expr { return p.unary(true) }, "**") }

func (p *parser) unary(filters bool) expr {
	defer p.enter()()
	var x expr
	switch {
	case p.op("-"):
		x = &unary{"-", p.unary(false)}
	case p.op("+"):
		x = &unary{"+", p.unary(false)}
	default:
		x = p.primary()
	}
	x = p.postfix(x)
	if filters {
		x = p.filters(x)
	}
	return x
}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case tName:
		switch t.text {
		case "true", "True":
			return &literal{true}
		case "false", "False":
			return &literal{false}
		case "none", "None":
			return &literal{nil}
		}
		return &name{t.text}
	case tString:
		s := t.text
		for p.peek().kind == tString {
			s += p.next().text
		}
		return &literal{s}
	case tInt:
		text, base := t.text, 10
		if len(text) > 1 && text[0] == '0' && (text[1] < '0' || text[1] > '9') {
			base = 0 // the prefix says which
		}
		if n, ok := new(big.Int).SetString(text, base); ok && len(text) <= maxDigits {
			return &literal{small(n)}
		}
	case tFloat:
		if f, err := strconv.ParseFloat(t.text, 64); err == nil || errors.Is(err, strconv.ErrRange) {
			return &literal{f}
		}
	case tOp:
		switch t.text {
		case "(":
			if p.op(")") {
				return &list{tuple: true}
			}
			x := p.tuple()
			p.want(tOp, ")")
			return x
		case "[":
			return p.listLiteral()
		case "{":
			return p.dictLiteral()
		}
	}
	p.i--
	p.fail("unexpected %q", t.text)
	return nil
}

func (p *parser) listLiteral() expr {
	l := &list{}
	for !p.op("]") {
		if len(l.items) > 0 {
			p.want(tOp, ",")
			if p.op("]") {
				break
			}
		}
		l.items = append(l.items, p.expression())
	}
	return l
}

func (p *parser) dictLiteral() expr {
	d := &dict{}
	for !p.op("}") {
		if len(d.keys) > 0 {
			p.want(tOp, ",")
			if p.op("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.want(tOp, ":")
		d.values = append(d.values, p.expression())
	}
	return d
}

func (p *parser) postfix(x expr) expr {
	for {
		switch {
		case p.op("."):
			if t := p.peek(); t.kind == tInt {
				p.i++
				n, _ := strconv.ParseInt(t.text, 10, 64)
				x = &item{x, &literal{n}}
				continue
			}
			x = &field{x, p.ident()}
		case p.op("["):
			x = p.subscript(x)
		case p.is(tOp, "("):
			x = &call{x, p.arguments()}
		default:
			return x
		}
	}
}

func (p *parser) subscript(x expr) expr {
	var parts [3]expr
	n := 0
	colon := false
	for !p.op("]") {
		if p.op(":") {
			colon = true
			if n++; n > 2 {
				p.fail("a slice of more than three parts")
			}
			continue
		}
		if parts[n] != nil {
			p.fail("unexpected %q", p.peek().text)
		}
		parts[n] = p.tuple()
	}
	if colon {
		return &slice{x, parts[0], parts[1], parts[2]}
	}
	if parts[0] == nil {
		p.fail("a subscript is missing")
	}
	return &item{x, parts[0]}
}

func (p *parser) arguments() args {
	var a args
	p.want(tOp, "(")
	for first := true; !p.op(")"); first = false {
		if !first {
			p.want(tOp, ",")
			if p.op(")") {
				break
			}
		}
		switch {
		case p.op("*"):
			a.star = p.expression()
		case p.op("**"):
			a.dict = p.expression()
		case p.peek().kind == tName && p.toks[p.i+1].kind == tOp && p.toks[p.i+1].text == "=":
			a.names = append(a.names, p.ident())
			p.i++
			a.named = append(a.named, p.expression())
		default:
			if len(a.names) > 0 {
				p.fail("a positional argument follows a named one")
			}
			a.pos = append(a.pos, p.expression())
		}
	}
	return a
}

func (p *parser) filterName() filter {
	f := filter{name: p.ident()}
	for p.op(".") {
		f.name += "." + p.ident()
	}
	if p.is(tOp, "(") {
		f.args = p.arguments()
	}
	return f
}

func (p *parser) filters(x expr) expr {
	for {
		switch {
		case p.op("|"):
			f := p.filterName()
			f.of = x
			x = &f
		case p.word("is"):
			x = p.test(x)
		case p.is(tOp, "("):
			x = &call{x, p.arguments()}
		default:
			return x
		}
	}
}

func (p *parser) test(x expr) expr {
	t := &test{of: x, not: p.word("not")}
	t.name = p.ident()
	for p.op(".") {
		t.name += "." + p.ident()
	}
	switch n := p.peek(); {
	case p.is(tOp, "("):
		t.args = p.arguments()
	case n.kind == tName && !slices.Contains([]string{"else", "or", "and", "is", "if"}, n.text) || n.kind == tString || n.kind == tInt || n.kind == tFloat,
		n.kind == tOp && (n.text == "[" || n.text == "{"):
		if n.kind == tName && (n.text == "in" || n.text == "not") {
			break // a comparison goes on
		}
		t.args.pos = []expr{p.postfix(p.primary())}
	}
	return t
}
