"""A workflow as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from fast_dag.define.options import CACHE_OPTIONS, OPTIONS
from fast_dag.errors import InvalidNodeError, ValidationError, names
from fast_dag.serial.plain import below, placed, plain
from fast_dag.serial.references import References

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.define.options import Option
    from fast_dag.run.limits import Limits

    class Workflow(Protocol):
        """What is written of a DAG and of an FSM alike."""

        kind: ClassVar[str]
        description: str
        metadata: dict[str, Any]

        @property
        def name(self) -> str: ...
        @property
        def nodes(self) -> Mapping[str, Node[..., Any]]: ...
        @property
        def limits(self) -> Limits | None: ...
        @property
        def default_hooks(self) -> Mapping[str, Any]: ...
        @property
        def node_hooks(self) -> Mapping[str, Mapping[str, Any]]: ...
        @property
        def error_handlers(self) -> Mapping[str, Any]: ...
        @property
        def resources(self) -> Mapping[str, Any]: ...


VERSION: Final = 1
"""The version of the format: the one that is written, and the newest that is read."""


def written(workflow: Workflow, registry: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A workflow as mappings, lists and plain values.

    Raises ValidationError with everything that cannot be written.
    """
    writer = _Writer(References(registry))
    try:
        data = writer.workflow(workflow)
        if not writer.problems:
            # Names may be members of enums, and numbers those of another library.
            return {"fast_dag": VERSION, **plain(data, "")}
    except RecursionError:
        raise ValidationError(f"{workflow.name!r} is nested too deeply to be written") from None
    raise ValidationError.of(writer.problems, repr(workflow.name))


