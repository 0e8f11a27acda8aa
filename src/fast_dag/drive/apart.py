"""Lane: a thread for what a map calls besides its items: what pulls them, and `into`."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fast_dag.drive.job import Lane

if TYPE_CHECKING:
    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job


class ApartLane(Lane):
    """Makes all its calls in one thread, and in one copy of the contextvars. The thread is started
    when first needed. It is abandoned with a call that is given up."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._inbox: SimpleQueue[Job | None] | None = None
        self._thread: threading.Thread | None = None

    def launch(self, job: Job) -> None:
        if self._inbox is None:
            inbox: SimpleQueue[Job | None] = SimpleQueue()
            thread = threading.Thread(
                target=self.dispatcher.variables.copy().run,
                args=(self._serve, inbox),
                name="fast_dag map",
                daemon=True,
            )
            thread.start()
            self._inbox, self._thread = inbox, thread
        self._inbox.put(job)

    def _serve(self, inbox: SimpleQueue[Job | None]) -> None:
        try:
            while (job := inbox.get()) is not None and inbox is self._inbox:
                job.variables = None  # it is called in those of this thread
                generation, dispatcher = job.generation, self.dispatcher
                following = dispatcher.run_here(job, generation, self)
                del job
                while following is not None:
                    following.variables = None
                    following = dispatcher.run_here(following, following.generation, self)
        except BaseException as error:
            self.dispatcher.break_off(error)

    def give_up(self, job: Job) -> None:
        """Abandon the thread."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.put(None)

    def close(self, *, abandon: bool) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is None:
            return
        inbox.put(None)
        if not abandon and self._thread is not threading.current_thread():
            assert self._thread is not None
            self._thread.join()
