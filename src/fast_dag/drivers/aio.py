"""On a running event loop: async nodes on it, sync nodes in worker threads."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fast_dag.call.attempts import CALL, Outcome, Sleep, attempts
from fast_dag.run import current_run

if TYPE_CHECKING:
    from fast_dag.run import Run


async def drive(run: Run) -> None:
    """Execute a run from its start to its end, in copies of the caller's contextvars."""
    task = asyncio.get_running_loop().create_task(_drive(run), context=copy_context())
    await _ended(task)


async def _ended(task: asyncio.Task[None]) -> None:
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise


async def _drive(run: Run) -> None:
    run.open()
    current_run.set(run)
    try:
        await _Nodes(run).run_all()
    except BaseException:
        run.close("cancelled")
        raise
    run.close()


class _Nodes:
    """The nodes of one run as tasks: each task follows the chain it is on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tasks: set[asyncio.Task[None]] = set()

    async def run_all(self) -> None:
        self.follow_all(self.run.begin(eager=True))
        try:
            while self.tasks:
                done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
                self.tasks -= done
                for task in done:
                    task.result()
        finally:
            for task in self.tasks:
                task.cancel()
            if self.tasks:
                await asyncio.wait(self.tasks)

    def follow_all(self, ready: list[int]) -> None:
        for index in ready:
            self.tasks.add(asyncio.get_running_loop().create_task(self.follow(index)))

    async def follow(self, index: int) -> None:
        """Run a node, and then one of those that it made ready, until there is none."""
        while not self.run.stopped:
            started = perf_counter()
            ready = self.run.settle(index, await self.perform(index), started)
            if not ready:
                return
            index = ready[0]
            self.follow_all(ready[1:])

    async def perform(self, index: int) -> Outcome:
        try:
            args, kwargs = self.run.start(index)
        except Exception as error:
            return Outcome(False, error, attempts=0)
        node = self.run.plan.nodes[index]
        if not node.retry:
            return await self.call(index, args, kwargs)
        effects = attempts(node)
        answer: Outcome | None = None
        while True:
            try:
                effect = effects.send(answer)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            if effect is CALL:
                answer = await self.call(index, args, kwargs)
            elif isinstance(effect, Sleep):
                await asyncio.sleep(effect.seconds)
                answer = None

    async def call(self, index: int, args: list[Any], kwargs: dict[str, Any]) -> Outcome:
        node = self.run.plan.nodes[index]
        try:
            if node.workflow is not None:
                return Outcome(True, await _nested(self.run.child(index, kwargs)))
            if node.signature.is_async:
                value: Any = node.func(*args, **kwargs)
            else:
                value = await asyncio.to_thread(_sync, node.func, args, kwargs)
            if asyncio.iscoroutine(value) and not hasattr(value, "gi_frame"):
                value = await value
        except Exception as error:
            return Outcome(False, error)
        return Outcome(True, value)


def _sync(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry it.
        raise RuntimeError("StopIteration") from error


async def _nested(child: Run) -> Any:
    await asyncio.get_running_loop().create_task(_drive(child))
    if child.stopped:
        error = child.exception()
        assert error is not None
        raise error
    return child.value
