"""Maps in pictures, reports and on the command line, of runs and of pickled runs."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM
from fast_dag.cli.tree import tree

if TYPE_CHECKING:
    from pathlib import Path

    from fast_dag import Run

SVG = "{http://www.w3.org/2000/svg}"


def identity_of(row: dict[str, Any]) -> str:
    return str(row["id"])


def scores(**options: Any) -> DAG:
    """Of its items those whose number is 3, 4 or 5 fail."""

    def score(row: dict[str, Any]) -> float:
        return 1 / (row["n"] not in (3, 4, 5))

    dag = DAG("scores").add_node("rows", lambda n: [{"id": f"r{i}", "n": i} for i in range(n)])
    dag.add_node("score", score, over="row", **options)
    return dag.connect("rows", "score")


def drawn(picture: Any, backend: str) -> str:
    text: str = picture.visualize(backend)
    if backend == "svg":
        return "\n".join(each.text or "" for each in ET.fromstring(text).iter(f"{SVG}text"))
    return text


@pytest.fixture(params=["run", "pickled"])
def looked_at(request: pytest.FixtureRequest) -> Any:
    """A run, or the same run as it comes out of a pickle."""

    def look(run: Run) -> Run:
        return run if request.param == "run" else pickle.loads(pickle.dumps(run))  # type: ignore[no-any-return]

    return look


BACKENDS = pytest.mark.parametrize("backend", ["mermaid", "graphviz", "svg"])


@BACKENDS
def test_map_is_marked_before_any_run(backend: str) -> None:
    text = drawn(scores(), backend)
    assert "score x n" in text
    assert "over row" in text
    product = DAG("d").add_node("grid", lambda a, b: 0, product=["a", "b"])
    assert "product of a, b" in drawn(product, backend)


@BACKENDS
def test_map_of_a_run_is_one_box_with_its_count(backend: str, looked_at: Any) -> None:
    run = looked_at(scores(on_error="keep").execute(n=12345))
    text = drawn(run, backend)
    assert "score x 12,345 (3 failed)" in text
    assert "over row" not in re.sub(r'tooltip="[^"]*"', "", text)
    assert drawn(looked_at(scores().execute(n=2)), backend).count("score x 2") == 1


def test_map_that_failed_shows_the_error_and_how_far_it_came(looked_at: Any) -> None:
    run = looked_at(scores().execute(n=100))
    text = drawn(run, "mermaid")
    assert "score x 100 (1 failed)" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "4 of 100 ended" in text


def test_map_that_did_not_run_has_no_count(looked_at: Any) -> None:
    run = looked_at(scores().execute(n=-1, outputs=["rows"]))
    assert "score x n" in drawn(run, "mermaid")


def test_map_of_unknown_length_counts_what_ended() -> None:
    dag = DAG("d").add_node("f", lambda x: 1 / x, over="x")
    text = drawn(dag.execute(x=iter([1, 2, 0, 4])), "mermaid")
    assert "f x 3 (1 failed)" in text


@BACKENDS
def test_inside_of_a_mapped_workflow_is_drawn_once(backend: str, looked_at: Any) -> None:
    inner = DAG("inner").add_node("strip", lambda text: text.strip())
    inner.add_node("upper", lambda strip: strip.upper()).connect("strip", "upper")
    dag = DAG("d").add_node("clean", inner, over="text")
    assert "clean x n" in drawn(dag, backend)
    run = looked_at(dag.execute(text=[" a "] * 50))
    text = re.sub(r'tooltip="[^"]*"', "", drawn(run, backend))
    assert "clean x 50" in text
    assert text.count("strip") == text.count("upper") == 1


def test_map_in_a_mapped_machine_is_drawn() -> None:
    fsm = FSM("machine").add_state("only", lambda x: x, initial=True, terminal=True)
    dag = DAG("d").add_node("each", fsm, over="x")
    assert "each x 2" in drawn(dag.execute(x=[1, 2]), "mermaid")


def test_tip_tells_the_options_of_a_map() -> None:
    dag = scores(on_error="keep", keys=identity_of, min_success=0.5, max_concurrency=4)
    told = "over row\\nkeys by identity_of, on_error keep, min_success 0.5, 4 at once"
    assert told in dag.visualize("graphviz")
    run = pickle.loads(pickle.dumps(dag.execute(n=2)))
    assert told in run.visualize("graphviz")


# Reports.


def test_summary_tells_of_items(looked_at: Any) -> None:
    dag = scores(on_error="keep", keys=identity_of, retry=1, retry_delay=0)
    text = looked_at(dag.execute(n=40)).summary()
    items = text[text.index("\nItems\n") :]
    assert "  score: 40 items ended: 37 completed, 3 failed, 3 retries\n" in items
    slowest = next(line for line in items.splitlines() if "slowest:" in line)
    assert len(re.findall(r"\[r\d+\] [\d.]+ .?s", slowest)) == 10
    counts = [int(each) for each in re.findall(r"up to .* #+ (\d+)$", items, re.MULTILINE)]
    assert sum(counts) == 40
    assert "  score[r3] after 2 attempts: ZeroDivisionError: division by zero" in items


def test_summary_counts_what_was_left_out_and_what_never_began(looked_at: Any) -> None:
    left_out = looked_at(scores(on_error="drop").execute(n=10)).summary()
    assert "score: 10 items ended: 7 completed, 3 failed, 3 of these left out" in left_out
    cut_short = looked_at(scores().execute(n=10)).summary()
    assert "score: 4 of 10 items ended: 3 completed, 1 failed" in cut_short


def test_summary_names_few_of_many_failed_items() -> None:
    dag = DAG("d").add_node("f", lambda x: 1 / x, over="x", on_error="drop")
    text = dag.execute(x=[0] * 1500).summary()
    assert "  f[19]: " in text
    assert "  f[20]: " not in text
    assert "\n  and 980 more" in text  # of the 1,000 errors that a run keeps


def test_page_tells_of_items(looked_at: Any) -> None:
    page = looked_at(scores(on_error="keep", keys=identity_of).execute(n=40)).report()
    section = page.split("<h2>Items</h2>")[1].split("</section>")[0]
    assert "<strong>score</strong>: 40 items ended: 37 completed, 3 failed." in section
    assert len(re.findall(r"<td>\[r\d+\]</td>", section)) == 10
    counts = [int(each) for each in re.findall(r"<em>(\d+)</em>", section)]
    assert sum(counts) == 40
    assert "<strong>score[r3]</strong>: ZeroDivisionError" in page
    assert "x 40 (3 failed)" in page.split("<h2>Slowest nodes</h2>")[1]


def test_page_escapes_keys() -> None:
    dag = DAG("d").add_node("f", lambda x: x, over="x")
    assert "[&lt;b&gt;]" in dag.execute(x={"<b>": 1}).report()


def test_reports_tell_of_maps_in_nested_workflows(looked_at: Any) -> None:
    dag = DAG("d").add_node("sub", scores())
    run = looked_at(dag.execute(n=2))
    assert "  sub.score: 2 items ended: 2 completed\n" in run.summary()
    assert "<strong>sub.score</strong>" in run.report()


def test_run_without_maps_has_no_section_of_items() -> None:
    run = DAG("d").add_node("f", lambda: 1).execute()
    assert "Items" not in run.summary()
    assert "<h2>Items</h2>" not in run.report()


# The command line.


def test_tree_tells_of_maps() -> None:
    dag = scores(on_error="keep", keys=identity_of, max_concurrency=4, retry=2)
    inner = DAG("inner").add_node("f", lambda x: x, over="x", into=sum)
    dag.add_node("sums", inner, product=["x"])
    assert [*tree(dag)][3:] == [
        "rows",
        "↓ score  (retry 2, over row, keys by identity_of, on_error keep, 4 at once)",
        "sums  (product of x)",
        "┆  f  (over x, into sum)",
    ]


MODULE = """
from fast_dag import DAG

