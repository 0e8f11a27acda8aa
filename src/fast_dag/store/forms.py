"""Values of the standard library and of the engine as parts, and back: what codec `plain` knows
beside JSON."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from sys import modules
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fast_dag.returns import ConditionalReturn, ItemError, SelectReturn
from fast_dag.store.errors import (
    DecodeError,
    EncodeError,
    StoredError,
    from_data,
    name_of,
    to_data,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LONG: Final = 300
"""Characters of a place that a message shows."""


class Refused(Exception):  # noqa: N818  it becomes an EncodeError
    """Raised inside of a codec where a value has no exact form. On its way up it learns where.

    `words` say what is wrong, `remedy` what could be done, beside what is always possible.
    """

    def __init__(self, value: object, words: str, remedy: str = "") -> None:
        super().__init__(words)
        self.kind = name_of(type(value))
        self.words = words
        self.remedy = remedy
        self._owners = [value]
        self._labels: list[str] = []

    def climb(self, owner: object, *parts: tuple[str, Iterable[tuple[object, object]]]) -> None:
        """Note that what was refused is a part of `owner`. Its parts are pairs (name, part), and
        before them how a name is shown in the place."""
        child = self._owners[-1]
        shown = (
            form.format(name) for form, pairs in parts for name, each in pairs if each is child
        )
        self._labels.append(next(shown, ""))
        self._owners.append(owner)

    def error(self, codec: str = "plain") -> EncodeError:
        """The error that users of that codec see."""
        owners, labels = self._owners[::-1], self._labels[::-1]
        above: set[int] = set()
        words, remedy, kind = self.words, self.remedy, self.kind
        for depth, owner in enumerate(owners):
            if id(owner) in above:
                words, kind = "which contains itself", name_of(type(owner))
                remedy = "store ids instead of the objects themselves"
                labels = labels[:depth]
                break
            above.add(id(owner))
        place = "".join(labels)
        shown = place if len(place) <= _LONG else f"{place[:_LONG]}..."
        where = f"what is at {shown} in the value" if shown else "the value"
        remedy = f"{remedy[:1].upper()}{remedy[1:]}; or take" if remedy else "Take"
        return EncodeError(
            f"{where} cannot be stored: it is of class {kind}, {words}. {remedy} {_OTHERS[codec]}"
            "stored=False for a node, which computes its value again where it is needed",
            place=place,
            type=kind,
        )


_OTHERS: Final = {
    "plain": "another codec, such as codec='pickle', or ",
    "pickle": "codec='cloudpickle', or ",
    "cloudpickle": "",
}


class Raw:
    """Bytes of an array, which are written without a copy."""

    __slots__ = ("view",)

    def __init__(self, view: Any) -> None:
        self.view = view


class Form(NamedTuple):
    """How values of one class are stored.

    `take` gives the parts of a value, and `build` the value. `is_checked`: the value is decoded
    when it is encoded, because packages have ways of their own.
    """

    code: int
    take: Callable[[Any], tuple[object, ...]]
    build: Callable[..., object]
    is_checked: bool = False


def package(name: str) -> Any:
    """A package that a stored value needs; DecodeError where it is not installed."""
    try:
        return modules.get(name) or import_module(name)
    except ModuleNotFoundError as error:
        raise DecodeError(
            f"the value needs {name}, which is not installed here", name=name
        ) from error


def _of_text(value: Any) -> tuple[object, ...]:
    return (str(value),)


def _moment(value: Any) -> tuple[object, ...]:
    """A datetime or a time."""
    return value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo


def _datetime(text: str, fold: int, zone: Any) -> datetime:
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _time(text: str, fold: int, zone: Any) -> time:
    return time.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _timezone_parts(value: timezone) -> tuple[object, ...]:
    return (*value.__getinitargs__(),)  # type: ignore[attr-defined]  # what pickle takes


def _zone_parts(value: ZoneInfo) -> tuple[object, ...]:
    if value.key is None:
        raise Refused(value, "which has no key: it was read from a file")
    return (value.key,)


def _zone(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except ZoneInfoNotFoundError as error:
        raise DecodeError(f"the time zone {key!r} is not known here", name=key) from error


def _uuid(data: bytes, safe: int | None) -> UUID:
    return UUID(bytes=data, is_safe=SafeUUID(safe))


def _bytearray(data: memoryview) -> bytearray:
    return bytearray(memoryview(data))  # an int would be a size


_FACTORIES: Final[dict[str, Any]] = {
    each.__name__: each
    for each in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple, Counter, deque)
}


def _defaults(value: defaultdict[Any, Any]) -> tuple[object, ...]:
    factory: Any = value.default_factory
    name = getattr(factory, "__name__", "")
    if factory is not None and _FACTORIES.get(name) is not factory:
        raise Refused(value, "whose default_factory is no built-in class")
    return (None if factory is None else name), dict(value)


def _defaultdict(name: str | None, items: dict[Any, Any]) -> defaultdict[Any, Any]:
    return defaultdict(None if name is None else _FACTORIES[name], items)


def _counter(items: dict[Any, Any]) -> Counter[Any]:
    made: Counter[Any] = Counter()
    made.update(items)  # counts of a mapping as they are
    return made


def _offset_parts(value: Any) -> tuple[object, ...]:
    """The fixed offset of a datetime that pydantic has parsed, in seconds."""
    return (int(value.utcoffset(None).total_seconds()),)


def _offset(seconds: int) -> Any:
    return package("pydantic_core").TzInfo(seconds)


def _pytz_parts(value: Any) -> tuple[object, ...]:
    """The name of a time zone of pytz, which pandas 2 has, and which of its offsets this is."""
    if value.zone == "UTC":
        return ("UTC",)
    return (*value.__reduce__()[1],)


def _pytz(*parts: Any) -> Any:
    return package("pytz").tzinfo.unpickler(*parts)  # a look-up, no pickle


def _item_error_parts(value: ItemError) -> tuple[object, ...]:
    return value.key, to_data(value.error)


def _item_error(key: Any, error: dict[str, Any]) -> ItemError:
    return ItemError(key, from_data(error))


FORMS: Final[dict[type, Form]] = {
    date: Form(1, lambda value: (value.isoformat(),), date.fromisoformat),
    datetime: Form(2, _moment, _datetime),
    time: Form(3, _moment, _time),
    timedelta: Form(4, lambda value: (value.days, value.seconds, value.microseconds), timedelta),
    timezone: Form(5, _timezone_parts, timezone),
    ZoneInfo: Form(6, _zone_parts, _zone),
    Decimal: Form(7, _of_text, Decimal),
    Fraction: Form(8, lambda value: (value.numerator, value.denominator), Fraction),
    UUID: Form(9, lambda value: (value.bytes, value.is_safe.value), _uuid),
    complex: Form(10, lambda value: (value.real, value.imag), complex),
    range: Form(11, lambda value: (value.start, value.stop, value.step), range),
    bytearray: Form(12, lambda value: (Raw(value),), _bytearray),
    deque: Form(13, lambda value: (list(value), value.maxlen), deque),
    OrderedDict: Form(14, lambda value: (dict(value),), OrderedDict),
    defaultdict: Form(15, _defaults, _defaultdict),
    Counter: Form(16, lambda value: (dict(value),), _counter),
    PosixPath: Form(17, _of_text, PosixPath),
    WindowsPath: Form(18, _of_text, WindowsPath),
    PurePosixPath: Form(19, _of_text, PurePosixPath),
    PureWindowsPath: Form(20, _of_text, PureWindowsPath),
    ItemError: Form(23, _item_error_parts, _item_error),
    StoredError: Form(24, lambda value: (to_data(value),), from_data),
    ConditionalReturn: Form(25, lambda value: (value.condition, value.value), ConditionalReturn),
    SelectReturn: Form(26, lambda value: (value.branch, value.value), SelectReturn),
}

OFFSET: Final = Form(21, _offset_parts, _offset, True)
PYTZ: Final = Form(22, _pytz_parts, _pytz, True)
