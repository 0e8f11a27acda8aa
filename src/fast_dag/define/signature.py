"""Reads a function once: its parameters, who fills them, whether it is async.

Python functions are read from their code object, in about a microsecond; everything else (partials,
callables, classes, builtins, wrapped functions) goes through `inspect.signature`.
"""

from __future__ import annotations

import functools
from enum import IntEnum
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, UnionType
from weakref import ReferenceType, ref

from fast_dag.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Final

_VARARGS, _VARKEYWORDS, _ANY_COROUTINE = 0x04, 0x08, 0x80 | 0x100
_MARK = "_is_coroutine_marker"
"""The attribute that inspect.markcoroutinefunction sets (Python 3.12 and later)."""


class _Absent:
    """The type of `ABSENT`, which stands for a missing value; None is a value like any other."""

    def __repr__(self) -> str:
        return "<absent>"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class UnreadableSignatureError(Exception):
    """Raised when Python cannot tell what a callable takes (many builtins)."""


class Kind(IntEnum):
    """How a parameter is passed."""

    POSITIONAL_ONLY = 0
    POSITIONAL = 1
    KEYWORD_ONLY = 3  # 2 and 4 are *args and **kwargs, as in inspect


# Looked up for every parameter, where members of an enum cost ten times a global.
_POSITIONAL_ONLY, _POSITIONAL = Kind.POSITIONAL_ONLY, Kind.POSITIONAL
_KEYWORD_ONLY = Kind.KEYWORD_ONLY


CALL_ID: Final = "call_id"
"""The parameter that tells a function which call this is: a text that stays the same over
retries."""


class Parameter:
    """One named parameter of a function.

    `name` is the parameter's name for edges and inputs, `keyword` its name in the function; they
    differ if the node was given `inputs=`. An `optional` parameter without a `default` may be left
    out of the call.
    """

    __slots__ = ("by_engine", "default", "is_context", "keyword", "kind", "name", "optional")

    def __init__(
        self,
        name: str,
        kind: int = Kind.POSITIONAL,
        default: Any = ABSENT,
        *,
        is_context: bool = False,
        optional: bool = False,
        keyword: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.is_context = is_context
        self.by_engine = is_context or name == CALL_ID
        self.optional = optional or default is not ABSENT
        self.keyword = keyword or name

    def with_kind(self, kind: int) -> Parameter:
        return Parameter(
            self.name,
            kind,
            self.default,
            is_context=self.is_context,
            optional=self.optional,
            keyword=self.keyword,
        )


class Signature:
    """The parameters of a node's function.

    - `parameters`: the named ones, in the order of the definition.
    - `inputs`: the names of those that edges and run inputs may fill.
    - `by_position`: the same names if the function takes nothing else and all of them can be passed
      by position; else None.
    - `var_positional`, `var_keyword`: the names of `*args` and `**kwargs`, or None.
    - `origin`: the function that was read, the innermost one behind wrappers.
    """

    __slots__ = (
        "__weakref__",
        "by_position",
        "inputs",
        "is_async",
        "made_of",
        "origin",
        "parameters",
        "var_keyword",
        "var_positional",
    )

    made_of: tuple[Any, ...]

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        origin: Any,
        var_positional: str | None = None,
        var_keyword: str | None = None,
        is_async: bool = False,
    ) -> None:
        self.parameters = tuple(parameters)
        inputs, in_place = [], var_positional is None and var_keyword is None
        for each in parameters:  # a comprehension takes longer for a few
            if each.by_engine:
                in_place = False
            else:
                inputs.append(each.name)
                if each.kind == _KEYWORD_ONLY:
                    in_place = False
        self.inputs = tuple(inputs)
        self.by_position = self.inputs if in_place else None
        self.origin = origin
        self.var_positional = var_positional
        self.var_keyword = var_keyword
        self.is_async = is_async

    def __repr__(self) -> str:
        return f"<signature ({', '.join(self.inputs)})>"

    @property
    def positional(self) -> tuple[str, ...]:
        """The inputs that can be passed by position."""
        return tuple(
            each.name
            for each in self.parameters
            if not each.by_engine and each.kind != Kind.KEYWORD_ONLY
        )

    @property
    def takes_context(self) -> bool:
        return any(each.is_context for each in self.parameters)

    @property
    def takes_call_id(self) -> bool:
        """Whether the engine tells it which call this is."""
        return any(each.name == CALL_ID for each in self.parameters)

    def keyword_of(self, name: str) -> str:
        """The name of the parameter `name` in the function itself."""
        return next((each.keyword for each in self.parameters if each.name == name), name)

    def annotation(self, name: str) -> Any:
        """The annotation of a parameter; ABSENT if there is none, or if it is a string that cannot
        be resolved."""
        return _resolved(self.origin, _annotations(self.origin).get(name, ABSENT))

    def return_annotation(self) -> Any:
        return self.annotation("return")

    def renamed(self, names: Sequence[str]) -> Signature:
        """A copy with other names for the first inputs. A function of `*args` takes any number.

        Raises ValueError, with a sentence, if the names do not fit.
        """
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        if len(names) > len(self.inputs) and not self.var_positional:
            raise ValueError(f"there are {len(names)} names for {len(self.inputs)} parameters")
        for position, own in enumerate(self.inputs):
            if own in names and names.index(own) != position:
                raise ValueError(
                    f"names go by position, and {own!r} is the name of another parameter"
                )
        fresh: Iterator[str] = iter(names)
        parameters = []
        for each in self.parameters:
            new = None if each.by_engine else next(fresh, None)
            parameters.append(
                each
                if new is None
                else Parameter(
                    new, each.kind, each.default, optional=each.optional, keyword=each.keyword
                )
            )
        extra = [Parameter(name, Kind.POSITIONAL_ONLY) for name in fresh]
        position = sum(each.kind != Kind.KEYWORD_ONLY for each in parameters)
        parameters[position:position] = extra
        return Signature(
            parameters,
            origin=self.origin,
            var_positional=None if extra else self.var_positional,
            var_keyword=self.var_keyword,
            is_async=self.is_async,
        )


