"""What pictures and reports read: plain data that does not change any more."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fast_dag
from fast_dag import DAG, FSM
from fast_dag.draw.view import view_of
from fast_dag.draw.visualize import visualize
from fast_dag.report.page import page
from fast_dag.report.text import summary

if TYPE_CHECKING:
    from fast_dag.draw.view import WorkflowView

PACKAGE = Path(fast_dag.__file__).parent
MODULES = [*PACKAGE.glob("draw/*.py"), *PACKAGE.glob("report/*.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_pictures_and_reports_read_nothing_private_of_others(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    private = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr != "_replace"
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert private <= {"owner._view"}  # which `view.Viewable` declares


class Kept:
    """Somebody who has nothing but a view."""

    def __init__(self, view: WorkflowView) -> None:
        self.view = view

    def _view(self) -> WorkflowView:
        return self.view


def drawn(owner: Any) -> str:
    options = {"direction": "TB"}
    return visualize(owner, "svg", None, None, show_results=True, options=options)


def test_view_of_a_run_in_progress_does_not_change() -> None:
    dag = DAG("demo")
    views: list[Kept] = []
    texts: list[str] = []

    def look() -> int:
        views.append(Kept(view_of(dag.last_run)))
        texts.append(drawn(views[0]))
        return 1

    dag.add_node("before", lambda: 0).add_node("look", look).add_node("after", lambda look: look)
    dag.connect("before", "look").connect("look", "after").run(mode="parallel", max_workers=1)
    assert "running" in texts[0]
    assert drawn(views[0]) == texts[0]


def test_view_of_a_machine_does_not_change(order: FSM) -> None:
    machine = order.start()
    machine.step()
    kept = Kept(view_of(machine))
    before = drawn(kept)
    machine.run()
    assert drawn(kept) == before != drawn(machine)


def test_a_view_is_all_that_reports_need(orders: DAG) -> None:
    run = orders.execute(error_strategy="continue")
    kept = Kept(view_of(run))
    assert summary(kept) == run.summary()
    assert page(kept) == run.report()
