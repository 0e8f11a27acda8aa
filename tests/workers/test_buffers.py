"""Large values: they are copied once, whoever receives them may write, and nothing is left."""

from __future__ import annotations

import errno
import gc
import os
import signal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fast_dag import DAG, Workers
from fast_dag.drive import buffers, payload, protocol
from tests.concurrency.support import wait_until
from tests.leaks import open_files, without_collector
from tests.workers import arrays, steps

LARGE = 400_000  # numbers: 3.2 MB


def chain(*functions: Any) -> DAG:
    dag = DAG("chain")
    for index, func in enumerate(functions):
        dag.add_node(f"n{index}", func)
        if index:
            dag.connect(f"n{index - 1}", f"n{index}", input="x")
    return dag


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what this process copies into memory that can be sent."""
    sizes: list[int] = []
    write = buffers._write

    def counted(fd: int, view: memoryview, start: int) -> None:
        sizes.append(view.nbytes)
        write(fd, view, start)

    monkeypatch.setattr(buffers, "_write", counted)
    return sizes


def test_what_one_node_makes_the_next_takes_without_a_copy_at_home(copied: list[int]) -> None:
    with Workers(2) as workers:
        run = chain(arrays.ones, arrays.tripled, steps.same).execute(n=LARGE, executor=workers)
    assert run["n0"].sum() == LARGE  # nobody else sees what the next node wrote
    assert run["n2"].sum() == 3 * LARGE
    assert copied == []


def test_what_was_written_to_at_home_is_sent_as_it_is_now(copied: list[int]) -> None:
    def home(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x[LARGE // 2] = 100.0
        return x

    dag = chain(arrays.ones, home, lambda x: arrays.total(x))
    dag.replace_node("n1", home, run_in="thread")
    with Workers(2) as workers:
        assert dag.run(n=LARGE, executor=workers) == LARGE + 99
    assert len(copied) == 1


def test_parts_and_collections_of_what_came_are_not_copied_either(copied: list[int]) -> None:
    with Workers(1) as workers:
        one, two = workers.submit(arrays.ones, LARGE), workers.submit(arrays.ones, LARGE)
        pair = [one.result(), two.result()[LARGE // 2 :]]
        assert workers.submit(arrays.total, *pair).result() == 1.5 * LARGE
        again = workers.submit(steps.same, {"pair": pair, "small": np.ones(3)}).result()
    assert copied == []
    assert again["pair"][1].shape == (LARGE // 2,)


def test_values_are_writable_private_and_outlive_the_pool() -> None:
    with Workers(1) as workers:
        first = workers.submit(arrays.ones, LARGE).result()
        second = workers.submit(steps.same, first).result()
    first[:] = 5
    assert first.sum() == 5 * LARGE
    assert second.sum() == LARGE


def test_read_only_arrays_stay_so() -> None:
    array = np.ones(LARGE)
    array.flags.writeable = False
    with Workers(1) as workers:
        there = workers.submit(steps.same, array).result()
    assert not there.flags.writeable
    assert there.sum() == LARGE


@pytest.mark.parametrize(
    "value",
    [
        b"x" * 3_000_000,
        bytearray(3_000_000),
        [np.arange(LARGE), np.arange(LARGE)[::2], np.asfortranarray(np.ones((1000, 500)))],
        pd.DataFrame({"a": np.arange(LARGE), "b": np.ones(LARGE)}),
        np.array(["text", None] * 100_000, dtype=object),
    ],
    ids=["bytes", "bytearray", "list", "frame", "objects"],
)
def test_values_of_every_kind_arrive(value: Any) -> None:
    with Workers(1) as workers:
        there = workers.submit(steps.same, value).result()
    assert type(there) is type(value)
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(there, value)
    elif isinstance(value, list):
        assert all(map(np.array_equal, there, value))
    else:
        assert np.array_equal(there, value)


def test_a_node_goes_where_its_largest_input_is(tmp_path: Any) -> None:
    go = str(tmp_path / "go")
    with Workers(2) as workers:
        busy = workers.submit(steps.when, str(tmp_path / "r"), go)
        large = workers.submit(lambda: (np.ones(LARGE), os.getpid())).result()
        array = workers.submit(steps.same, large[0]).result()
        (tmp_path / "go").touch()
        other = busy.result()
        assert large[1] != other
        assert workers.submit(lambda x: os.getpid(), np.ones(3)).result() == other
        assert workers.submit(lambda x: os.getpid(), array).result() == large[1]


# Where there is no room, or no way.


def test_where_there_is_no_room_values_go_through_the_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(fd: int, view: memoryview, start: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(buffers, "_write", full)
    with Workers(1) as workers:
        there = workers.submit(arrays.tripled, np.ones(LARGE)).result()
    assert there.sum() == 3 * LARGE


def test_without_memfd_files_have_no_name_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    fd = buffers.nameless()
    assert os.readlink(f"/proc/self/fd/{fd}").endswith("(deleted)")
    os.close(fd)
    with Workers(1) as workers:
        assert workers.submit(arrays.tripled, np.ones(LARGE)).result().sum() == 3 * LARGE


def test_without_descriptors_all_goes_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PASSES", False)
    monkeypatch.setattr(payload, "PASSES", False)
    with Workers(1) as workers:
        assert workers.submit(steps.same, 3).result() == 3
        os.kill(workers.submit(steps.pid).result(), signal.SIGKILL)
        assert workers.submit(arrays.total, np.ones(LARGE)).result() == LARGE


def test_many_large_values_at_once_use_few_descriptors() -> None:
    few = 150_000
    with Workers(1) as workers:
        workers.submit(steps.pid).result()
        before = len(open_files())
        values = [workers.submit(arrays.ones, few).result() for _ in range(200)]
        assert len(open_files()) - before <= 2 * buffers._MOST
        assert workers.submit(arrays.total, *values).result() == 200 * few
        del values
        gc.collect()
        assert len(open_files()) - before <= 2


def test_of_few_descriptors_large_values_leave_most() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert buffers._most() == 32
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_cannot_be_mapped_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*args: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with Workers(1) as workers:
        workers.submit(steps.pid).result()
        monkeypatch.setattr(buffers, "_Mapping", no_descriptor)
        assert workers.submit(arrays.ones, LARGE).result().sum() == LARGE


def test_the_results_of_a_map_are_freed_without_the_collector() -> None:
    dag = DAG("freed", remember=False).add_node("ones", arrays.ones, over="n")
    with without_collector(), Workers(1) as workers:
        workers.submit(steps.pid).result()
        before = len(open_files())
        made = dag.run(n=[LARGE] * 3, executor=workers)
        assert len(open_files()) > before
        del made
        wait_until(lambda: len(open_files()) <= before)


def test_a_process_that_dies_with_large_values_leaves_nothing() -> None:
    def dies(x: np.ndarray[Any, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Workers(1) as workers:
        run = chain(arrays.ones, dies).execute(n=LARGE, executor=workers)
    assert "died before the call ended" in str(run.errors["n1"])
    assert run["n0"].sum() == LARGE
    del run
    gc.collect()  # tracebacks refer to frames, and these to them
