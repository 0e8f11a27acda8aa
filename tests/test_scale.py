"""Graphs of up to 100,000 nodes: no recursion limit, no stage that costs more than in proportion.

What is compared are costs per node or edge of a large and of a small graph. Lines of Python that
are executed are counted, which is exact; what goes on inside of C is in the processor time, whose
comparison leaves much room and is repeated where it fails, since other work on the machine takes
its share of the processor's caches.
"""

from __future__ import annotations

import pickle
import statistics
import sys
from contextlib import contextmanager
from itertools import pairwise
from time import process_time
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, CycleError, Node
from tests.leaks import without_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.stress, pytest.mark.timeout(300)]

MOST = 100_000
MANY = 15_000
FEW = 500
FACTOR = 15.0
"""How much more processor time a node may take among MANY than among FEW. What is quadratic takes
30 times as much; processor caches that no longer hold the graph explain 2 to 5, and twice that
where others use them, too."""
MORE_LINES = 1.5
"""How many more lines of Python, likewise, though what is quadratic has only 8 times as many."""
BATCH = 3_000


def one() -> int:
    return 1


def increment(x: int) -> int:
    return x + 1


def larger(x: int, y: int) -> int:
    return 1 + max(x, y)


def count(*values: int) -> int:
    return len(values)


def size(values: dict[str, int]) -> int:
    return len(values)


def fixed() -> str:
    return "end"


class Stages:
    """What each stage costs by a clock: processor time, in seconds, where no other is given."""

    def __init__(self, clock: Callable[[], float] = process_time) -> None:
        self.spent: dict[str, float] = {}
        self._clock = clock
        self._since = clock()

    def ended(self, stage: str) -> None:
        self.spent[stage] = self._clock() - self._since
        self._since = self._clock()


Built = tuple[DAG, Any]


def chain(nodes: int, stages: Stages) -> Built:
    dag = DAG("chain").add_node("n0", one)
    for index in range(1, nodes):
        dag.add_node(f"n{index}", increment)
    stages.ended("nodes")
    for source, target in pairwise(list(dag.nodes.values())):
        source >> target
    stages.ended("edges")
    return dag, nodes


def fan(nodes: int, stages: Stages, *ends: Node[..., Any]) -> DAG:
    """From one node to many and from these to each end."""
    dag = DAG("fan").add_node("start", one)
    middle = [dag.add_node(f"n{index}", increment).nodes[f"n{index}"] for index in range(nodes)]
    for end in ends:
        dag.add_node(end)
    stages.ended("nodes")
    dag.nodes["start"] >> middle
    for end in ends:
        middle >> end
    stages.ended("edges")
    return dag


def fan_into_arguments(nodes: int, stages: Stages) -> Built:
    return fan(nodes, stages, Node(count)), nodes


def fan_into_joins(nodes: int, stages: Stages) -> Built:
    """Into an `any`, order-only edges, and an `all`, of which the last gives the value."""
    ends = Node(increment, type="any"), Node(fixed), Node(size, type="all")
    return fan(nodes, stages, *ends), nodes