def read_signature(func: Callable[..., Any]) -> Signature:
    """The signature of any callable.

    Raises UnreadableSignatureError if Python itself cannot tell it.

    >>> def load(path, *, limit=10, context=None): ...
    >>> read_signature(load).inputs
    ('path', 'limit')
    """
    if type(func) is FunctionType and not (func.__dict__ and _is_dressed(func)):
        kept = _kept.get(id(func))
        known = None if kept is None else kept()
        if known is not None and known.origin is func:
            code, defaults, annotations = known.made_of
            if (
                code is func.__code__
                and defaults is func.__defaults__
                and not func.__kwdefaults__
                and annotations == _annotations(func)
                and (known.is_async or _MARK not in func.__dict__)
            ):
                return known
        signature = _from_code(func, func.__code__, bound=0)
        if signature.var_positional and signature.var_keyword and not signature.parameters:
            return _seen_through(func, signature)
        if not func.__kwdefaults__:  # a dict, which may be changed in place
            _keep(func, signature)
        return signature
    if isinstance(func, MethodType):
        inner: Any = func.__func__
        if type(inner) is FunctionType and not _is_dressed(inner):
            return _from_code(inner, inner.__code__, bound=1)
    return _from_inspect(func)


# Large graphs have few functions, so their nodes share signatures, found by the function's id. A
# signature keeps its function alive: no other object can get that id while the signature exists.
_kept: dict[int, ReferenceType[Signature]] = {}


def _keep(func: FunctionType, signature: Signature) -> None:
    key, forget = id(func), _kept.pop  # at exit, the name `_kept` may be gone before the signature
    signature.made_of = (func.__code__, func.__defaults__, {**_annotations(func)})
    _kept[key] = ref(signature, lambda gone: forget(key, None))


def _is_dressed(func: Any) -> bool:
    return hasattr(func, "__wrapped__") or hasattr(func, "__signature__")


_shared: dict[str, Parameter] = {}
"""Parameters that consist of a name only; signatures share them."""
_MOST_SHARED: Final = 1024


