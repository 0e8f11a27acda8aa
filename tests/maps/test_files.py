"""Files, copies and checks of workflows with maps."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, InvalidNodeError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = __name__


def square(x: int) -> int:
    return x * x


def weigh(x: int, by: int, plus: int = 0) -> int:
    return x * by + plus


def numbers() -> list[int]:
    return [1, 2, 3]


def text_of(x: int) -> str:
    return f"item {x}"


async def count(results: Any) -> int:
    total = 0
    async for _ in results:
        total += 1
    return total


def small(x: int) -> int:
    return x + 1


def mapped() -> DAG:
    """Every option of maps, and a mapped workflow."""
    inner = DAG("inner").add_node("small", small).add_node("square", square)
    inner.connect("small", "square")
    dag = DAG("mapped").add_node("numbers", numbers)
    dag.add_node("squares", square, over="x", keys=text_of, max_concurrency=3, retry=1)
    dag.add_node("all", square, over="x", into=sum, on_error="drop", min_success=0.5, ordered=False)
    dag.add_node("sides", weigh, over=["x", "by"], on_error="keep")
    dag.add_node("grid", weigh, product=["x", "by"], into=max)
    dag.add_node("counted", square, over="x", into=count)
    dag.add_node("inner", inner, over="x")
    for name in ("squares", "all", "counted", "inner"):
        dag.connect("numbers", name)
    for name in ("sides", "grid"):
        dag.connect("numbers", name, input="x").connect("numbers", name, input="by")
    return dag


EXPECTED = {
    "numbers": [1, 2, 3],
    "squares": {"item 1": 1, "item 2": 4, "item 3": 9},
    "all": 14,
    "sides": [1, 4, 9],
    "grid": 9,
    "counted": 3,
    "inner": [4, 9, 16],
}


def by_dict(dag: DAG) -> DAG:
    return DAG.from_dict(dag.to_dict(), allow=[HERE])


def by_json(dag: DAG) -> DAG:
    return DAG.from_json(dag.to_json(), allow=[HERE])


def by_yaml(dag: DAG) -> DAG:
    return DAG.from_yaml(dag.to_yaml(), allow=[HERE])


def by_pickle(dag: DAG) -> DAG:
    return pickle.loads(pickle.dumps(dag))  # type: ignore[no-any-return]


WAYS = [
    by_dict,
    by_json,
    pytest.param(by_yaml, marks=pytest.mark.needs("yaml")),
    by_pickle,
    copy.deepcopy,
    DAG.clone,
]


@pytest.mark.parametrize("way", WAYS)
def test_map_comes_back_with_its_options(way: Callable[[DAG], DAG]) -> None:
    dag = mapped()
    again = way(dag)
    assert [each.map for each in again.nodes.values()] == [each.map for each in dag.nodes.values()]
    assert again.execute().results == EXPECTED


def test_file_has_options_as_data_and_functions_by_reference() -> None:
    nodes = {each["name"]: each for each in mapped().to_dict()["nodes"]}
    assert nodes["squares"] == {
        "name": "squares",
        "function": f"{HERE}:square",
        "retry": 1,
        "over": ["x"],
        "keys": f"{HERE}:text_of",
        "max_concurrency": 3,
    }
    assert nodes["all"] == {
        "name": "all",
        "function": f"{HERE}:square",
        "over": ["x"],
        "into": "builtins:sum",
        "ordered": False,
        "on_error": "drop",
        "min_success": 0.5,
    }
    assert nodes["grid"]["product"] == ["x", "by"]
    assert "over" not in nodes["grid"]


def test_over_of_a_file_may_be_one_name() -> None:
    data = mapped().to_dict()
    data["nodes"][1]["over"] = "x"
    assert DAG.from_dict(data, allow=[HERE]).nodes["squares"].map.walked == ("x",)  # type: ignore[union-attr]


def test_functions_go_by_names_of_a_registry() -> None:
    def total(results: Iterator[int]) -> int:
        return sum(results)

    dag = DAG("d").add_node("f", lambda x: x, over="x", into=total)
    registry = {"same": dag.nodes["f"].func, "total": total}
    data = dag.to_dict(registry)
    assert data["nodes"][0]["into"] == "total"
    assert DAG.from_dict(data, registry=registry).run(x=[1, 2]) == 3


@pytest.mark.parametrize("option", ["keys", "into"])
def test_lambda_cannot_be_written(option: str) -> None:
    options: dict[str, Any] = {option: lambda x: x}
    dag = DAG("d").add_node("f", square, over="x", **options)
    told = rf"node 'f' of 'd' cannot be written: {option}: .* it is a lambda; give it a name in reg"
    with pytest.raises(InvalidNodeError, match=told) as caught:
        dag.to_dict()
    assert caught.value.node == "f"


def test_file_names_no_other_builtin_unless_that_is_allowed() -> None:
    data = mapped().to_dict()
    data["nodes"][2]["into"] = "builtins:exec"
    with pytest.raises(ValidationError, match="allow= does not name 'builtins'") as caught:
        DAG.from_dict(data, allow=[HERE])
    assert caught.value.place == "nodes[2].into"
    data["nodes"][2]["into"] = "sum"
    with pytest.raises(ValidationError, match="'sum' is no name in registry="):
        DAG.from_dict(data, allow=[HERE])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"over": []}, "nodes[2].over: it is the name of a parameter, or a list of different"),
        ({"over": "y"}, "nodes[2]: node 'all': over= names 'y', which is none of its parameters"),
        ({"on_error": "skip"}, "nodes[2].on_error: it is 'fail', 'keep' or 'drop', not 'skip'"),
        ({"over": None}, "nodes[2]: node 'all': into= is for maps"),
        ({"type": "condition"}, "nodes[2]: node 'all': over= is for @dag.map; map a workflow"),
    ],
)
def test_wrong_map_of_a_file_is_told_with_its_place(wrong: dict[str, Any], message: str) -> None:
    data = mapped().to_dict()
    data["nodes"][2] |= wrong
    with pytest.raises(ValidationError) as caught:
        DAG.from_dict(data, allow=[HERE])
    assert message in str(caught.value)


def test_types_of_walked_parameters_are_not_compared() -> None:
    def load() -> str:
        return "text"

    def words_of(text: int, longest: int) -> str:
        return str(text)[:longest]

    def tell(found: int) -> int:
        return found

    dag = DAG("typed").add_node("load", load).add_node("limit", load)
    dag.add_node("words_of", words_of, over="text").add_node("tell", tell)
    dag.connect("load", "words_of", input="text").connect("words_of", "tell")
    assert dag.validate(check_types=True, allow_disconnected=True) == []
    dag.connect("limit", "words_of", input="longest")
    (problem,) = dag.validate(check_types=True)
    assert "'longest' of 'words_of' takes int" in str(problem)


# What takes no `over`.


@pytest.mark.parametrize("kind", ["condition", "select", "any", "all"])
def test_deciders_and_joins_map_nothing(kind: str) -> None:
    dag = DAG("d")
    told = r"node 'square': over= is for @dag\.map; map a workflow that this one is a part of"
    with pytest.raises(InvalidNodeError, match=told):
        getattr(dag, kind)(square, over="x")
    with pytest.raises(InvalidNodeError, match=told):
        dag.add_node("square", square, type=kind, over="x")
    assert not dag.nodes


def test_states_map_nothing() -> None:
    fsm = FSM("m")
    told = "state 'square' cannot walk over 'x', .* map a workflow that this one is a part of"
    with pytest.raises(InvalidNodeError, match=told):
        fsm.add_state("square", square, over="x")  # type: ignore[call-arg]
    with pytest.raises(InvalidNodeError, match=told):
        fsm.cached_state(square, product=["x"])  # type: ignore[call-overload]
    assert not fsm.nodes


def test_state_of_a_file_maps_nothing() -> None:
    data = FSM("m").add_state("square", square, initial=True, terminal=True).to_dict()
    data["states"][0]["over"] = "x"
    with pytest.raises(ValidationError, match=r"states\[0\]: state 'square' cannot walk over 'x'"):
        FSM.from_dict(data, allow=[HERE])


def test_replacing_a_map_says_over_again() -> None:
    dag = DAG("d").add_node("f", square, over="x")
    with pytest.raises(InvalidNodeError, match="say over= again, or over=None"):
        dag.replace_node("f", small)
    assert dag.run(x=[3]) == [9]
    assert dag.replace_node("f", small, over="x").run(x=[3]) == [4]
    other = DAG("other").add_node("g", square, product=["x"])
    assert dag.replace_node("f", other.nodes["g"]).run(x=[3]) == [9]
    assert dag.replace_node("f", small, over=None).run(x=3) == 4
