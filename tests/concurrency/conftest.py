"""Fixtures of the concurrency tests; and after each of them: nothing has outlived its runs."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest

from tests.concurrency.support import Here, Shared, Way
from tests.leaks import KINDS, nothing_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor


@pytest.fixture(scope="session")
def shared() -> Iterator[Any]:
    """Events, barriers, lists and tallies that nodes in any process can use."""
    # Not fork: this process has threads.
    manager = Shared(ctx=multiprocessing.get_context("forkserver"))
    manager.start()
    one = manager.list([None])
    assert len(one) == 1  # opens this thread's connection, which stays as long as any of these
    yield manager
    manager.shutdown()


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    """The way to run that the test is parametrised with."""
    name = request.param
    return Way(name, request.getfixturevalue("shared") if name == "process" else Here)


clusters: list[Any] = []
"""Those that run: their threads and connections come and go as they please."""


@pytest.fixture(scope="session")
def dask_executor() -> Iterator[Executor]:
    """An executor of a real cluster: two worker processes."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # a free port: a taken one is a warning
            memory_limit=0,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        clusters.append(cluster)
        yield client.get_executor()


@pytest.fixture(autouse=True)
def _nothing_outlives_a_run(shared: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("dask"):
        request.getfixturevalue("dask_executor")  # which outlives the test, as users have it
    kinds = set(KINDS)
    if clusters or "loky" in request.node.name:  # loky closes its pipes whenever it is collected
        kinds -= {"threads", "files"}
    with nothing_left(kinds):
        yield
