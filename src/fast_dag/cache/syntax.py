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
from itertools import chain
from random import random
from time import sleep, time
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fast_dag.errors import failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


class _File(NamedTuple):
    """A source file: its text, its tree, and the code that it compiles to by name and first line.

    `is_old` tells that nobody has edited it since this process began to read sources, `varying` are
    the globals that functions bind."""

    text: str
    tree: ast.Module
    codes: Mapping[tuple[str, int], list[CodeType]]
    is_old: bool
    varying: frozenset[str]


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
    codes: dict[tuple[str, int], list[CodeType]] = {}
    for each in _codes(code):
        codes.setdefault((each.co_name, each.co_firstlineno), []).append(each)
    is_old = True
    with suppress(OSError):  # it is no file
        is_old = os.stat(name).st_mtime < _BEGAN
    if len(_files) >= _MOST_FILES:
        _files.clear()
    varying = [each.names for each in ast.walk(tree) if isinstance(each, ast.Global)]
    found = _files[name] = _File(text, tree, codes, is_old, frozenset(chain(*varying)))
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
    node = _node_of(code, file.tree)
    return None if node is None else syntax(node)


def _node_of(code: CodeType, tree: ast.Module) -> ast.AST | None:
    found = [
        each
        for each in ast.walk(tree)
        if isinstance(each, _FUNCTIONS)
        and getattr(each, "name", "<lambda>") == code.co_name
        and _first_line(each) == code.co_firstlineno
    ]
    if len(found) > 1:  # several lambdas in one line: the smallest one that has all of the code
        found = [each for each in found if _spans(each, code)]
        found.sort(key=lambda each: sum(1 for _ in ast.walk(each)))
    return found[0] if found else None


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", ())
    line: int = min([node.lineno, *(each.lineno for each in decorators)])
    return line


def _spans(node: Any, code: CodeType) -> bool:
    body = node.body if isinstance(node, ast.Lambda) else node
    start = (body.lineno, body.col_offset)
    end = (body.end_lineno, body.end_col_offset)
    for line, end_line, column, end_column in code.co_positions():
        if line is None or column is None or end_column in (None, 0):  # not of an expression
            continue
        if (line, column) < start or (end_line, end_column) > end:
            return False
    return True


def module_syntax(name: Any, namespace: Mapping[str, Any]) -> tuple[ast.Module, str] | None:
    """The tree of a module's file and all that it says, decorators included; None without one."""
    file = _file(name, namespace)
    if file is None:
        return None
    decorators = [
        syntax(each.decorator_list)
        for each in ast.walk(file.tree)
        if isinstance(each, _DEFINITIONS) and each.decorator_list
    ]
    return file.tree, f"{syntax(file.tree)} {decorators}"


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
    element is bound: `Rates.full = 2`."""

    value: ast.expr | None
    varies: bool = False
    module: str | None = None
    name: str | None = None
    level: int = 0
    of_part: bool = False


def is_old(namespace: Mapping[str, Any]) -> bool:
    """Whether a module is surely what its file says."""
    file = _file(namespace.get("__file__"), namespace)
    return file is not None and file.is_old


def bindings(name: str, namespace: Mapping[str, Any]) -> list[Binding]:
    """The statements of a module that bind a global name; none if its source is not there."""
    file = _file(namespace.get("__file__"), namespace)
    if file is None:
        return []
    return list(_bindings(name, file.tree.body, name in file.varying))


def _bindings(name: str, statements: list[ast.stmt], varies: bool) -> Iterator[Binding]:
    for each in statements:
        match each:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if _binds(target, name):
                        yield Binding(value, varies, of_part=_is_part(target, name))
            case ast.AnnAssign(target=target, value=value):
                if _binds(target, name):
                    yield Binding(value, varies, of_part=_is_part(target, name))
            case ast.AugAssign(target=target, value=value):
                if _binds(target, name):
                    yield Binding(value, True, of_part=_is_part(target, name))
            case ast.ImportFrom(module=module, names=aliases, level=level):
                for alias in aliases:
                    if (alias.asname or alias.name) == name:
                        yield Binding(None, varies, module or "", alias.name, level)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case _:
                for block in ("body", "orelse", "handlers", "finalbody"):
                    yield from _bindings(name, getattr(each, block, []), varies)


def _binds(target: ast.expr, name: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(target))


def _is_part(target: ast.expr, name: str) -> bool:
    return not any(
        isinstance(each, ast.Name) and each.id == name and isinstance(each.ctx, ast.Store)
        for each in ast.walk(target)
    )


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
