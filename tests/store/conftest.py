"""Children that can be killed, and what a store file has."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag.store.codec import Plain
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KILLED = -9


class Zygote:
    """Runs functions of `tests.store.flows` in children of their own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def call(self, answer: Path, call: str, kill: int | None = None, **options: Any) -> Any:
        """What a function returned; None if the child was killed."""
        command = {"call": call, "options": options, "kill": kill, "answer": str(answer)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        assert code in (0, KILLED), f"the child ended with {code}"
        return json.loads(answer.read_text()) if code == 0 else None

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(LONG)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


def committed(path: Path) -> set[str]:
    """The paths of the nodes whose end is in a store file, of whatever became of its last owner."""
    if not path.exists():
        return set()
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        if ("nodes",) not in tables:
            return set()
        rows = connection.execute("SELECT path, item FROM nodes WHERE replaced IS NULL").fetchall()
        return {f"{path}[{Plain().decode(item)}]" if item else path for path, item in rows}
    finally:
        connection.close()
