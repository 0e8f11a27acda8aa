"""The guide on error handling, snippet by snippet."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fast_dag import DAG, Context, ExecutionError
from tests.ways import MODES

logger = logging.getLogger(__name__)


class CriticalError(Exception):
    pass


class CircuitBreakerOpenError(Exception):
    pass


class Response:
    def __init__(self, status: int, body: dict) -> None:
        self.status = status
        self.ok = status == 200
        self._body = body

    def json(self) -> dict:
        return self._body


def risky(statuses: list[int], **options: Any) -> DAG:
    """`risky_operation` with an API that answers with these statuses, one after the other."""
    dag = DAG("risky")

    def external_api_call(data: dict) -> Response:
        return Response(statuses.pop(0), {"echo": data})

    @dag.node(**({"retry": 3, "retry_delay": 1.0, "retry_backoff": 2.0, "timeout": 30.0} | options))
    def risky_operation(data: dict) -> dict:
        response = external_api_call(data)
        if not response.ok:
            raise ValueError(f"API error: {response.status}")
        return response.json()

    return dag


def handle_error(node, inputs, error):
    print(f"Error in {node.name}: {error}")
    return {"error": str(error), "default": True}


@pytest.mark.parametrize("mode", MODES)
def test_a_node_is_tried_up_to_three_times_more(mode: str) -> None:
    statuses = [500, 502, 503, 200]
    dag = risky(statuses, retry_delay=0.002)
    assert dag.run(data={"id": 1}, mode=mode) == {"echo": {"id": 1}}
    assert statuses == []
    assert dag.context.metrics["retries"] == 3


def test_the_first_wait_is_the_delay_and_each_later_one_is_longer() -> None:
    told: list[float] = []

    def note(node: Any, inputs: Any, error: Any, context: Any, attempt: int, delay: float) -> None:
        told.append(delay)
        if delay >= 1.0:
            raise KeyboardInterrupt  # nobody waits that long here

    dag = risky([500, 500, 500, 200], retry_delay=0.001)
    dag.set_node_hooks("risky_operation", on_retry=note)
    dag.run(data={})
    assert told == [0.001, 0.002, 0.004]
    dag = risky([500])
    dag.set_node_hooks("risky_operation", on_retry=note)
    with pytest.raises(KeyboardInterrupt):
        dag.run(data={})
    assert told[3:] == [1.0]


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_of_the_node_may_give_a_default(
    capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    statuses = [500, 501, 502, 503, 200]
    dag = risky(statuses, retry_delay=0.002)
    dag.set_node_error_handler("risky_operation", handle_error)
    assert dag.run(data={}, mode=mode) == {"error": "API error: 503", "default": True}
    assert capsys.readouterr().out == "Error in risky_operation: API error: 503\n"
    assert statuses == [200], "tried as often as it may be before"


def two_that_fail(error: Exception) -> DAG:
    """`bad` fails, and so does what needs it; `good` and what needs it do not."""
    dag = DAG("partly")

    @dag.node
    def bad() -> int:
        raise error

    @dag.node
    def after_bad(bad: int) -> int:
        return bad

    @dag.node
    def good() -> int:
        return 1

    @dag.node
    def after_good(good: int) -> int:
        return good + 1

    dag.connect("bad", "after_bad")
    return dag.connect("good", "after_good")


@pytest.mark.parametrize("mode", MODES)
def test_continue_runs_whatever_does_not_depend_on_the_failure(mode: str) -> None:
    dag = two_that_fail(ValueError("broken"))
    result = dag.run(error_strategy="continue", mode=mode)
    assert result == 2
    assert dag.results == {"good": 1, "after_good": 2}
    (entry,) = dag.context.metadata["errors"]
    assert (entry["node"], entry["error"]) == ("bad", "broken")


@pytest.mark.parametrize("options", [{}, {"error_strategy": "fail_fast"}])
def test_fail_fast_is_the_default_and_stops_on_the_first_error(options: dict[str, Any]) -> None:
    dag = two_that_fail(ValueError("broken"))
    with pytest.raises(ExecutionError, match="broken") as caught:
        dag.run(**options)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.node_name == "bad"
    assert dag.results == {}


def dag_error_handler(node_name: str, error: Exception, context: Context):
    # Log error
    logger.error(f"DAG error in {node_name}: {error}")

    # Store error in context
    context.metadata.setdefault("errors", []).append(
        {"node": node_name, "error": str(error), "timestamp": time.time()}
    )

    # Decide whether to continue
    if isinstance(error, CriticalError):
        return "stop"  # Stop execution
    return "continue"  # Continue with other nodes


@pytest.mark.parametrize("mode", MODES)
def test_the_handler_of_the_run_continues_with_other_nodes(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    dag = two_that_fail(ValueError("broken"))
    result = dag.run(error_handler=dag_error_handler, mode=mode)
    assert result == 2
    own = [each.getMessage() for each in caplog.records if each.name != "fast_dag"]
    assert own == ["DAG error in bad: broken"]
    (entry,) = dag.context.metadata["errors"]  # the handler's own, and no second one
    assert (entry["node"], entry["error"], set(entry)) == (
        "bad",
        "broken",
        {"node", "error", "timestamp"},
    )


def test_the_handler_of_the_run_stops_it_at_a_critical_error() -> None:
    dag = two_that_fail(CriticalError("disk full"))
    with pytest.raises(ExecutionError, match="disk full") as caught:
        dag.run(error_handler=dag_error_handler)
    assert isinstance(caught.value.__cause__, CriticalError)
    assert dag.results == {}
    assert [entry["node"] for entry in dag.context.metadata["errors"]] == ["bad"]


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_has_the_data_and_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.chdir(tmp_path)
    dag = DAG("saved")

    @dag.node
    def load() -> dict:
        return {"rows": 3}

    @dag.node
    def checkpoint_save(data: dict, context: Context) -> dict:
        # Save intermediate state
        checkpoint_file = f"checkpoint_{context.metadata['run_id']}.json"
        with open(checkpoint_file, "w") as f:
            json.dump({"data": data, "context": context.to_dict()}, f)
        return data

    load >> checkpoint_save
    assert dag.run(mode=mode) == {"rows": 3}
    (file,) = tmp_path.iterdir()
    assert file.name == f"checkpoint_{dag.context.metadata['run_id']}.json"
    saved = json.loads(file.read_text())
    assert saved["data"] == {"rows": 3}
    again = Context.from_dict(saved["context"])
    assert again.results == {"load": {"rows": 3}}
    assert again.metadata["run_id"] == dag.context.metadata["run_id"]


# Circuit breaker pattern
class CircuitBreaker:
    def __init__(self, failure_threshold=5, timeout=60):
        self.failures = 0
        self.threshold = failure_threshold
        self.timeout = timeout
        self.last_failure = None

    def __call__(self, func):
        def wrapper(*args, **kwargs):
            if self.is_open():
                raise CircuitBreakerOpenError("Circuit breaker is open")

            try:
                result = func(*args, **kwargs)
                self.reset()
                return result
            except Exception as e:  # noqa: F841
                self.record_failure()
                raise

        return wrapper

    def is_open(self):
        if self.failures >= self.threshold:  # noqa: SIM102
            if time.time() - self.last_failure < self.timeout:
                return True
        return False

    def record_failure(self):
        self.failures += 1
        self.last_failure = time.time()

    def reset(self):
        self.failures = 0
        self.last_failure = None


def protected(breaker: CircuitBreaker, answers: list[Any]) -> DAG:
    def process(data: dict) -> dict:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"seen": data, "answer": answer}

    dag = DAG("protected")
    external_api = SimpleNamespace(process=process)

    @dag.node
    @breaker
    def protected_api_call(data: dict) -> dict:
        return external_api.process(data)

    return dag


def test_the_breaker_opens_after_three_failures_and_the_api_is_spared() -> None:
    answers: list[Any] = [OSError("down"), OSError("down"), OSError("down"), "up"]
    dag = protected(CircuitBreaker(failure_threshold=3, timeout=300), answers)
    for _ in range(3):
        with pytest.raises(ExecutionError, match="down"):
            dag.run(data={"id": 1})
    with pytest.raises(ExecutionError, match="Circuit breaker is open") as caught:
        dag.run(data={"id": 1})
    assert isinstance(caught.value.__cause__, CircuitBreakerOpenError)
    assert answers == ["up"], "the API was called again"


def test_the_breaker_closes_again_after_its_timeout_and_a_success_resets_it() -> None:
    answers: list[Any] = [OSError("down"), "up", OSError("down")]
    breaker = CircuitBreaker(failure_threshold=1, timeout=0)
    dag = protected(breaker, answers)
    with pytest.raises(ExecutionError, match="down"):
        dag.run(data={})
    assert dag.run(data={"id": 2}) == {"seen": {"id": 2}, "answer": "up"}
    assert (breaker.failures, breaker.last_failure) == (0, None)


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapper_without_functools_wraps_is_a_node_like_its_function(mode: str) -> None:
    dag = protected(CircuitBreaker(failure_threshold=3, timeout=300), ["up"])
    assert list(dag.nodes) == ["protected_api_call"]
    dag.add_node("source", lambda: {"id": 3})
    dag.connect("source", "protected_api_call", input="data")
    assert dag.run(mode=mode) == {"seen": {"id": 3}, "answer": "up"}
