package jinja

// expr is an expression.
type expr interface{ eval(e *env) (any, error) }

type (
	literal struct{ value any }
	name    struct{ name string }
	list    struct {
		items []expr
		tuple bool
	}
	dict  struct{ keys, values []expr }
	field struct {
		of   expr
		name string
	}
	item  struct{ of, key expr }
	slice struct{ of, from, to, step expr }
	call  struct {
		fn   expr
		args args
	}
	filter struct {
		of   expr
		name string
		args args
	}
	test struct {
		of   expr
		name string
		args args
		not  bool
	}
	unary struct {
		op string
		of expr
	}
	binary struct {
		op   string
		a, b expr
	}
	// compare is a chain: a < b < c.
	compare struct {
		first expr
		ops   []string
		rest  []expr
	}
	logic struct {
		or   bool
		a, b expr
	}
	choice struct{ cond, yes, no expr }
)

type args struct {
	pos        []expr
	names      []string
	named      []expr
	star, dict expr
}

// stmt is a statement.
type stmt interface{ exec(e *env) error }

type (
	data   struct{ text string }
	output struct{ of expr }
	ifStmt struct {
		conds  []expr
		bodies [][]stmt
		other  []stmt
	}
	forStmt struct {
		target    target
		in, cond  expr
		body      []stmt
		other     []stmt
		recursive bool
	}
	setStmt struct {
		target target
		value  expr
		// body and filters are of a block: {% set x | f %}...{% endset %}.
		body    []stmt
		filters []filter
	}
	macroStmt struct {
		name     string
		params   []string
		defaults []expr
		body     []stmt
		// uses are those of varargs, kwargs and caller that the body asks for: only then a call may bring them.
		uses map[string]bool
	}
	callStmt struct {
		call   *call
		caller *macroStmt
	}
	filterStmt struct {
		filters []filter
		body    []stmt
	}
	withStmt struct {
		targets []target
		values  []expr
		body    []stmt
	}
	// blockStmt is a named block; one that is not scoped sees the template's variables only.
	blockStmt struct {
		name   string
		scoped bool
		body   []stmt
	}
	group      struct{ body []stmt }
	loopSignal struct{ stop bool } // break or continue
)

// target is what is assigned to: a name, an attribute of a namespace, or a tuple of targets.
type target struct {
	name, attr string
	parts      []target
}
