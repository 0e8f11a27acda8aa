"""Functions as text: the place they are imported from, or their name in a registry."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Mapping
from importlib import import_module
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from fast_dag.define.node import Node, found_in
from fast_dag.errors import ValidationError, closest, names

if TYPE_CHECKING:
    from collections.abc import Iterable

_ONLY_COMPUTE = tuple(
    f"builtins:{each.__name__}"
    for each in (
        *(all, any, bool, dict, float, frozenset, int, len),
        *(list, max, min, set, sorted, str, sum, tuple),
    )
)
"""Builtins that any file may name, because they do nothing but compute."""
_REMEDY = "give it a name in registry={'name': ...}, here and when the file is read"


def _is_dunder(name: str) -> bool:
    return name.startswith("__")


def _bare(found: Any) -> Any:
    """The function of a node: a decorated function in a module is a Node."""
    return found.func if isinstance(found, Node) else found


def _identity(func: Any) -> Any:
    """What identifies a function; a method is a new object at each access."""
    return (id(func.__self__), func.__func__) if isinstance(func, MethodType) else id(func)


def checked_registry(registry: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The registry, empty for None; raises ValidationError if it is no mapping of names."""
    if registry is None:
        return {}
    if not isinstance(registry, Mapping):
        raise ValidationError(f"registry maps names to functions; it is no {registry!r}")
    for name in registry:
        if not isinstance(name, str) or not name:
            raise ValidationError(f"a name in the registry is a non-empty string, not {name!r}")
    return registry


class References:
    """The texts that stand for functions in a file.

    >>> References({"twice": len}).of(len)
    'twice'
    >>> from statistics import mean
    >>> References().of(mean)
    'statistics:mean'
    """

    def __init__(self, registry: Mapping[str, Any] | None = None) -> None:
        registered = checked_registry(registry)
        self._names = {_identity(_bare(each)): name for name, each in registered.items()}

    def registered(self, value: Any) -> str | None:
        """The name of a value in the registry, or None."""
        return self._names.get(_identity(_bare(value)))

    def known(self, func: Any) -> str | None:
        """The text for a function; None if it has neither a name nor a place."""
        return self.registered(func) or _path_of(func)

    def of(self, func: Any) -> str:
        """The text for a function; raises ValidationError if there is none."""
        name = self.known(func)
        if name is None:
            raise ValidationError(f"{func!r} cannot be imported: it is {_kind(func)}; {_REMEDY}")
        return name

    def of_errors(self, kind: Any) -> str:
        """The text for an exception type; a builtin one has its name."""
        if self.registered(kind) is None and vars(builtins).get(_name(kind)) is kind:
            return _name(kind)
        return self.of(kind)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", ""))


def _path_of(func: Any) -> str | None:
    """The place of a function, "module:qualname"; None if something else is there."""
    module, qualname = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    if any(map(_is_dunder, [*module.split("."), *qualname.split(".")])):
        return None
    there = found_in(module, qualname)
    return f"{module}:{qualname}" if _identity(_bare(there)) == _identity(func) else None


def _kind(func: Any) -> str:
    """Why a function cannot be imported by name."""
    if getattr(func, "__module__", None) == "__main__" and isinstance(func, (FunctionType, type)):
        return "defined in the program that runs, not in a module that others import"
    if isinstance(func, functools.partial):
        return "a partial"
    if isinstance(func, MethodType):
        return "a method of an object"
    if isinstance(func, FunctionType):
        if func.__name__ == "<lambda>":
            return "a lambda"
        if "<locals>" in func.__qualname__:
            return "defined inside of a function"
        return "not what stands under its name in its module"
    return "no function or class of a module"


