"""What `@dag.node`, `@fsm.state` and their siblings are."""

from __future__ import annotations

from types import MappingProxyType

from fast_dag.define.node import Nestable, Node, NodeType
from fast_dag.define.options import CACHE_OPTIONS, OPTIONS, fitting
from fast_dag.define.signature import ABSENT
from fast_dag.errors import InvalidNodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Protocol, Required, TypedDict, Unpack, overload

    from fast_dag._typing import P, R_co
    from fast_dag.define.node import Mapped
    from fast_dag.define.options import (
        AllOptions,
        AnyOptions,
        CachedStateOptions,
        CacheOptions,
        CommonOptions,
        ItemOptions,
        MapOptions,
        SelectOptions,
    )

    # Each decorator takes its own options, before the function or after it, and a type checker
    # must see which. `Unpack` takes no type variable, so each has a class of its own.

    class Named(TypedDict, total=False):
        name: str | None
        replace: bool

    class Marked(Named, total=False):
        initial: bool
        terminal: bool
        on_error: str | Node[..., Any] | None

    class ForNode(CommonOptions, Named, total=False): ...

    class ForMap(MapOptions, Named, total=False): ...

    class ForOver(ItemOptions, Named, total=False):
        over: Required[str | Sequence[str]]

    class ForProduct(ItemOptions, Named, total=False):
        product: Required[Sequence[str]]

    class ForAny(AnyOptions, Named, total=False): ...

    class ForAll(AllOptions, Named, total=False): ...

    class ForSelect(SelectOptions, Named, total=False): ...

    class ForCachedNode(CacheOptions, ForNode, total=False): ...

    class ForCachedOver(CacheOptions, ForOver, total=False): ...

    class ForCachedProduct(CacheOptions, ForProduct, total=False): ...

    class ForState(CommonOptions, Marked, total=False): ...

    class ForCachedState(CachedStateOptions, Marked, total=False): ...

    class Later(Protocol):
        @overload
        def __call__(self, f: Callable[P, R_co], /) -> Node[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /) -> Node[..., Any]: ...

    class LaterMapped(Protocol):
        @overload
        def __call__(self, f: Callable[P, R_co], /) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /) -> Mapped[..., Any]: ...

    class NodeDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForNode]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /, **options: Unpack[ForNode]) -> Node[..., Any]: ...
        @overload
        def __call__(self, **options: Unpack[ForNode]) -> Later: ...
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForOver]
        ) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForOver]) -> LaterMapped: ...
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForProduct]
        ) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForProduct]) -> LaterMapped: ...

    class MapDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForMap]
        ) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /, **options: Unpack[ForMap]) -> Mapped[..., Any]: ...
        @overload
        def __call__(self, **options: Unpack[ForMap]) -> LaterMapped: ...

    class ConditionDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForNode]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForNode]) -> Later: ...

    class AnyDecorator(Protocol):
        @overload
        def __call__(self, f: Callable[P, R_co], /, **options: Unpack[ForAny]) -> Node[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForAny]) -> Later: ...

    class AllDecorator(Protocol):
        @overload
        def __call__(self, f: Callable[P, R_co], /, **options: Unpack[ForAll]) -> Node[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForAll]) -> Later: ...

    class SelectDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForSelect]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForSelect]) -> Later: ...

    class CachedNodeDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForCachedNode]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /, **options: Unpack[ForCachedNode]) -> Node[..., Any]: ...
        @overload
        def __call__(self, **options: Unpack[ForCachedNode]) -> Later: ...
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForCachedOver]
        ) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForCachedOver]) -> LaterMapped: ...
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForCachedProduct]
        ) -> Mapped[P, R_co]: ...
        @overload
        def __call__(self, **options: Unpack[ForCachedProduct]) -> LaterMapped: ...

    class StateDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForState]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /, **options: Unpack[ForState]) -> Node[..., Any]: ...
        @overload
        def __call__(self, **options: Unpack[ForState]) -> Later: ...

    class CachedStateDecorator(Protocol):
        @overload
        def __call__(
            self, f: Callable[P, R_co], /, **options: Unpack[ForCachedState]
        ) -> Node[P, R_co]: ...
        @overload
        def __call__(self, f: Nestable, /, **options: Unpack[ForCachedState]) -> Node[..., Any]: ...
        @overload
        def __call__(self, **options: Unpack[ForCachedState]) -> Later: ...


class Decorator:
    """Makes nodes of functions: used bare, or called with options, the function first or later.

    `add(node, ...)` takes the node in, with those of the options that are `own` to it; these have
    defaults there. `complete(func, name, options)` adds the options that follow from others.
    `maps`: whether its nodes can be maps.
    """

    __slots__ = ("_add", "_cached", "_complete", "_maps", "_own", "_type")

    def __init__(
        self,
        add: Callable[..., Node[..., Any]],
        type: NodeType = NodeType.NODE,
        *,
        cached: bool = False,
        own: Mapping[str, Any] = MappingProxyType({"replace": False}),
        complete: Callable[[Any, str | None, dict[str, Any]], None] | None = None,
        maps: bool = True,
    ) -> None:
        self._complete = complete
        self._maps = maps
        self._add = add
        self._type = type
        self._cached = cached
        self._own = own

    def __call__(self, func: Any = ABSENT, /, **options: Any) -> Any:
        if func is ABSENT:
            return lambda func: self(func, **options)
        name = options.pop("name", None)
        if "type" in options:
            raise InvalidNodeError(
                f"there is no option 'type' here: this makes a {self._type.value}; use another "
                "decorator, or add_node(name, func, type=...)",
                node=name,
            )
        own = {key: options.pop(key) for key in self._own if key in options}
        if self._cached:
            options["cache"] = {key: options.pop(key) for key in CACHE_OPTIONS if key in options}
        if self._complete is not None:
            self._complete(func, name, options)
        return self._add(Node(func, name, type=self._type, **options), **own)

    @property
    def __signature__(self) -> inspect.Signature:
        """The options that fit, for `help()` and notebooks."""
        from inspect import Parameter, Signature  # slow to import

        types = fitting(self._type) if self._maps else ("",)
        defaults = {"name": None, **self._own}
        defaults |= {
            each.name: each.default
            for each in OPTIONS.values()
            if each.name != "cache" and each.type in types
        }
        if self._cached:
            defaults |= {each.name: each.default for each in CACHE_OPTIONS.values()}
        return Signature(
            [
                Parameter("func", Parameter.POSITIONAL_ONLY, default=None),
                *(
                    Parameter(name, Parameter.KEYWORD_ONLY, default=default)
                    for name, default in defaults.items()
                ),
            ]
        )
