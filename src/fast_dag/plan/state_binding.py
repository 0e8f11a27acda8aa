"""Where each argument of a state comes from: the state before, an event, or the run's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fast_dag.call.arguments import unnamed
from fast_dag.define.signature import ABSENT
from fast_dag.errors import MissingInputError, names
from fast_dag.plan.binding import Binding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fast_dag.context import Context
    from fast_dag.define.node import Node

_LATER: Final = object()
"""The place of a resource, which is opened when the function is about to be called."""


class StateBinding:
    """How the arguments of one state are gathered, settled when a plan is compiled.

    A parameter takes the first of these that there is:

    1. the data of that name that an event brought,
    2. the value under that key, if the previous state's value is a mapping,
    3. the previous state's whole value, if it is not None, no parameter took a key of it, and this
       parameter is the sole one that can take it,
    4. the run input of that name,
    5. the resource of that name,
    6. its default.

    `takes_one` is the name of the only parameter of a function, `takes_none` is True for a function
    without parameters. Drivers may call these functions without `gather`.
    """

    __slots__ = (
        "_inputs",
        "_node",
        "_required",
        "_resources",
        "_signature",
        "_sole",
        "_takes_call_id",
        "missing",
        "takes_none",
        "takes_one",
    )

    def __init__(
        self, node: Node[..., Any], binding: Binding | None, inputs: Collection[str]
    ) -> None:
        """`binding` knows which parameters the run inputs and resources fill; None if they fill
        none."""
        signature = node.signature
        self._node = node
        self._signature = signature
        self._resources = frozenset(() if binding is None else binding.resources)
        self._inputs = frozenset(() if binding is None else binding.used)
        self.missing = () if binding is None else tuple(binding.missing)
        self._takes_call_id = signature.takes_call_id
        self._required = [
            each.name
            for each in signature.parameters
            if not (each.optional or each.by_engine or each.name in self._resources)
        ]
        self._sole = self._find_sole(inputs)
        plain = not (
            len(signature.inputs) < len(signature.parameters)
            or signature.var_positional
            or signature.var_keyword
        )
        self.takes_none = plain and not signature.parameters
        self.takes_one = None
        if plain and len(signature.positional) == len(signature.parameters) == 1:
            self.takes_one = self._sole

    def _find_sole(self, inputs: Collection[str]) -> str | None:
        """The parameter that takes the previous state's whole value, if `inputs` are the names
        that have values of their own; None if it is not clear which one."""
        parameters = [
            each
            for each in self._signature.parameters
            if not each.by_engine and each.name not in self._resources
        ]
        required = [each for each in parameters if not each.optional]
        candidates = required or parameters
        if len(required) > 1:
            candidates = [each for each in required if each.name not in inputs]
        if candidates:
            return candidates[0].name if len(candidates) == 1 else None
        return self._signature.var_positional  # of a function without other parameters

    def gather(
        self,
        value: Any,
        data: Mapping[str, Any],
        inputs: Mapping[str, Any],
        context: Context,
        call_id: Callable[[str], str],
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call: `value` is that of the previous state, `data` what an event
        brought; `call_id` tells the id of a state's call. Raises MissingInputError if a required
        argument is missing."""
        signature, sole = self._signature, self._sole
        if self.takes_none:
            return [], {}
        is_mapping = isinstance(value, Mapping)
        if self.takes_one is not None and value is not None and not (data or is_mapping):
            return [value], {}
        if data:
            sole = self._find_sole({*inputs, *data})
        given: dict[str, Any] = {key: inputs[key] for key in self._inputs}
        taken = False
        if is_mapping:
            keys = self._keys(value)
            given.update((key, value[key]) for key in keys)
            taken = bool(keys)
        if not taken and value is not None and sole is not None:
            given[sole] = value if sole != signature.var_positional else (value,)
        if data:
            given.update((key, data[key]) for key in self._keys(data))
        missing = [name for name in self._required if name not in given]
        if missing:
            self._refuse(missing, value)
        own = call_id(self._node.name) if self._takes_call_id else ""
        if not self._resources:
            return unnamed(signature, given, context, own)
        later = self._resources.difference(given)
        args, kwargs = unnamed(signature, {**given, **dict.fromkeys(later, _LATER)}, context, own)
        args = [ABSENT if each is _LATER else each for each in args]
        kwargs = {key: ABSENT if each is _LATER else each for key, each in kwargs.items()}
        return args, kwargs

    def _keys(self, value: Mapping[Any, Any]) -> list[str]:
        """The keys of a mapping that parameters take."""
        signature = self._signature
        if signature.var_keyword:
            ours = {each.name for each in signature.parameters if each.by_engine}
            return [key for key in value if isinstance(key, str) and key not in ours]
        return [name for name in signature.inputs if name in value]

    def unknown(self, data: Mapping[str, Any]) -> list[str]:
        """The names of the data of an event that no parameter takes."""
        if self._signature.var_keyword:
            return []
        return [name for name in data if name not in self._signature.inputs]

    def _refuse(self, missing: list[str], value: Any) -> NoReturn:
        if isinstance(value, Mapping):
            had = f"a mapping with the keys {names(value) or 'none'}"
        else:
            had = "None" if value is None else f"a {type(value).__name__}"
        raise MissingInputError(
            f"state {self._node.name!r} lacks values for {names(missing)}: the state before gave "
            f"{had}; return a mapping with these keys, pass run inputs, or give them defaults",
            missing=tuple((self._node.name, name) for name in missing),
        )