class Finder:
    """Finds the functions that a file names, and imports only what `allow` names.

    An entry of `allow` is a module, which includes the modules below it, or "module:qualname" for
    one function. A function must also be defined in an allowed module: a module that imports `os`
    does not let a file call functions of `os`. Builtins that only compute are always allowed.

    >>> Finder(allow=["statistics"]).find("statistics:mean")([1, 3])
    2
    >>> Finder(registry={"twice": lambda x: 2 * x}).find("twice")(4)
    8
    >>> Finder(allow=["statistics"]).find("os:system")
    Traceback (most recent call last):
    fast_dag.errors.ValidationError: 'os:system' is not imported: allow= does not name 'os'...
    """

    def __init__(
        self, allow: Iterable[str] | None = None, registry: Mapping[str, Any] | None = None
    ) -> None:
        self._allowed = (*_ONLY_COMPUTE, *(() if allow is None else _checked_allow(allow)))
        self._registry = checked_registry(registry)

    def find(self, reference: str) -> Any:
        """The function; raises ValidationError if it is unknown, not allowed, or not there."""
        if reference in self._registry:
            return _bare(self._registry[reference])
        module, colon, qualname = reference.partition(":")
        if not colon:
            known = f"it has {names(self._registry)}" if self._registry else "there is none"
            raise ValidationError(
                f"{reference!r} is no name in registry=: {known}"
                f"{closest(reference, self._registry)[1]}; a function of a module is written as "
                "'module:name'"
            )
        self._check(reference, module, qualname)
        return self._found(reference, module, qualname)

    def find_error(self, reference: str) -> Any:
        """An exception type, or a predicate of exceptions."""
        if reference not in self._registry:
            kind = vars(builtins).get(reference)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                return kind
        return self.find(reference)

    def find_value(self, reference: str) -> Any:
        """The value in the registry, which need not be a function."""
        if reference not in self._registry:
            raise ValidationError(f"{reference!r} is no name in registry=, where it must be")
        return self._registry[reference]

    def _check(self, reference: str, module: str, qualname: str) -> None:
        for part in (*module.split("."), *qualname.split(".")):
            if not part.isidentifier():
                raise ValidationError(f"{reference!r} is not 'module:name'")
            if _is_dunder(part):
                raise ValidationError(f"{reference!r} is refused: {part!r} is Python's own")
        if not self._allows(module) and reference not in self._allowed:
            raise ValidationError(
                f"{reference!r} is not imported: allow= does not name {module!r}; if you trust the "
                f"file to call what is in there, pass allow=[{module!r}]"
            )

    def _allows(self, module: Any) -> bool:
        return isinstance(module, str) and any(
            module == each or module.startswith(f"{each}.") for each in self._allowed
        )

    def _found(self, reference: str, module: str, qualname: str) -> Any:
        try:
            found: Any = import_module(module)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise ValidationError(f"{reference!r}: importing {module!r} failed: {told}") from error
        first, *rest = qualname.split(".")
        if first not in vars(found):
            hint = closest(first, [each for each in vars(found) if not _is_dunder(each)])[1]
            raise ValidationError(f"{reference!r}: {module!r} has no {first!r}{hint}")
        found = vars(found)[first]
        for part in rest:
            if not isinstance(found, type):
                raise ValidationError(
                    f"{reference!r} is refused: it looks for {part!r} in what is no class"
                )
            found = getattr(found, part, None)
        found = _bare(found)
        if isinstance(found, ModuleType) or not callable(found):
            raise ValidationError(f"{reference!r} is no function, but a {type(found).__name__}")
        home = getattr(found, "__module__", None)
        if reference not in self._allowed and not self._allows(home):
            raise ValidationError(
                f"{reference!r} is refused: it is defined in {home!r}, which allow= does not name; "
                f"if you trust the file to call it, add that, or {reference!r} itself"
            )
        return found


def _checked_allow(allow: Iterable[str]) -> tuple[str, ...]:
    entries = (allow,) if isinstance(allow, str) else tuple(allow)
    if isinstance(allow, str) or not all(isinstance(each, str) and each for each in entries):
        raise ValidationError(
            f"allow is a list of modules that may be imported, like ['shop.steps'], not {allow!r}"
        )
    return entries
