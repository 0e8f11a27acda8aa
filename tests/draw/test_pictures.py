"""What is drawn, in each language."""

from __future__ import annotations

import asyncio
import pickle
import re
import xml.etree.ElementTree as ET
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, Limits, Rate, ValidationError
from fast_dag.draw.dot import GraphvizError
from fast_dag.draw.layout import by_grandalf, by_graphviz, by_layers
from fast_dag.draw.sketch import sketch
from fast_dag.draw.view import view_of
from tests.draw.conftest import at_times, needs_dot, retried

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Golden = Callable[[str, str], None]

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}text")]


def nodes(svg: str) -> list[str]:
    return [each.get("data-node", "") for each in ET.fromstring(svg).iter(f"{SVG}g")]


# Definitions.


def test_dag_as_mermaid(orders: DAG, golden: Golden) -> None:
    golden("orders.mmd", orders.visualize())


def test_dag_as_dot(orders: DAG, golden: Golden) -> None:
    golden("orders.dot", orders.visualize("graphviz"))


def test_machine_as_mermaid(order: FSM, golden: Golden) -> None:
    golden("order.mmd", order.visualize())


def test_machine_as_dot(order: FSM, golden: Golden) -> None:
    golden("order.dot", order.visualize("graphviz"))


def test_autowired_edges_are_drawn() -> None:
    dag = DAG("demo", autowire=True).add_node("a", lambda: 1).add_node("b", lambda a: a)
    assert "n0 --> n1" in dag.visualize()


def test_definition_with_a_cycle_is_drawn(without_dot: None) -> None:
    dag = DAG("demo").add_node("a", lambda x: x).add_node("b", lambda x: x)
    dag.connect("a", "b").connect("b", "a")
    assert dag.visualize().count("-->") == 2
    assert nodes(dag.visualize("svg")) == ["a", "b"]


def test_empty_workflow_is_drawn(without_dot: None) -> None:
    assert DAG("empty").visualize() == "flowchart TB\n"
    assert nodes(DAG("empty").visualize("svg")) == []
    dag = DAG("outer").add_node("inner", DAG("inner"))
    assert 'n0[["inner"]]' in dag.visualize()


def test_state_that_is_missing_is_drawn() -> None:
    fsm = FSM("demo", initial_state="a").add_state("a", lambda: 1).add_transition("a", "lost")
    assert '("lost")' in fsm.visualize()
    assert "missing" in fsm.visualize()


def test_machine_in_a_dag_is_a_cluster(order: FSM) -> None:
    dag = DAG("demo").add_node("n", lambda: 1).add_node("order", order)
    dag.add_node("after", lambda order: order).connect("order", "after")
    text = dag.visualize()
    assert 'subgraph n1 ["order"]' in text
    assert "n1 --> n8" in text


def test_parameter_is_named_where_a_node_has_several() -> None:
    dag = DAG("demo").add_node("a", lambda: 1).add_node("b", lambda x, y: x)
    dag.add_node("c", lambda z: z)
    dag.connect("a", "b", input="y").connect("b", "c")
    assert dag.visualize().splitlines()[-2:] == ['    n0 -->|"→ y"| n1', "    n1 --> n2"]


# Options.


def test_depth_closes_nested_workflows(orders: DAG) -> None:
    text = orders.visualize(options={"depth": 0})
    assert '[["checks"]]' in text
    assert "subgraph" not in text


@pytest.mark.parametrize("direction", ["TB", "LR", "BT", "RL"])
def test_direction_is_kept(direction: Any, orders: DAG) -> None:
    assert orders.visualize(options={"direction": direction}).startswith(f"flowchart {direction}\n")
    assert f"rankdir={direction}" in orders.visualize("graphviz", options={"direction": direction})


def test_many_beside_each_other_are_drawn_below_each_other() -> None:
    dag = DAG("wide").add_node("a", lambda: 1)
    for number in range(30):
        dag.add_node(f"b{number}", lambda a: a).connect("a", f"b{number}")
    assert dag.visualize().startswith("flowchart LR")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backend": "mermad"}, "did you mean 'mermaid'"),
        ({"format": "png"}, "the backend 'graphviz' does"),
        ({"backend": "graphviz", "format": "gif"}, "does not make 'gif'"),
        ({"backend": "graphviz", "format": "png"}, "filename="),
        ({"options": {"derection": "LR"}}, "did you mean 'direction'"),
        ({"options": {"direction": "up"}}, "TB, LR, BT or RL"),
        ({"options": {"depth": -1}}, "count of levels"),
    ],
)
def test_what_there_is_not_is_refused(wrong: dict[str, Any], message: str, orders: DAG) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        orders.visualize(**wrong)


