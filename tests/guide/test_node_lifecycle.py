"""The guide on the lifecycle of nodes, snippet by snippet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG, ExecutionError, MissingInputError
from tests.ways import MODES

Capture = pytest.CaptureFixture[str]


# Define lifecycle hooks
def pre_execute_hook(node, inputs, context):
    print(f"Starting {node.name} with inputs: {list(inputs.keys())}")
    # Can modify inputs
    return inputs


def post_execute_hook(node, inputs, result, context):
    print(f"Completed {node.name}, result type: {type(result)}")
    # Can modify result
    return result


def cleanup_hook(node, context):
    print(f"Cleaning up {node.name}")
    # Release resources, close connections, etc.


def processing() -> DAG:
    dag = DAG("lifecycle")

    @dag.node
    def load() -> list[int]:
        return [1, 2, 3]

    @dag.node
    def process_data(rows: list[int], factor: int = 2) -> list[int]:
        print("processing")
        return [row * factor for row in rows]

    @dag.node
    def report(rows: list[int]) -> str:
        print("reporting")
        return f"sum {sum(rows)}"

    load >> process_data >> report
    return dag


@pytest.mark.parametrize("mode", MODES)
def test_the_phases_of_a_node_follow_each_other(mode: str, capsys: Capture) -> None:
    dag = processing()

    # Set hooks on specific node
    dag.set_node_hooks(
        "process_data",
        pre_execute=pre_execute_hook,
        post_execute=post_execute_hook,
        cleanup=cleanup_hook,
    )

    assert dag.run(mode=mode) == "sum 12"
    assert capsys.readouterr().out.splitlines() == [
        "Starting process_data with inputs: ['rows']",
        "processing",
        "Completed process_data, result type: <class 'list'>",
        "Cleaning up process_data",
        "reporting",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_checked_before_any_hook(mode: str, capsys: Capture) -> None:
    dag = DAG("lacking").add_node("process_data", lambda rows: rows)
    dag.set_default_hooks(pre_execute=pre_execute_hook, cleanup=cleanup_hook)
    with pytest.raises(MissingInputError, match="rows"):
        dag.run(mode=mode)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", MODES)
def test_hooks_may_change_the_inputs_and_the_result(mode: str) -> None:
    def ten_times(node: Any, inputs: dict[str, Any], context: Any) -> dict[str, Any]:
        return inputs | {"factor": 10}

    def first_only(node: Any, inputs: Any, result: list[int], context: Any) -> list[int]:
        return result[:1]

    dag = processing()
    dag.set_node_hooks("process_data", pre_execute=ten_times, post_execute=first_only)
    assert dag.run(mode=mode) == "sum 10"


@pytest.mark.parametrize("mode", MODES)
def test_default_hooks_are_for_all_nodes_and_may_be_lambdas(mode: str, capsys: Capture) -> None:
    dag = processing()

    # Set default hooks for all nodes
    dag.set_default_hooks(
        pre_execute=lambda n, i, c: print(f"Executing {n.name}"),
        post_execute=lambda n, i, r, c: r,
        cleanup=lambda n, c: None,
    )

    # What print returns, None, changes nothing.
    assert dag.run(mode=mode) == "sum 12"
    assert capsys.readouterr().out.splitlines() == [
        "Executing load",
        "Executing process_data",
        "processing",
        "Executing report",
        "reporting",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_the_hooks_of_a_node_go_before_the_default_ones(mode: str, capsys: Capture) -> None:
    dag = processing()
    dag.set_node_hooks("process_data", cleanup=cleanup_hook)
    dag.set_default_hooks(
        pre_execute=lambda n, i, c: print(f"Executing {n.name}"),
        post_execute=lambda n, i, r, c: r,
        cleanup=lambda n, c: None,
    )
    dag.run(mode=mode)
    told = capsys.readouterr().out.splitlines()
    assert told.count("Cleaning up process_data") == 1
    assert [line for line in told if line.startswith(("Clean", "Exec"))] == [
        "Executing load",
        "Executing process_data",
        "Cleaning up process_data",
        "Executing report",
    ]


class Resource:
    """What `acquire_resource` gives."""

    def __init__(self) -> None:
        self.released = False

    def process(self, data: dict) -> dict:
        assert not self.released
        if data.get("bad"):
            raise ValueError("cannot process")
        return data | {"processed": True}


def acquire_resource() -> Resource:
    return Resource()


def release_resource(resource: Resource) -> None:
    resource.released = True


# Context manager pattern
class ManagedResource:
    def __init__(self, node_name):
        self.node_name = node_name
        self.resource = None

    def __enter__(self):
        print(f"Acquiring resource for {self.node_name}")
        self.resource = acquire_resource()
        return self.resource

    def __exit__(self, exc_type, exc_val, exc_tb):
        print(f"Releasing resource for {self.node_name}")
        if self.resource:
            release_resource(self.resource)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [False, True])
def test_a_managed_resource_is_released_after_a_failure_too(
    bad: bool, mode: str, capsys: Capture
) -> None:
    dag = DAG("managed")

    @dag.node
    def managed_operation(data: dict) -> dict:
        with ManagedResource("managed_operation") as resource:
            return resource.process(data)

    if bad:
        with pytest.raises(ExecutionError, match="cannot process"):
            dag.run(data={"bad": True}, mode=mode)
    else:
        assert dag.run(data={"n": 1}, mode=mode) == {"n": 1, "processed": True}
    assert capsys.readouterr().out.splitlines() == [
        "Acquiring resource for managed_operation",
        "Releasing resource for managed_operation",
    ]


# Automatic cleanup with decorators
def with_cleanup(cleanup_func):
    def decorator(func):
        def wrapper(*args, **kwargs):
            try:
                return func(*args, **kwargs)
            finally:
                cleanup_func()

        return wrapper

    return decorator


@pytest.mark.parametrize("mode", MODES)
def test_a_decorator_cleans_up_after_success_and_failure(
    mode: str, tmp_path: Path, capsys: Capture
) -> None:
    dag = DAG("temporary")

    def create_temp_file(data: dict) -> Path:
        file = tmp_path / "temp.txt"
        file.write_text(data["text"])
        return file

    def process_temp_file(file: Path) -> dict:
        return {"length": len(file.read_text())}

    @dag.node
    def source(text: Any) -> dict:
        return {"text": text}

    @dag.node
    @with_cleanup(lambda: print("Cleaning up temp files"))
    def temp_file_processor(data: dict) -> dict:
        temp_file = create_temp_file(data)
        return process_temp_file(temp_file)

    # Without functools.wraps, too, the node has its function's name and parameters.
    dag.connect("source", "temp_file_processor", input="data")
    assert dag.run(text="abc", mode=mode) == {"length": 3}
    assert capsys.readouterr().out == "Cleaning up temp files\n"
    with pytest.raises(ExecutionError, match="temp_file_processor"):
        dag.run(text=5, mode=mode)
    assert capsys.readouterr().out == "Cleaning up temp files\n"
