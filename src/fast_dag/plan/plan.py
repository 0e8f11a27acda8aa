"""A frozen, validated snapshot of a definition: what a run executes."""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType

from fast_dag.define.node import NodeType
from fast_dag.errors import ValidationError, closest, names
from fast_dag.plan.binding import Binding, keys_by_position
from fast_dag.plan.step import Step
from fast_dag.plan.ways import Ways, tells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from fast_dag.call.hooks import Hook
    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.node import Node
    from fast_dag.plan.step import Wrapper
    from fast_dag.plan.topology import Topology
    from fast_dag.plan.ways import Record


MANY, GATHERED, SURROUNDED, PARTED, LIMITED = "many", "gathered", "surrounded", "parted", "limited"
"""How the straight line makes calls that do not take one or two results: with another number of
results, with arguments that the binding gathers, or through the policy; or calls of a node of which
several nodes take one part, or that uses limits."""


class Plan:
    """All that an execution needs to know about a definition, compiled once for each set of input
    names.

    Parameters
    ----------
    topology:
        The nodes and edges, of the whole graph or of a part of it.
    inputs:
        The names of the run inputs.
    policy_of:
        Returns the policy of a node, given the names of the resources that the node takes; None if
        nothing surrounds its calls.
    resources:
        The factory of each resource, by name.
    wrappers:
        Each may replace the function of a node.
    limits:
        Those of the workflow itself.
    """

    step_class: type[Step] = Step
    has_states = False  # whether it is a machine's

    def __init__(
        self,
        topology: Topology,
        inputs: Collection[str] = (),
        policy_of: Callable[[Node[..., Any], Sequence[str]], CallPolicy | None] | None = None,
        resources: Mapping[str, Hook] = MappingProxyType({}),
        wrappers: Sequence[Wrapper] = (),
        limits: Any = None,
    ) -> None:
        self.topology = topology
        self.name = topology.name
        self.names = topology.names
        self.input_names = frozenset(inputs)
        self.resources = resources
        named = _named_parameters(topology) if inputs else ()
        steps: list[Any] = []
        missing: list[tuple[str, str]] = []
        has_policies, make = False, self.step_class
        for index, (node, edges) in enumerate(zip(topology.nodes, topology.incoming, strict=True)):
            keys = keys_by_position(node, edges, topology)
            binding: Binding | None = None
            taken: Sequence[str] = ()
            if keys is None:
                binding = Binding(node, edges, topology, inputs, named, resources)
                keys, taken = binding.plain_keys(), binding.resources
                missing.extend((node.name, parameter) for parameter in binding.missing)
            policy = None if policy_of is None else policy_of(node, taken)
            if policy is not None:
                has_policies = True
            if node.map is not None:
                steps.append(_map_step(make(index, node, edges, keys, binding, None), policy))
                continue
            steps.append(make(index, node, edges, keys, binding, policy))
        for name in topology.parted:
            at = topology.index.get(name)
            if at is not None:
                steps[at].is_parted, steps[at].plain = True, None
        for wrap in wrappers:
            for step in steps:
                wrapped = step if step.node.map is None else step.nested.item
                wrapped.call = wrap(step.node) or wrapped.call
        self.steps: list[Step] = steps
        self.missing = tuple(missing)
        self.has_policies = has_policies
        self.limits = limits
        self.units: Any = None  # what nodes take, as `run.limits` found it last
        self.told: Record | None = None  # of the last execution that completed
        self._ways: tuple[Any, Ways] | None = None

    def refuse_unknown(self, options: Iterable[str]) -> None:
        """Raise ValidationError for run inputs that fill no parameter of the graph; `options` are
        further names that the message may suggest."""
        used: set[str] = set().union(
            *(step.binding.used for step in self.steps if step.binding is not None)
        )
        unknown = sorted(self.input_names - used)
        if not unknown:
            return
        parameters = {name for node in self.topology.nodes for name in node.signature.inputs}
        lines, options = [], set(options)
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
            elif name in options:
                lines.append(f"{name!r} (an option: pass {name}=... beside the inputs)")
            else:
                lines.append(f"{name!r}{closest(name, {*parameters, *options})[1]}")
        word = "inputs that fill" if len(unknown) > 1 else "an input that fills"
        free = sorted({name for name, _ in self.unfed()})
        takes = f"it takes {names(free)}" if free else "it takes no inputs"
        raise ValidationError(
            f"{self.name!r} was given {word} no parameter: {', '.join(lines)}; {takes}",
            inputs=tuple(unknown),
        )

    def takers(self, name: str) -> list[str]:
        """The nodes that take a run input."""
        return [step.name for step in self.steps if step.binding and name in step.binding.used]

    def unfed(self) -> Iterable[tuple[str, Any]]:
        """The parameters that neither an edge nor a resource feeds, as (name, Parameter)."""
        for node, edges in zip(self.topology.nodes, self.topology.incoming, strict=True):
            fed = {edge.input for edge in edges}
            for parameter in node.signature.parameters:
                name = parameter.name
                if not parameter.by_engine and name not in fed and name not in self.resources:
                    yield parameter.name, parameter

    @cached_property
    def is_straight(self) -> bool:
        """Whether a run only calls each node in order: no node decides, joins by `any` or nests a
        workflow, and no edge comes from outside."""
        return not self.topology.external and not any(
            node.type.decides or node.type is NodeType.ANY or node.workflow or node.map
            for node in self.topology.special
        )

    @cached_property
    def has_uses(self) -> bool:
        """Whether some node uses limits."""
        return any(node.uses for node in self.topology.special)

    @cached_property
    def needs_limits(self) -> bool:
        """Whether some node, here or in a nested workflow, uses limits."""
        return _some(self.topology.special, lambda node: node.uses)

    @cached_property
    def has_priorities(self) -> bool:
        """Whether some node, here or in a nested workflow, has a priority."""
        return _some(self.topology.nodes, lambda node: node.priority)

    @cached_property
    def only_async(self) -> bool:
        """Whether all nodes are async and plain."""
        return all(step.plain == "async" for step in self.steps)

    @cached_property
    def is_line(self) -> bool:
        """Whether all nodes are sync and plain, and each waits for the one before it: no two nodes
        could ever run at once."""
        return (
            self.is_straight
            and self.topology.is_line
            and all(step.plain == "sync" for step in self.steps)
        )

    @cached_property
    def needs_loop(self) -> bool:
        """Whether some node is known to be async, here or inside a nested workflow."""
        return any(
            node.signature.is_async or (node.map is not None and node.map.is_into_async)
            for node in self.topology.nodes
        )

    @cached_property
    def has_timeouts(self) -> bool:
        """Whether some node, here or in a nested workflow, has a timeout."""
        return _some(self.topology.nodes, lambda node: node.timeout)

    @cached_property
    def takes_call_ids(self) -> bool:
        """Whether some node, here or in a nested workflow, is given the id of its call."""
        return _some(self.topology.nodes, _takes_call_id)

    @cached_property
    def goes_elsewhere(self) -> bool:
        """Whether some node, here or in a nested workflow, cannot be called in the caller's thread
        without a dispatcher: it has a timeout or an async around hook, or asks for a thread or a
        process."""
        return self.awaits_around or _some(
            self.topology.nodes, lambda node: node.timeout or node.run_in in ("thread", "process")
        )

    @cached_property
    def awaits_around(self) -> bool:
        """Whether some node, here or in a nested workflow, has an async hook around its call."""
        return any(
            (step.policy is not None and step.policy.awaits_around)
            or (step.nested and step.nested.awaits_around)
            for step in self.steps
        )

    @cached_property
    def uses_processes(self) -> bool:
        """Whether some node, here or in a nested workflow, asks for a worker process."""
        return _some(self.topology.nodes, lambda node: node.run_in == "process")

    @cached_property
    def needs_coordinator(self) -> bool:
        """Whether a concurrent run needs a thread that keeps the time or waits for inline nodes."""
        return (
            self.has_policies
            or self.has_uses
            or any(step.nested and step.nested.needs_coordinator for step in self.steps)
            or _some(self.topology.nodes, lambda node: node.timeout or node.retry or node.run_in)
        )

    @cached_property
    def has_inline(self) -> bool:
        """Whether some node, here or in a nested workflow, must be called in the caller's
        thread."""
        return _some(self.topology.nodes, lambda node: node.run_in == "inline")

    @cached_property
    def line(self) -> list[tuple[int | str, list[tuple[Any, ...]]]]:
        """The calls of a straight plan in sequential order, as (how, calls). Neighbours whose calls
        are made in the same way form one group.

        A call depends on `how`:

        - 1 or 2: (name, function, key of each result that it takes),
        - `MANY`: (name, function, keys), for another number of results,
        - `GATHERED`: (name, step, None), because the binding gathers the arguments,
        - `SURROUNDED`: (name, step, key), because the policy makes the call; `key` is that of its
          sole argument if the argument is a result, else None,
        - `LIMITED`: (name, step, None), because the node uses limits."""
        line: list[tuple[int | str, list[tuple[Any, ...]]]] = []
        last: int | str | None = None
        for index in self.topology.order:
            step = self.steps[index]
            keys = step.keys
            how: int | str
            call: tuple[Any, ...]
            if step.uses:
                how, call = LIMITED, (step.name, step, None)
            elif step.is_parted:
                how, call = PARTED, (step.name, step, None)
            elif step.policy is not None:
                sole = keys[0] if keys is not None and len(keys) == 1 else None
                how, call = SURROUNDED, (step.name, step, sole)
            elif keys is None:
                how, call = GATHERED, (step.name, step, None)
            elif 1 <= len(keys) <= 2:
                how, call = len(keys), (step.name, step.call, *keys)
            else:
                how, call = MANY, (step.name, step.call, keys)
            if how != last:
                last = how
                line.append((how, []))
            line[-1][1].append(call)
        return line

    @property
    def ways(self) -> Ways:
        """How long the way from each node to the end is, by the last execution if that tells."""
        told, known = self.told, self._ways
        if known is None or known[0] is not told:
            if tells(told, len(self.names)):
                known = told, Ways(self, told)
            else:
                known = told, self._ways_in_nodes
            self._ways = known
        return known[1]

    @cached_property
    def _ways_in_nodes(self) -> Ways:
        return Ways(self)

    @cached_property
    def decider_bindings(self) -> dict[str, Binding]:
        """The bindings of the deciders of the whole graph, also of those outside of a narrowed
        plan."""
        whole = self.topology.whole
        named = _named_parameters(whole)
        return {
            node.name: Binding(node, edges, whole, self.input_names, named, self.resources)
            for node, edges in zip(whole.nodes, whole.incoming, strict=True)
            if node.type.decides
        }


