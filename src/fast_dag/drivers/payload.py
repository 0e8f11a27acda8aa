"""What travels to another process and back: one call, and how it ended."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import sys
import traceback
from functools import cache, lru_cache
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from fast_dag.call.arguments import named
from fast_dag.call.effects import Outcome
from fast_dag.context import Context, FSMContext
from fast_dag.errors import ExecutionError
from fast_dag.extras import needed
from fast_dag.node import FunctionOfNode, importable

if TYPE_CHECKING:
    from fast_dag.drivers.crew import Job


def pack(job: Job) -> bytes:
    """A job's call as bytes. Raises ExecutionError that names what cannot be pickled."""
    func: Any = importable(job.node, by_value=True) or job.node.func
    context = job.node.signature.takes_context
    # No two submissions are alike: a cluster may give one outcome to all that look the same.
    token = os.urandom(8)
    call = (func, _without_results(job.args), _without_results(job.kwargs), context, token)
    try:
        packed = _dumps(call)
    except Exception as error:
        raise _unpicklable(job, func, error) from error
    return packed


def run_packed(packed: bytes) -> bytes:
    """In the other process: unpack, call, pack what came of it."""
    try:
        func, args, kwargs, takes_context, _ = pickle.loads(packed)
        func = func.find() if isinstance(func, FunctionOfNode) else func
        context = next(
            (each for each in (*args, *kwargs.values()) if isinstance(each, Context)), None
        )
        before = dict(context.metadata) if takes_context and context is not None else {}
        value = func(*args, **kwargs)
        if value.__class__ is CoroutineType:
            value = asyncio.run(value)
    except BaseException as error:  # SystemExit, too, is for the run's caller
        error.add_note("In the worker process:\n" + traceback.format_exc())
        return _packed_error(error)
    changed = {}
    if takes_context and context is not None:
        changed = {
            key: new
            for key, new in context.metadata.items()
            if key not in before or before[key] is not new
        }
    try:
        result = _dumps((True, value, changed))
    except Exception as error:
        problem = f"its result, a {type(value).__name__}, cannot be pickled: {error}"
        return _dumps((None, problem, {}))
    return result


def _packed_error(error: BaseException) -> bytes:
    cause = error.__cause__
    try:
        packed = _dumps((False, error, {"cause": cause}))
        pickle.loads(packed)
    except Exception:
        text = f"{type(error).__name__}: {error}\n" + "\n".join(getattr(error, "__notes__", ()))
        return _dumps((None, f"it raised an exception that cannot be pickled: {text}", {}))
    return packed


def unpack(job: Job, packed: bytes) -> Outcome:
    """The outcome of a job's call."""
    try:
        ok, value, extra = pickle.loads(packed)
    except Exception as error:
        lost = ExecutionError(f"the outcome of node {job.path!r} cannot be unpickled: {error}")
        lost.__cause__ = error
        return Outcome(False, lost)
    if ok is None:
        return Outcome(False, ExecutionError(f"node {job.path!r}: {value}", node_name=job.path))
    if ok:
        job.run.context.metadata.update(extra)
    else:
        value.__cause__ = extra["cause"]
        if not isinstance(value, Exception):
            raise value
    return Outcome(ok, value)


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _pickler()(buffer).dump(value)
    return buffer.getvalue()


@cache
def _pickler() -> Any:
    """cloudpickle's pickler, and functions with an `lru_cache`, which pickle by name only, by what
    they were made of where their name leads elsewhere (to a node, say)."""
    cloudpickle = needed("cloudpickle", extra="process", purpose="other processes")

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, _LRU_CACHED) and not _leads_to(obj):
                return _cached_again, (obj.__wrapped__, obj.cache_parameters())
            return super().reducer_override(obj)

    return Pickler


_LRU_CACHED = type(cache(lambda: None))


def _leads_to(func: Any) -> bool:
    there: Any = sys.modules.get(func.__module__)
    for part in func.__qualname__.split("."):
        there = getattr(there, part, None)
    return there is func and func.__module__ != "__main__"


def _cached_again(func: Any, parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(func)


def _without_results(values: Any) -> Any:
    """The arguments, with a context of metadata only in the place of the run's own."""
    if isinstance(values, dict):
        return {key: _sent(value) for key, value in values.items()}
    return [_sent(value) for value in values]


def _sent(value: Any) -> Any:
    if not isinstance(value, Context):
        return value
    kind = FSMContext if isinstance(value, FSMContext) else Context
    return kind(metadata=dict(value.metadata))


def _unpicklable(job: Job, func: Any, error: Exception) -> ExecutionError:
    what = "its function"
    for name, value in named(job.node.signature, job.args, job.kwargs).items():
        try:
            _dumps(_sent(value))
        except Exception:
            what = f"the value of its parameter {name!r}, a {type(value).__name__},"
            break
    return ExecutionError(
        f"node {job.path!r} cannot be sent to another process: {what} cannot be pickled ({error}); "
        "run it at home with run_in='thread'",
        node_name=job.path,
    )
