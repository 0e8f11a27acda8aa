"""Workflows as data and text: what goes into a file comes back, and no file does more than its
reader lets it."""

from __future__ import annotations

import functools
import json
import pickle
import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from enum import Enum, StrEnum
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, FSM, Context, InvalidNodeError, Node, ValidationError
from fast_dag.cache.memory import MemoryBackend
from fast_dag.errors import MissingExtraError
from tests.model import Model, make_dag
from tests.patience import LONG
from tests.properties import tries
from tests.test_properties import shaped_worlds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = __name__
NEEDS_YAML = pytest.mark.needs("yaml")


# Functions that files name.


def double(x: int) -> int:
    return 2 * x


def add(x: int, y: int = 1) -> int:
    return x + y


def is_big(x: int) -> bool:
    return x > 10


def size(x: int) -> str:
    return "big" if x > 10 else "small"


def first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def parts(x: int) -> tuple[int, int]:
    return x // 10, x % 10


def add_one_before(node: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "x": inputs["x"] + 1}


def zero_instead(node: Any, inputs: Any, error: Exception) -> int:
    return 0


def connect() -> Iterator[str]:
    yield "open"


@contextmanager
def connect_managed() -> Iterator[str]:
    yield "managed"


def ask(connection: str) -> str:
    return f"asked {connection}"


def is_transient(error: BaseException) -> bool:
    return "again" in str(error)


def told(fsm: Any, a: str, b: str, result: Any) -> None:
    TOLD.append((a, b))


TOLD: list[tuple[str, str]] = []


def over_two(n: int) -> bool:
    return n > 2


def of_four(a: int, b: int, c: int, d: int) -> bool:
    return True


def draw(n: int = 0) -> int:
    return n + 1


def won(n: int) -> str:
    return f"won by {n}"


class Tools:
    """Functions in a class."""

    factor = 3

    def method(self, x: int) -> int:
        return x

    @staticmethod
    def static(x: int) -> int:
        return 5 * x

    @classmethod
    def of_class(cls, x: int) -> int:
        return cls.factor * x

    def __call__(self, x: int) -> int:
        return x


class Record:
    """A class is a function, too."""

    def __init__(self, x: int) -> None:
        self.x = x


@functools.lru_cache
def remembered(x: int) -> int:
    return x + 7


workshop = DAG("workshop")


@workshop.node(retry=2, description="decorated")
def decorated(x: int) -> int:
    return x + 100


def rewritten(workflow: Any, **options: Any) -> Any:
    """The workflow after a way through JSON, by the allow-list of this module."""
    text = workflow.to_json(options.get("registry"))
    return type(workflow).from_json(text, **{"allow": [HERE], **options})


def edges_of(dag: DAG) -> dict[str, list[tuple[Any, ...]]]:
    return {
        name: [(e.source, e.output, e.input, e.branch) for e in dag.graph.incoming(name)]
        for name in dag
    }


# What comes back.


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "description": st.text(max_size=10),
        "metadata": st.dictionaries(
            st.text(max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=4,
            ),
            max_size=3,
        ),
        "retry": st.integers(0, 3),
        "retry_delay": st.floats(0, 10),
        "retry_backoff": st.integers(0, 10),
        "retry_max_delay": st.floats(0, 10),
        "retry_jitter": st.booleans() | st.floats(0, 1),
        "retry_on": st.sampled_from([ValueError, (OSError, KeyError), is_transient]),
        "timeout": st.floats(0.5, 10),
        "run_in": st.sampled_from(["thread", "process"]),
        "outputs": st.sampled_from([["left", "right"], ("a",)]),
    },
).filter(lambda each: "inf" not in repr(each))


def options_of(node: Node[..., Any]) -> dict[str, Any]:
    """The options that say something, and lists as lists."""
    return {
        key: list(value) if key in ("inputs", "outputs") else value
        for key, value in node.options.items()
        if value is not None and not (key == "metadata" and value == {})
    }


@tries(20)
@given(shaped_worlds(), st.data())
@pytest.mark.parametrize("form", ["dict", "json", "yaml"])
def test_random_graph_comes_back_with_its_nodes_edges_options_and_results(
    form: str, drawn: Any, data: st.DataObject
) -> None:
    dag = make_dag(*drawn)
    for name in list(dag):
        node = dag.nodes[name]
        added = data.draw(OPTIONS)
        if node.type.decides:
            added.pop("outputs", None)
        dag.replace_node(name, node.func, type=node.type, **{**node.options, **added})
    registry = {f"the function of {name}": dag.nodes[name].func for name in dag}
    registry["is_transient"] = is_transient

    back = getattr(DAG, f"from_{form}")(getattr(dag, f"to_{form}")(registry), registry=registry)

    assert list(back) == list(dag)
    assert edges_of(back) == edges_of(dag)
    for name in dag:
        assert options_of(back.nodes[name]) == options_of(dag.nodes[name])
        assert back.nodes[name].type is dag.nodes[name].type
        assert back.nodes[name].func is dag.nodes[name].func
    assert back.to_dict(registry) == dag.to_dict(registry)


