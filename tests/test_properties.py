"""Random graphs against the model of `tests.model`: joins, order, values, parts, validation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import ExecutionError, MissingConnectionError, MissingInputError, ValidationError
from fast_dag.plan.topology import Topology
from fast_dag.schedule.base import NodeStatus
from fast_dag.schedule.dag import DagSchedule
from tests.model import (
    Act,
    Edge,
    Model,
    Shape,
    Spec,
    World,
    can_run,
    definition_order,
    make_dag,
    subsets,
)
from tests.properties import tries
from tests.ways import EVERYWHERE, EXECUTE, mostly

if TYPE_CHECKING:
    import random

    from fast_dag import Run


EXAMPLES = {"process": 8, "sequential": 50}


def in_every_way(test: Any) -> Any:
    """The property once for each way, because each tries another number of examples."""
    return pytest.mark.hypothesis(
        pytest.mark.parametrize("way", mostly(EVERYWHERE, but={"process"}))(test)
    )


# Random graphs.

BRANCHES: dict[str, tuple[bool | str, ...]] = {
    "condition": (True, False),
    "select": ("a", "b", "default"),
}
KINDS = ("node", "node", "condition", "select", "any", "any", "all")


@st.composite
def shapes(
    draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, most: int = 8, ordering: bool = True
) -> Shape:
    """Graphs that may contain joins that can never run. A select has at least one branch. Without
    `ordering`, each edge carries a value or leaves a branch."""
    size = draw(st.integers(1, most))
    names = draw(st.permutations([f"n{index}" for index in range(size)]))  # in topological order
    specs: list[Spec] = []
    edges: list[Edge] = []
    for position, name in enumerate(names):
        kind = draw(st.sampled_from(kinds))
        sources = specs[max(0, position - 5) : position]
        count = draw(st.integers(0, 3)) if sources else 0
        for number in range(count):
            source = draw(st.sampled_from(sources))
            branch = draw(st.sampled_from((None, *BRANCHES.get(source.kind, ()) * 2)))
            # Plain nodes take one edge per parameter, joins as many as there are.
            ports = ("x", "y") if kind in ("any", "all") else (f"p{number}",)
            may_only_order = ordering or branch is not None
            port = draw(st.sampled_from((None, *ports, *ports) if may_only_order else ports))
            edge = Edge(source.name, name, branch, port)
            if edge not in (replace(each, optional=False) for each in edges):  # once is enough
                optional = kind != "any" and draw(st.integers(0, 3)) == 0
                edges.append(replace(edge, optional=optional))
        fed = sorted({e.parameter for e in edges if e.target == name and e.parameter})
        specs.append(
            Spec(
                name,
                kind,  # type: ignore[arg-type]
                several=kind == "select" and draw(st.booleans()),
                wait=kind == "any" and draw(st.booleans()),
                collect=draw(st.sampled_from((None, *fed))) if kind == "all" else None,
                defaults=("x",) if kind == "any" and draw(st.booleans()) else (),
            )
        )
    return choosable(Shape(tuple(sorted(specs, key=lambda spec: spec.name)), tuple(edges)))


def choosable(shape: Shape) -> Shape:
    """The same, where a select without branches is a plain node."""
    for spec in shape.nodes:
        if spec.kind == "select" and not shape.listened(spec.name):
            shape = shape.with_kind(spec.name, "node")
    return shape


@st.composite
def runnable(draw: st.DrawFn, **options: Any) -> Shape:
    """Graphs that validation accepts: what it refuses to join becomes an `any`, as it advises."""
    shape = draw(shapes(**options))
    while found := make_dag(shape, {}).validate(allow_disconnected=True):
        for problem in found:
            shape = repaired(shape, problem.node)
    return shape


def repaired(shape: Shape, name: str) -> Shape:
    assert shape.by_name[name].kind != "any"
    if shape.by_name[name].kind not in BRANCHES:
        return shape.with_kind(name, "any")
    surplus = shape.into(name)[1:]  # a decider does not join
    return choosable(Shape(shape.nodes, tuple(edge for edge in shape.edges if edge not in surplus)))


def decisions(shape: Shape, spec: Spec, failing: bool) -> list[Any]:
    """What a node may decide in a world of that shape; "c" is a branch nobody listens to."""
    if spec.kind != "select":
        return [True, False]
    listened = sorted(map(str, shape.listened(spec.name)))
    known = [*listened, "c"] if failing or "default" in listened else listened
    return [*known, *subsets(known)] if spec.several else known


@st.composite
def worlds(draw: st.DrawFn, shape: Shape, *, failing: bool = True) -> World:
    return {
        spec.name: Act(
            fails=failing and draw(st.integers(0, 5)) == 0,
            choice=draw(st.sampled_from(decisions(shape, spec, failing))),
            passes=draw(st.booleans()),
        )
        for spec in shape.nodes
    }


@st.composite
def shaped_worlds(draw: st.DrawFn, *, failing: bool = True, **options: Any) -> tuple[Shape, World]:
    shape = draw(runnable(**options))
    return shape, draw(worlds(shape, failing=failing))


# Whole runs.


def statuses_of(run: Run) -> dict[str, str]:
    return {name: str(status) for name, status in run.statuses.items()}


@in_every_way
def test_statuses_of_a_run_are_those_of_the_join_rule(way: str) -> None:
    @tries(EXAMPLES.get(way, 20))
    @given(shaped_worlds())
    def check(drawn: tuple[Shape, World]) -> None:
        model = Model(*drawn)
        run = EXECUTE[way](make_dag(*drawn), error_strategy="continue")
        assert statuses_of(run) == model.statuses
        failed = [name for name, status in model.statuses.items() if status == "failed"]
        assert sorted(run.errors) == failed
        assert run.status == ("completed_with_errors" if failed else "completed")

    check()


@in_every_way
def test_values_of_a_run_are_those_of_direct_evaluation(way: str) -> None:
    """Where an `any` does not wait, what it gets is only settled in sequential mode."""

    @tries(EXAMPLES.get(way, 20))
    @given(shaped_worlds())
    def check(drawn: tuple[Shape, World]) -> None:
        shape, world = drawn
        if way != "sequential":
            shape = shape.waiting()
        run = EXECUTE[way](make_dag(shape, world), error_strategy="continue")
        assert run.results == Model(shape, world).values

    check()


@in_every_way
def test_value_of_a_run_is_that_of_the_last_sink_in_sequential_order(way: str) -> None:
    @tries(EXAMPLES.get(way, 20))
    @given(shaped_worlds())
    def check(drawn: tuple[Shape, World]) -> None:
        last = Model(*drawn).last_sink
        run = EXECUTE[way](make_dag(*drawn), error_strategy="continue")
        assert run.value == (run.results[last] if last else None)

    check()


@in_every_way
def test_first_failure_ends_a_run_that_fails_fast(way: str) -> None:
    @tries(EXAMPLES.get(way, 20))
    @given(shaped_worlds())
    def check(drawn: tuple[Shape, World]) -> None:
        model = Model(*drawn)
        run = EXECUTE[way](make_dag(*drawn))
        failing = {name for name, status in model.statuses.items() if status == "failed"}
        assert run.status == ("failed" if failing else "completed")
        assert set(run.errors) <= failing
        assert bool(run.errors) == bool(failing)
        # What ran before the end stands as the rule says; the rest did not run.
        for name, status in statuses_of(run).items():
            assert status in (model.status(name), "not_run")

    check()


@tries(50)
@given(shaped_worlds())
def test_sequential_run_that_fails_fast_runs_the_order_up_to_the_first_failure(
    drawn: tuple[Shape, World],
) -> None:
    model, ran = Model(*drawn), list[str]()
    dag = make_dag(*drawn, ran)
    failing = [name for name in model.order if model.status(name) == "failed"]
    if not failing:
        dag.run()
        assert ran == model.order
        return
    with pytest.raises(ExecutionError) as caught:
        dag.run()
    assert caught.value.node_name == failing[0]
    assert ran == model.order[: model.order.index(failing[0]) + 1]


@tries(66)
@given(shaped_worlds())
def test_sequential_order_takes_of_the_ready_nodes_the_one_defined_first(
    drawn: tuple[Shape, World],
) -> None:
    ran: list[str] = []
    run = make_dag(*drawn, ran).execute(error_strategy="continue")
    assert ran == Model(*drawn).order
    assert run.metrics["execution_order"] == ran


@tries(66)
@given(runnable())
def test_execution_order_is_that_of_a_run_that_skips_nothing(shape: Shape) -> None:
    dag = make_dag(shape, {})
    assert dag.execution_order == definition_order(shape)
    model = Model(shape, {spec.name: Act() for spec in shape.nodes})
    if "skipped" not in model.statuses.values():
        assert dag.execution_order == model.order


@tries(20)
@given(shaped_worlds())
def test_second_run_of_a_dag_equals_the_first(drawn: tuple[Shape, World]) -> None:
    dag = make_dag(*drawn)
    first = dag.execute(error_strategy="continue")
    second = dag.execute(error_strategy="continue")
    assert second.statuses == first.statuses
    assert second.results == first.results
    assert second.value == first.value


# The schedule alone.


def settle_at_random(schedule: DagSchedule, model: Model, pick: random.Random) -> list[str]:
    """Let the nodes of a schedule end in any order that it allows; returns that order."""
    names = [spec.name for spec in model.shape.nodes]
    ready, order = schedule.begin(), list[str]()
    while ready:
        index = ready.pop(pick.randrange(len(ready)))
        name = names[index]
        assert schedule.status[index] is NodeStatus.READY
        schedule.start(index)
        order.append(name)
        if model.status(name) == "failed":
            ready += schedule.fail(index)
        else:
            taken = model.taken(name)
            choice = frozenset(taken) if isinstance(taken, tuple) else taken
            ready += schedule.complete(index, choice)
    return order


@pytest.mark.parametrize("eager", [True, False])
@tries(100)
@given(drawn=shaped_worlds(most=12), pick=st.randoms(use_true_random=False))
def test_statuses_do_not_depend_on_the_order_in_which_nodes_end(
    eager: bool, drawn: tuple[Shape, World], pick: random.Random
) -> None:
    model = Model(*drawn)
    schedule = DagSchedule(Topology.of(make_dag(*drawn).graph), eager=eager)
    order = settle_at_random(schedule, model, pick)
    assert dict(zip(model.statuses, map(str, schedule.status), strict=True)) == model.statuses
    assert sorted(order) == sorted(model.order)  # each node that runs started once


@pytest.mark.parametrize("eager", [True, False])
@tries(66)
@given(drawn=shaped_worlds(), pick=st.randoms(use_true_random=False))
def test_node_starts_when_its_join_allows_and_not_before(
    eager: bool, drawn: tuple[Shape, World], pick: random.Random
) -> None:
    shape, _ = drawn
    model = Model(*drawn)
    schedule = DagSchedule(Topology.of(make_dag(*drawn).graph), eager=eager)
    order = settle_at_random(schedule, model, pick)
    for name in order:
        spec = shape.by_name[name]
        before = set(order[: order.index(name)])
        ended = {
            each for each in shape.by_name if each in before or model.status(each) == "skipped"
        }
        live = {edge.source in before for edge in shape.into(name) if model.is_live(edge)}
        if spec.kind == "any" and eager and not spec.wait:
            assert not shape.into(name) or True in live
        else:
            assert shape.sources(name) <= ended


# Parts of a graph.


def part_of(shape: Shape, start: str | None, end: str | None, outputs: list[str]) -> set[str]:
    """The nodes that SPEC names: below the one, above the other, and needed for the outputs."""
    part = set(shape.by_name)
    if start is not None:
        part &= shape.below(start)
    if end is not None:
        part &= shape.above(end)
    if outputs:
        part &= set().union(*(shape.above(each) for each in outputs))
    return part


@in_every_way
def test_outputs_run_what_they_need_and_nothing_else(way: str) -> None:
    @tries(EXAMPLES.get(way, 20))
    @given(shaped_worlds(), st.data())
    def check(drawn: tuple[Shape, World], data: st.DataObject) -> None:
        shape = drawn[0].waiting()
        names = st.sampled_from(sorted(shape.by_name))
        outputs = data.draw(st.lists(names, min_size=1, max_size=3, unique=True))
        model = Model(shape, drawn[1], part_of(shape, None, None, outputs))
        run = EXECUTE[way](make_dag(shape, drawn[1]), outputs=outputs, error_strategy="continue")
        assert statuses_of(run) == model.statuses
        assert run.results == model.values
        assert run.value == {name: run.results[name] for name in outputs if name in run.results}
        assert list(run.value) == [name for name in outputs if name in run.results]

    check()


@tries(50)
@given(shaped_worlds(), st.data())
def test_run_until_runs_a_node_and_all_above_it(
    drawn: tuple[Shape, World], data: st.DataObject
) -> None:
    shape, world = drawn
    end = data.draw(st.sampled_from(sorted(shape.by_name)))
    model, ran = Model(shape, world, shape.above(end)), list[str]()
    dag = make_dag(shape, world, ran)
    value = dag.run_until(end, error_strategy="continue")
    assert ran == model.order
    assert dag.results == model.values
    assert value == model.values.get(end)


@tries(66)
@given(shaped_worlds(failing=False), st.data())
def test_run_from_runs_a_node_and_all_below_it_in_the_light_of_the_last_run(
    drawn: tuple[Shape, World], data: st.DataObject
) -> None:
    shape, first_world = drawn
    first = Model(shape, first_world)
    start = data.draw(st.sampled_from(sorted(shape.by_name)))
    second_world = data.draw(worlds(shape))
    second = Model(shape, second_world, shape.below(start), first)
    world, ran = dict(first_world), list[str]()
    dag = make_dag(shape, world, ran)
    dag.run()
    world.update(second_world)
    ran.clear()
    value = dag.run_from(start, error_strategy="continue")
    assert ran == second.order
    others = {name: first.values[name] for name in first.values if name not in second.part}
    assert dag.results == {**others, **second.values}
    assert value == (second.value(second.last_sink) if second.last_sink else None)


@tries(66)
@given(shaped_worlds(failing=False), st.data())
def test_run_between_runs_the_nodes_on_the_paths(
    drawn: tuple[Shape, World], data: st.DataObject
) -> None:
    shape, first_world = drawn
    first = Model(shape, first_world)
    names = st.sampled_from(sorted(shape.by_name))
    start, end = data.draw(names), data.draw(names)
    part = part_of(shape, start, end, [])
    second_world = data.draw(worlds(shape))
    world, ran = dict(first_world), list[str]()
    dag = make_dag(shape, world, ran)
    earlier = dag.execute()
    dag.execute()  # which is not the run that is asked for
    world.update(second_world)
    ran.clear()
    if not part:
        with pytest.raises(MissingConnectionError, match="no path") as caught:
            dag.run_between(start, end)
        assert (caught.value.source, caught.value.target) == (start, end)
        assert not ran
        return
    second = Model(shape, second_world, part, first)
    value = dag.run_between(start, end, run=earlier, error_strategy="continue")
    assert ran == second.order
    assert value == second.values.get(end)


def missing_sources(shape: Shape, part: set[str], first: Model) -> set[str]:
    """The sources outside of a part that its nodes lack since an earlier run had failures."""
    missing: set[str] = set()
    for name in part:
        required = [edge for edge in shape.into(name) if not edge.optional]
        outside = [edge for edge in required if edge.source not in part]
        lost = {edge.source for edge in outside if first.is_lost(edge)}
        if shape.by_name[name].kind == "any":  # one live edge is enough, or one that may come
            enough = len(outside) < len(required) or any(map(first.is_live, outside))
        else:
            enough = any(map(first.is_dead_by_choice, outside))  # skipped anyway
        if not enough:
            missing |= lost
    return missing


@tries(66)
@given(shaped_worlds(ordering=False), st.data())
def test_run_from_after_failures_names_all_sources_that_are_missing(
    drawn: tuple[Shape, World], data: st.DataObject
) -> None:
    shape, world = drawn
    first = Model(shape, world)
    start = data.draw(st.sampled_from(sorted(shape.by_name)))
    second = Model(shape, world, shape.below(start), first)
    missing = missing_sources(shape, second.part, first)
    ran: list[str] = []
    dag = make_dag(shape, world, ran)
    earlier = dag.execute(error_strategy="continue")
    ran.clear()
    if missing:
        with pytest.raises(MissingInputError) as caught:
            dag.run_from(start, run=earlier, error_strategy="continue")
        assert set(caught.value.sources) == missing
        assert not ran
    else:
        dag.run_from(start, run=earlier, error_strategy="continue")
        assert ran == second.order


# Validation.


def refused_by_validation(shape: Shape) -> list[ValidationError]:
    return make_dag(shape, {}).validate(allow_disconnected=True)


@tries(100)
@given(shapes())
def test_refused_join_can_never_run(shape: Shape) -> None:
    refused = refused_by_validation(shape)
    possible = can_run(shape) if refused else set()
    for problem in refused:
        assert problem.node not in possible
        assert "@dag.any" in str(problem)
        assert problem.decider in shape.above(problem.node)
        assert set(problem.branches) <= shape.listened(problem.decider)


@tries(100)
@given(shapes(kinds=("node", "node", "condition", "select", "all")))
def test_graph_without_any_is_refused_exactly_where_a_node_can_never_run(shape: Shape) -> None:
    assert bool(refused_by_validation(shape)) == (can_run(shape) != set(shape.by_name))


@tries(100)
@given(shapes())
def test_join_of_two_branches_of_one_decider_is_refused(shape: Shape) -> None:
    direct = {
        edge.target
        for edge in shape.edges
        for other in shape.into(edge.target)
        if edge.branch is not None
        and edge.source == other.source
        and other.branch not in (None, edge.branch)
        and shape.by_name[edge.target].kind != "any"
        and not (edge.optional or other.optional or shape.by_name[edge.source].several)
    }
    assert direct <= {problem.node for problem in refused_by_validation(shape)}


@tries(33)
@given(shapes())
def test_refused_graph_runs_nothing(shape: Shape) -> None:
    ran: list[str] = []
    dag = make_dag(shape, {spec.name: Act() for spec in shape.nodes}, ran)
    refused = dag.validate(allow_disconnected=True)
    if refused:
        with pytest.raises(ValidationError) as caught:
            dag.run()
        assert [str(each) for each in caught.value.problems] == [str(each) for each in refused]
        assert not ran
    else:
        assert dag.execute(error_strategy="continue").status.startswith("completed")
