"""The cached results of one node."""

from __future__ import annotations

import time
import warnings
from threading import RLock
from typing import TYPE_CHECKING, Any

from fast_dag.cache.keys import UnkeyableError, inputs_key, is_quick, key_of, stable_text
from fast_dag.cache.memory import MemoryBackend
from fast_dag.cache.single_flight import SingleFlight
from fast_dag.call.effects import Invoke, Raised
from fast_dag.define.signature import (
    ABSENT,
    UnreadableSignatureError,
    gives_coroutine,
    read_signature,
)
from fast_dag.errors import InvalidNodeError, ValidationError, closest, failures, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from fast_dag.cache.memory import Backend
    from fast_dag.call.effects import Effect
    from fast_dag.call.host import Host
    from fast_dag.define.node import Node

    Found = Sequence[Any]


class NodeCache:
    """What `cached_node` was asked for, and what has been computed.

    In memory the cache belongs to its node. In a backend that others share, keys have the
    function's module, name and bytecode and the `version` in them.

    Nothing here fails a node. Inputs without a key, and a backend that raises, are told by one
    warning; the node runs uncached, or its result is not kept.
    """

    def __init__(
        self,
        node: Node[..., Any],
        *,
        ttl: float | None = None,
        cache_key: list[str] | Callable[..., Any] | None = None,
        version: str | int | None = None,
        backend: Backend | None = None,
        max_entries: int = 1024,
    ) -> None:
        self.node_name = node.name
        self.ttl = ttl
        self._inputs = node.inputs
        self._takes_any = node.signature.var_keyword is not None
        self._key_function = _KeyFunction(node, cache_key) if callable(cache_key) else None
        self.cache_key = None if callable(cache_key) else cache_key
        self.shared = backend is not None
        self.backend: Backend = MemoryBackend(max_entries) if backend is None else backend
        self._check(node)
        self._base = _identity(node, version) if self.shared else ""
        # A clock that others do not share means nothing to them.
        self._clock = time.time if self.shared else time.monotonic
        self._flights: dict[Any, SingleFlight] = {}
        self._lock = RLock()  # a signal handler or a finalizer may come back here
        self._warned: set[str] = set()

    def _check(self, node: Node[..., Any]) -> None:
        def refuse(problem: str) -> InvalidNodeError:
            return InvalidNodeError(f"cached node {node.name!r}: {problem}", node=node.name)

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
        """The key of a call; None, with one warning, where its inputs cannot be looked up by."""
        try:
            return self._made_key(inputs)
        except UnkeyableError as error:
            self._warn("key", f"cannot be cached by these inputs: {error}; it runs uncached")
            return None

    def _made_key(self, inputs: Mapping[str, Any]) -> Any:
        parts = self._parts(inputs)
        if not self.shared:
            return parts
        texts = [(name, stable_text(each, f"parameter {name!r}")) for name, each in parts]
        return f"{self._base}:{_short(repr(texts))}"

    def _parts(self, inputs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """What a key is made of, by name. Raises UnkeyableError."""
        if self._key_function is not None:
            return self._key_function.parts(inputs)
        return inputs_key(self._counted(inputs))

    def _counted(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those inputs that are part of the key."""
        if self.cache_key is None:
            return inputs
        return {name: inputs[name] for name in self.cache_key if name in inputs}

    def _warn(self, about: str, problem: str) -> None:
        """One warning about the keys, one about the backend."""
        with self._lock:
            is_first = about not in self._warned
            self._warned.add(about)
        if is_first:
            warnings.warn(f"node {self.node_name!r} {problem}", RuntimeWarning, stacklevel=3)

    # Reading and writing, as effects where it takes its time or the backend is not our own.

    def looked_up(
        self, inputs: Mapping[str, Any]
    ) -> Generator[Effect, Any, tuple[Any, Found | None]]:
        """The key of a call, and what there is at hand. An event loop makes keys of small plain
        values itself; for others it goes on meanwhile."""
        if self._key_function is None and is_quick(self._counted(inputs).values()):
            return self._look_up(inputs)
        found: tuple[Any, Found | None] = _unwrapped(
            (yield Invoke(self._look_up, (inputs,), False))
        )
        return found

    def _look_up(self, inputs: Mapping[str, Any]) -> tuple[Any, Found | None]:
        key = self.key(inputs)
        return key, None if key is None or self.shared else self.at_hand(key)

    def _ask(self, method: str, *args: Any) -> Generator[Effect, Any, Any]:
        """Call a method of a backend that is not our own. Raises what that raises."""
        return _unwrapped((yield Invoke(getattr(self.backend, method), args, False)))

    def guarded(
        self, effects: Generator[Effect, Any, Any], purpose: str
    ) -> Generator[Effect, Any, Any]:
        """What the backend answers to a node; None where it raises, with one warning."""
        try:
            return (yield from effects)
        except failures() as error:
            told = f"{type(error).__name__}: {text_of(error)}"
        self._warn(
            "backend",
            f"could not {purpose} its cache's backend: {told}; what cannot be read is computed, "
            "and what cannot be written is not kept",
        )
        return None

    def placed(self, key: Any) -> Generator[Effect, Any, Any]:
        """Where a key is kept now: `invalidate_cache` gives all of a node's keys another place."""
        if not self.shared:
            return key
        place = yield from self._ask("get", f"{self._base}:place")
        return key if place is None else f"{key}:{place}"

    def fetch(self, key: Any) -> Generator[Effect, Any, tuple[Any, Found | None]]:
        """The place of a key, None where that is unknown; and the value that is kept there, first
        of a sequence, or None."""
        if not self.shared:
            return key, self.at_hand(key)
        place = yield from self.guarded(self.placed(key), "read from")
        if place is None:
            return None, None
        return place, (yield from self.guarded(self._read(place), "read from"))

    def at_hand(self, key: Any) -> Found | None:
        """`fetch`, where the memory is our own: nobody else is to be asked."""
        return self._fresh(self.backend.get(key))

    def _read(self, place: Any) -> Generator[Effect, Any, Found | None]:
        entry = yield from self._ask("get", place)
        if entry is not None and not _is_entry(entry):
            raise TypeError(
                f"get() returned an object of type {type(entry).__name__}, not an entry as set() "
                "is given them: a tuple of the value and when it expires"
            )
        return self._fresh(entry)

    def _fresh(self, entry: Any) -> Found | None:
        """An entry (a value, and when it expires), unless it has expired."""
        if entry is None or entry[1] is None or self._clock() < entry[1]:
            return entry  # type: ignore[no-any-return]
        return None

    def write(self, place: Any, value: Any, flight: SingleFlight) -> Generator[Effect, Any, None]:
        """Keep a value that was computed, unless the cache was invalidated since that began."""
        if flight.is_stale:
            return
        expires = None if self.ttl is None else self._clock() + self.ttl
        if self.shared:
            yield from self.guarded(self._write(place, (value, expires), flight), "write to")
        else:
            self.backend.set(place, (value, expires))
            if flight.is_stale:  # while it was being written
                self.backend.delete(place)

    def _write(self, place: Any, entry: Any, flight: SingleFlight) -> Generator[Effect, Any, None]:
        yield from self._ask("set", place, entry)
        if flight.is_stale:
            yield from self._ask("delete", place)

    def invalidate(self, inputs: Mapping[str, Any]) -> None:
        """Forget the calls with these inputs, all calls where there are none."""
        for name in inputs:
            if name not in self._inputs and not self._takes_any:
                raise ValidationError(
                    f"{name!r} is no parameter of the cached node {self.node_name!r}"
                    f"{closest(name, self._inputs)[1]}",
                    node=self.node_name,
                )
        counted = self.cache_key
        if inputs and counted is not None and not any(name in inputs for name in counted):
            raise ValidationError(
                f"none of these is part of the cache key of {self.node_name!r}, which is "
                f"{list(counted)!r}",
                node=self.node_name,
            )
        parts: set[tuple[str, Any]] = set()
        key = ""
        try:
            if self.shared:
                key = self._made_key(inputs) if inputs else ""
            elif inputs:
                parts = set(self._parts(inputs))
        except UnkeyableError as error:
            raise ValidationError(
                f"node {self.node_name!r} cannot be cached by these inputs: {error}",
                node=self.node_name,
            ) from None
        self._outdate(parts)
        if not self.shared:
            self._forget(parts)
        elif inputs:
            _finished(self._ask("delete", _finished(self.placed(key))))
        else:
            _finished(self._ask("set", f"{self._base}:place", str(time.time_ns())))

    def _outdate(self, parts: set[tuple[str, Any]]) -> None:
        """What is being computed now under a key with these parts must not be kept either."""
        with self._lock:
            for key, flight in list(self._flights.items()):
                if self.shared or parts.issubset(key):
                    flight.is_stale = True
                    del self._flights[key]

    def _forget(self, parts: set[tuple[str, Any]]) -> None:
        backend = self.backend
        assert isinstance(backend, MemoryBackend)
        if not parts:
            backend.clear()
            return
        for key in backend.known():
            if parts.issubset(key):
                backend.delete(key)

    # Who computes.

    def claim(self, key: Any, host: Host) -> tuple[SingleFlight, bool]:
        """The flight that computes a key, and whether it is the caller's own, just begun."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = SingleFlight(host)
            return flight, True

    def finish(self, key: Any, flight: SingleFlight) -> None:
        """The caller's computation ended, or was given up."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.finish()


def _unwrapped(answer: Any) -> Any:
    """An effect's answer; raises what the call raised."""
    if not isinstance(answer, Raised):
        return answer
    error = answer.error
    try:
        raise error
    finally:
        del answer, error  # whose traceback has this frame


class _KeyFunction:
    """A function given as `cache_key=`: called with the inputs as keywords, those that it takes.
    Inputs that were left out have the node's defaults there."""

    def __init__(self, node: Node[..., Any], func: Callable[..., Any]) -> None:
        def refuse(problem: str) -> InvalidNodeError:
            return InvalidNodeError(f"cached node {node.name!r}: {problem}", node=node.name)

        if gives_coroutine(func):
            raise refuse(f"cache_key is a sync function or a list of names, not {func!r}")
        self._func = func
        self._takes: frozenset[str] | None = None  # all
        try:
            signature = read_signature(func)
        except UnreadableSignatureError:
            signature = None
        if signature is not None and not signature.var_keyword:
            for each in signature.parameters:
                known = each.optional or each.name in node.inputs or node.signature.var_keyword
                if not known:
                    hint = closest(each.name, node.inputs)[1]
                    raise refuse(
                        f"cache_key takes {each.name!r}, which is no parameter of it{hint}"
                    )
            self._takes = frozenset(each.name for each in signature.parameters)
        self._defaults = {
            each.name: each.default
            for each in node.signature.parameters
            if each.default is not ABSENT and not each.is_context
        }

    def parts(self, inputs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The key that it makes. Raises UnkeyableError."""
        given = {**self._defaults, **inputs}
        if self._takes is not None:
            given = {name: given[name] for name in self._takes if name in given}
        try:
            value = self._func(**given)
        except failures() as error:
            raise UnkeyableError(
                f"cache_key raised {type(error).__name__}: {text_of(error)}"
            ) from None
        return inputs_key({_BY_FUNCTION: value})


_BY_FUNCTION = "cache_key()"
"""Stands for a parameter in keys that a function makes; no parameter has that name."""


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
