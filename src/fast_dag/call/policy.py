"""What surrounds one node call. The order is written here only; parts that nobody asked for are
left out:

1. `pre_execute`, which may replace the inputs,
2. the cache is asked,
3. attempts: resources are opened, the function is called; after a failure `on_retry` and a wait,
4. the cache is filled,
5. `post_execute`, which may replace the result,
6. after a failure: `on_error`, then the node's error handler, which may give a result,
7. always: `cleanup`.

The `around` hook surrounds 2 to 5: it calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from types import CoroutineType

from fast_dag.call.arguments import named, unnamed
from fast_dag.call.effects import ONE_SHOT, STOPPED, Await, Outcome, Raised, Sleep, Surround
from fast_dag.call.retry import is_retried, wait_after
from fast_dag.define.node import NodeType
from fast_dag.define.signature import ABSENT
from fast_dag.errors import add_note, brief_of, failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context as Variables
    from typing import Any, Protocol

    from fast_dag.cache.single_flight import SingleFlight
    from fast_dag.cache.store import NodeCache
    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.call.hooks import Hook
    from fast_dag.call.host import Host
    from fast_dag.define.node import Node

    Inputs = dict[str, Any]

    class Around(Protocol):
        """A generator function that puts effects before and after those of a call. It may wait for
        its turn (`yield Await(...)`), yields from `effects` and returns their Outcome. The
        generator is closed if the call is given up."""

        def __call__(self, host: Host, effects: Effects, /) -> Effects: ...

    class Waiter(Protocol):
        """Runs coroutines, and carries out effects, in a thread that may block."""

        def wait(
            self, coroutine: Coroutine[Any, Any, Any], variables: Variables | None = None, /
        ) -> Any: ...
        def carry_out(
            self, effects: Effects, func: Callable[..., Any], variables: Variables, /
        ) -> Outcome: ...


class CallPolicy:
    """What surrounds the calls of one node.

    `arounds` put further effects around everything else here; the first of them is the innermost.

    >>> from fast_dag import DAG
    >>> node = DAG("demo").node(name="flaky", retry=1, retry_delay=0.5)(lambda: 0)
    >>> run = DAG("other").add_node("answer", lambda: 42).execute()
    >>> effects = CallPolicy(node, {}, None).effects_of(run._execution, ([], {}))
    >>> next(effects)
    ([], {})
    >>> effects.close()
    """

    __slots__ = (
        "around",
        "arounds",
        "by_position",
        "cache",
        "cleanup",
        "handler",
        "is_simple",
        "node",
        "on_error",
        "on_retry",
        "only_retries",
        "post_execute",
        "pre_execute",
        "resources",
        "sole",
    )

    def __init__(
        self,
        node: Node[..., Any],
        hooks: Mapping[str, Hook],
        handler: Hook | None,
        resources: Sequence[str] = (),
        arounds: Sequence[Around] = (),
    ) -> None:
        self.node = node
        self.arounds = arounds
        self.by_position = node.signature.by_position
        self.cache = node.cache
        self.handler = handler
        self.resources = resources
        self.pre_execute = hooks.get("pre_execute")
        self.around = hooks.get("around")
        self.post_execute = hooks.get("post_execute")
        self.on_error = hooks.get("on_error")
        self.on_retry = hooks.get("on_retry")
        self.cleanup = hooks.get("cleanup")
        # Then nothing happens before the first attempt fails, and the inputs need no names.
        self.only_retries = not (hooks or handler or self.cache or resources)
        names = self.by_position or ()
        self.sole = names[0] if len(names) == 1 and not self.only_retries else None
        self.is_simple = not (
            resources
            or arounds
            or self.around
            or (self.cache is not None and self.cache.shared)
            or any(hook.is_async for hook in hooks.values())
        )

    @property
    def awaits_around(self) -> bool:
        """Whether an async hook is around the call."""
        return self.around is not None and self.around.is_async

    def effects_of(self, host: Host, attempt: Attempt) -> Effects:
        """One call of the node, as effects; `attempt` are the arguments."""
        effects = self._effects_of(host, attempt)
        for around in self.arounds:
            effects = around(host, effects)
        return effects

    def _effects_of(self, host: Host, attempt: Attempt) -> Effects:
        if self.only_retries:
            return (yield from self._attempts(host, {}, attempt))
        inputs = self._named(attempt)
        # The arguments as gathered. They serve the first attempt, unless resources or a hook may
        # have changed the inputs; then each attempt makes its arguments from `inputs`.
        kept: Attempt | None = attempt
        for name in self.resources:  # opened later, and not part of a cache's key
            kept = None
            if inputs[name] is ABSENT:
                del inputs[name]
        outcome: Outcome | None = None
        if self.pre_execute is not None:
            kept = None
            answer = yield self.pre_execute.invoke(self.node, inputs, host.context)
            if answer is not None:
                try:
                    inputs = _new_inputs(answer)
                except failures() as error:
                    outcome = _failed(error, "pre_execute hook")
        if outcome is None and self.around is not None:
            outcome = yield from self._surrounded(self.around, host, inputs)
        elif outcome is None:
            outcome = yield from self._inside(host, inputs, kept)
        return (yield from self._ended(host, inputs, outcome))

    def _surrounded(self, around: Hook, host: Host, inputs: Inputs) -> Effects:
        """The around hook, with the rest of the call inside of it."""
        inner = self._inside(host, inputs, None)
        effect = Surround(around.func, (self.node, inputs, host.context), around.is_async, inner)
        try:
            answer = yield effect
        finally:
            inner.close()
        done = effect.outcome
        if done is STOPPED:
            return STOPPED
        attempts, cached = (0, None) if done is None else (done.attempts, done.cached)
        if type(answer) is not Raised:
            return Outcome(True, answer, attempts, None, cached)
        if done is not None and not done.ok and answer.error is done.value:
            return done
        return _failed(answer.error, "around hook", attempts, cached)

    def _inside(self, host: Host, inputs: Inputs, kept: Attempt | None) -> Effects:
        """From the look into the cache to post_execute."""
        outcome: Outcome
        if self.cache is None:
            outcome = yield from self._attempts(host, inputs, kept)
        else:
            try:
                key, found = yield from self.cache.looked_up(inputs, host)
            except failures() as error:
                outcome = _failed(error, "cache")
            else:
                if found is None:
                    outcome = yield from self._cached(self.cache, key, host, inputs, kept)
                else:
                    outcome = Outcome(True, found[0], 0, None, True)
        if outcome.ok and self.post_execute is not None:
            result = outcome.value
            answer = yield self.post_execute.invoke(self.node, inputs, result, host.context)
            if type(answer) is Raised:
                outcome = _failed(
                    answer.error, "post_execute hook", outcome.attempts, outcome.cached
                )
            elif answer is not None:
                outcome.value = answer
        return outcome

    def call_inline(  # noqa: PLR0912, PLR0915  one order, written without helpers for speed
        self, host: Host, attempt: Attempt, func: Callable[..., Any], waiter: Waiter
    ) -> Any:
        """Make the call of `effects_of` in this thread. Returns the value, or an Outcome if there
        is more to report: a failure, several attempts, a cache.

        Up to a result, hooks and function are called in the same order as plain calls, because
        effects take five times as long; a call without `*` takes half as long as one with it. The
        rest is rare and left to effects. Hooks and attempts share one copy of the contextvars."""
        variables = copy_context()
        try:
            if not self.is_simple:
                return waiter.carry_out(self.effects_of(host, attempt), func, variables)
            args, kwargs = attempt
            node, sole, call, inputs = self.node, self.sole, variables.run, _NO_INPUTS
            if sole is not None and len(args) == 1 and not kwargs:
                inputs = {sole: args[0]}
            elif not self.only_retries:
                inputs = self._named(attempt)
            kept: Attempt | None = attempt
            outcome, value, attempts, cached = None, None, 1, None
            hook = self.pre_execute
            if hook is not None:
                kept = None
                try:
                    if hook.takes == 2:
                        answer = call(hook.func, node, inputs)
                    else:
                        answer = call(hook.func, *hook.offered(node, inputs, host.context))
                    if type(answer) is CoroutineType:
                        answer = waiter.wait(answer, variables)
                    if answer is not None:
                        inputs = _new_inputs(answer)
                    if sole is not None and len(inputs) == 1 and sole in inputs:
                        args, kwargs = (inputs[sole],), _NO_INPUTS
                    elif self.cache is None:
                        args, kwargs = kept = self._attempt(inputs, _NO_INPUTS, host)
                except failures() as error:
                    outcome = _failed(error, "pre_execute hook")
            if outcome is not None:
                pass
            elif self.cache is not None:
                try:
                    key = self.cache.key(inputs, host)
                    found = None if key is None else self.cache.at_hand(key)
                    if found is not None:
                        value, attempts = found[0], 0
                        if not host.watched:
                            host.record.note_hit(node.name)
                        else:
                            outcome = Outcome(True, value, 0, None, True)
                except failures() as error:
                    outcome = _failed(error, "cache")
                else:
                    if found is None:
                        effects = self._cached(self.cache, key, host, inputs, kept)
                        outcome = waiter.carry_out(effects, func, variables)
            else:
                first = None
                try:
                    if len(args) == 1 and not kwargs:
                        value = call(func, args[0])
                    else:
                        value = call(func, *args, **kwargs)
                    if type(value) is CoroutineType:
                        value = waiter.wait(value, variables)
                except failures() as error:
                    first = error
                # Outside of the `except` block, or the error would become the `__context__` of
                # those that later attempts raise.
                if first is not None:
                    effects = self._attempts(host, inputs, kept, first)
                    first = None  # its traceback holds this frame: that would be a cycle
                    outcome = waiter.carry_out(effects, func, variables)
            if outcome is not None:
                value, attempts, cached = outcome.value, outcome.attempts, outcome.cached
            hook = self.post_execute
            if hook is not None and (outcome is None or outcome.ok):
                try:
                    if hook.takes == 3:
                        answer = call(hook.func, node, inputs, value)
                    else:
                        answer = call(hook.func, *hook.offered(node, inputs, value, host.context))
                    if type(answer) is CoroutineType:
                        answer = waiter.wait(answer, variables)
                    if answer is not None:
                        value = answer
                        if outcome is not None:
                            outcome.value = answer
                except failures() as error:
                    outcome = _failed(error, "post_execute hook", attempts, cached)
            if self.cleanup is not None or (outcome is not None and not outcome.ok):
                effects = self._ended(host, inputs, outcome or Outcome(True, value, attempts))
                return waiter.carry_out(effects, func, variables)
            return value if outcome is None else outcome
        except BaseException:
            waiter.carry_out(self.effects_of_cancelled(host), func, variables)
            raise

    def _ended(self, host: Host, inputs: Inputs, outcome: Outcome) -> Effects:
        """Handle a failure, then clean up."""
        if not outcome.ok and outcome is not STOPPED:
            outcome = yield from self._handled(host, inputs, outcome)
        if self.cleanup is not None:
            outcome = yield from self._cleaned_up(self.cleanup, host, outcome)
        return outcome

    def effects_of_cancelled(self, host: Host) -> Effects:
        """The cleanup of a call that was cancelled, unless its cleanup had begun."""
        if self.cleanup is None or self.node.name in host.cut_off:
            return STOPPED
        yield from self._cleaned_up(self.cleanup, host, Outcome(False, None))
        return STOPPED

    # The cache.

    def _cached(
        self, cache: NodeCache, key: Any, host: Host, inputs: Inputs, kept: Attempt | None
    ) -> Effects:
        """The value for a key that the memory backend lacks: from a shared backend, from another
        call that computes it, or from attempts of this call. If several calls miss a key, one of
        them computes."""
        if key is None:
            return (yield from self._attempts(host, inputs, kept))
        try:
            while True:
                if cache.shared:
                    found = (yield from cache.fetch(key))[1]
                    if found is not None:
                        return Outcome(True, found[0], 0, None, True)
                flight, is_own = cache.claim(key, host)
                if is_own:
                    return (yield from self._computed(cache, key, flight, host, inputs, kept))
                if not flight.join(host):  # this call would wait for itself, or block its own loop
                    return (yield from self._attempts(host, inputs, kept))
                try:
                    goes_on = yield Await(flight)
                finally:
                    flight.leave(host)
                if not goes_on:
                    return STOPPED
                if flight.result is not None:
                    return Outcome(True, flight.result[0], 0, None, True)
        except failures() as error:
            return _failed(error, "cache")

    def _computed(
        self,
        cache: NodeCache,
        key: Any,
        flight: SingleFlight,
        host: Host,
        inputs: Inputs,
        kept: Attempt | None,
    ) -> Effects:
        try:
            # Another call may have computed the value since this one looked.
            place, found = yield from cache.fetch(key)
            if found is not None:
                flight.result = found
                return Outcome(True, found[0], 0, None, True)
            outcome: Outcome = yield from self._attempts(host, inputs, kept)
            if outcome.ok:
                try:
                    _refuse_one_shot(outcome.value)
                    if place is not None:
                        yield from cache.write(place, outcome.value, flight)
                except failures() as error:
                    return _failed(error, "cache", outcome.attempts, False)
                flight.result = (outcome.value,)
            if outcome is not STOPPED:
                outcome.cached = False
            return outcome
        finally:  # also if the call is given up
            cache.finish(key, flight)

    # Attempts.

    def _attempts(
        self, host: Host, inputs: Inputs, kept: Attempt | None, first: BaseException | None = None
    ) -> Effects:
        """Call the function until an attempt succeeds or none is left.

        `kept` are the arguments of the first attempt, None if they must be made from `inputs`.
        `first` is the error of the first attempt if that was made already."""
        node, attempts = self.node, 0
        outcome = None if first is None else Outcome(False, first)
        opened: Inputs = {}
        while True:
            if outcome is None and self.resources:
                outcome = yield from self._opened(host, inputs)
                if outcome is STOPPED:
                    return outcome
                if outcome.ok:
                    opened, outcome = outcome.value, None
            if outcome is None:
                if kept is None:
                    try:
                        kept = self._attempt(inputs, opened, host)
                    except failures() as error:
                        return _failed(error, "pre_execute hook", attempts)
                answer = yield kept
                if type(answer) is not Raised:
                    return Outcome(True, answer, attempts + 1)
                outcome = Outcome(False, answer.error)
            attempts += 1
            outcome.attempts = attempts
            options = node.options
            if attempts > node.retry or not is_retried(outcome.value, options):
                return outcome
            used_up = self._used_up(inputs, kept)
            if used_up is not None:
                add_note(
                    outcome.value,
                    f"it was not tried again, because {node.name!r} was given a "
                    f"{type(used_up).__name__}, which can be gone through once only; give it a "
                    "list",
                )
                return outcome
            delay = wait_after(attempts, options)
            if self.on_retry is not None:
                answer = yield self.on_retry.invoke(
                    node, inputs, outcome.value, host.context, attempts, delay
                )
                if type(answer) is Raised:
                    return _failed(chained(answer.error, outcome.value), "on_retry hook", attempts)
            host.retries(node.name, outcome.value, attempts, delay)
            if not (yield Sleep(delay)):
                return outcome
            outcome = None
            if not self.only_retries:
                kept = None

    def _used_up(self, inputs: Inputs, kept: Attempt | None) -> Any:
        """What a call was given that no other can be given."""
        given: list[Any] = [*inputs.values()]
        if self.only_retries and kept is not None:
            given = [*kept[0], *kept[1].values()]
        given.extend(inputs.get(self.node.signature.var_positional or "", ()))
        if self.node.type is NodeType.ALL:  # what it collects is in a dict
            given += [part for each in given if type(each) is dict for part in each.values()]
        return next((each for each in given if ONE_SHOT[type(each)]), None)

    def _opened(self, host: Host, inputs: Inputs) -> Effects:
        """The resources that the function takes, opened, by name."""
        opened: Inputs = {}
        for name in self.resources:
            if name not in inputs:  # pre_execute may have put one there
                assert host.resources is not None
                outcome = yield from host.resources.open(name, host)
                if outcome is STOPPED:
                    return outcome
                if not outcome.ok:
                    return _failed(outcome.value, "resources")
                opened[name] = outcome.value
        return Outcome(True, opened)

    # Failures, and the end.

    def _handled(self, host: Host, inputs: Inputs, outcome: Outcome) -> Effects:
        """Call on_error and the node's error handler, which may give a result."""
        attempts, cached = outcome.attempts, outcome.cached
        if self.on_error is not None:
            answer = yield self.on_error.invoke(self.node, inputs, outcome.value, host.context)
            if type(answer) is Raised:
                raised = chained(answer.error, outcome.value)
                outcome = _failed(raised, "on_error hook", attempts, cached)
        if self.handler is not None:
            answer = yield self.handler.invoke(self.node, inputs, outcome.value)
            if type(answer) is Raised:
                raised = chained(answer.error, outcome.value)
                return _failed(raised, "error handler", attempts, cached)
            if answer is not None:
                host.handled(self.node.name, outcome.value, attempts)
                return Outcome(True, answer, attempts, None, cached)
        return outcome

    def _cleaned_up(self, cleanup: Hook, host: Host, outcome: Outcome) -> Effects:
        """Call cleanup. Its own error fails a call that succeeded, else becomes a note."""
        try:
            answer = yield cleanup.invoke(self.node, host.context, cleans_up=True)
        except GeneratorExit:
            host.home.cut_off += (self.node.name,)
            raise
        if type(answer) is not Raised:
            return outcome
        if outcome.ok:
            return _failed(answer.error, "cleanup hook", outcome.attempts, outcome.cached)
        if outcome.value is not None:
            raised = brief_of(answer.error)
            add_note(outcome.value, f"its cleanup hook raised, too: {raised}")
        return outcome

    # Arguments by name and back, with a shorter way for functions of plain parameters.

    def _named(self, passed: Attempt) -> Inputs:
        args, kwargs = passed
        names = self.by_position
        if names is None or kwargs or len(args) != len(names):
            return named(self.node.signature, args, kwargs)
        if len(names) == 1:
            return {names[0]: args[0]}
        inputs = {}
        at = 0
        for name in names:  # `zip` takes twice as long
            inputs[name] = args[at]
            at += 1  # noqa: SIM113  so does `enumerate`
        return inputs

    def _attempt(self, inputs: Inputs, opened: Inputs, host: Host) -> Attempt:
        names = self.by_position
        if names is not None and [*inputs] == [*names] and not opened:
            return [*inputs.values()], {}
        node, signature = self.node, self.node.signature
        call_id = host.call_id(node.name) if signature.takes_call_id else ""
        return unnamed(signature, {**opened, **inputs}, host.context, call_id)


_NO_INPUTS: Inputs = {}


def _new_inputs(answer: Any) -> Inputs:
    """The inputs that a pre_execute hook returned. Raises what the hook raised, or TypeError if it
    returned something else."""
    if type(answer) is Raised:
        raise answer.error
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"it returned a {type(answer).__name__}; return a mapping of inputs, or None to leave "
            "them"
        )
    return dict(answer)


def _refuse_one_shot(value: Any) -> None:
    if ONE_SHOT[type(value)]:
        raise TypeError(
            f"a cached node returned a {type(value).__name__}, which can be gone through once "
            "only; return a list"
        )


def _failed(
    error: BaseException, where: str, attempts: int = 0, cached: bool | None = None
) -> Outcome:
    return Outcome(False, error, attempts, where, cached)


def chained(raised: BaseException, error: BaseException) -> BaseException:
    """`raised`, by a hook that was called because of `error`, with `error` as its cause unless it
    has another."""
    if raised is not error and _CAUSE.__get__(raised) is None:
        _CAUSE.__set__(raised, error)
    return raised


# Used directly because an exception class may override attribute access.
_CAUSE: Any = BaseException.__dict__["__cause__"]
