"""What surrounds one node call, in its one order, each part only where it was asked for:

inputs, pre_execute, cache, attempts (of opening resources and calling the function, with on_retry
and waits), cache again, post_execute; where that failed: on_error, the node's error handler; at the
end, always: cleanup.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import ONE_SHOT, STOPPED, Attempt, Await, Effect, Outcome, Sleep
from fast_dag.call.retry import is_retried, wait_after
from fast_dag.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from fast_dag.cache.flight import Flight
    from fast_dag.cache.store import NodeCache
    from fast_dag.call.hooks import Hook
    from fast_dag.context import Context
    from fast_dag.node import Node
    from fast_dag.run import Run

    Steps = Generator[Effect, Any, Outcome]
    Arguments = tuple[list[Any], dict[str, Any]]


class Surroundings:
    """What was asked for around the calls of one node.

    >>> from fast_dag.context import Context
    >>> from fast_dag.node import Node
    >>> node = Node(lambda: 0, "flaky", retry=1, retry_delay=0.5)
    >>> effects = Surroundings(node, {}, None).of_call(None, {}, Context(), lambda inputs: ([], {}))
    >>> next(effects)
    Attempt(args=[], kwargs={})
    >>> effects.close()
    """

    __slots__ = ("cache", "handler", "hooks", "node", "only_retries", "resources")

    def __init__(
        self,
        node: Node[..., Any],
        hooks: Mapping[str, Hook],
        handler: Hook | None,
        resources: Sequence[str] = (),
    ) -> None:
        self.node = node
        self.cache = node.cache
        self.hooks = hooks
        self.handler = handler
        self.resources = resources
        # So that nothing is to be done before a first attempt fails.
        self.only_retries = not (hooks or handler or self.cache or resources)

    def of_call(
        self,
        run: Run,
        inputs: dict[str, Any],
        context: Context,
        arguments: Callable[[Mapping[str, Any]], Arguments],
        given: Arguments | None = None,
        first: Outcome | None = None,
    ) -> Steps:
        """One call in `run`, as effects; `arguments` turns inputs by name into those of the
        function, `given` are those of these inputs, `first` is how a first attempt ended that was
        made already."""
        call = _Call(self, run, inputs, context, arguments, given, first)
        outcome = yield from call.succeed()
        if not outcome.ok and outcome is not STOPPED:
            outcome = yield from call.fail(outcome)
        return (yield from call.clean_up(outcome))

    def of_cancelled(self, run: Run, context: Context) -> Steps:
        """What is left to do for a call that was cancelled."""
        call = _Call(self, run, {}, context, lambda inputs: ([], {}))
        return (yield from call.clean_up(Outcome(False, None)))


_NO_RESOURCES = Outcome(True, MappingProxyType({}))


class _Call:
    def __init__(
        self,
        around: Surroundings,
        run: Run,
        inputs: dict[str, Any],
        context: Context,
        arguments: Callable[[Mapping[str, Any]], Arguments],
        given: Arguments | None = None,
        first: Outcome | None = None,
    ) -> None:
        self.node = around.node
        # Good as long as nobody else has had the inputs in hand, and nothing is to be added.
        untouched = "pre_execute" not in around.hooks and not around.resources
        self.given = given if untouched else None
        self.first = first
        self.hooks = around.hooks
        self.handler = around.handler
        self.cache = around.cache
        self.resources = around.resources
        self.run = run
        self.inputs = inputs
        self.context = context
        self.arguments = arguments
        self.attempts = 0

    def succeed(self) -> Steps:
        """Everything up to a result, or to the first failure."""
        pre = self.hooks.get("pre_execute")
        if pre is not None:
            answer = yield pre.invoke(self.node, self.inputs, self.context)
            if not answer.ok:
                return self._failed(answer.value, "pre_execute hook")
            if answer.value is not None:
                if not isinstance(answer.value, Mapping):
                    problem = TypeError(
                        f"it returned a {type(answer.value).__name__}; return a mapping of inputs, "
                        "or None to leave them"
                    )
                    return self._failed(problem, "pre_execute hook")
                self.inputs = dict(answer.value)
        outcome = yield from (self._attempts() if self.cache is None else self._cached(self.cache))
        if not outcome.ok:
            return outcome
        post = self.hooks.get("post_execute")
        if post is not None:
            answer = yield post.invoke(self.node, self.inputs, outcome.value, self.context)
            if not answer.ok:
                return self._failed(answer.value, "post_execute hook")
            if answer.value is not None:
                outcome = outcome._replace(value=answer.value)
        return outcome

    def _cached(self, cache: NodeCache) -> Steps:
        """The cached value, or the attempts; of several calls that miss one key, one computes."""
        try:
            key = cache.key(self.inputs)
            if key is None:
                return (yield from self._attempts())
            while True:
                found = yield from cache.read((yield from cache.placed(key)))
                if found is not None:
                    return Outcome(True, found[0], 0, None, True)
                flight, is_own = cache.board(key, self.run)
                if is_own:
                    return (yield from self._computed(cache, key, flight))
                if not flight.join(self.run):  # which would be waiting for oneself
                    return (yield from self._attempts())
                try:
                    goes_on = yield Await(flight)
                finally:
                    flight.leave(self.run)
                if not goes_on:
                    return STOPPED
                if flight.result is not None:
                    return Outcome(True, flight.result[0], 0, None, True)
        except Exception as error:
            return self._failed(error, "cache")

    def _computed(self, cache: NodeCache, key: Any, flight: Flight) -> Steps:
        try:
            # Another may have landed since this call looked.
            place = yield from cache.placed(key)
            found = yield from cache.read(place)
            if found is not None:
                flight.result = found
                return Outcome(True, found[0], 0, None, True)
            outcome: Outcome = yield from self._attempts()
            if outcome.ok and outcome.value.__class__ in ONE_SHOT:
                return self._failed(
                    TypeError(
                        f"a cached node returned a {type(outcome.value).__name__}, which can be "
                        "gone through once only; return a list"
                    ),
                    "cache",
                )
            if outcome.ok:
                yield from cache.write(place, outcome.value, flight)
                flight.result = (outcome.value,)
            return outcome._replace(cached=False)
        finally:  # also where the call is given up
            cache.land(key, flight)

    def _attempts(self) -> Steps:
        options = self.node.options
        while True:
            outcome, self.first = self.first or _NO_RESOURCES, None
            if self.resources:
                outcome = yield from self._opened()
            if outcome is STOPPED:
                return outcome
            if outcome.ok:
                arguments, self.given = self.given, None
                if arguments is None:
                    try:
                        arguments = self.arguments({**outcome.value, **self.inputs})
                    except Exception as error:
                        return self._failed(error, "pre_execute hook")
                outcome = yield Attempt(*arguments)
            self.attempts += 1
            outcome = Outcome(outcome.ok, outcome.value, self.attempts, outcome.where)
            tried = self.attempts > self.node.retry
            if outcome.ok or tried or not is_retried(outcome.value, options):
                return outcome
            delay = wait_after(self.attempts, options)
            on_retry = self.hooks.get("on_retry")
            if on_retry is not None:
                offered = (
                    self.node,
                    self.inputs,
                    outcome.value,
                    self.context,
                    self.attempts,
                    delay,
                )
                answer = yield on_retry.invoke(*offered)
                if not answer.ok:
                    return self._failed(chained(answer.value, outcome.value), "on_retry hook")
            self.run.tell_retry(self.node.name, outcome.value, self.attempts, delay)
            if not (yield Sleep(delay)):
                return outcome

    def _opened(self) -> Steps:
        """The resources that the function takes, opened, by name."""
        opened: dict[str, Any] = {}
        for name in self.resources:
            if name not in self.inputs:  # pre_execute may have given one
                assert self.run.resources is not None
                outcome = yield from self.run.resources.open(name, self.run)
                if outcome is STOPPED:
                    return outcome
                if not outcome.ok:
                    return self._failed(outcome.value, "resources")
                opened[name] = outcome.value
        return Outcome(True, opened)

    def fail(self, outcome: Outcome) -> Steps:
        """on_error and the node's handler, which may still give a result."""
        on_error = self.hooks.get("on_error")
        if on_error is not None:
            answer = yield on_error.invoke(self.node, self.inputs, outcome.value, self.context)
            if not answer.ok:
                outcome = self._failed(chained(answer.value, outcome.value), "on_error hook")
        if self.handler is not None:
            answer = yield self.handler.invoke(self.node, self.inputs, outcome.value)
            if not answer.ok:
                return self._failed(chained(answer.value, outcome.value), "error handler")
            if answer.value is not None:
                return Outcome(True, answer.value, self.attempts)
        return outcome

    def clean_up(self, outcome: Outcome) -> Steps:
        """cleanup, whatever happened before."""
        cleanup = self.hooks.get("cleanup")
        if cleanup is None:
            return outcome
        answer = yield cleanup.invoke(self.node, self.context)
        if answer.ok:
            return outcome
        if outcome.ok:
            return self._failed(answer.value, "cleanup hook")
        if outcome.value is not None:
            told = f"{type(answer.value).__name__}: {text_of(answer.value)}"
            outcome.value.add_note(f"its cleanup hook raised, too: {told}")
        return outcome

    def _failed(self, error: Exception, where: str) -> Outcome:
        return Outcome(False, error, self.attempts, where)


def chained(raised: Exception, error: Exception) -> Exception:
    """What a hook raised about an error, with that error as its cause."""
    if raised is not error and raised.__cause__ is None:
        raised.__cause__ = error
    return raised
