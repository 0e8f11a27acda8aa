"""Values live once, in context.results, and are whatever nodes return."""

from __future__ import annotations

import csv
import gc
import math
import weakref
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fast_dag import DAG, Context, ExecutionError, ValidationError
from fast_dag.errors import MissingResultError
from tests.behaviour.support import BoomError, Undecided
from tests.concurrency.support import wait_until


class Same:
    """Says that it equals everything, or nothing."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __eq__(self, other: object) -> bool:
        return self.answer

    __hash__ = None  # type: ignore[assignment]


def passed(make: Any) -> DAG:
    """make -> ask, which tells the type of what it got; any -> all keep it whole."""
    dag = DAG("passed").add_node("make", make).add_node("first", lambda value: value, type="any")
    dag.add_node("ask", lambda first: (first,), type="all")
    return dag.connect("make", "first").connect("first", "ask")


VALUES = {
    "None": None,
    "False": False,
    "zero": 0,
    "empty text": "",
    "empty tuple": (),
    "nan": math.nan,
    "exception": BoomError("a value"),
    "exception class": ValueError,
    "NotImplemented": NotImplemented,
    "Ellipsis": Ellipsis,
    "function": len,
    "equal to all": Same(True),
    "equal to nothing": Same(False),
    "without a truth": Undecided(),
    "array": np.arange(3),
    "Context": Context(),
}


@pytest.mark.same_process
@pytest.mark.parametrize("kind", VALUES)
def test_every_value_is_passed_on_as_it_is(run: Any, kind: str) -> None:
    (got,) = run(passed(lambda: VALUES[kind]))
    assert got is VALUES[kind]


def test_none_flows_like_any_value(execute: Any) -> None:
    ran = execute(passed(lambda: None))
    assert ran.value == (None,)
    assert ran.results == {"make": None, "first": None, "ask": (None,)}


def test_nan_flows(run: Any) -> None:
    assert math.isnan(run(passed(lambda: math.nan))[0])


@pytest.mark.process_mode
def test_array_flows(run: Any) -> None:
    assert np.array_equal(run(passed(lambda: np.arange(5)))[0], np.arange(5))


@pytest.mark.process_mode
def test_returned_exception_is_no_failure(execute: Any) -> None:
    ran = execute(passed(lambda: BoomError("a value")))
    assert ran.status == "completed"
    assert isinstance(ran["make"], BoomError)


@pytest.mark.same_process
def test_consumers_share_one_object(run: Any) -> None:
    dag = DAG("d").add_node("make", list).add_node("b", lambda make: make)
    dag.nodes["make"] >> dag.nodes["b"]
    dag.add_node("c", lambda make: make).connect("make", "c")
    got = run(dag, outputs=["make", "b", "c"])
    assert got["make"] is got["b"] is got["c"]


# One-shot iterators.


def generate(rows=(1, 2, 3)):
    yield from rows


class Remote:
    """A proxy of a file."""

    def __init__(self) -> None:
        self._file = StringIO("a\nb")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __next__(self) -> str:
        return next(self._file)


class Cursor:
    """Of a database."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = iter(rows)

    def execute(self, query: str) -> None: ...

    def __next__(self) -> int:
        return next(self.rows)


class Chunks:
    """Reads a file in pieces, as readers of pandas do."""

    def __init__(self) -> None:
        self.left = [1, 2, 3]

    def read(self) -> list[int]:
        return self.left

    def get_chunk(self) -> int:
        return self.left.pop(0)

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        return self.get_chunk()


def local_iterator() -> Any:
    class Local:
        def __init__(self) -> None:
            self.rows = iter([1, 2, 3])

        def __iter__(self) -> Local:
            return self

        def __next__(self) -> int:
            return next(self.rows)

    return Local()


ONE_SHOT = {
    "list iterator": lambda: iter([1, 2, 3]),
    "reversed": lambda: reversed([3, 2, 1]),
    "chunks": Chunks,
    "csv reader": lambda: csv.reader(["1", "2", "3"]),
    "iterator of a local class": lambda: local_iterator(),
    "generator": generate,
    "generator expression": lambda: (each for each in (1, 2, 3)),
    "map": lambda: map(int, "123"),
    "filter": lambda: filter(None, [0, 1, 2, 3]),
    "zip": lambda: zip([1, 2, 3], strict=True),
}


def shared(make: Any, consumers: int = 2) -> DAG:
    dag = DAG("shared").add_node("rows", make)
    for number in range(consumers):
        dag.add_node(f"c{number}", lambda rows: [*rows]).connect("rows", f"c{number}")
    return dag


@pytest.mark.same_process
@pytest.mark.parametrize("kind", ONE_SHOT)
def test_one_shot_iterator_has_one_consumer(run: Any, kind: str) -> None:
    got = run(shared(ONE_SHOT[kind], consumers=1))
    assert got in ([1, 2, 3], [(1,), (2,), (3,)], [["1"], ["2"], ["3"]])


