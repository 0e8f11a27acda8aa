"""The classes that stored values may have: those that annotations or `allow=` name.

A class is known by "module:qualname", as `allow=` writes it. What an annotation names is there
already. Only a text in `allow=` leads to an import, and only when a value has such a class.
"""

from __future__ import annotations

import typing
from enum import Enum, Flag
from sys import modules
from types import FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, ForwardRef, get_args, get_origin
from zlib import crc32

from fast_dag.cache.origins import find, module_name
from fast_dag.store.errors import DecodeError
from fast_dag.store.forms import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_HEAP: Final = 1 << 9
"""CPython's Py_TPFLAGS_HEAPTYPE: a class that Python code has defined, mostly."""


class Unset:
    """Stands for a field that has no value."""

    __slots__ = ()


UNSET: Final = Unset()


def class_name(kind: type) -> str:
    """The name of a class in a store, the same in every process.

    >>> class_name(ForwardRef)
    'typing:ForwardRef'
    """
    return f"{module_name(kind.__module__)}:{kind.__qualname__}"


class Layout:
    """How instances of one class are taken apart, and made without a call of `__init__`.

    `kind` is "enum", "flag", "tuple" (a NamedTuple) or "fields". An instance is the values of its
    `fields` in order, and `extras` by name: what else is in its `__dict__` and its slots.
    """

    __slots__ = ("cls", "fields", "id", "kind", "name", "slots", "told")

    def __init__(self, cls: type, kind: str, fields: tuple[str, ...]) -> None:
        self.cls: Any = cls
        self.kind = kind
        self.name = class_name(cls)
        self.fields = fields
        self.slots = dict(_slots(cls)) if kind == "fields" else {}
        self.told = [self.name, kind, *fields]
        self.id = id_of(self.told)

    def parts(self, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """The values of the fields, and the extras."""
        if self.kind == "fields":
            if not self.slots and tuple(value.__dict__) == self.fields:  # most classes
                return list(value.__dict__.values()), {}
            own: dict[str, Any] = {**getattr(value, "__dict__", {})}
            for name, slot in self.slots.items():
                try:
                    own[name] = slot.__get__(value)
                except AttributeError:
                    own.setdefault(name, UNSET)
            own.pop("__orig_class__", None)  # set by typing: `Box[int](1)` is a Box of 1
            return [own.pop(name, UNSET) for name in self.fields], own
        if self.kind == "tuple":
            return list(tuple.__iter__(value)), getattr(value, "__dict__", {})
        if self.kind == "flag":
            return [value._value_], {}
        if self.cls.__members__.get(value._name_) is not value:
            raise Refused(value, "which is no member of its class")
        return [value._name_], {}

    def made(self, parts: list[Any]) -> Any:
        """The instance of these values, which the extras may follow."""
        if self.kind in ("enum", "flag"):
            return self._member(*parts)
        count = len(self.fields)
        values, extras = parts[:count], parts[count:]
        if len(values) != count:
            raise ValueError("a field is missing")
        made: Any
        if self.kind == "tuple":
            made = tuple.__new__(self.cls, values)
        else:
            made = object.__new__(self.cls)
            if not self.slots and not extras and Unset not in map(type, values):  # most classes
                made.__dict__.update(zip(self.fields, values, strict=True))
                return made
        state = {} if self.kind == "tuple" else dict(zip(self.fields, values, strict=True))
        if extras:
            (more,) = extras
            state.update(more)
        for name, slot in self.slots.items():
            there = state.pop(name)
            if there is not UNSET:
                slot.__set__(made, there)
        if state:
            made.__dict__.update((key, each) for key, each in state.items() if each is not UNSET)
        return made

    def _member(self, stored: Any) -> Any:
        if self.kind == "enum":
            member = self.cls.__members__.get(stored)
        else:
            member = self.cls._value2member_map_.get(stored)
            if member is None:
                member = self.cls(stored)  # members together
        if type(member) is not self.cls:
            raise DecodeError(f"{self.name} has no member {stored!r} any more", name=self.name)
        return member


def id_of(told: list[str]) -> bytes:
    """Stands for a class and its fields within one value."""
    return crc32("\0".join(told).encode("utf-8", "surrogatepass")).to_bytes(4, "little")


def _slots(cls: type) -> Iterator[tuple[str, MemberDescriptorType]]:
    for base in cls.__mro__:
        for name, each in vars(base).items():
            if type(each) is MemberDescriptorType:
                yield name, each


def layout_of(cls: Any) -> Layout | None:
    """The layout of a class; None if instances of this class are not stored.

    >>> from fractions import Fraction
    >>> layout_of(Fraction) is None
    True
    """
    if issubclass(cls, Enum):
        return Layout(cls, "flag" if issubclass(cls, Flag) else "enum", ())
    built_in = {each for each in cls.__mro__ if not each.__flags__ & _HEAP}
    if built_in == {tuple, object} and "_fields" in dir(cls):
        return Layout(cls, "tuple", tuple(cls._fields))
    if built_in != {object}:
        return None
    fields = _fields(cls)
    return None if fields is None else Layout(cls, "fields", fields)


def _fields(cls: Any) -> tuple[str, ...] | None:
    """The fields of dataclasses, pydantic models and attrs classes."""
    if "__dataclass_fields__" in dir(cls):
        return tuple(each.name for each in modules["dataclasses"].fields(cls))
    if "__pydantic_fields__" in dir(cls):
        return tuple(cls.__pydantic_fields__)
    if "__attrs_attrs__" in dir(cls):
        return tuple(each.name for each in cls.__attrs_attrs__)
    return None


class Classes:
    """Finds the classes that values may have.

    Parameters
    ----------
    allow:
        Classes; "module:qualname" of a class; or a module, with those below it, whose own classes
        are meant.
    annotations:
        Annotations of nodes, or functions that have them. Fields of classes in them count, too.
    all_classes:
        Any class may be written: who reads the values decides.
    """

    def __init__(
        self,
        allow: Iterable[type | str],
        annotations: Iterable[object],
        all_classes: bool = False,
    ) -> None:
        self._all_classes = all_classes
        given = list(allow)
        for each in given:
            if not isinstance(each, type) and not (isinstance(each, str) and each):
                raise TypeError(
                    f"allow= names classes and modules, like ['shop:Order'], not {each!r}"
                )
        self._texts = frozenset(_lasting(each) for each in given if isinstance(each, str))
        self._given = [*(each for each in given if isinstance(each, type)), *annotations]
        self._named: dict[str, Any] | None = None

    def layout(self, cls: type) -> Layout | None:
        """How instances of a class are stored; None if they are not, or if nothing names it."""
        layout = layout_of(cls)
        return layout if layout is not None and self._found(layout.name) is cls else None

    def find(self, told: list[str]) -> Layout:
        """The class of a stored value. Raises DecodeError if it is not allowed, or has changed."""
        name = told[0]
        cls = self._found(name)
        if cls is None:
            raise DecodeError(
                f"the stored value has the class {name!r}, which no annotation of a node names; "
                f"if that is right, allow it: allow=[{name!r}]",
                name=name,
            )
        layout = layout_of(cls)
        if layout is None or layout.told != told:
            now = "nothing that is stored" if layout is None else f"{layout.told[1:]}"
            raise DecodeError(
                f"the class {name!r} has changed since the value was stored: it was {told[1:]} and "
                f"is {now}",
                name=name,
            )
        return layout

    def _found(self, name: str) -> Any:
        if self._named is None:
            self._named = {class_name(each): each for each in _classes_in(self._given)}
        found = self._named.get(name)
        if found is None and self._allows(name):
            found = self._named[name] = _imported(name)
        return found

    def _allows(self, name: str) -> bool:
        module, _, qualname = name.partition(":")
        parts = (*module.split("."), *qualname.split("."))
        if not all(each.isidentifier() and not each.startswith("__") for each in parts):
            return False
        above = module.split(".")
        homes = {".".join(above[: count + 1]) for count in range(len(above))}
        return self._all_classes or name in self._texts or not homes.isdisjoint(self._texts)


def _lasting(text: str) -> str:
    """A text of `allow=` with the name that its module has in every process: a script says
    "__main__"."""
    module, colon, qualname = text.partition(":")
    return f"{module_name(module)}{colon}{qualname}"


def _imported(name: str) -> Any:
    """The class of an allowed name."""
    module, _, qualname = name.partition(":")
    try:
        found = find(module, qualname)
    except Exception as error:  # the module's own code may raise anything
        raise DecodeError(f"the class {name!r} cannot be imported: {error}", name=name) from error
    if not isinstance(found, type):
        raise DecodeError(f"{name!r} is no class", name=name)
    return found


def _classes_in(given: Iterable[Any]) -> Iterator[type]:
    """The classes that these annotations name, with those in the fields of such classes."""
    todo = list(given)
    seen: dict[int, Any] = {}  # keeps them alive, or another would get the same id
    while todo:
        each = todo.pop()
        if isinstance(each, (list, tuple)):
            todo.extend(each)
            continue
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, Enum):  # of a Literal
            todo.append(type(each))
        elif get_origin(each) is not None:
            todo += [get_origin(each), *get_args(each)]
        elif isinstance(each, type):
            if each.__flags__ & _HEAP:
                yield each
                todo.extend(_hints(each).values())
                todo.extend(_pydantic_hints(each))
        elif isinstance(each, FunctionType):
            todo.extend(_hints(each).values())
        else:
            todo.extend(_inside(each))


