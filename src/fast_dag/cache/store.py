"""The cached results of one node."""

from __future__ import annotations

import time
import warnings
from os import urandom
from threading import RLock
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from fast_dag.cache.keys import (
    Identity,
    UnkeyableError,
    digest_of,
    forget_key,
    inputs_key,
    is_quick,
    stable_text,
)
from fast_dag.cache.memory import MemoryBackend
from fast_dag.cache.single_flight import SingleFlight
from fast_dag.call.effects import Invoke, Raised
from fast_dag.define.signature import (
    ABSENT,
    UnreadableSignatureError,
    gives_coroutine,
    read_signature,
)
from fast_dag.errors import InvalidNodeError, ValidationError, brief_of, closest, failures

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Mapping, Sequence

    from fast_dag.cache.fingerprint import Base, CachedNode
    from fast_dag.cache.memory import Backend
    from fast_dag.call.effects import Effect
    from fast_dag.call.host import Host

    Found = Sequence[Any]


READ_AGAIN: Final = 0.2
"""So many seconds a process relies on what it read of the invalidations of others."""


class NodeCache:
    """The options of `cached_node`, and the results that were computed.

    In memory the cache belongs to its node. In a backend that others share, keys have the
    function's name and fingerprint and the `version` in them.

    Nothing here fails a node. If inputs have no key, or a backend raises, the user gets one
    warning; the node runs uncached, or its result is not kept.
    """

    def __init__(
        self,
        node: CachedNode,
        *,
        ttl: float | None = None,
        cache_key: list[str] | Callable[..., Any] | None = None,
        version: str | int | None = None,
        backend: Backend | None = None,
        max_entries: int | None = 1024,
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
        self._base: Base | None = None
        self._site = _Site()
        if self.shared:
            from fast_dag.cache.fingerprint import Base  # with ast and dis, which few need

            self._base = Base(node, version)
            self._site = _site_of(backend)
        known = [name for name in (*_METHODS, "forget") if hasattr(self.backend, name)]
        self._is_async = {name: gives_coroutine(getattr(self.backend, name)) for name in known}
        self._workflow = node.workflow
        # A clock that others do not share means nothing to them.
        self._clock = time.time if self.shared else time.monotonic
        self._lock = RLock()  # a signal handler or a finalizer may come back here
        self._warned: set[str] = set()

    def _check(self, node: CachedNode) -> None:
        for name in self.cache_key or ():
            if name not in node.inputs and not node.signature.var_keyword:
                hint = closest(name, node.inputs)[1]
                raise _refused(node, f"cache_key names {name!r}, which is no parameter of it{hint}")
        for method in _METHODS:
            if not callable(getattr(self.backend, method, None)):
                raise _refused(node, f"the backend {self.backend!r} has no method {method}()")

    # Keys.

    def key(self, inputs: Mapping[str, Any], host: Host | None = None) -> Any:
        """The key of a call in a run; None, with one warning, if its inputs have none."""
        try:
            return self._made_key(inputs, host)
        except UnkeyableError as error:
            self._warn("key", f"cannot be cached by these inputs: {error}; it runs uncached")
            return None

    def _made_key(self, inputs: Mapping[str, Any], host: Host | None = None) -> Any:
        parts = self._parts(inputs, host)
        if self._base is not None:
            texts = [(name, stable_text(each, f"parameter {name!r}")) for name, each in parts]
            return f"{self._base.text()}:{_short(repr(texts))}"
        if self._workflow is not None:  # as it is now: a node may have been replaced
            return (*parts, (_WORKFLOW, self._workflow.version))
        return parts

    def _parts(
        self, inputs: Mapping[str, Any], host: Host | None = None
    ) -> tuple[tuple[str, Hashable], ...]:
        """The parts of a key, by name. Raises UnkeyableError."""
        if self._key_function is not None:
            return self._key_function.parts(inputs)
        return inputs_key(self._counted(inputs), host)

    def _counted(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs that are part of the key."""
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

    # Reading and writing: effects, if it may take a while or the backend is not our own.

    def looked_up(
        self, inputs: Mapping[str, Any], host: Host | None = None
    ) -> Generator[Effect, Any, tuple[Any, Found | None]]:
        """The key of a call, and the entry in our own memory. An event loop makes the keys of small
        plain values itself; for all others a worker thread makes the key."""
        is_ready = self._base is None or self._base.was_read
        if is_ready and self._key_function is None and is_quick(self._counted(inputs).values()):
            return self._look_up(inputs, host)
        found: tuple[Any, Found | None] = _unwrapped(
            (yield Invoke(self._look_up, (inputs, host), False))
        )
        return found

    def _look_up(self, inputs: Mapping[str, Any], host: Host | None) -> tuple[Any, Found | None]:
        key = self.key(inputs, host)
        return key, None if key is None or self.shared else self.at_hand(key)

    def _ask(self, method: str, *args: Any) -> Generator[Effect, Any, Any]:
        """Call a method of a backend that is not our own. Raises what the method raises."""
        return _unwrapped(
            (yield Invoke(getattr(self.backend, method), args, self._is_async[method]))
        )

    def guarded(
        self, effects: Generator[Effect, Any, Any], purpose: str
    ) -> Generator[Effect, Any, Any]:
        """What the backend answers to a node; None, with one warning, if it raises."""
        try:
            return (yield from effects)
        except failures() as error:
            told = brief_of(error)
        self._warn(
            "backend",
            f"could not {purpose} its cache's backend: {told}; what cannot be read is computed, "
            "and what cannot be written is not kept",
        )
        return None

    def fetch(self, key: Any) -> Generator[Effect, Any, tuple[Any, Found | None]]:
        """Where to write what is computed for a key, None if it must not be kept; and the entry
        that is there, its value first, or None."""
        if not self.shared:
            return key, self.at_hand(key)
        entry = yield from self.guarded(self._read(key), "read from")
        if entry is not None:
            return None, entry
        generation = yield from self.guarded(self._generation(_base_of(key)), "read from")
        return None if generation is None else (key, generation[0]), None

    def at_hand(self, key: Any) -> Found | None:
        """`fetch` from our own memory, which nobody has to wait for."""
        return self._fresh(self.backend.get(key))

    def _read(self, key: str) -> Generator[Effect, Any, Found | None]:
        """The entry under a key, unless it has expired or was invalidated."""
        entry = yield from self._ask("get", key)
        if entry is None:
            return None
        if not _is_entry(entry):
            raise TypeError(
                f"get() returned an object of type {type(entry).__name__}, not an entry as set() "
                "is given them: a tuple of the value and when it expires"
            )
        if self._fresh(entry) is None:
            return None
        if not self._forgets:
            base, of = _base_of(key), entry[2] if len(entry) == 3 else ""
            if (yield from self._generation(base))[0] != of:
                # It is of another generation; or that is what this process does not know yet.
                self._site.generations.pop(base, None)
                if (yield from self._generation(base))[0] != of:
                    return None
        return entry  # type: ignore[no-any-return]

    def _fresh(self, entry: Any) -> Found | None:
        """An entry (a value, and when it expires), unless it has expired."""
        if entry is None or entry[1] is None or self._clock() < entry[1]:
            return entry  # type: ignore[no-any-return]
        return None

    # Generations. `invalidate_cache` of a whole node begins a new one, by a word in the backend. An
    # entry is good if its generation is the present one, "" if there never was an invalidation.
    # A hit must read the backend once only. So a process reads the word again only after a while,
    # or when it meets an entry of another generation. If the backend can forget by a prefix, old
    # entries are gone, and readers do not need the word at all.

    @property
    def _forgets(self) -> bool:
        return hasattr(self.backend, "forget")

    def _generation(self, base: str) -> Generator[Effect, Any, tuple[str, float]]:
        """The present generation of a function's results, and when it was read."""
        known = self._site.generations.get(base)
        now = time.monotonic()
        if known is not None and now - known[1] < READ_AGAIN:
            return known
        word = yield from self._ask("get", _place_of(base))
        read = (str(word or ""), now)
        generations = self._site.generations
        with self._site.lock:
            if generations.get(base) is known:  # another thread may have begun a new one meanwhile
                generations[base] = read
        return generations.get(base, read)

    def _begin_generation(self, base: str) -> Generator[Effect, Any, None]:
        word = urandom(8).hex()
        yield from self._ask("set", _place_of(base), word)
        self._site.generations[base] = (word, time.monotonic())
        if self._forgets:
            yield from self._ask("forget", base)

    def write(self, place: Any, value: Any, flight: SingleFlight) -> Generator[Effect, Any, None]:
        """Keep a value that was computed, unless the cache was invalidated since that began."""
        forget_key(value, flight.host)
        if flight.is_stale:
            return
        expires = None if self.ttl is None else self._clock() + self.ttl
        if self.shared:
            key, generation = place
            entry = (value, expires, generation) if generation else (value, expires)
            yield from self.guarded(self._write(key, entry, generation, flight), "write to")
        else:
            self.backend.set(place, (value, expires))
            if flight.is_stale:  # while it was being written
                self.backend.delete(place)

    def _write(
        self, key: str, entry: Any, generation: str, flight: SingleFlight
    ) -> Generator[Effect, Any, None]:
        yield from self._ask("set", key, entry)
        is_stale = flight.is_stale
        if self._forgets and not is_stale:  # another process may have forgotten all but this
            self._site.generations.pop(_base_of(key), None)
            is_stale = (yield from self._generation(_base_of(key)))[0] != generation
        if is_stale:
            yield from self._ask("delete", key)

    def invalidate(self, inputs: Mapping[str, Any]) -> None:
        """Forget the calls with these inputs, all calls if there are none."""
        _finished(self._invalidated(inputs))

    async def invalidate_async(self, inputs: Mapping[str, Any]) -> None:
        """The same on an event loop: async methods of a backend are awaited, and others are called
        in a thread."""
        from asyncio import to_thread  # slow to import

        effects = self._invalidated(inputs)
        answer: Any = None
        while True:
            try:
                effect: Any = effects.send(answer)
            except StopIteration:
                return
            try:
                if effect.is_async:
                    answer = await effect.func(*effect.args)
                else:
                    answer = await to_thread(effect.func, *effect.args)
                    if hasattr(answer, "__await__"):
                        answer = await answer
            except Exception as error:
                answer = Raised(error)

    def _invalidated(self, inputs: Mapping[str, Any]) -> Generator[Effect, Any, None]:
        self._check_names(inputs)
        parts: set[tuple[str, Any]] = set()
        key = base = ""
        try:
            if self._base is not None:
                base = self._base.text()
                key = self._made_key(inputs) if inputs else ""
            elif inputs:
                parts = set(self._parts(inputs))
        except UnkeyableError as error:
            raise ValidationError(
                f"node {self.node_name!r} cannot be cached by these inputs: {error}",
                node=self.node_name,
            ) from None
        self._outdate(base, key, parts)
        if not self.shared:
            self._forget(parts)
        elif inputs:
            yield from self._ask("delete", key)
        else:
            yield from self._begin_generation(base)

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        """Raise ValidationError for inputs that no key has."""
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

    def _outdate(self, base: str, key: str, parts: set[tuple[str, Any]]) -> None:
        """See to it that results which are being computed now under these keys are not kept."""
        flights = self._site.flights
        with self._site.lock:
            for each, flight in list(flights.items()):
                if self.shared:
                    is_meant = each == key if key else _base_of(each) == base
                else:
                    is_meant = parts.issubset(each)
                if is_meant:
                    flight.is_stale = True
                    del flights[each]

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
        """The computation of a key, and whether it is the caller's own, just begun."""
        flights = self._site.flights
        with self._site.lock:
            flight = flights.get(key)
            if flight is not None:
                return flight, False
            flight = flights[key] = SingleFlight(host)
            return flight, True

    def finish(self, key: Any, flight: SingleFlight) -> None:
        """The caller's computation ended, or was given up."""
        with self._site.lock:
            if self._site.flights.get(key) is flight:
                del self._site.flights[key]
        flight.finish()


_METHODS: Final = ("get", "set", "delete", "clear")


class _Site:
    """What all nodes of this process share that keep their results in one backend: what is being
    computed, by key, and the generations as they were read, by the base of keys."""

    __slots__ = ("__weakref__", "flights", "generations", "lock")

    def __init__(self) -> None:
        self.flights: dict[Any, SingleFlight] = {}
        self.generations: dict[str, tuple[str, float]] = {}
        self.lock = RLock()  # a signal handler or a finalizer may come back here


_sites: WeakValueDictionary[Hashable, _Site] = WeakValueDictionary()
_sites_lock = RLock()


def _site_of(backend: Any) -> _Site:
    """The site of a backend. Backends that are equal are one."""
    try:
        hash(backend)
    except TypeError:
        backend = Identity(backend)
    with _sites_lock:
        site = _sites.get(backend)
        if site is None:
            site = _sites[backend] = _Site()
        return site


def _base_of(key: str) -> str:
    """The part of a key that stands for the function."""
    return key.rpartition(":")[0]


def _place_of(base: str) -> str:
    """Under which key the generation is kept. Not under the base itself, so that forgetting all
    that begins with the base leaves it."""
    return f"generation:{base.replace(':', ' ')}:place"


def _unwrapped(answer: Any) -> Any:
    """The answer to an effect; raises what the call raised."""
    if type(answer) is not Raised:
        return answer
    error = answer.error
    try:
        raise error
    finally:
        del answer, error  # whose traceback has this frame


def _refused(node: CachedNode, problem: str) -> InvalidNodeError:
    return InvalidNodeError(f"cached node {node.name!r}: {problem}", node=node.name)


class _KeyFunction:
    """A function given as `cache_key=`. It is called with those inputs that it takes, as keywords.
    Inputs that were left out have the node's defaults."""

    def __init__(self, node: CachedNode, func: Callable[..., Any]) -> None:
        if gives_coroutine(func):
            raise _refused(node, f"cache_key is a sync function or a list of names, not {func!r}")
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
                    raise _refused(
                        node, f"cache_key takes {each.name!r}, which is no parameter of it{hint}"
                    )
            self._takes = frozenset(each.name for each in signature.parameters)
        self._defaults = {
            each.name: each.default
            for each in node.signature.parameters
            if each.default is not ABSENT and not each.by_engine
        }

    def parts(self, inputs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The key that it makes. Raises UnkeyableError."""
        given = {**self._defaults, **inputs}
        if self._takes is not None:
            given = {name: given[name] for name in self._takes if name in given}
        try:
            value = self._func(**given)
        except failures() as error:
            raise UnkeyableError(f"cache_key raised {brief_of(error)}") from None
        return inputs_key({_BY_FUNCTION: value})


_BY_FUNCTION: Final = "cache_key()"
_WORKFLOW: Final = "workflow()"
"""They stand for a parameter in keys; no parameter has such a name."""


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
                    "which nothing awaits here; use `await dag.invalidate_cache_async(...)`, or "
                    "give the backend sync methods"
                )
            answer = value
    except StopIteration as stop:
        return stop.value


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3):  # JSON knows no tuples
        return False
    if len(entry) == 3 and not isinstance(entry[2], str):
        return False
    return entry[1] is None or isinstance(entry[1], (int, float))


def _short(text: str) -> str:
    return digest_of(text.encode("utf-8", "surrogatepass")).hex()