def _from_code(func: FunctionType, code: CodeType, bound: int) -> Signature:
    """Read a Python function; the first `bound` positional parameters are already given."""
    names = code.co_varnames
    positional, keyword_only = code.co_argcount, code.co_kwonlyargcount
    flags, after = code.co_flags, positional + keyword_only
    defaults = func.__defaults__ or ()
    first_default = positional - len(defaults)
    keyword_defaults = func.__kwdefaults__
    annotations = _annotations(func)
    positional_only = code.co_posonlyargcount
    parameters = []
    for index in range(bound, after):
        name = names[index]
        is_context = name == "context"
        annotation = annotations.get(name, ABSENT)
        if annotation is not ABSENT:
            is_context = _is_context(name, annotation, func)
        default: Any = ABSENT
        if index >= positional:
            kind = _KEYWORD_ONLY
            if keyword_defaults:
                default = keyword_defaults.get(name, ABSENT)
        elif index >= first_default or index < positional_only or is_context:
            kind = _POSITIONAL_ONLY if index < positional_only else _POSITIONAL
            if index >= first_default:
                default = defaults[index - first_default]
        else:  # a name only
            parameter = _shared.get(name)
            if parameter is None:
                parameter = Parameter(name)
                if len(_shared) < _MOST_SHARED:  # generated code may have any number of names
                    _shared[name] = parameter
            parameters.append(parameter)
            continue
        parameters.append(Parameter(name, kind, default, is_context=is_context))
    return Signature(
        parameters,
        origin=func,
        var_positional=names[after] if flags & _VARARGS else None,
        var_keyword=names[after + bool(flags & _VARARGS)] if flags & _VARKEYWORDS else None,
        is_async=bool(flags & _ANY_COROUTINE) or _MARK in func.__dict__,
    )


def _from_inspect(func: Callable[..., Any]) -> Signature:
    import inspect  # slow to import; Python functions are read without it

    try:
        spec = inspect.signature(func)
    except (ValueError, TypeError) as error:
        raise UnreadableSignatureError(str(error)) from error
    origin = _origin(func)
    parameters, var_positional, var_keyword = [], None, None
    for each in spec.parameters.values():
        if each.kind is each.VAR_POSITIONAL:
            var_positional = each.name
        elif each.kind is each.VAR_KEYWORD:
            var_keyword = each.name
        else:
            default = ABSENT if each.default is each.empty else each.default
            annotation = ABSENT if each.annotation is each.empty else each.annotation
            is_context = _is_context(each.name, annotation, origin)
            parameters.append(Parameter(each.name, int(each.kind), default, is_context=is_context))
    if _takes_keywords_only(func, len(parameters)):
        parameters = [each.with_kind(Kind.KEYWORD_ONLY) for each in parameters]
    return Signature(
        parameters,
        origin=origin,
        var_positional=var_positional,
        var_keyword=var_keyword,
        is_async=gives_coroutine(func),
    )


def _takes_keywords_only(func: Any, wanted: int) -> bool:
    """Whether `func`, which may show the parameters of a wrapped function, takes keywords only."""
    code = getattr(func, "__code__", None)
    if code is None:
        return False
    takes_enough = code.co_flags & _VARARGS or code.co_argcount >= wanted
    return bool(code.co_flags & _VARKEYWORDS) and not takes_enough


_USUAL_NAMES = ("func", "fn", "f", "function", "wrapped")


def _seen_through(wrapper: FunctionType, opaque: Signature) -> Signature:
    """The signature of the function that a `(*args, **kwargs)` wrapper without `functools.wraps`
    calls, as far as its closure tells."""
    cells = {}
    for name, cell in zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    functions = [value for value in cells.values() if _is_function(value)]
    usual = [cells[name] for name in _USUAL_NAMES if callable(cells.get(name))]
    inner = functions[0] if len(functions) == 1 else usual[0] if usual else None
    if inner is None:
        return opaque
    try:
        seen = read_signature(inner)
    except UnreadableSignatureError:
        return opaque
    return Signature(
        seen.parameters,
        origin=seen.origin,
        var_positional=seen.var_positional,
        var_keyword=seen.var_keyword,
        is_async=opaque.is_async,
    )


def _is_function(value: Any) -> bool:
    kinds = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)
    return isinstance(value, kinds) or (callable(value) and hasattr(value, "__wrapped__"))