@tries(40)
@given(shaped_worlds())
def test_random_graph_comes_back_with_its_results(drawn: Any) -> None:
    dag = make_dag(*drawn)
    registry = {name: dag.nodes[name].func for name in dag}
    back = DAG.from_json(dag.to_json(registry), registry=registry)
    run = back.execute(error_strategy="continue")
    assert run.results == Model(*drawn).values
    assert run.statuses == Model(*drawn).statuses


def test_functions_go_by_where_they_are_imported_from() -> None:
    dag = DAG("demo").add_node("one", double).add_node("two", Tools.static)
    dag.add_node("three", Tools.of_class).add_node("four", Record).add_node("five", remembered)
    dag.add_node("six", decorated)
    data = dag.to_dict()
    assert [node["function"].partition(":")[2] for node in data["nodes"]] == [
        "double",
        "Tools.static",
        "Tools.of_class",
        "Record",
        "remembered",
        "decorated",
    ]
    assert DAG.from_dict(data, allow=[HERE]).run(x=1, outputs=["three", "five", "six"]) == {
        "three": 3,
        "five": 8,
        "six": 101,
    }


def test_workflow_of_decorated_functions_is_written_with_their_options() -> None:
    assert workshop.to_dict()["nodes"] == [
        {
            "name": "decorated",
            "function": f"{HERE}:decorated",
            "description": "decorated",
            "retry": 2,
        }
    ]
    assert rewritten(workshop).run(x=1) == 101


def test_branches_outputs_orders_and_star_edges_come_back() -> None:
    dag = DAG("demo", description="all kinds of edges", metadata={"tags": ["a", "b"]})
    dag.add_node("parts", parts, outputs=["tens", "ones"])
    dag.add_node("check", is_big, type="condition").add_node("route", size, type="select")
    dag.add_node("big", double, inputs=["number"]).add_node("small", double)
    dag.add_node("either", first, type="any", wait=True)
    dag.add_node("last", add)
    dag.connect("parts", "check", output="tens").connect("parts", "route", output="ones")
    dag.connect(dag.nodes["check"].on_true, "big")
    dag.connect(dag.nodes["route"].branches["small"], "small")
    dag.connect("big", "either").connect("small", "either")
    dag.connect("either", "last", input="x").connect("check", "last", input=False)
    back = rewritten(dag)
    assert edges_of(back) == edges_of(dag)
    assert back.nodes["big"].inputs == ("number",)
    assert back.nodes["either"].options == {"wait": True}
    assert (back.description, back.metadata) == (dag.description, dag.metadata)
    assert back.run(x=213) == dag.run(x=213) == 43


def test_autowiring_and_nested_workflows_come_back() -> None:
    inner = DAG("inner", autowire=True).add_node("x", double, inputs=["n"]).add_node("y", double)
    inner.add_node("sum", add)
    outer = DAG("outer").add_node("first", double).add_node("sub", inner, retry=1)
    outer.connect("first", "sub", input="n")
    back = rewritten(outer)
    assert back.nodes["sub"].workflow.autowire
    assert back.nodes["sub"].retry == 1
    assert back.run(x=1) == outer.run(x=1) == 12


def test_what_surrounds_calls_comes_back() -> None:
    dag = DAG("demo").add_node("double", double).add_node("ask", ask).add_node("fail", add)
    dag.set_node_hooks("double", pre_execute=add_one_before)
    dag.set_default_hooks(cleanup=first)
    dag.set_node_error_handler("fail", zero_instead)
    dag.resource("connection", connect)
    back = rewritten(dag)
    assert back.node_hooks == {"double": {"pre_execute": add_one_before}}
    assert (back.default_hooks, back.error_handlers) == ({"cleanup": first}, {"fail": zero_instead})
    assert back.resources.keys() == {"connection"}
    names = ["double", "ask", "fail"]
    given = {"x": 1, "y": "no number"}
    assert back.run(given, outputs=names) == {"double": 4, "ask": "asked open", "fail": 0}
    assert back.to_dict() == dag.to_dict()
    dag.resource("connection", connect_managed)
    assert rewritten(dag).run(given, outputs=["ask"]) == {"ask": "asked managed"}


def test_cache_comes_back_empty_and_its_backend_by_the_registry() -> None:
    dag = DAG("demo")
    dag.cached_node(ttl=60, cache_key=["x"], max_entries=7)(add)
    back = rewritten(dag)
    cache = back.nodes["add"].cache
    assert (cache.ttl, cache.cache_key) == (60, ["x"])
    backend = MemoryBackend(10)
    shared = DAG("demo")
    shared.cached_node(backend=backend, version=2)(add)
    with pytest.raises(InvalidNodeError, match=r"'add' of 'demo'.*backend.*registry"):
        shared.to_dict()
    back = rewritten(shared, registry={"redis": backend})
    assert back.nodes["add"].cache.backend is backend


