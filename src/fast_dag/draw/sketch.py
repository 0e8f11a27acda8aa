"""From the view of a workflow or a run to its picture: decides what is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from fast_dag.define.node import NodeType
from fast_dag.define.options import name_of_function, told
from fast_dag.draw.picture import Box, Cluster, Form, Link, Picture
from fast_dag.draw.view import TOLD
from fast_dag.draw.words import brief, counted, duration, shown
from fast_dag.errors import ValidationError, brief_of, closest, names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.define.transitions import Transition
    from fast_dag.draw.view import MachineView, RunView, WorkflowView

_MOST_DETAILED = 80
"""In a picture with more boxes, boxes show names only, unless `details` is asked for."""

_WALKS = ("over", "product")
"""What a box of a map shows of its options."""

_FORMS = {
    NodeType.NODE: Form.BOX,
    NodeType.CONDITION: Form.DIAMOND,
    NodeType.SELECT: Form.HEXAGON,
    NodeType.ANY: Form.STADIUM,
    NodeType.ALL: Form.STADIUM,
}


class DrawingOptions(TypedDict, total=False):
    """The options of `visualize`, all optional.

    - `direction`: "TB", "LR", "BT" or "RL"; when not given, whichever makes the better sheet.
    - `depth`: how many levels of nested workflows are opened; all when not given, none with 0.
    - `details`: whether boxes have more than one line; when not given, up to 80 boxes.
    """

    direction: Literal["TB", "LR", "BT", "RL"] | None
    depth: int | None
    details: bool | None


def read_options(options: Mapping[str, Any] | None) -> DrawingOptions:
    """The options, checked. Raises ValidationError.

    >>> read_options({"depth": 0})
    {'depth': 0}
    """
    given = dict(options or {})
    for name in given:
        if name not in DrawingOptions.__annotations__:
            hint = closest(name, DrawingOptions.__annotations__)[1]
            known = names(DrawingOptions.__annotations__)
            raise ValidationError(f"visualize has no option {name!r}{hint}; there are {known}")
    if given.get("direction") not in (None, "TB", "LR", "BT", "RL"):
        raise ValidationError(f"direction is TB, LR, BT or RL, not {given['direction']!r}")
    depth = given.get("depth")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise ValidationError(f"depth is a count of levels, not {depth!r}")
    checked: Any = given
    return checked  # type: ignore[no-any-return]


def sketch(
    view: WorkflowView, *, results: bool = False, options: DrawingOptions | None = None
) -> Picture:
    """The picture of a workflow or a run; with `results`, boxes show what their nodes returned."""
    options = {} if options is None else options
    depth, details = options.get("depth"), options.get("details")
    if details is None:
        details = count_boxes(view, depth) <= _MOST_DETAILED
    sketcher = _Sketcher(results=results, details=details)
    root = Box("root", "", shown(view.name), Form.FRAMED)
    return Picture(
        sketcher.cluster(root, "", view, depth),
        options.get("direction") or _better_direction(view),
    )


def count_boxes(view: WorkflowView, depth: int | None) -> int:
    """The number of boxes, those in opened workflows included."""
    count = len(view.topology.nodes)
    if depth != 0:
        deeper = None if depth is None else depth - 1
        count += sum(max(count_boxes(inner, deeper), 1) - 1 for inner in view.nested.values())
    return count


def _better_direction(view: WorkflowView) -> str:
    """To the right for a wide graph: boxes are wider than high, so a layer of many takes less room
    as a column."""
    topology = view.topology
    layer_of: dict[int, int] = {}
    for index in topology.order:
        above = (layer_of.get(each, 0) + 1 for each in topology.sources(index))
        layer_of[index] = max(above, default=0)
    layers = Counter(layer_of.values())
    widest = max(layers.values(), default=0)
    return "LR" if view.machine is None and widest > 8 and widest * 2 > len(layers) else "TB"


class _Sketcher:
    def __init__(self, *, results: bool, details: bool) -> None:
        self.results = results
        self.details = details
        self._ids = map("n{}".format, count())

    def cluster(self, frame: Box, prefix: str, view: WorkflowView, depth: int | None) -> Cluster:
        """A workflow, opened; the paths of its nodes begin with `prefix`."""
        ids: dict[str, str] = {}
        items: list[Box | Cluster] = []
        retries = Counter(() if view.run is None else (each.node for each in view.run.retries))
        reasons = view.skip_reasons()
        for node in view.topology.nodes:
            reason = reasons.get(node.name, "")
            box = self._box(node, prefix, view, reason, retries[node.name])
            ids[node.name] = box.id
            inner = view.nested.get(node.name)
            if inner is None or depth == 0 or not inner.topology.nodes:
                items.append(box)
            else:
                deeper = None if depth is None else depth - 1
                items.append(self.cluster(box, f"{prefix}{node.name}.", inner, deeper))
        if view.machine is None:
            links = [
                Link(
                    ids[edge.source],
                    ids[node.name],
                    _edge_label(edge, node),
                    is_dashed=edge.input is None,
                    taken=live,
                )
                for index, node in enumerate(view.topology.nodes)
                for edge, live in view.edges_into(index)
            ]
        else:
            links = self._transitions(view.machine, view.run, prefix, ids, items)
        return Cluster(frame, items, links)

    def _box(
        self, node: Node[..., Any], prefix: str, view: WorkflowView, reason: str, retries: int
    ) -> Box:
        name = node.name
        tone, lines = "neutral", []
        if view.run is not None:
            status = view.run.statuses.get(name)
            tone = "outside" if status is None else str(status)
            if tone == "completed" and name in view.run.from_cache:
                tone = "from_cache"
            lines = self._lines(name, view.run, tone, reason, retries)
        else:
            lines = _walks(node)
            lines += ["cached"] if node.cache is not None else []
        short = lines[: int(tone == "failed")]
        if node.type.joins:
            lines.insert(0, node.type.value)
        form = _FORMS[node.type]
        if node.workflow is not None:
            form = Form.FRAMED
        elif view.machine is not None:
            form = Form.DOUBLE if name in view.machine.terminal else Form.ROUND
        title = shown(name)
        if node.map:
            items = None if view.run is None else view.run.items.get(name)
            title += " x n" if items is None else f" {items.times}"
        path = shown(prefix + name, None)
        tip = dict.fromkeys([path, *lines, *_about(node)])
        return Box(
            next(self._ids),
            path,
            title,
            form,
            tone,
            tuple(lines if self.details else short),
            "\n".join(tip),
            is_current=view.run is not None and view.run.current == name,
        )

    def _lines(self, name: str, run: RunView, tone: str, reason: str, retries: int) -> list[str]:
        """What a run's box says below its name; `reason`: why the node was skipped."""
        parts = [] if tone in ("completed", "outside") else [tone.replace("_", " ")]
        if reason:
            parts = [shown(f"skipped: {reason}")]
        visits = run.visits.get(name, 0)
        if visits > 1:
            parts.append(counted(visits, "visit"))
        if name in run.timings:
            parts.append(duration(run.timings[name]))
        if retries:
            parts.append(counted(retries + max(visits, 1), "attempt"))
        items = run.items.get(name)
        if items is not None and items.total is not None and items.ended < items.total:
            parts.append(f"{items.ended:,} of {items.total:,} ended")
        lines = [", ".join(parts)] if parts else []
        if name == run.current:
            events = shown(f"waits for {', '.join(run.awaited)}") if run.awaited else ""
            lines.insert(0, events or "current state")
        error = run.errors.get(name)
        if error is None and items is not None and items.fatal is not None:
            error = run.errors.get(name + items.fatal)
        if error is not None:
            lines.insert(0, shown(brief_of(error)))
        if self.results and name in run.results:
            lines.append("= " + brief(run.results[name], 40))
        return lines

    def _transitions(
        self,
        machine: MachineView,
        run: RunView | None,
        prefix: str,
        ids: dict[str, str],
        items: list[Box | Cluster],
    ) -> list[Link]:
        """The links between states, and the boxes that these need besides the states."""

        def id_of(state: str) -> str:
            if state not in ids:  # the transition names a state that is missing
                ids[state] = next(self._ids)
                path, tip = shown(prefix + state, None), f"{shown(state)} is no state"
                box = Box(ids[state], path, shown(state), Form.ROUND, "missing", (), tip)
                items.append(box)
            return ids[state]

        links: list[Link] = []
        for state in machine.initial:
            dot = Box(next(self._ids), "", "", Form.DOT)
            items.insert(0, dot)
            links.append(Link(dot.id, id_of(state), taken=None if run is None else True))
        counts = _moves(run, failed=False)
        already: set[tuple[str, str]] = set()
        for each in machine.transitions:
            ends = each.source, each.target
            times = counts.pop(ends, 0)
            taken = None if run is None else times > 0
            if times:
                already.add(ends)
            elif ends in already:  # which of several was taken is not known
                taken = None
            source, target = map(id_of, ends)
            links.append(Link(source, target, _transition_label(each, times), taken=taken))
        for ends, times in counts.items():  # a return led there, no declared transition
            source, target = map(id_of, ends)
            links.append(Link(source, target, _times(times), is_dashed=True, taken=True))
        failures = _moves(run, failed=True)
        for ends in machine.on_error.items():
            times = failures[ends]
            source, target = map(id_of, ends)
            label = f"on error {_times(times)}".rstrip()
            taken = None if run is None else times > 0
            links.append(Link(source, target, label, is_dashed=True, taken=taken))
        return links


