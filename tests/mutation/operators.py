"""The mistakes that are planted: each a small change of a module's syntax tree, one at a time.

Left alone are annotations, decorators, imports, docstrings, `__all__` and the words of errors: no behaviour
hangs on them that a test of behaviour should see.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_BOUNDARY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
#: Fields of nodes that say nothing of behaviour.
_SKIPPED = frozenset({"annotation", "returns", "decorator_list", "bases", "type_comment", "slice"})
_WIDTH = 90


@dataclass(frozen=True)
class _Site:
    """A node with its place: `getattr(parent, field)`, or the item `index` of that list."""

    parent: ast.AST
    field: str
    index: int | None
    where: str

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


@dataclass(frozen=True)
class Mutant:
    """One planted mistake. `where` and `change` name it and stay the same while other lines move."""

    where: str
    change: str
    line: int
    site: _Site
    old: ast.AST
    new: ast.AST
    tree: ast.Module

    @property
    def key(self) -> tuple[str, str]:
        """What a judgement of this mutant is filed under."""
        return self.where, self.change

    @contextmanager
    def planted(self) -> Iterator[ast.Module]:
        """The module's tree, which all its mutants share, with this mistake in it."""
        self.site.put(self.new)
        try:
            yield ast.fix_missing_locations(self.tree)
        finally:
            self.site.put(self.old)


def mutants(source: str, module: str) -> Iterator[Mutant]:
    """Every mutant of a module's source, in the order of its lines; `module` begins their `where`."""
    tree = ast.parse(source)
    seen: Counter[tuple[str, str]] = Counter()
    for site, node in _walk(tree, module):
        for new, change in _changes(site, node):
            seen[site.where, change] += 1
            if (number := seen[site.where, change]) > 1:
                change += f" ({number})"
            yield Mutant(site.where, change, getattr(node, "lineno", 0), site, node, new, tree)


def _text(node: ast.AST) -> str:
    """The node as one short line that can stand in a table of Markdown."""
    match node:
        case ast.Pass():
            return "nothing"
        case ast.If(test=test, body=[ast.Pass()]):
            return f"if {ast.unparse(test)}: nothing"
        case ast.If(test=test, orelse=orelse):
            return f"if {ast.unparse(test)}: …" + (" else: …" if orelse else "")
    text = " ".join(ast.unparse(node).split()).replace("|", "¦").replace("`", "'")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH * 2 // 3]} … {text[-_WIDTH // 3 :]}"


def _walk(node: ast.AST, where: str) -> Iterator[tuple[_Site, ast.AST]]:
    """Every node but those that no test should see, each with its place, parents first."""
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _without_behaviour(child):
                continue
            inner = where
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{where}.{child.name}" if "." in where or ":" in where else f"{where}:{child.name}"
            yield _Site(node, field, index, inner), child
            yield from _walk(child, inner)


def _without_behaviour(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case _:
            return False


def _changes(site: _Site, node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What the node is changed to, with words for the change."""
    match node:
        case ast.expr():
            for other in _of_expression(node):
                yield other, f"{_text(node)} → {_text(other)}"
            for new, dropped in _of_items(site, node):
                yield new, f"without {_text(dropped)}"
        case ast.stmt() if ":" in site.where:
            for other in _of_statement(node):
                yield other, f"{_text(node)} → {_text(other)}"
        case ast.comprehension(ifs=ifs):
            for place, condition in enumerate(ifs):
                yield _with(node, ifs=_without(ifs, place)), f"without if {_text(condition)}"


def _of_expression(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op, *_]):
            for table in (_BOUNDARY, _OPPOSITE):
                if type(op) in table:
                    yield _with(node, ops=[table[type(op)](), *node.ops[1:]])
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for dropped in range(len(values)):
                kept = _without(values, dropped)
                yield kept[0] if len(kept) == 1 else _with(node, values=kept)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(number) | float(number)):
            yield ast.Constant(number + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(f"{value}X")


def _of_items(site: _Site, node: ast.expr) -> Iterator[tuple[ast.AST, ast.AST]]:
    """What is written out item by item, less one: a row of a table, a field that is set, an effect."""
    match node:
        case ast.Call(keywords=keywords):
            for place, keyword in enumerate(keywords):
                yield _with(node, keywords=_without(keywords, place)), keyword
        case ast.Dict(keys=keys, values=values):
            for place, key in enumerate(keys):
                less = _with(node, keys=_without(keys, place), values=_without(values, place))
                yield less, key or values[place]
        case ast.Tuple() if isinstance(site.parent, ast.Return | ast.Assign) or site.field == "keys":
            pass  # one less cannot be unpacked, or found: a crash, not a mistake
        case ast.Set(elts=elts) | ast.List(elts=elts, ctx=ast.Load()) | ast.Tuple(elts=elts, ctx=ast.Load()):
            for place, item in enumerate(elts):
                if len(elts) > 1 or not isinstance(node, ast.Set):
                    yield _with(node, elts=_without(elts, place)), item


def _of_statement(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.If(orelse=orelse):
            yield _with(node, body=[ast.Pass()])
            if orelse:
                yield _with(node, orelse=[])
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case (
            ast.Expr()
            | ast.AugAssign()
            | ast.Delete()
            | ast.Assign(targets=[ast.Attribute() | ast.Subscript()])
        ):
            yield ast.Pass()


def _without(items: Sequence[T], place: int) -> list[T]:
    return [item for index, item in enumerate(items) if index != place]


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """A shallow copy of the node with these fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