@pytest.mark.same_process
@pytest.mark.parametrize("kind", ONE_SHOT)
def test_one_shot_iterator_of_two_consumers_fails_its_producer(execute: Any, kind: str) -> None:
    ran = execute(shared(ONE_SHOT[kind]))
    assert ran.statuses == {"rows": "failed", "c0": "skipped", "c1": "skipped"}
    problem = ran.errors["rows"]
    assert isinstance(problem, ValidationError)
    assert (problem.node, problem.consumers) == ("rows", ("c0", "c1"))
    assert all(text in str(problem) for text in ("'rows'", "'c0'", "'c1'", "list"))


@pytest.mark.same_process
def test_async_generator_has_one_consumer(run: Any) -> None:
    async def rows():
        for each in (1, 2, 3):
            yield each

    async def collect(rows):
        return [each async for each in rows]

    dag = DAG("d").add_node("rows", rows).add_node("collect", collect).connect("rows", "collect")
    assert run(dag) == [1, 2, 3]
    dag.add_node("again", collect).connect("rows", "again")
    with pytest.raises(ExecutionError, match="'collect', 'again'") as caught:
        run(dag)
    assert caught.value.node_name == "rows"


@pytest.mark.same_process
def test_one_shot_iterator_of_exclusive_branches_is_fine(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 0, type="condition")
    dag.add_node("rows", generate)
    for name, branch in (("yes", "on_true"), ("no", "on_false")):
        dag.add_node(name, lambda rows: [*rows]).connect("rows", name)
        dag.nodes[name].after(getattr(dag.nodes["check"], branch))
    assert run(dag, x=1, outputs=["yes", "no"]) == {"yes": [1, 2, 3]}


@pytest.mark.same_process
def test_consumers_that_do_not_run_do_not_count(run_until: Any) -> None:
    assert run_until(shared(generate), "c1") == [1, 2, 3]


@pytest.mark.same_process
def test_order_only_edges_consume_nothing(run: Any) -> None:
    dag = shared(generate, consumers=1).add_node("after", lambda: "after")
    dag.nodes["after"].after(dag.nodes["rows"])
    assert run(dag, outputs=["c0", "after"]) == {"c0": [1, 2, 3], "after": "after"}


@pytest.mark.same_process
@pytest.mark.parametrize(
    "make",
    [Path(__file__).open, lambda: StringIO("a\nb"), lambda: Cursor([1, 2]), Remote],
    ids=["file", "text in memory", "cursor", "proxy of a file"],
)
def test_files_and_cursors_may_have_several_consumers(execute: Any, make: Any) -> None:
    dag = DAG("d").add_node("rows", make)
    for number in range(2):
        dag.add_node(f"c{number}", lambda rows: next(rows)).connect("rows", f"c{number}")
    ran = execute(dag, error_strategy="continue")
    assert ran.statuses["rows"] == "completed"
    getattr(ran["rows"], "close", int)()


@pytest.mark.same_process
def test_one_shot_iterator_carried_to_two_nodes_by_a_decider_fails(execute: Any) -> None:
    dag = DAG("d").add_node("rows", generate)
    dag.add_node("check", lambda rows: True, type="condition").connect("rows", "check")
    for name in ("one", "two"):
        dag.add_node(name, lambda rows: [*rows]).connect(dag.nodes["check"].on_true, name)
    ran = execute(dag)
    assert ran.status == "failed"
    assert all(name in str(ran.exception()) for name in ("'one'", "'two'", "once only"))


@pytest.mark.same_process
def test_one_shot_iterator_of_two_consumers_inside_of_a_nested_dag_fails(execute: Any) -> None:
    inner = DAG("inner").add_node("one", lambda rows: [*rows]).add_node("two", lambda rows: [*rows])
    dag = DAG("outer").add_node("rows", generate).add_node("sub", inner).connect("rows", "sub")
    ran = execute(dag)
    assert ran.status == "failed"
    assert "once only" in str(ran.exception())


@pytest.mark.same_process
def test_one_shot_iterator_as_an_input_has_one_consumer(run: Any) -> None:
    dag = DAG("d").add_node("one", lambda rows: [*rows]).add_node("two", lambda rows: [*rows])
    with pytest.raises(ValidationError, match="'one', 'two' take it") as caught:
        run(dag, rows=generate())
    assert (caught.value.node, caught.value.consumers) == ("rows", ("one", "two"))
    assert run(dag, rows=generate(), outputs=["two"]) == {"two": [1, 2, 3]}


# Deleting and replacing results.


def deleting(name: str = "load") -> DAG:
    """load -> eat, which deletes a result; then a consumer."""

    def eat(load, context: Context):
        del context.results[name]

    dag = DAG("deleting").add_node("load", lambda: [1]).add_node("eat", eat)
    dag.add_node("late", lambda load: load).connect("load", "eat").connect("load", "late")
    dag.nodes["late"].after(dag.nodes["eat"])
    return dag


