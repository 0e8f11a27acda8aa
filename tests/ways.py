"""The ways to run a workflow: how each is done and what it needs. Every suite takes them from here.

A test is parametrised with one of the selections below. It calls `EXECUTE[way](workflow)`, or asks
for a fixture made by `method`. Add a new way to run to `WAYS`, and to each selection whose
description fits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import Workers
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from contextlib import AbstractContextManager

    from fast_dag import Run


@dataclass(frozen=True)
class Way:
    """A way to run a workflow, which `options` and an executor choose."""

    options: dict[str, Any] = field(default_factory=dict)
    executor: Callable[[], AbstractContextManager[Executor]] | None = None
    is_awaited: bool = False
    """Whether the async twin of the method is awaited, on a loop of the caller's."""
    needs: tuple[str, ...] = ()
    """Packages without which tests of this way are skipped."""

    def start(self, workflow: Any, method: str, /, *args: Any, **options: Any) -> Any:
        """Call a method that runs the workflow, such as `"run_until"`, in this way."""
        options = {**self.options, **options}
        if self.is_awaited:
            return asyncio.run(getattr(workflow, f"{method}_async")(*args, **options))
        if self.executor is None:
            return getattr(workflow, method)(*args, **options)
        with self.executor() as executor:
            return getattr(workflow, method)(*args, executor=executor, **options)

    def execute(self, workflow: Any, /, *args: Any, **options: Any) -> Run:
        run: Run = self.start(workflow, "execute", *args, **options)
        return run


@functools.cache
def warm_workers() -> Executor:
    """The same, for `Workers`: they end when a test asks for that, or with this process."""
    return Workers(2, idle=None)


@functools.cache
def process_pool() -> Executor:
    """One pool for all tests, because processes take long to start. It ends with this process."""
    # Not fork: this process has threads.
    return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


WAYS: dict[str, Way] = {
    "sequential": Way(),
    # Somebody watches each node: the general path, where "sequential" may take a shorter one.
    "observed": Way({"progress": lambda name, status, fraction: None}),
    # A deadline is kept by another thread than the caller's.
    "timed": Way({"timeout": LONG}),
    "parallel": Way({"mode": "parallel"}),
    # `run(mode="async")`: a loop of the run's own.
    "async": Way({"mode": "async"}),
    "run_async": Way(is_awaited=True),
    "executor": Way(executor=lambda: ThreadPoolExecutor(4)),
    "one thread": Way(executor=lambda: ThreadPoolExecutor(1)),
    "process": Way({"mode": "process"}, needs=("cloudpickle",)),
    "workers": Way(executor=lambda: contextlib.nullcontext(warm_workers()), needs=("cloudpickle",)),
    "process pool": Way(
        executor=lambda: contextlib.nullcontext(process_pool()), needs=("cloudpickle",)
    ),
}
EXECUTE: dict[str, Callable[..., Run]] = {name: way.execute for name, way in WAYS.items()}

HERE = ("sequential", "parallel", "async", "run_async", "executor")
"""Nodes run in this process: one way for each driver and each kind of lane."""
AT_ONCE = HERE[1:]
"""And several nodes run at the same time."""
EVERYWHERE = (*HERE, "process")
"""Also in processes of the run's own, which take long to start."""
AT_ONCE_EVERYWHERE = (*AT_ONCE, "process")

OWN = tuple(way for way in HERE if WAYS[way].executor is None)
"""Nodes run in threads and on loops which the library has, so it can abandon them when time is over
and lend them to nested runs."""
OWN_AT_ONCE = OWN[1:]
OWN_EVERYWHERE = (*OWN, "process")

MODES = ("sequential", "parallel", "async")
"""What `mode=` takes where nodes run in this process, for tests that give the option themselves."""
MODES_EVERYWHERE = (*MODES, "process")
MODES_ON_A_LOOP = ("sequential", "parallel")
"""What `mode=` takes where an event loop is running, which the call blocks."""

MACHINES = ("sequential", "observed", *AT_ONCE)
"""A machine has one state at a time; the ways differ in who calls it."""
STARTED = ("sequential", "observed", "timed", *MODES[1:])
"""A live machine: `start()` takes the options of these ways."""


def mostly(ways: Iterable[str], *, but: Container[str]) -> list[Any]:
    """The ways as parameters of a test, but for some that are tried with the long tests only."""
    return [pytest.param(way, marks=pytest.mark.stress) if way in but else way for way in ways]


def method(name: str) -> Any:
    """A fixture: the method of this name, called in the way that the test's `way` names. It is
    given the workflow first, then what the method takes."""

    def bound(way: str) -> Callable[..., Any]:
        def started(workflow: Any, /, *args: Any, **options: Any) -> Any:
            return WAYS[way].start(workflow, name, *args, **options)

        return started

    return pytest.fixture(bound, name=name)
