"""Mutations of a module: each is a change of meaning that some test should notice.

Those of one line follow from the syntax. Such a mutant has an identity that survives moved lines: module,
function, what was there, what is there instead, and a number where the same change is possible more
than once. Others are written by hand and have a name.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

SWAPPED = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.MatMult: [],
    ast.BitOr: [ast.BitAnd],
    ast.BitAnd: [ast.BitOr],
    ast.BitXor: [ast.BitOr],
}
COMPARED = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
NAMES = {
    "mean": "sum", "sum": "mean", "min": "max", "max": "min", "amax": "amin", "eval": "train",
    "train": "eval", "any": "all", "all": "any", "square": "abs", "abs": "square", "exp": "log",
    "log": "exp", "argmax": "argmin", "argmin": "argmax", "floor": "ceil", "round": "int",
    "zeros": "ones", "zeros_like": "ones_like", "minimum": "maximum", "maximum": "minimum",
    "log1p": "log", "expm1": "exp", "add_": "sub_", "sub_": "add_", "first": "last",
    "isfinite": "isnan", "cos": "sin", "sqrt": "square",
}  # fmt: skip
"""Words for words of the same shape. `sqrt` is a method of tensors here; `math.square` fails to exist."""
DROPPED = {"abs", "sqrt", "square", "mT", "reverse", "clamp_min", "diagonal", "sign", "double"}
"""Methods and attributes that can be left out and still give something of the same kind."""
PAIRED = {
    "zip",
    "transpose",
    "min",
    "max",
    "minimum",
    "maximum",
    "isclose",
    "isinstance",
    "getattr",
    "setattr",
    "issubclass",
}
"""Calls that fail, or say the same, with their arguments exchanged."""
SAME = {"strict", "device", "non_blocking", "copy", "dtype", "align_corners", "fused"}
"""Keywords whose absence changes nothing that a processor computes, or that are the default."""
UNTOUCHED = {"print", "warn", "unknown", "damaged", "LowrankError", "ValueError", "Field", "cast"}
"""Calls whose arguments are messages or types."""


@dataclass(frozen=True)
class Mutant:
    """One changed module."""

    module: str
    change: str
    line: int
    rewrite: Callable[[], str] = field(repr=False, compare=False)

    @property
    def source(self) -> str:
        """The changed module."""
        return self.rewrite()

    @property
    def name(self) -> str:
        """The identity: what `survivors.yaml` names."""
        return f"{self.module}:{self.change}"

    def order(self, seed: int) -> str:
        """A place in a random order that other mutants of the module do not influence."""
        return hashlib.sha256(f"{seed} {self.name}".encode()).hexdigest()


def mutants(module: str, text: str, functions: tuple[str, ...] = ()) -> list[Mutant]:
    """Every mutant of one line of a module's source; with `functions`, of those functions only."""
    tree = ast.parse(text)
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for function, node, changed in _changes(tree):
        if functions and function.split(".")[0] not in functions and function not in functions:
            continue
        before = _line(node)
        after = _line(changed) if changed is not None else "nothing"
        if before == after:
            continue
        change = f"{function}: {before} -> {after}"
        number = seen[change] = seen.get(change, -1) + 1
        again = f" #{number}" if number else ""
        line = getattr(node, "lineno", 0) or node.target.lineno  # type: ignore[attr-defined]
        found.append(Mutant(module, change + again, line, partial(_replaced, tree, node, changed)))
    return found


def by_hand(module: str, text: str, entries: Sequence[Mapping[str, str]]) -> list[Mutant]:
    """The mutants of `by_hand.yaml`; one whose section is not in the source once is at line 0."""
    found = []
    for entry in entries:
        was, change = entry["was"], f"by hand: {entry['kind']}"
        line = 1 + text[: text.index(was)].count("\n") if text.count(was) == 1 else 0
        found.append(Mutant(module, change, line, partial(text.replace, was, entry["is"])))
    return found


def _line(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else text[:60] + " ... " + text[-25:]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST | None) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.old:
            return ast.Pass() if self.new is None else self.new
        return super().generic_visit(node)


def _replaced(tree: ast.Module, old: ast.AST, new: ast.AST | None) -> str:
    # The transformer writes into the tree, so it works on a copy with the same shape.
    pairs = dict(zip(map(id, ast.walk(tree)), ast.walk(twin := copy.deepcopy(tree)), strict=True))
    return ast.unparse(ast.fix_missing_locations(_Replace(pairs[id(old)], new).visit(twin)))


def _changes(tree: ast.Module) -> Iterator[tuple[str, ast.AST, ast.AST | None]]:
    """(function, node, what replaces it; None: nothing) for every change."""
    for function, node in _walk(tree, ""):
        for changed in _changed(node):
            yield function or "module", node, changed


