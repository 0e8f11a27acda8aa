"""The bytes of codec `plain`: a row of instructions that build a value on a stack.

    byte 0        version of the format: 1
    bytes 1-4     CRC-32 of what follows, little-endian; numbers below are little-endian, too
    the rest      instructions, one byte each, some with an operand; one value is left at the end

    J size utf-8          JSON: null, booleans, numbers, texts, lists, dicts whose keys are texts
    N T F                 None, True, False
    i byte                an int from -128 to 127
    l 8 bytes             an int of 64 bits; n size bytes: a longer one, two's complement
    d 8 bytes             a float
    s size utf-8          a text; lone surrogates are kept as UTF-8 would write them
    b size bytes          bytes; v size bytes: the same as a part of an array
    D size bytes          many floats, 8 bytes each; Q size bytes: many ints of 64 bits
    u                     no value: a field that is not set
    [                     begins a container, which one of the next takes from the stack:
    ] ) }                 a list, a tuple, a dict (keys and values in turn)
    > z                   a set, a frozenset; the elements are sorted by their bytes
    f byte                a value of another known class, by its parts: forms.py, frames.py
    c                     defines a class: name, kind, names of fields. Leaves nothing
    o 4 bytes             an instance of a defined class: values of its fields, a dict of the rest

A size is one byte below 255, or 255 and 8 bytes. Containers are nested in at most 200 others.
"""

from __future__ import annotations

import sys
from array import array
from decimal import Decimal
from json import JSONDecoder, JSONEncoder
from struct import Struct, error, pack
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from fast_dag.errors import brief_of, failures
from fast_dag.store.classes import UNSET, Classes, Layout, Unset, class_name, id_of, layout_of
from fast_dag.store.errors import DamagedError, DecodeError, StoreError
from fast_dag.store.forms import FORMS, Form, Raw, Refused
from fast_dag.store.frames import BY_CODE, form_of

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = b"\x01"
_BEGIN: Final = 5  # bytes before the instructions
_DEEPEST: Final = 200
_DEEPEST_JSON: Final = 50
_MOST: Final = 10_000_000
"""Containers in one value. The same few again and again, each in several others, are more than any
memory holds."""
_MANY: Final = 16
"""From so many elements on, floats or ints are packed."""
_FEW: Final = 64
"""So many parts are joined once. More are joined before, so that the checksum is quick."""
_SHORT: Final = 255
"""Values of fewer bytes: their sizes are one byte."""
_DIGITS: Final = 100_000
"""Digits of an int in JSON that are read at most."""

_TEXTS: Final = frozenset({str})
_SIMPLE: Final = frozenset({type(None), bool, int, float, str})
_NESTED: Final = _SIMPLE | {list, dict}
_FLOATS: Final = frozenset({float})
_INTS: Final = frozenset({int})
_JSON: Final = JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode
_READ_JSON: Final = JSONDecoder().raw_decode
_DOUBLE: Final = Struct("<d")
_INT: Final = Struct("<q")
_BYTE: Final = Struct("<b")
_HEAD: Final = Struct("<cI")


def _size(count: int) -> bytes:
    return bytes((count,)) if count < 255 else b"\xff" + count.to_bytes(8, "little")


def _code(kinds: set[type]) -> str:
    """How `array` packs elements of these classes; "" if it does not."""
    if len(kinds) != 1:
        return ""
    return "d" if kinds == _FLOATS else "q" if kinds == _INTS else ""


# Writing. One function for each class of values; it is called by the container it is in.


class Writers(dict[type, "Callable[[Writer, Any], None]"]):
    """The function that writes values of a class. It is found when the first value is met."""

    def __init__(self, classes: Classes) -> None:
        super().__init__(_WRITERS)
        self._classes = classes

    def __missing__(self, kind: type) -> Callable[[Writer, Any], None]:
        form = form_of(kind)
        if form is not None:
            write = _form_writer(form)
        else:
            try:
                layout = self._classes.layout(kind)
            except DecodeError:
                layout = None
            if layout is None:
                return _refuse
            write = _instance_writer(layout)
        self[kind] = write
        return write