def test_machine_comes_back() -> None:
    fsm = FSM("game", "draw", ["won"], max_cycles=9, on_max_cycles="stop", keep_history=4)
    fsm.add_state("draw", draw, retry=1).add_state("won", won)
    fsm.add_transition("draw", "won", over_two).add_transition("draw", "draw")
    fsm.add_transition("draw", "won", event="give up")
    fsm.add_state_hook(told)
    back = rewritten(fsm)
    assert (back.initial_state, back.terminal_states) == ("draw", ["won"])
    assert (back.max_cycles, back.on_max_cycles, back.keep_history) == (9, "stop", 4)
    assert back.transitions == fsm.transitions
    TOLD.clear()
    assert back.run() == "won by 3"
    assert TOLD == [("draw", "draw"), ("draw", "draw"), ("draw", "won")]
    assert back.to_dict() == fsm.to_dict()


def test_unfinished_machine_comes_back() -> None:
    fsm = FSM("empty").add_transition("a", "b")
    assert rewritten(fsm).to_dict() == fsm.to_dict()


def test_machine_as_a_node_and_dag_as_a_state_come_back() -> None:
    fsm = FSM("game", "draw", ["won"]).add_state("draw", draw).add_state("won", won)
    fsm.add_transition("draw", "won", over_two).add_transition("draw", "draw")
    dag = DAG("outer").add_node("game", fsm)
    assert rewritten(dag).run(n=1) == "won by 3"
    steps = DAG("steps").add_node("double", double)
    machine = FSM("around").add_state("steps", steps, initial=True, terminal=True)
    assert rewritten(machine).run(x=4) == 8


def test_registry_comes_before_modules_on_both_ways() -> None:
    dag = DAG("demo").add_node("double", double)
    data = dag.to_dict(registry={"twice": double})
    assert data["nodes"][0]["function"] == "twice"
    assert DAG.from_dict(data, registry={"twice": lambda x: x + x}).run(x="a") == "aa"
    path = dag.to_dict()
    assert DAG.from_dict(path, registry={f"{HERE}:double": lambda x: 0}).run(x=1) == 0


def test_methods_and_nodes_may_stand_in_a_registry() -> None:
    tools = Tools()
    dag = DAG("demo").add_node("method", tools.method).add_node("tools", tools)
    dag.add_node("node", decorated)
    registry = {"method": tools.method, "tools": tools, "node": decorated}
    data = dag.to_dict(registry)
    assert [node["function"] for node in data["nodes"]] == ["method", "tools", "node"]
    assert DAG.from_dict(data, registry=registry).run(x=1, outputs=["node"]) == {"node": 101}


def test_class_that_reads_is_the_class_that_is_made() -> None:
    class Mine(DAG):
        pass

    assert type(Mine.from_dict(workshop.to_dict(), allow=[HERE])) is Mine


