"""The allow-list over a parsed template: what is not known to be harmless is refused before it is compiled.

Jinja2 folds constants while it compiles, so `{{ 'a'*10**9 }}` takes the machine's memory before a template is ever
rendered; its sandbox stops attribute escapes and no bombs. Parsing folds nothing, so the tree is judged first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.visitor import NodeTransformer

from assetmill.records import InputError, Problem

MAX_SOURCE = 64 * 1024
"""Characters of a template file."""

MAX_NODES = 2_000
MAX_DEPTH = 48
MAX_INTEGER = 1_000_000

JOIN_FILTER = "_concat"
"""What `~` becomes: the same, with a limit on the length."""

LOOP_FILTER = "_check_loop"
"""What a loop's values go through: several values, not too many."""

FILTERS = (
    "capitalize", "count", "d", "default", "first", "join", "last", "length", "lower", "replace", "sort", "split",
    "striptags", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
TESTS = ("defined", "undefined", "none", "in", "eq", "ne", "lt", "le", "gt", "ge", "odd", "even", "lower", "upper")
LOOP_NAMES = ("index", "index0", "first", "last", "length")
MAPPINGS = ("row", "values")

_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.Filter, nodes.Test, nodes.CondExpr, nodes.If, nodes.For, nodes.Assign, nodes.Concat,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Keyword, nodes.Tuple, nodes.List,
)  # fmt: skip

