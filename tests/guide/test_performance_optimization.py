"""The guide on performance optimization, snippet by snippet."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG, Context
from tests.patience import LONG
from tests.ways import MODES


@pytest.mark.parametrize("mode", MODES)
def test_a_cached_node_computes_once_for_equal_inputs(mode: str) -> None:
    dag = DAG("cached")
    computed: list[dict] = []

    def complex_algorithm(data: dict) -> dict:
        computed.append(data)
        return {"sum": sum(data["values"])}

    @dag.cached_node(ttl=3600)  # Cache for 1 hour
    def expensive_computation(data: dict) -> dict:
        return complex_algorithm(data)

    first = dag.run(data={"values": [1, 2]}, mode=mode)
    assert first == {"sum": 3}
    assert dag.run(data={"values": [1, 2]}, mode=mode) is first
    assert dag.context.metrics["cache_hits"] == 1
    assert dag.run(data={"values": [1, 5]}, mode=mode) == {"sum": 6}
    assert computed == [{"values": [1, 2]}, {"values": [1, 5]}]


@pytest.mark.parametrize("mode", MODES)
def test_a_custom_key_is_made_of_the_named_inputs_only(mode: str) -> None:
    dag = DAG("users")
    computed: list[tuple[str, int]] = []

    def process_user_data(user_id: str, data_version: int, data: dict) -> dict:
        computed.append((user_id, data_version))
        return {"user": user_id, "version": data_version, **data}

    @dag.cached_node(
        ttl=1800,
        cache_key=["user_id", "data_version"],  # Cache key from inputs
    )
    def user_specific_calc(user_id: str, data_version: int, data: dict) -> dict:
        return process_user_data(user_id, data_version, data)

    first = dag.run(user_id="u1", data_version=1, data={"n": 1}, mode=mode)
    assert dag.run(user_id="u1", data_version=1, data={"n": 2}, mode=mode) is first
    assert dag.run(user_id="u1", data_version=2, data={"n": 2}, mode=mode)["n"] == 2
    assert dag.run(user_id="u2", data_version=1, data={"n": 3}, mode=mode)["n"] == 3
    assert computed == [("u1", 1), ("u1", 2), ("u2", 1)]


@pytest.mark.parametrize("mode", MODES)
def test_lru_cache_goes_below_a_node(mode: str) -> None:
    dag = DAG("lru")
    transformed: list[dict] = []

    def transform(data: dict) -> dict:
        transformed.append(data)
        return {key: value * 2 for key, value in data.items()}

    @dag.node
    def source(n: int) -> tuple:
        return (("n", n),)

    @dag.node
    @lru_cache(maxsize=100)
    def cached_transform(data_tuple: tuple) -> dict:
        # Convert tuple back to dict for processing
        data = dict(data_tuple)
        return transform(data)

    source >> cached_transform
    assert [dag.run(n=n, mode=mode)["n"] for n in (1, 2, 1)] == [2, 4, 2]
    assert transformed == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("should_process", [True, False])
def test_a_lazy_loader_loads_only_if_it_is_called(should_process: bool, mode: str) -> None:
    dag = DAG("lazy")
    loaded: list[str] = []

    def load_large_dataset(path: str) -> list[int]:
        loaded.append(path)
        return [1, 2, 3]

    def process(data: list[int]) -> dict:
        return {"rows": len(data)}

    @dag.node
    def lazy_data_loader(config: dict) -> Callable:
        """Returns a function that loads data when called"""

        def load():
            # Expensive loading only happens when accessed
            return load_large_dataset(config["path"])

        return load

    @dag.node
    def process_if_needed(data_loader: Callable, should_process: bool) -> dict:
        if should_process:
            data = data_loader()  # Load only if needed
            return process(data)
        return {"skipped": True}

    dag.connect("lazy_data_loader", "process_if_needed", input="data_loader")
    result = dag.run(config={"path": "/big"}, should_process=should_process, mode=mode)
    assert result == ({"rows": 3} if should_process else {"skipped": True})
    assert loaded == (["/big"] if should_process else [])


@pytest.mark.parametrize("mode", MODES)
def test_a_large_file_is_streamed_chunk_by_chunk(tmp_path: Path, mode: str) -> None:
    dag = DAG("streaming")
    file = tmp_path / "numbers.txt"
    file.write_text("".join(f"{n}\n" for n in range(10_000)))
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Chunk(dict):
        pass

    def read_chunks(f: Any, chunk_size: int) -> Iterator[list[str]]:
        while lines := list(itertools.islice(f, chunk_size)):
            yield lines

    def process_chunk(lines: list[str]) -> dict:
        nonlocal most
        chunk = Chunk(sum=sum(map(int, lines)), count=len(lines))
        alive.append(weakref.ref(chunk))
        most = max(most, sum(ref() is not None for ref in alive))
        return chunk

    @dag.node
    def stream_processor(file_path: str) -> Iterator[dict]:
        """Process large file in chunks"""
        with open(file_path) as f:
            for chunk in read_chunks(f, chunk_size=1000):
                yield process_chunk(chunk)

    @dag.node
    def aggregate_streams(chunks: Iterator[dict]) -> dict:
        """Aggregate streaming results"""
        total = 0
        count = 0
        for chunk in chunks:
            total += chunk["sum"]
            count += chunk["count"]
        return {"average": total / count}

    stream_processor >> aggregate_streams
    assert dag.run(file_path=str(file), mode=mode) == {"average": 4999.5}
    assert len(alive) == 10
    assert most <= 2, "more chunks were alive than the one in use and the next"


@pytest.mark.parametrize("mode", MODES)
def test_deleting_an_intermediate_result_frees_its_memory(mode: str) -> None:
    dag = DAG("cleared")
    refs: list[weakref.ref[Any]] = []
    freed: list[bool] = []

    class Large:
        pass

    @dag.node
    def large_intermediate() -> Large:
        large = Large()
        refs.append(weakref.ref(large))
        return large

    @dag.node
    def smaller(large: Large) -> dict:
        return {"size": 1}

    def expensive_operation(data: dict) -> dict:
        return data | {"done": True}

    @dag.node
    def memory_intensive_op(data: dict, context: Context) -> dict:
        result = expensive_operation(data)

        # Clear previous results to free memory
        if "large_intermediate" in context.results:
            del context.results["large_intermediate"]

        return result

    @dag.node
    def after(data: dict) -> dict:
        gc.collect()
        freed.append(refs[0]() is None)
        return data

    large_intermediate >> smaller >> memory_intensive_op >> after
    assert dag.run(mode=mode) == {"size": 1, "done": True}
    assert freed == [True]
    assert "large_intermediate" not in dag.results
    with pytest.raises(KeyError, match="deleted"):
        dag["large_intermediate"]


@pytest.mark.parametrize("mode", MODES)
def test_a_node_has_a_pool_of_its_own_for_batches(mode: str) -> None:
    dag = DAG("batches")
    four = threading.Barrier(4, timeout=LONG)

    def process_item(item: int) -> int:
        four.wait()  # four at once, or this breaks
        return item * item

    @dag.node
    def batch_processor(items: list, batch_size: int = 100) -> list:
        """Process items in batches for efficiency"""
        results = []

        for i in range(0, len(items), batch_size):
            batch = items[i : i + batch_size]
            # Process batch in parallel
            with concurrent.futures.ThreadPoolExecutor(max_workers=4) as executor:
                batch_results = list(executor.map(process_item, batch))
            results.extend(batch_results)

        return results

    assert dag.run(items=list(range(12)), batch_size=8, mode=mode) == [n * n for n in range(12)]
    assert dag.run(items=[1, 2, 3, 4], mode=mode) == [1, 4, 9, 16]


# Resource pooling
class ResourcePool:
    def __init__(self, create_resource, max_size=10):
        self.create = create_resource
        self.pool = queue.Queue(maxsize=max_size)
        self.size = 0

    def acquire(self):
        try:
            return self.pool.get_nowait()
        except queue.Empty:
            if self.size < self.pool.maxsize:
                self.size += 1
                return self.create()
            return self.pool.get()  # Wait for available resource

    def release(self, resource):
        self.pool.put(resource)


@pytest.mark.parametrize("mode", MODES)
def test_nodes_share_a_pool_of_connections(mode: str) -> None:
    opened: list[sqlite3.Connection] = []

    def create_db_connection() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False))
        return opened[-1]

    # Use resource pool
    db_pool = ResourcePool(create_db_connection, max_size=5)
    dag = DAG("pooled")

    @dag.node
    def db_operation(query: str) -> list:
        conn = db_pool.acquire()
        try:
            return list(conn.execute(query))
        finally:
            db_pool.release(conn)

    for number in range(20):
        dag.add_node(f"op{number}", db_operation.func)
    try:
        dag.run(query="select 6 * 7", mode=mode, max_workers=4)
        assert list(dag.results.values()) == [[(42,)]] * 21
        assert 1 <= len(opened) <= 5
        assert db_pool.pool.qsize() == len(opened), "a connection was not given back"
    finally:
        for connection in opened:
            connection.close()
    if mode == "sequential":
        assert len(opened) == 1


def test_who_finds_the_pool_empty_waits_for_a_release() -> None:
    db_pool = ResourcePool(object, max_size=1)
    dag = DAG("waits")
    tried = threading.Event()
    order: list[str] = []

    @dag.node
    def first() -> None:
        conn = db_pool.acquire()
        try:
            has_it.set()
            assert tried.wait(LONG)
            order.append("released")
        finally:
            db_pool.release(conn)

    @dag.node
    def second() -> None:
        assert has_it.wait(LONG)
        tried.set()
        conn = db_pool.acquire()
        order.append("acquired")
        db_pool.release(conn)

    has_it = threading.Event()
    dag.run(mode="parallel", max_workers=2)
    assert order == ["released", "acquired"]
    assert db_pool.size == 1