def _origin(func: Any) -> Any:
    """The function behind partials, methods, `functools.wraps` and callable objects."""
    while True:
        if isinstance(func, functools.partial):
            func = func.func
        elif hasattr(func, "__wrapped__"):
            func = func.__wrapped__
        elif isinstance(func, MethodType):
            func = func.__func__
        elif isinstance(func, type):
            made_by = vars(func).get("__init__")
            return made_by if isinstance(made_by, FunctionType) else func
        elif isinstance(getattr(type(func), "__call__", None), FunctionType):  # noqa: B004
            func = type(func).__call__
        else:
            return func


def gives_coroutine(func: Any) -> bool:
    """Whether `func` is a coroutine function. A sync wrapper of one is not: the engine awaits the
    coroutine that it returns."""
    return has_flags(func, _ANY_COROUTINE) or getattr(_inside(func), _MARK, None) is not None


def has_flags(func: Any, flags: int) -> bool:
    """Whether the code that a callable runs has one of these flags. Looked for in partials, methods
    and `__call__`."""
    func = _inside(func)
    code = getattr(func, "__code__", None)
    if code is None and not isinstance(func, type):
        code = getattr(type(func).__call__, "__code__", None)
    return code is not None and bool(code.co_flags & flags)


def _inside(func: Any) -> Any:
    """The function of a partial, or of a method."""
    while isinstance(func, functools.partial):
        func = func.func
    return getattr(func, "__func__", func)


def _annotations(func: Any) -> Mapping[str, Any]:
    try:
        return getattr(func, "__annotations__", None) or {}
    except NameError:  # Python 3.14 evaluates them here; a name may exist for type checkers only
        return {}


def _is_context(name: str, annotation: Any, func: Any) -> bool:
    """Whether the engine fills this parameter."""
    if annotation is ABSENT:
        return name == "context"
    if isinstance(annotation, str):
        if "Context" not in annotation:
            return False
        resolved = _resolved(func, annotation)
        if resolved is ABSENT:  # for example a class that only type checkers import
            return _says_context(annotation)
        annotation = resolved
    if isinstance(annotation, type):
        return issubclass(annotation, Context)
    members = [each for each in getattr(annotation, "__args__", ()) if each is not type(None)]
    if len(members) != 1:
        return False
    (member,) = members
    inner = getattr(member, "__forward_arg__", member)  # Optional["Context"]
    # Last, because it imports typing; `list[int]` has one member, too.
    return _is_context(name, inner, func) and _is_see_through(annotation)


def _says_context(annotation: str) -> bool:
    """Whether the text of an annotation that cannot be resolved is that of a Context, which may be
    optional or Annotated."""
    import _ast as syntax  # slow to import; `ast` is slower

    def says(node: Any) -> bool:
        match node:
            case syntax.Name(id=name) | syntax.Attribute(attr=name):
                return name in ("Context", "FSMContext")
            case syntax.Constant(value=str(text)):
                return _says_context(text)
            case (
                syntax.BinOp(left=inner, op=syntax.BitOr(), right=syntax.Constant(value=None))
                | syntax.BinOp(left=syntax.Constant(value=None), op=syntax.BitOr(), right=inner)
                | syntax.Subscript(
                    value=syntax.Name(id="Optional") | syntax.Attribute(attr="Optional"),
                    slice=inner,
                )
                | syntax.Subscript(
                    value=syntax.Name(id="Annotated") | syntax.Attribute(attr="Annotated"),
                    slice=syntax.Tuple(elts=[inner, *_]),
                )
            ):
                return says(inner)
        return False

    try:
        tree: Any = compile(annotation.strip(), "<annotation>", "eval", syntax.PyCF_ONLY_AST)
    except (SyntaxError, ValueError):
        return False
    return says(tree.body)


def _is_see_through(annotation: Any) -> bool:
    """Whether an annotation is a union, or Annotated, rather than a generic class."""
    from typing import Annotated, Union, get_origin  # slow to import; most annotations are classes

    return get_origin(annotation) in (Union, UnionType, Annotated)


def _resolved(func: Any, annotation: Any) -> Any:
    """A string annotation as the object it names, in the function's module."""
    try:
        while isinstance(annotation, str):  # a quoted annotation is a string in a string
            # The text is the user's own source; typing.get_type_hints evaluates it, too.
            annotation = eval(annotation, getattr(func, "__globals__", {}), {})
    except Exception:
        return ABSENT
    return annotation
