"""DAG: builds and runs directed acyclic graphs."""

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
from fast_dag.errors import InvalidNodeError, MissingConnectionError, ValidationError, names
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
    from typing import Any, Literal, Self, SupportsIndex, Unpack

    from fast_dag.define.decorators import (
        AllDecorator,
        AnyDecorator,
        CachedNodeDecorator,
        ConditionDecorator,
        MapDecorator,
        NodeDecorator,
        SelectDecorator,
    )
    from fast_dag.define.options import NodeOptions, Seconds
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Limits
    from fast_dag.run.resumption import Earlier
    from fast_dag.store.asked import Asked, Explanation
    from fast_dag.store.store import Store


class Part(Fields):
    """The part of a graph that is run: from `start`, until `end`, for `outputs`."""

    __slots__ = ("end", "outputs", "start")

    def __init__(
        self,
        start: tuple[str, ...] | None = None,
        end: tuple[str, ...] | None = None,
        outputs: tuple[str, ...] | None = None,
    ) -> None:
        self.start = start
        self.end = end
        self.outputs = outputs

    def __hash__(self) -> int:
        return hash((self.start, self.end, self.outputs))

    def of(self, topology: Topology) -> Topology:
        """The narrowed topology. Raises MissingConnectionError if no node is left."""
        index = topology.index
        keep = set(range(len(topology.nodes)))
        if self.start is not None:
            keep &= topology.below([index[name] for name in self.start])
        if self.end is not None:
            keep &= topology.above([index[name] for name in self.end])
        if self.outputs is not None:
            outside = [name for name in self.outputs if index[name] not in keep]
            if outside:
                raise ValidationError(
                    f"outputs {names(outside)} are outside of the part that is run"
                )
            keep &= topology.above([index[name] for name in self.outputs])
        if not keep:
            start, end = names(self.start or ()), names(self.end or ())
            raise MissingConnectionError(
                f"{topology.name!r} has no path from {start} to {end}",
                source=None if self.start is None else self.start[0],
                target=None if self.end is None else self.end[0],
            )
        return topology.narrowed(keep)


WHOLE = Part()

_NO_STORE = (None,) * 6