# Runs.

TIMES = {
    "load": (0.0, 0.1),
    "enough": (0.1, 0.1),
    "model": (0.1, 0.7),
    "best": (0.7, 0.8),
    "route": (0.8, 0.9),
    "mail": (0.9, 1.0),
    "checks": (1.0, 1.2),
    "everything": (1.2, 1.25),
}


def test_run_as_mermaid(orders: DAG, golden: Golden) -> None:
    run = at_times(orders.execute(error_strategy="continue"), TIMES, 1.25)
    at_times(run.children["checks"], {"first": (1.0, 1.1), "second": (1.1, 1.2)}, 1.2)
    retried(run, "model", 0.2, 0.1, "OSError: busy")
    golden("orders-run.mmd", run.visualize(show_results=True))


def test_run_as_dot(orders: DAG, golden: Golden) -> None:
    run = at_times(orders.execute(error_strategy="continue"), TIMES, 1.25)
    at_times(run.children["checks"], {"first": (1.0, 1.1), "second": (1.1, 1.2)}, 1.2)
    golden("orders-run.dot", run.visualize("graphviz"))


def test_run_of_a_machine_tells_how_often_each_way_was_taken(order: FSM) -> None:
    text = order.execute().visualize(options={"details": False})
    assert [line.strip() for line in text.splitlines() if "->" in line] == [
        "n5 --> n0",
        'n0 -->|"1x"| n1',
        'n1 -->|"[paid] 1x"| n3',
        'n1 -->|"[condition] 1x"| n1',
        'n1 -->|"1x"| n2',
        'n1 -->|"cancel"| n4',
        'n2 -.->|"1x"| n1',
    ]


def test_machine_that_waits_is_drawn() -> None:
    fsm = FSM("door", initial_state="closed")
    fsm.add_state("closed", lambda: 1).add_state("opened", lambda: 2)
    fsm.add_transition("closed", "opened", event="push")
    machine = fsm.start()
    machine.step()
    assert "not run" in fsm.visualize(show_results=True)


def test_part_of_a_graph_that_did_not_run_is_drawn_faintly(orders: DAG) -> None:
    orders.run_until("enough")
    text = orders.visualize(show_results=True)
    assert "classDef outside" in text
    assert "= (3, 4)" in text


def test_results_without_a_run_are_none(orders: DAG) -> None:
    assert orders.visualize(show_results=True) == orders.visualize()


def test_cached_nodes_of_a_definition_are_marked() -> None:
    dag = DAG("demo")
    dag.cached_node(lambda: 1, name="slow")
    assert 'n0["slow\ncached"]' in dag.visualize()


def test_skipped_nodes_say_why(orders: DAG) -> None:
    orders.add_node("send", lambda mail: mail).connect("mail", "send")
    orders.add_node("sent", lambda send: send).connect("send", "sent")
    run = orders.execute({"path": "x"}, error_strategy="continue")
    text = run.visualize()
    for name, reason in {
        "guess": "enough was true",
        "paper": "route did not choose paper",
        "sent": "mail failed",
    }.items():
        assert f'"{name}\nskipped: {reason}"' in text
        assert f"  {name}: {reason}" in run.summary()
        assert reason in run.report()


def test_skipped_any_says_why() -> None:
    dag = DAG("demo")
    dag.condition(lambda: False, name="first").on_true >> dag.node(lambda: 1, name="a")
    dag.nodes["a"] >> dag.any(lambda value: value, name="b")
    assert '"b\nany\nskipped: first was false"' in dag.execute().visualize()


def test_attempts_are_counted(orders: DAG) -> None:
    tries = []

    @orders.node(retry=2, retry_delay=0)
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("busy")
        return 1

    run = orders.execute(error_strategy="continue", mode="parallel")
    assert re.search(r'"flaky\n[^"]*, 3 attempts"', run.visualize())


def test_value_whose_repr_raises_is_drawn() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    run = DAG("demo").add_node("odd", Odd).execute()
    assert "= " in run.visualize(show_results=True)


def test_run_in_progress_is_drawn() -> None:
    dag, seen = DAG("demo"), []
    dag.add_node("first", lambda: seen.append(dag.visualize(show_results=True)))
    dag.add_node("second", lambda: 1, timeout=5)
    dag.run(mode="parallel", max_workers=1)
    assert "running" in seen[0]


