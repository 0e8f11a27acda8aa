"""Checks definitions: finds all problems of a graph at once."""

from __future__ import annotations

from types import UnionType

from fast_dag.define.node import Node, NodeType
from fast_dag.errors import (
    CycleError,
    DisconnectedNodeError,
    InvalidNodeError,
    MissingConnectionError,
    ValidationError,
    names,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fast_dag.define.graph import Edge
    from fast_dag.plan.topology import Topology


def problems(
    topology: Topology, *, allow_disconnected: bool = False, check_types: bool = False
) -> list[ValidationError]:
    """All problems of a graph; an empty list if there are none."""
    if not topology.nodes:
        return [
            ValidationError(f"{topology.name!r} has no nodes; add one with @dag.node or add_node()")
        ]
    found: list[ValidationError] = []
    found.extend(_cycles(topology))
    if not allow_disconnected:
        found.extend(_disconnected(topology))
    if not topology.cycles:
        found.extend(_impossible(topology))
    found.extend(_nested(topology, check_types=check_types))
    if check_types:
        found.extend(_mistyped(topology))
    return found


def _cycles(topology: Topology) -> Iterator[ValidationError]:
    for cycle in topology.cycles:
        shown = cycle if len(cycle) < 20 else (*cycle[:8], f"({len(cycle) - 12} more)", *cycle[-4:])
        path = " -> ".join(shown)
        yield CycleError(
            f"{topology.name!r} has a cycle: {path}; remove one of these edges with disconnect()",
            cycle=cycle,
        )


def _disconnected(topology: Topology) -> Iterator[ValidationError]:
    if len(topology.nodes) == 1:
        return
    sinks = set(topology.sinks)
    alone = [
        name
        for index, name in enumerate(topology.names)
        if not topology.incoming[index] and index in sinks
    ]
    if alone:
        yield DisconnectedNodeError(
            f"{topology.name!r} has nodes without any edge: {names(alone)}; connect or remove "
            "them, or allow them with validate(allow_disconnected=True)",
            nodes=tuple(alone),
        )


def _impossible(topology: Topology) -> Iterator[ValidationError]:
    """Nodes that need two branches of one decider at once."""
    if not topology.listened:
        return
    for index, node in enumerate(topology.nodes):
        if node.type is NodeType.ANY or len(topology.incoming[index]) == 0:
            continue
        clash = topology.contradiction_at(index)
        if clash is None:
            continue
        one, other = clash
        yield ValidationError(
            f"{node.name!r} can never run: it needs both the branch {one.branch!r} and the branch "
            f"{other.branch!r} of {one.decider!r}, which takes one of them; to join branches "
            "make it with @dag.any",
            node=node.name,
            decider=one.decider,
            branches=(one.branch, other.branch),
        )


def _nested(topology: Topology, *, check_types: bool) -> Iterator[ValidationError]:
    """Problems inside nested workflows, and of the edges into them."""
    for index, node in enumerate(topology.nodes):
        if node.workflow is None:
            continue
        for problem in node.workflow._problems(allow_disconnected=True, check_types=check_types):
            inner = type(problem)(f"in {node.name!r}: {problem}")
            inner.__dict__.update(problem.__dict__)
            yield inner
        if node.retry and (called_once := next(_called_once(node), None)) is not None:
            yield InvalidNodeError(
                f"node {node.name!r} has retry=, and calls {called_once!r} again, which has "
                "once=True; drop one of them",
                node=node.name,
            )
        elif node.map and (called_once := next(_called_once(node), None)) is not None:
            yield InvalidNodeError(
                f"map {node.name!r} calls {called_once!r} for each item, which has once=True; a "
                "parameter call_id tells the calls apart",
                node=node.name,
            )
        signature = node.signature
        for edge in topology.incoming[index]:
            if edge.input is None or edge.input in signature.inputs or signature.var_keyword:
                continue
            yield MissingConnectionError(
                f"the workflow {node.name!r} has no unfed parameter {edge.input!r} any more for "
                f"the edge from {edge.source!r}; it has {names(signature.inputs) or 'none'}",
                source=edge.source,
                target=node.name,
            )


def cautions(topology: Topology, *, check_types: bool) -> Iterator[str]:
    """What may be meant, but probably is not; a run accepts it."""
    if not check_types:  # else these are problems
        for problem in _mistyped(topology, guessed=True):
            yield f"{problem}: no edge names that parameter, so it may not be meant; say input="
    for node in topology.nodes:
        if node.workflow is not None:
            yield from (
                f"in {node.name!r}: {each}" for each in node.workflow._cautions(check_types)
            )
            waiting = node.workflow._waiting_states
            if waiting:
                yield (
                    f"{node.name!r} is a machine that waits for events in {names(waiting)}, but "
                    "nobody can send events to a nested machine: add a transition without event=, "
                    "or run it by itself with start()"
                )


def _called_once(node: Node[..., Any]) -> Iterator[str]:
    """The nodes inside of a nested workflow that may be called only once."""
    if node.workflow is not None:
        for name, each in node.workflow.graph.nodes.items():
            if each.options.get("once"):
                yield f"{node.name}.{name}"
            yield from (f"{node.name}.{path}" for path in _called_once(each))


def _mistyped(topology: Topology, *, guessed: bool = False) -> Iterator[ValidationError]:
    """Edges whose types do not fit; with `guessed`, only those whose parameter was the first
    without an edge."""
    whole = topology.index
    for index, target in enumerate(topology.nodes):
        edges = topology.incoming[index]
        several: set[str | None] = set()  # the parameters that get a dict
        if target.type is NodeType.ALL:
            once: set[str | None] = set()
            for edge in edges:
                (several if edge.input in once else once).add(edge.input)
        for edge in edges:
            if guessed and (edge.asked is not None or edge.input in (edge.output, edge.source)):
                continue
            if edge.input in several:
                continue
            problem = _mismatch(topology.nodes[whole[edge.source]], target, edge)
            if problem is not None:
                yield problem


def _mismatch(source: Node[..., Any], target: Node[..., Any], edge: Edge) -> ValidationError | None:
    collects = target.type is NodeType.ALL and target.options.get("collect") == edge.input
    if edge.output is not None or edge.input is None or source.type.decides or collects:
        return None
    if source.workflow or target.workflow or source.map:
        return None
    if target.map is not None and edge.input in target.map.walked:
        return None
    # Calling a class makes an instance of it; its `__init__` returns None.
    is_class = isinstance(source.func, type)
    given = _classes(source.func if is_class else source.signature.return_annotation())
    taken = _classes(target.signature.annotation(target.signature.keyword_of(edge.input)))
    if given is None or taken is None:
        return None
    wrong = [each for each in given if not any(_fits(each, wanted) for wanted in taken)]
    if not wrong:
        return None
    has = " | ".join(each.__name__ for each in given)
    wants = " | ".join(each.__name__ for each in taken)
    return ValidationError(
        f"{source.name!r} returns {has}, but {edge.input!r} of {target.name!r} takes {wants}",
        source=source.name,
        target=target.name,
        parameter=edge.input,
    )


def _classes(annotation: Any) -> tuple[type, ...] | None:
    """The classes of an annotation that is a class or a union of classes; else None."""
    if annotation is None:
        return (type(None),)
    from typing import Any, Union, get_origin  # slow to import; only check_types uses it

    if annotation is Any:  # isinstance(Any, type) is true
        return None
    if get_origin(annotation) in (Union, UnionType):
        members = [_classes(each) for each in annotation.__args__]
        if any(each is None for each in members):
            return None
        return tuple(each for member in members if member for each in member)
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return (annotation,)
    return None


# PEP 484: an int is accepted as a float, and both are accepted as a complex.
_ALSO_FITS = {float: (int,), complex: (float, int)}


def _fits(given: type, wanted: type) -> bool:
    try:
        return issubclass(given, (wanted, *_ALSO_FITS.get(wanted, ())))
    except TypeError:  # issubclass does not work with some protocols
        return True
