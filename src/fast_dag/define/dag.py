"""The public builder of directed acyclic graphs, and the ways to run them."""

from __future__ import annotations

from collections.abc import Mapping

from fast_dag._fields import Fields
from fast_dag.context import Context
from fast_dag.define.decorators import Decorator
from fast_dag.define.node import Branch, Nestable, Node, NodeType, as_node
from fast_dag.define.request import Request, option_names, takes_what
from fast_dag.define.signature import ABSENT, Kind, Parameter, Signature
from fast_dag.define.validate import problems
from fast_dag.define.workflow import Workflow, value_of
from fast_dag.errors import MissingConnectionError, ValidationError, names
from fast_dag.plan.plan import Plan
from fast_dag.plan.topology import Topology
from fast_dag.run.dag_execution import DagExecution
from fast_dag.run.resumption import changed_inputs
from fast_dag.run.run import Run
from fast_dag.run.settings import ExecutionMode, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Executor
    from typing import Any, Literal, Self, Unpack

    from fast_dag.define.decorators import (
        AllDecorator,
        AnyDecorator,
        CachedNodeDecorator,
        NodeDecorator,
    )
    from fast_dag.define.options import NodeOptions
    from fast_dag.run.execution import Execution


class Part(Fields):
    """The part of a graph that is run: from `start`, until `end`, for `outputs`."""

    __slots__ = ("end", "outputs", "start")

    def __init__(
        self,
        start: str | None = None,
        end: str | None = None,
        outputs: tuple[str, ...] | None = None,
    ) -> None:
        self.start = start
        self.end = end
        self.outputs = outputs

    def __hash__(self) -> int:
        return hash((self.start, self.end, self.outputs))

    def of(self, topology: Topology) -> Topology:
        """The narrowed topology. Raises MissingConnectionError where nothing is left."""
        index = topology.index
        keep = set(range(len(topology.nodes)))
        if self.start is not None:
            keep &= topology.below([index[self.start]])
        if self.end is not None:
            keep &= topology.above([index[self.end]])
        if self.outputs is not None:
            outside = [name for name in self.outputs if index[name] not in keep]
            if outside:
                raise ValidationError(
                    f"outputs {names(outside)} are outside of the part that is run"
                )
            keep &= topology.above([index[name] for name in self.outputs])
        if not keep:
            raise MissingConnectionError(
                f"{topology.name!r} has no path from {self.start!r} to {self.end!r}",
                source=self.start,
                target=self.end,
            )
        return topology.narrowed(keep)


WHOLE = Part()


