"""Everything fast_dag raises.

    FastDAGError
    ├── ValidationError (ValueError)        a definition or a call that cannot work; nothing has run
    │   ├── CycleError                      .cycle
    │   ├── DisconnectedNodeError           .nodes
    │   ├── MissingConnectionError          .source .target
    │   ├── MissingInputError               .missing
    │   └── InvalidNodeError                .node
    │       └── UnknownNodeError (KeyError) .node .suggestion
    ├── MissingResultError (KeyError)       .node .reason
    ├── MissingExtraError (ImportError)     .extra
    └── ExecutionError (RuntimeError)       .node_name .attempts .run
        ├── TimeoutError (builtins.TimeoutError)
        ├── InvalidTransitionError          .state .target
        └── MaxCyclesError                  .max_cycles

Every error has its facts as attributes, and can be pickled together with its cause.
"""

from __future__ import annotations

import builtins
from sys import modules

from fast_dag._frames import rendered, trace_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from types import CodeType
    from typing import Any, TypeGuard, TypeVar

    E = TypeVar("E", bound=BaseException)


class FastDAGError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message:
        What is wrong, where, and what to do about it.
    facts:
        The same facts as data. Each becomes an attribute.

    >>> error = FastDAGError("node 'a' is odd", node="a")
    >>> error.node
    'a'
    """

    # Names of attributes that are not pickled, because they are live objects.
    _left_out: tuple[str, ...] = ()

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __str__(self) -> str:
        # KeyError.__str__ would return the repr of the message.
        return str(self.args[0])

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show of the traceback: the user's frames."""
        return rendered(self, FastDAGError)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key not in self._left_out}
        cause = self.__cause__
        if cause is not None:
            if _travels(cause):
                state["__cause__"] = cause
            else:
                note = f"cause (could not be pickled): {type(cause).__name__}: {cause}"
                state["__notes__"] = [*state.get("__notes__", ()), note]
        return type(self), self.args, state


def _travels(error: BaseException) -> bool:
    """Whether an exception can be pickled and unpickled; many exceptions of users cannot."""
    try:
        import pickle  # slow to import

        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


class ValidationError(FastDAGError, ValueError):
    """Raised when a definition, or the call that would run it, cannot work. Nothing has run.

    `problems` lists everything that is wrong; if that is one problem, it is the error itself.

    >>> ValidationError("the DAG has no nodes").problems
    (ValidationError('the DAG has no nodes'),)
    """

    _problems: tuple[ValidationError, ...] = ()

    @property
    def problems(self) -> tuple[ValidationError, ...]:
        """Everything that is wrong, each as an error of its own."""
        return self._problems or (self,)

    @classmethod
    def of(cls, problems: Sequence[ValidationError], where: str) -> ValidationError:
        """A single problem as it is; several as one error that has them in `problems`."""
        if len(problems) == 1:
            return problems[0]
        lines = "".join(f"\n  - {problem}" for problem in problems)
        message = f"{where} has {len(problems)} problems:{lines}"
        return ValidationError(message, _problems=tuple(problems))


class CycleError(ValidationError):
    """Raised when nodes depend on each other in a cycle. `cycle` starts and ends with the same
    node.

    >>> from fast_dag import DAG
    >>> dag = DAG("loop").add_node("a", lambda b: b).add_node("b", lambda a: a)
    >>> dag.connect("a", "b").connect("b", "a").validate()[0].cycle
    ('a', 'b', 'a')
    """

    cycle: tuple[str, ...]


class DisconnectedNodeError(ValidationError):
    """Raised by `validate_or_raise()` when nodes have no edge at all. `nodes` names them.

    >>> from fast_dag import DAG
    >>> dag = DAG("apart").add_node("a", lambda: 1).add_node("b", lambda: 2)
    >>> dag.validate()[0].nodes
    ('a', 'b')
    """

    nodes: tuple[str, ...]


class MissingConnectionError(ValidationError):
    """Raised when an edge or path does not exist, but was named or is needed.

    >>> from fast_dag import DAG
    >>> dag = DAG("apart").add_node("a", lambda: 1).add_node("b", lambda: 2)
    >>> try:
    ...     dag.run_between("a", "b")
    ... except MissingConnectionError as error:
    ...     print(error)
    'apart' has no path from 'a' to 'b'
    """

    source: str | None
    target: str | None


