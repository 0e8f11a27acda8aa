"""What travels to another process and back: one call, and its outcome."""

from __future__ import annotations

import io
import marshal
import os
import pickle
import re
import sys
import traceback
import zlib
from array import array
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib import import_module
from time import perf_counter
from types import CodeType, CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag._extras import needed
from fast_dag.cache.origins import MAIN
from fast_dag.call.arguments import named
from fast_dag.call.effects import Outcome
from fast_dag.context import Context, FSMContext, again
from fast_dag.define.node import FunctionOfNode, Node, found_in, importable
from fast_dag.drive import faults, scripts
from fast_dag.drive.buffers import Outgoing, whole
from fast_dag.drive.faults import words_of
from fast_dag.drive.protocol import PASSES, Packed
from fast_dag.errors import (
    ExecutionError,
    TimeoutError,
    ValidationError,
    add_note,
    failures,
    text_of,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import TypeVar

    from fast_dag.drive.job import Job
    from fast_dag.drive.protocol import Message

    Sent = TypeVar("Sent", bytes, Packed)

Names = dict[str, object]
"""What a worker that has imported the main script found there; see `names_of`."""


# In the process of the run.


Bell = tuple[str, bytes]
"""The path of a named pipe on this machine, and the bytes to write into it when a call begins."""


def pack(job: Job, bell: Bell | None = None) -> bytes:
    """A job's call for an executor, as bytes. Raises ExecutionError, which names the value that
    cannot be pickled.

    Its processes may not have imported the main script: all of that is sent by value.

    Parameters
    ----------
    bell:
        The bell that the other process rings when the call begins, if it is on this machine.
    """
    _send_files_by_value()
    # Makes each submission unique, because a cluster may return the outcome of an equal one.
    token = os.urandom(8)
    try:
        return _dumps((_call_of(job, None), token, bell))
    except Exception as error:
        raise _unpicklable(job, error, None) from error


def packed_call(job: Job, names: Names) -> Packed:
    """A job's call for a worker process. Raises ExecutionError, which names the value that cannot
    be pickled.

    Parameters
    ----------
    names:
        What the worker has of the main script: these things are sent by name.
    """
    try:
        call = _call_of(job, names)
        is_plain = type(call[0]) is FunctionOfNode and _are_plain(*call[1], *call[2].values())
        return _plainly_packed(call) if is_plain else packed(call, names)
    except Exception as error:
        raise _unpicklable(job, error, names) from error


def packed_function(func: Any, args: Any, kwargs: Any, names: Names) -> Packed:
    """A call of a function that is of no node."""
    return packed((func, _without_results(args), _without_results(kwargs), False, None), names)


def _call_of(job: Job, names: Names | None) -> Call:
    node = job.step.node
    args, kwargs = _without_results(job.args), _without_results(job.kwargs)
    func = _function_of(node, job.func, names)
    return func, args, kwargs, node.signature.takes_context, None


def _function_of(node: Node[..., Any] | None, func: Any, names: Names | None) -> Any:
    """What is sent of a function that a node may have: its place where the receiver finds the same
    one there, else the function itself."""
    where = importable(node) if node is not None and func is node.func else None
    if where is None and names is not None and type(func) is FunctionType:
        where = _place_of(func)
    return func if where is None or not _reachable(where, names) else where


def packed_head(head: Head, names: Names) -> Packed:
    """What the calls of a batch have in common, for a worker process."""
    func = _function_of(head.node, head.func, names)
    return packed(Head(func, head.args, head.kwargs, head.places), names)


Call = tuple[Any, "Sequence[Any]", "Mapping[str, Any]", bool, "Mapping[str, str] | None"]
"""A function, its arguments, whether it takes the context, and a carrier."""


def unpack(job: Job, answer: bytes | Message) -> Outcome:
    """The outcome of a job's call."""
    try:
        ok, value, extra, seconds = unpacked(answer)
    except Exception as error:
        lost = ExecutionError(
            f"the outcome of node {job.path!r} cannot be unpickled: {text_of(error)}"
        )
        lost.__cause__ = error
        return Outcome(False, lost)
    if job.timeout is not None and seconds > job.timeout:
        return Outcome(
            False,
            TimeoutError(
                f"node {job.path!r} did not end within its timeout of {job.timeout:g} s, "
                f"but after {seconds:.3g} s",
                node_name=job.path,
                timeout=job.timeout,
            ),
        )
    if ok:
        try:
            _take_home(job.execution.context, extra)
        except failures() as error:  # a value that a store cannot keep
            return Outcome(False, error)
        return Outcome(True, value)
    return failed(job.path, ok, value, extra)


def _take_home(context: Context, extra: Any) -> None:
    """Change the metadata as a call elsewhere has, and keep what it asked to keep."""
    if extra:
        changed, kept = extra
        context.metadata.update(changed)
        for key, value in kept.items():
            context.keep(key, value)


def failed(path: str, ok: bool | None, value: Any, extra: Any) -> Outcome:
    """The outcome of a call that did not return, as the other process told it."""
    if ok is None:
        error = ExecutionError(f"node {path!r}: {value}", node_name=path)
        error.__cause__ = extra
        return Outcome(False, error)
    add_note(value, *extra)
    if not isinstance(value, failures()):
        raise value
    return Outcome(False, value)


def _without_results(values: Any) -> Any:
    """The arguments, with the run's context replaced by one that has only its metadata."""
    if isinstance(values, dict):
        return {key: _sent(value) for key, value in values.items()}
    return [_sent(value) for value in values]


def _sent(value: Any) -> Any:
    if not isinstance(value, Context):
        return whole(value)
    kind = FSMContext if isinstance(value, FSMContext) else Context
    return kind(metadata=dict(value.metadata))


def _unpicklable(job: Job, error: Exception, names: Names | None) -> ExecutionError:
    what = "its function"
    for name, value in named(job.step.node.signature, job.args, job.kwargs).items():
        try:
            _dumps(_sent(value), names)
        except Exception:
            what = f"the value of its parameter {name!r}, a {type(value).__name__},"
            break
    return ExecutionError(
        f"node {job.path!r} cannot be sent to another process: {what} cannot be pickled "
        f"({text_of(error)}); run it at home with run_in='thread'",
        node_name=job.path,
    )


# In the other process. Nothing that a user's object raises may end that process.


def run_packed(packed: bytes) -> bytes:
    """Unpack a call that came through an executor, make it, and pack its outcome. When it begins,
    its bell is rung."""
    start = perf_counter()
    try:
        call, _, bell = pickle.loads(packed)
        call = _with_function(call)
    except BaseException as error:
        return _sent_back(not_unpickled(error), start, _dumps)
    if bell is not None:
        _ring(*bell)
    return _sent_back(_made(*call), start, _dumps)


def run_call(message: Message, begins: Callable[[], None]) -> Packed:
    """Unpack a call in a worker, make it, and pack its outcome. `begins` is called when it
    begins."""
    start = perf_counter()
    try:
        call = _with_function(unpacked(message))
    except BaseException as error:
        return _sent_back(not_unpickled(error), start, packed)
    begins()
    told = _made(*call)
    is_plain = told[0] and not told[2] and _are_plain(told[1])
    return _plainly_packed(told) if is_plain else _sent_back(told, start, packed)


Told = tuple["bool | None", Any, Any, float]
"""How a call ended: whether it returned, None if it could not be made or told; its value, or what
it raised; the metadata that changed and what is to be kept of it, or notes; and the seconds that it
took."""


def _with_function(call: Call) -> Call:
    func = call[0]
    return (func.find(), *call[1:]) if isinstance(func, FunctionOfNode) else call


def not_unpickled(error: BaseException) -> Told:
    text = f"its call cannot be unpickled there: {type(error).__name__}: {words_of(error)}"
    return None, text, error, 0.0


def _made(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    takes_context: bool,
    carrier: Mapping[str, str] | None,
) -> Told:
    """Make a call in this process."""
    contexts = [each for each in (*args, *kwargs.values()) if isinstance(each, Context)]
    context = contexts[0] if takes_context and contexts else None
    before, kept = dict[str, Any](), dict[str, Any]()
    if context is not None:
        before, context._keeper = dict(context.metadata), kept.__setitem__
    start = perf_counter()
    token = None if carrier is None else carried.set(carrier)
    try:
        value = func(*args, **kwargs)
        if type(value) is CoroutineType:
            value = _awaited(value)
    except BaseException as error:  # SystemExit, too, must reach the run's caller
        return False, error, _notes_on(error), perf_counter() - start
    finally:
        if token is not None:
            carried.reset(token)
    seconds = perf_counter() - start
    changed = {
        key: new
        for key, new in (() if context is None else context.metadata.items())
        if key not in before or before[key] is not new
    }
    return True, whole(value), (changed, kept) if changed or kept else (), seconds


class Head:
    """What the calls of a batch have in common: a function, and its arguments, in which each item's
    values take the `places`: positions and names. At home it has the `node` of the function, too.

    >>> Head(pow, [None, 2], {}, [0]).call_for(is_sole=True)(7)
    49
    """

    __slots__ = ("args", "func", "kwargs", "node", "places")

    def __init__(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        places: Sequence[int | str],
        node: Node[..., Any] | None = None,
    ) -> None:
        self.node = node
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.places = places

    def __getstate__(self) -> Any:
        return self.func, self.args, self.kwargs, self.places

    def __setstate__(self, state: Any) -> None:
        func, self.args, self.kwargs, self.places = state
        self.func = func.find() if isinstance(func, FunctionOfNode) else func

    def call_for(self, is_sole: bool) -> Callable[[Any], Any]:
        """The call for an item: its one value if `is_sole`, else a value for each place."""
        func, places = self.func, self.places
        if is_sole and len(self.args) == 1 and not self.kwargs and places == [0]:
            found: Callable[[Any], Any] = func
            return found

        def call(item: Any) -> Any:
            args, kwargs = list(self.args), dict(self.kwargs)
            values = (item,) if is_sole else item
            for place, value in zip(places, values, strict=True):
                if isinstance(place, int):
                    args[place] = value
                else:
                    kwargs[place] = value
            return func(*args, **kwargs)

        return call


class Part(NamedTuple):
    """How some items of a batch ended, one behind the other: a value for each, its seconds, and, by
    their places in `values`, how those ended that did not return."""

    values: list[Any]
    seconds: array[float]
    failed: dict[int, Told]


def sent_value(value: Any) -> Any:
    """What to send of a value that a call returned: the result of a coroutine, and large bytes as a
    buffer."""
    return whole(_awaited(value) if type(value) is CoroutineType else value)


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def told_of(error: BaseException, seconds: float) -> Told:
    """How the call of an item that raised ended."""
    return False, error, _notes_on(error), seconds


def packed_part(values: list[Any], seconds: array[float], failed: dict[int, Told]) -> Packed:
    """A Part. What cannot be pickled of one item costs no other."""
    times = seconds.tobytes()
    try:
        return packed((values, times, failed))
    except BaseException:
        told = [failed.get(at) or (True, value, {}, seconds[at]) for at, value in enumerate(values)]
        each = {at: _sent_back(told[at], perf_counter(), _dumps) for at in range(len(values))}
        return packed(([None] * len(values), times, each))


def told_home(told: Told) -> Packed:
    """How a call ended, packed; if that cannot be pickled, what can be told of it."""
    return _sent_back(told, perf_counter(), packed)


def unpacked_part(message: Message) -> Part:
    """What `packed_part` packed. What cannot be unpickled costs the items that it is about."""
    count = message.number
    try:
        values, times, told = unpacked(message)
    except Exception as error:
        others = "" if count == 1 else f" with the {count - 1} that came in the same message"
        lost = None, f"its outcome cannot be unpickled{others}: {text_of(error)}", error, 0.0
        return Part([None] * count, array("f", bytes(4 * count)), dict.fromkeys(range(count), lost))
    seconds, failed = array("f"), {}
    seconds.frombytes(times)
    for at, packed_told in told.items():
        each: Told = packed_told
        if type(packed_told) is bytes:
            try:
                each = unpacked(packed_told)
            except Exception as error:
                each = None, f"its outcome cannot be unpickled: {text_of(error)}", error, 0.0
        if each[0]:
            values[at] = each[1]
        else:
            failed[at] = each
    return Part(values, seconds, failed)


carried: ContextVar[Mapping[str, str] | None] = ContextVar("fast_dag carrier", default=None)
"""The carrier of the call that this process makes."""


def _sent_back(told: Told, start: float, dumps: Callable[[Any], Sent]) -> Sent:
    """How a call ended, packed; if that cannot be pickled, what can be told of it."""
    ok, value, _, _ = told
    try:
        return dumps(told)
    except BaseException as error:
        seconds = perf_counter() - start
        if ok:
            text = f"its result, a {type(value).__name__}, cannot be pickled: {words_of(error)}"
        else:
            text = value if isinstance(value, str) else f"{type(value).__name__}: {words_of(value)}"
            text = f"{text}\n(nothing else of it can be pickled)"
        return dumps((None, text, None, seconds))


def failure_of(error: BaseException) -> Packed:
    """The answer of a worker that cannot take calls because importing the main script raised."""
    if not isinstance(error, ValidationError):  # whose message is enough
        add_note(error, *_notes_on(error))
    start = perf_counter()
    text = f"importing the main script failed: {type(error).__name__}: {words_of(error)}"
    return _sent_back((None, text, error, 0.0), start, packed)


def packed_record(record: logging.LogRecord) -> Packed:
    """A log record, without what only its own process can have."""
    import logging

    facts = dict(vars(record), msg=record.getMessage(), args=None, exc_info=None)
    if record.exc_info and not record.exc_text:
        facts["exc_text"] = logging.Formatter().formatException(record.exc_info)
    try:
        return packed(facts)
    except Exception:
        plain = (bool, int, float, str, type(None))
        return packed({key: each for key, each in facts.items() if isinstance(each, plain)})


def _notes_on(error: BaseException) -> list[str]:
    at = error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, at and at.tb_next)
    except Exception:  # raised by a method of the exception's own class
        lines = [*traceback.format_tb(at), f"{type(error).__qualname__}: {words_of(error)}"]
    notes = ["In the worker process:\n" + _OFMAIN.sub(r"\1__main__.", "".join(lines))]
    if isinstance(error, NameError) and main_name() == "__mp_main__":
        notes.append(
            "Worker processes import the main script: what it sets under "
            "`if __name__ == '__main__':` is not there. Pass it as an input, or set it outside."
        )
    return notes