class Writer:
    """Writes one value. `is_checked`: the bytes are read before they are stored."""

    __slots__ = ("defined", "depth", "is_checked", "left", "parts", "writers")

    def __init__(self, writers: Writers) -> None:
        self.writers = writers
        self.parts: list[Any] = []
        self.defined: dict[bytes, Layout] = {}
        self.is_checked = False
        self.depth = 0
        self.left = _MOST

    def encoded(self, value: Any) -> bytes:
        """The bytes of a value. Raises Refused."""
        try:
            self.writers[type(value)](self, value)
        except RecursionError:
            raise Refused(value, "nested too deeply for what is left of the stack") from None
        parts = self.parts
        if self.defined:
            parts = [*self._definitions(), *parts]
        if len(parts) > _FEW:
            parts = [b"".join(parts)]
        checksum = 0
        for each in parts:
            checksum = crc32(each, checksum)
        return b"".join((_HEAD.pack(VERSION, checksum), *parts))

    def _definitions(self) -> list[bytes]:
        """The classes in the value, in an order that does not depend on the order of sets."""
        parts = []
        for _, layout in sorted(self.defined.items()):
            parts += [b"[", *map(_text, layout.told), b"c"]
        return parts

    def define(self, layout: Layout, value: Any) -> None:
        """Note that the class of an instance is needed."""
        there = self.defined.setdefault(layout.id, layout)
        if there is not layout:
            raise Refused(value, f"which cannot be told from a {there.name} beside it")

    def open(self, value: Any) -> None:
        """Begin a container."""
        self.left -= 1
        if self.depth >= _DEEPEST:
            raise Refused(value, f"nested in more than {_DEEPEST} others", "make it flatter")
        if self.left < 0:
            raise Refused(value, f"one of more than {_MOST:,} containers", "store arrays or frames")
        self.depth += 1
        self.parts.append(b"[")

    def close(self, instruction: bytes) -> None:
        """End the container that was opened last."""
        self.depth -= 1
        self.parts.append(instruction)

    def as_json(self, value: Any) -> bool:
        """Write a list or dict as JSON, if JSON keeps it exactly."""
        try:
            if not self._is_json(value, min(_DEEPEST_JSON, _DEEPEST - 1 - self.depth)):
                return False
            text = _JSON(value)
            data = text.encode()  # raises for lone surrogates
        except (ValueError, RecursionError):  # NaN and infinity, too
            return False
        self.parts += (b"J", _size(len(data)), data)
        return True

    def _is_json(self, value: Any, depth: int) -> bool:
        """Whether a list or dict is JSON that has at most so many levels below it. One level is
        looked at after the other, because that takes few steps of Python."""
        dicts, lists = ([value], []) if type(value) is dict else ([], [value])
        while depth >= 0:
            self.left -= len(dicts) + len(lists)
            inside: list[Any] = []
            for each in lists:
                if len(each) >= _MANY and _code({*map(type, each)}):
                    return False  # packed is shorter and faster
                inside += each
            for each in dicts:
                if not _TEXTS.issuperset(map(type, each)):
                    return False
                inside += each.values()
            kinds = {*map(type, inside)}
            if kinds <= _SIMPLE:
                return True
            if not kinds <= _NESTED or self.left < 0:
                return False
            dicts = [each for each in inside if type(each) is dict] if dict in kinds else []
            lists = [each for each in inside if type(each) is list] if list in kinds else []
            depth -= 1
        return False

    def pack(self, value: Any, end: bytes) -> bool:
        """Write a list or tuple of many floats, or many ints, at once; False if it is another."""
        if len(value) < _MANY:
            return False
        code = _code({*map(type, value)})
        if not code:
            return False
        try:
            data = pack(f"<{len(value)}{code}", *value)
        except error:  # an int of more than 64 bits
            return False
        self.open(value)
        self.parts += (b"D" if code == "d" else b"Q", _size(len(data)), data)
        self.close(end)
        return True

    def items(self, value: Any, end: bytes) -> None:
        """Write a list or tuple by its elements."""
        self.open(value)
        writers = self.writers
        try:
            for each in value:
                writers[type(each)](self, each)
        except Refused as refused:
            refused.climb(value, ("[{}]", enumerate(value)))
            raise
        self.close(end)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"s" + _size(len(data)) + data


