"""Code that changes between the parts of a run."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module, invalidate_caches, reload
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, ValidationError
from fast_dag.cache.fingerprint import Fingerprint
from fast_dag.errors import UnknownNodeError
from fast_dag.store import ChangedError, Store
from fast_dag.store.changes import differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SOURCE = """
CALLS = []
STOPS = []
RATE = 0.19

def rate():
    if STOPS:
        raise KeyboardInterrupt
    return RATE

def load(n):
    CALLS.append("load")
    return n

def tax(load):
    CALLS.append("tax")
    return rate() * load

def shown(tax):
    CALLS.append("shown")
    return f"{tax:.1f}"

def last(shown):
    CALLS.append("last")
    if FAIL:
        raise KeyboardInterrupt
    return shown + "!"

def item(tax):
    if FAIL and tax > 1:
        raise KeyboardInterrupt
    return f"{tax:.1f}"

def known():
    CALLS.append("known")

FAIL = False
"""


class Module:
    """A module whose source is edited."""

    def __init__(self, path: Path) -> None:
        self.name = f"edited_{path.name.replace('-', '_')}"
        self.file = path / f"{self.name}.py"
        self.file.write_text(SOURCE)
        invalidate_caches()
        self.module: Any = import_module(self.name)

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new) + "\n\n" + "#" * len(text))  # another size
        self.module = reload(self.module)

    def dag(self) -> DAG:
        dag, module = DAG("taxes"), self.module
        for name in ("load", "tax", "shown", "last"):
            dag.add_node(name, getattr(module, name))
        return dag.connect("load", "tax").connect("tax", "shown").connect("shown", "last")

    def taken(self) -> list[str]:
        taken = list(self.module.CALLS)
        self.module.CALLS.clear()
        return taken


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = Module(tmp_path)
    yield module
    del sys.modules[module.name]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.db", durability="process") as made:
        yield made


def interrupted(edited: Module, store: Store) -> None:
    """A run of which only the last node is left."""
    edited.module.FAIL = True
    with pytest.raises(KeyboardInterrupt):
        edited.dag().run(store=store, run_id="a", n=100)
    edited.module.FAIL = False
    assert edited.taken() == ["load", "tax", "shown", "last"]


def test_change_of_a_committed_node_stops_the_run_with_the_reason(
    edited: Module, store: Store
) -> None:
    interrupted(edited, store)
    edited.edit("0.19", "0.21")
    with pytest.raises(ChangedError, match=r"tax: .*RATE: constant 0\.19 -> 0\.21") as caught:
        edited.dag().run(store=store, run_id="a")
    assert len(caught.value.reasons) == 1
    assert store.run("a").status == "interrupted"
    assert edited.taken() == []
    assert edited.dag().run(store=store, run_id="a", on_change="keep") == "19.0!"
    assert edited.taken() == ["last"]


def test_changed_nodes_are_computed_anew_where_that_is_asked_for(
    edited: Module, store: Store
) -> None:
    interrupted(edited, store)
    edited.edit("0.19", "0.21")
    assert edited.dag().run(store=store, run_id="a", on_change="rerun") == "21.0!"
    assert edited.taken() == ["tax", "shown", "last"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def load(n):", "# a comment\ndef load(n):\n    'What it does.'"),
        ("def last(shown):", "def last(shown):\n    print()"),  # it has not run
        ('return shown + "!"', 'return shown + "?"'),
    ],
)
def test_what_does_not_count_stops_nothing(
    old: str, new: str, edited: Module, store: Store
) -> None:
    interrupted(edited, store)
    edited.edit(old, new)
    assert edited.dag().run(store=store, run_id="a").startswith("19.0")
    assert edited.taken() == ["last"]


def test_finished_run_is_returned_whatever_became_of_its_code(edited: Module, store: Store) -> None:
    assert edited.dag().run(store=store, run_id="a", n=100) == "19.0!"
    edited.edit("0.19", "0.21")
    assert edited.dag().run(store=store, run_id="a") == "19.0!"


def test_node_that_is_gone_stops_the_run_unless_it_is_renamed(edited: Module, store: Store) -> None:
    interrupted(edited, store)
    edited.taken()
    dag, module = DAG("taxes"), edited.module
    dag.add_node("load", module.load).add_node("vat", module.tax)
    dag.add_node("shown", module.shown).add_node("last", module.last)
    dag.connect("load", "vat").connect("vat", "shown").connect("shown", "last")
    with pytest.raises(ChangedError, match="node 'tax' is gone"):
        dag.run(store=store, run_id="a")
    assert dag.run(store=store, run_id="a", renamed={"tax": "vat"}) == "19.0!"
    assert edited.taken() == ["last"]
    record = store.run("a")
    assert (record["vat"], record.statuses["vat"]) == (19.0, "completed")


def test_fork_follows_the_edges_that_the_run_went_on_with(store: Store) -> None:
    stops = [True]

    def last(x: int) -> int:
        if stops:
            raise KeyboardInterrupt
        return x

    def dag(source: str) -> DAG:
        made = DAG("edges").add_node("one", lambda x: x).add_node("two", lambda: 0)
        return made.add_node("last", last).connect(source, "last")

    with pytest.raises(KeyboardInterrupt):
        dag("two").run(store=store, run_id="a", x=1)
    stops.clear()
    edited = dag("one").add_node("more", lambda last: last + 1).connect("last", "more")
    assert edited.run(store=store, run_id="a") == 2
    assert store.run("a").statuses["more"] == "completed"
    store.fork("a", run_id="b", at="one", inputs={"x": 5})
    assert edited.run(store=store, run_id="b") == 6


def test_node_is_renamed_with_its_function(edited: Module, store: Store) -> None:
    interrupted(edited, store)
    edited.edit("def tax(load)", "def vat(load)")
    edited.taken()
    dag, module = DAG("taxes"), edited.module
    dag.add_node(module.load).add_node(module.vat).add_node(module.shown).add_node(module.last)
    dag.connect("load", "vat").connect("vat", "shown").connect("shown", "last")
    with pytest.raises(UnknownNodeError, match=r"no node 'vta' \(did you mean 'vat'"):
        dag.run(store=store, run_id="a", renamed={"tax": "vta"}, on_change="keep")
    with pytest.raises(ValidationError, match="there still is a node 'load'"):
        dag.run(store=store, run_id="a", renamed={"load": "vat"}, on_change="keep")
    assert dag.run(store=store, run_id="a", renamed={"tax": "vat"}) == "19.0!"
    assert edited.taken() == ["last"]


def test_explanation_tells_what_is_stale_and_why(edited: Module, store: Store) -> None:
    interrupted(edited, store)
    edited.edit("0.19", "0.21")
    told = edited.dag().explain(store=store, run_id="a")
    assert told.states == {"load": "fresh", "tax": "stale", "shown": "maybe", "last": "open"}
    assert told.reasons["tax"] == [f"{edited.name}.RATE: constant 0.19 -> 0.21"]
    assert f"tax    stale  {edited.name}.RATE: constant 0.19 -> 0.21" in str(told)


def test_stale_nodes_are_computed_and_those_below_only_where_a_value_differs(
    edited: Module, store: Store
) -> None:
    dag = edited.dag()
    assert dag.run(store=store, run_id="a", n=100) == "19.0!"
    edited.taken()
    assert edited.dag().run(store=store, run_id="a", rerun="stale") == "19.0!"
    assert edited.taken() == []
    edited.edit("0.19", "0.191")
    assert edited.dag().run(store=store, run_id="a", rerun="stale") == "19.1!"
    assert edited.taken() == ["tax", "shown", "last"]
    edited.edit("0.191", "0.1911")
    assert edited.dag().run(store=store, run_id="a", rerun="stale") == "19.1!"
    assert edited.taken() == ["tax", "shown"], "what is shown is the same"
    assert edited.dag().run(store=store, run_id="a") == "19.1!"
    edited.edit("return RATE", "return RATE + 0")
    assert edited.dag().run(store=store, run_id="a", rerun="stale") == "19.1!"
    assert edited.taken() == ["tax"], "its value is the same"


def test_nodes_that_a_stale_rerun_keeps_are_shown_with_what_they_have_inside(store: Store) -> None:
    def one() -> int:
        return 1

    def same() -> int:
        return 1 + 0

    inner = DAG("inner").add_node("first", lambda x: x + 1).add_node("fails", lambda first: 1 / 0)
    dag = DAG("outer").add_node("one", one).add_node("sub", inner.connect("first", "fails"))
    dag.add_node("squares", lambda i, one: i * i, over="i", inputs=["i", "one"])
    dag.connect("one", "sub", input="x").connect("one", "squares", input="one")
    before = dag.execute(store=store, run_id="a", i=[1, 2], error_strategy="continue")
    dag.replace_node("one", same)
    run = dag.execute(store=store, run_id="a", rerun="stale", error_strategy="continue")
    assert run.metrics["nodes_executed"] == 1
    assert (run.metrics["replayed"], run["sub.first"], run["squares[1]"]) == (2, 2, 4)
    assert run.errors.keys() == before.errors.keys() == {"sub.fails"}


def test_stale_rerun_that_was_interrupted_is_continued(edited: Module, store: Store) -> None:
    assert edited.dag().run(store=store, run_id="a", n=100) == "19.0!"
    edited.edit("0.19", "0.21")
    edited.module.FAIL = True
    with pytest.raises(KeyboardInterrupt):
        edited.dag().run(store=store, run_id="a", rerun="stale")
    edited.module.FAIL = False
    assert edited.taken() == ["tax", "shown", "last"]
    assert edited.dag().run(store=store, run_id="a", rerun="stale") == "21.0!"
    assert edited.taken() == ["last"]


def test_stale_rerun_computes_a_value_that_is_not_stored_only_where_it_is_needed(
    edited: Module, store: Store
) -> None:
    def dag() -> DAG:
        made, module = DAG("handles"), edited.module
        made.add_node("tax", module.tax, inputs=["load"]).add_node("last", module.last)
        made.add_node("open", module.load, inputs=["n"], stored=False)
        made.add_node("shown", lambda open, tax=0: f"{open} {tax:.0f}")
        made.connect("tax", "open").connect("open", "shown", input="open")
        return made.connect("shown", "last")

    assert dag().run(store=store, run_id="a", load=100) == "19.0 0!"
    edited.taken()
    edited.edit("return rate() * load", "return load * rate()")
    run = dag().execute(store=store, run_id="a", rerun="stale")
    assert (run.value, edited.taken()) == ("19.0 0!", ["tax"])
    assert "open" not in run.results
    assert run.statuses["open"] == "completed"
    edited.edit('return shown + "!"', 'return shown + "?"')
    edited.module.FAIL = True
    with pytest.raises(KeyboardInterrupt):
        dag().run(store=store, run_id="a", rerun="stale")
    edited.module.FAIL = False
    edited.taken()
    assert dag().run(store=store, run_id="a", rerun="stale") == "19.0 0?"
    assert edited.taken() == ["last"]
    edited.edit("return load * rate()", "return rate() * load + 0")
    dag_ = dag().connect("tax", "shown", input="tax")
    assert dag_.run(store=store, run_id="a", rerun="stale") == "19.0 19?"
    assert edited.taken() == ["tax", "load", "last"], "shown is fed anew, and takes both"


def test_stale_rerun_that_keeps_only_outputs_goes_on_where_values_are_not_stored(
    store: Store,
) -> None:
    stops = [1]

    def last(shown: int) -> int:
        if stops and shown > 3:
            raise KeyboardInterrupt
        return shown

    def flow(one: Any, two: Any) -> DAG:
        dag = DAG("kept").add_node("one", one).add_node("two", two).add_node("last", last)
        dag.add_node("open", lambda one: one, stored=False)
        dag.add_node("shown", lambda open, two: open + two).connect("one", "open")
        dag.connect("open", "shown").connect("two", "shown").connect("shown", "last")
        return dag

    options: Any = {"store": store, "run_id": "a"}
    assert flow(lambda: 1, lambda: 2).run(**options) == 3
    edited = flow(lambda: 1 * 1, lambda: 3)
    with pytest.raises(KeyboardInterrupt):
        edited.run(**options, rerun="stale")
    stops.clear()
    assert edited.run(**options, rerun="stale", keep="outputs") == 4


def test_stale_rerun_looks_through_a_long_chain_of_values_that_are_not_stored(
    store: Store,
) -> None:
    def flow(root: Any, last: Any) -> DAG:
        dag = DAG("long").add_node("root", root)
        for number in range(1000):
            dag.add_node(f"n{number}", lambda x: x, stored=False)
            dag.connect(f"n{number - 1}" if number else "root", f"n{number}")
        return dag.add_node("last", last).connect("n999", "last")

    assert flow(lambda: 1, lambda x: x).run(store=store, run_id="a") == 1
    edited = flow(lambda: 1 * 1, lambda x: x)
    run = edited.execute(store=store, run_id="a", rerun="stale")
    assert (run.value, run.metrics["nodes_executed"]) == (1, 1), "nobody takes the values"
    edited = flow(lambda: 2 - 1, lambda x: x + 1)
    run = edited.execute(store=store, run_id="a", rerun="stale")
    assert (run.value, run.metrics["nodes_executed"]) == (2, 1002)


def test_finished_run_returns_what_it_has_returned_whatever_became_of_its_graph(
    store: Store,
) -> None:
    def flow(*added: str, last: str = "two") -> DAG:
        dag = DAG("flow").add_node("one", lambda: 1).add_node(last, lambda one: one + 1)
        dag.connect("one", last)
        for name in added:
            dag.add_node(name, lambda x: x + 1).connect(last, name)
        return dag

    assert flow().run(store=store, run_id="a") == 2
    assert flow("three").run(store=store, run_id="a") == 2
    assert flow("three", "four").run(store=store, run_id="a") == 2
    assert flow(last="other").run(store=store, run_id="a") == 2
    assert flow("three").run(store=store, run_id="b") == 3
    assert flow().run(store=store, run_id="b") == 3
    assert flow("three").run(store=store, run_id="a", rerun="stale") == 3
    assert flow().run(store=store, run_id="a") == 3


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_stale_rerun_that_takes_another_branch_computes_what_joins_them(
    store: Store, is_interrupted: bool
) -> None:
    stops: list[int] = []

    def most() -> int:
        return 1

    def more() -> int:
        return 1 + 0

    def joined(way: int) -> int:
        if stops:
            raise KeyboardInterrupt
        return way

    def flow(is_much: Any, most: Any) -> DAG:
        dag = DAG("ways").add_node("check", is_much, type="condition")
        dag.add_node("most", most).add_node("least", lambda: 2)
        dag.add_node("joined", joined, type="any")
        dag.connect("check", "most", output="true").connect("check", "least", output="false")
        return dag.connect("most", "joined").connect("least", "joined")

    assert flow(lambda: True, most).run(store=store, run_id="a") == 1
    edited = flow(lambda: False, more)
    if is_interrupted:
        stops.append(1)
        with pytest.raises(KeyboardInterrupt):
            edited.run(store=store, run_id="a", rerun="stale")
        stops.clear()
    assert edited.run(store=store, run_id="a", rerun="stale") == 2


CALLS: list[str] = []


def one() -> int:
    return 1


def two() -> int:
    return 2


def total(price: int, rate: int = 5) -> int:
    CALLS.append("total")
    return price * rate


def shown(total: int) -> str:
    CALLS.append("shown")
    return f"{total}!"


def wired(**sources: str) -> DAG:
    """total takes what `sources` says."""
    dag = DAG("wired").add_node("one", one).add_node("two", two)
    dag.add_node("total", total).add_node("shown", shown)
    for name, source in sources.items():
        dag.connect(source, "total", input=name)
    return dag.connect("total", "shown")


def test_node_that_is_fed_by_another_node_is_stale(store: Store) -> None:
    CALLS.clear()
    wired(price="one").run(store=store, run_id="a", outputs=["shown", "two"])
    dag = wired(price="two", rate="one")
    told = dag.explain(store=store, run_id="a")
    assert told.states == {"one": "fresh", "two": "fresh", "total": "stale", "shown": "maybe"}
    assert told.reasons["total"] == [
        "input price: from node one, now from node two",
        "input rate: from its default, now from node one",
    ]
    assert dag.run(store=store, run_id="a")["shown"] == "5!", "it stops no run"
    assert CALLS == ["total", "shown"]
    assert dag.run(store=store, run_id="a", rerun="stale")["shown"] == "2!"
    assert CALLS == ["total", "shown"] * 2
    assert set(dag.explain(store=store, run_id="a").states.values()) == {"fresh"}


def test_node_whose_branch_or_run_input_is_another_is_stale(store: Store) -> None:
    def flow(branch: str, is_fed: bool) -> DAG:
        dag = DAG("flow").add_node("check", lambda: True, type="condition")
        dag.add_node("price", lambda: 3).add_node("end", lambda n: n, inputs=["n"])
        dag.connect("check", "end", output=branch, input=False)
        return dag.connect("price", "end", input="n") if is_fed else dag

    flow("true", is_fed=False).run(store=store, run_id="a", n=1)
    told = flow("false", is_fed=True).explain(store=store, run_id="a")
    assert told.reasons["end"] == [
        "branch of check: true, now false",
        "input n: from the run's input, now from node price",
    ]


def joined_as(kind: str, is_optional: bool = False, has_input: bool = False) -> DAG:
    """end stands behind a branch that is not taken, and a node."""
    dag = DAG("joined").add_node("check", lambda: False, type="condition").add_node("one", one)
    dag.add_node("end", lambda n, m=0: (n, m), inputs=["n", "m"], type=kind)
    dag.connect("one", "end", input="n")
    at = {"input": "m" if has_input else False, "optional": is_optional}
    return dag.connect("check", "end", output="true", **at)


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_stale_rerun_computes_what_is_below_a_node_that_an_edited_graph_reaches(
    store: Store, is_interrupted: bool
) -> None:
    stops: list[int] = []

    def waits(extra: int = 0) -> None:
        if stops:
            raise KeyboardInterrupt(stops.pop())

    def flow(is_reached: bool) -> DAG:
        dag = DAG("flow").add_node("check", lambda: False, type="condition").add_node("one", one)
        dag.add_node("extra", lambda: 3).add_node("waits", waits)
        dag.add_node("end", lambda waits, extra=0: extra)
        if is_reached:
            dag.connect("one", "extra")
        else:
            dag.connect("check", "extra", output="true")
        dag.connect("extra", "waits", optional=True).connect("waits", "end", input="waits")
        return dag.connect("extra", "end", optional=True)

    assert flow(False).run(store=store, run_id="a") == 0
    edited = flow(True)
    if is_interrupted:
        stops.append(1)
        with pytest.raises(KeyboardInterrupt):
            edited.run(store=store, run_id="a", rerun="stale")
    assert edited.run(store=store, run_id="a", rerun="stale") == 3


@pytest.mark.parametrize("is_recoded", [True, False])
def test_decider_that_carries_another_value_has_what_takes_it_computed_anew(
    store: Store, is_recoded: bool
) -> None:
    CALLS.clear()

    def check(n: int = 7) -> bool:
        return n > 0

    def recoded(n: int = 7) -> bool:
        return n >= 1

    def flow(source: str, check: Any = check) -> DAG:
        dag = DAG("flow").add_node("one", one).add_node("two", two)
        dag.add_node("check", check, type="condition")
        dag.add_node("shown", shown).connect(source, "check", input="n")
        return dag.connect("check", "shown", output="true")

    assert flow("one").run(store=store, run_id="a", outputs=["shown", "two"])["shown"] == "1!"
    edited = flow("one", recoded) if is_recoded else flow("two")
    run = edited.execute(store=store, run_id="a", rerun="stale")
    assert run["shown"] == ("1!" if is_recoded else "2!")
    assert len(CALLS) == (1 if is_recoded else 2)


def test_stale_rerun_goes_on_inside_of_a_workflow_whose_graph_was_edited(store: Store) -> None:
    CALLS.clear()

    def flow(is_longer: bool) -> DAG:
        inner = DAG("inner").add_node("one", one).add_node("total", total).connect("one", "total")
        if is_longer:
            inner.add_node("shown", shown).connect("total", "shown")
        middle = DAG("middle").add_node("in", inner)
        dag = DAG("outer").add_node("sub", middle).add_node("end", lambda sub: (sub, "end"))
        return dag.connect("sub", "end")

    assert flow(False).run(store=store, run_id="a") == (5, "end")
    edited = flow(True)
    told = edited.explain(store=store, run_id="a")
    assert told.reasons["sub.in"] == ["nodes or edges in it have changed"]
    assert told.states == {
        "sub.in.one": "fresh",
        "sub.in.total": "fresh",
        "sub.in.shown": "open",
        "sub.in": "stale",
        "sub": "maybe",
        "end": "maybe",
    }
    assert edited.run(store=store, run_id="a") == (5, "end"), "it stops no run"
    assert edited.run(store=store, run_id="a", rerun="stale") == ("5!", "end")
    assert CALLS == ["total", "shown"]
    assert set(edited.explain(store=store, run_id="a").states.values()) == {"fresh"}


def test_stale_rerun_runs_what_an_edited_edge_inside_of_a_workflow_no_longer_skips(
    store: Store,
) -> None:
    def flow(is_optional: bool) -> DAG:
        inner = DAG("inner").add_node("check", lambda: False, type="condition")
        inner.add_node("end", lambda n=7: n)
        inner.connect("check", "end", output="true", optional=is_optional)
        return DAG("outer").add_node("sub", inner)

    assert flow(False).run(store=store, run_id="a") is None
    assert flow(True).run(store=store, run_id="a") is None
    assert flow(True).run(store=store, run_id="a", rerun="stale") == 7


@pytest.mark.parametrize("source", ["two", None])
def test_earlier_attempt_of_a_workflow_does_not_count_when_it_begins_anew(
    store: Store, source: str | None
) -> None:
    broken = [1]

    def opened() -> Iterator[str]:
        yield "open"
        if broken:
            raise OSError(broken.pop())

    def flow(source: str | None) -> DAG:
        inner = DAG("inner").add_node("x", lambda n=7: n).add_node("y", lambda x, at: x)
        inner.connect("x", "y").resource("at", opened)
        dag = DAG("outer").add_node("one", one).add_node("two", two)
        dag.add_node("sub", inner, retry=1, retry_delay=0)
        return dag if source is None else dag.connect(source, "sub", input="n")

    nodes = ["one", "two", "sub"]
    first = flow("one").execute(store=store, run_id="a", outputs=nodes)
    assert (first["sub"], first.metrics["retries"]) == (1, 1)
    again = flow(source).execute(store=store, run_id="a", rerun="stale")
    assert again["sub"] == (7 if source is None else 2)


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (("any",), ("node",), "type: any, now node"),
        (("node", True), ("node",), "after check: optional, now required"),
        (
            ("node", True, True),
            ("node", False, True),
            "input m: from node check (optional), now from node check",
        ),
    ],
)
def test_node_that_an_edited_edge_or_type_skips_is_stale(
    store: Store, before: Any, now: Any, why: str
) -> None:
    assert joined_as(*before).run(store=store, run_id="a", outputs=["end"]) == {"end": (1, 0)}
    edited = joined_as(*now)
    assert edited.explain(store=store, run_id="a").reasons["end"] == [why]
    assert edited.run(store=store, run_id="a") == {"end": (1, 0)}, "it stops no run"
    run = edited.execute(store=store, run_id="a", rerun="stale")
    assert (run.statuses["end"], run.value) == ("skipped", {})


def test_select_that_has_another_branch_is_stale(store: Store) -> None:
    def flow(has_fax: bool) -> DAG:
        dag = DAG("post").add_node("way", lambda: "fax", type="select")
        dag.add_node("mail", lambda: "mailed").connect("way", "mail", output="default")
        if has_fax:
            dag.add_node("fax", lambda: "faxed").connect("way", "fax", output="fax")
        return dag

    assert flow(False).run(store=store, run_id="a") == "mailed"
    edited = flow(True)
    assert edited.explain(store=store, run_id="a").reasons["way"] == [
        "branches: default, now default, fax"
    ]
    assert edited.run(store=store, run_id="a") == "mailed", "a committed choice stands"
    assert edited.run(store=store, run_id="a", rerun="stale") == "faxed"


@pytest.mark.parametrize(
    ("before", "value", "now", "ways"),
    [
        ("node", 3, "condition", {"true": "completed", "false": "skipped"}),
        ("node", "b", "select", {"a": "skipped", "b": "completed"}),
        ("select", "false", "condition", {"true": "completed", "false": "skipped"}),
    ],
)
def test_committed_node_that_decides_since_then_chooses_by_its_value(
    store: Store, before: str, value: Any, now: str, ways: dict[str, str]
) -> None:
    stops = [1]

    def waits() -> None:
        if stops:
            raise KeyboardInterrupt

    def flow(kind: str) -> DAG:
        dag = DAG("ways").add_node("check", lambda: value, type=kind).add_node("waits", waits)
        for way in ways if kind == now else ():
            dag.add_node(way, lambda: 1).connect("check", way, output=way, input=False)
        return dag

    with pytest.raises(KeyboardInterrupt):
        flow(before).run(store=store, run_id="a")
    stops.clear()
    run = flow(now).execute(store=store, run_id="a")
    assert {way: run.statuses[way] for way in ways} == ways
    assert run.metrics["replayed"] == 1


def test_committed_node_that_decides_since_then_and_chooses_nothing_is_told(store: Store) -> None:
    stops = [1]

    def waits() -> None:
        if stops:
            raise KeyboardInterrupt

    def flow(kind: str) -> DAG:
        dag = DAG("ways").add_node("check", lambda: None, type=kind).add_node("waits", waits)
        dag.add_node("end", lambda: 1)
        return dag.connect("check", "end", output="true" if kind == "condition" else None)

    with pytest.raises(KeyboardInterrupt):
        flow("node").run(store=store, run_id="a")
    with pytest.raises(ValidationError, match="condition 'check' returned None"):
        flow("condition").run(store=store, run_id="a")
    stops.clear()
    assert flow("node").run(store=store, run_id="a") == 1


def test_workflow_that_is_fed_by_another_node_begins_anew(store: Store) -> None:
    calls: list[int] = []

    def flow(source: str) -> DAG:
        inner = DAG("inner").add_node("x", lambda n: calls.append(n) or n, inputs=["n"])
        dag = DAG("outer").add_node("one", lambda: 1).add_node("two", lambda: 2)
        return dag.add_node("sub", inner).connect(source, "sub", input="n")

    assert flow("one").run(store=store, run_id="a", outputs=["sub", "two"])["sub"] == 1
    dag = flow("two")
    told = dag.explain(store=store, run_id="a")
    assert (told.states["sub"], told.states["sub.x"]) == ("stale", "maybe")
    assert dag.run(store=store, run_id="a", rerun="stale")["sub"] == 2
    assert calls == [1, 2]


def test_map_whose_function_changed_while_items_are_missing_stops_the_run(
    edited: Module, store: Store
) -> None:
    def flow() -> DAG:
        dag = DAG("mapped")
        dag.map(name="shown", over="tax")(edited.module.item)
        return dag

    edited.module.FAIL = True
    with pytest.raises(KeyboardInterrupt):
        flow().run(store=store, run_id="a", tax=[1.0, 2.0])
    edited.edit(':.1f}"', ':.2f}"')
    with pytest.raises(ChangedError, match=rf"shown: {edited.name}\.item has changed"):
        flow().run(store=store, run_id="a")
    told = flow().explain(store=store, run_id="a")
    assert told.states == {"shown": "stale"}
    assert flow().run(store=store, run_id="a", on_change="keep") == ["1.0", "2.00"]
    assert flow().explain(store=store, run_id="a").states == {"shown": "stale"}
    assert flow().run(store=store, run_id="a", rerun="stale") == ["1.00", "2.00"]


def test_what_a_decider_carries_makes_a_difference_though_its_choice_is_the_same(
    edited: Module, store: Store
) -> None:
    def flow() -> DAG:
        dag = DAG("carries").add_node("tax", edited.module.tax, inputs=["load"])
        dag.add_node("check", positive, type="condition").add_node("shown", edited.module.shown)
        dag.add_node("known", edited.module.known)
        dag.connect("tax", "check").connect("check", "shown", output="true")
        return dag.connect("check", "known", output="true", input=False)

    flow().run(store=store, run_id="a", load=100)
    edited.taken()
    edited.edit("0.19", "0.21")
    run = flow().execute(store=store, run_id="a", rerun="stale")
    assert (run["shown"], edited.taken()) == ("21.0", ["tax", "shown"])


def positive(n: float) -> bool:
    return n > 0


@pytest.mark.parametrize("is_map", [True, False])
def test_stale_rerun_goes_on_inside_of_a_map_or_workflow(
    is_map: bool, edited: Module, store: Store
) -> None:
    calls: list[float] = []
    deadly: set[float] = set()

    def called(n: float) -> float:
        calls.append(n)
        if n in deadly:
            deadly.discard(n)
            raise KeyboardInterrupt
        return n

    def flow() -> DAG:
        dag = DAG("inside").add_node("tax", edited.module.tax, inputs=["load"])
        if is_map:
            dag.add_node("several", lambda tax: [tax, tax + 1])
            dag.map(name="sub", over="n", inputs=["n"])(called)
            return dag.connect("tax", "several").connect("several", "sub")
        inner = DAG("inner").add_node("one", called, inputs=["n"])
        inner.add_node("two", lambda one: called(one + 1)).connect("one", "two")
        return dag.add_node("sub", inner).connect("tax", "sub", input="n")

    flow().run(store=store, run_id="a", load=100)
    edited.edit("0.19", "0.21")
    calls.clear()
    deadly.add(22.0)
    with pytest.raises(KeyboardInterrupt):
        flow().run(store=store, run_id="a", rerun="stale")
    assert flow().run(store=store, run_id="a", rerun="stale") == ([21, 22] if is_map else 22)
    assert calls == [21, 22, 22]


def test_workflow_with_a_stale_node_begins_anew_where_its_inputs_differ(
    edited: Module, store: Store
) -> None:
    def flow() -> DAG:
        inner = DAG("inner").add_node("tax", edited.module.tax, inputs=["load"])
        inner.add_node("shown", edited.module.shown).connect("tax", "shown")
        dag = DAG("outer").add_node("load", edited.module.load)
        return dag.add_node("sub", inner).connect("load", "sub", input="load")

    flow().run(store=store, run_id="a", n=100)
    edited.taken()
    edited.edit('return f"{tax', 'return f"= {tax')
    assert flow().run(store=store, run_id="a", rerun="stale") == "= 19.0"
    assert edited.taken() == ["shown"]
    edited.edit('return f"= {tax', 'return f"{tax')
    edited.edit("    return n", "    return 2 * n")
    assert flow().run(store=store, run_id="a", rerun="stale") == "38.0"
    assert edited.taken() == ["load", "tax", "shown"]


@pytest.mark.parametrize(
    "asked",
    [{"rerun": "failed"}, {"rerun": "last"}, {"rerun": "stale"}, {"on_change": "rerun"}, {}],
)
def test_stale_rerun_that_was_interrupted_is_not_forgotten_by_others(
    asked: dict[str, Any], edited: Module, store: Store
) -> None:
    edited.dag().run(store=store, run_id="a", n=100)
    edited.edit("0.19", "0.21")
    edited.module.STOPS.append(True)
    with pytest.raises(KeyboardInterrupt):
        edited.dag().run(store=store, run_id="a", rerun="stale")
    edited.module.STOPS.clear()
    fork = store.fork("a", at="last")
    assert edited.dag().run(store=store, run_id=fork) == "21.0!"
    edited.edit('return f"{tax', 'return f"= {tax')
    edited.edit('CALLS.append("load")\n    return n', "CALLS.append('load')\n    return 2 * n")
    edited.taken()
    if not asked.get("on_change") and asked.get("rerun") != "stale":
        with pytest.raises(ChangedError):
            edited.dag().run(store=store, run_id="a", **asked)
        asked = {**asked, "on_change": "keep"}
    is_kept = asked.get("on_change") == "keep"
    assert edited.dag().run(store=store, run_id="a", **asked) == f"= {21 if is_kept else 42}.0!"
    assert (
        edited.taken() == ["tax", "shown", "last"] if is_kept else ["load", "tax", "shown", "last"]
    )


def test_function_without_a_source_that_another_python_compiled_may_have_changed() -> None:
    def parts_of(body: str) -> Mapping[str, str]:
        scope: dict[str, Any] = {"__name__": "typed_in"}
        exec(f"def f(): return {body}", scope)
        return Fingerprint([scope["f"]]).parts

    one, other = parts_of("1"), parts_of("2")
    assert differences(one, other) == (["typed_in.f has changed"], [])
    earlier = {
        name: text.replace(sys.implementation.cache_tag, "cpython-310")
        for name, text in other.items()
    }
    seen, (may,) = differences(earlier, one)
    assert seen == []
    assert "nobody can tell whether typed_in.f changed" in may


def test_constant_of_a_file_that_was_edited_while_the_process_ran_stops_no_later_run(
    edited: Module, store: Store
) -> None:
    edited.edit("RATE = 0.19", "RATE = float('0.19')")
    interrupted(edited, store)
    edited.edit("CALLS = []", "CALLS = []")
    os.utime(edited.file, (1e9, 1e9))  # as in a process that begins later
    explained = edited.dag().explain(store=store, run_id="a")
    assert explained.states == {"load": "fresh", "tax": "stale", "shown": "maybe", "last": "open"}
    assert f"nobody can tell whether {edited.name}.RATE changed" in str(explained)
    assert edited.dag().run(store=store, run_id="a") == "19.0!"
    assert edited.taken() == ["last"]


class Adds:
    """Adds a number; equal to others that add the same."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, one: int = 1) -> int:
        return one + self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adds) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


def added(number: int, *, one: int = 1) -> int:
    return one + number


def test_partial_with_other_arguments_has_changed(store: Store) -> None:
    stops = [KeyboardInterrupt]

    def last(first: int) -> int:
        for each in stops:
            raise each
        return first

    def made(first: Any) -> DAG:
        dag = DAG("partly").add_node("first", first, inputs=[])
        return dag.add_node("last", last).connect("first", "last")

    for run_id, old, new in (
        ("plain", partial(added, 1), partial(added, 2)),
        ("named", partial(added, 1, one=1), partial(added, 1, one=2)),
    ):
        stops[:] = [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            made(old).run(store=store, run_id=run_id)
        stops.clear()
        with pytest.raises(ChangedError, match="what is called has changed"):
            made(new).run(store=store, run_id=run_id)
        assert made(old).run(store=store, run_id=run_id) == 2
        assert made(old).explain(store=store, run_id=run_id).states["first"] == "stale"

    stops[:] = [KeyboardInterrupt]  # nobody can tell of objects with a state of their own
    with pytest.raises(KeyboardInterrupt):
        made(Adds(1)).run(store=store, run_id="object")
    stops.clear()
    assert made(Adds(1)).run(store=store, run_id="object") == 2
