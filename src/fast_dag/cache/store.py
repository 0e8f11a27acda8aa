"""The cached results of one node."""

from __future__ import annotations

import time
import warnings
from threading import Lock
from typing import TYPE_CHECKING, Any

from fast_dag.cache.flight import Flight
from fast_dag.cache.keys import UnkeyableError, inputs_key, key_of, stable_text
from fast_dag.cache.memory import MemoryBackend
from fast_dag.call.effects import Invoke, Raised
from fast_dag.errors import InvalidNodeError, ValidationError, closest
from fast_dag.signature import gives_coroutine

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from fast_dag.cache.memory import Backend
    from fast_dag.call.effects import Effect
    from fast_dag.node import Node
    from fast_dag.run import Run

    Found = Sequence[Any]


class NodeCache:
    """What `cached_node` was asked for, and what has been computed.

    In memory the cache belongs to its node. In a backend that others share, keys have the
    function's module, name and bytecode and the `version` in them.
    """

    def __init__(
        self,
        node: Node[..., Any],
        *,
        ttl: float | None = None,
        cache_key: Sequence[str] | None = None,
        version: str | int | None = None,
        backend: Backend | None = None,
        max_entries: int = 1024,
    ) -> None:
        self.node_name = node.name
        self.ttl = ttl
        self._inputs = node.inputs
        self._takes_any = node.signature.var_keyword is not None
        if isinstance(cache_key, str):
            raise InvalidNodeError(
                f"cached node {node.name!r}: cache_key is a list of names, not {cache_key!r}",
                node=node.name,
            )
        self.cache_key = None if cache_key is None else tuple(cache_key)
        self.shared = backend is not None
        self.backend: Backend = MemoryBackend(max_entries) if backend is None else backend
        self._check(node, max_entries)
        self._base = _identity(node, version) if self.shared else ""
        # A clock that others do not share means nothing to them.
        self._clock = time.time if self.shared else time.monotonic
        self._flights: dict[Any, Flight] = {}
        self._lock = Lock()
        self._warned = False

    def _check(self, node: Node[..., Any], max_entries: int) -> None:
        def refuse(problem: str) -> InvalidNodeError:
            return InvalidNodeError(f"cached node {node.name!r}: {problem}", node=node.name)

        if self.ttl is not None and not self.ttl > 0:
            raise refuse(f"ttl is a number of seconds above 0, not {self.ttl!r}")
        if not isinstance(max_entries, int) or max_entries < 1:
            raise refuse(f"max_entries is a count of at least 1, not {max_entries!r}")
        for name in self.cache_key or ():
            if name not in node.inputs and not node.signature.var_keyword:
                hint = closest(name, node.inputs)[1]
                raise refuse(f"cache_key names {name!r}, which is no parameter of it{hint}")
        for method in ("get", "set", "delete", "clear"):
            if not callable(getattr(self.backend, method, None)):
                raise refuse(f"the backend {self.backend!r} has no method {method}()")
            if gives_coroutine(getattr(self.backend, method)):
                raise refuse(
                    f"the backend {self.backend!r} has an async {method}(); give it sync methods: "
                    "they are called in a thread, and block no event loop"
                )

    # Keys.

    def key(self, inputs: Mapping[str, Any]) -> Any:
        """The key of a call; None, with one warning, where its inputs cannot be looked up by.

        Raises ValidationError for that where the backend is shared."""
        kept = inputs
        if self.cache_key is not None:
            kept = {name: inputs[name] for name in self.cache_key if name in inputs}
        try:
            key = inputs_key(kept)
            if not self.shared:
                return key
            parts = [(name, stable_text(each, f"parameter {name!r}")) for name, each in key]
        except UnkeyableError as error:
            message = f"node {self.node_name!r} cannot be cached by these inputs: {error}"
            if self.shared:
                raise ValidationError(message, node=self.node_name) from None
            if not self._warned:
                self._warned = True
                warnings.warn(f"{message}; it runs uncached", RuntimeWarning, stacklevel=2)
            return None
        return f"{self._base}:{_short(repr(parts))}"

    # Reading and writing, as effects where the backend is not our own.

    def _do(self, method: str, *args: Any) -> Generator[Effect, Any, Any]:
        func = getattr(self.backend, method)
        if not self.shared:
            return func(*args)
        answer = yield Invoke(func, args, False)
        if isinstance(answer, Raised):
            raise answer.error
        return answer

    def placed(self, key: Any) -> Generator[Effect, Any, Any]:
        """Where a key is kept now: `invalidate_cache` gives all of a node's keys another place."""
        if not self.shared:
            return key
        place = yield from self._do("get", f"{self._base}:place")
        return key if place is None else f"{key}:{place}"

    def fetch(self, key: Any) -> Generator[Effect, Any, Found | None]:
        """The value of a key, first of a sequence, or None."""
        return (yield from self.read((yield from self.placed(key))))

    def at_hand(self, key: Any) -> Found | None:
        """`fetch`, where the memory is our own: nobody else is to be asked."""
        return self._fresh(self.backend.get(key))

    def read(self, place: Any) -> Generator[Effect, Any, Found | None]:
        """The value that is kept at a place, first of a sequence, or None."""
        entry = yield from self._do("get", place)
        if entry is not None and self.shared and not _is_entry(entry):
            raise TypeError(
                f"get() of the backend returned an object of type {type(entry).__name__}, not an "
                "entry as set() is given them: a tuple of the value and when it expires"
            )
        return self._fresh(entry)

    def _fresh(self, entry: Any) -> Found | None:
        """An entry (a value, and when it expires), unless it has expired."""
        if entry is None or entry[1] is None or self._clock() < entry[1]:
            return entry  # type: ignore[no-any-return]
        return None

    def write(self, place: Any, value: Any, flight: Flight) -> Generator[Effect, Any, None]:
        """Keep a value that was computed, unless the cache was invalidated since that began."""
        if flight.is_stale:
            return
        expires = None if self.ttl is None else self._clock() + self.ttl
        yield from self._do("set", place, (value, expires))
        if flight.is_stale:  # while it was being written
            yield from self._do("delete", place)

    def invalidate(self, inputs: Mapping[str, Any]) -> None:
        """Forget the calls with these inputs, all calls where there are none."""
        for name in inputs:
            if name not in self._inputs and not self._takes_any:
                raise ValidationError(
                    f"{name!r} is no parameter of the cached node {self.node_name!r}"
                    f"{closest(name, self._inputs)[1]}",
                    node=self.node_name,
                )
        if inputs and self.cache_key is not None:
            inputs = {name: inputs[name] for name in self.cache_key if name in inputs}
            if not inputs:
                raise ValidationError(
                    f"none of these is part of the cache key of {self.node_name!r}, which is "
                    f"{list(self.cache_key)!r}",
                    node=self.node_name,
                )
        self._outdate(inputs)
        if not self.shared:
            self._forget(inputs)
        elif inputs:
            _finished(self._do("delete", _finished(self.placed(self.key(inputs)))))
        else:
            _finished(self._do("set", f"{self._base}:place", str(time.time_ns())))

    def _outdate(self, inputs: Mapping[str, Any]) -> None:
        """What is being computed now must not be kept either."""
        given = set() if self.shared else self._given(inputs)
        with self._lock:
            for key, flight in list(self._flights.items()):
                if not inputs or self.shared or given.issubset(key):
                    flight.is_stale = True
                    del self._flights[key]

    def _given(self, inputs: Mapping[str, Any]) -> set[tuple[str, Any]]:
        """Those parts of keys that are these inputs."""
        try:
            return set(inputs_key(inputs))
        except UnkeyableError as error:
            raise ValidationError(
                f"node {self.node_name!r} cannot be cached by these inputs: {error}",
                node=self.node_name,
            ) from None

    def _forget(self, inputs: Mapping[str, Any]) -> None:
        backend = self.backend
        assert isinstance(backend, MemoryBackend)
        if not inputs:
            backend.clear()
            return
        given = self._given(inputs)
        for key in backend.known():
            if given.issubset(key):
                backend.delete(key)

    # Who computes.

    def board(self, key: Any, run: Run) -> tuple[Flight, bool]:
        """The flight that computes a key, and whether it is the caller's own, just begun."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Flight(run)
            return flight, True

    def land(self, key: Any, flight: Flight) -> None:
        """The caller's computation ended, or was given up."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.land()


