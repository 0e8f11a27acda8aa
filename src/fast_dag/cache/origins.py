"""Where functions and classes come from, by names that hold in every process.

A script is `__main__` when it is run, `etl` when it is imported, and has a third name when
`fast-dag run etl.py` loads it. Here it is `etl` each time, so that all three find the same results.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from functools import reduce
from importlib import import_module
from types import FunctionType
from typing import Any

MAIN = ("__main__", "__mp_main__")
"""The script in its own process, and in a worker process."""


def module_name(name: str) -> str:
    """What an import would call the module that is `name` in this process.

    >>> module_name("json.decoder"), module_name("no such module")
    ('json.decoder', 'no such module')
    """
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if not file:
        return name
    spec = getattr(module, "__spec__", None)
    if name in MAIN and spec is not None:  # python -m
        return str(spec.name)
    stem, suffix = os.path.splitext(os.path.basename(file))
    if stem in ("__init__", name.rpartition(".")[2]) or (suffix != ".py" and name not in MAIN):
        return name
    parts, directory = [stem], os.path.dirname(os.path.abspath(file))
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        parts.insert(0, package)
    return ".".join(parts)


def full_name(thing: Any) -> str:
    """The name of a class or function, with its module's."""
    module = getattr(thing, "__module__", None) or ""
    return f"{module_name(module)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def find(module: str, qualname: str) -> Any:
    """The class or function of this name. Raises ImportError or AttributeError.

    >>> find("collections", "OrderedDict.fromkeys")
    <built-in method fromkeys of type object at ...>
    """
    return reduce(getattr, qualname.split("."), loaded(module) or import_module(module))


def loaded(name: str) -> Any:
    """The module of this name, if this process has it, under this or another name; else None."""
    for each in MAIN:
        if module_name(each) == name:
            return sys.modules[each]
    if name not in sys.modules:
        for each in list(sys.modules):
            if module_name(each) == name:
                return sys.modules[each]
    return sys.modules.get(name)


class Pickler(pickle.Pickler):
    """Pickles the classes and functions of a script by a name that holds in every process."""

    @staticmethod
    def dumps(value: Any, protocol: int) -> bytes:
        """The pickle of a value."""
        stream = io.BytesIO()
        Pickler(stream, protocol).dump(value)
        return stream.getvalue()

    def reducer_override(self, thing: Any, /) -> Any:
        return self._named(thing, always=False)

    def _named(self, thing: Any, *, always: bool) -> Any:
        if isinstance(thing, (type, FunctionType)) and type(thing.__module__) is str:
            name = module_name(thing.__module__)
            if "<locals>" in thing.__qualname__:  # nobody finds it
                return NotImplemented
            if always or name != thing.__module__:
                return find, (name, thing.__qualname__)
        return NotImplemented


class KeyPickler(Pickler):
    """The same for keys, which nobody loads: equal values have equal pickles, wherever their
    classes were defined, and whether or not two equal parts are one object."""

    @staticmethod
    def dumps(value: Any, protocol: int = 4) -> bytes:
        stream = io.BytesIO()
        pickler = KeyPickler(stream, protocol)
        pickler.fast = True
        pickler.dump(value)
        return stream.getvalue()

    def reducer_override(self, thing: Any, /) -> Any:
        return self._named(thing, always=thing is not find)
