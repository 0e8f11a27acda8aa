"""A workflow as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fast_dag.define.options import CACHE_OPTIONS, OPTIONS
from fast_dag.errors import InvalidNodeError, ValidationError, names
from fast_dag.serial.plain import below, plain
from fast_dag.serial.references import References

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_dag.call.hooks import Hook
    from fast_dag.define.dag import DAG
    from fast_dag.define.fsm import FSM
    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.define.options import Option
    from fast_dag.define.workflow import Workflow

VERSION: Final = 1
"""The format that is written, and the newest that is read."""


def written(workflow: Workflow, registry: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All of a workflow as mappings, lists and plain values.

    Raises ValidationError with everything that cannot be written.
    """
    writer = _Writer(References(registry))
    try:
        data = writer.workflow(workflow)
    except RecursionError:
        raise ValidationError(f"{workflow.name!r} is nested too deeply to be written") from None
    if writer.problems:
        raise ValidationError.of(writer.problems, repr(workflow.name))
    return {"fast_dag": VERSION, **data}


class _Writer:
    """Writes what it can, and collects the problems with the rest."""

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
        """A workflow, without the version."""
        name = workflow.name
        data: dict[str, Any] = {"kind": workflow._kind, "name": name}
        if workflow.description:
            data["description"] = workflow.description
        if workflow.metadata:
            metadata = workflow.metadata
            data["metadata"] = self._try(repr(name), None, lambda: plain(metadata, "metadata"))
        made: Any = workflow
        data |= self._dag(made) if workflow._kind == "dag" else self._fsm(made)
        if workflow._default_hooks:
            whose = f"of {name!r}"
            data["default_hooks"] = self._hooks(whose, None, workflow._default_hooks)
        if workflow._resources:
            data["resources"] = {
                key: self._function(f"resource {key!r} of {name!r}", None, self._own(hook.func))
                for key, hook in workflow._resources.items()
            }
        return data

    def _dag(self, dag: DAG) -> dict[str, Any]:
        return {
            **({"autowire": True} if dag.autowire else {}),
            "nodes": [self._node(dag, node) for node in dag.nodes.values()],
            "edges": [_edge(edge) for edge in dag.graph.edges()],
        }

    def _fsm(self, fsm: FSM) -> dict[str, Any]:
        if len(fsm._initial) > 1:
            problem = f"{fsm.name!r} has several initial states: {names(fsm._initial)}; keep one"
            self.problems.append(ValidationError(problem))
        for edge in fsm.graph.edges():
            problem = (
                f"{edge.source!r} and {edge.target!r} of {fsm.name!r} are connected like nodes of "
                "a DAG; make that a transition"
            )
            self.problems.append(ValidationError(problem))
        data: dict[str, Any] = {"initial_state": fsm.initial_state} if fsm._initial else {}
        data["terminal_states"] = fsm.terminal_states
        data["max_cycles"] = fsm.max_cycles
        if fsm.on_max_cycles != "raise":
            data["on_max_cycles"] = fsm.on_max_cycles
        if fsm.keep_history is not None:
            data["keep_history"] = fsm.keep_history
        data["states"] = [self._node(fsm, node) for node in fsm.nodes.values()]
        data["transitions"] = [
            {
                "source": each.source,
                "target": each.target,
                **({} if each.event is None else {"event": each.event}),
                **self._condition(fsm, str(each), each.condition),
            }
            for each in fsm.transitions
        ]
        if fsm._state_hooks:
            data["state_hooks"] = [
                self._function(f"a state hook of {fsm.name!r}", None, hook.func)
                for hook in fsm._state_hooks
            ]
        return data

    def _condition(self, fsm: FSM, transition: str, condition: Hook | None) -> dict[str, Any]:
        if condition is None:
            return {}
        who = f"the condition of {transition} of {fsm.name!r}"
        return {"condition": self._function(who, None, condition.func)}

    # Nodes.

    def _node(self, workflow: Workflow, node: Node[..., Any]) -> dict[str, Any]:
        who = f"{'state' if workflow._kind == 'fsm' else 'node'} {node.name!r} of {workflow.name!r}"
        data: dict[str, Any] = {"name": node.name}
        inner: Any = node.workflow
        if inner is None:
            data["function"] = self._function(who, node.name, node.func)
        elif getattr(inner, "_kind", ""):
            data["workflow"] = self.workflow(inner)
        else:
            problem = f"{who} cannot be written: {inner!r} is neither a DAG nor an FSM"
            self.problems.append(InvalidNodeError(problem, node=node.name))
        if node.type != "node":
            data["type"] = node.type.value
        options = self._try(who, node.name, lambda: self._options(node.options))
        data |= options or {}
        if node.name in workflow._node_hooks:
            hooks = workflow._node_hooks[node.name]
            data["hooks"] = self._hooks(f"of {who}", node.name, hooks)
        handler = workflow._handlers.get(node.name)
        if handler is not None:
            whose = f"the error handler of {who}"
            data["error_handler"] = self._function(whose, node.name, handler.func)
        return data

    def _hooks(self, whose: str, node: str | None, hooks: Mapping[str, Hook]) -> dict[str, Any]:
        return {
            phase: self._function(f"the {phase} hook {whose}", node, hook.func)
            for phase, hook in hooks.items()
        }

    def _own(self, factory: Any) -> Any:
        """A resource's factory as it was given: a generator function has been wrapped since."""
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
    return data
