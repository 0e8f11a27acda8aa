"""Go on where a run failed, in another process, without doing again what was done.

    python examples/cookbook/resume_report.py --outbox outbox       fails: there is no outbox
    mkdir outbox
    python examples/cookbook/resume_report.py --outbox outbox       goes on with the delivery

After a failure the results so far are written to a file, from which the next process takes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fast_dag import DAG, Context, ExecutionError

dag = DAG("report")


@dag.node
def collect() -> list[list[str]]:
    """The source lines of this program, by their words: it stands for what takes all night."""
    print("collecting")
    return [line.split() for line in Path(__file__).read_text(encoding="utf-8").splitlines()]


@dag.node
def count(collect: list[list[str]]) -> dict[str, int]:
    """How often each word begins a line."""
    print("counting")
    first = [words[0] for words in collect if words]
    return {word: first.count(word) for word in sorted(set(first))}


@dag.node
def longest(collect: list[list[str]]) -> str:
    """The longest word."""
    print("searching")
    return max((word for words in collect for word in words), key=len)


@dag.node
def render(count: dict[str, int], longest: str) -> str:
    """The report."""
    print("rendering")
    return f"import: {count['import']} lines\nlongest word: {len(longest)} characters\n"


@dag.node
def deliver(render: str, outbox: Path) -> int:
    """Put the report where it is fetched from; returns its size."""
    print("delivering")
    return (outbox / "report.txt").write_text(render, encoding="utf-8")


collect >> [count, longest] >> render >> deliver


def delivered(outbox: Path, file: Path) -> int:
    """Run what an earlier run has left: all, or what begins at its failed node."""
    if not file.exists():
        run = dag.execute(outbox=outbox, error_strategy="continue")  # as far as that is possible
        run.raise_for_error()
        return int(run.value)
    kept = json.loads(file.read_text(encoding="utf-8"))
    context = Context(results=kept["results"])
    return int(dag.run_from(kept["failed"], context=context, outbox=outbox))


def main() -> int:
    """Make and deliver the report, or write down how far it came."""
    parser = argparse.ArgumentParser(description="A report that goes on where it failed.")
    parser.add_argument("--outbox", type=Path, required=True, help="a directory")
    parser.add_argument("--kept", type=Path, default=Path("report.json"), help="how far it came")
    options = parser.parse_args()
    try:
        size = delivered(options.outbox, options.kept)
    except ExecutionError as error:
        kept = {"failed": error.node_name, "results": dag.results}
        options.kept.write_text(json.dumps(kept), encoding="utf-8")
        print(f"{error.node_name} failed: {error.__cause__}")
        return 1
    options.kept.unlink(missing_ok=True)
    print(f"delivered {size} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
