"""Hooks and handlers that users set around node calls. Their signatures are read once."""

from __future__ import annotations

from fast_dag._fields import Fields
from fast_dag.call.effects import Invoke
from fast_dag.define.signature import Kind, UnreadableSignatureError, read_signature
from fast_dag.errors import InvalidNodeError, closest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

OFFERED = {
    "pre_execute": ("node", "inputs", "context"),
    "around": ("node", "inputs", "context", "call"),
    "post_execute": ("node", "inputs", "result", "context"),
    "on_error": ("node", "inputs", "error", "context"),
    "on_retry": ("node", "inputs", "error", "context", "attempt", "delay"),
    "cleanup": ("node", "context"),
}
"""The arguments that the hook of each phase is offered, by position. It may take fewer."""

HANDLER = ("node", "inputs", "error")


class Hook(Fields):
    """A hook, how many of the offered arguments it takes, and whether it is async."""

    __slots__ = ("func", "is_async", "takes")

    def __init__(self, func: Callable[..., Any], takes: int, is_async: bool) -> None:
        self.func = func
        self.takes = takes
        self.is_async = is_async

    @classmethod
    def read(cls, func: Any, offered: tuple[str, ...], phase: str) -> Hook:
        """Read the signature of `func`. Raises InvalidNodeError if `func` cannot be called with the
        arguments that it is offered."""
        if not callable(func):
            raise InvalidNodeError(f"the {phase} hook is not callable: {func!r}", node=None)
        try:
            signature = read_signature(func)
        except UnreadableSignatureError:
            return cls(func, len(offered), False)
        positional = [each for each in signature.parameters if each.kind != Kind.KEYWORD_ONLY]
        required = [each for each in signature.parameters if not each.optional]
        takes = len(offered) if signature.var_positional else min(len(positional), len(offered))
        too_many = [each for each in required if each not in positional[: len(offered)]]
        if too_many:
            raise InvalidNodeError(
                f"the {phase} hook {func!r} wants {[each.name for each in required]}, but is "
                f"offered ({', '.join(offered)})",
                node=None,
            )
        if phase == "around" and takes < len(offered):
            raise InvalidNodeError(
                f"the around hook {func!r} must take all of ({', '.join(offered)}): it returns "
                "call(), or await call() if it is async",
                node=None,
            )
        return cls(func, takes, signature.is_async)

    def offered(self, *args: Any) -> tuple[Any, ...]:
        """Those of the arguments that the hook takes."""
        return args[: self.takes]

    def invoke(self, *args: Any, cleans_up: bool = False) -> Invoke:
        """The effect that calls the hook."""
        return Invoke(self.func, self.offered(*args), self.is_async, cleans_up)


def read_hooks(hooks: Mapping[str, Any]) -> dict[str, Hook]:
    """The hooks by phase. Raises InvalidNodeError for an unknown phase or an unusable hook."""
    for phase in hooks:
        if phase not in OFFERED:
            raise InvalidNodeError(
                f"there is no hook {phase!r}{closest(phase, OFFERED)[1]}; there are "
                f"{', '.join(OFFERED)}",
                node=None,
            )
    return {
        phase: Hook.read(func, OFFERED[phase], phase)
        for phase, func in hooks.items()
        if func is not None
    }