dag = DAG("shop")


@dag.map(on_error="keep", min_success=0.25)
def inverse(x: float) -> float:
    return 1 / x


@dag.map(into=list)
def twice(x: float) -> float:
    return 2 * x if x else 0


inverse >> twice
"""


def command(folder: Path, *args: str) -> Any:
    (folder / "shop.py").write_text(MODULE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "fast_dag", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if "--json" in args else done.stdout


@pytest.mark.needs("click")
def test_command_shows_maps_as_data(tmp_path: Path) -> None:
    code, data = command(tmp_path, "show", "shop.py", "--json")
    assert code == 0
    nodes = {each["name"]: each for each in data["nodes"]}
    kept = {"over": ["x"], "on_error": "keep", "min_success": 0.25}
    assert nodes["inverse"]["options"] == kept
    assert nodes["twice"]["options"] == {"over": ["x"], "into": "list"}


@pytest.mark.needs("click")
def test_command_gives_a_list_to_a_map_and_has_its_failed_items_as_data(tmp_path: Path) -> None:
    code, data = command(tmp_path, "run", "shop.py", "--json", "-i", "x=[1, 0, 4]")
    assert data["value"] == [2.0, 0, 0.5]
    assert data["results"] == {"twice": [2.0, 0, 0.5]}
    assert data["not_json"].keys() == {"inverse"}
    assert data["items"] == {
        "inverse": {"total": 3, "completed": 2, "failed": 1, "dropped": 0, "retries": 0},
        "twice": {"total": 3, "completed": 3, "failed": 0, "dropped": 0, "retries": 0},
    }
    assert data["errors"] == {
        "inverse[1]": {"type": "ZeroDivisionError", "message": "division by zero"}
    }
    assert data["status"] == "completed_with_errors"
    assert code == 1


@pytest.mark.needs("click")
def test_command_has_kept_items_of_the_value_as_data(tmp_path: Path) -> None:
    code, data = command(
        tmp_path, "run", "shop.py", "--json", "-i", "x=[1, 0]", "--until", "inverse"
    )
    assert code == 1
    error = {"type": "ZeroDivisionError", "message": "division by zero"}
    assert data["value"] == [1.0, {"key": 1, "error": error}]


@pytest.mark.needs("click")
def test_command_refuses_a_text_as_a_collection(tmp_path: Path) -> None:
    code, data = command(tmp_path, "run", "shop.py", "--json", "-i", "x=abc")
    assert code == 1
    assert (
        "parameter 'x' of map 'inverse' got one str as input of the run"
        in (data["error"]["message"])
    )
