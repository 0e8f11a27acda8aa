"""Power cuts. A library that is loaded before all others writes down what a run does to its files.
Then the disk is made as a cut could leave it: what was synced is there, of all else any part."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from fast_dag.store import Store
from tests.store import flows
from tests.store.conftest import ROOT, committed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)

PROGRAM = """
import fast_dag.store.store
fast_dag.store.store.LARGE = 60  # so that there are files of values
from tests.store import flows
from fast_dag.store import Store
path, calls = {path!r}, {calls!r}
flows.execute(path, calls, "sequential", "disk", name="x" * 100)
flows.called("done", None)
"""
SECTOR = 512


class Event(NamedTuple):
    """What happened to a file: W(rite), T(runcate), S(ync), or a name: C(reate), D(irectory),
    R(ename), U(nlink)."""

    kind: str
    path: str
    at: int
    data: bytes


def events_in(trace: bytes) -> Iterator[Event]:
    place = 0
    while place < len(trace):
        kind, length, at, size = struct.unpack_from("<4Q", trace, place)
        path = trace[place + 32 : place + 32 + length].decode()
        place += 32 + length + size
        yield Event(chr(kind), path, at, trace[place - size : place])


class Disk:
    """What is on a disk, and what is on its way there."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}  # as programs see them
        self.kept: dict[str, int] = {}  # as they are on the disk
        self.content: dict[int, bytes] = {}
        self.directories: set[str] = set()
        self.moves: list[Event] = []  # changes of names on their way
        self.writes: list[tuple[int, Event]] = []

    def happens(self, event: Event) -> None:
        kind, path = event.kind, event.path
        if kind == "S" and path not in self.names:
            mine = [each for each in self.moves if os.path.dirname(each.path) == path]
            self._move(mine)
            self.moves = [each for each in self.moves if each not in mine]
        elif kind == "S":
            file = self.names[path]
            for _, each in [pair for pair in self.writes if pair[0] == file]:
                self._write(file, each)
            self.writes = [pair for pair in self.writes if pair[0] != file]
        elif kind in "WT":
            self.writes.append((self.names[path], event))
        else:
            if kind == "C":
                self.names[path] = len(self.content)
                self.content[self.names[path]] = b""
            elif kind == "R":
                self.names[event.data.decode()] = self.names.pop(path)
            elif kind == "U":
                del self.names[path]
            number = self.names.get(event.data.decode() if kind == "R" else path, 0)
            self.moves.append(event._replace(at=number))

    def _move(self, moves: list[Event]) -> None:
        for kind, path, number, data in moves:
            if kind == "D":
                self.directories.add(path)
            elif kind == "C":
                self.kept[path] = number
            else:
                self.kept.pop(path, None)
                if kind == "R":
                    self.kept[data.decode()] = number

    def _write(self, file: int, event: Event) -> None:
        old, end = self.content[file], event.at + len(event.data)
        if event.kind == "T":
            self.content[file] = old[: event.at].ljust(event.at, b"\0")
        else:
            self.content[file] = old[: event.at].ljust(event.at, b"\0") + event.data + old[end:]

    def cut(self, chance: random.Random, directory: Path, root: str) -> None:
        """Write what a power cut leaves. Names come to the disk in their order, writes in any, and
        the last of them in part."""
        state = self.kept.copy(), self.content.copy(), self.directories.copy()
        self._move(self.moves[: chance.randint(0, len(self.moves))])
        share = chance.choice([0.0, 0.5, 0.9, 1.0])
        for file, each in self.writes:
            if chance.random() < share:
                whole = len(each.data)
                size = chance.choice([whole, whole, chance.randint(0, whole // SECTOR) * SECTOR])
                self._write(file, each._replace(data=each.data[:size]))
        for path, file in self.kept.items():
            parent = os.path.dirname(path)
            if parent == root or parent in self.directories:
                target = directory / os.path.relpath(path, root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.content[file])
        self.kept, self.content, self.directories = state


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Event]]:
    """The directory of a store, and what happened in it, the calls of nodes among that."""
    directory = tmp_path_factory.mktemp("power").resolve()
    root, library, trace = directory / "root", directory / "power.so", directory / "trace"
    root.mkdir()
    source = Path(__file__).with_name("power.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True
    )
    subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.format(path=str(root / "runs.db"), calls=str(root / "calls")),
        ],
        check=True,
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAST_DAG_ROOT": str(root),
            "FAST_DAG_TRACE": str(trace),
        },
    )
    return str(root), list(events_in(trace.read_bytes()))


def check(history: tuple[str, list[Event]], tmp_path: Path, seed: int, cuts: int | None) -> None:
    """Cut the power so many times, or after each event."""
    root, events = history
    chance = random.Random(seed)
    points = range(len(events)) if cuts is None else chance.sample(range(len(events)), cuts)
    disk, calls = Disk(), list[str]()
    for point, event in enumerate(events):
        if event.path.endswith("/calls"):
            calls += event.data.decode().split()
            continue
        if not event.path.endswith(("-shm", "-locks")):
            disk.happens(event)
        if point in points:
            directory = tmp_path / f"{seed}-{point}"
            directory.mkdir()
            disk.cut(chance, directory, root)
            check_what_is_left(directory, calls)
            shutil.rmtree(directory)
    assert calls[-1] == "done"


def check_what_is_left(directory: Path, calls: list[str]) -> None:
    """Whatever was committed before the last call is there, and the run goes on."""
    path = directory / "runs.db"
    known = {name for name in calls[:-1] if "[" not in name}
    if "last" in calls:
        known.add("items")
    assert known <= committed(path)
    again = directory / "again"
    again.touch()
    told = flows.execute(
        str(path), str(again), "sequential", **({"n": 5} if not calls else {}), name="x" * 100
    )
    assert told["value"] == [*flows.VALUE[:-1], "x" * 100]
    assert told["errors"].keys() == {"broken", "items[3]"}
    assert not known & set(again.read_text().split())
    with Store(path) as store:
        assert store.doctor()["problems"] == []


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST_DAG_CALLS", os.devnull)  # which the flows set


def test_what_was_committed_survives_a_power_cut(
    history: tuple[str, list[Event]], tmp_path: Path
) -> None:
    check(history, tmp_path, seed=1, cuts=10)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(4))
def test_what_was_committed_survives_a_power_cut_at_any_moment(
    seed: int, history: tuple[str, list[Event]], tmp_path: Path
) -> None:
    check(history, tmp_path, seed, cuts=None)