def test_run_that_was_cut_short_is_drawn() -> None:
    dag, started = DAG("demo"), asyncio.Event()

    @dag.node
    async def slow() -> None:
        started.set()
        await asyncio.sleep(30)

    async def cancel() -> None:
        run = asyncio.create_task(dag.execute_async())
        await started.wait()
        run.cancel()
        await asyncio.wait([run])

    asyncio.run(cancel())
    assert "class n0 cancelled" in dag.visualize(show_results=True)


# Names.

NASTY = [
    '"><script>alert(1)</script>',
    "end",
    "1) first",
    "__init__",
    "`tick`",
    "#35;",
    "&lt;",
    "<br>",
    "a\nb",
    "\\N",
    "|pipe|",
    "\x00\x1b",
    "\ud800",
    "\u202eevil",
    " ",
    "x" * 200,
    "日本語",
]


@pytest.fixture
def nasty() -> DAG:
    dag = DAG("</title><script>")
    router = dag.select(lambda: NASTY[0], name="router")
    for name in NASTY:
        dag.add_node(name, lambda x: x)
        router.branches[name] >> dag.nodes[name]
    return dag


def test_mermaid_takes_no_character_of_a_name_for_its_own(nasty: DAG) -> None:
    lines = nasty.visualize().splitlines()
    words = r"""[\w .,:;!?()\[\]{}=+/|'→…µ#-]*"""
    shapes = rf'    (n\d+(\["{words}"\]|\{{\{{"{words}"\}}\}})|n0 -->\|"{words}"\| n\d+)'
    assert all(re.fullmatch(shapes, line) for line in lines[1:])
    assert len(lines) == 2 + 2 * len(NASTY)
    assert "#34;#62;#60;script#62;" in lines[2]


