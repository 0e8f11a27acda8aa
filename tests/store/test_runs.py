"""Runs with a store: begun, gone on with, looked at, run again."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ConditionalReturn,
    Context,
    ExecutionError,
    SelectReturn,
    ValidationError,
)
from fast_dag.errors import MissingResultError, UnknownNodeError
from fast_dag.store import (
    DecodeError,
    EncodeError,
    InDoubtError,
    RunExistsError,
    RunInUseError,
    Store,
    StoredError,
    StoreError,
    UnknownRunError,
)
from fast_dag.store.errors import DamagedError
from fast_dag.store.values import Values
from tests.patience import LONG, timeouts
from tests.store.shop import Item, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.db", durability="process") as made:
        yield made


class Calls(list[str]):
    """What was called, and what shall fail."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: set[str] = set()

    def node(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.append(name)
            if name in self.fail:
                raise ValueError(f"{name} fails")
            return value(*args)

        return call

    def taken(self) -> list[str]:
        taken = list(self)
        self.clear()
        return taken


@pytest.fixture
def calls() -> Calls:
    return Calls()


def shop(calls: Calls) -> DAG:
    """load -> price -> total -> send, and load -> stock -> send; price is nested: net -> gross."""
    inner = DAG("inner")
    inner.add_node("net", calls.node("net", lambda load: load + 1), inputs=["load"])
    inner.add_node("gross", calls.node("gross", lambda net: net * 2), inputs=["net"])
    inner.connect("net", "gross")
    dag = DAG("shop")
    dag.add_node("load", calls.node("load", lambda n: n), inputs=["n"])
    dag.add_node("price", inner)
    dag.add_node("stock", calls.node("stock", lambda load: [load]), inputs=["load"])
    dag.add_node("total", calls.node("total", lambda price: price + 0.5), inputs=["price"])
    dag.add_node("send", calls.node("send", lambda a, b: (a, b)), inputs=["total", "stock"])
    dag.connect("load", "price", input="load").connect("load", "stock")
    dag.connect("price", "total").connect("total", "send", input="total")
    return dag.connect("stock", "send", input="stock")


VALUE = (22.5, [10])
ALL = ["load", "net", "gross", "stock", "total", "send"]


def test_finished_run_is_returned_and_nothing_runs(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    first = dag.execute(store=store, run_id="a", n=10)
    assert (first.value, sorted(calls.taken())) == (VALUE, sorted(ALL))
    again = shop(calls).execute(store=store, run_id="a")
    assert (again.value, again.status, calls.taken()) == (VALUE, "completed", [])
    assert again.statuses == first.statuses
    assert again["price.net"] == 11
    assert again.inputs == {"n": 10}
    assert again.run_id == "a"
    assert list(again.timings) == list(first.timings)
    assert (again.metrics["replayed"], again.metrics["nodes_executed"]) == (5, 0)
    assert first.metrics["nodes_executed"] == 5
    assert "completed" in again.summary()
    assert "load" in again.visualize()


def test_run_without_id_gets_a_new_one(store: Store, calls: Calls) -> None:
    runs = [shop(calls).execute(store=store, n=10) for _ in range(2)]
    assert len({run.run_id for run in runs}) == 2
    assert [record.run_id for record in store.runs()] == [run.run_id for run in reversed(runs)]


def test_failed_run_is_final_until_it_is_run_again(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    calls.fail.add("gross")
    with pytest.raises(ExecutionError, match=r"'price\.gross'.*gross fails"):
        dag.run(store=store, run_id="a", n=10)
    calls.taken()
    calls.fail.clear()
    with pytest.raises(ExecutionError, match="gross fails") as caught:
        dag.run(store=store, run_id="a")
    cause = caught.value.__cause__
    assert isinstance(cause, StoredError)
    assert (cause.type, cause.message) == ("ValueError", "gross fails")
    assert "in call" in cause.traceback
    assert calls.taken() == []
    assert dag.last_run is not None
    assert list(dag.last_run.errors) == ["price.gross"]
    assert dag.run(store=store, run_id="a", rerun="failed") == VALUE
    assert calls.taken()[0] == "gross", "what was computed inside is not computed again"
    assert dag.run(store=store, run_id="a") == VALUE


def test_failure_that_was_committed_stands_when_the_run_goes_on(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    asked: list[str] = []

    def handler(name: str, error: Exception, context: Context) -> str:
        asked.append(name)
        return "continue"

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    calls.fail.add("stock")
    total = dag.nodes["total"].func
    dag.replace_node("total", interrupt, inputs=["price"])
    with pytest.raises(KeyboardInterrupt):
        dag.execute(store=store, run_id="a", n=10, error_handler=handler)
    assert (store.run("a").status, asked) == ("interrupted", ["stock"])
    dag.replace_node("total", total, inputs=["price"])
    calls.taken()
    run = dag.execute(store=store, run_id="a", error_handler=handler)
    assert (run.status, calls.taken(), asked) == ("completed_with_errors", ["total"], ["stock"])
    assert run.statuses["send"] == "skipped"
    assert str(run.errors["stock"]) == "ValueError: stock fails"


def test_named_nodes_and_what_is_below_them_are_run_again(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10)
    calls.taken()
    assert dag.run(store=store, run_id="a", rerun="stock") == VALUE
    assert calls.taken() == ["stock", "send"]
    assert dag.run(store=store, run_id="a", rerun=["price.gross"]) == VALUE
    assert calls.taken() == ["gross", "total", "send"]
    assert dag.run(store=store, run_id="a", rerun=dag.nodes["price"]) == VALUE
    assert calls.taken() == ["net", "gross", "total", "send"]
    assert store.run("a").generation == 4
    with pytest.raises(ValidationError, match=r"no node 'stok'.*'stock'"):
        dag.run(store=store, run_id="a", rerun="stok")


def test_rerun_that_was_interrupted_is_continued(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10)

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    send = dag.nodes["send"].func
    dag.replace_node("send", interrupt, inputs=["total", "stock"])
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a", rerun="stock")
    dag.replace_node("send", send, inputs=["total", "stock"])
    calls.taken()
    assert dag.run(store=store, run_id="a", rerun="stock") == VALUE
    assert calls.taken() == ["send"]


def test_rerun_of_an_unknown_id_starts_it(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    with pytest.raises(UnknownNodeError, match="no node 'faild'"):
        dag.run(store=store, run_id="new", rerun="faild", n=10)
    assert store.runs() == []
    assert dag.run(store=store, run_id="new", rerun="failed", n=10) == VALUE


# What differs.


def test_other_inputs_outputs_and_workflows_are_refused(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10)
    assert dag.run(store=store, run_id="a", n=10) == VALUE
    with pytest.raises(RunExistsError, match="the input 'n' is another"):
        dag.run(store=store, run_id="a", n=11)
    with pytest.raises(RunExistsError, match="outputs were not given"):
        dag.run(store=store, run_id="a", outputs=["stock"])
    with pytest.raises(RunExistsError, match="is one of 'shop', not of 'other'"):
        DAG("other").add_node("one", lambda: 1).run(store=store, run_id="a")
    defaults = DAG("defaults").add_node("one", lambda x=1: x)
    defaults.run(store=store, run_id="b")
    with pytest.raises(RunExistsError, match="'x' was not given then"):
        defaults.run(store=store, run_id="b", x=1)


def test_outputs_are_taken_from_the_store(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    assert dag.run(store=store, run_id="a", n=10, outputs=["stock"]) == {"stock": [10]}
    assert dag.run(store=store, run_id="a") == {"stock": [10]}
    assert calls.taken() == ["load", "stock"]


@pytest.mark.parametrize("run_id", ["", "a/b", "a\nb", "x" * 201, 7])
def test_id_that_is_none_is_refused(run_id: Any, store: Store) -> None:
    with pytest.raises(ValidationError, match="1 to 200 printable characters"):
        DAG("demo").add_node("one", lambda: 1).run(store=store, run_id=run_id)


def test_options_that_do_not_go_together_are_refused(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    earlier = dag.execute(n=10)
    with pytest.raises(ValidationError, match="rerun="):
        dag.run(store=store, resume=earlier, n=10)
    with pytest.raises(ValidationError, match=r"store\.fork"):
        dag.run_until("load", store=store, n=10)
    with pytest.raises(ValidationError, match="run_id= is for runs with store="):
        dag.run(run_id="a", n=10)
    with pytest.raises(ValidationError, match="tags= is for runs with store="):
        dag.run(tags={}, n=10)
    with pytest.raises(ValidationError, match=r"inputs=\{'store'"):
        dag.run(store="runs.db", n=10)
    with pytest.raises(ValidationError, match="run_id 'b', but run_id= is 'a'"):
        dag.run(store=store, run_id="a", n=10, context=Context(metadata={"run_id": "b"}))
    with pytest.raises(ValidationError, match="not given: say run_id='b'"):
        dag.run(store=store, n=10, context=Context(metadata={"run_id": "b"}))
    assert store.runs() == []
    named = DAG("named").add_node("both", lambda store, tags: (store, tags))
    assert named.run({"store": 1, "tags": 2}, store=store) == (1, 2)


def test_machine_with_a_store_is_refused_and_as_a_node_it_is_one_row(store: Store) -> None:
    fsm = FSM("count", initial_state="up", terminal_states=["done"])
    fsm.add_state("up", lambda n: n + 1).add_state("done", lambda n: n).add_transition("up", "done")
    with pytest.raises(ValidationError, match="machine"):
        fsm.run(store=store, n=1)
    dag = DAG("with a machine").add_node("count", fsm)
    assert dag.run(store=store, run_id="a", n=1) == 2
    assert list(store.run("a").nodes) == ["count"]
    assert dag.run(store=store, run_id="a") == 2


@pytest.mark.parametrize("name", ["ask", "pause"])
def test_workflow_says_what_waits_in_its_place(name: str) -> None:
    for workflow in (DAG("orders"), FSM("orders")):
        with pytest.raises(AttributeError, match=rf"'{name}': runs do not wait.*snapshot"):
            getattr(workflow, name)
        with pytest.raises(AttributeError, match=f"'{type(workflow).__name__}' object has no"):
            workflow.poll  # type: ignore[attr-defined]


def test_mistake_in_the_inputs_leaves_no_run(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    with pytest.raises(ValidationError, match="lacks values"):
        dag.run(store=store, run_id="a")
    with pytest.raises(EncodeError, match="input 'n'"):
        dag.run(store=store, run_id="a", n=object())
    with pytest.raises(ValidationError, match="once only"):
        dag.run(store=store, run_id="a", n=iter([1]))
    assert store.runs() == []
    assert dag.run(store=store, run_id="a", n=10) == VALUE


# Values.


def test_value_that_cannot_be_stored_fails_its_node(store: Store) -> None:
    dag = DAG("odd").add_node("one", lambda: {"f": [print]}, retry=3)
    handled: list[Any] = []
    dag.set_node_error_handler("one", lambda node, inputs, error: handled.append(error))
    run = dag.execute(store=store, run_id="a")
    assert (run.status, handled) == ("failed", [])
    error = run.errors["one"]
    assert isinstance(error, EncodeError)
    assert error.place == "['f'][0]"
    assert "stored=False" in str(error)
    assert str(store.run("a").errors["one"]).startswith("fast_dag.store.errors.EncodeError")


def test_error_of_a_value_names_the_place_in_what_the_user_returned(store: Store) -> None:
    dag = DAG("decides").add_node(
        "check", lambda: ConditionalReturn(True, {"f": [print]}), type="condition"
    )
    dag.add_node("end", lambda x: x).connect("check", "end", output="true")
    error = dag.execute(store=store, run_id="a").errors["check"]
    assert isinstance(error, EncodeError)
    assert error.place == "['f'][0]"


def test_failure_with_a_long_text_can_be_read_again(store: Store) -> None:
    def fails() -> None:
        raise ValueError("\N{SNOWMAN}" * 100_000)

    dag = DAG("tells much").add_node("one", fails)
    for _ in range(2):
        error = dag.execute(store=store, run_id="a").errors["one"]
    assert str(error).startswith("ValueError: \N{SNOWMAN}")
    assert str(store.run("a").errors["one"]) == str(error)


def test_value_that_is_not_stored_is_computed_again_where_it_is_needed(
    store: Store, calls: Calls
) -> None:
    dag = DAG("handles")
    dag.add_node("open", calls.node("open", object), stored=False)
    dag.add_node("read", calls.node("read", lambda handle: 1), inputs=["handle"])
    dag.add_node("use", calls.node("use", lambda a, handle: a + 1), inputs=["a", "handle"])
    dag.connect("open", "read").connect("read", "use", input="a")
    dag.connect("open", "use", input="handle")
    calls.fail.add("use")
    assert dag.execute(store=store, run_id="a").status == "failed"
    assert calls.taken() == ["open", "read", "use"]
    calls.fail.clear()
    assert dag.run(store=store, run_id="a", rerun="failed") == 2
    assert calls.taken() == ["open", "use"]
    run = dag.execute(store=store, run_id="a")
    assert (run.value, calls.taken()) == (2, [])
    for ended in (run, store.run("a")):
        with pytest.raises(MissingResultError, match="stored=False"):
            ended["open"]
    with pytest.raises(UnknownNodeError, match=r"no node 'opne' \(did you mean 'open'"):
        store.run("a")["opne"]


def test_run_whose_last_value_is_not_stored_does_not_return_that_of_another_node(
    store: Store, calls: Calls
) -> None:
    dag = DAG("handles").add_node("a", lambda: 1)
    dag.add_node("open", calls.node("open", lambda: "opened"), stored=False)
    dag.add_node("check", lambda: False, type="condition")
    dag.add_node("last", calls.node("last", lambda: "last"))
    dag.connect("check", "last", output="true")
    assert dag.run(store=store, run_id="a") == "opened"
    assert dag.run(store=store, run_id="a") is None
    assert calls.taken() == ["open"]
    assert dag.run(store=store, run_id="a", rerun="check") == "opened", "it goes on"


def test_nested_workflow_that_goes_on_has_its_value_though_the_node_of_it_is_not_stored(
    store: Store, calls: Calls
) -> None:
    def waits() -> None:
        if calls.fail:
            raise KeyboardInterrupt(calls.fail.pop())

    inner = DAG("inner").add_node("open", calls.node("open", lambda: "opened"), stored=False)
    inner.add_node("check", lambda: False, type="condition").add_node("last", lambda: "last")
    inner.connect("check", "last", output="true")
    inner.add_node("waits", waits).connect("waits", "last", input=False)
    dag = DAG("outer").add_node("sub", inner).add_node("use", lambda sub: f"{sub}!")
    dag.connect("sub", "use")
    calls.fail.add("waits")
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a")
    assert dag.run(store=store, run_id="a") == "opened!"
    assert calls.taken() == ["open", "open"]


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_branch_waits_for_the_value_that_its_decider_passes_on_and_that_is_not_stored(
    store: Store, calls: Calls, mode: Any
) -> None:
    dag = DAG("handles").add_node(
        "use", calls.node("use", lambda handle: handle), inputs=["handle"]
    )
    dag.add_node("inner", calls.node("inner", lambda handle: True), type="condition", inputs=["h"])
    dag.add_node("check", calls.node("check", lambda handle: True), type="condition", inputs=["h"])
    dag.add_node("open", calls.node("open", lambda: "opened"), stored=False)
    dag.connect("open", "check").connect("check", "inner", output="true")
    dag.connect("inner", "use", output="true")
    calls.fail.add("use")
    assert dag.execute(store=store, run_id="a", mode=mode).status == "failed"
    calls.fail.clear()
    assert calls.taken() == ["open", "check", "inner", "use"]
    calls.fail.add("open")
    run = dag.execute(store=store, run_id="a", rerun="failed", mode=mode)
    assert (run.status, calls.taken()) == ("failed", ["open"])
    calls.fail.clear()
    run = dag.execute(store=store, run_id="a", rerun="failed", mode=mode)
    assert (run.value, calls.taken()) == ("opened", ["open", "use"])
    assert run.metrics["replayed"] == 2


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_value_that_cannot_be_computed_again_fails_its_node_and_undoes_nothing(
    store: Store, calls: Calls, mode: Any
) -> None:
    def late(mail: str = "not sent") -> str:
        calls.append("late")
        return mail

    dag = DAG("mails")
    dag.add_node("open", calls.node("open", object), stored=False)
    dag.add_node("charge", calls.node("charge", lambda handle: 1), inputs=["handle"])
    dag.add_node("mail", calls.node("mail", lambda handle, paid: "sent"), inputs=["handle", "paid"])
    dag.add_node("late", late).connect("open", "charge").connect("open", "mail", input="handle")
    dag.connect("charge", "mail", input="paid").connect("mail", "late", optional=True)
    options: Any = {"store": store, "run_id": "a", "mode": mode, "error_strategy": "continue"}
    calls.fail.add("mail")
    assert dag.execute(**options).value == "not sent"
    calls.fail.add("open")
    run = dag.execute(**options, rerun="failed")
    assert (run.status, str(run.errors["open"])) == (
        "completed_with_errors",
        "open fails",
    )
    assert store.run("a").nodes["open"].status == "failed"
    assert store.run("a").nodes["charge"].status == "completed"
    calls.fail.clear()
    calls.clear()
    assert dag.run(**options, rerun="failed") == "sent"
    assert calls.taken() == ["open", "mail", "late"], "nobody is charged again"
    assert dag.run(**options, rerun="mail") == "sent"
    assert calls.taken() == ["open", "mail", "late"]
    assert store.doctor()["problems"] == []


def test_stores_and_their_records_are_not_copied(store: Store, calls: Calls) -> None:
    shop(calls).run(store=store, run_id="a", n=10)
    for each in (store, store.run("a")):
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="open a Store of the same path"):
                copied(each)


def test_finished_run_knows_the_items_of_its_maps(store: Store) -> None:
    dag = DAG("squares").add_node("square", lambda x: x * x, over="x")
    dag.run(store=store, run_id="a", x=[1, 2])
    run = dag.execute(store=store, run_id="a")
    assert (run.items("square").completed, run["square[1]"]) == (2, 4)


def test_large_value_has_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    dag = DAG("large").add_node("one", lambda: b"x" * 300_000).add_node("two", lambda one: len(one))
    dag.connect("one", "two").run(store=store, run_id="a")
    files = [each for each in (tmp_path / "runs.db-values").rglob("*") if each.is_file()]
    assert [each.stat().st_mode & 0o777 for each in files] == [0o600]
    assert dag.execute(store=store, run_id="a")["one"] == b"x" * 300_000
    files[0].write_bytes(b"y" * 300_000)
    with pytest.raises(StoreError, match="damaged"):
        dag.execute(store=store, run_id="a")
    assert store.doctor()["problems"] != []


def test_what_is_kept_in_the_context_is_there_when_the_run_goes_on(store: Store) -> None:
    dag = DAG("pages")
    seen: list[Any] = []

    @dag.node
    def one(context: Context) -> int:
        context.keep("page", [3])
        context.metadata["other"] = 4
        return 1

    @dag.node
    def two(one: int, context: Context) -> int:
        seen.append((context.metadata.get("page"), context.metadata.get("other")))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return 2

    _ = one >> two
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a")
    dag.run(store=store, run_id="a")
    assert seen == [([3], 4), ([3], None)]
    assert dag.execute(store=store, run_id="a").context.metadata["page"] == [3]


def keeps(context: Context) -> int:
    context.keep("page", [3])
    context.metadata["other"] = 4
    return 1


def keeps_a_function(context: Context) -> int:
    context.keep("page", keeps)
    return 1


def dies(one: int, context: Context) -> int:
    if context.metadata.pop("dies", None):
        raise KeyboardInterrupt
    return int(context.metadata["page"][0])


@pytest.mark.needs("cloudpickle")
def test_what_a_worker_process_keeps_is_stored_with_its_node(store: Store) -> None:
    dag = DAG("away").add_node("one", keeps, run_in="process").add_node("two", dies)
    dag.connect("one", "two")
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a", context=Context(metadata={"dies": True}), mode="process")
    run = dag.execute(store=store, run_id="a", mode="sequential")
    assert (run.value, run.context.metadata["page"]) == (3, [3])
    assert "other" not in run.context.metadata
    dag.replace_node("one", keeps_a_function)
    with pytest.raises(ExecutionError, match=r"node 'one' .* failed: EncodeError"):
        dag.run(store=store, run_id="b", mode="process")


# Owners.


def test_run_at_work_elsewhere_is_refused_and_named(store: Store, tmp_path: Path) -> None:
    begun, end = Event(), Event()
    dag = DAG("slow")

    @dag.node
    def wait() -> int:
        begun.set()
        assert end.wait(LONG)
        return 1

    thread = Thread(target=dag.run, kwargs={"store": store, "run_id": "a"})
    thread.start()
    assert begun.wait(LONG)
    try:
        with pytest.raises(RunInUseError, match=r"at work in this process \(\d+ on"):
            dag.run(store=store, run_id="a")
        with Store(tmp_path / "runs.db") as other, pytest.raises(RunInUseError):
            dag.run(store=other, run_id="a")
        assert store.run("a").status == "running"
        assert str(store.run("a").owner).startswith("this process ")
    finally:
        end.set()
        thread.join()
    assert dag.run(store=store, run_id="a") == 1


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_cancelled_run_ends_at_its_next_commit_and_goes_on_when_run_again(
    mode: Any, store: Store, calls: Calls
) -> None:
    dag = DAG("long").add_node("one", calls.node("one", lambda: store.cancel("a")))
    dag.add_node("two", calls.node("two", lambda one: 2), inputs=["one"]).connect("one", "two")
    run = dag.execute(store=store, run_id="a", mode=mode)
    assert (run.status, calls.taken()) == ("cancelled", ["one"])
    for shown in (run, dag.execute(store=store, run_id="a")):
        assert (shown.statuses["one"], shown["one"]) == ("completed", True), "it was committed"
        assert shown.statuses["two"] == "not_run"
    with pytest.raises(ExecutionError, match="cancelled"):
        dag.run(store=store, run_id="a")
    assert store.run("a").status == "cancelled"
    assert dag.run(store=store, run_id="a", rerun="failed") == 2
    assert calls.taken() == ["two"], "the end that saw the cancellation was committed"
    assert store.cancel("a") is False


def test_run_that_nobody_works_on_is_cancelled_at_once(store: Store) -> None:
    dag = DAG("interrupted").add_node("one", lambda: 1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    dag.replace_node("one", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a")
    assert store.cancel("a") is True
    assert dag.execute(store=store, run_id="a").status == "cancelled"


def test_cancelled_task_leaves_the_run_interrupted(store: Store) -> None:
    dag, begun = DAG("slow"), asyncio.Event()

    @dag.node
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(dag.run_async(store=store, run_id="a"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert store.run("a").status == "interrupted"


def test_run_that_every_thread_of_the_loop_waits_for_begins_and_ends(store: Store) -> None:
    dag = DAG("one").add_node("one", lambda: 1)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))

        def wait() -> int:
            running = dag.run_async(store=store, run_id="a")
            value: int = asyncio.run_coroutine_threadsafe(running, loop).result(LONG)
            return value

        return await asyncio.to_thread(wait)

    assert asyncio.run(main()) == 1


def test_timed_out_run_is_final(store: Store) -> None:
    dag, begun, end = DAG("late"), Event(), Event()
    dag.add_node("one", lambda: 1).add_node("wait", lambda one: begun.set() or end.wait(LONG))
    dag.connect("one", "wait")
    try:
        for timeout in timeouts(0.05):
            run_id = f"late {timeout}"
            first = dag.execute(store=store, run_id=run_id, mode="parallel", timeout=timeout)
            again = dag.execute(store=store, run_id=run_id)
            if begun.is_set():
                break
    finally:
        end.set()
    assert (first.status, again.status) == ("timed_out", "timed_out")
    assert str(again.exception()) == str(first.exception())
    assert dag.run(store=store, run_id=run_id, rerun="failed") is True


# At most once.


def test_node_in_doubt_is_decided(store: Store, calls: Calls) -> None:
    dag = DAG("pay").add_node("order", calls.node("order", lambda: 7))
    ids: list[str] = []

    @dag.node(once=True)
    def charge(order: int, call_id: str) -> str:
        ids.append(call_id)
        if len(ids) == 1:
            raise KeyboardInterrupt
        return f"receipt {order}"

    dag.connect("order", "charge").add_node("ship", lambda charge: charge.upper())
    dag.connect("charge", "ship")
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="order-17")
    run = dag.execute(store=store, run_id="order-17")
    assert (run.status, run.results, run.metrics["replayed"]) == ("in_doubt", {"order": 7}, 1)
    with pytest.raises(InDoubtError, match=r"store\.decide\('order-17', 'charge'") as caught:
        dag.run(store=store, run_id="order-17")
    assert (caught.value.node, store.run("order-17").in_doubt) == ("charge", ["charge"])
    with pytest.raises(StoreError, match="not in doubt; in doubt are: 'charge'"):
        store.decide("order-17", "order", again=True)
    store.decide("order-17", "charge", again=True)
    assert dag.run(store=store, run_id="order-17") == "RECEIPT 7"
    assert ids == ["order-17/charge"] * 2
    assert dag.run(store=store, run_id="order-17", rerun="charge") == "RECEIPT 7"
    assert ids[2:] == ["order-17/charge~2"]
    assert calls.taken() == ["order"]


def test_node_in_doubt_may_be_given_its_value(store: Store) -> None:
    dag = DAG("pay")

    @dag.node(once=True)
    def charge() -> str:
        raise KeyboardInterrupt

    dag.add_node("ship", lambda charge: charge.upper()).connect("charge", "ship")
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a")
    store.decide("a", dag.nodes["charge"], value="receipt")
    assert dag.run(store=store, run_id="a") == "RECEIPT"


def test_late_call_of_a_node_that_is_called_once_is_in_doubt(store: Store) -> None:
    begun, end = Event(), Event()
    try:
        for timeout in timeouts(0.05):
            dag, run_id = DAG("pay"), f"late {timeout}"
            dag.add_node(
                "charge", lambda: begun.set() or end.wait(LONG), once=True, timeout=timeout
            )
            run = dag.execute(store=store, run_id=run_id)
            if begun.is_set():
                break
    finally:
        end.set()
    assert (run.status, store.run(run_id).status) == ("in_doubt", "in_doubt")
    assert store.run(run_id).nodes == {}


def test_failure_of_a_node_that_is_called_once_is_known(store: Store) -> None:
    dag = DAG("pay").add_node("charge", lambda: 1 / 0, once=True)
    assert dag.execute(store=store, run_id="a").status == "failed"
    assert store.run("a").in_doubt == []


@pytest.mark.parametrize("options", [{"retry": 1}, {"stored": False}])
def test_once_refuses_options_that_call_again(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="once"):
        DAG("pay").add_node("charge", lambda: 1, once=True, **options)


def test_once_inside_of_a_workflow_that_is_tried_again_is_refused() -> None:
    inner = DAG("inner").add_node("charge", lambda: 1, once=True)
    dag = DAG("pay").add_node("sub", inner, retry=1)
    with pytest.raises(ValidationError, match="once"):
        dag.run()


# Records.


def test_records_tell_what_there_is_and_find_runs(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10, tags={"customer": "ada", "size": 3})
    calls.fail.add("total")
    dag.execute(store=store, run_id="b", n=10, tags={"customer": "bob"})
    record = store.run("a")
    assert (record.workflow, record.status, record.generation) == ("shop", "completed", 1)
    assert record.tags == {"customer": "ada", "size": 3}
    assert list(record.nodes) == [
        "load",
        "price.net",
        "price.gross",
        "price",
        "stock",
        "total",
        "send",
    ]
    assert record["price.net"] == 11
    assert record.inputs == {"n": 10}
    assert record.ended is not None
    assert record.created <= record.nodes["load"].began <= record.ended
    failed = store.run("b")
    assert (failed.status, list(failed.errors)) == ("failed", ["total"])
    assert failed.statuses["send"] == "skipped"
    with pytest.raises(KeyError, match="failed"):
        failed["total"]
    with pytest.raises(UnknownRunError, match="no run 'c'"):
        store.run("c")
    for each in (record, failed):
        assert each.summary()
        assert "load" in each.visualize(show_results=True)
        assert each.to_html()
        assert each.to_dict()["run_id"] == each.run_id
    assert [each.run_id for each in store.runs()] == ["b", "a"]
    assert [each.run_id for each in store.runs(status="failed")] == ["b"]
    assert [each.run_id for each in store.runs(tag={"size": 3})] == ["a"]
    assert [each.run_id for each in store.runs(tag={"customer": "bob"}, workflow="shop")] == ["b"]
    assert [each.run_id for each in store.runs(limit=1)] == ["b"]
    assert [each.run_id for each in store.runs(before=failed.created)] == ["a"]
    assert [each.run_id for each in store.runs(after=record.created)] == ["b"]


def test_fork_shares_all_but_what_it_names(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10)
    calls.taken()
    assert store.fork("a", run_id="b", at="price.gross") == "b"
    record = store.run("b")
    assert (record.status, record.origin) == ("interrupted", "a")
    assert list(record.nodes) == ["load", "price.net", "stock"]
    assert dag.run(store=store, run_id="b") == VALUE
    assert calls.taken() == ["gross", "total", "send"]
    with pytest.raises(ValidationError, match="inputs is a mapping"):
        store.fork("b", run_id="c", at="send", inputs=[20])  # type: ignore[arg-type]
    store.fork("b", run_id="c", at=dag.nodes["send"], inputs={"n": 20})
    assert dag.run(store=store, run_id="c") == (42.5, [20])
    assert calls.taken() == ["load", "net", "gross", "stock", "total", "send"]
    store.prune()
    assert store.run("b").is_pruned
    with pytest.raises(RunExistsError, match="pruned"):
        dag.run(store=store, run_id="a")


def test_ids_of_calls_are_the_same_if_their_workflow_is_tried_again(store: Store) -> None:
    ids, fails = list[str](), [True, True]
    inner = DAG("inner").add_node("pay", lambda call_id: ids.append(call_id))
    inner.add_node("tell", lambda pay: 1 / (not fails or not fails.pop())).connect("pay", "tell")
    dag = DAG("outer").add_node("sub", inner, retry=2, retry_delay=0)
    dag.run(store=store, run_id="a")
    assert ids == ["a/sub.pay"] * 3
    dag.run(store=store, run_id="a", rerun="sub.pay")
    assert ids[3:] == ["a/sub.pay~2"]


def test_ids_of_calls_are_never_used_again_after_a_prune(store: Store) -> None:
    dag, ids = DAG("pay"), list[str]()
    dag.add_node("pay", lambda call_id: ids.append(call_id))
    dag.run(store=store, run_id="a")
    dag.run(store=store, run_id="a", rerun="pay")
    assert store.prune(0, status="failed").rows == 1
    dag.run(store=store, run_id="a", rerun="pay")
    assert ids == ["a/pay", "a/pay~2", "a/pay~3"]
    assert store.doctor()["problems"] == []
    assert store.prune(0, status="failed").rows == 1


def test_values_that_a_fork_shares_survive_their_origin(store: Store, calls: Calls) -> None:
    dag = DAG("large").add_node("one", calls.node("one", lambda: "x" * 300_000))
    dag.add_node("two", calls.node("two", lambda one: one), inputs=["one"]).connect("one", "two")
    dag.run(store=store, run_id="a")
    store.fork("a", run_id="b", at="two")
    pruned = store.prune()
    assert (pruned.runs, pruned.files) == (1, 0)
    calls.taken()
    assert dag.run(store=store, run_id="b") == "x" * 300_000
    assert calls.taken() == ["two"]
    assert store.prune(forget=True).files == 1, "both have ended"
    assert store.prune(forget=True).files == 0


def test_pruned_id_stays_taken_unless_it_is_forgotten(store: Store, calls: Calls) -> None:
    dag = shop(calls)
    dag.run(store=store, run_id="a", n=10)
    assert store.prune("30 days").runs == 0
    assert store.prune(dry_run=True).runs == 1
    assert store.prune().runs == 1
    with pytest.raises(RunExistsError, match="pruned"):
        dag.run(store=store, run_id="a", n=10)
    store.prune(forget=True)
    assert dag.run(store=store, run_id="a", n=10) == VALUE
    with pytest.raises(ValidationError, match="age"):
        store.prune("soon")


def test_backup_is_a_store(store: Store, calls: Calls, tmp_path: Path) -> None:
    dag = DAG("large").add_node("one", lambda: b"x" * 300_000)
    dag.run(store=store, run_id="a")
    store.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert dag.run(store=copy, run_id="a") == b"x" * 300_000
        assert copy.doctor()["problems"] == []
    with pytest.raises(StoreError):
        store.backup(tmp_path / "copy.db")


def test_prune_leaves_files_that_a_run_at_work_may_be_about_to_commit(
    store: Store, tmp_path: Path
) -> None:
    values = Values(str(tmp_path / "runs.db-values"))
    values.write(b"x" * 300_000)  # by a node that has ended, and is not committed yet
    dag = DAG("prunes").add_node("one", lambda: store.prune().files)
    assert dag.run(store=store) == 0
    assert store.prune().files == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe that has a name")
def test_backup_has_all_values_of_its_rows_though_a_prune_deletes_some_meanwhile(
    store: Store, calls: Calls, tmp_path: Path
) -> None:
    kept = DAG("kept").add_node("one", lambda: b"a" * 300_000)
    kept.run(store=store, run_id="kept")
    (path,) = (tmp_path / "runs.db-values").glob("*/*")
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # whoever reads it waits for us
    dag = DAG("pruned")
    for name in "bcdefgh":
        dag.add_node(name, lambda name=name: name * 300_000, inputs=[])
    dag.add_node("fails", calls.node("fails", int))
    calls.fail = {"fails"}
    dag.execute(store=store, run_id="pruned", error_strategy="continue")

    def meanwhile() -> None:
        with path.open("wb") as file:
            assert store.prune(status="completed_with_errors").files == 7
            file.write(data)

    thread = Thread(target=meanwhile)
    thread.start()
    store.backup(tmp_path / "copy.db")
    thread.join()
    with Store(tmp_path / "copy.db") as copy:
        assert copy.doctor()["problems"] == []
        assert copy.doctor()["unused_files"] == 0
        assert copy.run("pruned").is_pruned
        assert copy.run("kept")["one"] == b"a" * 300_000


def test_backup_of_a_store_that_lacks_a_value_is_an_error_and_leaves_no_half_a_copy(
    store: Store, tmp_path: Path
) -> None:
    dag = DAG("large").add_node("one", lambda: b"a" * 300_000)
    dag.run(store=store, run_id="a")
    (path,) = (tmp_path / "runs.db-values").glob("*/*")
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        store.backup(tmp_path / "copy.db")
    path.write_bytes(data)
    store.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert copy.run("a")["one"] == b"a" * 300_000


def test_closed_store_refuses_use_whatever_others_do(store: Store, calls: Calls) -> None:
    closing = Store(store.path)
    dag = DAG("closes").add_node("one", calls.node("one", closing.close))
    dag.add_node("two", lambda: 2).connect("one", "two")
    with pytest.raises(StoreError, match="is closed"):
        dag.run(store=closing, run_id="a")
    assert (store.run("a").status, dict(store.run("a").nodes)) == ("interrupted", {})
    record = store.run("a")
    for use in (
        lambda: dag.run(store=closing, run_id="a"),
        lambda: closing.run("a"),
        closing.runs,
        closing.doctor,
        closing.prune,
        lambda: closing.backup("copy.db"),
        lambda: closing.cancel("a"),
        lambda: dag.explain(store=closing, run_id="a"),
    ):
        with pytest.raises(StoreError, match="is closed"):
            use()
    closing.close()
    assert dag.run(store=store, run_id="a") == 2
    assert record.inputs == {}, "other Stores are as they were"


def test_runs_are_asked_for_by_what_they_can_be(store: Store) -> None:
    with pytest.raises(ValidationError, match="did you mean 'failed'"):
        store.runs(status="faild")
    with pytest.raises(ValidationError, match="a mapping such as"):
        store.runs(tag="ada")  # type: ignore[arg-type]
    with pytest.raises(UnknownRunError, match="has no run"):
        store.run("\udcfc")  # as a shell gives it whose locale has no such letter


def test_store_in_memory_keeps_runs_while_it_is_open(calls: Calls) -> None:
    with Store(":memory:") as store:
        dag = shop(calls)
        assert dag.run(store=store, run_id="a", n=10) == VALUE
        calls.taken()
        assert dag.run(store=store, run_id="a") == VALUE
        assert calls.taken() == []
    with pytest.raises(StoreError, match="closed"):
        dag.run(store=store, run_id="a")


# Maps.


def mapped(calls: Calls, **options: Any) -> DAG:
    dag = DAG("mapped").add_node("load", calls.node("load", lambda: list(range(250))))

    def square(n: int) -> int:
        calls.append(f"square {n}")
        if f"square {n}" in calls.fail:
            raise KeyboardInterrupt
        return n * n

    dag.map(name="squares", **options)(square)
    dag.add_node("sum", calls.node("sum", sum), inputs=["squares"])
    return dag.connect("load", "squares", input="n").connect("squares", "sum")


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_items_of_a_map_that_were_committed_are_not_called_again(
    mode: Any, store: Store, calls: Calls
) -> None:
    calls.fail.add("square 230")
    with pytest.raises(KeyboardInterrupt):
        mapped(calls).run(store=store, run_id="a", mode=mode)
    first = calls.taken()
    calls.fail.clear()
    assert mapped(calls).run(store=store, run_id="a", mode=mode) == sum(n * n for n in range(250))
    again = calls.taken()
    assert len(again) < 100
    called = {each for each in first if each not in again}
    assert called | set(again) == {f"square {n}" for n in range(250)} | {"load", "sum"}
    assert mapped(calls).run(store=store, run_id="a") == sum(n * n for n in range(250))
    assert calls.taken() == []


def test_items_that_completed_stay_when_what_failed_is_run_again(
    store: Store, calls: Calls
) -> None:
    dag = DAG("mapped")
    fails = [7]

    @dag.map
    def half(n: int) -> float:
        calls.append(str(n))
        if n in fails:
            raise ValueError("no")
        return n / 2

    run = dag.execute(store=store, run_id="a", n=[5, 6, 7, 8])
    assert (run.status, calls.taken()) == ("failed", ["5", "6", "7"])
    fails.clear()
    assert dag.run(store=store, run_id="a", rerun="failed") == [2.5, 3.0, 3.5, 4.0]
    assert calls.taken() == ["7", "8"]
    assert dag.run(store=store, run_id="a", rerun="half") == [2.5, 3.0, 3.5, 4.0]
    assert calls.taken() == ["5", "6", "7", "8"]


def test_values_of_the_engine_are_stored(store: Store, calls: Calls) -> None:
    dag = DAG("decides")
    dag.add_node(
        "check",
        calls.node("check", lambda n: ConditionalReturn(n > 1, {"n": n})),
        type="condition",
        inputs=["n"],
    )
    dag.add_node(
        "choose",
        calls.node("choose", lambda n: SelectReturn(["a", "b"], n)),
        type="select",
        several=True,
        inputs=["n"],
    )
    dag.add_node("one", lambda n: n["n"]).add_node("a", lambda n: n).add_node("b", lambda n: -n)
    dag.connect("check", "one", output="true")
    dag.connect("choose", "a", output="a").connect("choose", "b", output="b")

    def half(n: int) -> float:
        return 1 / n

    dag.map(name="halves", over="numbers", inputs=["numbers"], on_error="keep")(half)
    first = dag.execute(store=store, run_id="a", n=2, numbers=[1, 0])
    calls.taken()
    again = dag.execute(store=store, run_id="a")
    assert calls.taken() == []
    assert (again["one"], again["a"], again["b"]) == (2, 2, -2)
    assert again["check"] == first["check"] == ConditionalReturn(True, {"n": 2})
    one, failed = again["halves"]
    assert (one, failed.key, type(failed.error)) == (1.0, 1, StoredError)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_results_that_nobody_takes_any_more_may_be_dropped(
    mode: Any, store: Store, calls: Calls
) -> None:
    dag = shop(calls)
    assert dag.run(store=store, run_id="a", n=10, keep="outputs", mode=mode) == VALUE
    calls.taken()
    assert dag.run(store=store, run_id="a", rerun="send", keep="outputs", mode=mode) == VALUE
    assert calls.taken() == ["send"]


def test_further_attempt_of_a_nested_workflow_begins_anew(store: Store, calls: Calls) -> None:
    inner = DAG("inner").add_node("x", calls.node("x", lambda n: n), inputs=["n"])
    attempts: list[int] = []

    def unsure(x: int) -> int:
        attempts.append(x)
        if len(attempts) == 1:
            raise ValueError("once")
        if len(attempts) == 2:
            raise KeyboardInterrupt
        return x + 1

    inner.add_node("y", unsure).connect("x", "y")
    dag = DAG("outer").add_node("sub", inner, retry=1, retry_delay=0)
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a", n=1)
    assert calls.taken() == ["x", "x"]
    assert dag.run(store=store, run_id="a") == 2
    assert calls.taken() == [], "the second attempt goes on"
    assert (dag.execute(store=store, run_id="a")["sub.y"], len(attempts)) == (2, 3)


def test_resources_are_opened_again(store: Store) -> None:
    dag, opened = DAG("with a resource"), []

    @dag.resource("connection")
    def connect() -> Iterator[str]:
        opened.append("open")
        yield "connection"
        opened.append("close")

    @dag.node
    def one(connection: str) -> str:
        return connection

    @dag.node
    def two(one: str, connection: str) -> str:
        if len(opened) == 1:
            raise KeyboardInterrupt
        return one + connection

    _ = one >> two
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a")
    assert dag.run(store=store, run_id="a") == "connectionconnection"
    assert opened == ["open", "close", "open", "close"]


def test_run_whose_processes_die_again_and_again_has_failed(tmp_path: Path) -> None:
    dag = DAG("deadly").add_node("one", lambda: 1).add_node("two", lambda one: one)
    dag.connect("one", "two")
    with Store(tmp_path / "runs.db", max_resumes=3) as store:
        dag.run(store=store, run_id="a")
        store.fork("a", run_id="b", at="two")
        # As the third process in a row leaves it that dies with nothing committed.
        died = (
            "UPDATE runs SET status = 'running', deaths = 2,"
            " before = (SELECT MAX(id) FROM nodes WHERE run = runs.id) WHERE run_id = 'b'"
        )
        store.database.transact(lambda connection: connection.execute(died))
        with pytest.raises(ExecutionError, match=r"3 processes died.*'two'"):
            dag.run(store=store, run_id="b")
        with pytest.raises(ExecutionError, match=r"3 processes died.*'two'"):
            dag.run(store=store, run_id="b")
        assert dag.run(store=store, run_id="b", rerun="failed") == 1


def test_damaged_value_names_its_node_before_anything_runs(tmp_path: Path) -> None:
    calls = Calls()
    inner = DAG("inner").add_node("b", calls.node("b", lambda x: x + 1), inputs=["x"])
    dag = DAG("outer").add_node("a", calls.node("a", lambda: 1000)).add_node("sub", inner)
    dag.add_node("c", calls.node("c", lambda x: x), inputs=["x"])
    dag.connect("a", "sub", input="x").connect("sub", "c", input="x")
    calls.fail = {"c"}
    with Store(tmp_path / "runs.db") as store:
        dag.execute(store=store, run_id="a")
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute(
            "UPDATE nodes SET value = CAST(value || x'00' AS BLOB) WHERE path = 'sub.b'"
        )
    calls.taken()
    with Store(tmp_path / "runs.db") as store:
        with pytest.raises(DamagedError, match=r"node 'sub\.b'.*checksum") as caught:
            dag.execute(store=store, run_id="a", rerun="failed")
        assert (caught.value.node, calls.taken()) == ("sub.b", [])


def test_value_of_one_instruction_comes_back_as_it_was(store: Store) -> None:
    """One call of each of the short ways, and of values next to them."""
    values: list[Any] = [None, True, False, 0, -1, 127, 128, -129, 2**62, 2**63, -(2**200), 1.5]
    values += [float("-inf"), "", "a", "\udcff", "a" * 240, "a" * 247, "a" * 248, "a" * 300, b""]
    values += [b"x" * 250, {}, [], {"a": [1, {"b": None}]}, {"a": "b" * 260}, (1,), {1: 2}]
    dag = DAG("values").add_node("value", lambda value: value)
    for number, value in enumerate(values):
        dag.run(store=store, run_id=f"r{number}", value=value)
        again = dag.run(store=store, run_id=f"r{number}")
        assert (again, type(again)) == (value, type(value))


def test_run_whose_loop_was_closed_is_interrupted(store: Store) -> None:
    waits, begun = [True], []

    async def work() -> int:
        begun.append(1)
        while waits:
            await asyncio.Event().wait()
        return 1

    dag = DAG("closed").add_node("work", work)
    loop = asyncio.new_event_loop()
    coroutine = dag.run_async(store=store, run_id="a")
    task = loop.create_task(coroutine)
    while not begun:
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    coroutine.close()
    del task, coroutine, loop
    gc.collect()
    assert store.run("a").status == "interrupted"
    waits.clear()
    assert dag.run(store=store, run_id="a") == 1


def test_inputs_may_be_of_classes_that_annotations_of_parameters_name(store: Store) -> None:
    dag = DAG("orders")

    def count(order: Order, items: list[Item]) -> int:
        return len(order.items) + len(items)

    dag.add_node("count", count)
    given = {"order": Order([Item("tea")]), "items": [Item("cup")]}
    assert dag.run(given, store=store, run_id="r") == 2
    assert dag.run(given, store=store, run_id="r") == 2
    assert dag.run(store=store, run_id="r", rerun="count") == 2
    with pytest.raises(RunExistsError, match="'order' is another"):
        dag.run({**given, "order": Order([])}, store=store, run_id="r")


def test_decisions_and_inputs_of_forks_may_be_of_classes_that_the_workflow_names(
    store: Store,
) -> None:
    def pay(order: Order) -> Item:
        if not order.items:
            raise KeyboardInterrupt
        return order.items[0]

    dag = DAG("pays").add_node("pay", pay, once=True)
    with pytest.raises(KeyboardInterrupt):
        dag.run({"order": Order([])}, store=store, run_id="a")
    store.decide("a", "pay", value=Item("paid"))
    assert dag.run(store=store, run_id="a") == Item("paid")
    store.fork("a", run_id="b", at="pay", inputs={"order": Order([Item("tea")])})
    assert dag.run(store=store, run_id="b") == Item("tea")
    with pytest.raises(DecodeError, match=r"allow=\['tests.store.shop:Item'\]"):
        _ = store.run("b")["pay"]


@pytest.mark.parametrize(
    "asked",
    [{"status": ["failed"]}, {"limit": 1.5}, {"limit": -1}, {"workflow": 5}, {"tag": {"a": [1]}}],
    ids=str,
)
def test_what_runs_cannot_be_asked_for_is_an_error(store: Store, asked: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(asked))):
        store.runs(**asked)


def test_runs_of_a_workflow_are_found_by_it(store: Store) -> None:
    dag = DAG("one").add_node("a", lambda: 1)
    dag.run(store=store, run_id="r")
    assert [each.run_id for each in store.runs(workflow="one")] == ["r"]
    with pytest.raises(ValidationError, match="at is a name, not 5"):
        store.fork("r", at=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_names_that_are_no_text_are_an_error_of_the_store(store: Store, mode: Any) -> None:
    odd = "a\ud800"
    for dag in (DAG(odd).add_node("a", lambda: 1), DAG("d").add_node(odd, lambda: 1)):
        with pytest.raises(StoreError, match="UTF-8"):
            dag.run(store=store, mode=mode)

    def keeps(context: Context) -> None:
        context.keep(odd, 1)

    with pytest.raises(StoreError, match="UTF-8"):
        DAG("d").add_node("keeps", keeps).run(store=store, mode=mode)


def test_what_a_node_cannot_keep_is_told_with_its_name(store: Store) -> None:
    def keeps(context: Context) -> None:
        context.keep("open", {"files": [object()]})

    run = DAG("keeps").add_node("keeps", keeps).execute(store=store)
    error = run.errors["keeps"]
    assert isinstance(error, EncodeError)
    assert error.place == "['files'][0]"
    assert str(error).startswith("context.keep('open', ...): what is at ['files'][0]")