class _Writer:
    """Writes what can be written, and collects the problems with the rest."""

    def __init__(self, references: References) -> None:
        self.references = references
        self.problems: list[ValidationError] = []

    def _try(self, who: str, node: str | None, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except ValidationError as error:
            told = InvalidNodeError(f"{who} cannot be written: {error}", node=node)
            self.problems.append(told)
            return None

    def _function(self, who: str, node: str | None, func: Any) -> str | None:
        text: str | None = self._try(who, node, lambda: self.references.of(func))
        return text

    # Workflows.

    def workflow(self, workflow: Workflow) -> dict[str, Any]:
        """The data of a workflow, without the version of the format."""
        name, metadata = workflow.name, workflow.metadata
        data: dict[str, Any] = {"kind": workflow.kind, "name": name}
        if workflow.description:
            data["description"] = workflow.description
        if metadata:
            data["metadata"] = self._try(repr(name), None, lambda: plain(metadata, "metadata"))
        if workflow.limits is not None:
            data["limits"] = workflow.limits.as_data()
        data |= self._dag(workflow) if workflow.kind == "dag" else self._fsm(workflow)
        if workflow.default_hooks:
            data["default_hooks"] = self._hooks(f"of {name!r}", None, workflow.default_hooks)
        if workflow.resources:
            data["resources"] = {
                key: self._function(f"resource {key!r} of {name!r}", None, self._own(factory))
                for key, factory in workflow.resources.items()
            }
        return data

    def _dag(self, dag: Any) -> dict[str, Any]:
        return {
            **({"autowire": True} if dag.autowire else {}),
            "nodes": self._nodes(dag),
            "edges": [_edge(edge) for edge in dag.graph.edges()],
        }

    def _fsm(self, fsm: Any) -> dict[str, Any]:
        initial = fsm.initial_states
        if len(initial) > 1:
            problem = f"{fsm.name!r} has several initial states: {names(initial)}; keep one"
            self.problems.append(ValidationError(problem))
        data: dict[str, Any] = {"initial_state": initial[0]} if initial else {}
        data["terminal_states"] = fsm.terminal_states
        data["max_cycles"] = False if fsm.max_cycles is None else fsm.max_cycles
        if fsm.on_error is not None:
            data["on_error"] = fsm.on_error
        own = {name: to for name, to in fsm.error_states.items() if to != fsm.on_error}
        if own:
            data["error_states"] = own
        if fsm.on_max_cycles != "raise":
            data["on_max_cycles"] = fsm.on_max_cycles
        if fsm.keep_history is not None:
            data["keep_history"] = fsm.keep_history
        data["states"] = self._nodes(fsm)
        data["transitions"] = [self._transition(fsm, each) for each in fsm.transitions]
        if fsm.state_hooks:
            who = f"a state hook of {fsm.name!r}"
            data["state_hooks"] = [self._function(who, None, hook) for hook in fsm.state_hooks]
        return data

    def _transition(self, fsm: Any, transition: Any) -> dict[str, Any]:
        data = {"source": transition.source, "target": transition.target}
        if transition.event is not None:
            data["event"] = transition.event
        if transition.condition is not None:
            who = f"the condition of {transition} of {fsm.name!r}"
            data["condition"] = self._function(who, None, transition.condition.func)
        return data

    # Nodes.

    def _nodes(self, workflow: Workflow) -> list[dict[str, Any]]:
        hooks, handlers = workflow.node_hooks, workflow.error_handlers
        return [
            self._node(workflow, node, hooks.get(name), handlers.get(name))
            for name, node in workflow.nodes.items()
        ]

    def _node(
        self,
        workflow: Workflow,
        node: Node[..., Any],
        hooks: Mapping[str, Any] | None,
        handler: Any,
    ) -> dict[str, Any]:
        who = f"{'state' if workflow.kind == 'fsm' else 'node'} {node.name!r} of {workflow.name!r}"
        data: dict[str, Any] = {"name": node.name}
        inner: Any = node.workflow
        if inner is None:
            data["function"] = self._function(who, node.name, node.func)
        elif getattr(inner, "kind", ""):
            data["workflow"] = self.workflow(inner)
        else:
            problem = f"{who} cannot be written: {inner!r} is neither a DAG nor an FSM"
            self.problems.append(InvalidNodeError(problem, node=node.name))
        if node.type != "node":
            data["type"] = node.type.value
        options = self._try(who, node.name, lambda: self._options(node.options))
        data |= options or {}
        if hooks:
            data["hooks"] = self._hooks(f"of {who}", node.name, hooks)
        if handler is not None:
            whose = f"the error handler of {who}"
            data["error_handler"] = self._function(whose, node.name, handler)
        return data

    def _hooks(self, whose: str, node: str | None, hooks: Mapping[str, Any]) -> dict[str, Any]:
        return {
            phase: self._function(f"the {phase} hook {whose}", node, hook)
            for phase, hook in hooks.items()
        }

    def _own(self, factory: Any) -> Any:
        """The factory that the user gave; a generator function is kept wrapped."""
        inner = getattr(factory, "__wrapped__", None)
        return factory if inner is None or self.references.known(factory) else inner

    def _options(
        self, options: Mapping[str, Any], table: Mapping[str, Option] = OPTIONS, place: str = ""
    ) -> dict[str, Any]:
        return {
            name: self._option(below(place, name), option.by_name, options[name])
            for name, option in table.items()
            if name in options and (options[name] or name != "metadata")
        }

    def _option(self, place: str, by_name: str, value: Any) -> Any:
        if by_name == "exceptions":
            if isinstance(value, tuple):
                return [self.references.of_errors(each) for each in value]
            return self.references.of_errors(value)
        if by_name == "function":
            try:
                return self.references.of(value)
            except ValidationError as error:
                raise placed(error, place) from None
        if by_name == "registered":
            registered = self.references.registered(value)
            if registered is None:
                raise ValidationError(
                    f"{place} is {value!r}; give that a name in registry={{'name': ...}}, here and "
                    "when the file is read"
                )
            return registered
        if place == "cache":
            return self._options(value, CACHE_OPTIONS, place)
        return plain(value, place)


def _edge(edge: Edge) -> dict[str, Any]:
    data: dict[str, Any] = {"source": edge.source, "target": edge.target}
    if edge.branch is not None:
        data["branch"] = edge.branch
    if edge.output is not None:
        data["output"] = edge.output
    data["input"] = False if edge.input is None else edge.input
    if edge.optional:
        data["optional"] = True
    return data
