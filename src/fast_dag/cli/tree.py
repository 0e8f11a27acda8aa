"""A workflow as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_dag.define.dag import DAG
from fast_dag.define.fsm import FSM
from fast_dag.define.graph import graph_of
from fast_dag.define.options import told
from fast_dag.define.signature import ABSENT
from fast_dag.draw.words import brief, counted, shown
from fast_dag.plan.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag.define.node import Nestable, Node
    from fast_dag.define.workflow import Workflow

MARKS = "├└│─┆→↓▶■"
"""The characters around names in a tree."""
_PLAIN = str.maketrans(MARKS, "|`|-:>v>#")


def tree(workflow: Workflow, *, plain: bool = False) -> Iterator[str]:
    """The lines of a heading, of the inputs, and of the nodes, each below a node that leads to it.

    Where a node has one successor, and that has no other source, the successor stands right below
    it; several successors are branches. A node that is reached a second time is named again,
    without what follows it. `plain=True` makes the marks ASCII; it does not change names.

    >>> dag = DAG("shop").add_node("load", lambda path: path).add_node("clean", lambda x: x)
    >>> dag = dag.add_node("sum", lambda x: x).add_node("plot", lambda x, wide=False: x)
    >>> dag = dag.connect("load", "clean").connect("clean", "sum").connect("clean", "plot")
    >>> print("\\n".join(tree(dag)))
    shop (DAG): 4 nodes, 3 edges
    inputs: path, wide=False
    <BLANKLINE>
    load
    ↓ clean
    ├─ sum
    └─ plot
    """
    yield heading(workflow)
    if workflow.description:
        yield workflow.description
    given = inputs(workflow)
    if given:
        yield f"inputs: {', '.join(given)}"
    if workflow.limits is not None:
        yield f"limits: {repr(workflow.limits)[len('Limits(') : -1]}"
    yield ""
    yield from _body(workflow, _plain if plain else str)


def _plain(marks: str) -> str:
    return marks.translate(_PLAIN)


def heading(workflow: Workflow) -> str:
    """One line: name, kind and size."""
    if isinstance(workflow, FSM):
        counts = counted(len(workflow), "state"), counted(len(workflow.transitions), "transition")
    else:
        edges = sum(1 for _ in workflow.graph.edges())
        counts = counted(len(workflow), "node"), counted(edges, "edge")
    return f"{shown(workflow.name)} ({workflow.kind.upper()}): {', '.join(counts)}"


def inputs(workflow: Workflow) -> list[str]:
    """The inputs of a run, with defaults: the parameters that nothing in the workflow feeds."""
    taken: dict[str, str] = {}
    topology, resources = topology_of(workflow), workflow.resources
    for node, edges in zip(topology.nodes, topology.incoming, strict=True):
        if isinstance(workflow, FSM) and node.name != workflow.initial_state:
            continue
        fed = {edge.input for edge in edges}
        for parameter in node.signature.parameters:
            name = parameter.name
            if parameter.by_engine or name in fed or name in resources:
                continue
            default = "" if not parameter.optional else "=" + _default(parameter.default)
            if name not in taken or not default:  # one node that needs it makes it required
                taken[name] = name + default
    return list(taken.values())


def topology_of(workflow: Nestable) -> Topology:
    """The nodes and edges, also those that `autowire` adds."""
    return Topology.of(graph_of(workflow), autowire=isinstance(workflow, DAG) and workflow.autowire)


def _default(value: Any) -> str:
    return "..." if value is ABSENT else brief(value)


def _body(workflow: Nestable, draw_mark: Callable[[str], str]) -> Iterator[str]:
    return (
        _of_fsm(workflow, draw_mark) if isinstance(workflow, FSM) else _of_dag(workflow, draw_mark)
    )


def _of_dag(dag: Nestable, draw_mark: Callable[[str], str]) -> Iterator[str]:
    topology = topology_of(dag)
    seen: set[int] = set()
    order = topology.order or range(len(topology.nodes))
    sources = [len(edges) for edges in topology.incoming]
    roots = [index for index in order if not sources[index]]
    for root in [*roots, *range(len(topology.nodes))]:  # nodes of a cycle are below no root
        todo = [] if root in seen else [(root, "", "")]
        while todo:
            index, lead, stem = todo.pop()
            label = lead + _label(topology.nodes[index])
            below = topology.successors[index]
            if index in seen:
                yield f"{label} (above)" if below else label
                continue
            seen.add(index)
            yield label
            inner = topology.nodes[index].workflow
            if inner is not None:
                yield from (f"{stem}{draw_mark('┆')}  {line}" for line in _body(inner, draw_mark))
            if len(below) == 1 and sources[below[0][0]] == 1 and below[0][0] not in seen:
                target, branch, optional = below[0]
                todo.append((target, f"{stem}{draw_mark('↓')} {_taken(branch, optional)}", stem))
                continue
            for position, (target, branch, optional) in enumerate(reversed(below)):
                last = position == 0
                lead = f"{stem}{draw_mark('└─ ' if last else '├─ ')}{_taken(branch, optional)}"
                todo.append((target, lead, stem + ("   " if last else draw_mark("│  "))))


def _taken(branch: bool | str | None, optional: bool) -> str:
    name = shown(branch) if isinstance(branch, str) else str(branch).lower()
    words = ["" if branch is None else name, "optional" if optional else ""]
    found = ", ".join(filter(None, words))
    return f"[{found}] " if found else ""


def _of_fsm(fsm: FSM, draw_mark: Callable[[str], str]) -> Iterator[str]:
    ways: dict[str, list[str]] = {}
    for each in fsm.transitions:
        event = "" if each.event is None else f" on {each.event!r}"
        condition = ""
        if each.condition is not None:
            condition = f" if {called(each.condition.func)}"
        way = f"    {draw_mark('→')} {shown(each.target)}{event}{condition}"
        ways.setdefault(each.source, []).append(way)
    for name, target in fsm.error_states.items():
        ways.setdefault(name, []).append(f"    {draw_mark('→')} {shown(target)} on error")
    for name, node in fsm.nodes.items():
        mark = "■" if name in fsm.terminal_states else "▶" if name == fsm.initial_state else " "
        yield f"{draw_mark(mark)} {_label(node)}"
        if node.workflow is not None:
            yield from (f"  {draw_mark('┆')}  {line}" for line in _body(node.workflow, draw_mark))
        yield from ways.get(name, ())


def called(func: Callable[..., Any]) -> str:
    """The name of a function, or what else it shows."""
    return getattr(func, "__name__", None) or brief(func)


def _label(node: Node[..., Any]) -> str:
    words = [] if node.type == "node" else [node.type.value]
    words += told(node.options)
    name = shown(node.name)
    return f"{name}  ({', '.join(words)})" if words else name
