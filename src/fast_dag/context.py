"""What user code sees of a run: results, metadata, metrics."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fast_dag.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Context:
    """The shared state of one run: three dictionaries.

    Parameters
    ----------
    results:
        What each node returned, by node name. The only place where a run keeps values: deleting
        one frees it.
    metadata:
        Yours to fill; the engine sets `run_id` and `execution_status`.
    metrics:
        What the engine measured, in seconds and counts, built when it is looked at.

    A Context serves one run at a time. `get`, `set`, `in` and `[]` work on the results.

    >>> context = Context(metadata={"user_id": "123"})
    >>> context.set("load", [1, 2])
    >>> "load" in context, context["load"], context.get("other", default={})
    (True, [1, 2], {})
    """

    def __init__(
        self,
        results: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.results: dict[str, Any] = {} if results is None else results
        self.metadata: dict[str, Any] = {} if metadata is None else metadata
        self._metrics: dict[str, Any] = {} if metrics is None else metrics
        self._measure: Callable[[], Mapping[str, Any]] | None = None
        self._in_use = threading.Lock()
        self._own_run_id: str | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Times in seconds and counts of the run so far; entries of your own stay."""
        if self._measure is not None:
            self._metrics.update(self._measure())
        return self._metrics

    def get(self, name: str, default: Any = None) -> Any:
        """The result of node `name`, or `default` where there is none."""
        return self.results.get(name, default)

    def set(self, name: str, value: Any) -> None:
        """Store `value` as the result of `name`; nodes that start later see it."""
        self.results[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.results[name] = value

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Copies of the three dictionaries, JSON-able when the values in them are.

        >>> Context(results={"a": 1}).to_dict()
        {'results': {'a': 1}, 'metadata': {}, 'metrics': {}}
        """
        return {
            "results": dict(self.results),
            "metadata": dict(self.metadata),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Context:
        """The Context that `to_dict` described.

        >>> Context.from_dict({"results": {"a": 1}})["a"]
        1
        """
        unknown = set(data) - {"results", "metadata", "metrics"}
        if unknown:
            raise ValidationError(
                f"Context.from_dict takes results, metadata and metrics, not {sorted(unknown)}"
            )
        return cls(**{key: dict(value) for key, value in data.items()})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(results={list(self.results)!r}, metadata={self.metadata!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.to_dict()

    def __setstate__(self, state: dict[str, dict[str, Any]]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    # Between the run and its context.

    def _enter_run(self, measure: Callable[[], Mapping[str, Any]]) -> None:
        if not self._in_use.acquire(blocking=False):
            raise ValidationError(
                "this Context already serves a run that is in progress; give each run its own"
            )
        self._measure = measure

    def _leave_run(self) -> None:
        self._in_use.release()