def _int(value: int) -> bytes:
    if -128 <= value < 128:
        return b"i" + (value & 255).to_bytes(1, "little")
    if -(2**63) <= value < 2**63:
        return b"l" + _INT.pack(value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"".join((b"n", _size(len(data)), data))


_SCALARS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _int,
    float: lambda value: b"d" + _DOUBLE.pack(value),
    str: _text,
}
"""The instruction for a value that is one."""


def _scalar_writer(instruction: Callable[[Any], bytes]) -> Callable[[Writer, Any], None]:
    return lambda writer, value: writer.parts.append(instruction(value))


def _bytes(writer: Writer, value: bytes) -> None:
    writer.parts += (b"b", _size(len(value)), value)


def _raw(writer: Writer, value: Raw) -> None:
    writer.parts += (b"v", _size(len(value.view)), value.view)


def _unset(writer: Writer, value: Unset) -> None:
    writer.parts.append(b"u")


def _list(writer: Writer, value: list[Any]) -> None:
    if not writer.pack(value, b"]") and not writer.as_json(value):
        writer.items(value, b"]")


def _tuple(writer: Writer, value: tuple[Any, ...]) -> None:
    if not writer.pack(value, b")"):
        writer.items(value, b")")


def _dict(writer: Writer, value: dict[Any, Any]) -> None:
    if not writer.as_json(value):
        _pairs(writer, value, "[{!r}]")


def _pairs(writer: Writer, value: dict[Any, Any], label: str) -> None:
    """Write a dict by its keys and values. `label` is how the place of a value is shown."""
    writer.open(value)
    writers = writer.writers
    try:
        for key, each in value.items():
            writers[type(key)](writer, key)
            writers[type(each)](writer, each)
    except Refused as refused:
        refused.climb(value, (label, value.items()), ("<key {!r}>", zip(value, value, strict=True)))
        raise
    writer.close(b"}")


def _set(writer: Writer, value: set[Any]) -> None:
    _elements(writer, value, b">")


def _frozenset(writer: Writer, value: frozenset[Any]) -> None:
    _elements(writer, value, b"z")


def _elements(writer: Writer, value: Any, end: bytes) -> None:
    writer.open(value)
    outer, found = writer.parts, []
    try:
        for each in value:
            writer.parts = []
            writer.writers[type(each)](writer, each)
            found.append(b"".join(writer.parts))
    except Refused as refused:
        refused.climb(value, ("<element {!r}>", zip(value, value, strict=True)))
        raise
    finally:
        writer.parts = outer
    outer += sorted(found)
    writer.close(end)


def _form_writer(form: Form) -> Callable[[Writer, Any], None]:
    end = b"f" + bytes((form.code,))

    def write(writer: Writer, value: Any) -> None:
        if form.is_checked:
            writer.is_checked = True
        writer.open(value)
        try:
            parts = form.take(value)
        except (Refused, StoreError):
            raise
        except failures() as error:
            raised = brief_of(error)
            raise Refused(value, f"which raised {raised} when it was read") from error
        writers = writer.writers
        try:
            for each in parts:
                writers[type(each)](writer, each)
        except Refused as refused:
            refused.climb(value)
            raise
        writer.close(end)

    return write


def _instance_writer(layout: Layout) -> Callable[[Writer, Any], None]:
    end = b"o" + layout.id
    is_checked = layout.kind == "fields"

    def write(writer: Writer, value: Any) -> None:
        if is_checked:
            writer.is_checked = True
        writer.define(layout, value)
        writer.open(value)
        values, extras = layout.parts(value)
        writers = writer.writers
        try:
            for each in values:
                writers[type(each)](writer, each)
            if extras:
                _pairs(writer, extras, ".{}")
        except Refused as refused:
            refused.climb(value, (".{}", zip(layout.fields, values, strict=False)))
            raise
        writer.close(end)

    return write