def _edge_label(edge: Edge, target: Node[..., Any]) -> str:
    """The branch, the output, and the parameter, as far as the picture does not show them."""
    branch = "" if edge.branch is None else str(edge.branch)
    if isinstance(edge.branch, bool):
        branch = branch.lower()
    parameter = ""
    if edge.input is not None and edge.input not in (edge.source, edge.output):
        several = len(target.inputs) > 1 or (target.inputs and edge.input[0] == "*")
        parameter = f"→ {edge.input}" if several else ""
    ports = " ".join(each for each in (edge.output or "", parameter) if each)
    told = ": ".join(each for each in (branch, ports) if each)
    return shown(f"{told} (optional)".lstrip() if edge.optional else told)


def _transition_label(transition: Transition, times: int) -> str:
    event = "" if transition.event is None else transition.event
    condition = ""
    if transition.condition is not None:
        name = name_of_function(transition.condition.func)
        condition = "[condition]" if name == "<lambda>" else f"[{name}]"
    return shown(" ".join(each for each in (event, condition, _times(times)) if each))


def _times(times: int) -> str:
    return f"{times:,}x" if times else ""


def _moves(run: RunView | None, *, failed: bool) -> Counter[tuple[str, str]]:
    """How often a machine went from one state to another, as far as it keeps its history: from
    states that failed, or from those that did not."""
    spans = () if run is None else run.spans
    return Counter(
        (before.node, after.node) for before, after in pairwise(spans) if before.failed is failed
    )


def _about(node: Node[..., Any]) -> list[str]:
    """A node's description and options, for its tip."""
    workflow: Any = node.workflow
    described = node.description if workflow is None else workflow.description
    lines = [shown(described, 200)] if described else []
    lines += _walks(node)
    options = []
    if node.retry:
        options.append(counted(node.retry, "retry", "retries"))
    if node.timeout:
        options.append(f"timeout {duration(node.timeout)}")
    if node.cache is not None:
        options.append("cached")
    if node.run_in:
        options.append(f"runs in {node.run_in}")
    options += told(node.options, [name for name in TOLD if name not in _WALKS])
    return [*lines, ", ".join(options)] if options else lines


def _walks(node: Node[..., Any]) -> list[str]:
    """Which parameters a map walks over, as a line; none of another node."""
    return told(node.options, _WALKS)
