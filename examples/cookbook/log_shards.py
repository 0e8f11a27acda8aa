"""Read one big log file in several processes, and put the counts together.

    python examples/cookbook/log_shards.py                        a log made for the purpose
    python examples/cookbook/log_shards.py --mode process --shards 4
    python examples/cookbook/log_shards.py --file access.log      one of yours

What travels to a process is the name of the file and two numbers, and what comes back are counts:
never the lines themselves.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

from fast_dag import DAG

LINE = re.compile(r'(\S+) \S+ \S+ \[[^]]+] "(?:GET|POST) (\S+) [^"]*" (\d{3}) (\d+)')
PATHS = ["/", "/login", "/search", "/cart", "/pay", "/static/logo.svg"]


class Counts(NamedTuple):
    """What is known of some lines."""

    requests: int
    size: int
    paths: Counter[str]
    failures: Counter[str]  # by address
    unreadable: int


def cut(path: Path, shards: int) -> dict[str, tuple[int, int]]:
    """Where the parts of the file begin and end: always at the beginning of a line."""
    size = path.stat().st_size
    places = [0]
    with open(path, "rb") as file:
        for number in range(1, shards):
            file.seek(max(size * number // shards, places[-1]))
            file.readline()
            places.append(file.tell())
    ends = [*places[1:], size]
    return {name_of(number): (places[number], ends[number]) for number in range(shards)}


def name_of(number: int) -> str:
    """What a part is called, as a node and as an output of `cut`."""
    return f"part {number + 1}"


def count(path: Path, part: tuple[int, int]) -> Counts:
    """Read one part."""
    begin, end = part
    requests = size = unreadable = 0
    paths: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    with open(path, "rb") as file:
        file.seek(begin)
        for line in file.read(end - begin).decode("utf-8", "replace").splitlines():
            match = LINE.match(line)
            if match is None:
                unreadable += 1
                continue
            address, where, status, length = match.groups()
            requests += 1
            size += int(length)
            paths[where.partition("?")[0]] += 1
            if status[0] in "45":
                failures[address] += 1
    return Counts(requests, size, paths, failures, unreadable)


def merge(parts: dict[str, Counts]) -> str:
    """The report over all parts."""
    paths = sum((each.paths for each in parts.values()), Counter[str]())
    failures = sum((each.failures for each in parts.values()), Counter[str]())
    requests = sum(each.requests for each in parts.values())
    megabytes = sum(each.size for each in parts.values()) / 1e6
    unreadable = sum(each.unreadable for each in parts.values())
    lines = [f"{requests:,} requests, {megabytes:,.1f} MB, {unreadable} unreadable lines"]
    lines += [f"{number:>8,}  {path}" for path, number in paths.most_common(3)]
    address, number = max(failures.items(), key=lambda item: item[1], default=("nobody", 0))
    return "\n".join([*lines, f"most failures: {address}, {number:,}"])


def log_report(shards: int) -> DAG:
    """One node that cuts, one for each part, one that merges. What is small stays at home."""
    dag = DAG("log").add_node("cut", cut, run_in="inline")
    dag.add_node("merge", merge, type="all", collect="parts", run_in="inline")
    for name in map(name_of, range(shards)):
        dag.add_node(name, count).connect("cut", name, output=name, input="part")
        dag.connect(name, "merge")
    return dag


def write_sample(path: Path, lines: int) -> None:
    """A log as web servers write it; the same each time."""
    random = Random(7).random
    with open(path, "w", encoding="utf-8") as file:
        for number in range(lines):
            where = PATHS[int(random() ** 2 * len(PATHS))]
            address = f"10.0.0.{int(random() * 20)}"
            bad = random() < (0.3 if address == "10.0.0.13" and where == "/login" else 0.01)
            time = f"[01/Mar/2026:{number // 3600 % 24:02}:{number // 60 % 60:02}:00 +0000]"
            status, size = 401 if bad else 200, int(random() * 5000)
            file.write(f'{address} - - {time} "GET {where} HTTP/1.1" {status} {size}\n')
        file.write("this line was cut off\n")


def main() -> None:
    """Count what is in a log."""
    parser = argparse.ArgumentParser(description="Read one log in several processes.")
    parser.add_argument("--file", type=Path, help="a log in the common format")
    parser.add_argument("--shards", type=int, default=2, metavar="N")
    parser.add_argument("--mode", choices=("sequential", "process"), default="process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = options.file or Path(directory, "access.log")
        if options.file is None:
            write_sample(path, 30_000)
        dag = log_report(options.shards)
        print(dag.run(path=path, shards=options.shards, mode=options.mode))


if __name__ == "__main__":
    main()
