"""The syntax of loaded code: what a function's source says, without comments, docstrings, line
numbers and decorators, as text that is the same on every Python.

A file may have been edited after it was imported. So the source of a function counts only if it
compiles to the code that is loaded. Of other statements nobody can tell, if the file is younger
than this process.
"""

from __future__ import annotations

import ast
import linecache
import os
from contextlib import suppress
from functools import cached_property
from itertools import chain
from random import random
from time import sleep, time
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from fast_dag.errors import failures

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, Mapping

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_SKIPPED: Final = frozenset({"ctx", "decorator_list", "kind", "type_comment"})
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_DOCUMENTED = (*_DEFINITIONS, ast.Module)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def syntax(node: Any) -> str:
    """A syntax tree as text.

    >>> one, other = ast.parse("f( 1 )"), ast.parse("f(1)  # the same")
    >>> syntax(one) == syntax(other)
    True
    """
    if isinstance(node, list):
        return f"[{','.join([syntax(each) for each in node])}]"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!a}"
    if not isinstance(node, ast.AST):
        return ascii(node)
    parts = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        # Fields without a value differ from Python to Python.
        if name in _SKIPPED or value is None or value == []:
            continue
        is_documented = name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node)
        parts.append(f"{name}={syntax(value[1:] if is_documented else value)}")
    return f"({' '.join(parts)})"


class _File:
    """A source file: its text, its tree, and the code that it compiles to.

    `is_old` tells that nobody has edited it since this process began to read sources. What many
    functions of one file ask for is found for all of them at once."""

    def __init__(self, text: str, tree: ast.Module, code: CodeType, is_old: bool) -> None:
        self.text = text
        self.tree = tree
        self.code = code
        self.is_old = is_old

    @cached_property
    def codes(self) -> dict[tuple[str, int], list[CodeType]]:
        """The code of each function, by its name and first line."""
        return _grouped(((each.co_name, each.co_firstlineno), each) for each in _codes(self.code))

    @cached_property
    def functions(self) -> dict[tuple[str, int], list[ast.AST]]:
        """The tree of each function, by the same."""
        return _grouped(
            ((getattr(each, "name", "<lambda>"), _first_line(each)), each)
            for each in ast.walk(self.tree)
            if isinstance(each, _FUNCTIONS)
        )

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """How the module binds each of its global names."""
        declared = [each.names for each in ast.walk(self.tree) if isinstance(each, ast.Global)]
        return _grouped(_bindings(self.tree.body, frozenset(chain(*declared))))

    @cached_property
    def said(self) -> str:
        """All that the file says, decorators included."""
        decorators = [
            syntax(each.decorator_list)
            for each in ast.walk(self.tree)
            if isinstance(each, _DEFINITIONS) and each.decorator_list
        ]
        return f"{syntax(self.tree)} {decorators}"


