"""A nightly pipeline that is killed in the middle, and goes on.

The first process dies as if the machine had lost its power. The second one calls only what is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fast_dag import DAG
from fast_dag.store import Store

nightly = DAG("nightly")


@nightly.node
def download(day: str) -> list[str]:
    print("  downloads")
    return [f"{day} sold {count}" for count in (3, 4, 5)]


@nightly.node
def count(download: list[str]) -> int:
    print("  counts")
    return sum(int(line.split()[-1]) for line in download)


@nightly.node
def report(count: int) -> str:
    print("  reports", flush=True)
    if "DIE" in os.environ:
        os._exit(9)
    return f"{count} pieces"


download >> count >> report


def main(path: str) -> None:
    with Store(path) as store:
        print(nightly.run(store=store, run_id="night-1", day="Friday"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory, "runs.db"))
            for night, environ in (("first", {"DIE": "1"}), ("second", {})):
                print(f"{night} process", flush=True)
                command = [sys.executable, __file__, path]
                subprocess.run(command, env={**os.environ, **environ}, check=False)