def _finished(effects: Generator[Effect, Any, Any]) -> Any:
    """Carry out reads and writes here and now."""
    answer: Any = None
    try:
        while True:
            effect: Any = effects.send(answer)
            value = effect.func(*effect.args)
            if hasattr(value, "__await__"):
                if hasattr(value, "close"):
                    value.close()
                raise ValidationError(
                    f"{effect.func!r} of a cache's backend returned a {type(value).__name__}, "
                    "which nothing awaits here; give the backend sync methods"
                )
            answer = value
    except StopIteration as stop:
        return stop.value


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:  # JSON knows no tuples
        return False
    return entry[1] is None or isinstance(entry[1], (int, float))


def _identity(node: Node[..., Any], version: str | int | None) -> str:
    """What names a node's function to other processes."""
    origin = node.signature.origin
    code = getattr(origin, "__code__", None)
    defaults, why = "", None
    if code is None:
        why = "has no bytecode to tell versions by"
    elif code.co_freevars:
        why = "has free variables"
    elif origin is not node.func:
        why = "is bound to values, or wrapped by another one,"
    else:
        try:
            given = (origin.__defaults__, origin.__kwdefaults__)
            defaults = stable_text(key_of(given), "a default")
        except UnkeyableError:
            why = "has defaults that mean nothing to another process"
    if version is None and why is not None:
        raise InvalidNodeError(
            f"cached node {node.name!r}: a function that {why} needs version= in a shared backend",
            node=node.name,
        )
    name = f"{getattr(origin, '__module__', '')}.{getattr(origin, '__qualname__', node.name)}"
    return f"fast_dag:{name}:{_short(_bytecode(code) + defaults)}:{version}"


def _bytecode(code: Any) -> str:
    if code is None:
        return ""
    return repr((code.co_code, code.co_names, [_constant(each) for each in code.co_consts]))


def _constant(value: Any) -> str:
    """A constant as the same text in every process: sets have another order in each."""
    if hasattr(value, "co_code"):
        return _bytecode(value)
    if isinstance(value, tuple):
        return f"({','.join([_constant(each) for each in value])})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted([_constant(each) for each in value]))}}}"
    return repr(value)


def _short(text: str) -> str:
    from hashlib import blake2b  # slow to import

    return blake2b(text.encode(), digest_size=16).hexdigest()