def _refuse(writer: Writer, value: Any) -> None:
    kind = type(value)
    name = class_name(kind)
    if layout_of(kind) is not None:
        raise Refused(
            value,
            "which no annotation of a node names",
            f"name it in one, or by allow=[{name!r}]",
        )
    base = next((each for each in kind.__mro__[1:] if each in _WRITERS), None)
    if base is not None:
        raise Refused(value, f"a subclass of {base.__name__}", f"make it {base.__name__} itself")
    raise Refused(value, "which is none of the data that this codec knows")


_WRITERS: Final[dict[type, Callable[[Writer, Any], None]]] = {
    **{kind: _scalar_writer(instruction) for kind, instruction in _SCALARS.items()},
    bytes: _bytes,
    Raw: _raw,
    Unset: _unset,
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    **{kind: _form_writer(form) for kind, form in FORMS.items()},
}


def encoded(value: Any, writers: Writers) -> tuple[bytes, bool]:
    """The bytes of a value, and whether they are to be read before they are stored. Raises
    Refused."""
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        instruction = scalar(value)
        return _HEAD.pack(VERSION, crc32(instruction)) + instruction, False
    writer = Writer(writers)
    return writer.encoded(value), writer.is_checked


def is_intact(data: bytes) -> bool:
    """Whether the bytes of a value are as they were written, by their checksum."""
    return len(data) > _BEGIN and crc32(data[_BEGIN:]) == _HEAD.unpack_from(data)[1]


# Reading. One function for each instruction. The stack is a list, so nothing recurses.


class Reader:
    """Reads one value."""

    __slots__ = ("classes", "data", "defined", "marks", "place", "stack", "view")

    def __init__(self, data: bytes, classes: Classes) -> None:
        self.data = data
        self.view = memoryview(data)
        self.place = _BEGIN
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.defined: dict[bytes, Layout] = {}
        self.classes = classes

    def decoded(self) -> Any:
        """The value. Raises DecodeError, or anything else if the bytes are damaged."""
        data, end = self.data, len(self.data)
        while self.place < end:
            instruction = data[self.place]
            self.place += 1
            _READERS[instruction](self)
        (value,) = self.stack
        if self.marks:
            raise ValueError("a container has no end")
        return value

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        place = self.place
        self.place = end = place + count
        if end > len(self.data):
            raise ValueError("it ends too early")
        return self.view[place:end]

    def sized(self) -> memoryview:
        """The next bytes, as many as the size before them says."""
        place = self.place
        size = self.data[place]
        self.place = place = place + 1
        if size == 255:
            return self.take(int.from_bytes(self.take(8), "little"))
        self.place = end = place + size
        if end > len(self.data):
            raise ValueError("it ends too early")
        return self.view[place:end]

    def closed(self) -> list[Any]:
        """The elements of the container that ends here."""
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found


def _long_int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("an int is too long")
    return int(Decimal(digits))  # has no limit, unlike `int`


def _json_value(data: Any) -> Any:
    text = str(data, "utf-8")
    try:
        value, end = _READ_JSON(text)
    except ValueError:  # perhaps an int that is longer than this process reads
        value, end = JSONDecoder(parse_int=_long_int).raw_decode(text)
    if end != len(text):
        raise ValueError("text after JSON")
    return value


_ALONE: Final[dict[int, tuple[int | None, Callable[[Any], Any]]]] = {
    ord("N"): (0, lambda data: None),
    ord("T"): (0, lambda data: True),
    ord("F"): (0, lambda data: False),
    ord("i"): (1, lambda data: _BYTE.unpack(data)[0]),
    ord("l"): (8, lambda data: _INT.unpack(data)[0]),
    ord("n"): (None, lambda data: int.from_bytes(data, "little", signed=True)),
    ord("d"): (8, lambda data: _DOUBLE.unpack(data)[0]),
    ord("s"): (None, lambda data: str(data, "utf-8", "surrogatepass")),
    ord("b"): (None, bytes),
    ord("J"): (None, _json_value),
}
"""The instructions that need nothing of the stack: how many bytes their operand has, None if a size
is before it, and the value of the operand."""