@pytest.mark.process_mode
def test_consumer_of_a_deleted_result_fails_with_both_names(execute: Any) -> None:
    ran = execute(deleting())
    assert ran.statuses == {"load": "completed", "eat": "completed", "late": "failed"}
    problem = ran.errors["late"]
    assert isinstance(problem, MissingResultError)
    assert isinstance(problem, KeyError)
    assert (problem.node, problem.consumer, problem.parameter) == ("load", "late", "load")
    assert problem.reason == "deleted"
    assert all(text in str(problem) for text in ("'late'", "'load'", "deleted"))


def test_run_names_the_consumer_of_a_deleted_result(run: Any) -> None:
    with pytest.raises(ExecutionError, match="deleted") as caught:
        run(deleting())
    assert caught.value.node_name == "late"


@pytest.mark.same_process
def test_deleting_a_result_frees_it(run: Any) -> None:
    class Big:
        pass

    alive: list[Any] = []

    def make():
        big = Big()
        alive.append(weakref.ref(big))
        return big

    def use(make):
        return type(make).__name__

    def free(context: Context):
        del context.results["make"]
        return "freed"

    def look():
        gc.collect()
        wait_until(lambda: alive[-1]() is None)  # another thread may be on its way back
        return True

    dag = DAG("d").add_node("make", make).add_node("use", use).add_node("free", free)
    dag.add_node("pause", lambda: None).add_node("look", look)
    dag.connect("make", "use").connect("use", "free").connect("free", "pause")
    dag.connect("pause", "look")
    assert run(dag) is True


def test_replaced_result_is_what_later_consumers_get(run: Any) -> None:
    def change(load, context: Context):
        context.set("load", [*load, 2])

    dag = DAG("d").add_node("load", lambda: [1]).add_node("change", change)
    dag.add_node("late", lambda load: load).connect("load", "change").connect("load", "late")
    dag.nodes["late"].after(dag.nodes["change"])
    assert run(dag) == [1, 2]
    assert dag["load"] == [1, 2]


def test_result_set_for_a_node_to_come_is_replaced_by_its_own(run: Any) -> None:
    def early(context: Context):
        context.set("late", "early")

    dag = DAG("d").add_node("early", early).add_node("late", lambda: "own")
    dag.nodes["late"].after(dag.nodes["early"])
    assert run(dag) == "own"


def test_result_under_a_foreign_name_is_kept(run: Any) -> None:
    def note(context: Context):
        context["extra"] = 3
        return "extra" in context, context["extra"]

    dag = DAG("d").add_node("note", note)
    assert run(dag) == (True, 3)
    assert dag.results == {"note": (True, 3), "extra": 3}


def test_deleted_result_of_a_sink_is_not_its_value(run: Any) -> None:
    def wipe(context: Context):
        context.results.clear()
        return "wiped"

    dag = DAG("d").add_node("a", lambda: 1).add_node("wipe", wipe)
    dag.nodes["wipe"].after(dag.nodes["a"])
    assert run(dag) == "wiped"
    assert dag.results == {"wipe": "wiped"}


# A DAG edited while it runs.


def editing(edit: Any) -> DAG:
    """a -> edit -> c."""
    dag = DAG("editing").add_node("a", lambda: 1)
    dag.add_node("edit", lambda a: (edit(dag), a)[1]).add_node("c", lambda x: ("c", x))
    return dag.connect("a", "edit").connect("edit", "c")


@pytest.mark.same_process
def test_node_added_during_a_run_is_in_the_next(run: Any) -> None:
    def edit(dag):
        if "d" not in dag.nodes:
            dag.add_node("d", lambda x: ("d", x)).connect("c", "d")

    dag = editing(edit)
    assert run(dag) == ("c", 1)
    assert run(dag) == ("d", ("c", 1))


@pytest.mark.same_process
def test_node_replaced_during_a_run_is_new_in_the_next(run: Any) -> None:
    dag = editing(lambda dag: dag.replace_node("c", lambda x: ("new", x)))
    assert run(dag) == ("c", 1)
    assert run(dag) == ("new", 1)


@pytest.mark.same_process
def test_node_removed_during_a_run_is_gone_in_the_next(execute: Any) -> None:
    dag = editing(lambda dag: "c" in dag.nodes and dag.remove_node("c"))
    assert execute(dag).value == ("c", 1)
    assert dict(execute(dag).results) == {"a": 1, "edit": 1}


@pytest.mark.same_process
def test_edge_removed_during_a_run_is_gone_in_the_next(run: Any) -> None:
    dag = editing(lambda dag: dag.disconnect("edit", "c"))
    assert run(dag) == ("c", 1)
    with pytest.raises(ValidationError, match="'x' of 'c'"):
        run(dag)


@pytest.mark.same_process
def test_cycle_made_during_a_run_is_found_in_the_next(run: Any) -> None:
    def edit(dag):
        dag.connect("c", "a", input=False)

    dag = editing(edit)
    assert run(dag) == ("c", 1)
    with pytest.raises(ValidationError, match="cycle"):
        run(dag)