_ONE_FILE = "write it into this file: a template stands alone"
_REFUSED: Mapping[type[nodes.Node], tuple[str, str]] = {
    nodes.Call: ("calls a function", "use filters: {{ title|lower|truncate(60) }}"),
    nodes.CallBlock: ("has a call block", _ONE_FILE),
    nodes.Macro: ("defines a macro", _ONE_FILE),
    nodes.Import: ("imports", _ONE_FILE),
    nodes.FromImport: ("imports", _ONE_FILE),
    nodes.Include: ("includes", _ONE_FILE),
    nodes.Extends: ("extends", _ONE_FILE),
    nodes.Block: ("defines a block", _ONE_FILE),
    nodes.FilterBlock: ("has a filter block", "filter each value: {{ title|lower }}"),
    nodes.AssignBlock: ("has a set block", "set one value: {% set name = title|lower %}"),
    nodes.With: ("has a with block", "use {% set name = … %}"),
    nodes.Dict: ("holds a mapping", "use {% if %} and {% elif %}, or a column"),
    nodes.Add: ("adds with +", "join texts with ~, and count in the sheet"),
    nodes.Mod: ("formats with %", "join texts with ~"),
}
for _node in (nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Pow, nodes.Pos):
    _REFUSED = {**_REFUSED, _node: ("calculates", "write the text out, or calculate in the sheet")}


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a template's text uses. Each mapping gives the first line.

    `plain` are bare names (columns or axes), `row` and `values` the names read through `row.…` and `values.…`.
    `optional` names stand in an `is defined` test and may be missing from the sheet; `guarded` ones are tested or
    have a default, so that an empty cell is provided for. `fallbacks` are names that only stand in for others, as
    `name` in `{{ object|default(name) }}`, with the names they stand in for. `texts` are the literal texts, with
    their lines.
    """

    plain: Mapping[str, int]
    row: Mapping[str, int]
    values: Mapping[str, int]
    optional: frozenset[str]
    guarded: frozenset[str]
    fallbacks: Mapping[str, frozenset[str]]
    texts: tuple[tuple[str, int], ...]

    @property
    def names(self) -> dict[str, int]:
        """Every name that the sheet or an axis must give, with its first line."""
        return {**self.values, **self.row, **self.plain}


def parse_template(environment: Environment, source: str, *, file: str, first_line: int) -> nodes.Template:
    """The tree of a source, nothing folded. InputError for broken syntax, with the line in the file."""
    if len(source) > MAX_SOURCE:
        raise InputError(Problem(f"a template of more than {MAX_SOURCE:,} characters", "shorten it", file))
    try:
        return environment.parse(source)
    except TemplateSyntaxError as error:
        message, line = error.message or "not a Jinja2 template", first_line + error.lineno - 1
        way_out = "check braces and tags there ({% raw %} shows them as they are)"
    except RecursionError:
        message, line, way_out = "nested too deep", first_line, f"nest at most {MAX_DEPTH} deep"
    except ValueError as error:  # a number of thousands of digits
        message, line, way_out = f"not a Jinja2 template: {error}", first_line, "write shorter numbers"
    raise InputError(Problem(message, way_out, file=file, row=line))


def guard_tree(tree: nodes.Template, *, file: str, first_line: int = 1) -> Guarded:
    """Checks a tree against the allow-list, makes it safe in place, and says what it uses.

    InputError with every construct that is refused, each with its line. `row.NAME` becomes a look-up that never sees
    Python attributes; `~` and loops get their limits.
    """
    problems = [
        Problem(f"the template {message}", way_out, file=file, row=first_line + line - 1)
        for message, way_out, line in sorted(_find_refused(tree), key=lambda found: found[2])
    ]
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    uses = _find_uses(tree, first_line)
    _Harden().visit(tree)
    return uses


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str | None:
    """The known name that was probably meant, whatever the case, spaces and underscores."""

    def fold(text: str) -> str:
        return text.casefold().replace(" ", "_")

    near = get_close_matches(fold(name), [fold(k) for k in known], n=1, cutoff=0.6)
    same = [k for k in known if near and fold(k) == near[0]]
    return next(iter(get_close_matches(name, same, n=1, cutoff=0)), None)


# --- the walk -------------------------------------------------------------------------------------------------


def _find_refused(tree: nodes.Template) -> Iterator[tuple[str, str, int]]:
    """(what, way out, line) of everything not allowed. Iterative: a long chain of filters is a deep tree."""
    stack: list[tuple[nodes.Node, nodes.Node | None, int, bool]] = [(tree, None, 0, False)]
    num_nodes = 0
    while stack:
        node, parent, depth, in_loop = stack.pop()
        if node.lineno is None:  # Jinja2's parser leaves some nodes without
            node.lineno = parent.lineno if parent else 1
        num_nodes += 1
        if num_nodes > MAX_NODES:
            yield (f"has more than {MAX_NODES:,} parts", "shorten it, or split it into several templates", node.lineno)
            return
        if depth > MAX_DEPTH:
            yield ("is nested too deep", f"nest at most {MAX_DEPTH} deep", node.lineno)
            return
        if type(node) not in _ALLOWED:
            what, way_out = _REFUSED.get(
                type(node), (f"holds a {type(node).__name__}", "use texts, names, filters, if, for and set")
            )
            yield (what, way_out, node.lineno)
            continue
        yield from _judge(node, parent, in_loop)
        inside = in_loop or isinstance(node, nodes.For)
        stack.extend((child, node, depth + 1, inside) for child in node.iter_child_nodes())


def _judge(node: nodes.Node, parent: nodes.Node | None, in_loop: bool) -> Iterator[tuple[str, str, int]]:
    line = node.lineno
    match node:
        case nodes.Filter(name=name) if name not in FILTERS:
            near = nearest(name, FILTERS)
            way_out = f"did you mean {near!r}?" if near else f"filters: {', '.join(FILTERS)}"
            yield (f"uses the filter {name!r}", way_out, line)
        case nodes.Filter() | nodes.Test() if node.dyn_args is not None or node.dyn_kwargs is not None:
            yield ("passes arguments with *", "write them out", line)
        case nodes.Test(name=name) if name not in TESTS:
            near = nearest(name, TESTS)
            way_out = f"did you mean {near!r}?" if near else f"tests: {', '.join(TESTS)}"
            yield (f"uses the test {name!r}", way_out, line)
        case nodes.Name(name=name, ctx=ctx):
            if name.startswith("_"):
                yield (f"uses the name {name!r}", "names that begin with _ are not for templates", line)
            elif ctx != "load" and name in (*MAPPINGS, "loop"):
                yield (f"sets {name!r}", "choose another name", line)
            elif ctx == "load" and name in MAPPINGS and not isinstance(parent, nodes.Getattr | nodes.Getitem):
                yield (f"uses {name!r} as a whole", f"name a column: {name}.COLUMN or {name}['A column']", line)
            elif name == "loop" and not (in_loop and isinstance(parent, nodes.Getattr)):
                yield ("uses 'loop' outside of a loop, or as a whole", "loop.first and loop.index exist in for", line)
        case nodes.Getattr(node=nodes.Name(name=name), attr=attr) if name in MAPPINGS and not attr.startswith("_"):
            pass
        case nodes.Getattr(node=nodes.Name(name="loop"), attr=attr):
            if attr not in LOOP_NAMES:
                yield (f"uses loop.{attr}", f"a loop has {', '.join(LOOP_NAMES)}", line)
        case nodes.Getattr(attr=attr):
            yield (f"uses the attribute {attr!r}", "only row.COLUMN, values.COLUMN and loop.… exist", line)
        case nodes.Getitem(node=inner, arg=arg):
            if isinstance(inner, nodes.Name) and inner.name in MAPPINGS:
                if not (isinstance(arg, nodes.Const) and isinstance(arg.value, str)):
                    yield (f"looks up {inner.name}[…] by something else than a quoted name", "quote the column", line)
            elif not isinstance(arg, nodes.Slice) and not _is_integer(arg):
                yield ("looks up […] by something else than a number", "use a number, or row['A column']", line)
        case nodes.Slice():
            if not all(part is None or _is_integer(part) for part in (node.start, node.stop, node.step)):
                yield ("cuts [a:b] by something else than numbers", "write plain numbers", line)
        case nodes.Neg(node=inner) if not _is_integer(inner):
            yield ("calculates", "write the text out, or calculate in the sheet", line)
        case nodes.Const(value=value) if isinstance(value, int | float) and abs(value) > MAX_INTEGER:
            yield (f"holds a number over {MAX_INTEGER:,}", "quote it if it is a text", line)
        case nodes.Const(value=value) if isinstance(value, complex):
            yield ("holds an odd number", "quote it if it is a text", line)
        case nodes.CondExpr(expr2=None):
            yield ("has an if without else in {{ … }}", "add else ''", line)
        case nodes.For():
            if in_loop:
                yield ("has a loop in a loop", "join the inner values: {{ values.COLUMN|join(', ') }}", line)
            if node.recursive:
                yield ("has a recursive loop", "loop once", line)
            if not isinstance(node.target, nodes.Name):
                yield ("unpacks values in a loop", "loop with one name: {% for size in values.sizes %}", line)
        case nodes.Assign(target=target) if not isinstance(target, nodes.Name):
            yield ("sets several names at once", "set one name at a time", line)


def _is_integer(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Neg):
        node = node.node
    return isinstance(node, nodes.Const) and type(node.value) is int and abs(node.value) <= MAX_INTEGER


def _find_uses(tree: nodes.Template, first_line: int) -> Guarded:
    undeclared = find_undeclared_variables(tree) - {*MAPPINGS, "loop"}
    plain: dict[str, int] = {}
    mapped: dict[str, dict[str, int]] = {"row": {}, "values": {}}
    optional: set[str] = set()
    guarded: set[str] = set()
    fallbacks: dict[str, frozenset[str]] = {}
    texts: list[tuple[str, int]] = []
    for node in tree.find_all(nodes.Node):
        line = first_line + node.lineno - 1
        match node:
            case nodes.Name(name=name, ctx="load") if name in undeclared:
                plain.setdefault(name, line)
            case nodes.TemplateData(data=text) | nodes.Const(value=str(text)):
                texts.append((text, line))
            case nodes.Test(name="defined" | "undefined", node=inner):
                optional.update(_names_in(inner))
            case nodes.If(test=test) | nodes.CondExpr(test=test):
                guarded.update(_names_in(test))
            case nodes.For(iter=values):
                guarded.update(_names_in(values))
            case nodes.Filter(name="default" | "d", node=nodes.Node() as inner, args=args):
                covered = frozenset(_names_in(inner))
                guarded.update(covered)
                for name in [name for arg in args for name in _names_in(arg)]:
                    fallbacks[name] = fallbacks.get(name, frozenset()) | covered
        for mapping, name in _mapped_name(node):
            mapped[mapping].setdefault(name, line)
    return Guarded(
        plain, mapped["row"], mapped["values"], frozenset(optional), frozenset(guarded), fallbacks, tuple(texts)
    )


def _names_in(node: nodes.Node) -> Iterator[str]:
    for inner in (node, *node.find_all((nodes.Name, nodes.Getattr, nodes.Getitem))):
        if isinstance(inner, nodes.Name) and inner.name not in MAPPINGS:
            yield inner.name
        for _, name in _mapped_name(inner):
            yield name


def _mapped_name(node: nodes.Node) -> Iterator[tuple[str, str]]:
    """("row", "Option1 Value") of `row['Option1 Value']`, at most one."""
    match node:
        case nodes.Getattr(node=nodes.Name(name=("row" | "values") as mapping), attr=name):
            yield mapping, name
        case nodes.Getitem(node=nodes.Name(name=("row" | "values") as mapping), arg=nodes.Const(value=str(name))):
            yield mapping, name


class _Harden(NodeTransformer):
    """Rewrites what is allowed only with a limit, or only as a look-up."""

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        if isinstance(node.node, nodes.Name) and node.node.name in MAPPINGS:
            return nodes.Getitem(node.node, nodes.Const(node.attr, lineno=node.lineno), "load", lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        first, *rest = node.nodes
        return nodes.Filter(first, JOIN_FILTER, rest, [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, LOOP_FILTER, [], [], None, None, lineno=node.lineno)
        return node