def _grouped(pairs: Iterable[tuple[_Key, _Value]]) -> dict[_Key, list[_Value]]:
    groups: dict[_Key, list[_Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


_BEGAN: Final = time()
_files: dict[str, _File | None] = {}
_MOST_FILES: Final = 64


def _parsed(text: str, name: str) -> ast.Module:
    """The syntax of a file. Where several threads parse at once, Python 3.11 may raise SystemError:
    "AST constructor recursion depth mismatch". The next try succeeds."""
    for _ in range(_TRIES):
        try:
            return ast.parse(text, name)
        except SystemError:
            sleep(random() * 0.01)
    return ast.parse(text, name)


_TRIES: Final = 20


def _file(name: Any, namespace: Mapping[str, Any]) -> _File | None:
    """A source file as it is now, or as Python's own cache of lines has it: a notebook's cell."""
    if not isinstance(name, str):
        return None
    linecache.checkcache(name)
    text = "".join(linecache.getlines(name, dict(namespace)))
    known = _files.get(name)
    if known is not None and known.text == text:
        return known
    if not text:
        return None
    try:
        tree = _parsed(text, name)
        code = compile(tree, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):  # an IPython cell with a magic, say
        return None
    is_old = True
    with suppress(OSError):  # it is no file
        is_old = os.stat(name).st_mtime < _BEGAN
    if len(_files) >= _MOST_FILES:
        _files.clear()
    found = _files[name] = _File(text, tree, code, is_old)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def syntax_of(code: CodeType, namespace: Mapping[str, Any]) -> str | None:
    """The syntax of a loaded function; None if no source is there that compiles to it."""
    file = _file(code.co_filename, namespace)
    if file is None or code not in file.codes.get((code.co_name, code.co_firstlineno), ()):
        return None
    found = file.functions.get((code.co_name, code.co_firstlineno), [])
    if len(found) > 1:  # several lambdas in one line: the smallest one that has all of the code
        found = [each for each in found if _spans(each, code)]
        found.sort(key=lambda each: sum(1 for _ in ast.walk(each)))
    return syntax(found[0]) if found else None


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", ())
    line: int = min([node.lineno, *(each.lineno for each in decorators)])
    return line


def _spans(node: Any, code: CodeType) -> bool:
    body = node.body if isinstance(node, ast.Lambda) else node
    start = (body.lineno, body.col_offset)
    end = (body.end_lineno, body.end_col_offset)
    is_placed = False
    for line, end_line, column, end_column in code.co_positions():
        if line is None or column is None or end_column in (None, 0):  # not of an expression
            continue
        if (line, column) < start or (end_line, end_column) > end:
            return False
        is_placed = True
    return is_placed or _compiles_to(node, code)


def _compiles_to(node: Any, code: CodeType) -> bool:
    """Whether a lambda is this code. In Python 3.12 the code of one that returns a constant has no
    positions."""
    if not isinstance(node, ast.Lambda):
        return False
    alone = compile(ast.Expression(node), code.co_filename, "eval", dont_inherit=True)
    made: CodeType = alone.co_consts[-1]
    return made.replace(co_flags=code.co_flags) == code  # which also tell where it is defined


def module_syntax(name: Any, namespace: Mapping[str, Any]) -> tuple[ast.Module, str] | None:
    """The tree of a module's file and all that it says, decorators included; None without one."""
    file = _file(name, namespace)
    return None if file is None else (file.tree, file.said)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The modules that statements in a tree may import, each with the level of the import.

    >>> list(imports(ast.parse("import a.b; from .c import d")))
    [('a', 0), ('a.b', 0), ('c', 1), ('c.d', 1)]
    """
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            for alias in each.names:
                parts = alias.name.split(".")
                first = len(parts) if alias.asname else 1
                for count in range(first, len(parts) + 1):
                    yield ".".join(parts[:count]), 0
        elif isinstance(each, ast.ImportFrom):
            if each.module:
                yield each.module, each.level
            for alias in each.names:
                yield f"{each.module}.{alias.name}" if each.module else alias.name, each.level


class Binding(NamedTuple):
    """How a module binds a name: to the value of an expression, or to a name of another module.
    `varies` tells that functions of the module bind it, too, `of_part` that an attribute or an
    element is bound: `Rates.full = 2`, `in_place` that nothing is bound: `RATES.update(full=2)`."""

    value: ast.expr | None
    varies: bool = False
    module: str | None = None
    name: str | None = None
    level: int = 0
    of_part: bool = False
    in_place: bool = False


def is_old(namespace: Mapping[str, Any]) -> bool:
    """Whether a module is surely what its file says."""
    file = _file(namespace.get("__file__"), namespace)
    return file is not None and file.is_old


def bindings(name: str, namespace: Mapping[str, Any]) -> list[Binding]:
    """The statements of a module that bind a global name; none if its source is not there."""
    return [each for each in _bound(name, namespace) if not each.in_place]


def changes(name: str, namespace: Mapping[str, Any]) -> list[Binding]:
    """The statements of a module that call a method of what a global name stands for."""
    return [each for each in _bound(name, namespace) if each.in_place]


def _bound(name: str, namespace: Mapping[str, Any]) -> list[Binding]:
    file = _file(namespace.get("__file__"), namespace)
    return [] if file is None else file.bindings.get(name, [])


def _bindings(statements: list[ast.stmt], varying: frozenset[str]) -> Iterator[tuple[str, Binding]]:
    for each in statements:
        match each:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    for name, is_part in _bound_by(target):
                        yield name, Binding(value, name in varying, of_part=is_part)
            case ast.AnnAssign(target=target, value=value):
                for name, is_part in _bound_by(target):
                    yield name, Binding(value, name in varying, of_part=is_part)
            case ast.AugAssign(target=target, value=value):
                for name, is_part in _bound_by(target):
                    yield name, Binding(value, True, of_part=is_part)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                for alias in aliases:
                    name = alias.asname or alias.name
                    bound = Binding(None, name in varying, module or "", alias.name, level)
                    yield name, bound
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=value)) as call):
                while isinstance(value, (ast.Attribute, ast.Subscript)):
                    value = value.value
                if isinstance(value, ast.Name):
                    yield value.id, Binding(call, in_place=True)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case _:
                for block in ("body", "orelse", "handlers", "finalbody"):
                    yield from _bindings(getattr(each, block, []), varying)


def _bound_by(target: ast.expr) -> ItemsView[str, bool]:
    """The names in the target of an assignment, and whether only a part of each is bound."""
    is_part: dict[str, bool] = {}
    for each in ast.walk(target):
        if isinstance(each, ast.Name):
            is_stored = isinstance(each.ctx, ast.Store)
            is_part[each.id] = is_part.get(each.id, True) and not is_stored
    return is_part.items()


def class_of(qualname: str, namespace: Mapping[str, Any]) -> ast.ClassDef | None:
    """The definition of a class in a module; None if its source is not there, or has several."""
    file = _file(namespace.get("__file__"), namespace)
    found: list[Any] = [] if file is None else [file.tree]
    for name in qualname.split("."):
        found = [
            each
            for outer in found
            for each in outer.body
            if isinstance(each, ast.ClassDef) and each.name == name
        ]
    return found[0] if len(found) == 1 else None


def class_level(node: ast.ClassDef) -> Iterator[ast.AST]:
    """The parts of a class that are no methods: decorators, and statements in its body."""
    yield from node.decorator_list
    for each in node.body:
        if not isinstance(each, _DEFINITIONS):
            yield each


SCALARS: Final = (str, bytes, bool, int, float, complex, type(None))


def literal(expression: ast.expr | None) -> tuple[Any] | None:
    """The plain value that an expression writes down, in a tuple; None for any other expression.

    >>> one, other = ast.parse("-1.5").body[0], ast.parse("[1]").body[0]
    >>> literal(one.value), literal(other.value)
    ((-1.5,), None)
    """
    if expression is None:
        return None
    try:
        value = ast.literal_eval(expression)
    except failures():
        return None
    return (value,) if isinstance(value, SCALARS) else None


def chains(expression: ast.AST) -> Iterator[list[str]]:
    """The names that an expression reads, each with the attributes it takes of that.

    >>> sorted(chains(ast.parse("f(tax.rate, x)")))
    [['f'], ['tax', 'rate'], ['x']]
    """
    inner: set[ast.AST] = set()
    for each in ast.walk(expression):  # outer before inner ones
        if each in inner:
            continue
        attributes: list[str] = []
        while isinstance(each, ast.Attribute):
            attributes.insert(0, each.attr)
            each = each.value  # noqa: PLW2901  from the outermost attribute to its name
            inner.add(each)
        if isinstance(each, ast.Name):
            yield [each.id, *attributes]
