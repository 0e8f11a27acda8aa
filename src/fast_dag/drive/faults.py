"""Exceptions between processes: they arrive with their class, facts, notes and causes.

Python pickles an exception as a call of its class with its `args`. For a class whose constructor
takes other arguments, that call fails or makes a different exception. So exceptions travel as their
parts (class, `args`, attributes, notes, causes) and are put together without a call of the
constructor. A class that defines how to pickle its instances is pickled in its own way, if that
works.
"""

from __future__ import annotations

import copyreg
import pickle
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

from fast_dag.errors import FastDAGError, add_note, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# Used directly because the class of an exception may define attributes of these names.
_ARGS: Any = vars(BaseException)["args"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_SUPPRESS: Any = vars(BaseException)["__suppress_context__"]


class Parcel:
    """A value that is pickled apart from the rest, which can be unpickled even if the value cannot.
    `data` is None if the value could not be pickled."""

    __slots__ = ("data", "kind")

    def __init__(self, value: Any, dumps: Callable[[Any], bytes]) -> None:
        self.kind = type(value).__name__
        try:
            self.data: bytes | None = dumps(value)
        except BaseException:  # the value's own methods may raise anything
            self.data = None

    def open(self) -> Any:
        """Unpickle and return the value. Raises if that, or pickling it, failed."""
        if self.data is None:
            raise pickle.PicklingError(self.kind)
        return pickle.loads(self.data)


def words_of(error: BaseException) -> str:
    """`text_of`, for exceptions whose `__str__` may raise a BaseException such as SystemExit."""
    try:
        return text_of(error)
    except BaseException:
        return "<its message cannot be shown>"


def reduced(error: BaseException, dumps: Callable[[Any], bytes], depth: int) -> tuple[Any, ...]:
    """What `__reduce__` of an exception should return.

    Parameters
    ----------
    dumps:
        Pickles a value that belongs to the exception, or the exception in its class's own way.
    depth:
        How many exceptions have this one among their causes. The causes of deep ones are left out.
    """
    kind = type(error)
    is_group = issubclass(kind, BaseExceptionGroup)
    args = (error.message, list(error.exceptions)) if is_group else _ARGS.__get__(error)  # type: ignore[attr-defined]
    sent = tuple(_sent(each, dumps) for each in args)
    attributes = _attributes(error)
    # `__notes__` that is not a list is an attribute like others.
    notes = attributes.pop("__notes__") if type(attributes.get("__notes__")) is list else None
    chain = (error.__cause__, error.__context__)
    if depth >= _MOST and chain != (None, None):
        chain = (None, None)
        notes = [*(notes or ()), "Its cause is left out: the chain of causes is too long."]
    missed: list[Any] = []  # pickled once, so `made` and `filled` share the list on arrival, too
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    state = {
        "class": f"{module}.{kind.__qualname__}",
        "missed": missed,
        "text": "" if kind.__module__ == "builtins" else words_of(error),
        "attributes": {name: _sent(value, dumps) for name, value in attributes.items()},
        "members": {name: _sent(value, dumps) for name, value in _members(error)},
        "notes": None if notes is None else [_sent(each, dumps) for each in notes],
        "chain": chain,
        "suppress": error.__suppress_context__,
    }
    whole = _whole(error, dumps) if depth < _MOST_WHOLE else None
    return made, (whole, _classes(kind, dumps), sent, missed), state, None, None, filled


class Travelling:
    """What a pickler needs so that exceptions travel: call `of_exception` in `reducer_override`."""

    def inside(self, above: tuple[int, ...], root: BaseException | None) -> None:
        """Say what it pickles: `above` are the exceptions of which this is a part, outermost first,
        and `root` is one that is pickled in its own way."""
        self._root = root
        self._around = above
        self._above: dict[int, tuple[int, ...]] = {}

    def part(self, value: Any, above: tuple[int, ...], root: BaseException | None) -> bytes:
        """A part of an exception as bytes, by another pickler of this kind."""
        raise NotImplementedError

    def of_exception(self, error: BaseException) -> Any:
        """How it is pickled, for `reducer_override`."""
        if error is self._root:
            return NotImplemented
        around = self._above.get(id(error), self._around)
        if id(error) in around:
            return _stand_in(error)
        above = (*around, id(error))
        for each in inner(error):
            self._above.setdefault(id(each), above)

        def dumps(value: Any) -> bytes:
            return self.part(value, above, error if value is error else None)

        return reduced(error, dumps, len(above))


def _stand_in(error: BaseException) -> tuple[Any, ...]:
    """`reduced` for an exception that occurs again inside of itself."""
    return made, (None, [_built_in(type(error))], (words_of(error),))


_MOST = 50
"""How deep a chain of causes may be: pickling each takes some of the stack."""
_MOST_WHOLE = 8
"""How deep exceptions are also pickled in their class's own way: they are then sent twice."""


def inner(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that an exception refers to, which are pickled along with it."""
    yield from (each for each in (error.__cause__, error.__context__) if each is not None)
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions
    own = (*_ARGS.__get__(error), *_attributes(error).values())
    yield from (each for each in own if _is_exception(each))


def _sent(value: Any, dumps: Callable[[Any], bytes]) -> Any:
    if type(value) in _PLAIN or _is_exception(value):
        return value
    if type(value) is list and all(map(_is_exception, value)):
        return value  # the members of a group
    return Parcel(value, dumps)


def _is_exception(value: Any) -> bool:
    return issubclass(type(value), BaseException)  # by type: `__class__` of a proxy is not true


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def _attributes(error: BaseException) -> dict[str, Any]:
    own: dict[str, Any] = object.__getattribute__(error, "__dict__")
    left_out = error._left_out if isinstance(error, FastDAGError) else ()
    return {name: value for name, value in own.items() if name not in left_out}


def _members(error: BaseException) -> Iterator[tuple[str, Any]]:
    """The values that are not in `__dict__`: slots, and the fields of built-in exceptions."""
    for kind in type(error).__mro__:
        is_builtin = kind.__module__ == "builtins"
        for name, descriptor in vars(kind).items():
            if not isinstance(descriptor, _FIELDS) or name[:2] == "__" or name in _ELSEWHERE:
                continue
            try:
                value = descriptor.__get__(error, kind)
            except AttributeError:
                continue  # never set
            if not (is_builtin and value is None):
                yield name, value


_FIELDS = (MemberDescriptorType, GetSetDescriptorType)
# `obj` is the object that an AttributeError is about, which may be large.
_ELSEWHERE = frozenset({"args", "message", "exceptions", "obj"})


def _whole(error: BaseException, dumps: Callable[[Any], bytes]) -> Parcel | None:
    """An exception pickled in its class's own way; None if the class has none, or it does not
    work."""
    if not _says_how(type(error)):
        return None
    whole = Parcel(error, dumps)
    try:
        return whole if type(whole.open()) is type(error) else None
    except BaseException:
        return None


def _says_how(kind: type) -> bool:
    """Whether a class defines how to pickle its instances."""

    def owner(name: str) -> type | None:
        return next((each for each in kind.__mro__ if name in vars(each)), None)

    owners = [owner(name) for name in _SAYING]
    return kind in copyreg.dispatch_table or any(
        each.__module__ != "builtins" and each is not FastDAGError for each in owners if each
    )


_SAYING = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


def _classes(kind: type, dumps: Callable[[Any], bytes]) -> list[Any]:
    """A class and its bases, up to the first built-in one, which exists in every process."""
    found: list[Any] = []
    built_in = _built_in(kind)
    for each in kind.__mro__:
        if each is built_in:
            break
        if issubclass(each, BaseException):
            found.append(Parcel(each, dumps))
    return [*found, built_in]


def _built_in(kind: type[BaseException]) -> type[BaseException]:
    """The nearest built-in base of a class."""
    bases = (each for each in kind.__mro__ if issubclass(each, BaseException))
    return next(each for each in bases if each.__module__ == "builtins")


def _maker(kind: type[BaseException]) -> Any:
    """The built-in base whose `__new__` makes instances of a class: the one with the most fields,
    which need not be the first (`class AppTimeout(AppError, TimeoutError)`)."""
    base: Any = kind
    while base.__module__ != "builtins":
        base = base.__base__
    return base


# On arrival.


def made(
    whole: Parcel | None,
    classes: Iterable[Any],
    sent: tuple[Any, ...],
    missed: list[Any] | None = None,
) -> BaseException:
    """Make an exception with its `args`, of the first of its `classes` that exists in this process.
    Those that do not are added to `missed`."""
    opened = [_opened(each, f"<{each.kind}>" if _is_parcel(each) else None) for each in sent]
    args = tuple(each for each, _ in opened)
    if whole is not None:
        try:
            error: BaseException = whole.open()
        except Exception:
            pass  # its class may not exist in this process
        else:
            if not isinstance(error, BaseExceptionGroup) and not any(lost for _, lost in opened):
                _ARGS.__set__(error, args)
            return error
    for each in classes:
        try:
            return _of(each.open() if _is_parcel(each) else each, args)
        except Exception:
            if missed is not None:
                missed.append(each)
    return Exception(*args)


def _of(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    make: Any = _maker(kind).__new__
    error: BaseException
    if issubclass(kind, BaseExceptionGroup):
        error = make(kind, *args)
        return error
    try:
        error = make(kind)
    except TypeError:  # a class written in C whose own `__new__` must be called
        error = kind.__new__(kind, *args)
    _ARGS.__set__(error, args)
    return error


def filled(error: BaseException, state: dict[str, Any]) -> None:
    """Set attributes, notes and causes of an exception that was made here."""
    own: dict[str, Any] = object.__getattribute__(error, "__dict__")
    lost: list[str] = []
    for name, value in state["members"].items():
        there, is_lost = _opened(value, None)
        if is_lost:
            lost.append(f"{name!r}, a {value.kind}")
            continue
        descriptor = _descriptor(type(error), name)
        try:
            descriptor.__set__(error, there)
        except (AttributeError, TypeError):
            if descriptor is None:  # its class is missing here, so the base has no such slot
                own[name] = there
    for name, value in state["attributes"].items():
        there, is_lost = _opened(value, None)
        if is_lost and name in own:
            continue  # its class has set it already
        if is_lost:
            lost.append(f"{name!r}, a {value.kind}")
        if not (is_lost and name == "__notes__"):
            own[name] = there
    if state["notes"] is not None:
        notes = [(each, *_opened(each, None)) for each in state["notes"]]
        own["__notes__"] = [there for _, there, is_lost in notes if not is_lost]
        lost += [f"a note, a {each.kind}" for each, _, is_lost in notes if is_lost]
    if state["missed"]:
        note = f"It was a {state['class']}, which does not exist in this process: {state['text']}"
        add_note(error, note.rstrip(": "))
    if lost:
        add_note(error, f"Left out because it cannot travel between processes: {'; '.join(lost)}")
    cause, context = state["chain"]
    if cause is not None:
        _CAUSE.__set__(error, cause)
    if context is not None:
        _CONTEXT.__set__(error, context)
    _SUPPRESS.__set__(error, state["suppress"])


def _is_parcel(value: Any) -> bool:
    return type(value) is Parcel


def _opened(value: Any, otherwise: Any) -> tuple[Any, bool]:
    """A value that was sent, or `otherwise` if it cannot be unpickled, and whether it was lost."""
    if not _is_parcel(value):
        return value, False
    try:
        return value.open(), False
    except Exception:
        return otherwise, True


def _descriptor(kind: type, name: str) -> Any:
    found = (vars(each)[name] for each in kind.__mro__ if name in vars(each))
    return next((each for each in found if isinstance(each, _FIELDS)), None)