class MissingInputError(ValidationError):
    """Raised when a run lacks values. `missing` lists them as pairs (node, parameter).

    >>> from fast_dag import DAG
    >>> try:
    ...     DAG("tax").add_node("net", lambda price, rate: price * rate).run(rate=0.19)
    ... except MissingInputError as error:
    ...     error.missing
    (('net', 'price'),)
    """

    missing: tuple[tuple[str, str], ...]


class InvalidNodeError(ValidationError):
    """Raised when something cannot become a node, or cannot be used as the node that it should
    be.

    >>> from fast_dag import Node
    >>> try:
    ...     Node(print, name="two.parts")
    ... except InvalidNodeError as error:
    ...     error.node
    'two.parts'
    """

    node: str | None


class UnknownNodeError(InvalidNodeError, KeyError):
    """Raised when no node, or no state, has the given name. `suggestion` is the closest known name,
    None if none is close."""

    suggestion: str | None

    @classmethod
    def named(
        cls, name: str, known: Iterable[str], where: str, noun: str = "node"
    ) -> UnknownNodeError:
        """The error that suggests the closest of the known names."""
        suggestion, hint = closest(name, known)
        message = f"{where} has no {noun} {name!r}{hint}"
        return cls(message, node=name, suggestion=suggestion)


class MissingResultError(FastDAGError, KeyError):
    """Raised when a node has no result to show. `reason` is one of "not run", "skipped", "failed",
    "deleted", "dropped"."""

    node: str
    reason: str


class MissingExtraError(FastDAGError, ImportError):
    """Raised when a feature needs a package that is not installed. `extra` is the extra of fast-dag
    that installs it."""

    extra: str


class ExecutionError(FastDAGError, RuntimeError):
    """Raised when a node failed; the user's exception is the `__cause__`.

    `node_name` is the node (`"sub.inner"` inside a nested workflow, `"fetch[3]"` for an item of a
    map). `key` is the item's key or position, None if no item failed. `attempts` is how often the
    function was called. `run` is the `Run` with everything that was computed (None after pickling).

    >>> from fast_dag import DAG
    >>> try:
    ...     DAG("d").add_node("inverse", lambda x: 1 / x).run(x=0)
    ... except ExecutionError as error:
    ...     error.node_name, error.__cause__
    ('inverse', ZeroDivisionError('division by zero'))
    """

    _left_out = ("run",)

    node_name: str | None = None
    key: Any = None
    attempts: int = 0
    run: Any = None


class TimeoutError(ExecutionError, builtins.TimeoutError):
    """Raised when a run or a node did not end within its timeout. Also a builtin TimeoutError.

    >>> import asyncio
    >>> from fast_dag import DAG
    >>> try:
    ...     DAG("d").add_node("late", lambda: asyncio.sleep(60)).run(timeout=0.01)
    ... except TimeoutError as error:
    ...     error.timeout, error.run.status
    (0.01, 'timed_out')
    """

    timeout: float | None = None


class InvalidTransitionError(ExecutionError):
    """Raised when a state machine cannot find the next state.

    `target` is what was named as the next state, but is none. `event` is the event that was sent,
    None if none was. `events` are the events with a transition from this state, if one was sent or
    is waited for.

    >>> from fast_dag import FSM, FSMReturn
    >>> fsm = FSM("door", initial_state="shut", terminal_states=["open"])
    >>> fsm = fsm.add_state("shut", lambda: FSMReturn("opened")).add_state("open", lambda: 1)
    >>> try:
    ...     fsm.run()
    ... except InvalidTransitionError as error:
    ...     error.state, error.target
    ('shut', 'opened')
    """

    state: str
    target: str | None
    event: str | None = None
    events: tuple[str, ...] = ()


class MaxCyclesError(ExecutionError):
    """Raised when a state machine ran more states than `max_cycles`.

    >>> from fast_dag import FSM, FSMReturn
    >>> fsm = FSM("mill", initial_state="turn").add_state("turn", lambda: FSMReturn("turn"))
    >>> try:
    ...     fsm.run(max_cycles=50)
    ... except MaxCyclesError as error:
    ...     error.max_cycles
    50
    """

    max_cycles: int


