"""Notices that a module was loaded again in this process, as autoreloaders do.

Functions go to worker processes by name. A worker that started before the reload may still have the
old module, so it is replaced before it is sent such a function. A module counts as loaded again if
it has another spec, or if another of the user's modules that it uses does. Some tools exchange the
code of a function instead, which counts, too.
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from fast_dag.cache.origins import MAIN
from fast_dag.define.node import found_in

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Reloads:
    """What has been noticed."""

    def __init__(self) -> None:
        self.count = 0
        # For each module: the specs of the modules that it uses, itself among them.
        self.specs: dict[str, dict[str, Any]] = {}
        self.codes: dict[tuple[str, str], Any] = {}
        # For each module that was loaded again: which reload was its last.
        self.last: dict[str, int] = {}

    def changed(self, module: str, func: Any) -> bool:
        """Whether a function, or what it uses, was loaded again since it was looked at last."""
        specs = self.specs.get(module)
        is_new = specs is not None and any(_spec(each) is not specs[each] for each in specs)
        if is_new or specs is None:
            self.specs[module] = {each: _spec(each) for each in _used(module)}
        if _is_found(module, func):
            key = module, func.__qualname__
            before = self.codes.get(key, func.__code__)
            self.codes[key] = func.__code__
            is_new = is_new or before is not func.__code__
        return is_new


_noticed = _Reloads()


def count() -> int:
    """How many reloads have been noticed."""
    return _noticed.count


def last(func: Any) -> int:
    """Which reload was the last that changed a function; 0 if none did."""
    func = getattr(func, "__func__", func)
    module = getattr(func, "__module__", None)
    if not isinstance(module, str) or module not in sys.modules or module in MAIN:
        return 0
    if _noticed.changed(module, func):
        _noticed.count += 1
        _noticed.last[module] = _noticed.count
    return _noticed.last.get(module, 0)


def _is_found(module: str, func: Any) -> bool:
    """Whether a function is found by its name, so that it goes by name."""
    if type(func) is not FunctionType:
        return False
    there = found_in(module, func.__qualname__)
    return there is func or getattr(there, "func", None) is func


def _spec(name: str) -> Any:
    return getattr(sys.modules.get(name), "__spec__", None)


def _used(name: str) -> Iterator[str]:
    """The user's modules that a module uses, itself first."""
    todo, seen = [name], {name}
    while todo:
        yield (module := todo.pop())
        for value in list(vars(sys.modules.get(module, sys)).values()):
            other = _home(value)
            if isinstance(other, str) and other not in seen and _is_users(other):
                seen.add(other)
                todo.append(other)


def _home(value: Any) -> str | None:
    """The name of a module, or of that where a function or class is from."""
    kind = type(value)
    try:
        if issubclass(kind, ModuleType):
            return str(ModuleType.__getattribute__(value, "__name__"))  # loads no lazy module
        return value.__module__ if issubclass(kind, (FunctionType, type)) else None
    except Exception:  # a class of classes may raise anything
        return None


def _is_users(name: str) -> bool:
    if name not in sys.modules or name.partition(".")[0] in _OTHERS or name in MAIN:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and not _INSTALLED & {*PurePath(file).parts}


_OTHERS = sys.stdlib_module_names | {"fast_dag"}
_INSTALLED = {"site-packages", "dist-packages"}