_INSIDE: Final = ("__supertype__", "__bound__", "__constraints__", "__value__")


def _inside(annotation: Any) -> Iterator[Any]:
    """What NewType, TypeVar and the statement `type` stand for."""
    if type(annotation).__module__ == "typing":
        for name in _INSIDE:
            found = getattr(annotation, name, None)
            if found is not None:
                yield found


def _pydantic_hints(cls: Any) -> list[Any]:
    fields = vars(cls).get("__pydantic_fields__", {})
    generic = vars(cls).get("__pydantic_generic_metadata__") or {}
    return [*(each.annotation for each in fields.values()), *generic.get("args", ())]


def _hints(thing: Any) -> Mapping[str, Any]:
    """The annotations of a function or class. Those that name what only type checkers import are
    left out."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:  # the text is the user's, who may refer to anything
        pass
    found: dict[str, Any] = {}
    for each in reversed(getattr(thing, "__mro__", (thing,))):
        space = vars(modules.get(each.__module__, typing))
        for name, told in getattr(each, "__annotations__", {}).items():
            text = told.__forward_arg__ if isinstance(told, ForwardRef) else told
            if not isinstance(text, str):
                found[name] = text
                continue
            try:
                # As typing.get_type_hints does with all of them at once.
                found[name] = eval(text, dict(space), {})  # the user's own source
            except Exception:
                continue
    return found
