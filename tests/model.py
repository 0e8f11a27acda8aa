"""The rules of a run, written down as plainly as possible: what holds, not how the engine does it.

A `Shape` is a graph as data, a `World` what its functions do when they are called, and a `Model`
tells what must come of running one in the other. `status` and `value` are recursive: of a large
graph, ask for them in topological order. All else is meant for graphs of a dozen nodes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from fast_dag import DAG, ConditionalReturn, SelectReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Kind = Literal["node", "condition", "select", "any", "all"]
Branch = bool | str | None


class BoomError(Exception):
    """What a node raises that is told to fail."""


@dataclass(frozen=True)
class Edge:
    """`parameter` None: the edge only orders."""

    source: str
    target: str
    branch: Branch = None
    parameter: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Spec:
    """One node. `defaults` are the parameters that have one."""

    name: str
    kind: Kind = "node"
    several: bool = False
    wait: bool = False
    collect: str | None = None
    defaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Act:
    """What a function does: it fails, or returns; a decider returns its `choice`, with a value of
    its own where it `passes` one on."""

    fails: bool = False
    choice: bool | str | tuple[str, ...] = True
    passes: bool = False


World = dict[str, Act]


@dataclass(frozen=True)
class Shape:
    """Nodes in the order of their definition, edges in the order of their making."""

    nodes: tuple[Spec, ...]
    edges: tuple[Edge, ...]
    by_name: dict[str, Spec] = field(init=False, compare=False, repr=False)
    _into: dict[str, list[Edge]] = field(init=False, compare=False, repr=False)
    _out_of: dict[str, list[Edge]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        into: dict[str, list[Edge]] = {spec.name: [] for spec in self.nodes}
        out_of: dict[str, list[Edge]] = {spec.name: [] for spec in self.nodes}
        for edge in self.edges:
            into[edge.target].append(edge)
            out_of[edge.source].append(edge)
        object.__setattr__(self, "by_name", {spec.name: spec for spec in self.nodes})
        object.__setattr__(self, "_into", into)
        object.__setattr__(self, "_out_of", out_of)

    def into(self, name: str) -> list[Edge]:
        return self._into[name]

    def sources(self, name: str) -> set[str]:
        return {edge.source for edge in self.into(name)}

    def targets(self, name: str) -> set[str]:
        return {edge.target for edge in self._out_of[name]}

    def below(self, name: str) -> set[str]:
        return {name}.union(*(self.below(each) for each in self.targets(name)))

    def above(self, name: str) -> set[str]:
        return {name}.union(*(self.above(each) for each in self.sources(name)))

    def parameters(self, name: str) -> list[str]:
        fed = [edge.parameter for edge in self.into(name) if edge.parameter is not None]
        return sorted({*fed, *self.by_name[name].defaults})

    def listened(self, name: str) -> set[bool | str]:
        """The branches of a decider that somebody is connected to."""
        return {edge.branch for edge in self._out_of[name] if edge.branch is not None}

    @property
    def deciders(self) -> list[str]:
        return [spec.name for spec in self.nodes if spec.kind in ("condition", "select")]

    def with_kind(self, name: str, kind: Kind) -> Shape:
        new = replace(self.by_name[name], kind=kind, collect=None, several=False)
        nodes = [new if spec.name == name else spec for spec in self.nodes]
        edges = self.edges
        if kind == "any":  # whose edges are all optional
            edges = tuple(replace(e, optional=e.optional and e.target != name) for e in edges)
        return Shape(tuple(nodes), edges)

    def waiting(self) -> Shape:
        """The same where every `any` waits for all its edges, so that its value is settled."""
        nodes = [replace(spec, wait=spec.kind == "any") for spec in self.nodes]
        return Shape(tuple(nodes), self.edges)

    def _decisions(self, name: str) -> list[Any]:
        if self.by_name[name].kind == "condition":
            return [True, False]
        known = sorted(map(str, self.listened(name)))
        return [*(subsets(known) if self.by_name[name].several else known), "elsewhere"]

    def worlds(self) -> Iterator[World]:
        """Every way in which the deciders may decide, where nothing fails."""
        options = [self._decisions(name) for name in self.deciders]
        for choices in itertools.product(*options):
            yield {spec.name: Act() for spec in self.nodes} | {
                name: Act(choice=choice)
                for name, choice in zip(self.deciders, choices, strict=True)
            }


def subsets(names: Iterable[Any]) -> list[tuple[str, ...]]:
    """What a select may choose that may choose several."""
    ordered = sorted(map(str, names))
    return [
        each for size in range(len(ordered) + 1) for each in itertools.combinations(ordered, size)
    ]


class Model:
    """What must come of running a shape in a world.

    `part` are the nodes that are run; how all others stand tells `before`, the model of an earlier
    run. `any` nodes see how all their edges ended, as in sequential mode.
    """

    def __init__(
        self,
        shape: Shape,
        world: World,
        part: Iterable[str] | None = None,
        before: Model | None = None,
    ) -> None:
        self.shape = shape
        self.world = world
        self.part = set(shape.by_name) if part is None else set(part)
        self.before = before
        self.status = cache(self._status)  # of this model only
        self.value = cache(self._value)

    # The join rule.

    def _status(self, name: str) -> str:
        if name not in self.part:
            assert self.before is not None
            return self.before.status(name)
        if not self.may_run(name):
            return "skipped"
        failed = self.world[name].fails or self.taken(name) == "nobody listens"
        return "failed" if failed else "completed"

    def may_run(self, name: str) -> bool:
        edges = self.shape.into(name)
        if self.shape.by_name[name].kind == "any" and edges:
            return any(self.is_live(edge) for edge in edges)
        return all(edge.optional or self.is_live(edge) for edge in edges)

    def is_live(self, edge: Edge) -> bool:
        """Its source completed and chose it."""
        if self.status(edge.source) != "completed":
            return False
        return edge.branch is None or self.takes(edge.source, edge.branch)

    def takes(self, name: str, branch: Branch) -> bool:
        """Whether a node takes that branch, or that among others."""
        taken = self.taken(name)
        return branch in taken if isinstance(taken, tuple) else branch == taken

    def taken(self, name: str) -> Branch | tuple[str, ...]:
        """The branch that a node takes, or the branches; None where it is no decider."""
        if name not in self.part:
            assert self.before is not None
            return self.before.taken(name)
        kind, choice = self.shape.by_name[name].kind, self.world[name].choice
        if kind == "condition":
            return bool(choice)
        if kind != "select":
            return None
        listened = self.shape.listened(name)
        if isinstance(choice, tuple):
            if listened.issuperset(choice) or "default" in listened:
                return tuple(each if each in listened else "default" for each in choice)
            return "nobody listens"
        if choice in listened:
            return choice
        return "default" if "default" in listened else "nobody listens"

    @property
    def statuses(self) -> dict[str, str]:
        return {
            spec.name: self.status(spec.name) for spec in self.shape.nodes if spec.name in self.part
        }

    def is_left_out(self, name: str) -> bool:
        """Whether a node is skipped for the branches that were taken, and not for a failure."""
        if self.status(name) != "skipped":
            return False
        edges = self.shape.into(name)
        against = [self.is_dead_by_choice(edge) for edge in edges if not edge.optional]
        return all(against) if self.shape.by_name[name].kind == "any" else any(against)

    def is_dead_by_choice(self, edge: Edge) -> bool:
        completed = self.status(edge.source) == "completed"
        return (completed and not self.is_live(edge)) or self.is_left_out(edge.source)

    def is_lost(self, edge: Edge) -> bool:
        """A failure keeps what this edge would carry from being there."""
        return not self.is_live(edge) and not self.is_dead_by_choice(edge)

    # Values.

    def given(self, name: str) -> dict[str, Any]:
        """What each parameter gets, but for those left to their defaults."""
        spec, edges = self.shape.by_name[name], self.shape.into(name)
        given: dict[str, Any] = {}
        for parameter in self.shape.parameters(name):
            feeding = [edge for edge in edges if edge.parameter == parameter]
            if spec.kind == "any":
                live = [edge for edge in feeding if self.is_live(edge)]
                if live:
                    given[parameter] = self.carried(live[0])
                elif parameter not in spec.defaults:
                    given[parameter] = None
            elif spec.kind == "all" and (len(feeding) > 1 or spec.collect == parameter):
                given[parameter] = {
                    edge.source: self.carried(edge)
                    for edge in feeding
                    if not edge.optional or self.is_live(edge)
                }
            elif feeding and (not feeding[0].optional or self.is_live(feeding[0])):
                given[parameter] = self.carried(feeding[0])
            elif feeding and parameter not in spec.defaults:
                given[parameter] = None
        return given

    def carried(self, edge: Edge) -> Any:
        name = edge.source
        if self.shape.by_name[name].kind not in ("condition", "select"):
            return self.value(name)
        if self._acts(name).passes:
            return f"from {name}"
        given = self._owner(name).given(name)
        if len(given) == 1:
            return next(iter(given.values()))
        return given or None

    def _value(self, name: str) -> Any:
        if name not in self.part:
            assert self.before is not None
            return self.before.value(name)
        spec = self.shape.by_name[name]
        given = dict.fromkeys(spec.defaults, "default") | self.given(name)
        return act(name, spec.kind, self.world[name], given)

    @property
    def values(self) -> dict[str, Any]:
        """The results of the nodes that completed."""
        statuses = self.statuses
        return {name: self.value(name) for name in statuses if statuses[name] == "completed"}

    def _owner(self, name: str) -> Model:
        """The model of the run in which a node ran."""
        if name in self.part:
            return self
        assert self.before is not None
        return self.before._owner(name)

    def _acts(self, name: str) -> Act:
        return self._owner(name).world[name]

    # Order.

    @property
    def order(self) -> list[str]:
        """Of the ready nodes always the one defined first; an `any` is ready when all its sources
        have ended."""
        ended = {name for name in self.shape.by_name if name not in self.part}
        order: list[str] = []
        while True:
            self._end_skipped(ended)
            ready = [
                spec.name
                for spec in self.shape.nodes
                if spec.name not in ended
                and self.may_run(spec.name)
                and self.shape.sources(spec.name) <= ended
            ]
            if not ready:
                return order
            ended.add(ready[0])
            order.append(ready[0])

    def _end_skipped(self, ended: set[str]) -> None:
        """A node is skipped the moment that an edge into it, of an `any` the last one, is dead."""
        before = -1
        while before != len(ended):
            before = len(ended)
            for spec in self.shape.nodes:
                if spec.name in ended:
                    continue
                dead = [
                    e.source in ended and not self.is_live(e)
                    for e in self.shape.into(spec.name)
                    if not e.optional
                ]
                if dead and (all(dead) if spec.kind == "any" else any(dead)):
                    ended.add(spec.name)

    @property
    def last_sink(self) -> str | None:
        """The last sink that completed, in the order of a sequential run."""
        sinks = [
            name
            for name in self.order
            if not self.shape.targets(name) & self.part and self.status(name) == "completed"
        ]
        return sinks[-1] if sinks else None


def definition_order(shape: Shape) -> list[str]:
    """The order of a sequential run of which nothing is skipped."""
    order: list[str] = []
    while len(order) < len(shape.nodes):
        ready = (
            spec.name
            for spec in shape.nodes
            if spec.name not in order and shape.sources(spec.name) <= set(order)
        )
        order.append(next(ready))
    return order


def can_run(shape: Shape) -> set[str]:
    """The nodes that some decisions let run."""
    models = (Model(shape, world) for world in shape.worlds())
    return {name for model in models for name in shape.by_name if model.status(name) != "skipped"}


# The same as a real DAG.


def act(name: str, kind: Kind, does: Act, given: Mapping[str, Any]) -> Any:
    """What every function of these graphs does."""
    if does.fails:
        raise BoomError(name)
    if kind == "condition":
        choice = bool(does.choice)
        return ConditionalReturn(choice, f"from {name}") if does.passes else choice
    if kind == "select":
        several = isinstance(does.choice, tuple)
        branch: Any = list(does.choice) if several else str(does.choice)  # type: ignore[arg-type]
        return SelectReturn(branch, f"from {name}") if does.passes else branch
    return (name, dict(given))


def make_dag(shape: Shape, world: World, ran: list[str] | None = None) -> DAG:
    """The DAG itself. Its functions look up in `world` what to do each time they are called, and
    append their names to `ran`."""
    dag = DAG("random")
    for spec in shape.nodes:
        options: dict[str, Any] = {"wait": True} if spec.wait else {}
        if spec.several:
            options["several"] = True
        if spec.collect is not None:
            options["collect"] = spec.collect
        func = _function(spec, shape.parameters(spec.name), world, ran)
        dag.add_node(spec.name, func, type=spec.kind, **options)
    return connect(dag, shape)


def connect(dag: DAG, shape: Shape) -> DAG:
    """Make the edges of the shape."""
    for edge in shape.edges:
        source: Any = dag.nodes[edge.source]
        if isinstance(edge.branch, bool):
            source = source.on_true if edge.branch else source.on_false
        elif edge.branch is not None:
            source = source.branches[edge.branch]
        dag.connect(source, edge.target, input=edge.parameter or False, optional=edge.optional)
    return dag


def _function(spec: Spec, parameters: list[str], world: World, ran: list[str] | None) -> Any:
    def body(**given: Any) -> Any:
        if ran is not None:
            ran.append(spec.name)
        return act(spec.name, spec.kind, world[spec.name], given)

    # Its parameters are those that the edges ask for, so it has to be written.
    ordered = sorted(parameters, key=lambda each: each in spec.defaults)
    taken = ", ".join(f"{p}='default'" if p in spec.defaults else p for p in ordered)
    passed = ", ".join(f"{each}={each}" for each in parameters)
    return eval(f"lambda {taken}: body({passed})", {"body": body})