def closest(name: object, known: Iterable[object]) -> tuple[str | None, str]:
    """The known name most like `name`, and words that suggest it (None and "" if none is close).

    >>> closest("lod", ["load", "save"])
    ('load', " (did you mean 'load'?)")
    """
    from difflib import get_close_matches  # slow to import, needed only for errors

    matches = get_close_matches(str(name), [str(each) for each in known], n=1)
    return (matches[0], f" (did you mean {matches[0]!r}?)") if matches else (None, "")


def names(items: Iterable[object], most: int = 10) -> str:
    """A readable list of names for a message, at most `most` of them.

    >>> names(["a", "b"])
    "'a', 'b'"
    """
    shown = [repr(item) for item in items]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def failures() -> tuple[type[BaseException], ...]:
    """The exceptions that are a failure of a user's function, for `except failures():`.

    CancelledError is one of them, because user code may raise it. If the run itself is cancelled,
    its driver knows that before the exception arrives.

    >>> failures()[0]
    <class 'Exception'>
    """
    # It exists only if asyncio was imported; another thread may be at that just now.
    cancelled = getattr(modules.get("asyncio"), "CancelledError", None)
    return (Exception,) if cancelled is None else (Exception, cancelled)


def text_of_key(key: object) -> str:
    """The key of an item of a map as the names of items have it."""
    try:
        return str(key)
    except Exception:
        return object.__repr__(key)


def text_of(error: BaseException) -> str:
    """An exception's message, or a placeholder if its `__str__` raises.

    >>> text_of(ValueError("too small"))
    'too small'
    """
    try:
        return str(error)
    except Exception:
        return "<its message cannot be shown>"


def brief_of(error: BaseException) -> str:
    """An exception in one line: its class and its message.

    >>> brief_of(ValueError("too small"))
    'ValueError: too small'
    """
    return f"{type(error).__name__}: {text_of(error)}"


def add_note(error: BaseException, *notes: object) -> None:
    """Add notes to a user's exception, whatever its class does.

    The method `add_note` sets an attribute, which a class may refuse, and raises if `__notes__` is
    not a list. Here such an exception is left as it is."""
    own = object.__getattribute__(error, "__dict__")
    there = own.get("__notes__", [])
    if isinstance(there, list):
        own["__notes__"] = [*there, *notes]


def notes_of(error: BaseException) -> list[Any]:
    """The notes of a user's exception.

    >>> error = ValueError("too small")
    >>> add_note(error, "see the log")
    >>> notes_of(error)
    ['see the log']
    """
    there = object.__getattribute__(error, "__dict__").get("__notes__")
    return there if isinstance(there, list) else []


def is_a(error: BaseException, kinds: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """`isinstance` by the type alone: an exception may have a property `__class__` that raises.

    >>> is_a(KeyError("a"), (OSError, LookupError))
    True
    """
    return issubclass(type(error), kinds)


def cause_of(error: BaseException) -> BaseException | None:
    """The `__cause__` of an exception, even if its class has a property of this name."""
    cause: BaseException | None = BaseException.__dict__["__cause__"].__get__(error)
    return cause


def traceback_of(error: BaseException) -> str:
    """The whole traceback of an exception, as Python prints it. If the exception's own class makes
    that fail, a simpler one: the lines and messages of the exception and of its causes.

    >>> traceback_of(ValueError("too small"))
    'ValueError: too small\\n'
    """
    import traceback  # slow to import

    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        parts: list[str] = []
        seen: set[int] = set()
        at: BaseException | None = error
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            lines = "".join(traceback.format_tb(trace_of(at)))
            head = "Traceback (most recent call last):\n" if lines else ""
            parts.append(f"{head}{lines}{brief_of(at)}\n")
            at = cause_of(at)
        between = "\nThe above exception was the direct cause of the following exception:\n\n"
        return between.join(reversed(parts))


def raised_in(functions: Collection[CodeType], error: BaseException) -> bool:
    """Whether `error` came out of one of these functions, called directly by the function that
    caught it."""
    trace = trace_of(error)
    below = None if trace is None else trace.tb_next
    return below is not None and below.tb_frame.f_code in functions
