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
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from time import perf_counter
from types import CodeType, CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

from fast_dag._extras import needed
from fast_dag.call.arguments import named
from fast_dag.call.effects import Outcome
from fast_dag.context import Context, FSMContext, again
from fast_dag.define.node import FunctionOfNode, Node, importable
from fast_dag.drive import faults, scripts
from fast_dag.drive.faults import words_of
from fast_dag.errors import (
    ExecutionError,
    TimeoutError,
    ValidationError,
    add_note,
    failures,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fast_dag.drive.job import Job

Names = dict[str, object]
"""What a worker that has imported the main script found there; see `names_of`."""


# In the process of the run.


Bell = tuple[str, bytes]
"""The path of a named pipe on this machine, and the bytes to write into it when a call begins."""


def pack(job: Job, names: Names | None = None, bell: Bell | None = None) -> bytes:
    """A job's call as bytes. Raises ExecutionError, which names the value that cannot be pickled.

    Parameters
    ----------
    names:
        What the worker has of the main script: these things are sent by name. None for a process
        that may not have imported the main script: all of the script is sent by value.
    bell:
        The bell that the other process rings when the call begins, if it is on this machine.
    """
    func: Any = job.func
    where = importable(job.step.node) if func is job.step.node.func else None
    if where is not None and _reachable(where, names):
        func = where
    if names is None:
        _send_files_by_value()
    context = job.step.node.signature.takes_context
    # Makes each submission unique, because a cluster may return the outcome of an equal one.
    token = os.urandom(8)
    call = (func, _without_results(job.args), _without_results(job.kwargs), context, token, bell)
    try:
        return _dumps(call, names)
    except Exception as error:
        raise _unpicklable(job, error, names) from error


def unpack(job: Job, packed: bytes) -> Outcome:
    """The outcome of a job's call."""
    try:
        ok, value, extra, seconds = pickle.loads(packed)
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
    if ok is None:
        failed = ExecutionError(f"node {job.path!r}: {value}", node_name=job.path)
        failed.__cause__ = extra
        return Outcome(False, failed)
    if ok:
        job.execution.context.metadata.update(extra)
    else:
        add_note(value, *extra)
        if not isinstance(value, failures()):
            raise value
    return Outcome(ok, value)


def _without_results(values: Any) -> Any:
    """The arguments, with the run's context replaced by one that has only its metadata."""
    if isinstance(values, dict):
        return {key: _sent(value) for key, value in values.items()}
    return [_sent(value) for value in values]


def _sent(value: Any) -> Any:
    if not isinstance(value, Context):
        return value
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


def run_packed(packed: bytes, begins: Callable[[], None] | None = None) -> bytes:
    """Unpack a call, make it, and pack its outcome. When the call begins, `begins` is called; if it
    is None, the call's bell is rung."""
    start = perf_counter()
    try:
        func, args, kwargs, takes_context, _, bell = pickle.loads(packed)
        func = func.find() if isinstance(func, FunctionOfNode) else func
    except BaseException as error:
        text = f"its call cannot be unpickled there: {type(error).__name__}: {words_of(error)}"
        return _failed(None, text, error, start)
    if begins is not None:
        begins()
    elif bell is not None:
        _ring(*bell)
    contexts = [each for each in (*args, *kwargs.values()) if isinstance(each, Context)]
    context = contexts[0] if takes_context and contexts else None
    before = {} if context is None else dict(context.metadata)
    start = perf_counter()
    try:
        value = func(*args, **kwargs)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
    except BaseException as error:  # SystemExit, too, must reach the run's caller
        return _failed(False, error, _notes_on(error), start)
    seconds = perf_counter() - start
    changed = {
        key: new
        for key, new in (() if context is None else context.metadata.items())
        if key not in before or before[key] is not new
    }
    try:
        return _dumps((True, value, changed, seconds))
    except BaseException as error:
        text = f"its result, a {type(value).__name__}, cannot be pickled: {words_of(error)}"
        return _failed(None, text, None, start)


def failure_of(error: BaseException) -> bytes:
    """The answer of a worker that cannot take calls because of this error."""
    if not isinstance(error, ValidationError):  # whose message is enough
        add_note(error, *_notes_on(error))
    return _failed(None, f"{type(error).__name__}: {words_of(error)}", error, perf_counter())


def _failed(ok: bool | None, value: Any, extra: Any, start: float) -> bytes:
    seconds = perf_counter() - start
    try:
        return _dumps((ok, value, extra, seconds))
    except BaseException:
        text = value if isinstance(value, str) else f"{type(value).__name__}: {words_of(value)}"
        return _dumps((None, f"{text}\n(nothing else of it can be pickled)", None, seconds))


def _notes_on(error: BaseException) -> list[str]:
    at = error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, at and at.tb_next)
    except Exception:  # raised by a method of the exception's own class
        lines = [*traceback.format_tb(at), f"{type(error).__qualname__}: {words_of(error)}"]
    notes = ["In the worker process:\n" + _OF_MAIN.sub(r"\1__main__.", "".join(lines))]
    if isinstance(error, NameError) and main_name() == "__mp_main__":
        notes.append(
            "Worker processes import the main script: what it sets under "
            "`if __name__ == '__main__':` is not there. Pass it as an input, or set it outside."
        )
    return notes


# A class of the main script in a traceback; lines of exception groups begin with bars.
_OF_MAIN = re.compile(r"^([ |]*)__mp_main__\.", re.MULTILINE)


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


def _dumps(
    value: Any,
    names: Names | None = None,
    above: tuple[int, ...] = (),
    root: BaseException | None = None,
) -> bytes:
    buffer = io.BytesIO()
    _pickler()(buffer, names, above, root).dump(value)
    return buffer.getvalue()


@cache
def _pickler() -> Any:
    cloudpickle = needed("cloudpickle", extra="process", purpose="other processes")

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
        ) -> None:
            super().__init__(file)
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
                return again, (kind, obj.to_dict())
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
_MAIN = ("__main__", "__mp_main__")


def _found_again(thing: Any) -> FunctionOfNode | None:
    """The place of a function or class that can be found by name, although cloudpickle would not
    find it: in a main script, or where a node has taken the function's name. Else None."""
    module, qualname = thing.__module__, getattr(thing, "__qualname__", "<unknown>")
    if not isinstance(module, str) or "<" in qualname:
        return None
    there: Any = sys.modules.get(module)
    for part in qualname.split("."):
        there = getattr(there, part, None)
    if isinstance(there, Node):
        return FunctionOfNode(module, qualname) if there.func is thing else None
    is_local = module in _MAIN or module in scripts.FILES
    return FunctionOfNode(module, qualname) if is_local and there is thing else None


def _move_to_main(thing: Any) -> None:
    """Give a function or class that the main script made in a worker `__main__` as its module,
    which is the script's name in the process of the run. In a worker both names are one module."""
    with suppress(Exception):  # its metaclass may raise
        if thing.__module__ == "__mp_main__" and "<locals>" in thing.__qualname__:
            thing.__module__ = "__main__"


def _reachable(where: FunctionOfNode, names: Names | None) -> bool:
    """Whether the receiver finds the same thing in that place."""
    if where.module in _MAIN:
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
            needed(
                "cloudpickle", extra="process", purpose="other processes"
            ).register_pickle_by_value(import_module(name))
