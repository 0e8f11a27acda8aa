"""A workflow as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_dag.define.dag import DAG
from fast_dag.define.fsm import FSM
from fast_dag.define.options import OPTIONS
from fast_dag.define.signature import ABSENT
from fast_dag.draw.words import brief, counted, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag.define.node import Nestable, Node
    from fast_dag.define.workflow import Workflow

MARKS = "├└│─┆→↓▶■"
"""What stands around names in a tree."""
_PLAIN = str.maketrans(MARKS, "|`|-:>v>#")


def tree(workflow: Workflow, *, plain: bool = False) -> Iterator[str]:
    """A heading, the inputs, then every node below one that it follows.

    A node that has only one successor, whose only source it is, stands above it; of several each
    is a branch. One that has been shown is named again, with what follows left out. Where it is to
    be plain, the marks around names are ASCII, and names are as they are all the same.

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
    yield ""
    yield from _body(workflow, _plain if plain else str)


def _plain(marks: str) -> str:
    return marks.translate(_PLAIN)


def heading(workflow: Workflow) -> str:
    """What it is, and how big."""
    if isinstance(workflow, FSM):
        counts = counted(len(workflow), "state"), counted(len(workflow.transitions), "transition")
    else:
        edges = sum(1 for _ in workflow.graph.edges())
        counts = counted(len(workflow), "node"), counted(edges, "edge")
    return f"{shown(workflow.name)} ({workflow._kind.upper()}): {', '.join(counts)}"


def inputs(workflow: Workflow) -> list[str]:
    """What a run takes, with defaults: the parameters that nothing in the workflow feeds."""
    taken: dict[str, str] = {}
    if isinstance(workflow, DAG):
        topology = workflow._topology()
        fed = [{edge.input for edge in edges} for edges in topology.incoming]
        nodes = zip(topology.nodes, fed, strict=True)
    else:
        assert isinstance(workflow, FSM)
        first = workflow.nodes.get(workflow.initial_state or "")
        nodes = zip([] if first is None else [first], [set()], strict=False)
    for node, known in nodes:
        for parameter in node.signature.parameters:
            name = parameter.name
            if parameter.is_context or name in known or name in workflow._resources:
                continue
            default = "" if not parameter.optional else "=" + _default(parameter.default)
            if name not in taken or not default:  # who needs it goes before who does not
                taken[name] = name + default
    return list(taken.values())


def _default(value: Any) -> str:
    return "..." if value is ABSENT else brief(value)


def _body(workflow: Nestable, drawn: Callable[[str], str]) -> Iterator[str]:
    return _of_fsm(workflow, drawn) if isinstance(workflow, FSM) else _of_dag(workflow, drawn)


def _of_dag(dag: Any, drawn: Callable[[str], str]) -> Iterator[str]:
    topology = dag._topology()
    seen: set[int] = set()
    order = topology.order or range(len(topology.nodes))
    sources = [len(edges) for edges in topology.incoming]
    roots = [index for index in order if not sources[index]]
    for root in [*roots, *range(len(topology.nodes))]:  # those in a cycle have no root
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
                yield from (f"{stem}{drawn('┆')}  {line}" for line in _body(inner, drawn))
            if len(below) == 1 and sources[below[0][0]] == 1 and below[0][0] not in seen:
                target, branch = below[0]
                todo.append((target, f"{stem}{drawn('↓')} {_taken(branch)}", stem))
                continue
            for position, (target, branch) in enumerate(reversed(below)):
                last = position == 0
                lead = f"{stem}{drawn('└─ ' if last else '├─ ')}{_taken(branch)}"
                todo.append((target, lead, stem + ("   " if last else drawn("│  "))))


def _taken(branch: bool | str | None) -> str:
    if branch is None:
        return ""
    return f"[{shown(branch) if isinstance(branch, str) else str(branch).lower()}] "


def _of_fsm(fsm: FSM, drawn: Callable[[str], str]) -> Iterator[str]:
    ways: dict[str, list[str]] = {}
    for each in fsm.transitions:
        event = "" if each.event is None else f" on {each.event!r}"
        condition = ""
        if each.condition is not None:
            func = each.condition.func
            condition = f" if {getattr(func, '__name__', None) or brief(func)}"
        way = f"    {drawn('→')} {shown(each.target)}{event}{condition}"
        ways.setdefault(each.source, []).append(way)
    for name, node in fsm.nodes.items():
        mark = "■" if name in fsm.terminal_states else "▶" if name == fsm.initial_state else " "
        yield f"{drawn(mark)} {_label(node)}"
        if node.workflow is not None:
            yield from (f"  {drawn('┆')}  {line}" for line in _body(node.workflow, drawn))
        yield from ways.get(name, ())


def _label(node: Node[..., Any]) -> str:
    told = [] if node.type == "node" else [node.type.value]
    told += [
        option.label.format(node.options[name])
        for name, option in OPTIONS.items()
        if option.label and node.options.get(name) not in (None, 0)
    ]
    name = shown(node.name)
    return f"{name}  ({', '.join(told)})" if told else name
