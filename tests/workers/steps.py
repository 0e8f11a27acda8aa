"""Functions that workers find by name."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from fast_dag import Context
from fast_dag.drive import payload, worker

STARTED: list[int] = []


def pid() -> int:
    return os.getpid()


def with_context(context: Context) -> None:
    context.metadata["away"] = os.getpid()


def add(x: int, y: int = 1) -> int:
    return x + y


def noted(log: str) -> int:
    """Note the call in a file, so that a test can count the calls."""
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def noted_and_killed(log: str) -> None:
    noted(log)
    os.kill(os.getpid(), signal.SIGKILL)


def when(ready: str, go: str) -> int:
    """Tell that the call has begun, and wait until a file is there."""
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.002)
    return os.getpid()


def wait_at_2(x: tuple[int, str]) -> int:
    """The number of an item. The third tells that it has begun, and waits until a file is there."""
    number, go = x
    if number == 2:
        Path(f"{go} begun").touch()
    while number == 2 and not Path(go).exists():
        time.sleep(0.002)
    return number


class DiesHere:
    """Kills the process that unpickles it, or that pickles it elsewhere than where it was made."""

    def __init__(self, *, arriving: bool) -> None:
        self.arriving = arriving
        self.home = os.getpid()

    def __reduce__(self) -> Any:
        if not self.arriving:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.kill, (Pid(), signal.SIGKILL)


class Pid(int):
    """The process that unpickles it."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def noted_and_killed_as_it_answers(log: str) -> DiesHere:
    noted(log)
    return DiesHere(arriving=False)


def takes(thing: object, log: str) -> None:
    noted(log)


def starts() -> None:
    STARTED.append(os.getpid())


def started() -> list[int]:
    return STARTED


def fails_to_start() -> None:
    raise LookupError("no model there")


def dies_as_it_starts() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_as_the_first_that_starts(mark: str) -> None:
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return
    dies_as_it_starts()


def logs(text: str) -> None:
    logging.getLogger("steps").info("said %s", text)
    try:
        {}["lost"]
    except KeyError:
        logging.getLogger("steps").exception("and failed", extra={"lock": open(os.devnull)})  # noqa: SIM115


def logs_badly(text: str) -> str:
    logger = logging.getLogger("steps")
    logger.info("no number: %d", text)
    logger.info("does not unpickle", extra={"thing": Unpicklable()})
    return text


def same(x: Any) -> Any:
    return x


def item(x: int, log: str = "") -> int:
    if log:
        noted(log)
    if x == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 7:
        raise ValueError("seven")
    if x == 100:
        time.sleep(0.3)
    return x * x


def _not_here() -> None:
    raise LookupError("not here")


class Unpicklable:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return _not_here, ()


def emits(*values: Any) -> Any:
    for each in values:
        worker.emit(each)
    return payload.carried.get()