class Plans:
    """The compiled plans of one version of a workflow, by what was asked for.

    The plans used most recently are kept: one is compiled again only after as many others were
    used as there is room for. Several threads may use this at once; two may then compile the same
    plan.

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
        self._older: dict[object, Any] = {}  # what `_recent` was when it was full

    def get(self, asked: object) -> Any:
        """The plan that was kept for this; None if there is none."""
        kept = self._recent.get(asked)
        if kept is None:
            kept = self._older.get(asked)
            if kept is not None:
                self.keep(asked, kept)
        return kept

    def keep(self, asked: object, compiled: object) -> None:
        """Keep a compiled plan, and drop those not used for long."""
        if len(self._recent) >= self._room:
            self._older, self._recent = self._recent, {}
        self._recent[asked] = compiled


_FEWEST_PLANS, _MOST_PLANS, _MOST_NODES = 16, 256, 100_000
"""The room for plans: as many as have `_MOST_NODES` nodes in all, but at least `_FEWEST_PLANS` and
at most `_MOST_PLANS`. Up to twice as many are kept, because `_older` is as large as `_recent`."""


def _map_step(step: Any, policy: CallPolicy | None) -> Step:
    """The step of a map, whose call is an execution: what surrounds calls is around its items."""
    from fast_dag.plan.map_plan import MapPlan  # for those who map

    found: Step = step
    found.nested = MapPlan(found, policy)
    found.nests, found.maps, found.plain = True, True, None
    found.timeout = found.uses = None
    return found


def _named_parameters(topology: Topology) -> set[str]:
    """The names of all parameters of the whole graph. A run input of such a name does not go into
    the `**kwargs` of a node."""
    return {name for node in topology.whole.nodes for name in node.signature.inputs}


def _takes_call_id(node: Node[..., Any]) -> bool:
    return node.workflow is None and node.signature.takes_call_id


def _some(nodes: Iterable[Node[..., Any]], asks: Callable[[Node[..., Any]], Any]) -> bool:
    asked = [node for node in nodes if asks(node) or node.workflow is not None]
    return any(
        asks(node) or (node.workflow and _some(node.workflow.graph.nodes.values(), asks))
        for node in asked
    )
