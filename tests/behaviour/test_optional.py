"""Edges that may end dead: the node below runs all the same."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from fast_dag import DAG, Node, ValidationError
from fast_dag.errors import MissingResultError
from tests.behaviour.support import boom, double


def give(value: Any) -> Any:
    return lambda: value


def takes(main: Any = "no main", extra: Any = "no extra") -> Any:
    return main, extra


def main_and_extra(main: Any, extra: Any) -> DAG:
    dag = DAG("demo").add_node("main", main).add_node("extra", extra).add_node("end", takes)
    return dag.connect("main", "end").connect("extra", "end", optional=True)


def after(run: Any, dag: DAG, **options: Any) -> Any:
    return run(dag, error_strategy="continue", outputs=["end"], **options).get("end", "skipped")


def one() -> int:
    return 1


def test_value_of_an_optional_edge_that_is_live_flows(run: Any) -> None:
    assert after(run, main_and_extra(one, one)) == (1, 1)


def test_optional_edge_of_a_failure_gives_the_default(run: Any) -> None:
    assert after(run, main_and_extra(one, boom)) == (1, "no extra")


def test_required_edge_of_a_failure_skips(run: Any) -> None:
    assert after(run, main_and_extra(boom, one)) == "skipped"


def test_parameter_without_a_default_gets_none(run: Any) -> None:
    dag = DAG("demo").add_node("bad", boom).add_node("end", lambda x: [x])
    assert after(run, dag.connect("bad", "end", optional=True)) == [None]


def test_optional_edge_of_a_skipped_node_gives_the_default(run: Any) -> None:
    dag = DAG("demo").add_node("bad", boom).add_node("below", double).add_node("end", takes)
    dag.connect("bad", "below").connect("below", "end", input="extra", optional=True)
    assert after(run, dag) == ("no main", "no extra")


@pytest.mark.parametrize(("chosen", "value"), [(True, "way"), (False, "no extra")])
def test_optional_edge_of_a_branch_gives_the_default_where_another_is_taken(
    run: Any, chosen: bool, value: str
) -> None:
    dag = DAG("demo")
    check = dag.condition(lambda ok: ok, name="check")
    dag.add_node("yes", lambda ok: "way").add_node("end", takes)
    check.on_true >> dag.nodes["yes"]
    dag.connect("yes", "end", input="extra", optional=True)
    assert dag.validate() == []
    assert run(dag, ok=chosen, outputs=["end"]) == {"end": ("no main", value)}


def test_branches_that_exclude_each_other_may_be_optional(run: Any) -> None:
    dag = DAG("demo")
    check = dag.condition(lambda ok: ok, name="check")
    dag.add_node("yes", lambda ok: "yes").add_node("no", lambda ok: "no").add_node("end", takes)
    check.on_true >> dag.nodes["yes"]
    check.on_false >> dag.nodes["no"]
    dag.connect("yes", "end", optional=True).connect("no", "end", optional=True)
    assert run(dag, ok=True, outputs=["end"]) == {"end": ("yes", "no extra")}
    assert run(dag, ok=False, outputs=["end"]) == {"end": ("no main", "no")}


def test_node_of_optional_edges_only_runs_whatever_becomes_of_them(run: Any) -> None:
    dag = DAG("demo").add_node("bad", boom).add_node("good", one).add_node("end", give("always"))
    dag.nodes["end"].after(dag.nodes["bad"], dag.nodes["good"], optional=True)
    assert after(run, dag) == "always"


def test_value_is_that_of_the_last_sink_where_an_optional_edge_lets_another_start_early(
    run: Any,
) -> None:
    dag = DAG("demo").add_node("bad", boom).add_node("early", give("early"))
    dag.add_node("last", give("last")).add_node("skipped", lambda x: x)
    dag.connect("bad", "skipped").connect("skipped", "early", optional=True)
    assert run(dag, error_strategy="continue") == "last"


def test_failure_still_stops_a_run_that_fails_fast(run: Any) -> None:
    dag = main_and_extra(one, boom)
    with pytest.raises(Exception, match="no luck"):
        run(dag)
    assert dag.last_run is not None
    assert dag.last_run.statuses["end"] == "not_run"


def test_collecting_node_leaves_the_key_out(run: Any) -> None:
    dag = DAG("demo").add_node("a", one).add_node("b", boom)
    dag.add_node("end", lambda parts: parts, type="all")
    dag.connect("a", "end").connect("b", "end", optional=True)
    assert after(run, dag) == {"a": 1}


def test_default_of_a_nested_workflow_stands(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x=5: x)
    dag = DAG("demo").add_node("bad", boom).add_node("end", inner)
    assert after(run, dag.connect("bad", "end", optional=True)) == 5


def test_rest_of_positions_and_keywords_gets_none(run: Any) -> None:
    dag = DAG("demo").add_node("a", one).add_node("b", boom)
    dag.add_node("end", lambda *args, **kwargs: (args, kwargs))
    dag.connect("a", "end").connect("b", "end", optional=True)
    dag.connect("b", "end", input="named", optional=True)
    assert after(run, dag) == ((1, None), {"named": None})


def test_input_of_the_run_does_not_stand_in(run: Any) -> None:
    dag = main_and_extra(one, boom).add_node("other", lambda extra: extra)
    assert after(run, dag.connect("main", "other", input=False), extra=3) == (1, "no extra")


def test_part_that_is_missing_of_a_live_optional_edge_is_an_error() -> None:
    dag = DAG("demo").add_node("a", give({"k": 1})).add_node("end", takes)
    dag.connect("a", "end", output="q", optional=True)
    run = dag.execute()
    assert isinstance(run.errors["end"], MissingResultError)


def test_run_from_takes_the_default_where_nothing_is_known() -> None:
    dag = main_and_extra(one, boom)
    failed = dag.execute(error_strategy="continue")
    assert failed["end"] == (1, "no extra")
    assert dag.run_from("end", run=failed) == (1, "no extra")


def test_edge_said_again_becomes_optional_and_required_again() -> None:
    dag = DAG("demo").add_node("a", one).add_node("b", takes).connect("a", "b")
    twin = dag.clone()
    a, b = dag.nodes.values()
    dag.connect("a", "b", optional=True)
    assert [edge.optional for edge in dag.graph.edges()] == [True]
    assert [edge.optional for edge in twin.graph.edges()] == [False]
    assert [edge.optional for edge in dag.clone().graph.edges()] == [True]
    assert [edge.optional for edge in pickle.loads(pickle.dumps(dag)).graph.edges()] == [True]
    a >> b
    assert [edge.optional for edge in dag.graph.edges()] == [False]


def test_optional_edge_is_written_and_read() -> None:
    functions = {"one": one, "takes": takes}
    dag = DAG("demo").add_node("a", one).add_node("b", takes).connect("a", "b", optional=True)
    data = dag.to_dict(functions)
    assert data["edges"] == [{"source": "a", "target": "b", "input": "main", "optional": True}]
    assert DAG.from_dict(data, registry=functions).to_dict(functions) == data


def test_edge_into_an_any_node_cannot_be_optional() -> None:
    dag = DAG("demo").add_node("a", one).add_node("b", takes, type="any")
    with pytest.raises(ValidationError, match="'b' is an any node, which runs with any"):
        dag.connect("a", "b", optional=True)
    dag.add_node("c", takes).connect("a", "c", optional=True)
    with pytest.raises(ValidationError, match="'c' is an any node"):
        dag.add_node(Node(takes, "c", type="any"), replace=True)
    assert dag.nodes["c"].type == "node"


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
@pytest.mark.parametrize(("source", "given"), [(one, 1), (boom, "default")])
def test_part_below_a_decider_gets_what_an_optional_edge_gave_it(
    mode: str, source: Any, given: Any
) -> None:
    dag = DAG("demo").add_node("source", source)
    dag.add_node("check", lambda x="default": True, type="condition").add_node("end", takes)
    dag.connect("source", "check", optional=True).connect("check", "end", input="main")
    run = dag.execute(error_strategy="continue")
    assert run.value == (given, "no extra")
    assert dag.run_from("end", run=run, mode=mode) == (given, "no extra")
