"""Lane: the items of a map to worker processes, many in one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drive import payload
from fast_dag.drive.job import Lane
from fast_dag.drive.process_lane import Batch, Ended, ProcessLane
from fast_dag.drive.processes import Head
from fast_dag.drive.protocol import PART
from fast_dag.errors import ExecutionError, text_of
from fast_dag.run.map_batches import AT_ONCE_AWAY, Parcel

if TYPE_CHECKING:
    from typing import Any

    from fast_dag.drive.job import Job
    from fast_dag.drive.processes import Process
    from fast_dag.drive.protocol import Message, Packed


class ItemsLane(Lane):
    """The lane of the batches of one map. Each process is sent its function, and what all items are
    given, once."""

    kills_calls = True
    shares_memory = False

    def __init__(self, lane: ProcessLane, mapping: Any) -> None:
        self.lane = lane
        plan = mapping.plan
        args, kwargs = mapping.constants
        self.head = Head(payload.Head(plan.item.call, args, kwargs, plan.places, plan.node))
        self._batches: dict[Job, _Items] = {}

    def launch(self, job: Job) -> None:
        batch = self._batches[job] = _Items(self, job)
        self.lane.launch_batch(batch)

    def left(self, job: Job) -> None:
        """The call of a job has ended."""
        self._batches.pop(job, None)

    def give_up(self, job: Job) -> None:
        batch = self._batches.get(job)
        if batch is not None:
            self.lane.kill_batch(batch)

    def close(self, *, abandon: bool) -> None:
        self.lane.pool.forget(self.head)


class _Items(Batch):
    """The batch that a job stands for."""

    def __init__(self, items: ItemsLane, job: Job) -> None:
        parcel: Parcel = job.args[0]
        self._items = items
        self._job = job
        self._generation = job.generation
        self._parcel = parcel
        super().__init__(
            job.path,
            items.head,
            parcel.items,
            2 * AT_ONCE_AWAY,
            self._took,
            self._over,
            parcel.keep,
            is_sole=parcel.is_sole,
        )

    def packed(self, names: payload.Names) -> Packed:
        packed = super().packed(names)
        size = len(packed.data) + sum(each.length for each in packed.spans)
        self._parcel.weigh(size, len(self.items))
        return packed

    def told(self, message: Message) -> None:
        if message.kind == PART and message.number:
            size = len(message.data) + sum(map(len, message.buffers))
            self._parcel.weigh(size, message.number)
        super().told(message)

    def _took(self, first: int, part: payload.Part) -> None:
        path = self._job.path
        failed = {
            at: payload.failed(path, ok, value, extra).value
            for at, (ok, value, extra, _) in part.failed.items()
        }
        self._parcel.took(part.values, part.seconds, failed)

    def _over(self, ended: Ended) -> None:
        if ended.is_unread:
            assert ended.error is not None
            self._outcome = Outcome(True, self._parcel.unread(ended.error))
        elif ended.error is not None and not ended.begun and self._parcel.is_unsent:
            self._outcome = Outcome(False, ended.error)  # no process could be started, say
        else:
            self._outcome = Outcome(True, self._parcel.ended(ended.begun, ended.error))

    def _serve(self, pool: Any, process: Process | None) -> None:
        job, generation = self._job, self._generation
        dispatcher = self._items.lane.dispatcher
        begins, self._outcome = dispatcher.begins(job, generation), STOPPED
        if begins and self.items:
            try:
                super()._serve(pool, process)
            except Exception as error:
                self._outcome = self._not_sent(error)
        else:
            if process is not None:
                pool.release(self, process)
            if begins:
                self._outcome = Outcome(True, self._parcel.ended(0, None))
        self._items.left(job)
        dispatcher.go_on(dispatcher.ended(job, generation, self._outcome))

    def _not_sent(self, error: Exception) -> Outcome:
        """The items could not be packed: those that cannot fail, and the others are given back. If
        it is none of them, it is what all have in common."""
        parcel, path = self._parcel, self._job.path
        failed: dict[int, Exception] = {}
        for at, item in enumerate(self.items):
            try:
                payload.packed(item, {})
            except Exception as cause:
                failed[at] = ExecutionError(
                    f"an item of map {path!r}, a {type(item).__name__}, cannot be sent to "
                    f"another process: it cannot be pickled ({text_of(cause)}); run it at home "
                    "with run_in='thread'",
                    node_name=path,
                )
                failed[at].__cause__ = cause
        if not failed:
            lost = ExecutionError(
                f"map {path!r} cannot be sent to another process: its function, or what all items "
                f"are given, cannot be pickled ({text_of(error)}); run it at home with "
                "run_in='thread'",
                node_name=path,
            )
            lost.__cause__ = error
            return Outcome(False, lost)
        return Outcome(True, parcel.without(failed))
