"""Nodes and edges, and the rule for which parameter an edge feeds."""

from __future__ import annotations

from weakref import WeakSet

from fast_dag.define.node import Branch, Nestable, Node, NodeType
from fast_dag.define.options import MAP_A_WORKFLOW
from fast_dag.define.signature import CALL_ID
from fast_dag.errors import (
    InvalidNodeError,
    MissingConnectionError,
    UnknownNodeError,
    ValidationError,
    closest,
    names,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any, Final, Literal

    from fast_dag.define.signature import Signature

MOST_LEVELS = 32
"""How many levels deep workflows may nest; a workflow without nested ones is one level. Each level
takes some frames of Python's stack, which has a thousand. With this limit, runs in all modes,
files, pickles, pictures and copies work even if the caller's stack is deep."""

MANY: Final = 8
"""Nodes with more edges than that have an index of them."""


class Edge:
    """An edge from a node to a parameter of another.

    - `output`: the part of the source's value that flows; None if all of it does.
    - `input`: the parameter; None if the edge only orders; `"*args"` for an edge into `*args`.
    - `branch`: the choice of the source that makes the edge live; None if every choice does.
    - `asked`: the `input` that was given to `connect`.
    - `optional`: the target runs although the edge ends dead; the parameter gets its default.
    """

    __slots__ = ("asked", "branch", "input", "optional", "output", "source", "target")

    def __init__(
        self,
        source: str,
        target: str,
        output: str | None,
        input: str | None,
        branch: bool | str | None = None,
        asked: str | bool | None = None,
        optional: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.output = output
        self.input = input
        self.branch = branch
        self.asked = asked
        self.optional = optional

    @property
    def origin(self) -> str:
        """The source's name in messages and in collected dicts: `source` or `source.output`."""
        return self.source if self.output is None else f"{self.source}.{self.output}"

    def meant_by(self, input: str | bool | None) -> bool:
        """Whether `connect` with this `input` asks for the same parameter."""
        if input is None:
            return self.asked is not False
        return input is False if self.input is None else input in (self.input, self.input[1:])

    def __repr__(self) -> str:
        branch = "" if self.branch is None else f"[{self.branch}]"
        port = "" if self.input is None else f".{self.input}"
        return f"<edge {self.origin}{branch} -> {self.target}{port}>"


class Graph:
    """A mutable graph of named nodes.

    `version` changes with every edit. `nested` has the workflows among the nodes. `noun` is the
    word
    for a node in error messages.

    >>> graph = Graph("demo")
    >>> _ = graph.add(Node(lambda: 1, "one"))
    >>> _ = graph.add(Node(lambda x: x + 1, "two"))
    >>> graph.connect("one", "two")
    >>> graph.incoming("two")
    [<edge one -> two.x>]
    """

    _holders: WeakSet[Graph]
    """The graphs in which this one is nested."""

    def __new__(cls, *args: Any, **options: Any) -> Graph:
        self = super().__new__(cls)
        self._holders = WeakSet()  # not in __init__: unpickling does not call that
        return self

    def __init__(self, name: str, noun: str = "node") -> None:
        self.name = name
        self.noun = noun
        self.version = 0
        self.nodes: dict[str, Node[..., Any]] = {}
        self.nested: dict[str, Nestable] = {}
        self._incoming: dict[str, list[Edge]] = {}
        self._outgoing: dict[str, list[Edge]] = {}
        # Of nodes with many edges: what they feed, and their edges by source. So a further edge
        # takes no longer than the first.
        self._many: dict[str, tuple[set[str | None], dict[str, list[Edge]]]] = {}

    def __repr__(self) -> str:
        return f"<graph of {self.name!r}: {len(self.nodes)} {self.noun}s>"

    # Nodes.

    def node(self, node: str | Node[..., Any]) -> Node[..., Any]:
        """The node itself or the one of that name; raises InvalidNodeError or UnknownNodeError."""
        if isinstance(node, Node):
            if node.graph is None and node.replaced_in is self and node.name in self.nodes:
                return self.nodes[node.name]
            if node.graph is not self:
                other = "no DAG" if node.graph is None else repr(node.graph.name)
                if node.graph is not None and node.graph.name == self.name:
                    other = "another one of that name"
                raise InvalidNodeError(
                    f"node {node.name!r} belongs to {other}, not to {self.name!r}; "
                    "add it there first (its function and options are lent to a new node)",
                    node=node.name,
                )
            return node
        found = self.nodes.get(node) if isinstance(node, str) else None
        if found is None:
            self._refuse_inside(node)
            raise self._unknown(node)
        return found

    def _unknown(self, name: str) -> UnknownNodeError:
        return UnknownNodeError.named(name, self.nodes, repr(self.name), self.noun)

    def _refuse_inside(self, path: str) -> None:
        first, _, rest = str(path).partition(".")
        if rest and first in self.nested:
            self.resolve(path)  # raises if the inner workflow has no such node either
            raise UnknownNodeError(
                f"{path!r} is inside the workflow {first!r}, which {self.name!r} can name as a "
                f"whole only: say {first!r}, as in outputs=[{first!r}], and read the result inside "
                f"after the run, as in dag[{path!r}]",
                node=path,
                suggestion=first,
            )

    def resolve(self, path: str) -> Node[..., Any]:
        """The node that a path like `"sub.inner"` leads to; raises UnknownNodeError."""
        first, _, rest = str(path).partition(".")
        node = self.nodes.get(first)
        if node is None or (rest and node.workflow is None):
            raise self._unknown(path)
        if not rest or node.workflow is None:
            return node
        return graph_of(node.workflow).resolve(rest)

    def add(self, node: Node[..., Any], *, replace: bool = False) -> Node[..., Any]:
        """Add a node, or a copy if it belongs to another graph; returns the one that was added."""
        if node.graph is not None:
            node = Node(node, node.name, type=node.type)
        if node.map is not None and self.noun == "state":
            raise InvalidNodeError(
                f"state {node.name!r} cannot walk over {names(node.map.walked)}, because a machine "
                f"is in one state at a time; {MAP_A_WORKFLOW}",
                node=node.name,
            )
        if node.name in self.nodes:
            if replace:
                return self._replace(node)
            raise InvalidNodeError(
                f"{self.name!r} already has a {self.noun} {node.name!r}; to define it anew (in a "
                "notebook, say) pass replace=True, as replace_node() of a DAG does",
                node=node.name,
            )
        self._refuse_nesting(node)
        self._nest(node.name, node.workflow)
        self.nodes[node.name] = node
        self._incoming[node.name] = []
        self._outgoing[node.name] = []
        node.graph = self
        self.version += 1
        return node

    def _refuse_nesting(self, node: Node[..., Any]) -> None:
        """Raise InvalidNodeError if a workflow would be nested in itself, or too deep."""
        if node.workflow is None:
            return
        below = _levels(graph_of(node.workflow), lambda graph: graph._inside())
        if any(self in level for level in below):
            raise InvalidNodeError(
                f"{self.name!r} cannot be a node inside itself (as {node.name!r})", node=node.name
            )
        above = _levels(self, lambda graph: graph._holders)
        levels = len(above) + len(below)
        if levels > MOST_LEVELS:
            outermost = next(iter(above[-1])).name
            raise InvalidNodeError(
                f"{node.name!r} cannot be a node of {self.name!r}: {outermost!r} would have "
                f"workflows nested {levels} levels deep, and {MOST_LEVELS} are the most; put the "
                "nodes of an inner workflow directly into the one around it",
                node=node.name,
                levels=levels,
                most=MOST_LEVELS,
            )

    def _nest(self, name: str, workflow: Nestable | None) -> None:
        """Record the workflow that the node `name` is from now on; None if it is a function."""
        gone = self.nested.pop(name, None)
        if workflow is not None:
            self.nested[name] = workflow
            graph_of(workflow)._holders.add(self)
        if gone is not None and gone.graph not in self._inside():
            graph_of(gone)._holders.discard(self)

    def _inside(self) -> list[Graph]:
        return [graph_of(workflow) for workflow in self.nested.values()]

    def _replace(self, node: Node[..., Any]) -> Node[..., Any]:
        """Put `node` in the place of the node of its name and keep the edges.

        Raises ValidationError, and changes nothing, if an edge does not fit.
        """
        name = node.name
        self._refuse_nesting(node)
        old, old_incoming = self.nodes[name], self._incoming[name]
        if not node.type.decides or node.type is not old.type:
            branched = [edge for edge in self._outgoing[name] if edge.branch is not None]
            if branched:
                raise InvalidNodeError(
                    f"the new {name!r} is no {old.type.value}, but has branches to "
                    f"{names(edge.target for edge in branched)}; disconnect them first",
                    node=name,
                )
        self.nodes[name] = node
        self._incoming[name] = []
        self._many.pop(name, None)
        try:
            for edge in old_incoming:
                fed = self._kept(edge, old, node)
                self._incoming[name].append(
                    Edge(
                        edge.source, name, edge.output, fed, edge.branch, edge.asked, edge.optional
                    )
                )
                if edge.optional:
                    _refuse_optional(edge.source, node)
        except ValidationError:
            self.nodes[name], self._incoming[name] = old, old_incoming
            self._many.pop(name, None)
            raise
        for edge, new in zip(old_incoming, self._incoming[name], strict=True):
            siblings = self._outgoing[edge.source]
            siblings[siblings.index(edge)] = new
        old.graph, node.graph, old.replaced_in = None, self, self
        self._nest(name, node.workflow)
        self.version += 1
        return node

    def remove(self, node: str | Node[..., Any]) -> None:
        """Remove a node and its edges."""
        gone = self.node(node)
        for edge in self._incoming.pop(gone.name):
            self._outgoing[edge.source].remove(edge)
        for edge in self._outgoing.pop(gone.name):
            if edge.target != gone.name:
                self._incoming[edge.target].remove(edge)
                self._many.pop(edge.target, None)
        self._many.pop(gone.name, None)
        del self.nodes[gone.name]
        self._nest(gone.name, None)
        gone.graph = None
        self.version += 1

    # Edges.

    def connect(
        self,
        source: str | Node[..., Any] | Branch,
        target: str | Node[..., Any],
        output: str | None = None,
        input: str | Literal[False] | None = None,
        *,
        optional: bool = False,
    ) -> None:
        """Add an edge; see `DAG.connect`."""
        start, branch, output = self._origin(source, output)
        end = self.node(target)
        if output is not None:
            _check_output(start, end, output)
        if not isinstance(optional, bool):
            raise ValidationError(f"optional is True or False, not {optional!r}")
        if optional:
            _refuse_optional(start.name, end)
        origin, name = start.name, end.name
        for edge in self._between(origin, name) if self._incoming[name] else ():
            if edge.output == output and edge.branch == branch and edge.meant_by(input):
                if edge.optional != optional:
                    self._exchange(edge, optional)
                return  # a cell of a notebook that is run again, say
        fed = self._placed(origin, end, output, input)
        edge = Edge(origin, name, output, fed, branch, input, optional)
        self._incoming[name].append(edge)
        self._outgoing[origin].append(edge)
        if name in self._many:
            known, by_source = self._many[name]
            known.add(fed)
            by_source.setdefault(origin, []).append(edge)
        self.version += 1

    def _origin(
        self, source: str | Node[..., Any] | Branch, output: str | None
    ) -> tuple[Node[..., Any], bool | str | None, str | None]:
        """Where an edge begins: the node, the branch and the output. Of a decider, an output may
        name the branch."""
        if isinstance(source, Branch):
            return self.node(source.node), source.choice, output
        node = self.node(source)
        if node.type is NodeType.SELECT and isinstance(output, str) and output:
            return node, output, None
        if node.type is NodeType.CONDITION and output in _TRUTHS:
            return node, _TRUTHS[output], None
        return node, None, output

    def _exchange(self, edge: Edge, optional: bool) -> None:
        """Put an edge that is the same but for `optional` in the place of one; clones and plans may
        have that, too."""
        new = Edge(
            edge.source, edge.target, edge.output, edge.input, edge.branch, edge.asked, optional
        )
        for edges in (self._incoming[edge.target], self._outgoing[edge.source]):
            edges[edges.index(edge)] = new
        self._many.pop(edge.target, None)
        self.version += 1

    def _between(self, source: str, target: str) -> Iterable[Edge]:
        """The edges from one node to another."""
        edges = self._incoming[target]
        if len(edges) > MANY:
            return self._indexed(target)[1].get(source, ())
        return [edge for edge in edges if edge.source == source]

    def _indexed(self, name: str) -> tuple[set[str | None], dict[str, list[Edge]]]:
        found = self._many.get(name)
        if found is None:
            found = self._many[name] = set(), {}
            for edge in self._incoming[name]:
                found[0].add(edge.input)
                found[1].setdefault(edge.source, []).append(edge)
        return found

    def disconnect(
        self,
        source: str | Node[..., Any] | Branch,
        target: str | Node[..., Any],
        output: str | None = None,
        input: str | Literal[False] | None = None,
    ) -> None:
        """Remove the edges between two nodes, or those of one branch, output or parameter."""
        start, branch, output = self._origin(source, output)
        end = self.node(target)
        gone = [
            edge
            for edge in self._incoming[end.name]
            if edge.source == start.name
            and branch in (None, edge.branch)
            and output in (None, edge.output)
            and (input is None or edge.input == (input or None))
        ]
        if not gone:
            raise MissingConnectionError(
                f"{self.name!r} has no such edge from {start.name!r} to {end.name!r}",
                source=start.name,
                target=end.name,
            )
        for edge in gone:
            self._incoming[end.name].remove(edge)
            self._outgoing[start.name].remove(edge)
        self._many.pop(end.name, None)
        self.version += 1

    def incoming(self, name: str) -> list[Edge]:
        """The edges into a node, in the order they were made."""
        return self._incoming[name]

    def outgoing(self, name: str) -> list[Edge]:
        """The edges out of a node, in the order they were made."""
        return self._outgoing[name]

    def edges(self) -> Iterator[Edge]:
        """All edges, by target."""
        for edges in self._incoming.values():
            yield from edges

    # Ports.

    def _placed(
        self,
        source: str,
        target: Node[..., Any],
        output: str | None,
        asked: str | bool | None,
    ) -> str | None:
        """The parameter that a new edge feeds; None if the edge only orders."""
        signature = target.signature
        if asked is not None:
            if asked is False:
                return None
            if isinstance(asked, str):
                return self._asked_for(source, target, signature, asked)
            raise ValidationError(  # type checkers refuse it, too
                f"input={asked!r} of the edge {source!r} -> {target.name!r}: give a "
                "parameter's name, or False for an edge that only orders"
            )
        if CALL_ID in (source, output) and signature.takes_call_id:
            return self._asked_for(source, target, signature, CALL_ID)  # which refuses it
        inputs = signature.inputs
        if not inputs:
            if signature.var_positional:
                return "*" + signature.var_positional
            if signature.var_keyword:
                return self._asked_for(source, target, signature, source)
            return None
        fed = self._fed_parameters(target.name)
        if output is not None and output in inputs and output not in fed:
            return output
        if source in inputs and source not in fed:
            return source
        # Parameters after *args can be fed by name only; edges without a name go to *args, in
        # order.
        for each in signature.positional if signature.var_positional else inputs:
            if each not in fed:
                return each
        if signature.var_positional:
            return "*" + signature.var_positional
        if signature.var_keyword:
            return self._asked_for(source, target, signature, source)
        if target.type.joins and len(inputs) == 1:
            return inputs[0]
        raise self._no_room(source, target, inputs)

    def _kept(self, edge: Edge, old: Node[..., Any], new: Node[..., Any]) -> str | None:
        """The parameter of `new` that an edge into `old` feeds, when `new` takes the place of
        `old`.

        It is the parameter of the same name. If `new` has none, and `connect` chose the parameter,
        it is the one named like the output or the source, or a new one if it is the only one; a
        function without parameters is ordered only. Anything else would be a guess, and an error.
        """
        signature, gone = new.signature, edge.input
        inputs = signature.inputs
        if gone is None:  # the edge only orders
            return self._placed(edge.source, new, edge.output, edge.asked)
        if gone.startswith("*"):
            if signature.var_positional:
                return "*" + signature.var_positional
        elif gone in inputs or signature.var_keyword:
            return self._asked_for(edge.source, new, signature, gone)
        if edge.asked is None:
            if not inputs:
                return self._placed(edge.source, new, edge.output, None)
            only = inputs[0] if len(inputs) == 1 and inputs[0] not in old.inputs else None
            fed = self._fed_parameters(new.name)
            for name in (edge.output, edge.source, only):
                if name in inputs and name not in fed:
                    return name
        raise ValidationError(
            f"the edge {edge.origin!r} -> {new.name!r} feeds {gone!r}, which the new {new.name!r} "
            f"does not have: {_taken_by(signature)}. Call disconnect({edge.source!r}, "
            f"{new.name!r}) before you replace the node, and connect it anew after, with input=",
            node=new.name,
            parameter=gone,
            sources=(edge.source,),
        )

    def _asked_for(
        self, source: str, target: Node[..., Any], signature: Signature, asked: str
    ) -> str:
        inputs = signature.inputs
        if any(each.by_engine and each.name == asked for each in signature.parameters):
            raise ValidationError(
                f"the parameter {asked!r} of {target.name!r} is filled by the engine; "
                "no edge can feed it",
                node=target.name,
                parameter=asked,
            )
        if asked in inputs or (signature.var_keyword and not asked.startswith("*")):
            if not target.type.joins and asked in self._fed_parameters(target.name):
                raise self._taken(source, target, asked)
            return asked
        if signature.var_positional and asked.lstrip("*") == signature.var_positional:
            return "*" + signature.var_positional
        hint = closest(asked, inputs)[1]
        raise ValidationError(
            f"{target.name!r} has no parameter {asked!r} for the edge from {source!r}; "
            f"{_taken_by(signature)}{hint}",
            node=target.name,
            parameter=asked,
        )

    def _fed_parameters(self, name: str) -> Collection[str | None]:
        edges = self._incoming[name]
        if len(edges) > MANY:
            return self._indexed(name)[0]
        return {edge.input for edge in edges} if edges else ()

    def _feeders(self, name: str, parameter: str) -> list[str]:
        return [edge.origin for edge in self._incoming[name] if edge.input == parameter]

    def _taken(self, source: str, target: Node[..., Any], parameter: str) -> ValidationError:
        feeders = self._feeders(target.name, parameter)
        return ValidationError(
            f"{source!r} cannot feed the parameter {parameter!r} of {target.name!r}: "
            f"{names(feeders)} does already. Disconnect that edge, or join several "
            "sources in an @dag.any or @dag.all node",
            node=target.name,
            parameter=parameter,
            sources=(*feeders, source),
        )

    def _no_room(
        self, source: str, target: Node[..., Any], inputs: Iterable[str]
    ) -> ValidationError:
        fed = {each: names(self._feeders(target.name, each)) for each in inputs}
        taken = ", ".join(f"{each!r} by {by}" for each, by in fed.items())
        advice = (
            "say which with connect(..., input=)"
            if target.type.joins
            else "disconnect one, or pass input=False for an edge that only orders; to join "
            "branches, make it an @dag.any node, and to join several nodes an @dag.all node"
        )
        return ValidationError(
            f"no parameter of {target.name!r} is left for {source!r} (fed: {taken}); {advice}",
            node=target.name,
            parameter=None,
            sources=(source,),
        )

    def copy_into(self, other: Graph) -> None:
        """Give an empty graph copies of all nodes and edges."""
        for node in self.nodes.values():
            other.add(node)
        other._incoming = {key: list(edges) for key, edges in self._incoming.items()}
        other._outgoing = {key: list(edges) for key, edges in self._outgoing.items()}

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_many": {}}
        del state["_holders"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for node in self.nodes.values():
            node.graph = self
        for workflow in self.nested.values():
            inside = vars(workflow).get("_graph")  # not read yet where its own pickle led here
            if inside is not None:
                inside._holders.add(self)


def _levels(graph: Graph, beside: Callable[[Graph], Iterable[Graph]]) -> list[dict[Graph, None]]:
    """Breadth first: the graph, the graphs `beside` it, the graphs beside those, and so on."""
    levels = []
    here = {graph: None}
    while here:
        levels.append(here)
        here = dict.fromkeys(each for one in here for each in beside(one))
    return levels


def graph_of(workflow: Nestable) -> Graph:
    """The graph of a workflow that is nested in another."""
    graph = workflow.graph
    assert isinstance(graph, Graph)
    return graph


def _taken_by(signature: Signature) -> str:
    return f"it takes {names(signature.inputs)}" if signature.inputs else "it takes no value at all"


_TRUTHS: Final = {"true": True, "false": False}


def _refuse_optional(source: str, target: Node[..., Any]) -> None:
    if target.type is NodeType.ANY:
        raise ValidationError(
            f"the edge {source!r} -> {target.name!r} cannot be optional: {target.name!r} is an any "
            "node, which runs with any of its edges as it is",
            node=target.name,
        )


def _check_output(source: Node[..., Any], target: Node[..., Any], output: str) -> None:
    if not isinstance(output, str) or not output:
        raise ValidationError(
            f"output={output!r} of the edge {source.name!r} -> {target.name!r} is no name"
        )
    declared = () if source.type.decides else source.outputs
    if declared and output not in declared:
        hint = closest(output, source.outputs)[1]
        raise MissingConnectionError(
            f"{source.name!r} has no output {output!r}; it declares {names(source.outputs)}{hint}",
            source=source.name,
            target=target.name,
        )
