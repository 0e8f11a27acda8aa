"""Where each argument of a node comes from, settled when a plan is compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from fast_dag.call.effects import ONE_SHOT
from fast_dag.define.node import Node, NodeType
from fast_dag.define.signature import ABSENT, Kind
from fast_dag.errors import MissingResultError, failures, names
from fast_dag.returns import ConditionalReturn, SelectReturn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any, Final, Protocol

    from fast_dag.context import Context
    from fast_dag.define.graph import Edge
    from fast_dag.plan.topology import Topology

    class Values(Protocol):
        """An execution, as bindings see it."""

        @property
        def results(self) -> Mapping[str, Any]: ...
        @property
        def inputs(self) -> Mapping[str, Any]: ...
        @property
        def context(self) -> Context: ...
        def call_id(self, name: str, /) -> str:
            """The id of the call of a node."""
            ...

        def is_live(self, edge: Edge, /) -> bool:
            """Whether an edge has ended live by now."""
            ...

        def carried(self, name: str, /) -> Any:
            """The value that the edges of the decider `name` carry, if it returned a plain bool or
            name."""


# A member of an enum takes ten times as long to look up as a global.
_NODE = NodeType.NODE


class Source(ABC):
    """Where one argument comes from; asked when the node starts."""

    __slots__ = ()

    @abstractmethod
    def fetch(self, values: Values) -> Any:
        """The argument; ABSENT if the parameter keeps its default."""


class FromEdge(Source):
    """The value that an edge carries: the result of its source, a part of that result, or the value
    that a decider passes on."""

    __slots__ = ("edge", "source")

    def __init__(self, edge: Edge, source: Node[..., Any]) -> None:
        self.edge = edge
        self.source = source

    def fetch(self, values: Values) -> Any:
        edge = self.edge
        try:
            value = values.results[edge.source]
        except KeyError:
            raise missing_result(edge) from None
        if self.source.type.decides:
            if isinstance(value, (ConditionalReturn, SelectReturn)):
                value = value.value
            else:
                value = values.carried(edge.source)
        return value if edge.output is None else part_of(value, edge, self.source)


class FromInput(Source):
    """A run input."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def fetch(self, values: Values) -> Any:
        return values.inputs[self.name]


class TheContext(Source):
    """The run's Context."""

    __slots__ = ()

    def fetch(self, values: Values) -> Any:
        return values.context


class TheCallId(Source):
    """The id of a node's call."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def fetch(self, values: Values) -> Any:
        return values.call_id(self.name)


class Constant(Source):
    """A value that is known when the plan is compiled, such as a parameter's default."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def fetch(self, values: Values) -> Any:
        return self.value


_LATER: Final = Constant(ABSENT)
"""The place of a resource, which is opened later, when the function is about to be called."""


class FirstLive(Source):
    """Of the edges of an `any` node, or of an optional edge: the value of the first that is live
    when the node starts, else the default. If the default is known to a nested workflow only,
    ABSENT leaves it to that."""

    __slots__ = ("default", "edges")

    def __init__(self, edges: Sequence[FromEdge], default: Any) -> None:
        self.edges = edges
        self.default = default

    def fetch(self, values: Values) -> Any:
        for each in self.edges:
            if values.is_live(each.edge):
                return each.fetch(values)
        return self.default


class Collected(Source):
    """For an `all` node: a dict of the values of several edges, with their origins as keys."""

    __slots__ = ("edges",)

    def __init__(self, edges: Sequence[FromEdge]) -> None:
        self.edges = edges

    def fetch(self, values: Values) -> Any:
        return {
            each.edge.origin: each.fetch(values)
            for each in self.edges
            if not each.edge.optional or values.is_live(each.edge)
        }


class Together(Source):
    """The values that feed the `*args` of a decider, as a tuple."""

    __slots__ = ("sources",)

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def fetch(self, values: Values) -> Any:
        return tuple([each.fetch(values) for each in self.sources])


def keys_by_position(
    node: Node[..., Any], edges: Sequence[Edge], topology: Topology
) -> tuple[str, ...] | None:
    """The sources of a node's arguments if each parameter has exactly one edge, in the order of the
    parameters; else None. This common case is tried first because it is quick to find."""
    names = node.signature.by_position
    if names is None or len(edges) != len(names) or node.type is not _NODE:
        return None
    deciders = topology.whole.deciders
    keys = []
    for name, edge in zip(names, edges, strict=True):
        if name != edge.input or edge.output is not None or edge.source in deciders:
            return None
        if edge.optional:
            return None
        keys.append(edge.source)
    return tuple(keys)