def test_file_is_the_same_in_another_process(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    file.write_text(DAG("demo").add_node("mean", mean).to_json(), encoding="utf-8")
    code = (
        "import sys; from fast_dag import DAG\n"
        f"text = open({str(file)!r}).read()\n"
        "print(DAG.from_json(text, allow=['statistics']).run(data=[1, 2, 6]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG
    )
    assert done.stdout == "3\n"


@pytest.mark.needs("yaml")
def test_enum_tuple_and_text_beyond_ascii_are_written_as_plain_data() -> None:
    metadata = {"größe": ("klein", 1), "emoji": "🙂", "breaks": "a\n b\u2028\u2029\x85\r\ufeff\0"}
    metadata["half of a pair"] = "\ud83d"
    dag = DAG("größe", metadata=metadata)
    plain = {**metadata, "größe": ["klein", 1]}
    assert DAG.from_json(dag.to_json()).metadata == plain
    assert DAG.from_yaml(dag.to_yaml()).metadata == plain
    assert "größe" in dag.to_json()
    assert "größe" in dag.to_yaml()
    dag.to_json().encode()
    dag.to_yaml().encode()


class State(StrEnum):
    DRAFT = "draft"
    DONE = "done"


class OldState(str, Enum):  # noqa: UP042  users have such
    DRAFT = "draft"
    DONE = "done"


@pytest.mark.parametrize("states", [State, OldState])
@pytest.mark.parametrize("form", ["dict", "json", pytest.param("yaml", marks=NEEDS_YAML)])
def test_names_that_are_members_of_enums_are_written_as_their_values(
    states: Any, form: str
) -> None:
    fsm = FSM("paper", states.DRAFT, [states.DONE], metadata={states.DRAFT: states.DONE})
    fsm.add_state(states.DRAFT, draw).add_state(states.DONE, won)
    fsm.add_transition(states.DRAFT.value, states.DONE.value, event=states.DONE)
    written = getattr(fsm, f"to_{form}")()
    back = getattr(FSM, f"from_{form}")(written, allow=[HERE])
    assert (back.initial_state, back.terminal_states) == ("draft", ["done"])
    assert {type(name) for name in [*back.nodes, *back.terminal_states, *back.metadata]} == {str}
    assert [(each.source, each.target, each.event) for each in back.transitions] == [
        ("draft", "done", "done")
    ]


@NEEDS_YAML
def test_numbers_of_other_libraries_are_written_as_what_they_equal() -> None:
    np = pytest.importorskip("numpy")
    metadata = {"n": np.int64(3), "half": np.float32(0.5), "yes": np.bool_(True), "a": np.array(4)}
    dag = DAG("demo", metadata=metadata)
    dag.add_node("double", double, metadata=metadata, timeout=np.float64(2))
    plain = {"n": 3, "half": 0.5, "yes": True, "a": 4}
    for back in (DAG.from_json(dag.to_json(), allow=[HERE]), rewritten(dag)):
        assert back.metadata == back.nodes["double"].metadata == plain
        assert [type(each) for each in back.metadata.values()] == [int, float, bool, int]
    for unequal in (np.ma.masked, np.float32("nan"), np.datetime64("2020-01-01")):
        with pytest.raises(ValidationError, match=r"metadata\.x: "):
            DAG("demo", metadata={"x": unequal}).to_dict()


# What cannot be written.


class Colour(Enum):
    RED = "red"


class Broken(dict[str, int]):
    def items(self) -> Any:
        raise OSError("broken")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Colour.RED, "<Colour.RED: 'red'> is a Colour, which text files cannot hold"),
        (float("inf"), "inf is no number that text files can hold"),
        ({1: 2}, "the key 1 is no string"),
        pytest.param(10**5000, "the number has more digits than text files can hold", id="long"),
        (Broken(a=1), "a Broken cannot be read: OSError"),
    ],
)
def test_value_that_cannot_be_written_is_told_with_its_place(value: Any, words: str) -> None:
    dag = DAG("demo").add_node("double", double, metadata={"paint": [value]})
    expected = f"node 'double' of 'demo' cannot be written: metadata.paint[0]: {words}"
    for write in (dag.to_dict, dag.to_json, dag.to_yaml):
        with pytest.raises(InvalidNodeError, match=re.escape(expected)):
            write()


def local_function() -> Any:
    def inner(x: int) -> int:
        return x

    return inner


NAMELESS = {
    "a lambda": lambda x: x,
    "inside of a function": local_function(),
    "a partial": functools.partial(add, y=2),
    "a method of an object": Tools().method,
    "no function or class of a module": Tools(),
}


@pytest.mark.parametrize("kind", NAMELESS)
def test_function_without_a_place_is_an_error_that_names_node_and_remedy(kind: str) -> None:
    dag = DAG("demo").add_node("odd", NAMELESS[kind])
    with pytest.raises(InvalidNodeError) as caught:
        dag.to_dict()
    assert caught.value.node == "odd"
    for words in ("node 'odd' of 'demo'", kind, "registry={'name'"):
        assert words in str(caught.value)
    back = DAG.from_dict(dag.to_dict({"odd": NAMELESS[kind]}), registry={"odd": NAMELESS[kind]})
    assert back.run(x=3) == dag.run(x=3)


def test_everything_that_cannot_be_written_is_told_at_once() -> None:
    inner = DAG("inner").add_node("deep", lambda: 1)
    dag = DAG("demo", metadata={"when": {1, 2}}).add_node("a", lambda: 1).add_node("sub", inner)
    dag.add_node("b", double, metadata={"at": [object()]}, retry_on=lambda error: True)
    dag.set_node_hooks("b", cleanup=lambda node: None)
    dag.resource("db", lambda: None)
    with pytest.raises(ValidationError) as caught:
        dag.to_json()
    problems = [str(each) for each in caught.value.problems]
    for words in (
        "'demo' cannot be written: metadata.when",
        "node 'a' of 'demo'",
        "node 'deep' of 'inner'",
        "node 'b' of 'demo' cannot be written: metadata.at[0]",
        "the cleanup hook of node 'b'",
        "resource 'db' of 'demo'",
    ):
        assert any(words in each for each in problems), words


def test_nameless_parts_of_a_machine_are_told() -> None:
    fsm = FSM("game", "a").add_state("a", lambda: 1, terminal=True).add_state("b", double)
    fsm.add_transition("a", "b", lambda value: True).add_state_hook(lambda fsm, a, b, result: None)
    fsm._initial["b"] = None
    with pytest.raises(ValidationError) as caught:
        fsm.to_dict()
    text = str(caught.value)
    for words in (
        "state 'a' of 'game'",
        "the condition of 'a' -> 'b' of 'game'",
        "a state hook of 'game'",
        "several initial states",
    ):
        assert words in text


