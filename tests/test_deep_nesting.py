"""Workflows nest up to a limit: below it everything works, above it the first call says so."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

from fast_dag import DAG, FSM, ExecutionError, FSMReturn, Node, ValidationError
from fast_dag.cli.tree import tree
from fast_dag.define.graph import MOST_LEVELS
from fast_dag.errors import InvalidNodeError
from tests.ways import EVERYWHERE, EXECUTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.define.workflow import Workflow

    Wrap = Callable[[Workflow, int], Workflow]

PATH = ".".join(["sub"] * (MOST_LEVELS - 1)) + ".last"
FRAMES = 100
"""How much deeper the stack is than that of a test, as in a notebook inside of a server."""


def below_many_frames(call: Callable[[], Any], frames: int = FRAMES) -> Any:
    return call() if frames == 0 else below_many_frames(call, frames - 1)


# Ways to nest a workflow in another.


def inverse(x: float) -> float:
    return 1 / x


async def nothing(*offered: object) -> None: ...


def in_dag(inner: Workflow, level: int) -> Workflow:
    return DAG(f"level {level}").add_node("sub", inner)


def in_machine(inner: Workflow, level: int) -> Workflow:
    return FSM(f"level {level}").add_state("sub", inner, initial=True, terminal=True)


def in_both(inner: Workflow, level: int) -> Workflow:
    return (in_dag if level % 2 else in_machine)(inner, level)


def with_timeouts(inner: Workflow, level: int) -> Workflow:
    return DAG(f"level {level}").add_node("sub", inner, timeout=60)


def in_caches(inner: Workflow, level: int) -> Workflow:
    dag = DAG(f"level {level}")
    dag.cached_node(inner, name="sub")  # type: ignore[call-overload]  # a workflow is a node, too
    return dag


def with_all_around(inner: Workflow, level: int) -> Workflow:
    """Async hooks in all phases, a handler, retries."""
    dag = DAG(f"level {level}")
    dag.add_node("sub", inner, retry=1, retry_delay=0, retry_on=(KeyError,))
    phases = ("pre_execute", "post_execute", "on_error", "on_retry", "cleanup")
    dag.set_node_hooks("sub", **dict.fromkeys(phases, nothing))
    dag.set_node_error_handler("sub", nothing)
    return dag


def behind_a_condition(inner: Workflow, level: int) -> Workflow:
    dag = DAG(f"level {level}")
    decider = dag.condition(lambda x: True, name="decider")
    dag.add_node("sub", inner)
    decider.on_true >> dag.nodes["sub"]
    return dag


def between_others(inner: Workflow, level: int) -> Workflow:
    dag = DAG(f"level {level}").add_node("before", lambda x: x).add_node("sub", inner)
    return dag.add_node("after", lambda x: x).connect("before", "sub").connect("sub", "after")


PLAIN: tuple[Wrap, ...] = (in_dag, in_machine, in_both)
WRAPS: tuple[Wrap, ...] = (
    *PLAIN,
    with_timeouts,
    in_caches,
    with_all_around,
    behind_a_condition,
    between_others,
)


def deep(wrap: Wrap, levels: int = MOST_LEVELS) -> Any:
    """So many levels, of which the innermost divides by its input."""
    workflow: Workflow = DAG("level 1").add_node("last", inverse)
    for level in range(2, levels + 1):
        workflow = wrap(workflow, level)
    return workflow


all_wraps = pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
in_all_modes = pytest.mark.parametrize(
    ("mode", "wrap"),
    [
        pytest.param(
            mode,
            wrap,
            id=f"{mode}-{wrap.__name__}",
            marks=()
            if mode in ("sequential", "run_async") or wrap in (in_both, with_all_around)
            else pytest.mark.stress,
        )
        for mode in (*EVERYWHERE, "one thread")
        for wrap in (WRAPS if mode != "process" else (in_both, with_all_around))  # which are slow
    ],
)
plain_wraps = pytest.mark.parametrize("wrap", PLAIN, ids=lambda wrap: wrap.__name__)


# Up to the limit.


@pytest.mark.one_in(5)
@in_all_modes
def test_deepest_workflow_runs_in_every_mode(mode: str, wrap: Wrap) -> None:
    workflow = deep(wrap)
    run = below_many_frames(lambda: EXECUTE[mode](workflow, x=4))
    assert (run.status, run.value) == ("completed", 0.25)
    assert run[PATH] == 0.25


@pytest.mark.one_in(5)
@in_all_modes
def test_failure_in_the_deepest_workflow_is_told_by_its_path(mode: str, wrap: Wrap) -> None:
    workflow = deep(wrap)
    run = below_many_frames(lambda: EXECUTE[mode](workflow, x=0))
    assert run.status == "failed"
    with pytest.raises(ExecutionError) as caught:
        below_many_frames(run.raise_for_error)
    assert caught.value.node_name == PATH
    assert below_many_frames(lambda: pickle.loads(pickle.dumps(caught.value))).node_name == PATH


@all_wraps
def test_deepest_workflow_is_watched(wrap: Wrap) -> None:
    told: list[str] = []
    below_many_frames(lambda: deep(wrap).run(x=4, progress=lambda name, *more: told.append(name)))
    assert told.count(PATH) == 2


@pytest.mark.one_in(3)
@all_wraps
def test_deepest_workflow_and_its_run_are_drawn_and_reported(wrap: Wrap) -> None:
    workflow = deep(wrap)
    for value in (4, 0):
        run = workflow.execute(x=value)
        for each in (workflow, run):
            for backend in ("mermaid", "graphviz", "svg"):
                shown = below_many_frames(
                    lambda each=each, backend=backend: each.visualize(backend)
                )
                assert "last" in shown
            bundle = below_many_frames(each._repr_mimebundle_)
            assert "image/svg+xml" in bundle
        assert PATH in below_many_frames(run.report)
        assert below_many_frames(run.summary)
        assert below_many_frames(lambda run=run: run.metrics)
    assert "last" in "".join(below_many_frames(lambda: list(tree(workflow))))


@all_wraps
def test_deepest_workflow_is_checked_and_copied(wrap: Wrap) -> None:
    workflow = deep(wrap)
    assert below_many_frames(lambda: workflow.validate(check_types=True)) == []
    for twin in (below_many_frames(workflow.clone), below_many_frames(lambda: copy.copy(workflow))):
        assert below_many_frames(lambda twin=twin: twin.run(x=4)) == 0.25


@pytest.mark.parametrize(
    "wrap", [*PLAIN, with_timeouts, in_caches, with_all_around], ids=lambda wrap: wrap.__name__
)
def test_deepest_workflow_is_pickled_and_copied_deeply(wrap: Wrap) -> None:
    workflow = deep(wrap)
    for twin in (
        below_many_frames(lambda: pickle.loads(pickle.dumps(workflow))),
        below_many_frames(lambda: copy.deepcopy(workflow)),
    ):
        assert twin.run(x=4) == 0.25


@pytest.mark.one_in(5)
@pytest.mark.needs("yaml")
@pytest.mark.parametrize("wrap", [*PLAIN, with_timeouts, in_caches], ids=lambda wrap: wrap.__name__)
def test_deepest_workflow_goes_into_files_and_back(wrap: Wrap) -> None:
    workflow, names = deep(wrap), {"inverse": inverse}
    cls = type(workflow)

    def there_and_back() -> list[Any]:
        return [
            cls.from_dict(workflow.to_dict(names), registry=names),
            cls.from_json(workflow.to_json(names), registry=names),
            cls.from_yaml(workflow.to_yaml(names), registry=names),
        ]

    for twin in below_many_frames(there_and_back):
        assert twin.run(x=4) == 0.25


def test_deepest_machine_is_driven_step_by_step() -> None:
    def drive() -> list[Any]:
        machine = deep(in_machine).start(x=4)
        other = deep(in_machine).start(x=4)
        return [machine.step().value, asyncio.run(other.step_async()).value]

    assert below_many_frames(drive) == [0.25, 0.25]


# Above it.


def too_deep(levels: int = MOST_LEVELS + 1) -> Any:
    """What is raised where somebody nests so deep."""
    return pytest.raises(InvalidNodeError, match=f"nested {levels} levels deep, and {MOST_LEVELS}")


@plain_wraps
def test_one_level_more_is_refused_where_it_is_added(wrap: Wrap) -> None:
    workflow = deep(wrap)
    with too_deep() as caught:
        wrap(workflow, MOST_LEVELS + 1)
    assert str(caught.value).startswith("'sub' cannot be a node of 'level 33': 'level 33' would")
    assert (caught.value.node, caught.value.levels, caught.value.most) == ("sub", 33, 32)
    assert workflow.run(x=4) == 0.25


@plain_wraps
def test_400_levels_are_refused_and_no_recursion_error(wrap: Wrap) -> None:
    with too_deep():
        deep(wrap, 400)


def test_every_way_of_adding_a_node_refuses() -> None:
    workflow = deep(in_dag)
    dag, fsm = DAG("top").add_node("plain", inverse), FSM("top").add_state("plain", inverse)
    for add in (
        lambda: dag.add_node("sub", workflow),
        lambda: dag.add_node(workflow),
        lambda: dag.add_node(Node(workflow, "sub")),
        lambda: dag.add_node("plain", workflow, replace=True),
        lambda: dag.replace_node("plain", workflow),
        lambda: dag.cached_node(workflow, name="sub"),
        lambda: fsm.add_state("sub", workflow),
        lambda: fsm.add_state("plain", workflow, replace=True),
        lambda: fsm.add_terminal_state("sub", workflow),
    ):
        with too_deep():
            add()
    assert list(dag.nodes) == list(fsm.nodes) == ["plain"]
    assert dag.run(x=4) == 0.25


def test_a_workflow_that_is_nested_already_cannot_grow_too_deep() -> None:
    inner = DAG("inner").add_node("last", inverse)
    outer = DAG("outer").add_node("sub", DAG("middle").add_node("sub", inner))
    with too_deep(MOST_LEVELS + 2) as caught:
        inner.add_node("more", deep(in_dag, MOST_LEVELS - 1))
    assert "'outer' would have" in str(caught.value)
    inner.add_node("more", deep(in_dag, MOST_LEVELS - 3))
    assert outer.validate(allow_disconnected=True) == []


@pytest.mark.parametrize(
    "twin_of", [pickle.dumps, copy.deepcopy, DAG.clone], ids=lambda f: f.__name__
)
def test_a_copy_knows_what_it_is_nested_in(twin_of: Any) -> None:
    twin = twin_of(DAG("outer").add_node("sub", DAG("inner").add_node("last", inverse)))
    outer = pickle.loads(twin) if isinstance(twin, bytes) else twin
    inner = outer.nodes["sub"].workflow
    with too_deep():
        inner.add_node("more", deep(in_dag, MOST_LEVELS - 1))


def test_a_workflow_that_was_taken_out_may_grow() -> None:
    for take_out in (
        lambda dag: dag.remove_node("sub"),
        lambda dag: dag.replace_node("sub", inverse),
    ):
        inner = DAG("inner").add_node("last", inverse)
        outer = DAG("outer").add_node("sub", inner).add_node("again", inner)
        take_out(outer)
        with too_deep():
            inner.add_node("more", deep(in_dag, MOST_LEVELS - 1))
        outer.remove_node("again")
        inner.add_node("more", deep(in_dag, MOST_LEVELS - 1))


def test_what_a_workflow_is_nested_in_is_not_kept_alive() -> None:
    inner = DAG("inner").add_node("last", inverse)
    outer = DAG("outer").add_node("sub", inner)
    gone = ref(outer.graph)
    del outer
    gc.collect()
    assert gone() is None
    inner.add_node("more", deep(in_dag, MOST_LEVELS - 1))


def test_files_of_too_many_levels_are_refused() -> None:
    names = {"inverse": inverse}
    data: dict[str, Any] = DAG("level 1").add_node("last", inverse).to_dict(names)
    for level in range(2, 401):
        nodes = [{"name": "sub", "workflow": {k: v for k, v in data.items() if k != "fast_dag"}}]
        data = {**data, "name": f"level {level}", "nodes": nodes}
        if level in (MOST_LEVELS + 1, 100, 400):
            with pytest.raises(ValidationError, match="deep"):
                DAG.from_dict(data, registry=names)


def test_a_workflow_inside_itself_is_named_before_any_depth() -> None:
    workflow = deep(in_dag)
    inner = workflow.nodes["sub"].workflow
    with pytest.raises(InvalidNodeError, match="inside itself"):
        inner.add_node("again", workflow)


def test_states_that_end_a_machine_at_any_depth_end_that_machine_only() -> None:
    inner = FSM("inner").add_state("stop", lambda x: FSMReturn(stop=True, value=x), initial=True)
    workflow: Any = inner
    for level in range(2, MOST_LEVELS + 1):
        workflow = between_others(workflow, level)
    assert workflow.run(x=7) == 7
