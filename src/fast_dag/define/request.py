"""What a caller asked of one run."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType

from fast_dag._fields import Fields
from fast_dag.context import Context
from fast_dag.errors import ValidationError, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ParamSpec, TypeVar

    from fast_dag.run.settings import Settings

    Q = ParamSpec("Q")
    V = TypeVar("V")


class Request(Fields):
    """The inputs and options of one call of `run`, `execute` or `start`.

    `outputs`, `resume` and `durable` belong to DAGs, `bounds` to machines. `durable` is what was
    asked of a store, None if there is none. Raises ValidationError where the inputs or the context
    cannot be used.
    """

    __slots__ = ("bounds", "context", "durable", "inputs", "outputs", "resume", "settings")

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Any] | None,
        more_inputs: dict[str, Any],
        context: Context | None,
        settings: Settings,
        *,
        outputs: Sequence[Any] | None = None,
        resume: Any = None,
        bounds: Any = None,
        durable: Any = None,
    ) -> None:
        if context is not None and not isinstance(context, Context):
            raise ValidationError(f"context is a fast_dag.Context, not {context!r}")
        self.inputs = merged(name, inputs, more_inputs)
        self.context = context
        self.settings = settings
        self.outputs = outputs
        self.resume = resume
        self.bounds = bounds
        self.durable = durable


def merged(name: str, inputs: Mapping[str, Any] | None, more: dict[str, Any]) -> Mapping[str, Any]:
    """A run's inputs, given as a mapping and by keyword."""
    if inputs is None:
        return more
    if not isinstance(inputs, Mapping):
        raise ValidationError(f"inputs of {name!r} is a mapping of names to values, not {inputs!r}")
    twice = sorted(set(inputs) & set(more))
    if twice:
        raise ValidationError(f"{name!r} was given twice: {names(twice)}")
    return {**inputs, **more}


def takes_what(
    template: Callable[Q, Any], **defaults: Any
) -> Callable[[Callable[..., V]], Callable[Q, V]]:
    """Give a method the parameters of another, for type checkers and for `inspect.signature`;
    `defaults` are those that differ."""

    def dress(method: Callable[..., V]) -> Callable[Q, V]:
        assert isinstance(template, FunctionType)
        assert isinstance(method, FunctionType)
        # What `inspect` follows: the parameters of the one, the result of the other.
        shown = FunctionType(template.__code__, template.__globals__, method.__name__)
        shown.__defaults__ = template.__defaults__
        shown.__kwdefaults__ = {**(template.__kwdefaults__ or {}), **defaults}
        shown.__annotations__ = {
            **template.__annotations__,
            "return": method.__annotations__["return"],
        }
        method.__wrapped__ = shown  # type: ignore[attr-defined]
        return method

    return dress


def option_names(request: Callable[..., Any]) -> set[str]:
    """The keywords that are options and no inputs."""
    code = request.__code__
    return set(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
