"""The guide on monitoring and metrics, snippet by snippet."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from fast_dag import DAG, FSM, Context, FSMReturn
from tests.ways import MODES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"track_memory": True}], ids=["untracked", "tracked"])
def test_built_in_metrics_tell_times_and_memory_if_tracked(
    mode: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    dag = DAG("measured")

    @dag.node
    def load() -> bytearray:
        return bytearray(4_000_000)

    @dag.node
    def size(data: bytearray) -> int:
        return len(data)

    load >> size

    # Access execution metrics
    result = dag.run(mode=mode, **options)

    # Get timing information
    metrics = dag.context.metrics
    print(f"Total time: {metrics['execution_time']:.2f}s")
    print(f"Node times: {metrics['node_times']}")

    # Memory usage (if tracked)
    if "memory_usage" in metrics:
        print(f"Peak memory: {metrics['memory_usage']['peak_mb']:.2f} MB")

    assert result == 4_000_000
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"Total time: {metrics['execution_time']:.2f}s"
    assert told[1].startswith("Node times: {'load': ")
    assert list(metrics["node_times"]) == ["load", "size"]
    assert sum(metrics["node_times"].values()) <= metrics["execution_time"]
    assert len(told) == (3 if options else 2)
    if options:
        assert metrics["memory_usage"]["peak_mb"] >= 4_000_000 / 2**20


# Add custom metrics collector
class MetricsCollector:
    def __init__(self):
        self.metrics = defaultdict(list)

    def record(self, metric_name: str, value: float, tags: dict | None = None):
        self.metrics[metric_name].append(
            {"value": value, "timestamp": time.time(), "tags": tags or {}}
        )

    def get_summary(self, metric_name: str) -> dict:
        values = [m["value"] for m in self.metrics[metric_name]]
        return {
            "count": len(values),
            "mean": statistics.mean(values) if values else 0,
            "min": min(values) if values else 0,
            "max": max(values) if values else 0,
            "stdev": statistics.stdev(values) if len(values) > 1 else 0,
        }


@pytest.mark.parametrize("mode", MODES)
def test_nodes_record_metrics_of_their_own(mode: str) -> None:
    dag = DAG("collected")

    def process_data(data: dict) -> dict:
        return data | {"processed": True}

    # Use in nodes
    collector = MetricsCollector()

    @dag.node
    def monitored_process(data: dict) -> dict:
        start_time = time.time()

        # Process data
        result = process_data(data)

        # Record metrics
        collector.record("processing_time", time.time() - start_time)
        collector.record("data_size", len(data), {"type": "input"})
        collector.record("result_size", len(result), {"type": "output"})

        return result

    dag.run(data={"a": 1}, mode=mode)
    dag.run(data={"a": 1, "b": 2, "c": 3}, mode=mode)
    assert collector.get_summary("data_size") == {
        "count": 2,
        "mean": 2,
        "min": 1,
        "max": 3,
        "stdev": statistics.stdev([1, 3]),
    }
    assert collector.get_summary("processing_time")["count"] == 2
    assert [entry["tags"] for entry in collector.metrics["result_size"]] == [{"type": "output"}] * 2
    assert collector.get_summary("no such metric")["count"] == 0


# Progress callback
def progress_callback(node_name: str, status: str, progress: float):
    print(f"[{progress * 100:.1f}%] {node_name}: {status}")


def process_item(item: int) -> int:
    return item * item


def a_dag() -> tuple[Any, Callable[..., Any]]:
    dag = DAG("long")

    # Long-running node with progress
    @dag.node
    def long_process(items: list, context: Context) -> list:
        results = []
        total = len(items)

        for i, item in enumerate(items):
            # Update progress
            progress = i / total
            context.metadata["progress"] = {
                "node": "long_process",
                "percent": progress,
                "items_processed": i,
                "total_items": total,
            }

            # Process item
            results.append(process_item(item))

            # Call progress callback if set
            if hasattr(dag, "progress_callback"):
                dag.progress_callback("long_process", f"Processing item {i + 1}/{total}", progress)

        return results

    return dag, dag.run


def a_machine() -> tuple[Any, Callable[..., Any]]:
    """The same function as a machine's state."""
    dag, _ = a_dag()
    fsm = FSM("long", initial_state="long_process")
    inner = dag.nodes["long_process"].func

    @fsm.state
    def long_process(items: list, context: Context) -> FSMReturn:
        dag.progress_callback = fsm.progress_callback
        return FSMReturn(stop=True, value=inner(items, context))

    return fsm, fsm.run


@pytest.mark.parametrize("make", [a_dag, a_machine])
@pytest.mark.parametrize("mode", MODES)
def test_a_node_tells_its_own_progress_between_its_start_and_its_end(
    make: Callable[[], tuple[Any, Callable[..., Any]]],
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workflow, run = make()

    # Set progress callback
    workflow.progress_callback = progress_callback

    assert run(items=[1, 2, 3, 4], mode=mode) == [1, 4, 9, 16]
    assert capsys.readouterr().out.splitlines() == [
        "[0.0%] long_process: running",
        "[0.0%] long_process: Processing item 1/4",
        "[25.0%] long_process: Processing item 2/4",
        "[50.0%] long_process: Processing item 3/4",
        "[75.0%] long_process: Processing item 4/4",
        "[100.0%] long_process: completed",
    ]
    assert workflow.context.metadata["progress"] == {
        "node": "long_process",
        "percent": 0.75,
        "items_processed": 3,
        "total_items": 4,
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_callback_can_be_called_though_none_is_set(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dag, run = a_dag()
    assert run(items=[3], mode=mode) == [9]
    assert hasattr(dag, "progress_callback")
    assert capsys.readouterr().out == ""
