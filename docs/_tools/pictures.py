"""Draws the pictures of README.md, with the library itself.

    python docs/_tools/pictures.py

The graph is that of the README's own example. The report is an HTML page, so its picture needs the
program `chromium`; without it that picture stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from fast_dag import DAG

if TYPE_CHECKING:
    from fast_dag import Run

ROOT = Path(__file__).parents[2]
GRAPH = ROOT / "docs" / "assets" / "graph.svg"
REPORT = ROOT / "docs" / "assets" / "report.png"


def example() -> Any:
    """The workflow `shop` that README.md defines."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(block, namespace)
        if "to_pay" in namespace:
            return namespace["shop"]
    raise LookupError("README.md no longer defines `to_pay` of the workflow `shop`")


def graph() -> str:
    """The picture of the example."""
    # Placed by the library, so that it is the same with and without Graphviz.
    missing = dict.fromkeys(("grandalf", "grandalf.graphs", "grandalf.layouts"))
    with patch.dict(os.environ, PATH=""), patch.dict(sys.modules, missing):
        text: str = example().visualize("svg", options={"direction": "LR"})
        return text


def nightly() -> Run:
    """A run that has something to report: a retry, a failure, and what waited for what."""
    dag = DAG("nightly", autowire=True)
    answers = iter([False, True])

    @dag.node
    def orders() -> int:
        time.sleep(0.12)
        return 40

    @dag.node(retry=1, retry_delay=0.05)
    def rates() -> float:
        time.sleep(0.04)
        if not next(answers):
            raise ConnectionError("no answer from the bank")
        return 1.1

    @dag.node
    def stock() -> int:
        time.sleep(0.06)
        return 7

    @dag.node
    def sales(orders: int, rates: float) -> float:
        time.sleep(0.09)
        return orders * rates

    @dag.node
    def forecast(orders: int, stock: int) -> float:
        time.sleep(0.05)
        return orders / (stock - 7)

    @dag.node
    def page(sales: float) -> str:
        time.sleep(0.03)
        return f"{sales:.2f}"

    return dag.execute(mode="parallel", max_workers=3, error_strategy="continue")


def report(chromium: str) -> None:
    """Photograph the report of a run."""
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "report.html"
        nightly().report(page)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        window = ["--window-size=760,890", f"--screenshot={REPORT}"]
        subprocess.run([chromium, *options, *window, page.as_uri()], check=True, timeout=60)


def main() -> None:
    GRAPH.write_text(graph(), encoding="utf-8")
    chromium = shutil.which("chromium")
    if chromium is None:
        print(f"{REPORT} stays as it is: there is no program `chromium`")
    else:
        report(chromium)


if __name__ == "__main__":
    main()
