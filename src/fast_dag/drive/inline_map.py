"""Maps of sequential runs: one item after the other, in the caller's thread."""

from __future__ import annotations

from array import array
from sys import maxsize
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import Outcome, interpret
from fast_dag.errors import failures
from fast_dag.plan.map_plan import INTO, PULL
from fast_dag.run.execution import current
from fast_dag.run.map_batches import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag.call.policy import Waiter
    from fast_dag.run.execution import Execution
    from fast_dag.run.map_execution import MapExecution

    OutcomeOf = Callable[[Execution, int, Waiter], Outcome]


_FEW: Final = 1000
"""Items that are counted together, at most."""


def drive_map(execution: MapExecution, waiter: Waiter, outcome_of: OutcomeOf) -> None:
    """Execute a map; `outcome_of` makes the call of an item."""
    execution.open()
    token = current.set(execution)
    try:
        try:
            items = _Items(execution, waiter, outcome_of)
            if execution.spec.into is None:
                items.call_all()
            else:
                items.call_into()
        finally:
            items.close()
    except BaseException:
        execution.close("cancelled")
        raise
    finally:
        current.reset(token)
    execution.close()


class _Items:
    """Goes through the items of a map."""

    def __init__(self, execution: MapExecution, waiter: Waiter, outcome_of: OutcomeOf) -> None:
        self.execution = execution
        self.waiter = waiter
        self.outcome_of = outcome_of
        self._ready: list[int] = []
        self._is_plain = execution.is_plain
        if execution.spec.into is not None:
            execution.is_batched = False  # results are made one by one, as they are taken

    def call_all(self) -> None:
        """Call all items."""
        if self._is_plain:
            self._call_plainly()
        while self.call_next():
            pass

    def _call_plainly(self) -> None:
        """Call plain items, with little more than the calls."""
        execution, first = self.execution, 0
        items = execution.begin_plainly()
        while not execution.stopped:
            done = Batch()
            try:
                execution.batching.call_each(items, range(first, maxsize), done, execution.tells_at)
            except failures() as error:
                execution.finish_plainly(done, Outcome(False, error))
                return
            made = len(done.parts[0][1])
            first += made
            self._ready += execution.finish_plainly(done, None if made else Outcome(True, True))
            if not made:
                return
            execution.deliver()

    def call_next(self) -> bool:
        """Pull an item, or call the one that was pulled. Returns False if there is none."""
        execution = self.execution
        if not self._ready:
            self._ready = execution.more()
        if not self._ready or execution.stopped:
            return False
        index, started = self._ready.pop(), perf_counter()
        self._ready += execution.finish(index, self._outcome(index), started)
        execution.deliver()
        return True

    def _outcome(self, index: int) -> Outcome:
        if index != PULL:
            return self.outcome_of(self.execution, index, self.waiter)
        (pull,), _ = self.execution.gather(PULL)
        try:
            pulled = pull()
            if self.execution.is_role_async("pull"):
                pulled = self.waiter.wait(pulled)
        except failures() as error:
            return Outcome(False, error)
        return Outcome(True, pulled)

    def call_into(self) -> None:
        """Call `into` with the results, which are made as it takes them."""
        execution = self.execution
        (into, _), _ = execution.gather(INTO)
        try:
            if execution.spec.is_into_async:
                value = self.waiter.wait(into(_Async(self.results())))
            else:
                value = into(self.results())
        except failures() as error:
            outcome = Outcome(False, error)
        else:
            outcome = Outcome(True, value)
        execution.finish(INTO, outcome, 0.0)

    def results(self) -> Iterator[Any]:
        """The results, one by one."""
        stream = self.execution.stream
        assert stream is not None
        if self._is_plain:
            yield from self._plain_results()
        while True:
            yield from stream.ready()
            if not self.call_next():
                yield from stream.ready()
                return

    def _plain_results(self) -> Iterator[Any]:
        execution, stream, number = self.execution, self.execution.stream, 0
        assert stream is not None
        call, is_sole = execution.call, execution.is_sole
        items = execution.begin_plainly()
        seconds = array("f")
        while True:
            outcome: Outcome | None = None
            begun = perf_counter()
            try:
                for item in items:
                    if is_sole:
                        value = call(item)
                    else:
                        args, kwargs = execution.arguments(item)
                        value = call(*args, **kwargs)
                    break
                else:
                    outcome = Outcome(True, True)
                    return
                if type(value) is CoroutineType:
                    value = self.waiter.wait(value)
            except failures() as error:
                outcome = Outcome(False, error)
            else:
                seconds.append(perf_counter() - begun)
                number += 1
                yield value
                if (ended := execution.ended()) is not None:
                    raise ended
                continue
            finally:
                if outcome is not None or len(seconds) > _FEW:
                    execution.count_plainly(number, seconds, outcome)
                    seconds = array("f")
            number += 1
            yield from stream.ready()

    def close(self) -> None:
        """Close what was gone through."""
        effects = self.execution.release()
        if effects is not None:
            interpret(effects, _no_function, _called, self.waiter.wait, _no_sleep)


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _no_function() -> None: ...


def _no_sleep(seconds: float) -> None: ...


class _Async:
    """An iterator as an async one."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _Async:
        return self

    async def __anext__(self) -> Any:
        for each in self._iterator:
            return each
        raise StopAsyncIteration
