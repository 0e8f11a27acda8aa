"""The guide on running DAGs, snippet by snippet."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import DAG, Context, MissingInputError

CALLS: list[str] = []


@pytest.fixture
def dag() -> DAG:
    """load_data -> process_data -> validate_output -> save_results, fed by two inputs."""
    CALLS.clear()
    dag = DAG("etl")

    @dag.node
    def load_data(data, config):
        CALLS.append("load_data")
        return [each * config["scale"] for each in data]

    @dag.node
    def process_data(rows):
        CALLS.append("process_data")
        return sorted(rows)

    @dag.node
    def validate_output(rows):
        CALLS.append("validate_output")
        return len(rows) > 0 and rows

    @dag.node
    def save_results(rows, context: Context):
        CALLS.append("save_results")
        return {"rows": rows, "by": context.metadata.get("user_id")}

    load_data >> process_data >> validate_output >> save_results
    return dag


INPUTS: dict[str, Any] = {"data": [3, 1], "config": {"scale": 10}}


def test_simple_run_needs_nothing_where_nothing_is_asked_for() -> None:
    assert DAG("constant").add_node("one", lambda: 1).run() == 1


def test_run_with_initial_inputs(dag: DAG) -> None:
    my_data, my_config = [3, 1], {"scale": 10}
    result = dag.run(inputs={"data": my_data, "config": my_config})
    assert result == {"rows": [10, 30], "by": None}


def test_run_with_context(dag: DAG) -> None:
    context = Context(metadata={"user_id": "123"})
    result = dag.run(context=context, **INPUTS)
    assert result["by"] == "123"
    assert dag.context is context


def test_inputs_context_mode_and_workers_go_together(dag: DAG) -> None:
    context = Context(metadata={"user_id": "123"})
    result = dag.run(inputs=INPUTS, context=context, mode="parallel", max_workers=8)
    assert result == {"rows": [10, 30], "by": "123"}


def test_run_from_goes_on_from_a_node(dag: DAG) -> None:
    with pytest.raises(MissingInputError, match="load_data"):
        dag.run_from("process_data")
    dag.run(inputs=INPUTS)
    CALLS.clear()
    result = dag.run_from("process_data")
    assert result["rows"] == [10, 30]
    assert CALLS == ["process_data", "validate_output", "save_results"]


def test_run_until_stops_at_a_node(dag: DAG) -> None:
    assert dag.run_until("validate_output", inputs=INPUTS) == [10, 30]
    assert CALLS == ["load_data", "process_data", "validate_output"]
    assert "save_results" not in dag.context.results


def test_run_between_runs_the_paths_between_nodes(dag: DAG) -> None:
    assert dag.run_between("load_data", "validate_output", inputs=INPUTS) == [10, 30]
    assert CALLS == ["load_data", "process_data", "validate_output"]


def test_final_result_is_that_of_the_last_node(dag: DAG) -> None:
    assert dag.run(inputs=INPUTS) == dag["save_results"]


def test_results_are_reached_by_node(dag: DAG) -> None:
    dag.run(inputs=INPUTS)
    assert dag["load_data"] == [30, 10]
    assert dag.get_result("process_data") == [10, 30]


def test_all_results_are_in_the_context_in_the_order_of_execution(dag: DAG) -> None:
    dag.run(inputs=INPUTS)
    all_results = dag.context.results
    shown = [f"{node_name}: {result}" for node_name, result in all_results.items()]
    assert shown[:2] == ["load_data: [30, 10]", "process_data: [10, 30]"]
    assert list(all_results) == CALLS


def test_status_tells_whether_the_run_completed(dag: DAG) -> None:
    dag.run(inputs=INPUTS)
    assert dag.context.metadata.get("execution_status") == "completed"
