"""Node: a name, a function, options, and the operators that connect it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from importlib import import_module
from sys import modules
from types import FunctionType, MappingProxyType, MethodType

from fast_dag._typing import OfFunction, P, R_co, T, overload
from fast_dag.define.mapspec import map_of
from fast_dag.define.options import CACHE_OPTIONS, checked
from fast_dag.define.signature import Signature, UnreadableSignatureError, read_signature
from fast_dag.errors import InvalidNodeError, ValidationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol, Self

    from fast_dag.cache.store import NodeCache
    from fast_dag.define.mapspec import MapSpec

    class Holder(Protocol):
        """What nodes know of a graph."""

        name: str

        @property
        def nodes(self) -> Mapping[str, Node[..., Any]]: ...

        def connect(
            self,
            source: Any,
            target: Any,
            output: str | None = None,
            input: Any = None,
            *,
            optional: bool = False,
        ) -> None: ...


class NodeType(StrEnum):
    """How a node treats its edges: it computes, decides or joins.

    >>> NodeType("any") is NodeType.ANY
    True
    """

    decides: bool
    """Whether it chooses among branches."""
    joins: bool
    """Whether several edges may feed one of its parameters."""

    def __new__(cls, value: str, decides: bool = False, joins: bool = False) -> NodeType:
        # Attributes are faster than properties; plans look these up several times per node.
        member = str.__new__(cls, value)
        member._value_ = value
        member.decides, member.joins = decides, joins
        return member

    NODE = "node"
    CONDITION = "condition", True
    SELECT = "select", True
    ANY = "any", False, True
    ALL = "all", False, True


_NODE = NodeType.NODE  # looking up a member of an enum takes ten times as long as a global


class Nestable(ABC):
    """A workflow that can be a node of another workflow."""

    name: str

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """Its parameters as a node: those that nothing inside it feeds."""

    @property
    @abstractmethod
    def graph(self) -> Holder:
        """Its nodes and edges."""

    @property
    @abstractmethod
    def version(self) -> object:
        """Changes with every edit of it or of workflows nested in it."""

    @property
    def limits(self) -> Any:
        """The limits that it was given, whose names its nodes may use; None if there are none."""
        return None

    @abstractmethod
    def _problems(self, *, allow_disconnected: bool, check_types: bool) -> list[ValidationError]:
        """What `validate()` returns."""

    @abstractmethod
    def _cautions(self, check_types: bool) -> Iterable[str]:
        """What `validate()` warns of."""

    @property
    def _waiting_states(self) -> Sequence[str]:
        """The states of a machine that it leaves by events only."""
        return ()


class Linkable:
    """Base of what may stand on the left of `>>`: a node, or one branch of a decider."""

    def __rshift__(self, target: T) -> T:
        """Connect to a node, or to each of a list of nodes; returns the target, for chains."""
        _link([self], target)
        return target

    def __rrshift__(self, sources: Iterable[Any]) -> Self:
        """`[a, b] >> c` connects a to c, then b to c."""
        _link(list(sources) if isinstance(sources, (list, tuple)) else [sources], self)
        return self


_SIDES = "both sides of >> are nodes, as in a >> b, a >> [b, c] or [a, b] >> c; do not call them"


def name_of(given: Any) -> Any:
    """The name that is meant: that of a node or workflow, or the value of a member of a string
    enum; all else as it is.

    >>> name_of(NodeType.ANY), name_of(Node(abs, "size", inputs=["x"]))
    ('any', 'size')
    """
    if isinstance(given, str):
        return str.__str__(given)
    return given.name if isinstance(given, (Node, Nestable)) else given


def _link(sources: list[Any], target: Any) -> None:
    targets = list(target) if isinstance(target, (list, tuple)) else [target]
    for source in sources:
        node = source.node if isinstance(source, Branch) else source
        if not isinstance(node, Node):
            raise InvalidNodeError(f"cannot connect {source!r}: {_SIDES}", node=None)
        for each in targets:
            if not isinstance(each, Node):
                raise InvalidNodeError(
                    f"cannot connect {node.name!r} to {each!r}: {_SIDES}", node=node.name
                )
            node.owner.connect(source, each)


class Branch(Linkable):
    """One branch of a condition or select: `check.on_true`, `router.branches["email"]`."""

    __slots__ = ("choice", "node")

    def __init__(self, node: Node[..., Any], choice: bool | str) -> None:
        self.node = node
        self.choice = choice

    def __repr__(self) -> str:
        return f"<branch {self.choice!r} of {self.node.name!r}>"


class Branches:
    """The branches of a select, by name: `router.branches["email"] >> send_email`."""

    __slots__ = ("_node",)

    def __init__(self, node: Node[..., Any]) -> None:
        self._node = node

    def __getitem__(self, name: str) -> Branch:
        if not isinstance(name, str):
            raise ValidationError(
                f"a branch of {self._node.name!r} is named by a string, not {name!r}"
            )
        return Branch(self._node, name)


class Node(Linkable, OfFunction[P, R_co]):
    """A step of a workflow.

    `@dag.node` and its siblings make it, or you do, for `dag.add_node(Node(...))`. It can still be
    called: that calls the bare function.

    Parameters
    ----------
    func:
        Any callable, sync or async, or a whole DAG.
    name:
        Non-empty, without '.'; the function's own name when not given.
    type:
        A `NodeType`: whether the node computes, decides or joins.
    options:
        See `NodeOptions`.

    Raises InvalidNodeError if `func` cannot be a node, or if an option is wrong.

    >>> node = Node(lambda x: x + 1, "increment", retry=2)
    >>> node(3), node.name, node.retry
    (4, 'increment', 2)
    """

    func: Callable[P, R_co]
    name: str
    # Class attributes, so that a node without options needs less memory.
    type: NodeType = NodeType.NODE
    options: Mapping[str, Any] = MappingProxyType({})
    graph: Holder | None = None
    replaced_in: Holder | None = None
    workflow: Nestable | None = None
    retry: int = 0
    timeout: float | None = None
    run_in: str | None = None
    uses: Mapping[str, int] | None = None
    priority: int = 0
    map: MapSpec | None = None
    cache: NodeCache | None = None
    _signature: Signature | None

    def __init__(
        self,
        func: Callable[P, R_co],
        name: str | None = None,
        *,
        type: NodeType | str = NodeType.NODE,
        **options: Any,
    ) -> None:
        if isinstance(func, Node):  # lends its function and options
            options = {**func.options, **options}
            name = func.name if name is None else name
            func = func.func
        self.func = func
        if func.__class__ is not FunctionType:
            if isinstance(func, Nestable):
                self.workflow = func
            elif not callable(func):
                raise InvalidNodeError(
                    f"{func!r} is not callable, so it cannot be a node{_advice(func)}", node=name
                )
        if type is not _NODE:
            self.type = type if isinstance(type, NodeType) else _checked_type(name, type)
        if options:
            self._take_options(name, options)
        self._signature = None if self.workflow else self._read(name)
        if options:
            self._make_map(name)
        self.name = self.__name__ = _checked_name(self._own_name() if name is None else name, func)
        self.__doc__ = self._origin.__doc__
        if options:
            self._check_together()
            self._make_cache()

    def _take_options(self, name: str | None, given: dict[str, Any]) -> None:
        shown = getattr(self.func, "__name__", None) if name is None else name
        options = self.options = checked(given, f"node {shown!r}", shown, type=self.type)
        if "cache" in options:
            whose = f"cached node {shown!r}"
            options["cache"] = checked(options["cache"], whose, shown, table=CACHE_OPTIONS)
        self.retry = options.get("retry", 0)
        self.run_in = options.get("run_in")
        self.timeout = options.get("timeout")
        self.uses = options.get("uses")
        self.priority = options.get("priority", 0)

    def _check_together(self) -> None:
        """Raise InvalidNodeError where an option does not fit the function, or another option."""
        options, problem = self.options, ""
        collect = options.get("collect")
        if self.workflow is not None and "inputs" in options:
            problem = (
                "a workflow's parameters are named inside it; inputs= is for functions. To feed "
                "one from a node of another name, connect(..., input=name)"
            )
        elif self.workflow is not None and self.uses:
            problem = (
                "a workflow takes no uses=, because it would hold the units while its nodes wait; "
                "put it on the nodes inside that use them"
            )
        elif options.get("once"):
            problem = self._why_not_once()
        elif collect is not None and collect not in self.inputs:
            problem = f"collect={collect!r} is none of its parameters {self.inputs}"
        elif self.run_in == "inline" and self.timeout and not self.signature.is_async:
            problem = "a call in the caller's own thread cannot be timed out; drop run_in='inline'"
        if problem:
            raise InvalidNodeError(f"node {self.name!r}: {problem}", node=self.name)

    def _why_not_once(self) -> str:
        """Why it cannot be a node that is called at most once; '' if it can."""
        if self.workflow is not None:
            return "once=True is for the nodes inside of the workflow"
        if self.map is not None:
            return "once=True cannot be with map=, which calls it for each item; use call_id"
        if self.retry:
            return (
                "once=True calls it at most once, so it cannot have retry=; a parameter call_id "
                "lets the other side know a call again"
            )
        if not self.options.get("stored", True):
            return "once=True calls it at most once, so its value must be stored; drop stored=False"
        return ""

    def _make_map(self, name: str | None) -> None:
        try:
            self.map = map_of(self.options, self.signature)
        except ValueError as error:
            shown = getattr(self.func, "__name__", None) if name is None else name
            raise InvalidNodeError(f"node {shown!r}: {error}", node=shown) from None
        if self.map is not None and self._signature is not None:
            self._signature = self.map.required(self._signature)

    def _make_cache(self) -> None:
        """Of its own: two graphs never share results by a name."""
        asked = self.options.get("cache")
        if asked is not None:
            from fast_dag.cache.store import NodeCache  # for those who cache

            node: Any = self  # pyright takes `func` for a method
            kept = {} if self.map is None else {"max_entries": None}
            self.cache = NodeCache(node, **{**kept, **asked})

    def _read(self, name: str | None) -> Signature:
        inputs = self.options.get("inputs")
        try:
            signature = read_signature(self.func)
        except UnreadableSignatureError as error:
            if inputs is not None:
                return Signature((), origin=self.func, var_positional="args").renamed(inputs)
            raise InvalidNodeError(
                f"Python cannot tell the parameters of {self.func!r}; "
                "name them with inputs=[...], or wrap it in a function of your own",
                node=name,
            ) from error.__cause__
        try:
            return signature if inputs is None else signature.renamed(inputs)
        except ValueError as error:
            raise InvalidNodeError(
                f"inputs={inputs!r} does not fit {self.func!r}: {error}", node=name
            ) from None

    @property
    def signature(self) -> Signature:
        """The parameters; for a nested workflow those that nothing inside it feeds."""
        if self._signature is not None:
            return self._signature
        assert self.workflow is not None
        signature = self.workflow.signature
        return signature if self.map is None else self.map.required(signature)

    @property
    def _origin(self) -> Any:
        return self.func if self._signature is None else self._signature.origin

    def _own_name(self) -> str:
        if self.workflow is not None:
            return self.workflow.name
        origin = self._origin
        own: str = getattr(origin, "__name__", "")
        if own == "__call__":  # a callable object
            return type(self.func).__name__
        if own == "__init__":  # a class
            return getattr(self.func, "__name__", own)
        return own

    # A node behaves like its function.

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the bare function, without hooks, retries or cache."""
        return self.func(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: Any) -> Node[P, R_co]: ...
    @overload
    def __get__(self, instance: object, owner: Any) -> Callable[..., R_co]: ...
    def __get__(self, instance: object | None, owner: Any) -> Node[P, R_co] | Callable[..., R_co]:
        """Bind the function to an instance, as for a method defined in a class body."""
        return self if instance is None else MethodType(self, instance)

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        return self.func

    # Options.

    @property
    def description(self) -> str:
        """The description given, else the first line of the docstring, else ''."""
        given = self.options.get("description")
        doc: str = self.__doc__ or ""
        return given if given is not None else doc.strip().partition("\n")[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the parameters that edges and run inputs may fill."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the elements of the returned tuple; empty if none were given."""
        return tuple(self.options.get("outputs") or ())

    @property
    def metadata(self) -> dict[str, Any]:
        """The node's metadata: a dictionary that you may change."""
        given: dict[str, Any] | None = self.options.get("metadata")
        if given is None:
            given = {}
            self.options = {**self.options, "metadata": given}
        return given

    # Edges.

    @property
    def owner(self) -> Holder:
        """The graph that this node belongs to, or did until another node took its place; raises
        InvalidNodeError if there is none."""
        owner = self.graph or self.replaced_in
        if owner is None:
            raise InvalidNodeError(
                f"node {self.name!r} belongs to no DAG; add it with dag.add_node(node) first",
                node=self.name,
            )
        return owner

    def after(self, *nodes: Node[..., Any] | Branch, optional: bool = False) -> Node[P, R_co]:
        """Run after `nodes` without taking their values; returns this node. With `optional`, run
        also if they fail or are skipped."""
        for each in nodes:
            self.owner.connect(each, self, input=False, optional=optional)
        return self

    def _branch(self, attribute: str, type: NodeType) -> None:
        if self.type is not type:
            raise InvalidNodeError(
                f"{self.name!r} is a {self.type.value} and has no {attribute}; "
                f"make it with @dag.{type.value}",
                node=self.name,
            )

    @property
    def on_true(self) -> Branch:
        """The branch that is taken if the condition is true."""
        self._branch("on_true", NodeType.CONDITION)
        return Branch(self, True)

    @property
    def on_false(self) -> Branch:
        """The branch that is taken if the condition is false."""
        self._branch("on_false", NodeType.CONDITION)
        return Branch(self, False)

    @property
    def branches(self) -> Branches:
        """The branches of a select, by name; "default" is taken if there is no branch of the
        returned name."""
        self._branch("branches", NodeType.SELECT)
        return Branches(self)

    def __repr__(self) -> str:
        where = "" if self.graph is None else f" of {self.graph.name!r}"
        return f"<{self.type.value} {self.name!r}{where}({', '.join(self.inputs)})>"

    # Pickling. The function's name in its module means this node now, so pickle would not find the
    # function there: where a module can be imported, it is found as that node's function.

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key[0] != "_"}
        state["graph"] = None  # a DAG puts itself back
        state.pop("replaced_in", None)
        where = importable(self)
        if where is not None:
            # cloudpickle sends what lives in __main__ by value, to processes with another __main__.
            state["func"] = where if where.module != "__main__" else MethodType(self.func, where)
        state["cache"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        func = state["func"]
        if isinstance(func, FunctionOfNode):
            state = {**state, "func": func.find()}
        elif isinstance(func, MethodType) and isinstance(func.__self__, FunctionOfNode):
            state = {**state, "func": func.__func__}
        self.__dict__.update(state)
        self._signature = None if self.workflow else self._read(self.name)
        if self.map is not None and self._signature is not None:
            self._signature = self.map.required(self._signature)
        self.__doc__ = self._origin.__doc__
        self._make_cache()


if TYPE_CHECKING:

    class Mapped(Node[P, R_co]):
        """A node that maps its function: its result is a collection of what the function
        returns."""


def as_node(
    name: str | Node[..., Any] | Nestable,
    func: Any | None,
    type: NodeType | str | None,
    options: Any,
) -> Node[..., Any]:
    """The Node that `add_node` is asked for: by a name and a function, or by one of them."""
    own: str | None = None
    if func is None and not isinstance(name, str):
        func = name
    else:
        own = name  # type: ignore[assignment]
    if isinstance(func, Node):
        if func.graph is None and own is None and type is None and not options:
            return func
        type = func.type if type is None else type
    return Node(func, own, type=_NODE if type is None else type, **options)  # type: ignore[arg-type]


class FunctionOfNode:
    """Where an importable node's function is found again.

    Bound to it as a method, a function is pickled in both ways: pickle asks `__self__` for the
    attribute that bears the function's name, cloudpickle takes function and `__self__` apart.
    """

    def __init__(self, module: str, qualname: str) -> None:
        self.module = module
        self.qualname = qualname

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what pickle and others ask of any object
            raise AttributeError(name)
        return self.find()

    def find(self) -> Any:
        """The function itself."""
        found: Any = import_module(self.module)
        for part in self.qualname.split("."):
            found = getattr(found, part)
        return found.func if isinstance(found, Node) else found


def found_in(module: str, qualname: str) -> Any:
    """What a module that is loaded has under a name; None if it has nothing there."""
    there: Any = modules.get(module)
    for part in qualname.split("."):
        there = getattr(there, part, None)
    return there


def importable(node: Node[..., Any]) -> FunctionOfNode | None:
    """Where another process finds a node's function: in the module attribute that is now the node;
    None where there is no such attribute."""
    origin = node._origin
    module, qualname = getattr(origin, "__module__", None), getattr(origin, "__qualname__", None)
    if module is None or qualname is None or module not in modules:
        return None
    there = found_in(module, qualname)
    is_there = isinstance(there, Node) and there.func is node.func
    return FunctionOfNode(module, qualname) if is_there else None


def _advice(func: Any) -> str:
    if isinstance(func, classmethod):
        return "; add the bound method instead: dag.add_node(name, Class.method)"
    return "; decorate a function, or give add_node(name, function) one"


def _checked_type(name: str | None, type: str) -> NodeType:
    try:
        return NodeType(type)
    except ValueError:
        kinds = ", ".join(each.value for each in NodeType)
        raise InvalidNodeError(
            f"the type of node {name!r} is one of {kinds}, not {type!r}", node=name
        ) from None


def _checked_name(name: Any, func: Any) -> str:
    if not isinstance(name, str) or not name:
        node = name if isinstance(name, str) else None
        raise InvalidNodeError(f"a node's name is a non-empty string, not {name!r}", node=node)
    plain: str = str.__str__(name)  # of a member of a string enum, its value
    if name == "<lambda>":
        raise InvalidNodeError(
            f"{func!r} has no name of its own; give the node one with name=", node=name
        )
    if "." in name:
        raise InvalidNodeError(
            f"the node name {name!r} has a '.', which stands for nesting (dag['sub.inner']); "
            f"name it {name.replace('.', '_')!r}, say",
            node=name,
        )
    return plain
