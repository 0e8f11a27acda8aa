"""The guide on context and data flow, snippet by snippet."""

from __future__ import annotations

import time

from fast_dag import DAG, Context


def test_nodes_read_and_write_the_context() -> None:
    dag = DAG("requests")
    context = Context(
        metadata={"request_id": "req-9", "user_id": "user-4", "start_time": time.time()}
    )

    @dag.node
    def previous_node() -> dict:
        return {"rows": 2}

    @dag.node
    def process_with_context(data: dict, context: Context) -> dict:
        user_id = context.metadata["user_id"]
        context.metadata["processing_time"] = time.time()
        previous = context.get("previous_node", default={})
        missing = context.get("no_such_node", default={})
        return {"processed": data, "user": user_id, "seen": previous, "missing": missing}

    result = dag.run(data={"n": 1}, context=context)
    assert result == {
        "processed": {"n": 1},
        "user": "user-4",
        "seen": {"rows": 2},
        "missing": {},
    }
    assert context.metadata["processing_time"] >= context.metadata["start_time"]
    assert context.metadata["request_id"] == "req-9"


def test_data_flows_forward_along_a_chain() -> None:
    dag = DAG("steps")

    @dag.node
    def step1() -> dict:
        return {"value": 100}

    @dag.node
    def step2(data: dict) -> dict:
        return {"doubled": data["value"] * 2}

    @dag.node
    def step3(data: dict) -> str:
        return f"Final: {data['doubled']}"

    dag.nodes["step1"] >> dag.nodes["step2"] >> dag.nodes["step3"]
    assert dag.run() == "Final: 200"


def numbers() -> DAG:
    dag = DAG("numbers")

    @dag.node
    def source() -> dict:
        return {"data": [5, 4, 3, 2, 1]}

    @dag.node
    def process_evens(data: dict) -> list:
        return [x for x in data["data"] if x % 2 == 0]

    @dag.node
    def process_odds(data: dict) -> list:
        return [x for x in data["data"] if x % 2 != 0]

    source_node = dag.nodes["source"]
    source_node >> dag.nodes["process_evens"]
    source_node >> dag.nodes["process_odds"]
    return dag


def test_data_branches_to_both_processors() -> None:
    dag = numbers()
    dag.run()
    assert (dag["process_evens"], dag["process_odds"]) == ([4, 2], [5, 3, 1])


def test_both_branches_merge_by_named_inputs() -> None:
    dag = numbers()

    @dag.all()
    def merge_results(evens: list, odds: list) -> dict:
        return {"evens": evens, "odds": odds, "total": len(evens) + len(odds)}

    # In the other order than the parameters: the names tell, not the order.
    dag.connect("process_odds", "merge_results", input="odds")
    dag.connect("process_evens", "merge_results", input="evens")
    assert dag.run() == {"evens": [4, 2], "odds": [5, 3, 1], "total": 5}


def test_context_carries_cross_cutting_concerns() -> None:
    dag = DAG("audited")

    @dag.node
    def audit_log(data: dict, context: Context) -> dict:
        context.metadata["audit_trail"] = context.metadata.get("audit_trail", [])
        context.metadata["audit_trail"].append(
            {"node": "audit_log", "timestamp": time.time(), "data_size": len(str(data))}
        )
        return data

    assert dag.run(data={"k": "v"}) == {"k": "v"}
    (entry,) = dag.context.metadata["audit_trail"]
    assert entry["data_size"] == len("{'k': 'v'}")


def test_results_can_be_read_and_written_through_the_context_though_edges_are_better() -> None:
    dag = DAG("bus")

    @dag.node
    def previous_node() -> list:
        return [1, 2]

    @dag.node
    def bad_pattern(context: Context) -> None:
        data = context.results["previous_node"]
        context.results["current_node"] = [each * 2 for each in data]

    assert dag.run() is None
    assert dag.context.results["current_node"] == [2, 4]
