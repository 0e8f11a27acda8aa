"""Add up what is in the files of a directory, without keeping any of it.

    python examples/cookbook/sum_files.py
    python examples/cookbook/sum_files.py src --mode parallel

Without a directory one is made, with a file in it that cannot be read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fast_dag import DAG, ExecutionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

Counts = Counter[str]

files = DAG("files")


@files.node
def found(root: str) -> Iterator[str]:
    """The paths, one by one: the map asks for the next one when it has a place for it."""
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            yield os.path.join(folder, name)


def added_up(results: Iterator[Counts]) -> Counts:
    """The sum of all counts, each of which is forgotten once it was added."""
    total: Counts = Counter()
    for counts in results:
        total.update(counts)
    return total


@files.map(over="path", into=added_up, ordered=False, on_error="drop")
def counted(path: str) -> Counts:
    """What is in one file."""
    counts: Counts = Counter(files=1)
    with open(path, encoding="utf-8") as lines:
        try:
            for line in lines:
                counts["lines"] += 1
                counts["words"] += len(line.split())
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.path.basename(path)} is no text") from error
    return counts


found >> counted


def make_example(folder: Path) -> None:
    """Some hundred small files."""
    for number in range(300):
        below = folder / f"day{number % 10}"
        below.mkdir(exist_ok=True)
        (below / f"{number}.txt").write_text("one two three\n" * (number % 5), encoding="utf-8")
    (folder / "broken.txt").write_bytes(b"\xff\xfe\xff")


def main() -> None:
    """Count, and print the sums."""
    parser = argparse.ArgumentParser(description="Count the lines and words below a directory.")
    parser.add_argument("root", nargs="?")
    modes = [each.value for each in ExecutionMode]
    parser.add_argument("--mode", choices=modes, default="parallel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = options.root or made
        if options.root is None:
            make_example(Path(made))
        run = files.execute(root=root, mode=options.mode)
    if run.status == "failed":
        run.raise_for_error()
    total, items = run.value, run.items(counted)
    print(f"{total['files']} files, {total['lines']} lines, {total['words']} words")
    print(f"{items.dropped} left out")
    for error in list(items.errors.values())[:3]:
        print(f"  {error}")


if __name__ == "__main__":
    main()