class DAG(Workflow):
    """Functions connected into a directed acyclic graph.

    Parameters
    ----------
    name:
        For messages, and the default name where it is nested in another workflow.
    description, metadata:
        Yours; shown, never interpreted.
    autowire:
        A parameter that bears the name of another node, and that neither an edge nor a run input
        feeds, takes that node's result.

    >>> dag = DAG("greeting", autowire=True)
    >>> @dag.node
    ... def person() -> str:
    ...     return "Ada"
    >>> @dag.node
    ... def greeting(person: str, mark: str = "!") -> str:
    ...     return f"Hello {person}{mark}"
    >>> dag.run()
    'Hello Ada!'
    >>> dag.run(mark="?"), dag["person"]
    ('Hello Ada?', 'Ada')
    """

    kind = "dag"

    def __init__(
        self,
        name: str,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        autowire: bool = False,
    ) -> None:
        super().__init__(name, description, metadata)
        self._autowire = autowire

    # Building.

    @property
    def autowire(self) -> bool:
        """Whether parameters named like other nodes take their results."""
        return self._autowire

    @autowire.setter
    def autowire(self, wired: bool) -> None:
        self._autowire = wired
        self._graph.version += 1

    @property
    def node(self) -> NodeDecorator:
        """Decorator: a function becomes a node. Options: see `NodeOptions`, and `name`, `replace`.

        >>> dag = DAG("demo")
        >>> @dag.node(retry=2, description="adds")
        ... def add(a, b=1):
        ...     return a + b
        >>> add(1), add.name
        (2, 'add')
        """
        return Decorator(self._graph.add)

    @property
    def cached_node(self) -> CachedNodeDecorator:
        """Decorator: a node whose results are kept and looked up by its inputs.

        Options besides those of `node`: `ttl`, how many seconds a result is good for; `cache_key`,
        the parameters that count, all when not given, or a function that is called with the inputs
        and returns what counts; `max_entries` kept in memory, the least
        recently used make room; `backend`, any object with get / set / delete / clear, shared with
        others, and `version`, part of its keys. What several runs need at once is computed once.

        >>> dag = DAG("demo")
        >>> @dag.cached_node(ttl=60, cache_key=["user"])
        ... def profile(user, verbose=False):
        ...     return user.upper()
        >>> dag.run(user="ada"), dag.run(user="ada", verbose=True)
        ('ADA', 'ADA')
        >>> dag.context.metrics["cache_hits"]
        1
        """
        return Decorator(self._graph.add, cached=True)

    @property
    def condition(self) -> NodeDecorator:
        """Decorator: the function returns a bool or ConditionalReturn, and `.on_true` or
        `.on_false` is taken."""
        return Decorator(self._graph.add, NodeType.CONDITION)

    @property
    def select(self) -> NodeDecorator:
        """Decorator: the function returns a branch's name or SelectReturn, and `.branches[name]` is
        taken, or `.branches["default"]`."""
        return Decorator(self._graph.add, NodeType.SELECT)

    @property
    def any(self) -> AnyDecorator:
        """Decorator: the node runs once one of its edges is live; it joins branches. With
        `wait=True` it waits until all its edges have ended."""
        return Decorator(self._graph.add, NodeType.ANY)

    @property
    def all(self) -> AllDecorator:
        """Decorator: the node runs once all of its edges are live. Several edges into one parameter
        arrive as a dict by source; with `collect="parameter"` one edge does, too."""
        return Decorator(self._graph.add, NodeType.ALL)

    def add_node(
        self,
        name: str | Node[..., Any] | Nestable,
        func: Callable[..., Any] | Nestable | None = None,
        *,
        type: NodeType | str | None = None,
        replace: bool = False,
        **options: Unpack[NodeOptions],
    ) -> Self:
        """Add a function, a Node or a whole workflow under a name; returns the DAG, for chains.

        A Node or workflow may stand alone: `add_node(Node(f))` takes its own name. A Node that
        belongs to a DAG already lends its function and options to a new one.

        >>> DAG("demo").add_node("double", lambda x: 2 * x).add_node("half", lambda x: x / 2)
        <DAG 'demo': 2 nodes, 0 edges>
        """
        made = as_node(name, func, type, options)
        self._graph.add(made, replace=replace)
        return self

    def replace_node(
        self,
        name: str,
        func: Callable[..., Any] | Nestable,
        *,
        type: NodeType | str | None = None,
        **options: Unpack[NodeOptions],
    ) -> Self:
        """Put another function in the place of node `name`, as `add_node(name, func, replace=True)`
        does.

        Edges, hooks and the error handler stay; type and options do not, so give them again.
        Each edge goes on feeding the parameter that it feeds. Where the new function has none of
        that name, an edge made without `input=` may feed the parameter named like its output or
        source, else a new one that is the only one; into a function without parameters it only
        orders. Raises ValidationError, and changes nothing, where an edge finds no place.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("add", lambda x, y=1: x + y)
        >>> dag.connect("load", "add").replace_node("add", lambda y, x: x - y).run(y=5)
        15
        """
        self._graph.node(name)
        self._graph.add(as_node(name, func, type, options), replace=True)
        return self

    def remove_node(self, node: str | Node[..., Any]) -> Self:
        """Remove a node and its edges."""
        self._graph.remove(node)
        return self

    def connect(
        self,
        source: str | Node[..., Any] | Branch,
        target: str | Node[..., Any],
        output: str | None = None,
        input: str | Literal[False] | None = None,
    ) -> Self:
        """Connect two nodes.

        Parameters
        ----------
        source, target:
            Nodes or their names; the source may be a branch, `check.on_true`.
        output:
            The part of the value that flows: a key of a mapping, an attribute, or an element of a
            tuple that the source names with `outputs=`. None: all of it.
        input:
            The parameter that is fed. None: the one named like `output`, else like the source, else
            the first that no edge feeds. False: none; the edge only orders.

        Raises ValidationError where a name is unknown or no parameter is left.

        >>> dag = DAG("demo").add_node("load", lambda: {"n": 3}).add_node("double", lambda n: 2 * n)
        >>> dag.connect("load", "double", output="n").run()
        6
        """
        self._graph.connect(source, target, output, input)
        return self

    def disconnect(
        self,
        source: str | Node[..., Any] | Branch,
        target: str | Node[..., Any],
        output: str | None = None,
        input: str | Literal[False] | None = None,
    ) -> Self:
        """Remove the edges between two nodes, or those of a branch, output or parameter only."""
        self._graph.disconnect(source, target, output, input)
        return self

    def clone(self, name: str | None = None) -> DAG:
        """A DAG of its own with the same functions, options and edges."""
        twin = DAG(name or self.name, self.description, self.metadata, self.autowire)
        self._copy_into(twin)
        return twin

    def __repr__(self) -> str:
        edges = sum(1 for _ in self._graph.edges())
        return f"<DAG {self.name!r}: {len(self)} nodes, {edges} edges>"

    # Checking.

    def validate(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        """Everything that is wrong with the graph, as error objects; an empty list where nothing
        is.

        `allow_disconnected` accepts nodes without any edge, as runs do. `check_types` compares the
        annotations at both ends of each edge, where these are plain classes or unions of them.

        >>> dag = DAG("demo").add_node("a", lambda x: x).add_node("b", lambda x: x)
        >>> [str(problem) for problem in dag.connect("a", "b").connect("b", "a").validate()]
        ["'demo' has a cycle: a -> b -> a; remove one of these edges with disconnect()"]
        """
        found = problems(
            self._topology(), allow_disconnected=allow_disconnected, check_types=check_types
        )
        return found + self._resource_problems()

    def validate_or_raise(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> None:
        """Raise what `validate` finds: the one problem, or a ValidationError with all of them."""
        found = self.validate(allow_disconnected, check_types)
        if found:
            raise ValidationError.of(found, repr(self.name))

    @property
    def is_valid(self) -> bool:
        """Whether `validate()` finds nothing."""
        return not self.validate()

    @property
    def entry_points(self) -> list[str]:
        """The names of the nodes without an edge into them."""
        topology = self._topology()
        return [
            name for name, edges in zip(topology.names, topology.incoming, strict=True) if not edges
        ]

    @property
    def execution_order(self) -> list[str]:
        """The names of the nodes as a sequential run takes them; raises CycleError."""
        topology = self._topology()
        for problem in problems(topology, allow_disconnected=True):
            if topology.cycles:
                raise problem
        return [topology.names[index] for index in topology.order]

    def _topology(self, given: Collection[str] = ()) -> Topology:
        return Topology.of(self._graph, given, autowire=self.autowire)

    # Running.

    def _request(
        self,
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: int | None = None,
        executor: Executor | None = None,
        timeout: float | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        outputs: Sequence[str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: Literal["all", "outputs"] = "all",
        resume: Run | None = None,
        **more_inputs: Any,
    ) -> Request:
        """The options that every way of running takes; see `execute`."""
        settings = Settings.of(
            mode,
            max_workers,
            executor,
            timeout,
            error_strategy,
            error_handler,
            progress,
            track_memory,
            keep,
        )
        return Request(
            self.name, inputs, more_inputs, context, settings, outputs=outputs, resume=resume
        )

    @takes_what(_request)
    def execute(self, /, *args: Any, **options: Any) -> Run:
        """Run the workflow; return the whole `Run`, also where nodes failed.

        Parameters
        ----------
        inputs, more_inputs:
            Values by the name of the parameters they fill, on any node.
        context:
            The Context to work in; a new one when not given.
        mode:
            "sequential": the caller's thread, one node at a time. "parallel": threads. "process":
            worker processes (extra `process`). "async": an event loop, sync nodes in threads.
            Everywhere but in the first a node starts the moment its inputs are there.
        max_workers:
            How many nodes run at once, at most. Where not given: for sync nodes the CPU count, in
            async mode min(32, CPUs + 4); async nodes are unbounded.
        executor:
            Any `concurrent.futures.Executor`, left open: every sync node is one call submitted to
            it.
        timeout:
            Seconds for the whole run.
        error_strategy:
            "fail_fast" starts nothing more after a failure; "continue" runs all that does not
            depend on one.
        error_handler:
            `f(node_name, error, context)`, once per failed node; returns "stop" or "continue".
        outputs:
            Run only what these nodes need; the value is a dict of those that completed.
        progress:
            `f(node_name, status, fraction_done)`, called at each node's start and end, never twice
            at once; True shows a bar (extra `progress`). In place of `progress_callback`.
        track_memory:
            Measure the peak of traced memory, `context.metrics["memory_usage"]["peak_mb"]`; slow.
        keep:
            "outputs" drops each result once all nodes that take it have completed, except those of
            sinks and of `outputs`.
        resume:
            An earlier Run, maybe out of a pickle. What completed in it is taken, with the inputs
            that are not given anew; the rest runs, and all that depends on that.

        Raises ValidationError for what is wrong before any node runs.

        >>> dag = DAG("demo").add_node("inverse", lambda x: 1 / x)
        >>> run = dag.execute(x=0)
        >>> run.status, run.errors
        ('failed', {'inverse': ZeroDivisionError('division by zero')})
        """
        return self._drive(self._made(self._request(*args, **options))).run

    @takes_what(_request)
    def run(self, /, *args: Any, **options: Any) -> Any:
        """Run the workflow; return the value of the last sink that completed, None where none did.

        Takes what `execute` does. Raises ExecutionError where a node's failure ended the run, with
        the user's exception as its cause, and ValidationError for what is wrong before any node
        runs.

        >>> DAG("demo").add_node("double", lambda x: 2 * x).run(x=2)
        4
        """
        return value_of(self._drive(self._made(self._request(*args, **options))))

    @takes_what(_request, mode="async")
    async def execute_async(self, /, *args: Any, **options: Any) -> Run:
        """`execute` for code that runs in an event loop, which it does not block: sync nodes run in
        worker threads."""
        request = self._request(*args, **{"mode": "async", **options})
        return (await self._drive_async(self._made(request))).run

    @takes_what(_request, mode="async")
    async def run_async(self, /, *args: Any, **options: Any) -> Any:
        """`run` for code that runs in an event loop.

        >>> import asyncio
        >>> dag = DAG("demo")
        >>> @dag.node
        ... async def double(x):
        ...     return 2 * x
        >>> asyncio.run(dag.run_async(x=2))
        4
        """
        request = self._request(*args, **{"mode": "async", **options})
        return value_of(await self._drive_async(self._made(request)))

    # Running a part.

    def run_from(
        self,
        node: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """Run a node and everything below it; return the last sink's value.

        The results of other nodes that it needs come from `run`, an earlier Run, or from `context`,
        else from the run that finished last, and so do the inputs that are not given anew.
        `options` are those of `run`. Raises MissingInputError where such a result is missing.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("add", lambda x, y: x + y)
        >>> dag.connect("load", "add").run(y=1), dag.run_from("add", y=2)
        (21, 22)
        """
        return value_of(self._drive(self._from(node, inputs, run, options)))

    async def run_from_async(
        self,
        node: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """`run_from` for code that runs in an event loop."""
        made = self._from(node, inputs, run, {"mode": "async", **options})
        return value_of(await self._drive_async(made))

    def run_until(
        self,
        node: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run a node and everything it depends on; return its value. `options` are those of `run`.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("fail", lambda x: x / 0)
        >>> dag.connect("load", "fail").run_until("load")
        20
        """
        return value_of(self._drive(self._until(node, inputs, options)))

    async def run_until_async(
        self,
        node: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """`run_until` for code that runs in an event loop."""
        made = self._until(node, inputs, {"mode": "async", **options})
        return value_of(await self._drive_async(made))

    def run_between(
        self,
        start: str | Node[..., Any],
        end: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """Run the nodes on the paths from one node to another; return the value of the latter.

        Values from outside come as in `run_from`. Raises MissingConnectionError where there is no
        path.
        """
        return value_of(self._drive(self._between(start, end, inputs, run, options)))

    async def run_between_async(
        self,
        start: str | Node[..., Any],
        end: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """`run_between` for code that runs in an event loop."""
        made = self._between(start, end, inputs, run, {"mode": "async", **options})
        return value_of(await self._drive_async(made))

    def _from(self, node: Any, inputs: Any, run: Run | None, options: Any) -> DagExecution:
        part = Part(start=self._graph.node(node).name)
        return self._made(self._request(inputs, **options), part, run)

    def _until(self, node: Any, inputs: Any, options: Any) -> DagExecution:
        part = Part(end=self._graph.node(node).name)
        return self._made(self._request(inputs, **options), part)

    def _between(
        self, start: Any, end: Any, inputs: Any, run: Run | None, options: Any
    ) -> DagExecution:
        part = Part(self._graph.node(start).name, self._graph.node(end).name)
        return self._made(self._request(inputs, **options), part, run)

    # From a request to a run.

    def _made(
        self, request: Request, part: Part = WHOLE, stored: Run | None = None
    ) -> DagExecution:
        inputs, context = request.inputs, request.context
        if part.start is not None and context is None:
            stored = stored or (None if self._last is None else self._last.run)
        earlier: DagExecution | None = None
        changed: set[str] = set()
        if request.resume is not None:
            stored = self._resumable(request.resume, part, stored)
            changed = changed_inputs(
                inputs, {key: stored.inputs.get(key, ABSENT) for key in inputs}
            )
        elif stored is not None:
            earlier = self._earlier(stored)
        if stored is not None:
            kept = {key: stored.inputs[key] for key in stored.inputs if self._could_take(key)}
            inputs = {**kept, **inputs}
        outputs = request.outputs
        if outputs is not None:
            if isinstance(outputs, str) or not outputs:
                raise ValidationError(f"outputs is a list of node names, not {outputs!r}")
            outputs = [self._graph.node(name).name for name in outputs]
            part = Part(part.start, part.end, tuple(outputs))
        plan = self._plan(frozenset(inputs), part)
        if context is None:
            context = _context_after(stored)
        execution = DagExecution(
            self._graph, plan, inputs, context, request.settings, outputs=outputs, earlier=earlier
        )
        if request.resume is not None:
            execution.resume(request.resume._execution, changed)
        execution.observers = self._observers(execution)
        return execution

    def _resumable(self, run: Any, part: Part, stored: Run | None) -> Run:
        """The run to go on from. Raises ValidationError where that is not possible."""
        if not isinstance(run, Run):
            raise ValidationError(
                f"resume= is an earlier Run, as execute() returns it, not a {type(run).__name__}; "
                "to give an input of that name: inputs={'resume': ...}"
            )
        problem = ""
        if stored is not None or part is not WHOLE:
            problem = "cannot be with run_from, run_until, run_between or run=: it finds by itself "
            problem += "what has to run"
        elif run._execution.noun != self._noun:
            problem = f"cannot be the run of a machine, {run.name!r}; see its snapshot()"
        elif run.name != self.name:
            problem = f"is a run of {run.name!r}, not of {self.name!r}"
        elif run.status == "running" and isinstance(run._execution, DagExecution):
            problem = "is a Run in progress; wait for its end"
        if problem:
            raise ValidationError(f"resume= {problem}")
        return run

    def _earlier(self, run: Run) -> DagExecution:
        """The execution of an earlier Run of this DAG."""
        earlier = run._execution if isinstance(run, Run) else None
        if not isinstance(earlier, DagExecution) or earlier.graph is not self._graph:
            name = getattr(run, "name", run)
            raise ValidationError(f"run= is a run of {name!r}, not of {self.name!r}")
        return earlier

    def _could_take(self, name: str) -> bool:
        """Whether some node has a parameter for a run input, as the graph is now."""
        for node in self._graph.nodes.values():
            fed = {edge.input for edge in self._graph.incoming(node.name)}
            signature = node.signature
            if signature.var_keyword or (name in signature.inputs and name not in fed):
                return True
        return False

    def _nested_plan(self, inputs: frozenset[str]) -> Plan:
        return self._plan(inputs, WHOLE)

    def _nested_execution(
        self, parent: Execution, prefix: str, plan: Plan | None, inputs: dict[str, Any]
    ) -> DagExecution:
        """The execution of this workflow as a node of another, which has compiled it for some
        inputs."""
        if plan is None or plan.input_names != inputs.keys():
            plan = self._plan(frozenset(inputs), WHOLE)
        context = Context(metadata=parent.context.metadata)
        return DagExecution(
            self._graph, plan, inputs, context, parent.settings, parent=parent, prefix=prefix
        )

    def _plan(self, inputs: frozenset[str], part: Part) -> Plan:
        return self._kept(self._compile, inputs, part)

    def _checked(self, given: frozenset[str]) -> Topology:
        """The whole shape; raises where something is wrong with it. `given` are the run inputs that
        keep parameters of their name from being autowired."""
        topology = self._topology(given)
        found = problems(topology, allow_disconnected=True) + self._resource_problems()
        if found:
            raise ValidationError.of(found, repr(self.name))
        return topology

    def _compile(self, inputs: frozenset[str], part: Part) -> Plan:
        given = inputs.intersection(self._graph.nodes) if self.autowire else frozenset()
        topology = self._kept(self._checked, given)
        plan = Plan(topology, inputs, self._policy_of, self._resources, self._wrappers)
        plan.refuse_unknown(option_names(DAG._request))
        narrowed = part.of(topology)
        if narrowed is not topology:
            plan = Plan(narrowed, inputs, self._policy_of, self._resources, self._wrappers)
        for step in plan.steps:
            workflow = step.node.workflow
            if isinstance(workflow, Workflow):
                # Now, so that an edit while the plan is executed changes nothing in it.
                step.nested = workflow._nested_plan(step.binding.keywords)
        return plan

    def _read_signature(self) -> Signature:
        topology = self._topology()
        plan = Plan(topology, resources=self._resources)
        optional: dict[str, bool] = {}
        for name, parameter in plan.unfed():
            optional[name] = optional.get(name, True) and parameter.optional
        signatures = [node.signature for node in topology.nodes]
        return Signature(
            [
                Parameter(name, Kind.KEYWORD_ONLY, optional=may_lack)
                for name, may_lack in optional.items()
            ],
            origin=self,
            var_keyword="inputs" if any(each.var_keyword for each in signatures) else None,
            is_async=any(each.is_async for each in signatures),
        )


def _context_after(stored: Run | None) -> Context:
    """A new Context that goes on with the user's metadata of an earlier run."""
    if stored is None:
        return Context()
    engine = ("run_id", "execution_status", "errors")
    return Context(
        metadata={key: value for key, value in stored.context.metadata.items() if key not in engine}
    )
