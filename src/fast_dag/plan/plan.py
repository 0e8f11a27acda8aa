"""A frozen, validated snapshot of a definition with every argument bound: what a run executes."""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType

from fast_dag.define.node import NodeType
from fast_dag.errors import ValidationError, closest, names
from fast_dag.plan.binding import GeneralBinding, bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from fast_dag.call.hooks import Hook
    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.node import Node
    from fast_dag.plan.topology import Topology


MANY, AROUND, GATHERED = 3, 4, 5


class Plan:
    """What a run needs to know of its definition, compiled once for each set of input names.

    Parameters
    ----------
    topology:
        The nodes and edges, whole or narrowed.
    inputs:
        The names of the run inputs.
    policy_of:
        What was asked for around the calls of a node, given the names of the resources it takes,
        if anything.
    resources:
        What opens each resource, by name.
    """

    def __init__(
        self,
        topology: Topology,
        inputs: Collection[str] = (),
        policy_of: Callable[[Node[..., Any], Sequence[str]], CallPolicy | None] | None = None,
        resources: Mapping[str, Hook] = MappingProxyType({}),
    ) -> None:
        self.topology = topology
        self.name = topology.name
        self.names = topology.names
        self.nodes = topology.nodes
        self.input_names = frozenset(inputs)
        self.resources = resources
        named = _named_parameters(topology) if inputs else ()
        self.bindings = [
            bind(node, edges, topology, inputs, named, resources)
            for node, edges in zip(topology.nodes, topology.incoming, strict=True)
        ]
        self.policies: dict[int, CallPolicy] = {}
        if policy_of is not None:
            for index, node in enumerate(topology.nodes):
                policy = policy_of(node, self.bindings[index].resources)
                if policy is not None:
                    self.policies[index] = policy
        self.nested: dict[int, Plan] = {}  # those of nested workflows
        self.deciders = frozenset(
            [topology.index[node.name] for node in topology.special if node.type.decides]
        )
        self.missing = tuple(
            [
                (node.name, parameter)
                for node, binding in zip(topology.nodes, self.bindings, strict=True)
                if binding.missing
                for parameter in binding.missing
            ]
        )

    def refuse_unknown(self, options: Iterable[str] = ()) -> None:
        """Raise ValidationError for run inputs that fill no parameter of the whole graph; `options`
        are further words that could have been meant."""
        used: set[str] = set().union(*(binding.used for binding in self.bindings))
        unknown = sorted(self.input_names - used)
        if not unknown:
            return
        parameters = {name for node in self.nodes for name in node.signature.inputs}
        lines = []
        for name in unknown:
            feeders = [
                f"{edge.origin!r} feeds that of {edge.target!r}"
                for edges in self.topology.incoming
                for edge in edges
                if edge.input == name
            ]
            if feeders:
                shown = ", ".join(feeders[:5])
                lines.append(f"{name!r}: edges feed every parameter of that name ({shown})")
            else:
                lines.append(f"{name!r}{closest(name, {*parameters, *options})[1]}")
        word = "inputs that fill" if len(unknown) > 1 else "an input that fills"
        free = sorted({name for name, _ in self.unfed()})
        takes = f"it takes {names(free)}" if free else "it takes no inputs"
        raise ValidationError(
            f"{self.name!r} was given {word} no parameter: {', '.join(lines)}; {takes}",
            inputs=tuple(unknown),
        )

    def unfed(self) -> Iterable[tuple[str, Any]]:
        """The parameters that neither an edge nor a resource feeds, as (name, Parameter)."""
        for node, edges in zip(self.nodes, self.topology.incoming, strict=True):
            fed = {edge.input for edge in edges}
            for parameter in node.signature.parameters:
                name = parameter.name
                if not parameter.is_context and name not in fed and name not in self.resources:
                    yield parameter.name, parameter

    @cached_property
    def is_straight(self) -> bool:
        """Whether a run is nothing but calling each node in order: no decisions, no
        alternatives."""
        return not self.topology.external and not any(
            node.type.decides or node.type is NodeType.ANY or node.workflow
            for node in self.topology.special
        )

    @cached_property
    def plain(self) -> list[str | None]:
        """For each node, whether its call is the bare function and its result simply stored:
        "sync" or "async"; None where more is to be thought of."""
        return [
            None
            if node.timeout
            or node.run_in
            or node.workflow is not None
            or index in self.policies
            or index in self.deciders
            else ("async" if node.signature.is_async else "sync")
            for index, node in enumerate(self.nodes)
        ]

    @cached_property
    def only_async(self) -> bool:
        """Whether all nodes are async and plain."""
        return all(each == "async" for each in self.plain)

    @cached_property
    def is_line(self) -> bool:
        """Whether all nodes are sync and plain, and each waits for the one before it, so that never
        two could run at once."""
        return self.is_straight and self.topology.is_line and set(self.plain) == {"sync"}

    @cached_property
    def needs_loop(self) -> bool:
        """Whether some node is known to be async, here or inside a nested workflow."""
        return any(node.signature.is_async for node in self.nodes)

    @cached_property
    def has_timeouts(self) -> bool:
        """Whether some node, here or in a nested workflow, has a timeout."""
        return _some(self.nodes, lambda node: node.timeout)

    @cached_property
    def goes_elsewhere(self) -> bool:
        """Whether some node, here or in a nested workflow, cannot be called by the caller's
        thread."""
        return _some(self.nodes, lambda node: node.timeout or node.run_in in ("thread", "process"))

    @cached_property
    def uses_processes(self) -> bool:
        """Whether some node, here or in a nested workflow, asks for a worker process."""
        return _some(self.nodes, lambda node: node.run_in == "process")

    @cached_property
    def needs_coordinator(self) -> bool:
        """Whether a concurrent run needs a thread that keeps the time or waits for inline nodes."""
        return (
            bool(self.policies)
            or any(plan.needs_coordinator for plan in self.nested.values())
            or _some(self.nodes, lambda node: node.timeout or node.retry or node.run_in)
        )

    @cached_property
    def has_inline(self) -> bool:
        """Whether some node, here or in a nested workflow, has the caller's thread."""
        return _some(self.nodes, lambda node: node.run_in == "inline")

    @cached_property
    def stretches(self) -> list[tuple[int, list[tuple[Any, ...]]]]:
        """The straight line, in sequential order, as (arity, steps): those steps that follow each
        other and are made in the same way.

        Where the arity is 1 or 2, a step is (name, function, key of each result that it takes);
        where it is `MANY`, or a function takes none, (name, function, keys); where it is `AROUND`,
        since more was asked for than the bare function, (name, function, (CallPolicy, key of the
        only result that it takes or None, Binding)); and where it is `GATHERED` (name, function,
        Binding that gathers the arguments)."""
        stretches: list[tuple[int, list[tuple[Any, ...]]]] = []
        steps: list[tuple[Any, ...]] = []
        last = None
        nodes, bindings, policies = self.nodes, self.bindings, self.policies
        for index in self.topology.order:
            node, binding = nodes[index], bindings[index]
            keys = binding.keys
            step: tuple[Any, ...]
            count = 0 if keys is None else len(keys)
            if policies and index in policies:
                sole = keys[0] if keys is not None and count == 1 else None
                arity, step = AROUND, (node.name, node.func, (policies[index], sole, binding))
            elif keys is None:
                arity, step = GATHERED, (node.name, node.func, binding)
            elif 1 <= count <= 2:
                arity, step = count, (node.name, node.func, *keys)
            else:
                arity, step = MANY, (node.name, node.func, keys)
            if arity != last:
                last, steps = arity, []
                stretches.append((arity, steps))
            steps.append(step)
        return stretches

    @cached_property
    def decider_bindings(self) -> dict[str, GeneralBinding]:
        """The bindings of deciders, those outside of a narrowed plan included."""
        whole = self.topology.whole
        named = _named_parameters(whole)
        return {
            node.name: GeneralBinding(node, edges, whole, self.input_names, named)
            for node, edges in zip(whole.nodes, whole.incoming, strict=True)
            if node.type.decides
        }


