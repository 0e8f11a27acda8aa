"""A call's arguments as inputs by name, for hooks, and inputs as arguments."""

from __future__ import annotations

from fast_dag.define.signature import ABSENT, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from fast_dag.context import Context
    from fast_dag.define.signature import Signature


def named(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by parameter, without what the engine gives; those of `*args` as a
    tuple.

    >>> from fast_dag.define.signature import read_signature
    >>> named(read_signature(lambda a, b=2, *rest, **more: 0), [1, 2, 3], {"k": 4})
    {'a': 1, 'b': 2, 'rest': (3,), 'k': 4}
    """
    if not kwargs and len(args) == len(signature.parameters) == len(signature.inputs):
        return dict(zip(signature.inputs, args, strict=True))
    inputs: dict[str, Any] = {}
    positional = [each for each in signature.parameters if each.kind != Kind.KEYWORD_ONLY]
    for parameter, value in zip(positional, args, strict=False):
        if not parameter.by_engine:
            inputs[parameter.name] = value
    rest = tuple(args[len(positional) :])
    if rest and signature.var_positional:
        inputs[signature.var_positional] = rest
    names = {each.keyword: each for each in signature.parameters}
    for key, value in kwargs.items():
        named_by = names.get(key)
        if named_by is None or not named_by.by_engine:
            inputs[key if named_by is None else named_by.name] = value
    return inputs


def unnamed(
    signature: Signature, inputs: Mapping[str, Any], context: Context, call_id: str = ""
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that pass `inputs`, and what the engine gives. Raises TypeError if `inputs` do
    not fit the parameters.

    >>> from fast_dag.define.signature import read_signature
    >>> unnamed(read_signature(lambda a, b=2, *rest: 0), {"a": 1, "rest": (3,)}, None)
    ([1, 2, 3], {})
    """
    left = dict(inputs)
    star = left.pop(signature.var_positional, ()) if signature.var_positional else ()
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    omitted: list[Any] = []
    for each in signature.parameters:
        value: Any = call_id
        if not each.by_engine:
            value = left.pop(each.name, ABSENT)
        elif each.is_context:
            value = context
        if each.kind == Kind.KEYWORD_ONLY:
            if value is not ABSENT:
                kwargs[each.keyword] = value
        elif value is ABSENT:
            omitted.append(each.default)
        else:
            args += omitted
            omitted = []
            args.append(value)
    if star:
        args += [*omitted, *star]
        omitted = []
    missing = [
        each.name
        for each in signature.parameters
        if not each.optional and not each.by_engine and each.name not in inputs
    ]
    if missing:
        raise TypeError(f"the inputs that it returned lack {missing}")
    if left and not signature.var_keyword:
        raise TypeError(f"it returned inputs that fill no parameter: {sorted(left)}")
    return args, kwargs | left
