"""What type checkers see of runs, checked by mypy and pyright; the same code runs, too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

from fast_dag import (
    DAG,
    Context,
    ExecutionError,
    ExecutionMode,
    NodeStatus,
    Run,
    ValidationError,
)

dag = DAG("typed")


@dag.node
def double(number: int) -> int:
    return 2 * number


@dag.node
def show(number: int) -> str:
    return str(number)


double >> show


def stop(name: str, error: Exception, context: Context) -> str:
    return "stop"


def test_run_takes_its_options_and_returns_any() -> None:
    assert_type(dag.run(number=1), Any)
    assert_type(dag.run({"number": 1}), Any)
    with ThreadPoolExecutor(1) as executor:
        run = dag.execute(
            inputs={"number": 1},
            context=Context(metadata={"user": "ada"}),
            mode=ExecutionMode.PARALLEL,
            max_workers=2,
            executor=executor,
            timeout=30,
            error_strategy="continue",
            error_handler=stop,
            outputs=["show", "double"],
        )
    assert run.value == {"show": "2", "double": 2}


def test_execute_returns_the_run() -> None:
    run = dag.execute(number=1)
    assert_type(run, Run)
    assert_type(run.name, str)
    assert_type(run.run_id, str)
    assert_type(run.status, str)
    assert_type(run.value, Any)
    assert_type(run.results, dict[str, Any])
    assert_type(run.inputs, Mapping[str, Any])
    assert_type(run.context, Context)
    assert_type(run.errors, dict[str, Exception])
    assert_type(run.statuses, dict[str, NodeStatus])
    assert_type(run.timings, dict[str, float])
    assert_type(run.metrics, dict[str, Any])
    assert_type(run.children, dict[str, Run])
    assert_type(run.exception(), ExecutionError | None)
    assert_type(run["double"], Any)
    assert_type(run.get("double", 3), Any)
    run.raise_for_error()


def test_parts_take_the_options_of_run() -> None:
    run = dag.execute(number=1)
    assert_type(dag.run_from("show", run=run), Any)
    assert_type(dag.run_until(double, {"number": 1}, mode="parallel", max_workers=1), Any)
    assert_type(dag.run_between(double, "show", run=run, error_strategy="continue"), Any)


def test_awaited_runs_have_the_same_types() -> None:
    async def main() -> None:
        assert_type(await dag.run_async(number=1, max_workers=1), Any)
        assert_type(await dag.execute_async(number=1, timeout=30.0), Run)
        assert_type(await dag.run_until_async("double", number=1), Any)
        assert_type(await dag.run_from_async("show"), Any)
        assert_type(await dag.run_between_async("double", "show", number=2), Any)

    asyncio.run(main())


def test_views_of_the_last_run_have_types() -> None:
    dag.run(number=1)
    assert_type(dag.context, Context)
    assert_type(dag.context.results, dict[str, Any])
    assert_type(dag.context.metadata, dict[str, Any])
    assert_type(dag.context.metrics, dict[str, Any])
    assert_type(dag.context.get("double", default={}), Any)
    assert_type(dag.context.to_dict(), dict[str, Any])
    assert_type(dag.results, dict[str, Any])
    assert_type(dag["double"], Any)
    assert_type(dag.get_result("double"), Any)
    assert_type(dag.get("double", None), Any)


def test_checks_of_a_dag_have_types() -> None:
    assert_type(dag.validate(allow_disconnected=True, check_types=True), list[ValidationError])
    assert_type(dag.is_valid, bool)
    assert_type(dag.entry_points, list[str])
    assert_type(dag.execution_order, list[str])
    assert_type(dag.clone("other"), DAG)
    assert_type(len(dag), int)
    assert_type(list(dag), list[str])
