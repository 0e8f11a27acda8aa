"""Lanes: which lane makes a node's calls, by the mode and by the node's `run_in`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_dag.run.settings import PROCESS

if TYPE_CHECKING:
    from fast_dag.define.node import Node
    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Lane
    from fast_dag.drive.loops import LoopLane, ThreadedLoopLane
    from fast_dag.drive.threads import ThreadLane
    from fast_dag.run.execution import Execution
    from fast_dag.run.settings import Settings


class Lanes:
    """The lanes of one run. Those for other processes are made when first needed."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        threads: ThreadLane,
        *,
        loop: LoopLane | ThreadedLoopLane,
        inline: Lane,
    ) -> None:
        self.dispatcher = dispatcher
        self.settings = settings
        self.threads = threads
        self.loop = loop
        self.inline = inline
        # The lane of all hooks, and of sync nodes that nothing sends elsewhere. A sequential run
        # stays in the caller's thread, unless that must watch timeouts.
        watched = settings.timeout is not None or dispatcher.execution.plan.has_timeouts
        self.home = inline if settings.ordered and not watched else self.threads
        self._known: dict[Node[..., Any], Lane] = {}
        self._processes: Lane | None = None
        self._executor: Lane | None = None
        self._apart: dict[tuple[Execution, str], Lane] = {}

    def open(self) -> None:
        """Called when the run begins. Makes the lane to `Workers`, which from now on wait for the
        run if they are shut down. Raises RuntimeError if they are already."""
        if hasattr(self.settings.executor, "_fast_dag_lane"):
            assert self.processes is not None

    def of(self, node: Node[..., Any], *, stays: bool = False) -> Lane:
        """The lane of a node's calls; with `stays`, not in another process."""
        if stays and not node.signature.is_async and node.run_in != "inline":
            return self.threads if node.run_in == "thread" else self.home
        lane = self._known.get(node)
        if lane is None:
            lane = self._known[node] = self._find(node)
        return lane

    def _find(self, node: Node[..., Any]) -> Lane:
        if node.signature.is_async:
            return self.loop
        where = node.run_in
        if where == "inline":
            return self.inline
        if where == "thread":
            return self.threads
        if where == "process":
            return self.processes
        if self.settings.executor is not None:
            return self.executor(node)
        if self.settings.mode is PROCESS and not node.signature.takes_context:
            return self.processes
        return self.home

    def apart(self, execution: Execution, role: str) -> Lane:
        """The lane of what a map calls besides its items: its own thread, which takes no place of
        others; the loop, if that is async."""
        mapping: Any = execution
        if mapping.is_role_async(role):
            return self.loop
        lane = self._apart.get((execution, role))
        if lane is None:
            from fast_dag.drive.apart import ApartLane

            lane = self._apart[execution, role] = ApartLane(self.dispatcher)
        return lane

    def leave(self, execution: Execution) -> None:
        """The execution of a map has ended: end the threads that it had."""
        for key in [key for key in self._apart if key[0] is execution]:
            self._apart.pop(key).close(abandon=False)

    def items(self, execution: Execution) -> Lane:
        """The lane of the batches of a map to worker processes."""
        lane = self._apart.get((execution, "items"))
        if lane is None:
            from fast_dag.drive.process_items import ItemsLane  # needs the extra `process`

            processes: Any = self.processes
            lane = self._apart[execution, "items"] = ItemsLane(processes, execution)
        return lane

    @property
    def processes(self) -> Lane:
        """The lane to worker processes: those of the `Workers` that the run was given, else its
        own."""
        lane = self._processes
        if lane is None:
            shared = getattr(self.settings.executor, "_fast_dag_lane", None)
            if shared is None:
                from fast_dag.drive.process_lane import ProcessLane  # needs the extra `process`

                shared = ProcessLane
            lane = self._processes = shared(self.dispatcher)
        return lane

    def executor(self, node: Node[..., Any]) -> Lane:
        """The lane of the caller's executor. A node that takes the context goes there only if the
        executor uses threads; else it stays in a thread of the run."""
        if hasattr(self.settings.executor, "_fast_dag_lane"):
            return self.threads if node.signature.takes_context else self.processes
        from fast_dag.drive.executor import ExecutorLane

        if self._executor is None:
            self._executor = ExecutorLane(self.dispatcher, self.settings.executor)
        assert isinstance(self._executor, ExecutorLane)
        if node.signature.takes_context and not self._executor.shares_memory:
            return self.threads
        return self._executor

    @property
    def elsewhere(self) -> list[Lane]:
        """The lanes of other processes that have been made."""
        return [lane for lane in (self._processes, self._executor) if lane is not None]

    def close(self, *, abandon: bool) -> None:
        """Close all lanes; see `Lane.close`."""
        for lane in (*self._apart.values(), *self.elsewhere, self.threads, self.loop):
            lane.close(abandon=abandon)
