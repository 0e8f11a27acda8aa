"""The options of nodes stand in one table; the types, the decorators and the reference agree."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG, FSM, InvalidNodeError, Node, ValidationError
from fast_dag.define import options
from fast_dag.define.options import CACHE_OPTIONS, OPTIONS, Option
from tests.behaviour.support import Index

DOCS = Path(__file__).parents[1] / "docs"


def typed(name: str) -> set[str]:
    """The keys of one of the TypedDicts, which only type checkers see, and of its bases."""
    tree = ast.parse(inspect.getsource(options))
    classes = {each.name: each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}
    own = {each.target.id for each in classes[name].body if isinstance(each, ast.AnnAssign)}  # type: ignore[union-attr]
    bases = [each.id for each in classes[name].bases if isinstance(each, ast.Name)]
    return own.union(*(typed(base) for base in bases if base in classes))


def fitting(*types: str) -> set[str]:
    return {each.name for each in OPTIONS.values() if each.type in types} - {"cache"}


def test_type_checkers_know_the_options_of_the_table() -> None:
    assert typed("CommonOptions") == fitting("")
    assert typed("AnyOptions") == fitting("", "any")
    assert typed("AllOptions") == fitting("", "all")
    assert typed("SelectOptions") == fitting("", "select")
    assert typed("MapOptions") == fitting("", "map")
    assert typed("NodeOptions") == fitting("", "any", "all", "select", "map")
    assert typed("CachedNodeOptions") == fitting("", "map") | CACHE_OPTIONS.keys()
    assert typed("CachedStateOptions") == fitting("") | CACHE_OPTIONS.keys()


def row(option: Option) -> str:
    default = "" if option.default is None else f"`{option.default!r}`"
    fits = f", of `@dag.{option.type}`" if option.type else ""
    return f"| `{option.name}`{fits} | {option.words} | {default} | {option.doc} |"


@pytest.mark.parametrize("table", [OPTIONS, CACHE_OPTIONS])
def test_reference_has_the_options_of_the_table(table: dict[str, Option]) -> None:
    rows = [row(each) for each in table.values() if each.name != "cache"]
    assert "\n".join(rows) in (DOCS / "api" / "node.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", [*OPTIONS.values(), *CACHE_OPTIONS.values()])
def test_default_is_what_the_option_takes(option: Option) -> None:
    assert option.default is None or option.fits(option.default)


def parameters(decorator: Any) -> dict[str, Any]:
    shown = inspect.signature(decorator).parameters.values()
    return {each.name: each.default for each in shown}


def test_decorators_show_the_options_that_fit() -> None:
    dag, fsm = DAG("shown"), FSM("shown")
    common = {"func", "name", "replace"} | fitting("")
    mapping = common | fitting("map")
    assert parameters(dag.condition).keys() == common
    assert parameters(dag.node).keys() == parameters(dag.map).keys() == mapping
    assert parameters(dag.select).keys() == common | {"several"}
    assert parameters(dag.any).keys() == common | {"wait"}
    assert parameters(dag.all).keys() == common | {"collect"}
    assert parameters(dag.cached_node).keys() == mapping | CACHE_OPTIONS.keys()
    state = common | {"initial", "terminal", "on_error"}
    assert parameters(fsm.state).keys() == state
    assert parameters(fsm.cached_state).keys() == state | CACHE_OPTIONS.keys()
    assert parameters(dag.node)["retry_delay"] == 0.1
    assert parameters(dag.cached_node)["max_entries"] == 1024


def test_counts_and_numbers_of_any_type_are_kept_as_ints_and_floats() -> None:
    node = Node(abs, inputs=["x"], retry=Index(2), retry_delay=Fraction(1, 4), timeout=Decimal(3))
    assert (node.retry, node.options["retry_delay"], node.timeout) == (2, 0.25, 3.0)
    assert (type(node.retry), type(node.timeout)) == (int, float)


def test_durations_may_be_timedeltas() -> None:
    dag = DAG("late")
    kept = dag.cached_node(
        lambda: 1,
        name="kept",
        ttl=timedelta(days=1),
        timeout=timedelta(minutes=1),
        retry_delay=timedelta(0),
        retry_max_delay=timedelta(seconds=2),
    )
    assert (kept.timeout, kept.options["retry_delay"], kept.options["retry_max_delay"]) == (
        60,
        0,
        2,
    )
    assert kept.cache is not None
    assert kept.cache.ttl == 86400
    assert dag.to_dict({"f": kept.func})["nodes"][0]["cache"] == {"ttl": 86400.0}


async def is_late(error: BaseException) -> bool:
    return isinstance(error, TimeoutError)


@pytest.mark.parametrize("none", [*OPTIONS])
def test_option_that_is_none_is_the_default(none: str) -> None:
    assert Node(lambda x: x, "f", **{none: None}).options == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cache": True}, r"cache is a mapping that @dag\.cached_node, or .* not True"),
        ({"outputs": 5}, "outputs is a list of different names, not 5"),
        ({"outputs": {"a", "b"}}, "outputs is a list of different names, not {"),
        ({"inputs": {"a"}}, "inputs is a list of names, not {'a'}"),
        ({"over": {"a", "b"}}, "over is the name of a parameter, or a list of different names"),
        ({"product": frozenset("ab")}, "product is a list of different names of parameters"),
        ({"product": ["x", "y"]}, "product= names 'y', which is none of its parameters: 'x'"),
        ({"timeout": timedelta(0)}, "timeout is a number of seconds above 0, or a timedelta"),
        ({"timeout": True}, "timeout is a number of seconds"),
        ({"retry": 1.0}, "retry is a count"),
        ({"retry": True}, "retry is a count"),
        ({"retry_on": int}, "retry_on is exception types"),
        ({"retry_on": "OSError"}, "retry_on is exception types"),
        ({"retry_on": is_late}, "retry_on is exception types, or a sync function of one"),
        ({"wait": 1}, "wait is True or False"),
        ({"description": 3}, "description is a string"),
        ({"metadata": 3}, "metadata is a mapping"),
    ],
)
def test_wrong_value_is_told_with_what_is_right(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNodeError, match=f"node 'f': {message}") as caught:
        Node(lambda x: x, "f", **given)
    assert caught.value.node == "f"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ttl": "1d"}, "ttl is a number of seconds above 0, or a timedelta, not '1d'"),
        ({"cache_key": 3}, "cache_key is a list of names, or a function of the inputs, not 3"),
        ({"max_entries": 0}, "max_entries is a count of at least 1, not 0"),
    ],
)
def test_wrong_value_of_a_cache_is_told_with_what_is_right(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidNodeError, match=f"cached node 'f': {message}"):
        DAG("d").cached_node(lambda x: x, name="f", **given)


RUNS = ["run", "execute", "run_async", "execute_async"]


@pytest.mark.parametrize("kind", [DAG, FSM])
@pytest.mark.parametrize("name", RUNS)
def test_ways_to_run_show_their_options(kind: Any, name: str) -> None:
    shown = inspect.signature(getattr(kind, name))
    names = list(shown.parameters)
    assert names[:2] == ["self", "inputs"]
    assert names[-1] == "more_inputs"
    assert {"context", "mode", "max_workers", "timeout", "progress"} <= set(names)
    assert ("max_cycles" if kind is FSM else "outputs") in names
    mode = "async" if name.endswith("async") else "sequential"
    assert shown.parameters["mode"].default == mode
    result = "Any" if name.startswith("run") else ("MachineRun" if kind is FSM else "Run")
    assert shown.return_annotation == result


def test_start_shows_the_options_of_run() -> None:
    shown = inspect.signature(FSM.start)
    assert "max_cycles" in shown.parameters
    assert shown.return_annotation == "Machine"


PARTS = {"run_from": {"node", "run"}, "run_until": {"node"}, "run_between": {"start", "end", "run"}}
MACHINES = {"start": {"on_step"}, "restore": {"snapshot", "on_step", "check_name"}}


@pytest.mark.parametrize(
    ("kind", "name", "own"),
    [
        *[(DAG, name + end, own) for name, own in PARTS.items() for end in ("", "_async")],
        *[(FSM, name, own) for name, own in MACHINES.items()],
    ],
)
def test_other_ways_to_run_show_the_options_of_run_that_they_take(
    kind: Any, name: str, own: set[str]
) -> None:
    of_run = inspect.signature(kind.run_async if name.endswith("_async") else kind.run).parameters
    shown = dict(inspect.signature(getattr(kind, name)).parameters)
    assert own <= shown.keys()
    for each in own:
        del shown[each]
    of_stores = {"store", "run_id", "rerun", "tags", "on_change", "renamed"}
    lacking = of_stores | {"resume"} if kind is DAG else set()
    assert list(shown.items()) == [item for item in of_run.items() if item[0] not in lacking]


def test_wrong_options_of_parts_and_restored_machines_are_refused() -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda x: x).connect("a", "b")
    dag.run()
    fsm = FSM("m", initial_state="a").add_terminal_state("a", lambda: 1)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: dag.run_from("b", mode="parralel"), "mode is one of"),  # type: ignore[arg-type]
        (lambda: dag.run_until("b", max_worker=2), "'max_worker' (did you mean 'max_workers'?)"),
        (lambda: dag.run_between("a", "b", timeout="5"), "timeout"),  # type: ignore[arg-type]
        (lambda: dag.run_from("b", run=5), "run= is an earlier Run"),  # type: ignore[arg-type]
        (lambda: fsm.restore(fsm.start().snapshot(), max_cycles="9"), "max_cycles"),  # type: ignore
        (lambda: fsm.restore(fsm.start().snapshot(), modes="async"), "'modes' (did you mean"),
    ]
    for call, told in calls:
        with pytest.raises(ValidationError, match=re.escape(told)):
            call()