@pytest.mark.parametrize("placed", ["by dot", "by grandalf"])
def test_svg_shows_names_as_they_are(
    placed: str, nasty: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    if placed == "by dot" and needs_dot.args[0]:
        pytest.skip("Graphviz is not installed")
    if placed == "by grandalf":
        monkeypatch.setenv("PATH", "")
    text = nasty.visualize("svg")
    assert "<script" not in text
    shown = texts(text)
    for name in (*NASTY[:8], "a\\nb", "\\N", "\\x00\\x1b", "\\ud800", "\\u202eevil", "' '"):
        assert shown.count(name) == 2  # the node and the branch
    assert nodes(text)[1] == NASTY[0]


@needs_dot
def test_graphviz_shows_names_as_they_are(nasty: DAG) -> None:
    text = nasty.visualize("graphviz", format="svg")
    assert "<script" not in text
    shown = texts(text)
    for name in (*NASTY[:8], "a\\nb", "\\N", "\\x00\\x1b", "\\ud800", "' '"):
        assert shown.count(name) == 2


# Files and programs.


def test_text_is_written_where_asked(tmp_path: Path, orders: DAG) -> None:
    path = tmp_path / "orders.mmd"
    assert orders.visualize(filename=path) == path.read_text(encoding="utf-8")
    orders.visualize("graphviz", str(tmp_path / "orders.dot"))
    assert (tmp_path / "orders.dot").read_text(encoding="utf-8").startswith("digraph")


@needs_dot
@pytest.mark.parametrize(
    ("name", "start"), [("o.png", b"\x89PNG"), ("o.pdf", b"%PDF"), ("o.svg", b"<?xml")]
)
def test_graphviz_draws_what_the_name_of_the_file_says(
    name: str, start: bytes, tmp_path: Path, orders: DAG
) -> None:
    text = orders.visualize("graphviz", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert text.startswith("<?xml" if name == "o.svg" else "digraph")


def test_missing_graphviz_is_named(without_dot: None, tmp_path: Path, orders: DAG) -> None:
    with pytest.raises(GraphvizError, match="apt install graphviz"):
        orders.visualize("graphviz", tmp_path / "orders.png")


def test_svg_needs_neither_graphviz_nor_grandalf(without_any: None, orders: DAG) -> None:
    assert sorted(filter(None, nodes(orders.visualize("svg")))) == sorted(
        [*orders.nodes, "checks.first", "checks.second"]
    )


# Notebooks.


def test_notebook_gets_svg(orders: DAG, order: FSM) -> None:
    for each in (orders, order, orders.execute(error_strategy="continue"), order.execute()):
        bundle = each._repr_mimebundle_()
        assert bundle["image/svg+xml"].startswith("<svg")
        assert bundle["text/plain"] == repr(each)


def test_notebook_gets_svg_without_graphviz_and_grandalf(without_any: None, orders: DAG) -> None:
    assert orders._repr_mimebundle_()["image/svg+xml"].startswith("<svg")


def test_notebook_gets_mermaid_where_graphviz_fails(failing_dot: None, orders: DAG) -> None:
    bundle = orders._repr_mimebundle_()
    assert bundle["text/vnd.mermaid"].startswith("flowchart")
    assert "image/svg+xml" not in bundle


class Shown(str):
    """A description that counts how often it is shown."""

    times = 0

    def isprintable(self) -> bool:
        Shown.times += 1
        return True


def test_notebook_gets_no_picture_of_thousands() -> None:
    dag = DAG("large").add_node("first", lambda: 1, description=Shown("one"))
    dag.visualize()
    assert Shown.times
    for number in range(1_000):
        dag.add_node(f"n{number}", lambda: 1)
    Shown.times = 0
    assert dag._repr_mimebundle_() == {"text/plain": repr(dag)}
    assert not Shown.times  # no box was made


def dense(count: int) -> FSM:
    """A machine in which each state leads to each."""
    fsm = FSM("dense", initial_state="s0")
    for number in range(count):
        fsm.add_state(f"s{number}", lambda: 1)
    for source, target in product(range(count), repeat=2):
        fsm.add_transition(f"s{source}", f"s{target}", event=f"e{target}")
    return fsm


def test_notebook_draws_a_dense_machine_without_asking_others(failing_dot: None) -> None:
    svg = dense(30)._repr_mimebundle_()["image/svg+xml"]
    assert svg.count("<polygon") == 30 * 30 + 1


def test_picture_that_graphviz_cannot_place_in_time_is_placed_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: DAG
) -> None:
    (tmp_path / "dot").write_text("#!/bin/sh\nexec sleep 3600\n", encoding="utf-8")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("fast_dag.draw.layout._DOT_TIMEOUT", 0.01)
    bundle = orders._repr_mimebundle_()
    assert nodes(bundle["image/svg+xml"])


def test_notebook_gets_no_picture_of_thousands_of_links() -> None:
    assert list(dense(32)._repr_mimebundle_()) == ["text/plain"]


def test_notebook_always_gets_something(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(DAG):
        def _view(self) -> Any:
            raise RuntimeError("broken")

        def __repr__(self) -> str:
            raise RuntimeError("broken")

    assert "Broken" in Broken("demo")._repr_mimebundle_()["text/plain"]


# Places.


@pytest.mark.parametrize("direction", ["TB", "LR", "BT", "RL"])
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(by_graphviz, marks=needs_dot),
        pytest.param(by_grandalf, marks=pytest.mark.needs("grandalf")),
        by_layers,
    ],
)
def test_boxes_do_not_overlap_and_stay_inside(
    place: Any, direction: Any, orders: DAG, order: FSM
) -> None:
    for workflow in (orders, order):
        run = workflow.execute(error_strategy="continue")
        picture = sketch(view_of(run), results=True, options={"direction": direction})
        places = place(picture)
        boxes = [places.areas[box.id] for box in picture.boxes()]
        for position, one in enumerate(boxes):
            assert one.x - one.width / 2 >= -0.5
            assert one.x + one.width / 2 <= places.width + 0.5
            assert one.y - one.height / 2 >= -0.5
            assert one.y + one.height / 2 <= places.height + 0.5
            for other in boxes[:position]:
                apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2 - 0.5
                apart_y = abs(one.y - other.y) >= (one.height + other.height) / 2 - 0.5
                assert apart_x or apart_y
        for cluster in picture.clusters():
            for item in cluster.items if cluster is not picture.root else ():
                frame, inner = places.areas[cluster.id], places.areas[item.id]
                assert abs(frame.x - inner.x) * 2 <= frame.width - inner.width + 1
                assert abs(frame.y - inner.y) * 2 <= frame.height - inner.height + 1
        assert len(places.routes) == sum(1 for _ in picture.links())


def test_a_live_machine_is_drawn_as_it_stands() -> None:
    fsm = FSM("order", initial_state="cart", terminal_states=["paid"])
    fsm.add_state("cart", lambda: "waiting").add_state("paid", lambda amount: amount)
    machine = fsm.add_transition("cart", "paid", event="pay").start()
    options: Any = {"details": False}
    assert "class n0,n1 not_run" in machine.visualize(options=options)
    machine.step()
    assert "class n0 completed" in machine.visualize(options=options)
    machine.send("pay", amount=5)
    text = machine.visualize(show_results=True)
    assert "pay 1x" in text
    assert "= 5" in text
    bundle = machine._repr_mimebundle_()
    assert bundle["text/plain"] == repr(machine)
    assert {"image/svg+xml", "text/vnd.mermaid"} & bundle.keys()


