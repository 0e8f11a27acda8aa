"""Workers: worker processes that stay, for many runs and threads."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any
from weakref import finalize

from fast_dag.define.options import asked_count, asked_deadline
from fast_dag.drive import payload, processes, reloads
from fast_dag.drive.pool import Pool, Task
from fast_dag.drive.process_lane import ProcessLane
from fast_dag.drive.slots import cpu_count
from fast_dag.errors import ExecutionError, ValidationError, add_note
from fast_dag.run.execution import current

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, SupportsIndex, TypeVar

    from fast_dag.define.options import Seconds
    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.processes import Process
    from fast_dag.drive.protocol import Packed

    P = ParamSpec("P")
    T = TypeVar("T")


class Workers(Executor):
    """Worker processes that stay warm: many runs, threads and event loops use them at once.

    They are started on demand, and end with the pool, or with the program. Runs take turns. If a
    process dies, or is killed because its node is late, only that node fails, and another process
    takes its place. It is a `concurrent.futures.Executor`, too.

    Parameters
    ----------
    n:
        How many processes there may be. Default: the number of CPUs.
    idle:
        Seconds after which a process that has nothing to do ends; None: never.
    start_method:
        How processes are started: "spawn", the only way and the default.
    initializer:
        A function without parameters, called in each process before its first call: it sets up
        logging or an SDK, or loads a model.
    logging:
        A log level, such as `logging.INFO`. Records of the processes from it on are handled by the
        loggers of this process.
    max_calls:
        How many calls a process makes before a new one takes its place, for functions that leak.

    >>> from fast_dag import DAG, Workers
    >>> dag = DAG("powers").add_node("square", pow, inputs=["base", "exp"])
    >>> with Workers(2) as workers:
    ...     dag.run(base=3, exp=2, executor=workers), dag.run(base=4, exp=2, executor=workers)
    (9, 16)
    """

    def __init__(
        self,
        n: SupportsIndex | None = None,
        *,
        idle: Seconds | None = 60.0,
        start_method: str | None = None,
        initializer: Callable[[], object] | None = None,
        logging: int | str | None = None,
        max_calls: SupportsIndex | None = None,
    ) -> None:
        processes.refuse_without_extra()
        if start_method not in (None, "spawn"):
            raise ValidationError(
                f"start_method is 'spawn' or None, not {start_method!r}: worker processes are "
                "programs of their own, never forked"
            )
        if initializer is not None and not callable(initializer):
            raise ValidationError(f"initializer is a function, not {initializer!r}")
        # Also the name that executors of the standard library have for it.
        self._max_workers = asked_count("n", n) or cpu_count()
        self._pool = Pool(
            self._max_workers,
            idle=asked_deadline("idle", idle),
            max_calls=asked_count("max_calls", max_calls),
            initializer=initializer,
            level=None if logging is None else _level(logging),
        )
        self._forgotten = finalize(self, self._pool.abandon)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a worker process.

        >>> with Workers(1) as workers:
        ...     workers.submit(pow, 2, 5).result()
        32
        """
        processes.refuse()
        task = _Submitted(self, fn, args, kwargs)
        self._pool.enter()
        self._pool.submit(task)
        return task.future

    def restart(self) -> None:
        """End the processes, each when its call ends; new ones take their place. So they import
        all modules again, and call `initializer`."""
        self._pool.restart()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new runs and calls. The processes end when those in progress have ended.

        Parameters
        ----------
        wait:
            Return when all of that has ended. What would wait for itself does not wait: a node or
            a callback of what is in progress, and a thread whose event loop awaits such a run.
        cancel_futures:
            Cancel what has not begun. Nodes that have not begun fail.
        """
        self._pool.close(wait=wait and not self._is_around(), refuse=cancel_futures)

    def _is_around(self) -> bool:
        """Whether this is called by a run that uses the pool."""
        execution = current.get()
        while execution is not None and execution.settings.executor is not self:
            execution = execution.outer
        return execution is not None

    def __repr__(self) -> str:
        closed = ", shut down" if self._pool.is_closed else ""
        return f"<Workers: {self._max_workers}{closed}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "Workers do not pickle: they belong to this process. A node that runs in a worker "
            "process makes its own"
        )

    # What a run asks of its executor.

    def _fast_dag_check(self) -> None:
        processes.refuse()
        if self._pool.is_closed:
            raise ValidationError("these Workers are shut down, so they take no new run")

    def _fast_dag_lane(self, dispatcher: Dispatcher) -> ProcessLane:
        return ProcessLane(dispatcher, self._pool)


class _Submitted(Task):
    """A call that was submitted."""

    def __init__(self, workers: Workers, func: Any, args: Any, kwargs: Any) -> None:
        self.future: Future[Any] = Future()
        self.workers = workers  # nobody else may refer to them any more
        self.pool = pool = workers._pool
        self.call = func, args, kwargs
        self.since = reloads.last(func)
        self.prefers = pool.maker((*args, *kwargs.values()))

    @property
    def line(self) -> Pool:
        return self.pool

    def error(self, text: str) -> ExecutionError:
        return ExecutionError(f"the worker process of {self._name} {text}")

    @property
    def _name(self) -> str:
        return f"the call of {getattr(self.call[0], '__qualname__', self.call[0])!r}"

    def packed(self, names: payload.Names) -> Packed:
        func, args, kwargs = self.call
        return payload.packed_function(func, args, kwargs, names)

    def serve(self, pool: Pool, process: Process | None) -> None:
        try:
            if process is None:
                self.future.cancel()
            if not self.future.set_running_or_notify_cancel():
                if process is not None:
                    pool.release(self, process)
                return
            assert process is not None
            self._make(pool, process)
        finally:
            pool.leave()

    def _make(self, pool: Pool, process: Process) -> None:
        try:
            answer, process = pool.make(self, process)
            ok, value, extra, _ = payload.unpacked(answer)
            if ok is None:
                raise ExecutionError(f"{self._name}: {value}") from extra
            if not ok:
                add_note(value, *extra)
                raise value
        except BaseException as error:
            self.future.set_exception(error)
        else:
            pool.made(value, answer, process)
            self.future.set_result(value)


def _level(value: int | str) -> int:
    import logging

    level = logging.getLevelName(value) if isinstance(value, str) else value
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    raise ValidationError(f"logging is a log level, such as logging.INFO, not {value!r}")