class DAG(Workflow):
    """Functions connected into a directed acyclic graph.

    Parameters
    ----------
    name:
        For messages, and the default name of the node if it is nested in another workflow.
    description, metadata:
        Yours; shown, never interpreted.
    autowire:
        A parameter that has the name of another node, and that neither an edge nor a run input
        feeds, gets that node's result.
    replace:
        A node takes the place of the node of its name, as with `replace=True` on every node: cells
        of a notebook may be run again.
    remember:
        Whether the run that finished last is kept, for `dag["node"]` and its siblings, until the
        next one or `forget()`. False is for services: read the Run that `execute` returns.
    limits:
        A `Limits`: how many units there are of what its nodes use.

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
        replace: bool = False,
        remember: bool = True,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(name, description, metadata, replace, remember, limits)
        self._autowire = autowire

    # Building.

    @property
    def autowire(self) -> bool:
        """Whether parameters named like other nodes get their results."""
        return self._autowire

    @autowire.setter
    def autowire(self, wired: bool) -> None:
        self._autowire = wired
        self._graph.version += 1

    @property
    def node(self) -> NodeDecorator:
        """Decorator: a function becomes a node. Options: those of `NodeOptions`, `name` and
        `replace`.

        >>> dag = DAG("demo")
        >>> @dag.node(retry=2, description="adds")
        ... def add(a, b=1):
        ...     return a + b
        >>> add(1), add.name
        (2, 'add')
        """
        return Decorator(self._add)

    @property
    def map(self) -> MapDecorator:
        """Decorator: the function is called for each item of a collection that is known only when
        the map runs. Options: those of `node`, which hold for each item, and:

        - `over`: the parameter that gets the items; the only one without a default if not given. Of
          several, given as a list, the items go side by side.
        - `product`: parameters that get all combinations of items, the last one fastest.
        - `keys`: a function of the items that makes their keys; the map then returns a dict.
        - `into`: a function that is given an iterator of the results as they come, and makes the
          value; with `ordered=False` in the order in which they are ready.
        - `on_error`: "fail", "keep" (an `ItemError` stands in the place of a failed item) or
          "drop"; `min_success` is the least share of items that must complete then.
        - `max_concurrency`: how many items may be in progress at once.

        It returns a list in the order of the items; of a mapping, a dict with its keys. A whole DAG
        or FSM can be mapped, too: `dag.map(workflow, over="text")`.

        >>> dag = DAG("demo")
        >>> @dag.map
        ... def square(x: int) -> int:
        ...     return x * x
        >>> dag.run(x=range(4))
        [0, 1, 4, 9]
        """
        return Decorator(self._add, complete=self._find_walked)

    def _find_walked(self, func: Any, name: str | None, options: dict[str, Any]) -> None:
        """Say `over=` where there is one parameter only that it could mean."""
        if options.get("over") is not None or options.get("product") is not None:
            return
        shown = name or getattr(func, "__name__", None)
        given = Node(func, "map", inputs=options.get("inputs")).signature
        could = [
            each.name
            for each in given.parameters
            if not each.optional and not each.by_engine and each.name not in self._resources
        ]
        if len(could) != 1:
            which = (
                f"of {names(could)}, the parameter that gets the items; or declare the resources "
                "among them first"
                if could
                else "with the parameter that gets the items: it has none without a default"
            )
            raise InvalidNodeError(f"map {shown!r}: say over= {which}", node=shown)
        options["over"] = could[0]

    @property
    def cached_node(self) -> CachedNodeDecorator:
        """Decorator: a node whose results are kept and looked up by its inputs.

        Options besides those of `node`, all in `CachedNodeOptions`: `ttl`, how many seconds a
        result is kept; `cache_key`, the parameters that make the key, or a function of the inputs
        that returns it; `max_entries` in memory; `backend`, a `fast_dag.cache.DiskCache`, or any
        object with sync or async methods get / set / delete / clear, and `version`, part of its
        keys. Runs that need a result at the same time compute it once. Of a map, `over=...`, the
        result of each item is kept.

        >>> dag = DAG("demo")
        >>> @dag.cached_node(ttl=60, cache_key=["user"])
        ... def profile(user, verbose=False):
        ...     return user.upper()
        >>> dag.run(user="ada"), dag.run(user="ada", verbose=True)
        ('ADA', 'ADA')
        >>> dag.context.metrics["cache_hits"]
        1
        """
        return Decorator(self._add, cached=True)

    @property
    def condition(self) -> ConditionDecorator:
        """Decorator: the function returns a bool or ConditionalReturn, which selects the branch
        `.on_true` or `.on_false`.

        >>> dag = DAG("shop")
        >>> @dag.condition
        ... def is_large(amount):
        ...     return amount > 100
        >>> is_large.on_true >> dag.node(lambda amount: amount - 10, name="reduce")
        <node 'reduce' of 'shop'(amount)>
        >>> is_large.on_false >> dag.node(lambda amount: amount, name="keep")
        <node 'keep' of 'shop'(amount)>
        >>> dag.run(amount=150), dag.run(amount=20)
        (140, 20)
        """
        return Decorator(self._add, NodeType.CONDITION)

    @property
    def select(self) -> SelectDecorator:
        """Decorator: the function returns a branch's name or SelectReturn, which selects
        `.branches[name]`, or `.branches["default"]` if no edge leaves that branch. With
        `several=True` it may return a list of names, which are all taken.

        >>> dag = DAG("mail")
        >>> @dag.select
        ... def kind(address):
        ...     return "mail" if "@" in address else "letter"
        >>> kind.branches["mail"] >> dag.node(lambda address: f"to {address}", name="send")
        <node 'send' of 'mail'(address)>
        >>> kind.branches["default"] >> dag.node(lambda address: "printed", name="print")
        <node 'print' of 'mail'(address)>
        >>> dag.run(address="ada@example.org"), dag.run(address="12 Park Row")
        ('to ada@example.org', 'printed')
        """
        return Decorator(self._add, NodeType.SELECT)

    @property
    def any(self) -> AnyDecorator:
        """Decorator: the node runs as soon as one of its edges is live, so it can join branches.
        With `wait=True` it waits until all its edges have ended.

        >>> dag = DAG("d").add_node("fails", lambda: 1 / 0).add_node("works", lambda: 5)
        >>> @dag.any
        ... def first(value):
        ...     return value
        >>> dag.connect("fails", first).connect("works", first).run(error_strategy="continue")
        5
        """
        return Decorator(self._add, NodeType.ANY)

    @property
    def all(self) -> AllDecorator:
        """Decorator: the node runs once all of its edges are live. A parameter with several edges
        gets a dict by source; with `collect="parameter"`, a parameter with one edge does, too.

        >>> dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
        >>> @dag.all
        ... def both(values):
        ...     return values
        >>> dag.connect("a", both).connect("b", both).run()
        {'a': 1, 'b': 2}
        """
        return Decorator(self._add, NodeType.ALL)

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

        A Node or workflow may be given alone: `add_node(Node(f))` uses its own name. If the Node
        belongs to another DAG, a new Node gets its function and options.

        >>> DAG("demo").add_node("double", lambda x: 2 * x).add_node("half", lambda x: x / 2)
        <DAG 'demo': 2 nodes, 0 edges>
        """
        made = as_node(name, func, type, options)
        self._add(made, replace=replace)
        return self

    def replace_node(
        self,
        node: str | Node[..., Any],
        /,
        func: Callable[..., Any] | Nestable,
        *,
        type: NodeType | str | None = None,
        **options: Unpack[NodeOptions],
    ) -> Self:
        """Replace the function of a node, as `add_node(name, func, replace=True)` does.

        Edges, hooks and the error handler stay; type and options do not, so give them again.
        Each edge keeps its parameter. If the new function has no parameter of that name, an edge
        made without `input=` feeds the parameter named like its output or source, else a new one if
        that is the only parameter; an edge into a function without parameters only orders. Raises
        ValidationError, and changes nothing, if there is no parameter for an edge.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("add", lambda x, y=1: x + y)
        >>> dag.connect("load", "add").replace_node("add", lambda y, x: x - y).run(y=5)
        15
        """
        replaced = self._graph.node(node)
        made = as_node(replaced.name, func, type, options)
        if replaced.map is not None and made.map is None and "over" not in options:
            walked = names(replaced.map.walked)
            raise InvalidNodeError(
                f"node {replaced.name!r} maps over {walked}: say over= again, or over=None for a "
                "node that is called once",
                node=replaced.name,
            )
        self._graph.add(made, replace=True)
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
        *,
        optional: bool = False,
    ) -> Self:
        """Connect two nodes.

        Parameters
        ----------
        source, target:
            Nodes or their names; the source may also be a branch, `check.on_true`.
        output:
            The part of the value that flows: a key of a mapping, an attribute, or an element of a
            tuple, named by `outputs=` of the source. None: the whole value. Of a select it names
            the branch instead, and so do "true" and "false" of a condition.
        input:
            The parameter that the edge feeds. None: the one named like `output`, else like the
            source, else the first parameter without an edge. False: none, the edge only orders.
        optional:
            The target runs also if the edge ends dead, because the source failed, was skipped, or
            chose another branch. The parameter then gets its default, or None. The target waits
            until the edge has ended.

        Raises ValidationError if a name is unknown or no parameter is left.

        >>> dag = DAG("demo").add_node("load", lambda: {"n": 3}).add_node("double", lambda n: 2 * n)
        >>> dag.connect("load", "double", output="n").run()
        6
        """
        self._graph.connect(source, target, output, input, optional=optional)
        return self

    def disconnect(
        self,
        source: str | Node[..., Any] | Branch,
        target: str | Node[..., Any],
        output: str | None = None,
        input: str | Literal[False] | None = None,
    ) -> Self:
        """Remove the edges between two nodes; of these only those of a branch, an output or a
        parameter if one is given.

        >>> dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda a: a + 1)
        >>> dag.connect("a", "b").disconnect("a", "b").run(a=5)
        6
        """
        self._graph.disconnect(source, target, output, input)
        return self

    def __repr__(self) -> str:
        edges = sum(1 for _ in self._graph.edges())
        return f"<DAG {self.name!r}: {len(self)} nodes, {edges} edges>"

    # Checking.

    def validate(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        """All problems of the graph, as error objects; an empty list if there are none.

        `allow_disconnected` accepts nodes without any edge, as runs do. `check_types` compares the
        annotations at both ends of each edge, if these are classes or unions of classes. Without it
        a warning tells of edges whose types do not fit, if their parameter was only the first free
        one; nested machines that wait for events are a warning, too.

        >>> dag = DAG("demo").add_node("a", lambda x: x).add_node("b", lambda x: x)
        >>> [str(problem) for problem in dag.connect("a", "b").connect("b", "a").validate()]
        ["'demo' has a cycle: a -> b -> a; remove one of these edges with disconnect()"]
        """
        self._warn(check_types)
        return self._problems(allow_disconnected=allow_disconnected, check_types=check_types)

    def _problems(
        self, *, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        found = problems(
            self._topology(), allow_disconnected=allow_disconnected, check_types=check_types
        )
        return found + self._resource_problems()

    def validate_or_raise(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> None:
        """Raise the problem that `validate` finds, or one ValidationError with all of them."""
        found = self.validate(allow_disconnected, check_types)
        if found:
            raise ValidationError.of(found, repr(self.name))

    @property
    def is_valid(self) -> bool:
        """Whether `validate()` finds nothing."""
        return not self._problems()

    @property
    def entry_points(self) -> list[str]:
        """The names of the nodes without an edge into them."""
        topology = self._topology()
        return [
            name for name, edges in zip(topology.names, topology.incoming, strict=True) if not edges
        ]

    @property
    def execution_order(self) -> list[str]:
        """The names of the nodes in the order of a sequential run; raises CycleError."""
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
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        outputs: Sequence[str | Node[..., Any]] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: Literal["all", "outputs"] = "all",
        resume: Run | None = None,
        limits: Limits | None = None,
        store: Store | None = None,
        run_id: str | None = None,
        rerun: str | Node[..., Any] | Sequence[str | Node[..., Any]] | None = None,
        tags: Mapping[str, Any] | None = None,
        on_change: Literal["keep", "rerun"] | None = None,
        renamed: Mapping[str, str] | None = None,
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
            limits,
        )
        durable: Asked | None = None
        if (store, run_id, rerun, tags, on_change, renamed) != _NO_STORE:
            from fast_dag.store.asked import Asked  # for runs that survive

            durable = Asked(store, run_id, rerun, tags, on_change, renamed)
        return Request(
            self.name,
            inputs,
            more_inputs,
            context,
            settings,
            outputs=outputs,
            resume=resume,
            durable=durable,
        )

    _request.__qualname__ = "DAG.run"  # a TypeError about its arguments says that

    @takes_what(_request)
    def execute(self, /, *args: Any, **options: Any) -> Run:
        """Run the workflow; returns the `Run`, also if nodes failed.

        Parameters
        ----------
        inputs, more_inputs:
            Values by the name of the parameters that they fill, on any node.
        context:
            The Context of the run; a new one if not given.
        mode:
            "sequential": the caller's thread, one node at a time. "parallel": threads. "process":
            worker processes (extra `process`). "async": an event loop, sync nodes in threads. In
            all modes but the first, a node starts as soon as its inputs are there.
        max_workers:
            How many nodes run at once, at most. If not given: the CPU count for sync nodes, in
            async mode min(32, CPUs + 4); no limit for async nodes.
        executor:
            Any `concurrent.futures.Executor`; each sync node is one call submitted to it. The run
            does not shut it down.
        timeout:
            Seconds for the whole run.
        error_strategy:
            "fail_fast": after a failure no further node starts. "continue": all nodes run that do
            not depend on a failed one.
        error_handler:
            `f(node_name, error, context)`, once per failed node; returns "stop" or "continue".
        outputs:
            Run only the nodes that these need; the value is a dict of those that completed.
        progress:
            `f(node_name, status, fraction_done)`, called at each node's start and end, one call at
            a time; True shows a bar (extra `progress`). Used instead of `progress_callback`.
        track_memory:
            Measure the peak of traced memory, `context.metrics["memory_usage"]["peak_mb"]`; slow.
        keep:
            "outputs" drops each result once all nodes that take it have completed, except those of
            sinks and of `outputs`.
        resume:
            An earlier Run, maybe out of a pickle. What completed in it is taken, with the inputs
            that are not given anew; the rest runs, and all that depends on that.
        limits:
            A `Limits`, whose names come before those of the workflow's own.
        store, run_id, tags:
            A `fast_dag.store.Store` that keeps how each node ends. A run of the same id goes on
            with what has not run yet, or is returned if it has ended. Tags are for finding it.
        rerun, on_change, renamed:
            Of a run that the store has: what to compute anew, "failed", "stale", or nodes and what
            is below them; what to do where code has changed, "keep" or "rerun"; the new names of
            nodes by their old ones.

        Raises ValidationError, before any node runs, if the graph, an input or an option is wrong.

        >>> dag = DAG("demo").add_node("inverse", lambda x: 1 / x)
        >>> run = dag.execute(x=0)
        >>> run.status, run.errors
        ('failed', {'inverse': ZeroDivisionError('division by zero')})
        """
        request = self._request(*args, **options)
        del options  # an error keeps this frame, and would keep the run to resume
        return self._executed(request).run

    @takes_what(_request)
    def run(self, /, *args: Any, **options: Any) -> Any:
        """Run the workflow; returns the value of the last sink that completed, None if none did.

        Takes the options of `execute`. Raises ExecutionError if a node's failure ended the run,
        with the node's exception as its cause, and ValidationError as `execute` does.

        >>> DAG("demo").add_node("double", lambda x: 2 * x).run(x=2)
        4
        """
        request = self._request(*args, **options)
        del options
        return value_of(self._executed(request))

    @takes_what(_request, mode="async")
    async def execute_async(self, /, *args: Any, **options: Any) -> Run:
        """`execute` for code in an event loop. It does not block the loop: sync nodes run in worker
        threads."""
        request = self._request(*args, **{"mode": "async", **options})
        del options
        return (await self._executed_async(request)).run

    @takes_what(_request, mode="async")
    async def run_async(self, /, *args: Any, **options: Any) -> Any:
        """`run` for code in an event loop.

        >>> import asyncio
        >>> dag = DAG("demo")
        >>> @dag.node
        ... async def double(x):
        ...     return 2 * x
        >>> asyncio.run(dag.run_async(x=2))
        4
        """
        request = self._request(*args, **{"mode": "async", **options})
        del options
        return value_of(await self._executed_async(request))

    def explain(self, *, store: Store, run_id: str) -> Explanation:
        """What there is of a run in a store, and what of it the code of today would compute
        otherwise: of each node whether its end is fresh, stale, or maybe stale, and why.

        >>> from fast_dag.store import Store
        >>> dag = DAG("demo").add_node("answer", lambda: 42)
        >>> with Store(":memory:") as store:
        ...     _ = dag.run(store=store, run_id="a")
        ...     print(dag.explain(store=store, run_id="a"))
        answer  fresh
        """
        from fast_dag.store.asked import explained

        return explained(self, store, run_id)

    def _executed(self, request: Request) -> DagExecution:
        durable: Asked | None = request.durable
        if durable is not None:
            return durable.execute(self, request)
        return self._drive(self._made(request))

    async def _executed_async(self, request: Request) -> DagExecution:
        durable: Asked | None = request.durable
        if durable is not None:
            return await durable.execute_async(self, request)
        return await self._drive_async(self._made(request))

    # Running a part.

    # Templates: they tell type checkers and `help()` which options of `_request` are for parts.

    def _from_request(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        outputs: Sequence[str | Node[..., Any]] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: Literal["all", "outputs"] = "all",
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Any:
        raise NotImplementedError

    def _until_request(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        outputs: Sequence[str | Node[..., Any]] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: Literal["all", "outputs"] = "all",
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Any:
        raise NotImplementedError

    def _between_request(
        self,
        start: str | Node[..., Any],
        end: str | Node[..., Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        outputs: Sequence[str | Node[..., Any]] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: Literal["all", "outputs"] = "all",
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Any:
        raise NotImplementedError

    @takes_what(_from_request)
    def run_from(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """Run a node, or several, and all nodes below; returns the last sink's value.

        The results of other nodes that are needed come from `run`, an earlier Run, or from
        `context`, else from the run that finished last; so do inputs that are not given again.
        Takes the options of `run` but `resume` and those of stores. Raises MissingInputError if
        such a result is missing.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("add", lambda x, y: x + y)
        >>> dag.connect("load", "add").run(y=1), dag.run_from("add", y=2)
        (21, 22)
        """
        made = self._part(node, None, inputs, run, options)
        del run
        return value_of(self._drive(made))

    @takes_what(_from_request, mode="async")
    async def run_from_async(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        run: Run | None = None,
        **options: Any,
    ) -> Any:
        """`run_from` for code in an event loop."""
        made = self._part(node, None, inputs, run, {"mode": "async", **options})
        del run
        return value_of(await self._drive_async(made))

    @takes_what(_until_request)
    def run_until(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run a node and all nodes that it depends on; returns its value, or for a list of nodes a
        dict of their values by name. Takes the options of `run_from`, except for `run`.

        >>> dag = DAG("demo").add_node("load", lambda: 20).add_node("fail", lambda x: x / 0)
        >>> dag.connect("load", "fail").run_until("load")
        20
        """
        return value_of(self._drive(self._part(None, node, inputs, None, options)))

    @takes_what(_until_request, mode="async")
    async def run_until_async(
        self,
        node: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        /,
        inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """`run_until` for code in an event loop."""
        made = self._part(None, node, inputs, None, {"mode": "async", **options})
        return value_of(await self._drive_async(made))

    @takes_what(_between_request)
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
        """Run the nodes on the paths from `start` to `end`; returns the value of `end`.

        Results of other nodes come from earlier runs, as in `run_from`, whose options it takes.
        Raises MissingConnectionError if there is no path.

        >>> dag = DAG("d").add_node("a", lambda x: x).add_node("b", lambda a: a + 1)
        >>> dag.add_node("c", lambda b: b * 10).connect("a", "b").connect("b", "c")
        <DAG 'd': 3 nodes, 2 edges>
        >>> dag.run_between("a", "b", x=1)
        2
        """
        made = self._part(start, end, inputs, run, options)
        del run
        return value_of(self._drive(made))

    @takes_what(_between_request, mode="async")
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
        """`run_between` for code in an event loop."""
        made = self._part(start, end, inputs, run, {"mode": "async", **options})
        del run
        return value_of(await self._drive_async(made))

    def _part(
        self, start: Any, end: Any, inputs: Any, run: Run | None, options: Any
    ) -> DagExecution:
        part = Part(self._named(start), self._named(end))
        request = self._request(inputs, **options)
        if request.durable is not None:
            raise ValidationError(
                "store= cannot be with run_from, run_until and run_between: name outputs=, or "
                "rerun= what shall be computed anew; store.fork begins a run that shares the rest"
            )
        if isinstance(end, (list, tuple)) and request.outputs is None:
            request.outputs = end
        return self._made(request, part, run)

    def _named(self, nodes: Any) -> tuple[str, ...] | None:
        """The names of one node or of several."""
        if nodes is None:
            return None
        several = nodes if isinstance(nodes, (list, tuple)) else (nodes,)
        if not several:
            raise ValidationError(f"no node of {self.name!r} is named; name at least one")
        return tuple([self._graph.node(each).name for each in several])

    # From a request to a run.

    def _made(
        self, request: Request, part: Part = WHOLE, stored: Run | None = None
    ) -> DagExecution:
        inputs, context = request.inputs, request.context
        resume, request.resume = request.resume, None
        if part.start is not None and context is None:
            stored = stored or (None if self._last is None else self._last.run)
        earlier: Earlier | None = None
        changed = None
        if resume is not None:
            stored = self._resumable(resume, part, stored)
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
            if not isinstance(outputs, (list, tuple, set, dict)) or not outputs:
                raise ValidationError(
                    f"outputs is a list of nodes or their names, not {outputs!r}; for the value of "
                    "one node say outputs=[node], or run_until(node)"
                )
            outputs = [self._graph.node(name).name for name in outputs]
            part = Part(part.start, part.end, tuple(outputs))
        plan = self._plan(frozenset(inputs), part)
        if context is None:
            context = _context_after(stored)
        execution = DagExecution(
            self._graph, plan, inputs, context, request.settings, outputs=outputs, earlier=earlier
        )
        if changed is not None and resume is not None:
            execution.resume(resume._execution, changed)
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
            problem = "cannot go with run_from, run_until, run_between or run=: resume= finds by "
            problem += "itself what has to run"
        elif run._execution.noun != self._noun:
            problem = f"cannot be the run of a machine, {run.name!r}; see its snapshot()"
        elif run.name != self.name:
            problem = f"is a run of {run.name!r}, not of {self.name!r}"
        elif run.status == "running" and isinstance(run._execution, DagExecution):
            problem = "is a Run in progress; wait for its end"
        if problem:
            raise ValidationError(f"the run to resume {problem}")
        return run

    def _earlier(self, run: Run) -> Earlier:
        """The execution of an earlier Run of this DAG; of one out of a pickle, the name tells."""
        if isinstance(run, Run) and run._execution.noun == self._noun:
            earlier: Any = run._execution
            graph = earlier.graph
            if graph is self._graph or (graph is None and earlier.name == self.name):
                found: Earlier = earlier
                return found
        if not isinstance(run, Run):
            raise ValidationError(
                f"run= is an earlier Run, as execute() returns it, not {run!r}; to give an input "
                "of that name: inputs={'run': ...}"
            )
        raise ValidationError(f"run= is a run of {run.name!r}, not of {self.name!r}")

    def _could_take(self, name: str) -> bool:
        """Whether some node of the graph, as it is now, takes a run input of this name."""
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
        """The execution of this workflow as a node; `plan` is the plan that its parent compiled."""
        if plan is None or plan.input_names != inputs.keys():
            plan = self._plan(frozenset(inputs), WHOLE)
        context = parent.context._inner(Context)
        return DagExecution(
            self._graph, plan, inputs, context, parent.settings, parent=parent, prefix=prefix
        )

    def _plan(self, inputs: frozenset[str], part: Part) -> Plan:
        return self._kept(self._compile, inputs, part)

    def _checked(self, given: frozenset[str]) -> Topology:
        """The topology; raises if there are problems. Parameters with the names in `given` are not
        autowired, because the run gives them as inputs."""
        topology = self._topology(given)
        found = problems(topology, allow_disconnected=True) + self._resource_problems()
        if found:
            raise ValidationError.of(found, repr(self.name))
        return topology

    def _compile(self, inputs: frozenset[str], part: Part) -> Plan:
        given = inputs.intersection(self._graph.nodes) if self.autowire else frozenset()
        topology = self._kept(self._checked, given)
        own = self._policy_of, self._resources, self._wrappers, self._limits
        plan = Plan(topology, inputs, *own)
        plan.refuse_unknown(option_names(DAG._request))
        narrowed = part.of(topology)
        if narrowed is not topology:
            plan = Plan(narrowed, inputs, *own)
        for step in plan.steps:
            workflow = step.node.workflow
            if isinstance(workflow, Workflow):
                # Compiled now, so that an edit during a run does not change that run.
                given = frozenset() if step.binding is None else step.binding.keywords
                nesting = step.nested.item if step.maps else step
                nesting.nested = workflow._nested_plan(given)
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
    """A new Context with the user's metadata of an earlier run."""
    if stored is None:
        return Context()
    engine = ("run_id", "execution_status", "errors")
    return Context(
        metadata={key: value for key, value in stored.context.metadata.items() if key not in engine}
    )