def layers(nodes: int, stages: Stages) -> Built:
    """100 nodes a layer, each fed by two of the layer above."""
    dag, width = DAG("layers"), 100
    rows = [[f"n{row}_{column}" for column in range(width)] for row in range(nodes // width)]
    for row, names in enumerate(rows):
        for name in names:
            dag.add_node(name, larger if row else one)
    stages.ended("nodes")
    for above, below in pairwise(rows):
        for column, name in enumerate(below):
            dag.connect(above[column], name)
            dag.connect(above[column - 1], name)
    stages.ended("edges")
    return dag, len(rows)


def holds(x: int | None = None) -> bool:
    return True


def conditions(nodes: int, stages: Stages) -> Built:
    dag = DAG("conditions")
    for index in range(nodes):
        dag.add_node(f"n{index}", holds, type="condition")
    stages.ended("nodes")
    for source, target in pairwise(list(dag.nodes.values())):
        source.on_true >> target
    stages.ended("edges")
    return dag, True


SHAPES = (chain, fan_into_arguments, fan_into_joins, layers)


def spent_on(
    shape: Callable[[int, Stages], Built], nodes: int, clock: Callable[[], float] = process_time
) -> dict[str, float]:
    """What each stage of building and running a graph costs, a node."""
    stages = Stages(clock)
    dag, expected = shape(nodes, stages)
    assert dag.validate() == []
    stages.ended("validate")
    assert len(dag.execution_order) == len(dag)
    stages.ended("order")
    assert dag.run() == expected
    stages.ended("compile and run")
    run = dag.execute()
    stages.ended("run")
    assert run.value == expected
    assert set(run.statuses.values()) == {"completed"}
    assert len(run.results) == len(dag)
    return {stage: seconds / nodes for stage, seconds in stages.spent.items()}


@contextmanager
def lines_of_python() -> Iterator[Callable[[], float]]:
    """A clock that counts the lines of Python that are executed."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)


def growth(small: list[dict[str, float]], large: dict[str, float]) -> dict[str, float]:
    """How much more each stage costs, against the median of several measurements."""
    return {
        stage: cost / statistics.median(each[stage] for each in small)
        for stage, cost in large.items()
    }


def within(growths: Iterator[dict[str, float]]) -> None:
    """Pass once every stage has kept to FACTOR in some try; fail with what has not."""
    best = next(growths)
    for again in growths:
        if max(best.values()) <= FACTOR:
            break
        best = {stage: min(grew, again[stage]) for stage, grew in best.items()}
    assert {stage: grew for stage, grew in best.items() if grew > FACTOR} == {}


@pytest.mark.parametrize(
    ("shape", "nodes"), [(each, MOST if each is chain else MANY) for each in SHAPES]
)
def test_cost_of_a_node_is_the_same_among_many(
    shape: Callable[[int, Stages], Built], nodes: int
) -> None:
    with without_collector():
        within(
            growth([spent_on(shape, FEW) for _ in range(3)], spent_on(shape, nodes))
            for _ in range(3)
        )


@pytest.mark.parametrize("shape", [*SHAPES, conditions])
def test_a_node_takes_the_same_lines_of_python_among_many(
    shape: Callable[[int, Stages], Built],
) -> None:
    with lines_of_python() as clock:
        small, large = (spent_on(shape, nodes, clock) for nodes in (500, 4_000))
    grown = {stage: cost / small[stage] for stage, cost in large.items()}
    assert {stage: grew for stage, grew in grown.items() if grew > MORE_LINES} == {}


# Connecting.


def arrows(dag: DAG, sources: list[str], targets: list[str]) -> None:
    nodes = dag.nodes
    for source, target in zip(sources, targets, strict=True):
        nodes[source] >> nodes[target]


def connects(dag: DAG, sources: list[str], targets: list[str]) -> None:
    for source, target in zip(sources, targets, strict=True):
        dag.connect(source, target)


@pytest.mark.parametrize(
    ("connect", "end"),
    [
        (arrows, None),
        (connects, Node(count, "end")),
        (arrows, Node(size, "end", type="all")),
        (connects, Node(fixed, "end")),
    ],
    ids=["chain", "into arguments", "into all", "into order"],
)
def test_last_edge_costs_what_the_first_does(
    connect: Callable[[DAG, list[str], list[str]], None], end: Node[..., Any] | None
) -> None:
    def tries() -> Iterator[dict[str, float]]:
        for _ in range(3):
            dag = DAG("edges").add_node(end.name if end else "end", end or increment)
            names = [f"n{index}" for index in range(MANY)]
            for name in names:
                dag.add_node(name, increment)
            targets = ["end"] * MANY if end else [*names[1:], "end"]
            batches = []
            for begin in range(0, MANY, FEW):
                since = process_time()
                connect(dag, names[begin : begin + FEW], targets[begin : begin + FEW])
                batches.append(process_time() - since)
            assert len(dag.graph.incoming("end")) == (MANY if end else 1)
            # What is quadratic takes 59 times as much.
            yield {"last batch": batches[-1] / statistics.median(batches[:3])}

    with without_collector():
        within(tries())


# Branches.


def test_chain_of_conditions_costs_the_same_per_node_at_any_length() -> None:
    with without_collector():
        within(
            growth([spent_on(conditions, FEW) for _ in range(3)], spent_on(conditions, MANY))
            for _ in range(3)
        )


def test_chain_of_branches_that_an_any_joins_validates_and_runs() -> None:
    dag = DAG("diamonds")
    for index in range(BATCH // 4):
        check = dag.add_node(f"check{index}", holds, type="condition").nodes[f"check{index}"]
        yes = dag.add_node(f"yes{index}", increment).nodes[f"yes{index}"]
        no = dag.add_node(f"no{index}", increment).nodes[f"no{index}"]
        join = dag.add_node(f"join{index}", increment, type="any").nodes[f"join{index}"]
        if index:
            dag.connect(f"join{index - 1}", check)
        check.on_true >> yes >> join
        check.on_false >> no >> join
    assert dag.validate() == []
    run = dag.execute(x=0)
    ran = [name for name, status in run.statuses.items() if status == "completed"]
    assert ran == [name for name in dag if not name.startswith("no")]
    assert run.value == BATCH // 2  # each join adds one to what its branch added


def test_decider_of_many_branches_takes_one() -> None:
    dag = DAG("branches")

    @dag.select
    def route(number: int) -> str:
        return f"n{number}"

    for index in range(BATCH):
        dag.add_node(f"n{index}", increment)
        route.branches[f"n{index}"] >> dag.nodes[f"n{index}"]
    dag.add_node("joined", increment, type="any")
    [dag.nodes[f"n{index}"] for index in range(BATCH)] >> dag.nodes["joined"]
    run = dag.execute(number=2_000)
    assert run.value == 2_002
    ran = [name for name, status in run.statuses.items() if status == "completed"]
    assert ran == ["route", "n2000", "joined"]


# What is long or deep.


@pytest.mark.parametrize("mode", ["parallel", "async"])
@pytest.mark.parametrize("shape", [chain, fan_into_arguments, layers])
def test_large_graph_runs_in_other_modes(mode: Any, shape: Callable[[int, Stages], Built]) -> None:
    dag, expected = shape(BATCH, Stages())
    assert dag.run(mode=mode, max_workers=2) == expected


def test_long_cycle_is_named_whole() -> None:
    dag = DAG("cycle")
    for index in range(MANY):
        dag.add_node(f"n{index}", increment)
    nodes = list(dag.nodes.values())
    for source, target in pairwise([*nodes, nodes[0]]):
        source >> target
    (problem,) = dag.validate()
    assert isinstance(problem, CycleError)
    assert problem.cycle == (*dag.nodes, "n0")
    with pytest.raises(CycleError):
        dag.run()


def test_failure_at_the_head_of_a_long_chain_skips_all_below() -> None:
    dag, _ = chain(MANY, Stages())
    dag.replace_node("n0", lambda: 1 // 0)
    run = dag.execute(error_strategy="continue")
    assert list(run.errors) == ["n0"]
    assert list(run.statuses.values()) == ["failed", *["skipped"] * (MANY - 1)]


def test_parts_of_a_long_chain_run() -> None:
    dag, _ = chain(BATCH, Stages())
    middle = f"n{BATCH // 2}"
    assert dag.run_until(middle) == BATCH // 2 + 1
    assert dag.run_from(middle) == BATCH
    assert dag.run_between("n10", "n20") == 21


def test_long_chain_pickles_and_clones() -> None:
    dag, expected = chain(BATCH, Stages())
    assert pickle.loads(pickle.dumps(dag)).run() == expected
    assert dag.clone().run() == expected


def nested(levels: int) -> DAG:
    dag = DAG("level0").add_node("start", one)
    for level in range(1, levels):
        dag = DAG(f"level{level}").add_node("inner", dag).add_node("increment", increment)
        dag.connect("inner", "increment")
    return dag


def test_workflows_nest_thirty_levels_deep() -> None:
    dag = nested(30)
    assert dag.validate() == []
    assert dag.run() == 30
    assert dag[".".join(["inner"] * 29) + ".start"] == 1


def test_input_reaches_the_innermost_of_many_levels() -> None:
    dag = DAG("level0").add_node("start", increment)
    for level in range(1, 30):
        dag = DAG(f"level{level}").add_node("inner", dag).add_node("after", increment)
        dag.connect("inner", "after")
    assert dag.run(x=5) == 35
