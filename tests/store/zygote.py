"""A process that forks a child for each command, so that a child takes milliseconds to start.

A command is a line of JSON on stdin: `call`, the name of a function of `tests.store.flows`, its
`options`, and `kill`, after how many steps of its database the child kills itself: even numbers
kill before a commit, odd ones right after it. The answer is a line with the exit code of the child,
and what the function returned.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from typing import Any

import fast_dag.drive.aio
import fast_dag.drive.blocking  # noqa: F401  loaded once for all children
from fast_dag.store import durable
from tests.store import flows


class Deadly(sqlite3.Connection):
    """Kills this process before or after one of its commits. It syncs nothing: what was written
    survives a kill."""

    left = -1

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous = OFF"
        if sql != "COMMIT" and ("INSERT INTO nodes" not in sql or self.in_transaction):
            return super().execute(sql, *values)
        self.step()
        cursor = super().execute(sql, *values)
        self.step()
        return cursor

    def step(self) -> None:
        if Deadly.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Deadly.left -= 1


_connect = sqlite3.connect


def connect(path: str, **options: Any) -> sqlite3.Connection:
    return _connect(path, factory=Deadly, **options)


def child(command: dict[str, Any]) -> None:
    kill = command["kill"]
    Deadly.left = -1 if kill is None else kill
    sqlite3.connect = connect  # type: ignore[assignment]
    durable._MOST_ITEMS = 2  # type: ignore[misc]  # so that a map of five items has several batches
    value = getattr(flows, command["call"])(**command["options"])
    with open(command["answer"], "w") as file:
        json.dump(value, file)


def main() -> None:
    flows.execute(":memory:", os.devnull, "sequential")  # so that all is loaded
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                child(command)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