_MORE: Final = -1, bytes
"""In the place of the others."""


def _read_alone(size: int | None, value: Callable[[Any], Any]) -> Callable[[Reader], None]:
    if size is None:
        return lambda reader: reader.stack.append(value(reader.sized()))
    return lambda reader: reader.stack.append(value(reader.take(size)))


def _read_raw(reader: Reader) -> None:
    reader.stack.append(reader.sized())


def _unpacker(code: str) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        packed = array(code)
        packed.frombytes(reader.sized())
        if sys.byteorder == "big":
            packed.byteswap()
        reader.stack += packed.tolist()

    return read


def _read_open(reader: Reader) -> None:
    if len(reader.marks) >= _DEEPEST:
        raise ValueError("it is nested too deeply")
    reader.marks.append(len(reader.stack))


def _read_dict(reader: Reader) -> None:
    found = reader.closed()
    made = dict(zip(found[::2], found[1::2], strict=True))
    if 2 * len(made) != len(found):
        raise ValueError("a key twice")
    reader.stack.append(made)


def _closer(make: Callable[[list[Any]], Any]) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        found = reader.closed()
        made = make(found)
        if len(made) != len(found):
            raise ValueError("an element twice")
        reader.stack.append(made)

    return read


def _read_form(reader: Reader) -> None:
    form = _BY_CODE[reader.take(1)[0]]
    reader.stack.append(form.build(*reader.closed()))


def _read_class(reader: Reader) -> None:
    told = reader.closed()
    if {*map(type, told)} != _TEXTS or reader.marks:
        raise ValueError("a class is damaged")
    reader.defined[id_of(told)] = reader.classes.find(told)


def _read_instance(reader: Reader) -> None:
    layout = reader.defined[bytes(reader.take(4))]
    reader.stack.append(layout.made(reader.closed()))


def _read_unset(reader: Reader) -> None:
    reader.stack.append(UNSET)


def _unknown(reader: Reader) -> None:
    raise ValueError("an unknown instruction")


_BY_CODE: Final = {**{form.code: form for form in FORMS.values()}, **BY_CODE}
_READERS: Final[list[Callable[[Reader], None]]] = [_unknown] * 256
for _code_of, _operand in _ALONE.items():
    _READERS[_code_of] = _read_alone(*_operand)
for _instruction, _read in {
    b"u": _read_unset,
    b"v": _read_raw,
    b"D": _unpacker("d"),
    b"Q": _unpacker("q"),
    b"[": _read_open,
    b"]": _closer(list),
    b")": _closer(tuple),
    b"}": _read_dict,
    b">": _closer(set),
    b"z": _closer(frozenset),
    b"f": _read_form,
    b"c": _read_class,
    b"o": _read_instance,
}.items():
    _READERS[_instruction[0]] = _read


def decoded(data: bytes, classes: Classes) -> Any:
    """The value that these bytes hold. Raises DecodeError, and nothing else."""
    try:
        version, checksum = _HEAD.unpack_from(data)
        if version != VERSION:
            raise DamagedError(
                "the stored value is damaged, or of a newer version of fast-dag: its format is "
                f"{version!r}, and this version reads {VERSION!r}"
            )
        size = len(data)
        body = data[_BEGIN:] if size < _SHORT else memoryview(data)[_BEGIN:]
        if crc32(body) != checksum or not body:
            raise DamagedError("the stored value is damaged: its checksum is another")
        if size < _SHORT:  # most values are one instruction
            length, value = _ALONE.get(body[0], _MORE)
            if length == size - _BEGIN - 1:
                return value(body[1:])
            if length is None and body[1] == size - _BEGIN - 2:
                return value(body[2:])
        return Reader(data, classes).decoded()
    except DecodeError:
        raise
    except failures() as error:  # of constructors and of users' `__hash__`, too
        raised = brief_of(error)
        raise DamagedError(f"the stored value cannot be read: {raised}") from error