# A class of the main script in a traceback; lines of exception groups begin with bars.
_OFMAIN = re.compile(r"^([ |]*)__mp_main__\.", re.MULTILINE)


def _ring(path: str, token: bytes) -> None:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # the pipe is on another machine, or nobody listens any more
    try:
        os.write(pipe, token)
    except OSError:
        return
    finally:
        os.close(pipe)


# Pickling.


def packed(value: Any, names: Names | None = None) -> Packed:
    """A value for another process of this program: a pickle, and its large buffers apart from it,
    if there is room for them."""
    outgoing = Outgoing() if PASSES else None
    data = _dumps(value, names, outgoing=outgoing)
    if outgoing is None:
        return Packed(data)
    try:
        return Packed(data, outgoing.spans())
    except OSError:
        return Packed(_dumps(value, names))


def _are_plain(*values: Any) -> bool:
    return all(type(each) in _PLAIN for each in values)


def _plainly_packed(value: Any) -> Packed:
    """The same for what needs nothing of the pickler below, which takes ten times as long."""
    return Packed(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def unpacked(packed: bytes | Message) -> Any:
    """A value that came from another process."""
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    return pickle.loads(packed.data, buffers=packed.buffers)


def _dumps(
    value: Any,
    names: Names | None = None,
    above: tuple[int, ...] = (),
    root: BaseException | None = None,
    outgoing: Outgoing | None = None,
) -> bytes:
    buffer = io.BytesIO()
    _pickler()(buffer, names, above, root, outgoing).dump(value)
    return buffer.getvalue()


def _cloudpickle() -> Any:
    return needed("cloudpickle", extra="process", purpose="other processes")


@cache
def _pickler() -> Any:
    cloudpickle = _cloudpickle()

    class Pickler(cloudpickle.Pickler, faults.Travelling):  # type: ignore[misc, name-defined]
        """cloudpickle's pickler, which here pickles some objects differently:

        - functions and classes that the receiver finds by name are sent by name, although
          cloudpickle would send them by value: those of nodes, and of a main script that the
          receiver has imported;
        - code keeps the name of its file;
        - exceptions are sent as `faults` describes;
        - a function with an `lru_cache` that is not found by its name is sent as the function
          inside, and the parameters of the cache.
        """

        def __init__(
            self,
            file: Any,
            names: Names | None,
            above: tuple[int, ...],
            root: BaseException | None,
            outgoing: Outgoing | None,
        ) -> None:
            super().__init__(file, buffer_callback=outgoing)
            self._names = names
            self.inside(above, root)

        def part(self, value: Any, above: tuple[int, ...], root: BaseException | None) -> bytes:
            return _dumps(value, self._names, above, root)

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is CodeType:
                try:
                    return marshal.loads, (marshal.dumps(obj),)
                except ValueError:  # it has a constant that marshal does not know
                    return NotImplemented
            if issubclass(kind, Context):  # whose values may be such as only this pickler sends
                return again, (kind, obj._state_now())
            if issubclass(kind, BaseException):
                return self.of_exception(obj)
            if issubclass(kind, (FunctionType, type, _LRU_CACHED)):
                where = _found_again(obj)
                if where is not None and _reachable(where, self._names):
                    return _find, (where.module, where.qualname)
                if isinstance(obj, _LRU_CACHED) and not _leads_to(obj):
                    return _cached_again, (obj.__wrapped__, obj.cache_parameters())
                _move_to_main(obj)
            return super().reducer_override(obj)

    return Pickler


_LRU_CACHED = type(cache(lambda: None))


def _found_again(thing: Any) -> FunctionOfNode | None:
    """The place of a function or class that can be found by name, although cloudpickle would not
    find it: in a main script, or where a node has taken the function's name. Else None."""
    module, qualname = thing.__module__, getattr(thing, "__qualname__", "<unknown>")
    if not isinstance(module, str) or "<" in qualname:
        return None
    there = found_in(module, qualname)
    if isinstance(there, Node):
        return FunctionOfNode(module, qualname) if there.func is thing else None
    is_local = module in MAIN or module in scripts.FILES
    return FunctionOfNode(module, qualname) if is_local and there is thing else None


def _place_of(func: FunctionType) -> FunctionOfNode | None:
    """The place of a function that any pickler sends by name. Else None."""
    where = _found_again(func)
    if where is None and _leads_to(func) and func.__module__ not in _sent_by_value():
        where = FunctionOfNode(func.__module__, func.__qualname__)
    return where


def _sent_by_value() -> set[str]:
    """The modules of which the user has asked cloudpickle to send all by value."""
    found: set[str] = _cloudpickle().list_registry_pickle_by_value()
    return found


def _move_to_main(thing: Any) -> None:
    """Give a function or class that the main script made in a worker `__main__` as its module,
    which is the script's name in the process of the run. In a worker both names are one module."""
    with suppress(Exception):  # its metaclass may raise
        if thing.__module__ == "__mp_main__" and "<locals>" in thing.__qualname__:
            thing.__module__ = "__main__"


def _reachable(where: FunctionOfNode, names: Names | None) -> bool:
    """Whether the receiver finds the same thing in that place."""
    if where.module in MAIN:
        top = where.qualname.partition(".")[0]
        here = vars(sys.modules[where.module]).get(top)
        return names is not None and top in names and names[top] == _mark(here)
    return names is not None or where.module not in scripts.FILES


def main_name() -> str:
    """The name of the main module: `__mp_main__` in a worker that has imported a script."""
    return str(getattr(sys.modules.get("__main__"), "__name__", ""))


def names_of(module: ModuleType) -> Names:
    """What a main script defines, by name, with a mark of its code. The marks show whether a worker
    has the same thing under that name: what is defined below `if __name__ == "__main__":` is
    missing in a worker, or differs."""
    kinds = (FunctionType, type, Node, _LRU_CACHED)
    # By the type itself, because `__class__` of a proxy is not true, or raises.
    there = {name: each for name, each in vars(module).items() if issubclass(type(each), kinds)}
    return {name: _mark(each) for name, each in there.items()}


def _mark(thing: Any) -> object:
    kind = type(thing)
    if issubclass(kind, Node):
        return "node", _mark(thing.func)
    if issubclass(kind, FunctionType):
        code = thing.__code__
        return code.co_name, code.co_firstlineno, zlib.crc32(code.co_code)
    if issubclass(kind, type):
        parts = {name: _mark(part) for name, part in vars(thing).items() if type(part) in _PARTS}
        return thing.__qualname__, parts
    if issubclass(kind, property):
        return _mark(thing.fget)
    if issubclass(kind, (classmethod, staticmethod, _LRU_CACHED)):
        return _mark(thing.__wrapped__)
    return kind.__qualname__


_PARTS = frozenset({FunctionType, classmethod, staticmethod, property, _LRU_CACHED})


def _find(module: str, qualname: str) -> Any:
    return FunctionOfNode(module, qualname).find()


def _leads_to(func: Any) -> bool:
    there: Any = sys.modules.get(func.__module__)
    for part in func.__qualname__.split("."):
        there = getattr(there, part, None)
    return there is func and func.__module__ != "__main__"


def _cached_again(func: Any, parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(func)


def _send_files_by_value() -> None:
    """Have cloudpickle send the functions of modules by value that another process cannot
    import."""
    for name in scripts.FILES:
        if name in sys.modules:
            _cloudpickle().register_pickle_by_value(import_module(name))
