"""The guide's best practices, snippet by snippet; the first is among the execution modes."""

from __future__ import annotations

import cProfile
import pstats
import time
from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG, Context, ExecutionError
from tests.ways import MODES


class PrimarySourceError(Exception):
    pass


class Sources:
    """A primary source that gives these answers, and a secondary one that answers always."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def fetch_from_primary(self, source: str) -> dict:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"from": answer, "source": source}

    def fetch_from_secondary(self, source: str) -> dict:
        return {"from": "secondary", "source": source}


def fetching(sources: Sources, **options: Any) -> DAG:
    dag = DAG("fetch")
    fetch_from_primary = sources.fetch_from_primary
    fetch_from_secondary = sources.fetch_from_secondary

    @dag.node(**({"retry": 2, "retry_delay": 1.0} | options))
    def fetch_primary_data(source: str) -> dict:
        try:
            return fetch_from_primary(source)
        except PrimarySourceError:
            # Fallback to secondary
            return fetch_from_secondary(source)

    return dag


@pytest.mark.parametrize("mode", MODES)
def test_a_specific_error_falls_back_and_is_not_retried(mode: str) -> None:
    sources = Sources(PrimarySourceError("down"), "primary")
    dag = fetching(sources)
    assert dag.run(source="s", mode=mode) == {"from": "secondary", "source": "s"}
    assert dag.context.metrics["retries"] == 0
    assert dag.run(source="s", mode=mode) == {"from": "primary", "source": "s"}


@pytest.mark.parametrize("mode", MODES)
def test_other_errors_are_retried_and_then_told(mode: str) -> None:
    sources = Sources(OSError("reset"), OSError("reset"), "primary")
    assert fetching(sources, retry_delay=0.002).run(source="s", mode=mode)["from"] == "primary"
    with pytest.raises(ExecutionError, match="after 3 attempts"):
        fetching(Sources(*[OSError("reset")] * 3), retry_delay=0.002).run(source="s", mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_catch_all_fails_silently(mode: str) -> None:
    dag = DAG("silent")
    fetch_data = Sources(OSError("reset")).fetch_from_primary

    @dag.node
    def bad_fetch(source: str) -> dict:
        try:
            return fetch_data(source)
        except:  # noqa: E722
            return {}  # Silently fails

    assert dag.run(source="s", mode=mode) == {}
    assert dag.context.metrics["nodes_failed"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_streamed_in_a_fraction_of_the_memory_that_it_takes_to_load_it(
    tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "large.txt"
    file.write_text("a few words in a line\n" * 100_000)
    streamed, loaded = DAG("streamed"), DAG("loaded")

    @streamed.node
    def process_large_file(file_path: str) -> dict:
        stats = {"lines": 0, "words": 0}
        with open(file_path) as f:
            for line in f:  # Stream line by line
                stats["lines"] += 1
                stats["words"] += len(line.split())
        return stats

    @loaded.node
    def bad_process_file(file_path: str) -> dict:
        with open(file_path) as f:
            content = f.read()  # Could be gigabytes!
        return {"lines": len(content.splitlines())}

    assert streamed.run(file_path=str(file), mode=mode) == {"lines": 100_000, "words": 600_000}
    if mode == "sequential":  # tracing memory is slow
        loaded.run(file_path=str(file), track_memory=True)
        assert loaded.context.metrics["memory_usage"]["peak_mb"] > 2
        small = tmp_path / "small.txt"
        small.write_text("a few words in a line\n" * 10_000)
        streamed.run(file_path=str(small), track_memory=True)
        assert streamed.context.metrics["memory_usage"]["peak_mb"] < 0.5
    assert loaded.run(file_path=str(file), mode=mode) == {"lines": 100_000}


@pytest.mark.parametrize("mode", MODES)
def test_context_is_for_metadata(mode: str) -> None:
    dag = DAG("tracked")

    def process(data: dict) -> dict:
        return data | {"processed": True}

    @dag.node
    def track_processing(data: dict, context: Context) -> dict:
        start = time.time()
        result = process(data)

        # Track performance metadata
        context.metadata["processing_times"] = context.metadata.get("processing_times", [])
        context.metadata["processing_times"].append(time.time() - start)

        return result

    dag.add_node("again", track_processing.func)
    dag.connect("track_processing", "again")
    assert dag.run(data={"n": 1}, mode=mode) == {"n": 1, "processed": True}
    times = dag.context.metadata["processing_times"]
    assert len(times) == 2
    assert all(0 <= each < 30 for each in times)


def test_context_as_a_data_bus_works_only_where_the_order_of_definition_counts() -> None:
    dag = DAG("bus")

    def process(data: int) -> int:
        return data + 1

    def previous() -> int:
        return 1

    # Don't use context as a data bus
    def bad_data_passing(context: Context) -> None:
        data = context.results["previous"]  # Use connections instead!
        context.results["current"] = process(data)

    dag.add_node(previous).add_node(bad_data_passing)
    dag.run()
    assert dag.context.results["current"] == 2
    other = DAG("other way round").add_node(bad_data_passing).add_node(previous)
    with pytest.raises(ExecutionError, match="'previous'"):
        other.run()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("PROFILING_ENABLED", [True, False])
def test_critical_paths_can_be_profiled(
    PROFILING_ENABLED: bool,  # noqa: N803
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dag = DAG("profiled")

    def expensive_algorithm(data: dict) -> dict:
        return {"total": sum(data["values"])}

    @dag.node
    def critical_operation(data: dict) -> dict:
        if PROFILING_ENABLED:
            profiler = cProfile.Profile()
            profiler.enable()

        try:
            result = expensive_algorithm(data)
            return result
        finally:
            if PROFILING_ENABLED:
                profiler.disable()
                stats = pstats.Stats(profiler)
                stats.sort_stats("cumulative")
                stats.print_stats(10)  # Top 10 functions

    assert dag.run(data={"values": [1, 2]}, mode=mode) == {"total": 3}
    told = capsys.readouterr().out
    assert ("expensive_algorithm" in told) is PROFILING_ENABLED
    assert ("cumulative" in told) is PROFILING_ENABLED
