"""What user code sees of a run: results, metadata, metrics."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from threading import Lock

from fast_dag.errors import ValidationError, names
from fast_dag.returns import from_data, to_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Self, TypeVar

    from fast_dag.run.machine_state import MachineState

    K = TypeVar("K", bound="Context")

    class Recorded(Protocol):
        """What a run records."""

        def measure(self) -> Mapping[str, Any]: ...
        def consumed(self, results: Mapping[str, Any], /) -> frozenset[str]: ...


class Context:
    """The shared state of one run: three dictionaries.

    Parameters
    ----------
    results:
        What each node returned, by node name. A run keeps values nowhere else: deleting one frees
        it.
    metadata:
        For your own data; the engine sets `run_id` and `execution_status`.
    metrics:
        What the engine measured, in seconds and counts; built when you read it.

    A Context serves one run at a time. `get`, `set`, `in` and `[]` work on the results. What is no
    dictionary raises ValidationError.

    >>> context = Context(metadata={"user_id": "123"})
    >>> context.set("load", [1, 2])
    >>> "load" in context, context["load"], context.get("other", default={})
    (True, [1, 2], {})
    """

    _PARTS: frozenset[str] = frozenset({"results", "metadata", "metrics"})
    _record: Recorded | None = None  # of the run that it serves, else of the last one
    _own_run_id: str | None = None
    _keeper: Callable[[str, Any], object] | None = None  # of a run with a store

    def __init__(
        self,
        results: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.results: dict[str, Any] = {} if results is None else _dict_of("results", results)
        self.metadata: dict[str, Any] = {} if metadata is None else _dict_of("metadata", metadata)
        self._metrics: dict[str, Any] = {} if metrics is None else _dict_of("metrics", metrics)
        self._in_use = Lock()

    @property
    def metrics(self) -> dict[str, Any]:
        """Times in seconds and counts of the run so far. Entries that you add stay."""
        if self._record is not None:
            self._metrics.update(self._record.measure())
        return self._metrics

    def get(self, name: str, default: Any = None) -> Any:
        """The result of node `name`, or `default` if there is none."""
        return self.results.get(name, default)

    def set(self, name: str, value: Any) -> None:
        """Store `value` as the result of `name`; nodes that start later see it."""
        self.results[name] = value

    def keep(self, key: str, value: Any) -> None:
        """Set `metadata[key]`, and have a run with a store find it there when it goes on. It is
        committed with the end of the next node; other metadata is not stored.

        >>> context = Context()
        >>> context.keep("page", 3)
        >>> context.metadata
        {'page': 3}
        """
        if self._keeper is not None:
            self._keeper(key, value)
        self.metadata[key] = value

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.results[name] = value

    def to_dict(self) -> dict[str, Any]:
        """Copies of the three dictionaries; JSON can write them if it can write the values. A
        `ConditionalReturn` or `SelectReturn` is a dict there. An FSMContext has its history, too.

        >>> Context(results={"a": 1}).to_dict()
        {'results': {'a': 1}, 'metadata': {}, 'metrics': {}}
        """
        state = self._state_now()
        state["results"] = {name: to_data(value) for name, value in state["results"].items()}
        return state

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The Context that `to_dict` described.

        >>> Context.from_dict({"results": {"a": 1}})["a"]
        1
        """
        if not isinstance(data, Mapping):
            raise ValidationError(f"{cls.__name__}.from_dict takes a mapping, not {data!r}")
        unknown = set(data) - cls._PARTS
        if unknown:
            takes = names(sorted(cls._PARTS))
            raise ValidationError(f"{cls.__name__}.from_dict takes {takes}, not {names(unknown)}")
        state = cls(**data)._state_now()
        state["results"] = {name: from_data(value) for name, value in state["results"].items()}
        return again(cls, state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(results={list(self.results)!r}, metadata={self.metadata!r})"

    # Pickles, which name the value that does not pickle; copies share the values.

    def _state_now(self) -> dict[str, Any]:
        """Copies of its dictionaries, with which `again` makes another one."""
        return {
            "results": dict(self.results),
            "metadata": dict(self.metadata),
            "metrics": dict(self.metrics),
        }

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        from fast_dag._pickling import packed

        state = self._state_now()
        return _unpickled, (type(self), packed(state, "this Context", lambda: parts_of(state)))

    def __copy__(self) -> Self:
        return again(type(self), self._state_now())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        from copy import deepcopy

        return again(type(self), deepcopy(self._state_now(), memo))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    # Called by the execution.

    def _inner(self, kind: type[K]) -> K:
        """The Context of a nested workflow, which shares the metadata."""
        context = kind(metadata=self.metadata)
        if self._keeper is not None:
            context._keeper = self._keeper
        return context

    def _enter_run(self, record: Recorded) -> None:
        if not self._in_use.acquire(False):
            raise ValidationError(
                "this Context already serves a run that is in progress; give each run its own"
            )
        self._record = record

    def _leave_run(self) -> None:
        self._in_use.release()


def _dict_of(name: str, value: Any) -> Any:
    """One of a Context's dictionaries, which may be another mapping that can be changed."""
    if type(value) is not dict and not isinstance(value, MutableMapping):  # which takes longer
        raise ValidationError(f"{name} of a Context is a dictionary, not {value!r}")
    return value


class FSMContext(Context):
    """The Context of a machine. Its results are the latest result of each state.

    Parameters
    ----------
    results, metadata, metrics:
        As in `Context`.
    state_history:
        The visited states in order. A run in this context replaces them by its own.

    >>> from fast_dag import FSM
    >>> fsm = FSM("lamp", initial_state="on", terminal_states=["off"])
    >>> fsm = fsm.add_state("on", lambda: 1).add_state("off", lambda x: 0)
    >>> context = FSMContext()
    >>> fsm.add_transition("on", "off").run(context=context), context.state_history
    (0, ['on', 'off'])
    """

    _PARTS = Context._PARTS | {"state_history"}

    def __init__(
        self,
        results: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        state_history: list[str] | None = None,
    ) -> None:
        super().__init__(results, metadata, metrics)
        if not isinstance(state_history, (list, tuple, type(None))):
            raise ValidationError(f"state_history is a list of states, not {state_history!r}")
        self._history = [] if state_history is None else state_history
        self._state: MachineState | None = None

    @property
    def state_history(self) -> list[str]:
        """The visited states in order, the running one included."""
        return self._history if self._state is None else self._state.state_history

    @property
    def current_state(self) -> str | None:
        """The running state, else the state that was visited last."""
        history = self._history
        if self._state is None:
            return history[-1] if history else None
        return self._state.current_state

    @property
    def cycle_count(self) -> int:
        """How many states have been executed, the running one included."""
        return len(self._history) if self._state is None else self._state.cycle_count

    def _state_now(self) -> dict[str, Any]:
        return {**super()._state_now(), "state_history": list(self.state_history)}


def again(kind: type[K], state: dict[str, Any]) -> K:
    """The Context of this class with what `_state_now` gave."""
    context = kind.__new__(kind)
    context.__setstate__(state)
    return context


def _unpickled(kind: type[K], data: bytes) -> K:
    from fast_dag._pickling import unpacked

    return again(kind, unpacked(data))


def parts_of(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """The user's values in a Context, as (node, words, value)."""
    for name, value in state["results"].items():
        yield f"{prefix}{name}", f"the result of {prefix + str(name)!r}", value
    for kind in ("metadata", "metrics"):
        for key, value in state[kind].items():
            yield "", f"context.{kind}[{key!r}]", value
