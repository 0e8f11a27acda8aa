"""The effects that surround a node call, carried out by hand: no thread, no loop, no time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, Context
from fast_dag.call.effects import (
    LONGEST,
    ONE_SHOT,
    STOPPED,
    Await,
    Invoke,
    Outcome,
    Raised,
    Sleep,
    interpret,
)
from fast_dag.call.hooks import HANDLER, Hook, read_hooks
from fast_dag.call.policy import CallPolicy
from fast_dag.call.resources import Resources
from fast_dag.call.retry import is_retried, wait_after
from fast_dag.define.node import Node
from fast_dag.define.signature import ABSENT

if TYPE_CHECKING:
    from fast_dag import Run
    from fast_dag.call.effects import Effect


CONTEXT = Context()


class Told:
    """What a run is told by its calls."""

    blocks_loop = False

    def __init__(self) -> None:
        self.cut_off: tuple[str, ...] = ()
        self.failed: list[tuple[str, Exception, int]] = []
        self.outer = None
        self.home = self
        self.context = CONTEXT

    def handled(self, name: str, error: Exception, attempts: int) -> None:
        pass

    def retries(self, name: str, error: Exception, attempt: int, delay: float) -> None:
        self.failed.append((name, error, attempt))


def pre(node: Any, inputs: Any, context: Any) -> None: ...
def post(node: Any, inputs: Any, result: Any, context: Any) -> None: ...
def on_error(node: Any, inputs: Any, error: Any, context: Any) -> None: ...
def on_retry(
    node: Any, inputs: Any, error: Any, context: Any, attempt: Any, delay: Any
) -> None: ...
def cleanup(node: Any, context: Any) -> None: ...
def handler(node: Any, inputs: Any, error: Any) -> None: ...


HOOKS = {
    "pre_execute": pre,
    "post_execute": post,
    "on_error": on_error,
    "on_retry": on_retry,
    "cleanup": cleanup,
}
ERROR = ValueError("first")
AGAIN = ValueError("again")


def double(x: int) -> int:
    return 2 * x


def effects_of(
    node: Node[..., Any], hooks: Any = None, handles: Any = None, run: Any = None
) -> Any:
    """The effects of a call `double(3)`."""
    around = CallPolicy(
        node,
        read_hooks(hooks or {}),
        None if handles is None else Hook.read(handles, HANDLER, "error handler"),
    )
    return around.effects_of(run or Told(), ([3], {}))


def played(effects: Any, *answers: Any) -> tuple[list[Effect], Outcome | None]:
    """The effects that come when each is answered in turn, and the outcome, if it ended."""
    seen: list[Effect] = []
    answer: Any = None
    for following in [*answers, None]:
        try:
            seen.append(effects.send(answer))
        except StopIteration as stop:
            return seen, stop.value
        answer = following
    effects.close()
    return seen, None


def done(value: Any = None) -> Any:
    return value


TRY = ([3], {})


def called(func: Callable[..., Any], *args: Any) -> Invoke:
    return Invoke(func, args, False)


def cleaned(*args: Any) -> Invoke:
    return Invoke(cleanup, args, False, cleans_up=True)


def test_a_retried_call_is_attempts_and_waits() -> None:
    node = Node(double, retry=2, retry_delay=0.5, retry_backoff=3.0)
    run = Told()
    effects, outcome = played(
        effects_of(node, run=run), Raised(ERROR), True, Raised(AGAIN), True, done(6)
    )
    assert effects == [TRY, Sleep(0.5), TRY, Sleep(1.5), TRY]
    assert outcome == Outcome(True, 6, attempts=3)
    assert run.failed == [("double", ERROR, 1), ("double", AGAIN, 2)]


def test_the_last_failure_is_that_of_the_call() -> None:
    node = Node(double, retry=1)
    effects, outcome = played(effects_of(node), Raised(ERROR), True, Raised(AGAIN))
    assert effects == [TRY, Sleep(0.1), TRY]
    assert outcome == Outcome(False, AGAIN, attempts=2)


def test_every_phase_of_a_success_comes_in_its_order() -> None:
    node = Node(double)
    effects, outcome = played(effects_of(node, HOOKS, handler), *[done()] * 4)
    inputs = {"x": 3}
    assert effects == [
        called(pre, node, inputs, CONTEXT),
        TRY,
        called(post, node, inputs, None, CONTEXT),
        cleaned(node, CONTEXT),
    ]
    assert outcome == Outcome(True, None, attempts=1)


def test_every_phase_of_a_failure_comes_in_its_order() -> None:
    node = Node(double, retry=1, retry_delay=7)
    effects, outcome = played(
        effects_of(node, HOOKS, handler),
        done(),
        Raised(ERROR),
        done(),
        True,
        Raised(AGAIN),
        done(),
        done(),
        done(),
    )
    inputs = {"x": 3}
    assert effects == [
        called(pre, node, inputs, CONTEXT),
        TRY,
        called(on_retry, node, inputs, ERROR, CONTEXT, 1, 7.0),
        Sleep(7.0),
        TRY,
        called(on_error, node, inputs, AGAIN, CONTEXT),
        called(handler, node, inputs, AGAIN),
        cleaned(node, CONTEXT),
    ]
    assert outcome == Outcome(False, AGAIN, attempts=2)


def test_new_inputs_are_what_everything_after_sees() -> None:
    node = Node(double)
    effects, _ = played(effects_of(node, HOOKS), done({"x": 5}), done(10))
    assert effects[1:] == [
        ([5], {}),
        called(post, node, {"x": 5}, 10, CONTEXT),
    ]


def test_a_wait_that_the_end_of_the_run_cut_short_fails_with_the_attempt_before() -> None:
    effects, outcome = played(effects_of(Node(double, retry=5)), Raised(ERROR), False)
    assert effects == [TRY, Sleep(0.1)]
    assert outcome == Outcome(False, ERROR, attempts=1)


def test_a_hit_makes_no_attempt_and_still_runs_post_execute() -> None:
    node = Node(double, cache={})
    first, outcome = played(effects_of(node), done(6))
    assert first == [TRY]
    assert outcome == Outcome(True, 6, attempts=1, cached=False)
    effects, outcome = played(effects_of(node, HOOKS), done(), done(), done())
    assert effects == [
        called(pre, node, {"x": 3}, CONTEXT),
        called(post, node, {"x": 3}, 6, CONTEXT),
        cleaned(node, CONTEXT),
    ]
    assert outcome == Outcome(True, 6, attempts=0, cached=True)


def test_what_post_execute_returns_is_not_what_is_cached() -> None:
    node = Node(double, cache={})
    _, outcome = played(effects_of(node, {"post_execute": post}), done(6), done("told"))
    assert outcome is not None
    assert outcome.value == "told"
    _, outcome = played(effects_of(node))
    assert outcome is not None
    assert outcome.value == 6


def test_a_second_call_waits_for_the_first_and_takes_its_value() -> None:
    node = Node(double, cache={})
    first, second = effects_of(node), effects_of(node)
    assert next(first) == TRY
    waiting = next(second)
    assert isinstance(waiting, Await)
    with pytest.raises(StopIteration) as stop:
        first.send(done(6))
    assert stop.value.value == Outcome(True, 6, attempts=1, cached=False)
    with pytest.raises(StopIteration) as stop:
        second.send(True)
    assert stop.value.value == Outcome(True, 6, attempts=0, cached=True)


def test_keys_of_small_plain_values_are_made_at_once_and_others_by_a_call() -> None:
    cached = CallPolicy(Node(double, cache={}), {}, None)

    def first_effect(value: Any) -> Any:
        return next(cached.effects_of(Told(), ([value], {})))  # type: ignore[arg-type]

    small = [1, "a" * 10_000, 1.5, {"a": [1, (None, b"b")]}, list(range(500)), {1j}]
    assert [first_effect(value) for value in small] == [([value], {}) for value in small]
    others = [range(3), "a" * 10**7, list(range(10**4)), [[range(3)]], {"a": b"b" * 10**7}]
    for value in others:
        effect = first_effect(value)
        assert isinstance(effect, Invoke)
        assert not effect.is_async
    some = CallPolicy(Node(double, cache={"cache_key": []}), {}, None)
    assert next(some.effects_of(Told(), (others[:1], {}))) == (others[:1], {})  # type: ignore[arg-type]
    by_function = CallPolicy(Node(double, cache={"cache_key": lambda x: x}), {}, None)
    assert isinstance(next(by_function.effects_of(Told(), ([1], {}))), Invoke)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["fails", "is given up"])
def test_one_of_those_that_wait_takes_over(end: str) -> None:
    node = Node(double, cache={})
    first, second, third = effects_of(node), effects_of(node), effects_of(node)
    next(first)
    assert isinstance(next(second), Await)
    assert isinstance(next(third), Await)
    if end == "fails":
        with pytest.raises(StopIteration):
            first.send(Raised(ERROR))
    else:
        first.close()
    assert second.send(True) == TRY
    assert isinstance(third.send(True), Await)
    third.close()
    second.close()


def test_a_cached_call_whose_run_stops_while_it_waits_for_a_resource_is_stopped() -> None:
    run: Any = Told()
    opens = Hook.read(lambda: nullcontext(3), (), "factory")
    run.resources = Resources({"x": opens}, CONTEXT)
    node = Node(double, cache={})
    first = CallPolicy(Node(double), {}, None, ["x"]).effects_of(run, ([ABSENT], {}))
    second = CallPolicy(node, {}, None, ["x"]).effects_of(run, ([ABSENT], {}))
    next(first)
    assert isinstance(next(second), Await)
    with pytest.raises(StopIteration) as stop:
        second.send(False)
    assert stop.value.value is STOPPED
    assert Outcome(False, None, attempts=0) == STOPPED, "which all runs share"
    first.close()


def test_a_call_that_is_waited_for_no_longer_is_stopped() -> None:
    node = Node(double, cache={})
    first, second = effects_of(node), effects_of(node, {"on_error": on_error, "cleanup": cleanup})
    next(first)
    assert isinstance(next(second), Await)
    assert second.send(False) == cleaned(node, CONTEXT), "on_error sees no cancellation"
    with pytest.raises(StopIteration) as stop:
        second.send(done())
    assert stop.value.value is STOPPED
    first.close()


@pytest.mark.parametrize(
    ("phase", "answers"),
    [
        ("pre_execute", []),
        ("post_execute", [done(6)]),
        ("cleanup", [done(6)]),
    ],
)
def test_a_hook_that_raises_is_named_and_not_retried(phase: str, answers: list[Any]) -> None:
    node = Node(double, retry=3)
    effects, outcome = played(
        effects_of(node, {phase: HOOKS[phase]}), *answers, Raised(ERROR), done()
    )
    assert sum(effect == TRY for effect in effects) == len(answers)
    assert outcome is not None
    assert (outcome.ok, outcome.value, outcome.where) == (False, ERROR, f"{phase} hook")


def test_a_handler_gives_the_result_of_a_failed_node() -> None:
    effects, outcome = played(effects_of(Node(double), None, handler), Raised(ERROR), done(0))
    assert outcome == Outcome(True, 0, attempts=1)
    assert len(effects) == 2


def test_an_error_of_the_handler_replaces_and_keeps_the_first() -> None:
    raised = RuntimeError("handler")
    _, outcome = played(effects_of(Node(double), None, handler), Raised(ERROR), Raised(raised))
    assert outcome is not None
    assert (outcome.value, outcome.where) == (raised, "error handler")
    assert raised.__cause__ is ERROR


def test_waits_take_no_more_than_they_say_on_a_clock_of_our_own() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    calls: list[float] = []

    def call(func: Callable[..., Any], *args: Any) -> Any:
        calls.append(now)
        raise ERROR

    options = {"retry": 5, "retry_delay": 1.0, "retry_backoff": 2.0, "retry_max_delay": 5.0}
    outcome = interpret(effects_of(Node(double, **options)), double, call, done, sleep)
    assert calls == [0.0, 1.0, 3.0, 7.0, 12.0, 17.0]
    assert outcome == Outcome(False, ERROR, attempts=6)


def test_defaults_of_waits() -> None:
    assert [wait_after(k, {}) for k in (1, 2, 3, 4)] == pytest.approx([0.1, 0.2, 0.4, 0.8])


seconds = st.floats(0, 1e6)


@given(k=st.integers(1, 30), delay=seconds, backoff=st.floats(0, 10), most=st.none() | seconds)
def test_waits_grow_by_the_formula_up_to_the_cap(
    k: int, delay: float, backoff: float, most: float | None
) -> None:
    options = {"retry_delay": delay, "retry_backoff": backoff, "retry_max_delay": most}
    wanted = delay * backoff ** (k - 1)
    assert wait_after(k, options) == min(wanted, LONGEST if most is None else most)


@given(k=st.integers(1, 10), jitter=st.floats(0.01, 1))
def test_jitter_shortens_a_wait_by_its_part_at_most(k: int, jitter: float) -> None:
    options = {"retry_delay": 1.0, "retry_max_delay": 8.0, "retry_jitter": jitter}
    whole = min(2.0 ** (k - 1), 8.0)
    wait = wait_after(k, options)
    assert whole * (1 - jitter) * (1 - 1e-9) <= wait <= whole


def test_jitter_differs_from_wait_to_wait() -> None:
    assert len({wait_after(1, {"retry_jitter": True}) for _ in range(20)}) > 1


def test_backoff_beyond_all_numbers_waits_for_the_cap() -> None:
    assert wait_after(5000, {"retry_max_delay": 60}) == 60.0
    assert wait_after(5000, {}) == LONGEST
    assert wait_after(5000, {"retry_delay": 0}) == 0.0


@pytest.mark.parametrize(
    ("retry_on", "error", "expected"),
    [
        (None, ValueError(), True),
        (ValueError, ValueError(), True),
        (ValueError, KeyError(), False),
        (LookupError, KeyError(), True),
        ((ValueError, OSError), TimeoutError(), True),
        ((ValueError, OSError), KeyError(), False),
        (lambda error: "busy" in str(error), OSError("busy"), True),
        (lambda error: "busy" in str(error), OSError("gone"), False),
        (lambda error: 1, OSError(), True),
    ],
)
def test_retry_on_tells_what_is_tried_again(retry_on: Any, error: Any, expected: bool) -> None:
    effects, _ = played(effects_of(Node(double, retry=1, retry_on=retry_on)), Raised(error))
    assert effects == ([TRY, Sleep(0.1)] if expected else [TRY])


def test_a_predicate_that_raises_admits_nothing_and_leaves_a_note() -> None:
    error = OSError("busy")
    assert not is_retried(error, {"retry_on": lambda error: error.nothing})
    assert "retry_on raised for it: AttributeError" in error.__notes__[0]


def test_a_plain_node_is_called_without_anything_around_it() -> None:
    dag = DAG("plain")
    first = dag.node(name="first")(double)
    second = dag.node(name="second")(double)
    first >> second
    run = dag.execute(x=3)
    assert [step.call for step in run._execution.plan.steps] == [double, double]
    assert policies(run) == [None, None]
    assert run.value == 12


def policies(run: Run) -> list[CallPolicy | None]:
    """What surrounds the call of each node."""
    return [step.policy for step in run._execution.plan.steps]


@pytest.mark.parametrize("ask", ["hook", "handler", "retry", "cache"])
def test_only_what_was_asked_for_surrounds_a_node(ask: str) -> None:
    dag = DAG("one of two")
    options: dict[str, Any] = {"retry": {"retry": 1}, "cache": {}}.get(ask, {})
    (dag.cached_node if ask == "cache" else dag.node)(name="asked", **options)(double)
    dag.node(name="plain")(double)
    if ask == "hook":
        dag.set_node_hooks("asked", cleanup=cleanup)
    elif ask == "handler":
        dag.set_node_error_handler("asked", handler)
    asked, plain = policies(dag.execute(x=1))
    assert asked is not None
    assert plain is None


@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_new_default_hooks_are_seen_by_the_next_run(mode: str) -> None:
    dag = DAG("later")
    dag.node(name="plain")(double)
    assert policies(dag.execute(x=1, mode=mode)) == [None]
    seen: list[str] = []
    dag.set_default_hooks(cleanup=lambda node: seen.append(node.name))
    assert dag.run(x=1, mode=mode) == 2
    assert seen == ["plain"]
    dag.set_default_hooks(cleanup=None)
    assert policies(dag.execute(x=1, mode=mode)) == [None]


@pytest.mark.parametrize("value", [None, 1, "", [], (), {}, object(), ..., range(3), nullcontext()])
def test_kind_of_a_common_value_is_found_once(value: Any) -> None:
    assert ONE_SHOT[type(value)] is False
    assert type(value) in ONE_SHOT
