"""A job for cron: what it does stands in a file, how it ended in its exit status.

    python examples/cookbook/nightly_job.py night --example        a file to begin with
    python examples/cookbook/nightly_job.py night/job.yaml
    python examples/cookbook/nightly_job.py night/job.yaml --set keep=1 --timeout 60

Needs the extra `yaml`. The file says which steps there are, in which order, how often they are
tried, and what they are given; `--set` goes before that. It can call the functions of `STEPS` and
nothing else. The example saves a directory, reads the copy back, and only then drops old ones.

Exit status: 0 all is well, 1 a step failed, 2 the file is wrong, 124 it took too long.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from fast_dag import DAG, ExecutionError, TimeoutError, ValidationError

EXAMPLE = """\
fast_dag: 1
kind: dag
name: backup
metadata:
  inputs: {source: files, target: copies, keep: 2}
nodes:
- {name: found, function: find}
- {name: packed, function: pack, retry: 2, retry_delay: 0.1}
- {name: verified, function: verify}
- {name: dropped, function: drop}
edges:
- {source: found, target: packed}
- {source: found, target: verified}
- {source: packed, target: verified}
- {source: verified, target: dropped, input: false}
"""


def find(base: Path, source: str) -> list[str]:
    """The files to be saved."""
    files = [path for path in sorted((base / source).rglob("*")) if path.is_file()]
    if not files:
        raise FileNotFoundError(f"there are no files in {base / source}")
    return [str(path.relative_to(base)) for path in files]


def copies_in(directory: Path) -> list[Path]:
    """The copies that are there, the oldest first."""
    return sorted(directory.glob("*.tar"), key=lambda path: int(path.stem))


def pack(found: list[str], base: Path, target: str) -> str:
    """Save them; returns where. A copy gets its name when it is whole."""
    (base / target).mkdir(exist_ok=True)
    number = max((int(path.stem) for path in copies_in(base / target)), default=0) + 1
    path = base / target / f"{number}.tar"
    with tarfile.open(path.with_suffix(".new"), "w") as archive:
        for name in found:
            archive.add(base / name, name)
    path.with_suffix(".new").replace(path)
    return str(path.relative_to(base))


def verify(found: list[str], packed: str, base: Path) -> int:
    """Read the copy back; returns how many files it has."""
    with tarfile.open(base / packed) as archive:
        for name in found:
            member = archive.extractfile(name)
            if member is None or member.read() != (base / name).read_bytes():
                raise ValueError(f"{name} in {packed} is not what it was")
    return len(found)


def drop(base: Path, target: str, keep: int = 7) -> list[str]:
    """Remove the oldest copies; returns which."""
    if keep < 1:
        raise ValueError("one copy has to stay")
    old = copies_in(base / target)[:-keep]
    for path in old:
        path.unlink()
    return [path.name for path in old]


STEPS = {"find": find, "pack": pack, "verify": verify, "drop": drop}


def run_job(file: Path, settings: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    """Do what the file says; returns the results of all steps."""
    dag = DAG.from_yaml(file.read_text(encoding="utf-8"), registry=STEPS)
    dag.validate_or_raise(check_types=True)
    inputs = {"base": file.parent, **dag.metadata.get("inputs", {}), **settings}
    return dag.run(inputs, outputs=list(dag.nodes), timeout=timeout)  # type: ignore[no-any-return]


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value may be JSON."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def write_example(directory: Path) -> None:
    """A job, and something to be saved."""
    (directory / "files").mkdir(parents=True)
    (directory / "job.yaml").write_text(EXAMPLE, encoding="utf-8")
    for name in ("letter", "photo", "recipe"):
        (directory / "files" / name).write_text(f"a {name}\n", encoding="utf-8")


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description="Run the job that stands in a file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--example", action="store_true", help="write one to this directory")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--timeout", type=float, metavar="SECONDS")
    options = parser.parse_args()
    if options.example:
        write_example(options.file)
        return 0
    try:
        results = run_job(options.file, dict(options.set), options.timeout)
    except TimeoutError as error:  # first: it is an OSError, too
        print(error, file=sys.stderr)
        return 124
    except (ValidationError, OSError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 2
    except ExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    for step, result in results.items():
        print(f"{step}: {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