def test_state_that_a_machine_is_in_is_marked() -> None:
    fsm = FSM("order", initial_state="cart", terminal_states=["paid", "lost"])
    fsm.add_state("cart", lambda: 1).add_state("paid", lambda: 2).add_state("lost", lambda: 3)
    fsm.add_transition("cart", "paid", event="pay").add_transition("cart", "lost", event="drop")
    machine = fsm.start()
    for thick, state in (("n0", "current state"), ("n0", "waits for pay, drop")):
        text = machine.visualize()
        assert f"class {thick} current" in text
        assert f'n0("cart\n{state}' in text
        assert machine.visualize("graphviz").count("penwidth=3") == 1
        assert machine.visualize("svg").count('stroke-width="3"') == 1
        if machine.waiting:
            break
        machine.step()
    machine.send("pay")
    assert "class n1 current" in machine.visualize(options={"details": False})
    assert "class n1 current" in fsm.visualize(show_results=True)
    assert "current" not in fsm.visualize()


def guarded() -> FSM:
    fsm = FSM("guarded", initial_state="try", on_error="give_up")
    fsm.add_state("try", lambda n=0: 1 / n, on_error="repair")
    fsm.add_state("repair", lambda: {"n": 1}).add_terminal_state(
        "give_up", lambda error=None: "gave up"
    )
    return fsm.add_transition("try", "give_up").add_transition("repair", "try")


def test_ways_to_error_states_are_dashed_and_labelled() -> None:
    fsm = guarded()
    text = fsm.visualize()
    assert 'n0 -.->|"on error"| n1' in text
    assert 'n1 -.->|"on error"| n2' in text
    assert text.count("on error") == 2  # the state that all others lead to has none
    dot = fsm.visualize("graphviz")
    assert 'n0 -> n1 [label="on error" style=dashed]' in dot
    svg = fsm.visualize("svg")
    assert (svg.count("on error"), svg.count("stroke-dasharray")) == (2, 2)


def test_ways_to_error_states_show_how_often_a_run_took_them() -> None:
    run = guarded().execute()
    assert run.value == "gave up", run.errors
    for drawn in (run, pickle.loads(pickle.dumps(run))):
        text = drawn.visualize()
        assert 'n0 -.->|"on error 1x"| n1' in text
        assert 'n1 -.->|"on error"| n2' in text
        assert 'n0 -->|"1x"| n2' in text
        assert 'label="on error 1x" style=dashed color="#2e8b4f"' in drawn.visualize("graphviz")


def test_optional_edges_say_so() -> None:
    dag = DAG("demo").add_node("a", lambda: 1).add_node("b", lambda a=0: a)
    dag.connect("a", "b", optional=True)
    assert 'n0 -->|"(optional)"| n1' in dag.visualize()
    assert 'n0 -> n1 [label="(optional)"]' in dag.visualize("graphviz")
    assert ">(optional)<" in dag.visualize("svg")


def test_tips_tell_what_a_node_uses_its_priority_and_how_it_decides() -> None:
    dag = DAG("demo", limits=Limits(db=2, api=Rate(3)))

    @dag.select(several=True, uses={"db": 2, "api": 1}, priority=-1)
    def ways() -> list[str]:
        return ["a"]

    dag.add_node("a", lambda: 1).connect("ways", "a", output="a")
    for drawn in (dag, pickle.loads(pickle.dumps(dag.execute()))):
        assert "several, uses 2 db, api, priority -1" in drawn.visualize("graphviz")


def test_state_that_is_a_whole_workflow_is_marked() -> None:
    fsm = FSM("outer", initial_state="inner", terminal_states=["end"])
    fsm.add_state("inner", DAG("inner").add_node("x", lambda: 1)).add_state("end", lambda: 2)
    machine = fsm.add_transition("inner", "end", event="go").start()
    machine.step()
    assert "class n0 current" in machine.visualize()
    assert machine.visualize("graphviz").count("penwidth=3") == 1
    assert machine.visualize("svg").count('stroke-width="3"') == 1


def test_error_of_a_join_is_drawn_without_details() -> None:
    dag = DAG("demo").add_node("a", lambda: 1)

    @dag.any
    def broken(value: int) -> None:
        raise OSError("no server")

    run = dag.connect("a", "broken").execute()
    assert '"broken\nOSError: no server"' in run.visualize(options={"details": False})


def test_state_of_a_nested_machine_is_marked(order: FSM) -> None:
    run = DAG("outer").add_node("order", order).execute()
    assert run.visualize().count("classDef current") == 1
