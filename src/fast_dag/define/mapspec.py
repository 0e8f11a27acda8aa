"""MapSpec: what a node that maps its function over a collection was told about that."""

from __future__ import annotations

from fast_dag._fields import Fields
from fast_dag.define.signature import Parameter, Signature, gives_coroutine, has_flags
from fast_dag.errors import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

MAP_OPTIONS: Final = (
    "over",
    "product",
    "keys",
    "into",
    "ordered",
    "on_error",
    "min_success",
    "max_concurrency",
)
"""The options of nodes that only a map has."""


class MapSpec(Fields):
    """How a node maps its function.

    `walked` are the parameters that get one item of a collection each. With `is_product` they get
    all combinations, else the items side by side. `keys` makes the key of an item, `into` the
    node's value of all results; `into` is given them in order if `ordered`. `on_error` is "fail",
    "keep" or "drop"; of the items, the share `min_success` must complete. `max_concurrency` is how
    many items may be in progress at once.
    """

    __slots__ = (
        "into",
        "is_product",
        "keys",
        "max_concurrency",
        "min_success",
        "on_error",
        "ordered",
        "walked",
    )

    def __init__(self, options: Mapping[str, Any]) -> None:
        over, product = options.get("over"), options.get("product")
        self.walked: tuple[str, ...] = tuple(over or product or ())
        self.is_product = product is not None
        self.keys: Callable[..., Any] | None = options.get("keys")
        self.into: Callable[..., Any] | None = options.get("into")
        self.ordered: bool = options.get("ordered", True)
        self.on_error: str = options.get("on_error", "fail")
        self.min_success: float | None = options.get("min_success")
        self.max_concurrency: int | None = options.get("max_concurrency")

    @property
    def is_into_async(self) -> bool:
        """Whether `into` is a coroutine function."""
        return self.into is not None and gives_coroutine(self.into)

    def required(self, signature: Signature) -> Signature:
        """The signature with the walked parameters required, whatever their defaults."""
        if not any(each.optional for each in signature.parameters if each.name in self.walked):
            return signature
        return Signature(
            [
                Parameter(each.name, each.kind, keyword=each.keyword)
                if each.name in self.walked
                else each
                for each in signature.parameters
            ],
            origin=signature.origin,
            var_positional=signature.var_positional,
            var_keyword=signature.var_keyword,
            is_async=signature.is_async,
        )


def map_of(options: Mapping[str, Any], signature: Signature) -> MapSpec | None:
    """The MapSpec that the options of a node ask for; None if they ask for no map. Raises
    ValueError, with a sentence, if they do not fit each other, or the function."""
    asked = [name for name in MAP_OPTIONS if name in options]
    if not asked:
        return None
    if "over" not in options and "product" not in options:
        raise ValueError(
            f"{asked[0]}= is for maps; say over= with the parameter that gets the items, or make "
            "the node with @dag.map"
        )
    if "over" in options and "product" in options:
        raise ValueError(
            "over= walks collections side by side and product= all their combinations; give one "
            "of them"
        )
    spec = MapSpec(options)
    for name in spec.walked:
        if name not in signature.inputs:
            known = names(signature.inputs) if signature.inputs else "it has none"
            option = "product" if spec.is_product else "over"
            raise ValueError(f"{option}= names {name!r}, which is none of its parameters: {known}")
    if "ordered" in options and spec.into is None:
        raise ValueError("ordered= is about the results that into= is given; say into=, too")
    if spec.min_success is not None and spec.on_error == "fail":
        raise ValueError('min_success= is for on_error="keep" or "drop"; with "fail" all must')
    if spec.into is not None and has_flags(spec.into, _GENERATORS):
        raise ValueError(
            "into= is a function that returns a value; a generator function would return before "
            "it has taken a result"
        )
    if spec.keys is not None and gives_coroutine(spec.keys):
        raise ValueError("keys= is a sync function; it is called once for each item")
    return spec


_GENERATORS: Final = 0x20 | 0x200
"""CO_GENERATOR and CO_ASYNC_GENERATOR."""