def _walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    """The nodes whose change is a change of numbers: no annotations, messages or docstrings."""
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases", "keywords"):
            if name == "keywords" and isinstance(node, ast.Call):
                children = [keyword.value for keyword in value if keyword.arg != "strict"]
            else:
                continue
        for child in children:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(
                child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.Call) and _called(child) in UNTOUCHED:
                continue
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Call)
                and _called(child.value) in UNTOUCHED
            ):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            looped = isinstance(node, ast.For | ast.comprehension) and name == "iter"
            if isinstance(child, ast.Tuple) and (looped or isinstance(node, ast.Subscript)):
                for element in child.elts:  # their order is no number
                    yield function, element
                    yield from _walk(element, function)
                continue
            if isinstance(node, ast.Subscript) and isinstance(child, ast.Constant):
                continue  # see `_changed`
            inner = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".lstrip(".")
            yield inner, child
            yield from _walk(child, inner)


def _called(call: ast.Call) -> str:
    name = call.func
    return name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changed(node: ast.AST) -> Iterator[ast.AST | None]:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if isinstance(left, ast.Constant | ast.JoinedStr) and isinstance(
                getattr(left, "value", ""), str
            ):
                return
            for other in SWAPPED.get(type(op), []):
                yield _with(node, op=other())
            yield left
            if not isinstance(op, ast.Sub | ast.Div | ast.Pow | ast.FloorDiv | ast.Mod):
                yield right
        case ast.Compare(ops=[op], comparators=[_]):
            for other in COMPARED[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for index in range(len(values)):
                kept = values[:index] + values[index + 1 :]
                yield kept[0] if len(kept) == 1 else _with(node, values=kept)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Subscript(slice=ast.Constant(value=int(value))):
            yield _with(node, slice=ast.Constant(value + 1))  # of one element the last is the first
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.If(test=test) | ast.While(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.comprehension(ifs=[test, *_]):
            yield _with(node, ifs=[ast.UnaryOp(ast.Not(), test)])
        case ast.AugAssign(op=op):
            for other in SWAPPED.get(type(op), []):
                yield _with(node, op=other())
            yield ast.Assign([node.target], node.value, lineno=node.lineno)
        case ast.Expr(value=ast.Call()) | ast.Continue():
            yield None
        case ast.Attribute(value=value, attr=attr):
            if attr == "mT":
                yield value
        case ast.Call(func=func, args=args, keywords=keywords):
            yield from _changed_call(node, func, args, keywords)
        case ast.Tuple(elts=[first, second]) if _is_text(first) and _is_text(second):
            return  # the order of names is no number
        case ast.Tuple(elts=[first, second], ctx=ast.Load()):
            yield _with(node, elts=[second, first])
        case ast.Dict(keys=keys, values=values):
            for index in range(len(values) - 1):
                if keys[index] is None or keys[index + 1] is None:
                    continue
                if isinstance(values[index], ast.Constant) or isinstance(
                    values[index + 1], ast.Constant
                ):
                    continue
                mixed = list(values)
                mixed[index], mixed[index + 1] = mixed[index + 1], mixed[index]
                yield _with(node, values=mixed)
        case ast.Slice(lower=lower, upper=upper):
            if (lower is None) != (upper is None):
                yield _with(node, lower=upper, upper=lower)
        case _:
            return


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _changed_call(
    node: ast.Call, func: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]
) -> Iterator[ast.AST]:
    name = _called(node)
    if name in NAMES:
        if isinstance(func, ast.Attribute):
            yield _with(node, func=_with(func, attr=NAMES[name]))
        elif name in ("min", "max", "any", "all", "round"):
            yield _with(node, func=ast.Name(NAMES[name], ast.Load()))
    if name in DROPPED and isinstance(func, ast.Attribute):
        if not (isinstance(func.value, ast.Name) and func.value.id in ("math", "np", "torch")):
            yield func.value
        elif len(args) == 1:
            yield args[0]
    if name in ("sorted", "abs") and not isinstance(func, ast.Attribute):
        yield args[0]
    plain = not any(isinstance(argument, ast.Starred) for argument in args[:2])
    plain = plain and not all(map(_is_text, args[:2]))  # labels, and no numbers
    if len(args) >= 2 and plain and name not in PAIRED:
        yield _with(node, args=[args[1], args[0], *args[2:]])
    for index, keyword in enumerate(keywords):
        if keyword.arg not in (None, *SAME):
            yield _with(node, keywords=keywords[:index] + keywords[index + 1 :])