def test_function_of_the_program_that_runs_is_not_written() -> None:
    code = (
        "from fast_dag import DAG\n"
        "def f(): ...\n"
        "try:\n"
        "    DAG('demo').add_node('f', f).to_dict()\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG
    )
    assert "defined in the program that runs" in done.stdout


def test_nothing_of_a_run_or_of_code_is_in_a_file() -> None:
    dag = DAG("demo").add_node("double", double)
    before = dag.to_json()
    dag.run(x=1, context=Context(metadata={"user": "ada"}))
    assert dag.to_json() == before
    assert json.loads(before).keys() == {"fast_dag", "kind", "name", "nodes", "edges"}


# What a file may do.


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages `shop` and `shopping`, of which the second must never be imported."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "shop" / "steps.py").write_text(
        "import os, subprocess\n"
        "from os import system\n"
        "from pathlib import Path\n"
        "from shop.other import helper\n"
        "constant = 3\n"
        "def load(n=1): return n\n"
        "class Box:\n"
        "    @staticmethod\n"
        "    def pack(n): return [n]\n"
        "class MyPath(type(Path())): pass\n"
        "class MyDict(dict): pass\n"
        "def __getattr__(name): raise SystemExit('looked for ' + name)\n"
    )
    (tmp_path / "shop" / "other.py").write_text("def helper(): return 5\n")
    (tmp_path / "shopping.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] in ("shop", "shopping")]:
        del sys.modules[name]


def file_with(function: str) -> dict[str, Any]:
    node = {"name": "node", "function": function}
    return {"fast_dag": 1, "kind": "dag", "name": "demo", "nodes": [node]}


@pytest.mark.usefixtures("shop")
def test_allowed_modules_and_those_below_are_imported() -> None:
    assert DAG.from_dict(file_with("shop.steps:load"), allow=["shop.steps"]).run() == 1
    assert DAG.from_dict(file_with("shop.steps:Box.pack"), allow=["shop"]).run(n=1) == [1]
    assert DAG.from_dict(file_with("shop.steps:helper"), allow=["shop"]).run() == 5


REFUSED = [
    ("shop.steps:load", [], "allow= does not name 'shop.steps'"),
    ("shop.steps:load", ["shop.step"], "allow= does not name"),
    ("shop.steps:load", ["shop.steps.more"], "allow= does not name"),
    ("shopping:load", ["shop"], "allow= does not name 'shopping'"),
    ("shop:steps.load", ["shop.steps"], "allow= does not name 'shop'"),
    ("shop.steps:system", ["shop.steps"], "it is defined in 'posix'"),
    ("shop.steps:helper", ["shop.steps"], "it is defined in 'shop.other'"),
    ("shop.steps:os", ["shop"], "is no function"),
    ("shop.steps:os.system", ["shop"], "looks for 'system' in what is no class"),
    ("shop.steps:subprocess.run", ["shop"], "what is no class"),
    ("shop.steps:load.__globals__", ["shop"], "'__globals__' is Python's own"),
    ("shop.steps:Box.__init__", ["shop"], "'__init__' is Python's own"),
    ("shop.__main__:load", ["shop"], "'__main__' is Python's own"),
    ("shop.steps:MyPath.unlink", ["shop"], "it is defined in 'pathlib"),
    ("shop.steps:MyDict.fromkeys", ["shop"], "it is defined in None"),
    ("shop.steps:Path", ["shop"], "it is defined in 'pathlib"),
    ("shop.steps:constant", ["shop"], "is no function, but a int"),
    ("shop.steps:lod", ["shop"], "did you mean 'load'"),
    ("shop.broken:load", ["shop"], "importing 'shop.broken' failed: ZeroDivisionError"),
    ("shop.missing:load", ["shop"], "importing 'shop.missing' failed: ModuleNotFoundError"),
    ("shop..steps:load", ["shop"], "is not 'module:name'"),
    (".steps:load", [""], "allow is a list of modules"),
    (".steps:load", ["shop"], "is not 'module:name'"),
    ("shop.steps:", ["shop"], "is not 'module:name'"),
    ("builtins:eval", ["shop"], "allow= does not name 'builtins'"),
    ("load", ["shop"], "is no name in registry=: there is none"),
]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("function", "allow", "words"), REFUSED)
def test_reference_is_refused(function: str, allow: list[str], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DAG.from_dict(file_with(function), allow=allow)
    assert words in str(caught.value)
    assert "shopping" not in sys.modules


@pytest.mark.usefixtures("shop")
def test_single_function_may_be_allowed_wherever_it_is_defined() -> None:
    data = file_with("shop.steps:helper")
    assert DAG.from_dict(data, allow=["shop.steps:helper"]).run() == 5
    with pytest.raises(ValidationError, match="allow= does not name"):
        DAG.from_dict(file_with("shop.steps:load"), allow=["shop.steps:helper"])


@pytest.mark.usefixtures("shop")
def test_nothing_is_imported_without_an_allow_list() -> None:
    data = file_with("shop.steps:load")
    data["nodes"][0]["retry_on"] = "shop.steps:Box"
    with pytest.raises(ValidationError, match="allow"):
        DAG.from_dict(data)
    with pytest.raises(ValidationError, match="allow"):
        DAG.from_dict(data, registry={"shop.steps:load": double})
    assert not any(name.startswith("shop") for name in sys.modules)
    builtin = file_with("mean")
    builtin["nodes"][0]["retry_on"] = ["ValueError", "OSError"]
    back = DAG.from_dict(builtin, registry={"mean": mean})
    assert back.nodes["node"].options["retry_on"] == (ValueError, OSError)


def test_builtin_that_is_no_exception_is_no_retry_on() -> None:
    data = file_with("mean")
    data["nodes"][0]["retry_on"] = "eval"
    with pytest.raises(ValidationError, match=r"nodes\[0\].retry_on: 'eval' is no name"):
        DAG.from_dict(data, registry={"mean": mean})


@pytest.mark.needs("yaml")
def test_pickle_and_yaml_objects_are_no_files() -> None:
    with pytest.raises(ValidationError, match="no JSON"):
        DAG.from_json(pickle.dumps(workshop))
    with pytest.raises(ValidationError, match="no YAML"):
        DAG.from_yaml("fast_dag: !!python/object/apply:os.system ['true']")


# What is wrong with a file.

GOOD: dict[str, Any] = {
    "fast_dag": 1,
    "kind": "dag",
    "name": "demo",
    "nodes": [
        {"name": "a", "function": "double"},
        {"name": "check", "function": "is_big", "type": "condition"},
        {"name": "route", "function": "size", "type": "select"},
        {"name": "last", "function": "add", "cache": {}, "hooks": {}},
    ],
    "edges": [
        {"source": "a", "target": "check"},
        {"source": "a", "target": "route"},
        {"source": "check", "target": "last", "branch": True},
    ],
}
MACHINE: dict[str, Any] = {
    "fast_dag": 1,
    "kind": "fsm",
    "name": "game",
    "initial_state": "draw",
    "terminal_states": ["won"],
    "states": [{"name": "draw", "function": "draw"}, {"name": "won", "function": "won"}],
    "transitions": [{"source": "draw", "target": "won", "condition": "over_two"}],
}
REGISTRY = {
    each.__name__: each for each in (double, is_big, size, add, draw, won, over_two, of_four)
}


def changed(data: Any, path: list[Any], value: Any) -> Any:
    """A copy of the data with another value at a place."""
    if not path:
        return value
    key, *rest = path
    copy = list(data) if isinstance(data, list) else dict(data)
    copy[key] = changed(copy[key] if rest or not isinstance(copy, dict) else None, rest, value)
    return copy


N3 = ["nodes", 3]
WRONG = [
    ([], [], "no mapping"),
    ([], "text", "no mapping"),
    (["fast_dag"], None, "fast_dag: the file has no version"),
    (["fast_dag"], 2, "fast_dag: the file has the version 2; this release reads version 1"),
    (["fast_dag"], True, "fast_dag: the file has the version True"),
    (["fast_dag"], "1", "fast_dag: the file has the version '1'"),
    (["kind"], "tree", "kind: it is one of 'dag', 'fsm', not 'tree'"),
    (["kind"], None, "kind: it is one of"),
    (["kind"], "fsm", "kind: the file has the fsm 'demo'; read it with FSM"),
    (["name"], None, "'name' is missing"),
    (["name"], "", "a workflow's name is a non-empty string"),
    (["name"], 3, "name: it is a string, not 3"),
    (["nods"], [], "nods: there is no such key (did you mean 'nodes'?)"),
    (["states"], [], "states: there is no such key"),
    (["nodes"], {}, "nodes: it is a list, not {}"),
    (["nodes", 1], "b", "nodes[1]: 'b' is no mapping"),
    (["metadata"], {"a": [1, {2}]}, "metadata.a[1]: {2} is a set"),
    (["metadata"], {"a": float("nan")}, "metadata.a: nan is no number"),
    (["resources"], {"db": 3}, "resources.db: a resource is a name"),
    (["resources"], {"d b": "double"}, "a resource's name is that of a parameter"),
    (["default_hooks"], {"self": "double"}, "default_hooks.self: there is no such key"),
    ([*N3, "retry"], "3", "nodes[3].retry: it is a count of further attempts (0, 1, ...), not '3'"),
    (
        [*N3, "retry"],
        True,
        "nodes[3].retry: it is a count of further attempts (0, 1, ...), not True",
    ),
    ([*N3, "retry"], -1, "nodes[3].retry: it is a count of further attempts"),
    ([*N3, "timeout"], "1s", "nodes[3].timeout: it is a number of seconds above 0"),
    ([*N3, "wait"], 1, "nodes[3].wait: it is True or False, not 1"),
    ([*N3, "inputs"], "ab", "nodes[3].inputs: it is a list of names, not 'ab'"),
    ([*N3, "inputs"], [1], "nodes[3].inputs: it is a list of names"),
    ([*N3, "inputs"], ["a", "b", "c"], "nodes[3]: inputs=['a', 'b', 'c'] does not fit"),
    ([*N3, "run_in"], "space", "nodes[3].run_in: it is 'thread', 'process' or"),
    ([*N3, "type"], "loop", "nodes[3]: the type of node 'last' is one of"),
    ([*N3, "name"], "a", "nodes[3]: 'demo' already has a node 'a'"),
    ([*N3, "name"], "a.b", "nodes[3]: the node name 'a.b' has a '.'"),
    ([*N3, "function"], None, "nodes[3]: a node has either 'function' or 'workflow'"),
    ([*N3, "workflow"], {}, "nodes[3]: a node has either 'function' or 'workflow'"),
    ([*N3, "function"], "ad", "nodes[3].function: 'ad' is no name in registry=: it has"),
    ([*N3, "retrys"], 1, "nodes[3].retrys: there is no such key (did you mean 'retry'"),
    ([*N3, "a b"], 1, "nodes[3]['a b']: there is no such key"),
    ([*N3, 7], 1, "nodes[3]: the key 7 is no string"),
    ([*N3, "hooks", "before"], "add", "nodes[3].hooks.before: there is no such key"),
    ([*N3, "hooks", "cleanup"], 3, "nodes[3].hooks.cleanup: it is a string, not 3"),
    ([*N3, "hooks", "cleanup"], "x", "nodes[3].hooks.cleanup: 'x' is no name"),
    ([*N3, "error_handler"], "x", "nodes[3].error_handler: 'x' is no name"),
    ([*N3, "cache", "tll"], 3, "nodes[3].cache.tll: there is no such key"),
    ([*N3, "cache", "ttl"], -3, "nodes[3].cache.ttl: it is a number of seconds"),
    ([*N3, "cache", "backend"], "x", "nodes[3].cache.backend: 'x' is no name in registry="),
    (["edges", 0], {"source": "a"}, "edges[0]: 'target' is missing"),
    (["edges", 0, "source"], "b", "edges[0]: 'demo' has no node 'b'"),
    (["edges", 0, "branch"], True, "edges[0].branch: 'a' is a node and has no branches"),
    (["edges", 2, "branch"], "yes", "edges[2].branch: that of a condition is true or false"),
    (["edges", 2, "branch"], 3, "edges[2].branch: it is a branch's name, true or false"),
    (["edges", 0, "input"], True, "edges[0].input: it is a parameter's name, or false"),
    (["edges", 0, "input"], "z", "edges[0]: 'check' has no parameter 'z'"),
    (["edges", 0, "output"], "", "edges[0]: output='' of the edge"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG)
def test_wrong_file_is_told_with_its_place(path: list[Any], value: Any, words: str) -> None:
    DAG.from_dict(GOOD, registry=REGISTRY)
    with pytest.raises(ValidationError) as caught:
        DAG.from_dict(changed(GOOD, path, value), registry=REGISTRY)
    assert words in str(caught.value)
    place, colon, _ = words.partition(": ")
    if colon and "[" in place:
        assert caught.value.place == place


WRONG_MACHINES = [
    (["kind"], "dag", "kind: the file has the dag 'game'; read it with DAG"),
    (["max_cycles"], 0, "max_cycles is a count of at least 1"),
    (["on_max_cycles"], "wait", "on_max_cycles is 'raise' or 'stop'"),
    (["keep_history"], 1.5, "keep_history: it is a whole number"),
    (["terminal_states"], "won", "terminal_states: it is a list of strings"),
    (["nodes"], [], "nodes: there is no such key"),
    (["states", 0, "function"], "x", "states[0].function: 'x' is no name"),
    (["transitions", 0, "condition"], "x", "transitions[0].condition: 'x' is no name"),
    (["transitions", 0, "condition"], "of_four", "transitions[0]: the condition of a transition"),
    (["transitions", 0, "event"], "", "transitions[0]: an event is named by a non-empty"),
    (["transitions", 0, "if"], "", "transitions[0].if: there is no such key"),
    (["state_hooks"], ["x"], "state_hooks[0]: 'x' is no name"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG_MACHINES)
def test_wrong_machine_is_told_with_its_place(path: list[Any], value: Any, words: str) -> None:
    assert FSM.from_dict(MACHINE, registry=REGISTRY).run(n=2) == "won by 3"
    with pytest.raises(ValidationError) as caught:
        FSM.from_dict(changed(MACHINE, path, value), registry=REGISTRY)
    assert words in str(caught.value)


def test_everything_wrong_with_a_file_is_told_at_once() -> None:
    inner = {"kind": "dag", "name": "inner", "nodes": [{"name": "deep", "function": "nowhere"}]}
    nodes = [
        {"name": "a", "function": "x"},
        {"name": "b", "function": "double", "retry": "many"},
        {"name": "sub", "workflow": inner},
    ]
    data = {"fast_dag": 1, "kind": "dag", "name": "demo", "nodes": nodes, "edges": [{}]}
    with pytest.raises(ValidationError) as caught:
        DAG.from_dict(data, registry=REGISTRY)
    assert [each.place for each in caught.value.problems] == [
        "nodes[0].function",
        "nodes[1].retry",
        "nodes[2].workflow.nodes[0].function",
    ]


def test_null_is_like_no_key() -> None:
    data = changed(changed(GOOD, [*N3, "timeout"], None), ["edges", 0, "input"], None)
    assert DAG.from_dict(data, registry=REGISTRY).to_dict(REGISTRY) == DAG.from_dict(
        GOOD, registry=REGISTRY
    ).to_dict(REGISTRY)


def test_data_that_was_read_is_not_shared_with_the_workflow() -> None:
    data = changed(GOOD, ["metadata"], {"tags": ["a"]})
    dag = DAG.from_dict(data, registry=REGISTRY)
    dag.metadata["tags"].append("b")
    assert data["metadata"] == {"tags": ["a"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON: Expecting value: line 1 column 1"),
        ("{'a': 1}", "no JSON"),
        ('{"name": NaN}', "NaN is no number"),
        ('{"name": "a", "name": "b"}', "the key 'name' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 10_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
    ],
)
def test_text_that_is_no_json_is_told(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DAG.from_json(text)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.needs("yaml")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "None is no mapping"),
        ("a: b: c", "no YAML"),
        ("when: 2020-13-45", "no YAML"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        (BOMB, "aliases are not read"),
        ("[" * 2_000, "nested too deeply"),
        ("\x00", "no YAML"),
    ],
)
def test_text_that_is_no_yaml_is_told(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DAG.from_yaml(text)


@pytest.mark.needs("yaml")
def test_yaml_as_people_write_it_is_read() -> None:
    text = """
    fast_dag: 1
    kind: dag
    name: shop
    nodes:
      - {name: start, function: double}
      - name: check
        function: is_big
        type: condition
      - name: last
        function: double
        timeout: 2
    edges:
      - {source: start, target: check}
      - {source: check, target: last, branch: yes}
    """
    dag = DAG.from_yaml(text, registry=REGISTRY)
    assert dag.run(x=10) == 40
    assert dag.nodes["last"].timeout == 2


def test_missing_yaml_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"YAML files need yaml.*\[yaml\]"):
        workshop.to_yaml()


@pytest.mark.parametrize("allow", ["shop", [""], [3]])
def test_allow_list_that_is_none_is_told(allow: Any) -> None:
    with pytest.raises(ValidationError, match="allow is a list of modules"):
        DAG.from_dict(GOOD, allow=allow)


@pytest.mark.parametrize("registry", [[double], {3: double}, {"": double}])
def test_registry_that_is_none_is_told(registry: Any) -> None:
    with pytest.raises(ValidationError, match="registry"):
        DAG.from_dict(GOOD, registry=registry)
    with pytest.raises(ValidationError, match="registry"):
        workshop.to_dict(registry)


def test_deep_nesting_is_told() -> None:
    data: dict[str, Any] = {"kind": "dag", "name": "innermost"}
    for _ in range(500):
        data = {"kind": "dag", "name": "outer", "nodes": [{"name": "sub", "workflow": data}]}
    with pytest.raises(ValidationError, match="nested too deeply"):
        DAG.from_dict({"fast_dag": 1, **data})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def mutilated(draw: st.DrawFn, data: Any) -> Any:
    """The data with something else somewhere in it."""
    if isinstance(data, (dict, list)) and data and draw(st.integers(0, 5)):
        keys = list(data) if isinstance(data, dict) else range(len(data))
        key = draw(st.sampled_from(list(keys)))
        return changed(data, [key], draw(mutilated(data[key])))
    return draw(ANYTHING)


@tries(100)
@given(st.data())
def test_no_file_raises_anything_but_validation_errors(data: st.DataObject) -> None:
    for cls, good in ((DAG, GOOD), (FSM, MACHINE)):
        with suppress(ValidationError):
            cls.from_dict(data.draw(mutilated(good)), registry=REGISTRY)