class Binding:
    """How one node's arguments are gathered, each from its source.

    `missing` are the required parameters that nothing fills. `used` are the run inputs that the
    node takes. `resources` are the parameters that resources of the run fill.
    """

    __slots__ = (
        "decides",
        "defaults",
        "given",
        "keyword",
        "may_lack",
        "missing",
        "positional",
        "resources",
        "rest",
        "used",
    )

    def __init__(
        self,
        node: Node[..., Any],
        edges: Sequence[Edge],
        topology: Topology,
        inputs: Collection[str],
        named: Collection[str],
        resources: Collection[str] = (),
    ) -> None:
        """`inputs` are the names of the run inputs. `named` are the parameters of all nodes: a run
        input of such a name does not go into `**kwargs`."""
        self.decides = node.type.decides
        self.may_lack = False  # an optional edge may leave a parameter to a default
        self.positional: list[Source] = []
        self.keyword: list[tuple[str, Source]] = []
        # The parameters that edges and inputs feed. The edges of a decider carry these values.
        self.given: list[tuple[str, Source]] = []
        # The parameters of a decider that keep their defaults.
        self.defaults: list[tuple[str, Source]] = []
        self.missing: list[str] = []
        self.used: set[str] = set()
        self.resources: list[str] = []
        self.rest: frozenset[str] = frozenset()  # the run inputs that go into **kwargs
        feeds: dict[str | None, list[FromEdge]] = {}
        whole = topology.whole
        for edge in edges:
            source = whole.nodes[whole.index[edge.source]]
            feeds.setdefault(edge.input, []).append(FromEdge(edge, source))
        feeds.pop(None, None)
        self._bind_named(node, feeds, inputs, resources)
        self._bind_rest(node, feeds, inputs, named)

    def plain_keys(self) -> tuple[str, ...] | None:
        """The sources of the arguments if each argument is a whole result, passed by position; None
        if the node takes anything else, or decides."""
        if self.keyword or self.rest or self.missing or self.decides:
            return None
        if not all(_is_plain(each) for each in self.positional):
            return None
        return tuple([each.edge.source for each in self.positional])  # type: ignore[attr-defined]

    def _bind_named(
        self,
        node: Node[..., Any],
        feeds: dict[str | None, list[FromEdge]],
        inputs: Collection[str],
        resources: Collection[str],
    ) -> None:
        # Defaults of positional parameters that nothing fills. They must be passed if a later
        # parameter is passed by position.
        skipped: list[Any] = []
        star = node.signature.var_positional
        fills_star = star is not None and "*" + star in feeds
        for parameter in node.signature.parameters:
            name = parameter.name
            source: Source | None = None
            edges = feeds.pop(name, None)
            if parameter.is_context:
                source = TheContext()
            elif parameter.by_engine:
                source = TheCallId(node.name)
            elif edges is not None:
                default = parameter.default
                if default is ABSENT and parameter.optional and node.workflow:
                    self.may_lack = True
                elif default is ABSENT:
                    default = None
                source = _joined(node, name, edges, default)
                self.given.append((name, source))
            elif name in inputs:
                source = FromInput(name)
                self.used.add(name)
                self.given.append((name, source))
            elif name in resources:
                source = _LATER
                self.resources.append(name)
            elif not parameter.optional:
                self.missing.append(name)
                continue
            elif node.type.decides:
                self.defaults.append((name, Constant(parameter.default)))
            if parameter.kind == Kind.KEYWORD_ONLY:
                if source is not None:
                    self.keyword.append((parameter.keyword, source))
            elif source is None:
                skipped.append(parameter.default)
            else:
                self.positional.extend(Constant(default) for default in skipped)
                skipped.clear()
                self.positional.append(source)
        if fills_star:
            self.positional.extend(Constant(default) for default in skipped)

    def _bind_rest(
        self,
        node: Node[..., Any],
        feeds: dict[str | None, list[FromEdge]],
        inputs: Collection[str],
        named: Collection[str],
    ) -> None:
        signature = node.signature
        if signature.var_positional is not None:
            edges = feeds.pop("*" + signature.var_positional, [])
            rest = [_joined(node, None, [each], None) for each in edges]
            self.positional.extend(rest)
            if rest:
                together = rest[0] if len(rest) == 1 else Together(rest)
                self.given.append((signature.var_positional, together))
        if signature.var_keyword is not None:
            for key, several in feeds.items():
                assert key is not None
                source = _joined(node, key, several, None)
                self.keyword.append((key, source))
                self.given.append((key, source))
            self.rest = frozenset(key for key in inputs if key not in named and key not in feeds)
            self.used |= self.rest
            self.given.extend((key, FromInput(key)) for key in sorted(self.rest))

    def gather(self, values: Values) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call."""
        keyword = {key: each.fetch(values) for key, each in self.keyword}
        if self.may_lack:
            keyword = {key: each for key, each in keyword.items() if each is not ABSENT}
        return [each.fetch(values) for each in self.positional], keyword | self._rest_of(values)

    @property
    def keywords(self) -> frozenset[str]:
        """The names of the arguments that are passed by name."""
        return self.rest.union(key for key, _ in self.keyword)

    def _rest_of(self, values: Values) -> dict[str, Any]:
        if not self.rest:
            return {}
        return {key: value for key, value in values.inputs.items() if key in self.rest}

    def fetch_given(self, values: Values) -> Any:
        """The inputs of a decider, which its edges carry: the value of a single input, or a dict of
        several. Defaults count if nothing feeds the decider. None if it has no parameters."""
        given = self.given or self.defaults
        if len(given) == 1:
            return given[0][1].fetch(values)
        return {name: source.fetch(values) for name, source in given} or None


def _joined(
    node: Node[..., Any], name: str | None, edges: Sequence[FromEdge], default: Any
) -> Source:
    if node.type is NodeType.ANY:
        return FirstLive(edges, None if default is ABSENT else default)
    if node.type is NodeType.ALL and (
        len(edges) > 1 or (name is not None and node.options.get("collect") == name)
    ):
        return Collected(edges)
    return FirstLive(edges[:1], default) if edges[0].edge.optional else edges[0]


def _is_plain(source: Source) -> bool:
    return (
        isinstance(source, FromEdge)
        and source.edge.output is None
        and not source.source.type.decides
    )


def gives_one_shot(edge: Edge | None, source: Node[..., Any], value: Any) -> bool:
    """Whether what an edge takes of a result, all of it where there is no edge, can be gone through
    once only."""
    if isinstance(value, (ConditionalReturn, SelectReturn)):
        value = value.value
    if edge is not None and edge.output is not None:
        try:
            value = part_of(value, edge, source)
        except failures():
            return False
    return ONE_SHOT[type(value)]


def missing_result(edge: Edge) -> MissingResultError:
    """The error for a consumer whose source's result was deleted from `context.results`."""
    port = "an order-only edge" if edge.input is None else f"its parameter {edge.input!r}"
    return MissingResultError(
        f"{edge.target!r} needs the result of {edge.source!r} for {port}, but it was deleted "
        f"from context.results before {edge.target!r} started",
        node=edge.source,
        consumer=edge.target,
        parameter=edge.input,
        reason="deleted",
    )


def part_of(value: Any, edge: Edge, producer: Node[..., Any]) -> Any:
    """The part of a value that `output=` names."""
    output = edge.output
    assert output is not None
    if isinstance(value, Mapping):
        if output in value:
            return value[output]
        there = f"it has the keys {names(value)}" if value else "it has no keys"
    elif isinstance(value, tuple) and producer.outputs:
        declared = producer.outputs
        if len(declared) == len(value) and output in declared:
            return value[declared.index(output)]
        there = f"it returned {len(value)} values and declares the outputs {names(declared)}"
    else:
        found = getattr(value, output, ABSENT)
        if found is not ABSENT:
            return found
        public = [name for name in dir(value) if not name.startswith("_")]
        there = (
            f"it returned a {type(value).__name__} with the attributes {names(public) or 'none'}"
        )
        if isinstance(value, tuple):
            there += "; name the elements of a tuple with outputs=[...] on the producer"
    raise MissingResultError(
        f"{edge.target!r} needs the output {output!r} of {edge.source!r}, which is not there: "
        f"{there}",
        node=edge.source,
        consumer=edge.target,
        parameter=edge.input,
        output=output,
        reason="no such output",
    )
