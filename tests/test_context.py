"""The Context by itself."""

from __future__ import annotations

import copy
import json
from collections import UserDict
from typing import Any

import pytest

from fast_dag import DAG, ConditionalReturn, Context, FSMContext, SelectReturn, ValidationError


def test_new_context_is_empty() -> None:
    context = Context()
    assert (context.results, context.metadata, context.metrics) == ({}, {}, {})


def test_contexts_share_nothing() -> None:
    one, two = Context(), Context()
    one.set("a", 1)
    one.metadata["b"] = 2
    one.metrics["c"] = 3
    assert two.to_dict() == {"results": {}, "metadata": {}, "metrics": {}}


def test_given_dicts_are_used_themselves() -> None:
    results, metadata, metrics = {"a": 1}, {"b": 2}, {"c": 3}
    context = Context(results, metadata, metrics)
    assert context.results is results
    assert context.metadata is metadata
    assert context.metrics is metrics


def test_get_set_in_and_brackets_work_on_the_results() -> None:
    context = Context()
    context.set("a", 1)
    context["b"] = None
    assert (context["a"], context.get("a"), "a" in context, "c" in context) == (1, 1, True, False)
    assert context.get("b", default="default") is None
    assert context.get("c") is None
    assert context.get("c", default={}) == {}
    assert context.results == {"a": 1, "b": None}
    with pytest.raises(KeyError):
        context["c"]


def test_to_dict_and_back() -> None:
    context = Context({"a": [1]}, {"b": 2}, {"c": 3})
    data = context.to_dict()
    assert data == {"results": {"a": [1]}, "metadata": {"b": 2}, "metrics": {"c": 3}}
    assert Context.from_dict(data).to_dict() == data
    assert Context.from_dict(json.loads(json.dumps(data))).to_dict() == data


def test_to_dict_and_from_dict_copy_the_dicts() -> None:
    context = Context({"a": 1})
    data = context.to_dict()
    data["results"]["b"] = 2
    twin = Context.from_dict(data)
    twin.set("c", 3)
    assert context.results == {"a": 1}
    assert data["results"] == {"a": 1, "b": 2}


def test_to_dict_of_a_run_is_plain_data() -> None:
    dag = DAG("d").add_node("a", lambda: [1])
    dag.run()
    data = json.loads(json.dumps(dag.context.to_dict()))
    assert data["results"] == {"a": [1]}
    assert data["metadata"]["execution_status"] == "completed"
    assert data["metrics"]["nodes_executed"] == 1


@pytest.mark.parametrize(
    "returned", [ConditionalReturn(0, value={"a": 1}), SelectReturn(["a", "b"], value=None)]
)
def test_to_dict_and_back_with_what_deciders_returned(returned: object) -> None:
    data = json.loads(json.dumps(Context({"decider": returned}).to_dict()))
    assert Context.from_dict(data).results == {"decider": returned}


def test_a_decision_that_was_kept_as_json_is_the_same_one() -> None:
    dag = DAG("d").add_node("then", lambda x: ("then", x)).add_node("other", lambda x: ("other", x))
    dag.add_node("check", lambda n: ConditionalReturn(n > 0, value=10 * n), type="condition")
    check = dag.nodes["check"]
    dag.connect(check.on_true, "then").connect(check.on_false, "other")
    assert dag.run(n=-1) == ("other", -10)
    kept = json.dumps(dag.context.to_dict(), default=str)
    context = Context.from_dict(json.loads(kept))
    assert dag.run_from(["then", "other"], context=context) == ("other", -10)


def test_to_dict_inside_of_a_node_can_be_saved() -> None:
    def save(a, context: Context):
        return json.dumps({"data": a, "context": context.to_dict()})

    dag = DAG("d").add_node("a", lambda: 1).add_node("save", save).connect("a", "save")
    saved = json.loads(dag.run())
    assert saved["context"]["results"] == {"a": 1}
    assert saved["context"]["metadata"]["execution_status"] == "running"


def test_from_dict_may_lack_parts() -> None:
    assert Context.from_dict({}).to_dict() == Context().to_dict()
    assert Context.from_dict({"metadata": {"a": 1}}).metadata == {"a": 1}


def test_from_dict_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="'result'"):
        Context.from_dict({"result": {}})


@pytest.mark.parametrize("kind", [Context, FSMContext])
@pytest.mark.parametrize("name", ["results", "metadata", "metrics"])
@pytest.mark.parametrize("given", [5, "text", [("a", 1)]])
def test_what_is_no_dictionary_is_refused(kind: Any, name: str, given: object) -> None:
    for make in (lambda: kind(**{name: given}), lambda: kind.from_dict({name: given})):
        with pytest.raises(ValidationError) as caught:
            make()
        assert str(caught.value) == f"{name} of a Context is a dictionary, not {given!r}"


@pytest.mark.parametrize("kind", [Context, FSMContext])
def test_from_dict_refuses_what_is_no_mapping(kind: Any) -> None:
    with pytest.raises(ValidationError, match=r"Context.from_dict takes a mapping, not 5"):
        kind.from_dict(5)


def test_history_that_is_no_list_is_refused() -> None:
    for make in (lambda: FSMContext(state_history=5), lambda: FSMContext(state_history="on")):
        with pytest.raises(ValidationError, match=r"state_history is a list of states, not "):
            make()


def test_a_mapping_that_can_be_changed_does() -> None:
    context = Context(metadata=UserDict(user="ada"))
    DAG("d").add_node("f", lambda context: context.metadata["user"]).run(context=context)
    assert context["f"] == "ada"


def test_metrics_of_ones_own_stay() -> None:
    context = Context(metrics={"mine": 1})
    DAG("d").add_node("a", lambda: 1).run(context=context)
    context.metrics["more"] = 2
    assert context.metrics["mine"] == 1
    assert context.metrics["more"] == 2
    assert context.metrics["nodes_executed"] == 1


def test_metrics_inside_of_a_node_are_those_so_far() -> None:
    def look(a, context: Context):
        return context.metrics["execution_order"], context.metrics["nodes_executed"]

    dag = DAG("d").add_node("a", lambda: 1).add_node("look", look).connect("a", "look")
    assert dag.run() == (["a"], 1)


def test_repr_names_results_and_shows_metadata() -> None:
    assert repr(Context({"a": object()}, {"b": 2})) == "Context(results=['a'], metadata={'b': 2})"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_serve_runs_of_their_own(make) -> None:
    context = Context({"a": 1}, {"b": 2})
    twin = make(context)
    assert twin.to_dict() == context.to_dict()
    DAG("d").add_node("c", lambda: 3).run(context=twin)
    assert "c" not in context


def test_subclass_is_the_context_of_its_run() -> None:
    class Ours(Context):
        pass

    ours = Ours()
    assert DAG("d").add_node("a", lambda context: context).run(context=ours) is ours
