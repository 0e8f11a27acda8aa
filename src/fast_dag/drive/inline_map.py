"""Maps of sequential runs: one item after the other, in the caller's thread."""

from __future__ import annotations

from array import array
from collections import deque
from contextlib import suppress
from sys import maxsize
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import Outcome, bare_call, interpret
from fast_dag.errors import failures
from fast_dag.plan.map_plan import INTO, PULL
from fast_dag.run.execution import current
from fast_dag.run.map_batches import Batch
from fast_dag.run.map_results import END

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
        items = _Items(execution, waiter, outcome_of)
        try:
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
        self._called = 0  # by `_plain_results`
        self._seconds = array("f")  # of these, the times of those that are not counted yet
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
            except BaseException:  # Ctrl-C, say: the items that completed are not called again
                if done.parts:
                    execution.finish_plainly(done, None)
                raise
            made = len(done.parts[0][1])
            first += made
            execution.finish_plainly(done, None if made else Outcome(True, True))
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
                value = self._await_into(into)
            else:
                value = into(self.results())
        except failures() as error:
            outcome = Outcome(False, error)
        else:
            outcome = Outcome(True, value)
        finally:
            self._count(None)
        execution.finish(INTO, outcome, 0.0)

    def _await_into(self, into: Callable[..., Any]) -> Any:
        """The value of an async `into`. The loop stands still while an item is called, because the
        item may need the loop itself."""
        results, wait = self.results(), self.waiter.wait
        turns = _Turns(self.execution)
        try:
            wait(turns.begin(into))
            while not turns.task.done():
                try:
                    answer = True, next(results, END)
                except failures() as error:
                    answer = False, error
                wait(turns.go_on(*answer))
        except BaseException:
            with suppress(*failures()):  # what ended it is raised
                wait(turns.cancel())
            raise
        return turns.task.result()

    def results(self) -> Iterator[Any]:
        """The results, one by one."""
        if (ended := self.execution.ended()) is not None:
            raise ended
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
        execution, stream = self.execution, self.execution.stream
        assert stream is not None
        call = execution.call
        items = execution.begin_plainly()
        while True:
            begun = perf_counter()
            try:
                for item in items:
                    value = call(item)
                    break
                else:
                    self._count(Outcome(True, True))
                    return
                if type(value) is CoroutineType:
                    value = self.waiter.wait(value)
            except failures() as error:
                self._count(Outcome(False, error))
                self._called += 1
                yield from stream.ready()
                continue
            self._seconds.append(perf_counter() - begun)
            self._called += 1
            if len(self._seconds) > _FEW:
                self._count(None)
            yield value
            if (ended := execution.ended()) is not None:
                raise ended

    def _count(self, outcome: Outcome | None) -> None:
        """Count the items that `_plain_results` has called."""
        seconds, self._seconds = self._seconds, array("f")
        if seconds or outcome is not None:
            self.execution.count_plainly(self._called, seconds, outcome)

    def close(self) -> None:
        """Close what was gone through."""
        for index in self._ready:  # not called any more
            self.execution.take_back(index)
        effects = self.execution.release()
        if effects is not None:
            interpret(effects, _unused, bare_call, self.waiter.wait, _unused)


def _unused(*args: object) -> None: ...  # closing calls no node, and does not sleep


class _Turns:
    """The results of a map as an async iterator. The task that takes them and the thread that makes
    them take turns."""

    task: Any

    def __init__(self, execution: MapExecution) -> None:
        self._execution = execution
        self._wanted: deque[Any] = deque()  # futures of the results that are waited for
        self._answers: deque[tuple[bool, Any]] = deque()  # for these

    async def begin(self, into: Callable[..., Any]) -> None:
        """Start the task, and wait for its first turn to end."""
        import asyncio  # slow to import

        self._asks = asyncio.Event()
        self.task = asyncio.create_task(into(self))
        await self._turn()

    async def go_on(self, is_result: bool, answer: Any) -> None:
        """Answer the task, and wait for its next turn to end."""
        self._asks.clear()
        self._answers.append((is_result, answer))
        self._hand_out()
        await self._turn()

    def _hand_out(self) -> None:
        while self._answers and self._wanted:
            wanted = self._wanted.popleft()
            if not wanted.done():  # cancelled
                wanted.set_result(self._answers.popleft())
        if self._wanted:
            self._asks.set()

    async def _turn(self) -> None:
        import asyncio  # slow to import

        asks = asyncio.create_task(self._asks.wait())
        await asyncio.wait({self.task, asks}, return_when=asyncio.FIRST_COMPLETED)
        asks.cancel()

    async def cancel(self) -> None:
        """Cancel the task, and wait for its end."""
        import asyncio  # slow to import

        self.task.cancel()
        await asyncio.wait({self.task})

    def __aiter__(self) -> _Turns:
        return self

    async def __anext__(self) -> Any:
        if (ended := self._execution.ended()) is not None:
            raise ended
        wanted = self.task.get_loop().create_future()
        self._wanted.append(wanted)
        self._hand_out()
        is_result, answer = await wanted
        if not is_result:
            raise answer
        if answer is END:
            raise StopAsyncIteration
        return answer