class Plans:
    """What was compiled of one version of a workflow, by what was asked for.

    What was asked for most recently stays: a set of input names is compiled again only after as
    many others as there is room for. Threads may use it at once; two may compile the same.

    >>> plans = Plans(version=1, nodes=10)
    >>> plans.keep("x", "the plan for x")
    >>> plans.get("x"), plans.get("y")
    ('the plan for x', None)
    """

    __slots__ = ("_older", "_recent", "_room", "version")

    def __init__(self, version: object, nodes: int) -> None:
        self.version = version
        self._room = min(_MOST_PLANS, max(_FEWEST_PLANS, _MOST_NODES // max(nodes, 1)))
        self._recent: dict[object, Any] = {}
        self._older: dict[object, Any] = {}  # all that there was when there was no more room

    def get(self, asked: object) -> Any:
        """What was compiled, None where it was not."""
        kept = self._recent.get(asked)
        if kept is None:
            kept = self._older.get(asked)
            if kept is not None:
                self.keep(asked, kept)
        return kept

    def keep(self, asked: object, compiled: object) -> None:
        """Remember what was compiled."""
        if len(self._recent) >= self._room:
            self._older, self._recent = self._recent, {}
        self._recent[asked] = compiled


_FEWEST_PLANS, _MOST_PLANS, _MOST_NODES = 16, 256, 100_000
"""How many plans there is room for: so many that they have no more nodes than that, within these
bounds. Up to twice as many are kept."""


def _named_parameters(topology: Topology) -> set[str]:
    """The parameters by name of the whole graph: what a `**kwargs` node leaves to others."""
    return {name for node in topology.whole.nodes for name in node.signature.inputs}


def _some(nodes: Iterable[Node[..., Any]], asks: Callable[[Node[..., Any]], Any]) -> bool:
    asked = [node for node in nodes if asks(node) or node.workflow is not None]
    return any(
        asks(node) or (node.workflow and _some(node.workflow.graph.nodes.values(), asks))
        for node in asked
    )
