"""What DAG and FSM share: nodes, hooks, and views of the run in progress or finished last."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from fast_dag._typing import T, overload
from fast_dag.call.hooks import HANDLER, Hook, read_hooks
from fast_dag.call.policy import CallPolicy
from fast_dag.call.resources import read_factory
from fast_dag.context import Context
from fast_dag.define.graph import Graph
from fast_dag.define.node import Nestable, Node
from fast_dag.define.validate import cautions
from fast_dag.drive.select import drive, drive_async
from fast_dag.errors import InvalidNodeError, MissingResultError, ValidationError
from fast_dag.plan.plan import Plan, Plans
from fast_dag.run.execution import current
from fast_dag.run.settings import checked_limits
from fast_dag.watch.events import Reported
from fast_dag.watch.log import node_log
from fast_dag.watch.observers import Observers
from fast_dag.watch.progress import Bar, Progress, refuse_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from os import PathLike
    from typing import Any, ClassVar, Literal, Self, TypeVar

    from fast_dag.cache.store import NodeCache
    from fast_dag.call.policy import Around
    from fast_dag.define.node import Mapped
    from fast_dag.define.signature import Signature
    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.draw.view import MachineView, WorkflowView
    from fast_dag.plan.step import Wrapper
    from fast_dag.plan.topology import Topology
    from fast_dag.returns import FSMReturn
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Limits
    from fast_dag.run.run import Run

    ExecutionT = TypeVar("ExecutionT", bound=Execution)


class Workflow(Nestable):
    """A named graph with views of its runs; the base of `DAG` and `FSM`."""

    kind: ClassVar[str] = ""
    """What it is, as files and the command line call it: "dag" or "fsm"."""
    _noun: ClassVar[str] = "node"  # as errors call what it has
    _wrappers: tuple[Wrapper, ...] = ()  # put other functions in the place of those of nodes
    _arounds: tuple[Around, ...] = ()  # put effects around the calls of nodes
    _has_forgotten = False

    def __init__(
        self,
        name: str,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        replace: bool = False,
        remember: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.description = description or ""
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValidationError(f"metadata is a mapping, not {metadata!r}")
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.replace = replace
        self.remember = remember
        self._limits = checked_limits(limits)
        self._graph = self._new_graph(_checked(name))
        self._default_hooks: dict[str, Hook] = {}
        self._node_hooks: dict[str, dict[str, Hook]] = {}
        self._handlers: dict[str, Hook] = {}
        self._resources: Mapping[str, Hook] = {}
        self._progress_callback: Callable[[str, str, float], object] | None = None
        self._last: Execution | None = None
        self._plans: Plans | None = None
        self._signature: tuple[Any, Signature] | None = None

    if not TYPE_CHECKING:  # who would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Say what there is in place of what runs cannot do."""
            why = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in ("ask", "pause"):
                why += (
                    ": runs do not wait for people or timers; a machine waits for events: see "
                    "FSM.start(), send() and snapshot()"
                )
            raise AttributeError(why, name=name, obj=self)

    def _new_graph(self, name: str) -> Graph:
        return Graph(name, self._noun)

    def _add(self, node: Node[..., Any], *, replace: bool = False) -> Node[..., Any]:
        return self._graph.add(node, replace=replace or self.replace)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The workflow's name: for messages, and the default name of the node if it is nested."""
        return self._graph.name

    @property
    def graph(self) -> Graph:
        """The nodes and edges themselves."""
        return self._graph

    @property
    def nodes(self) -> Mapping[str, Node[..., Any]]:
        """The nodes by name, in the order of their definition. Read-only: use `add_node` and others
        to edit."""
        return MappingProxyType(self._graph.nodes)

    def __len__(self) -> int:
        return len(self._graph.nodes)

    def __bool__(self) -> bool:
        return True  # an empty workflow is still one

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._graph.nodes))

    # What surrounds node calls.

    def set_node_hooks(
        self, node: str | Node[..., Any], /, **hooks: Callable[..., Any] | None
    ) -> None:
        """Set hooks around the calls of one node, phase by phase in place of the default ones.

        - `pre_execute(node, inputs, context)`: may return new inputs.
        - `around(node, inputs, context, call)`: calls the rest itself, once, `return call()`, or
          `return await call()` if it is async; what it returns is the result.
        - `post_execute(node, inputs, result, context)`: may return another result.
        - `on_retry(node, inputs, error, context, attempt, delay)`: before each wait of `delay`
          seconds.
        - `on_error(node, inputs, error, context)`: after the last attempt failed.
        - `cleanup(node, context)`: always, before the nodes that depend on this one start.

        Hooks may take fewer trailing parameters, may be async, and run once per node. A hook that
        returns None changes nothing; a hook that raises fails the node. None removes a hook.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("double", lambda x: 2 * x)
        >>> dag.set_node_hooks("double", pre_execute=lambda node, inputs: {"x": inputs["x"] + 1})
        >>> dag.run(x=1)
        4
        """
        name = self._graph.node(node).name
        self._node_hooks[name] = _updated(self._node_hooks.get(name, {}), hooks)
        self._graph.version += 1

    def set_default_hooks(self, **hooks: Callable[..., Any] | None) -> None:
        """Set hooks around the calls of every node, also of nodes added later; see
        `set_node_hooks`.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("double", lambda x: 2 * x)
        >>> dag.set_default_hooks(cleanup=lambda node, context: print(node.name, "has ended"))
        >>> dag.run(x=1)
        double has ended
        2
        """
        self._default_hooks = _updated(self._default_hooks, hooks)
        self._graph.version += 1

    def set_node_error_handler(
        self, node: str | Node[..., Any], handler: Callable[..., Any] | None, /
    ) -> None:
        """Call `handler(node, inputs, error)` when a node has failed after its last attempt.

        The value that it returns becomes the node's result. If it returns None, the error stands.
        If it raises, its exception replaces the error.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("inverse", lambda x: 1 / x)
        >>> dag.set_node_error_handler("inverse", lambda node, inputs, error: float("inf"))
        >>> dag.run(x=0)
        inf
        """
        name = self._graph.node(node).name
        self._handlers.pop(name, None)
        if handler is not None:
            self._handlers[name] = Hook.read(handler, HANDLER, "error handler")
        self._graph.version += 1

    @property
    def default_hooks(self) -> dict[str, Callable[..., Any]]:
        """The hooks of every node, by phase; `set_default_hooks` sets them."""
        return _functions(self._default_hooks)

    @property
    def node_hooks(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """The hooks of single nodes, by node and phase; `set_node_hooks` sets them.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("double", lambda x: 2 * x)
        >>> dag.set_node_hooks("double", cleanup=print)
        >>> dag.node_hooks, dag.default_hooks
        ({'double': {'cleanup': <built-in function print>}}, {})
        """
        return {name: _functions(hooks) for name, hooks in self._node_hooks.items()}

    @property
    def error_handlers(self) -> dict[str, Callable[..., Any]]:
        """The error handlers by node; `set_node_error_handler` sets them."""
        return _functions(self._handlers)

    @property
    def limits(self) -> Limits | None:
        """The limits that it was given, whose names its nodes may use; None if there are none."""
        return self._limits

    @property
    def resources(self) -> dict[str, Callable[..., Any]]:
        """What opens each resource, by name; `resource` adds them."""
        return _functions(self._resources)

    def invalidate_cache(self, name: str | Node[..., Any] | None = None, /, **inputs: Any) -> None:
        """Delete cached results: of all nodes, of one node, or of its calls with these inputs.

        Raises UnknownNodeError, and ValidationError if the node is not cached, or if a backend has
        async methods: for these there is `invalidate_cache_async`.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo")
        >>> @dag.cached_node
        ... def double(x):
        ...     return 2 * x
        >>> dag.run(x=1), dag.run(x=1), dag.context.metrics["cache_hits"]
        (2, 2, 1)
        >>> dag.invalidate_cache("double", x=1)
        >>> dag.run(x=1), dag.context.metrics["cache_hits"]
        (2, 0)
        """
        for cache in self._caches(name, inputs):
            cache.invalidate(inputs)

    async def invalidate_cache_async(
        self, name: str | Node[..., Any] | None = None, /, **inputs: Any
    ) -> None:
        """`invalidate_cache` on an event loop, for backends with async methods, too.

        >>> import asyncio
        >>> from fast_dag import DAG
        >>> dag = DAG("demo")
        >>> @dag.cached_node
        ... def double(x):
        ...     return 2 * x
        >>> dag.run(x=1)
        2
        >>> asyncio.run(dag.invalidate_cache_async("double"))
        >>> dag.run(x=1), dag.context.metrics["cache_hits"]
        (2, 0)
        """
        for cache in self._caches(name, inputs):
            await cache.invalidate_async(inputs)

    def _caches(
        self, name: str | Node[..., Any] | None, inputs: Mapping[str, Any]
    ) -> list[NodeCache]:
        """The caches that an invalidation means."""
        if name is None:
            if inputs:
                raise ValidationError("invalidate_cache takes inputs for one node; name it first")
            return [node.cache for node in self._graph.nodes.values() if node.cache is not None]
        node = self._graph.node(name)
        if node.cache is None:
            raise ValidationError(
                f"node {node.name!r} of {self.name!r} is not cached; see @dag.cached_node"
            )
        return [node.cache]

    @overload
    def resource(self, name: str, factory: Callable[..., T], /) -> Callable[..., T]: ...
    @overload
    def resource(self, name: str, /) -> Callable[[Callable[..., T]], Callable[..., T]]: ...
    def resource(self, name: str, factory: Any = None, /) -> Any:
        """Open something at its first use in a run, and close it when the run ends.

        `factory(context)`, or `factory()`, returns a context manager; both may be async. A
        generator function that yields once is accepted, too, and this method can decorate it. Every
        node with a parameter `name` that neither an edge nor a run input feeds gets the value of
        the context manager. All nodes of a run get the same value. If a failure ended the run, the
        context manager's exit sees it, but cannot suppress it.

        Raises InvalidNodeError if the factory cannot be called.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo")
        >>> @dag.resource("connection")
        ... def connect():
        ...     print("open")
        ...     yield "connection 1"
        ...     print("close")
        >>> @dag.node
        ... def query(connection):
        ...     return f"asked {connection}"
        >>> dag.run()
        open
        close
        'asked connection 1'
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValidationError(f"a resource's name is that of a parameter, not {name!r}")

        def add(factory: Any) -> Any:
            self._resources = {**self._resources, name: read_factory(name, factory)}
            self._graph.version += 1
            return factory

        return add if factory is None else add(factory)

    @abstractmethod
    def validate(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        """All problems, as error objects."""

    def _warn(self, check_types: bool) -> None:
        for caution in self._cautions(check_types):
            warnings.warn(caution, stacklevel=3)

    def _cautions(self, check_types: bool) -> Iterator[str]:
        return cautions(self._topology(), check_types=check_types)

    def _resource_problems(self) -> list[ValidationError]:
        """Problems of the resources."""
        if not self._resources:
            return []
        found = [
            ValidationError(
                f"{name!r} of {self.name!r} is both a node and a resource; rename one", node=name
            )
            for name in self._resources
            if name in self._graph.nodes
        ]
        for node in self._graph.nodes.values():
            taken = [name for name in node.inputs if name in self._resources]
            fed = {edge.input for edge in self._graph.incoming(node.name)}
            if node.run_in == "process" and not fed.issuperset(taken):
                found.append(
                    InvalidNodeError(
                        f"node {node.name!r} has run_in='process' and takes the resource "
                        f"{taken[0]!r}, which is open in this process only",
                        node=node.name,
                    )
                )
        return found

    def _policy_of(self, node: Node[..., Any], resources: Sequence[str]) -> CallPolicy | None:
        """What surrounds the calls of a node; None if nothing does."""
        hooks, handler = self._default_hooks, None
        if self._node_hooks or self._handlers:
            hooks = {**hooks, **self._node_hooks.get(node.name, {})}
            handler = self._handlers.get(node.name)
        if not (hooks or handler or node.retry or node.cache or resources or self._arounds):
            return None
        return CallPolicy(node, hooks, handler, resources, self._arounds)

    # Views of a run.

    def _in_view(self) -> Execution | None:
        """Inside a run, its execution; else that of the run that finished last."""
        execution = current.get()
        while execution is not None:
            if execution.graph is self._graph:
                return execution
            inside = execution.line_of(self._graph) if execution.is_map else None
            if inside is not None:
                return inside
            execution = execution.outer
        return self._last

    @property
    def last_run(self) -> Run | None:
        """Inside a run, that run; else the run that finished last; None before the first run.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("answer", lambda: 42)
        >>> dag.last_run, dag.run(), dag.last_run.status
        (None, 42, 'completed')
        """
        execution = self._in_view()
        return None if execution is None else execution.run

    def forget(self) -> None:
        """Let the run that finished last go, and with it all its values; `last_run` is None then. A
        run in progress goes on.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("answer", lambda: 42)
        >>> dag.run(), dag["answer"]
        (42, 42)
        >>> dag.forget()
        >>> dag.last_run is None, dag.get("answer")
        (True, None)
        """
        self._last = None
        self._has_forgotten = True

    def _remember(self, execution: Execution) -> None:
        """Keep a run that has ended, for the views of it."""
        if self.remember and execution.status != "running":
            self._last = execution

    @property
    def context(self) -> Context:
        """Inside a run, the Context of that run; else that of the run that finished last; an empty
        one before the first run."""
        execution = self._in_view()
        return Context() if execution is None else execution.context

    @property
    def results(self) -> dict[str, Any]:
        """`context.results`: what each node returned, by name."""
        return self.context.results

    @overload
    def __getitem__(self, name: Node[..., FSMReturn]) -> Any: ...
    @overload
    def __getitem__(self, name: Mapped[..., Any]) -> Any: ...
    @overload
    def __getitem__(self, name: Node[..., Coroutine[Any, Any, T]]) -> T: ...
    @overload
    def __getitem__(self, name: Node[..., T]) -> T: ...
    @overload
    def __getitem__(self, name: str) -> Any: ...
    def __getitem__(self, name: str | Node[..., Any]) -> Any:
        """The result of a node, which is given by name or as itself; `"sub.inner"` looks into a
        nested workflow.

        Raises a KeyError that says why there is no result: unknown, not run, skipped, failed,
        deleted.
        """
        if isinstance(name, Node):
            name = self._graph.node(name).name
        execution = self._in_view()
        if execution is not None:
            return execution.run[name]
        self._refuse_path(name)
        why = "it has not run yet"
        if not self.remember:
            why = "it keeps no finished run (remember=False); read the Run that execute() returns"
        elif self._has_forgotten:
            why = "forget() has let its last run go"
        raise MissingResultError(
            f"{self.name!r} has no result of {name!r}: {why}", node=name, reason="not run"
        )

    def _refuse_path(self, name: str) -> None:
        """Raise UnknownNodeError if there is no such node, here or in a nested workflow."""
        self._graph.resolve(name)

    @property
    def progress_callback(self) -> Callable[[str, str, float], object]:
        """Set it to a function `f(node_name, status, fraction_done)`, which is called when a node
        starts and when it ends.

        Nodes may call it themselves; until it is set, calling it does nothing. Inside a run that
        was given `progress=`, it is that function.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("double", lambda x: 2 * x)
        >>> dag.progress_callback = lambda name, status, fraction: print(name, status, fraction)
        >>> dag.run(x=1)
        double running 0.0
        double completed 1.0
        2
        """
        here = self._in_view()
        if here is not None and here.status == "running" and here.observers is not None:
            observers, execution = here.observers, here
            return lambda name, status, fraction: observers.tell(
                Reported(execution, name, fraction, status)
            )
        return self._progress_callback or _no_progress

    @progress_callback.setter
    def progress_callback(self, callback: Callable[[str, str, float], object] | None) -> None:
        if callback is not None and not callable(callback):
            raise ValidationError(f"progress_callback is not callable: {callback!r}")
        if callback is not None:
            refuse_async(callback)
        self._progress_callback = callback

    def _observers(self, execution: Execution) -> Observers | None:
        """The observers of a new execution; None if there are none."""
        asked = execution.settings.progress
        callback = self._progress_callback if asked is None else asked
        log = node_log()
        if callback is None and log is None:
            return None
        observers: list[Any] = []
        if callback is True:
            observers.append(Progress(Bar(self.name)))
        elif callable(callback):
            observers.append(Progress(callback))
        if log is not None:
            observers.append(log)
        return Observers(observers, len(execution.plan.names)) if observers else None

    def get_result(self, name: str | Node[..., Any]) -> Any:
        """The same as `workflow[name]`."""
        return self[name]

    def get(self, name: str | Node[..., Any], default: Any = None) -> Any:
        """The result of a node; `default` if there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def clone(self, name: str | None = None) -> Self:
        """An independent copy with the same functions, options, edges and transitions.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("a", lambda: 1)
        >>> list(dag.clone().add_node("b", lambda: 2)), list(dag)
        (['a', 'b'], ['a'])
        """
        twin = type(self).__new__(type(self))
        for key, value in self.__getstate__().items():
            vars(twin)[key] = value.copy() if type(value) in (dict, list) else value
        twin._graph = twin._new_graph(_checked(name or self.name))
        self._graph.copy_into(twin._graph)
        return twin

    def __copy__(self) -> Self:
        return self.clone()

    # Pictures.

    def _view(self) -> WorkflowView:
        """What pictures know of it."""
        from fast_dag.draw.view import WorkflowView, nested_views

        topology = self._topology()
        return WorkflowView(self.name, topology, nested_views(topology), self._machine_view())

    @abstractmethod
    def _topology(self) -> Topology:
        """Its shape, with no run inputs."""

    def _machine_view(self) -> MachineView | None:
        return None

    def visualize(
        self,
        backend: Literal["mermaid", "graphviz", "svg"] = "mermaid",
        filename: str | PathLike[str] | None = None,
        format: str | None = None,
        show_results: bool = False,
        options: DrawingOptions | None = None,
    ) -> str:
        """Draw the workflow; returns the text, and writes it to `filename` if one is given.

        Parameters
        ----------
        backend:
            "mermaid" and "graphviz" return text in these languages. "svg" draws: with Graphviz if
            it is installed, else with grandalf (extra `draw`), else without either.
        filename, format:
            The file to write, and its format: with "svg", "png" or "pdf" Graphviz draws. Without
            `format` the extension of the file's name decides.
        show_results:
            Draw the run in progress or finished last, with statuses, times, errors and results.
        options:
            `direction` ("TB", "LR", "BT", "RL"), `depth` (how many levels of nested workflows are
            drawn), `details` (whether boxes have more than one line).

        Raises ValidationError for an unknown backend, format or option, and GraphvizError if
        Graphviz is needed and is missing or fails.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo").add_node("load", lambda: 1).add_node("double", lambda x: 2 * x)
        >>> print(dag.connect("load", "double").visualize(options={"direction": "LR"}))
        flowchart LR
            n0["load"]
            n1["double"]
            n0 --> n1
        <BLANKLINE>
        """
        from fast_dag.draw.visualize import visualize

        execution = self._in_view() if show_results else None
        return visualize(execution or self, backend, filename, format, show_results, options)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The picture that a notebook shows."""
        from fast_dag.draw.visualize import mimebundle

        return mimebundle(self)

    # Plans are kept until the next edit.

    @property
    def version(self) -> object:
        """A value that changes with every edit, here and in nested workflows."""
        graph = self._graph
        if not graph.nested:
            return graph.version
        return (graph.version, *(each.version for each in graph.nested.values()))

    def _kept(self, compile: Callable[..., T], *asked: object) -> T:
        """`compile(*asked)`, computed once per version of the workflow."""
        version, plans = self.version, self._plans
        if plans is None or plans.version != version:
            plans = self._plans = Plans(version, len(self._graph.nodes))
        compiled: T | None = plans.get(asked)
        if compiled is None:
            compiled = compile(*asked)
            plans.keep(asked, compiled)
        return compiled

    @property
    def signature(self) -> Signature:
        """Its parameters as a node: those that nothing inside it feeds. Those with defaults are
        optional."""
        version = self.version
        if self._signature is None or self._signature[0] != version:
            self._signature = version, self._read_signature()
        return self._signature[1]

    @abstractmethod
    def _read_signature(self) -> Signature: ...

    @abstractmethod
    def _nested_plan(self, inputs: frozenset[str]) -> Plan:
        """The plan of this workflow as a node that gets these inputs."""

    # Running.

    def _drive(self, execution: ExecutionT) -> ExecutionT:
        try:
            drive(execution)
        finally:
            self._remember(execution)
        return execution

    async def _drive_async(self, execution: ExecutionT) -> ExecutionT:
        try:
            await drive_async(execution)
        finally:
            self._remember(execution)
        return execution

    # As data and as text; docs/files.md has the format.

    def to_dict(self, registry: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The workflow as plain data: nodes, edges, options, hooks, handlers; nothing of its runs.

        A function is written as "module:name", from where it can be imported, or as its name in
        `registry`. Raises ValidationError that names every node whose function has neither.

        >>> from fast_dag import DAG
        >>> from statistics import mean
        >>> DAG("demo").add_node("mean", mean, retry=2).to_dict()["nodes"]
        [{'name': 'mean', 'function': 'statistics:mean', 'retry': 2}]
        """
        from fast_dag.serial.write import written

        return written(self, registry)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        allow: Iterable[str] | None = None,
        registry: Mapping[str, Any] | None = None,
    ) -> Self:
        """The workflow that `to_dict` wrote.

        Functions are looked up in `registry`, and imported from the modules that `allow` names and
        from their submodules; nothing else is imported. Raises ValidationError with all problems,
        each with its place, such as `nodes[3].retry`.

        >>> from fast_dag import DAG
        >>> data = DAG("demo").add_node("f", abs).to_dict(registry={"absolute": abs})
        >>> DAG.from_dict(data, registry={"absolute": abs}).run(x=-2)
        2
        """
        from fast_dag.serial.read import read

        import_module("fast_dag.define.fsm")  # loaded late, and a file may contain machines
        kinds = {each.kind: each for each in Workflow.__subclasses__() if each.kind}
        return read(data, cls, kinds, allow=allow, registry=registry)

    def to_json(self, registry: Mapping[str, Any] | None = None, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        from fast_dag.serial.texts import to_json

        return to_json(self.to_dict(registry), indent)

    @classmethod
    def from_json(
        cls,
        text: str | bytes,
        *,
        allow: Iterable[str] | None = None,
        registry: Mapping[str, Any] | None = None,
    ) -> Self:
        """`from_dict` of JSON text.

        >>> from fast_dag import DAG
        >>> from statistics import mean
        >>> text = DAG("demo").add_node("mean", mean).to_json()
        >>> DAG.from_json(text, allow=["statistics"]).run(data=[1, 3])
        2
        """
        from fast_dag.serial.texts import from_json

        return cls.from_dict(from_json(text), allow=allow, registry=registry)

    def to_yaml(self, registry: Mapping[str, Any] | None = None) -> str:
        """`to_dict` as YAML text (extra `yaml`)."""
        from fast_dag.serial.texts import to_yaml

        return to_yaml(self.to_dict(registry))

    @classmethod
    def from_yaml(
        cls,
        text: str | bytes,
        *,
        allow: Iterable[str] | None = None,
        registry: Mapping[str, Any] | None = None,
    ) -> Self:
        """`from_dict` of YAML text (extra `yaml`)."""
        from fast_dag.serial.texts import from_yaml

        return cls.from_dict(from_yaml(text), allow=allow, registry=registry)

    # Pickles contain nothing of runs.

    def __getstate__(self) -> dict[str, Any]:
        without: dict[str, Any] = {
            "_last": None,
            "_has_forgotten": False,
            "_progress_callback": None,
            "_plans": None,
            "_signature": None,
        }
        return {**self.__dict__, **without}


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValidationError(f"a workflow's name is a non-empty string, not {name!r}")
    return name


def value_of(execution: Execution) -> Any:
    """The value that `run()` returns; raises if the run failed, timed out, or has no value yet."""
    if execution.status in _WITHOUT_VALUE:
        error = execution.exception()
        assert error is not None
        raise error
    return execution.value


_WITHOUT_VALUE = frozenset({"failed", "timed_out", "cancelled", "in_doubt"})


def _no_progress(name: str, status: str, fraction: float) -> None: ...


def _functions(hooks: Mapping[str, Hook]) -> dict[str, Callable[..., Any]]:
    return {key: hook.func for key, hook in hooks.items()}


def _updated(hooks: dict[str, Hook], changes: Mapping[str, Any]) -> dict[str, Hook]:
    kept = {phase: hook for phase, hook in hooks.items() if changes.get(phase, hook) is not None}
    return {**kept, **read_hooks(changes)}
