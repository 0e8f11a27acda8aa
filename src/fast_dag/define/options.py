"""The options of nodes, in one table.

The decorators, the check of a node, files, the command line and the reference take them from here.
"""

from __future__ import annotations

from operator import index

from fast_dag._fields import Fields
from fast_dag.call.effects import waitable
from fast_dag.define.signature import gives_coroutine
from fast_dag.errors import InvalidNodeError, ValidationError, closest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta
    from typing import Any, Final, Literal, SupportsIndex, TypedDict

    from fast_dag._typing import T
    from fast_dag.cache.memory import Backend

    Seconds = float | timedelta

    class CommonOptions(TypedDict, total=False):
        """The options of every node and state."""

        description: str | None
        inputs: Sequence[str] | None
        outputs: Sequence[str] | None
        metadata: Mapping[str, Any] | None
        retry: SupportsIndex
        retry_delay: Seconds
        retry_backoff: float
        retry_max_delay: Seconds | None
        retry_jitter: bool | float
        retry_on: (
            type[BaseException]
            | tuple[type[BaseException], ...]
            | Callable[[BaseException], bool]
            | None
        )
        timeout: Seconds | None
        run_in: Literal["thread", "process", "inline"] | None
        uses: str | Mapping[str, SupportsIndex] | None
        priority: SupportsIndex
        stored: bool
        once: bool

    class ItemOptions(CommonOptions, total=False):
        """Those of every map."""

        keys: Callable[..., Any] | None
        into: Callable[..., Any] | None
        ordered: bool
        on_error: Literal["fail", "keep", "drop"]
        min_success: float | None
        max_concurrency: SupportsIndex | None

    class MapOptions(ItemOptions, total=False):
        """The options of `dag.map`."""

        over: str | Sequence[str] | None
        product: Sequence[str] | None

    class AnyOptions(CommonOptions, total=False):
        """The options of `dag.any`."""

        wait: bool

    class SelectOptions(CommonOptions, total=False):
        """The options of `dag.select`."""

        several: bool

    class AllOptions(CommonOptions, total=False):
        """The options of `dag.all`."""

        collect: str | None

    class NodeOptions(AnyOptions, AllOptions, SelectOptions, MapOptions, total=False):
        """The options of `dag.add_node`: those of every type of node."""

    class CacheOptions(TypedDict, total=False):
        """What `cached_node` and `cached_state` take besides."""

        ttl: Seconds | None
        cache_key: Sequence[str] | Callable[..., Any] | None
        version: str | int | None
        backend: Backend | None
        max_entries: SupportsIndex | None

    class CachedNodeOptions(MapOptions, CacheOptions, total=False):
        """The options of `dag.cached_node`."""

    class CachedStateOptions(CommonOptions, CacheOptions, total=False):
        """The options of `fsm.cached_state`."""


WRONG: Final = (ValueError, TypeError, ArithmeticError)
"""What the functions below raise for a value that an option does not take."""


def count(value: Any, least: int = 0) -> int:
    """A whole number of any type as an int, at least `least`; raises ValueError.

    >>> count(3)
    3
    """
    return index(_only(value, not isinstance(value, bool) and index(value) >= least))


def number(value: Any, most: float = float("inf")) -> float:
    """A number of any type (of numpy, Fraction, Decimal) from 0 to `most`; raises ValueError."""
    is_number = hasattr(type(value), "__float__") and not hasattr(value, "__len__")
    _only(value, is_number and not isinstance(value, bool) and 0 <= value <= most)
    return value if isinstance(value, int) else float(value)


def seconds(value: Any) -> float:
    """A duration, zero or more, given as a number of seconds or a timedelta; raises ValueError.

    >>> from datetime import timedelta
    >>> seconds(timedelta(minutes=2)), seconds(0.5)
    (120.0, 0.5)
    """
    return waitable(number(value.total_seconds() if hasattr(value, "total_seconds") else value))


def deadline(value: Any) -> float:
    """The same as `seconds`, but more than zero."""
    asked = seconds(value)
    return _only(asked, asked > 0)


def _units(value: Any) -> dict[str, int]:
    """How many units of which limits, as a dict; raises ValueError."""
    asked = {value: 1} if isinstance(value, str) else dict(value)
    _only(asked, bool(asked) and "" not in asked)
    return {_text(name): count(units, 1) for name, units in asked.items()}


def name_of_function(func: Any) -> str:
    """The name of a function, or that of its class if it has none."""
    return getattr(func, "__name__", "") or type(func).__name__


def _units_told(asked: Mapping[str, int]) -> str:
    told = (name if units == 1 else f"{units} {name}" for name, units in asked.items())
    return f"uses {', '.join(told)}"


def _whole(value: Any) -> int:
    return index(_only(value, not isinstance(value, bool)))


def _only(value: T, fits: bool) -> T:
    if not fits:
        raise ValueError
    return value


def _text(value: Any) -> Any:
    return _only(value, isinstance(value, str))


def _texts(value: Any) -> list[str]:
    return [_text(each) for each in _only(value, not isinstance(value, str))]


def _listed(value: Any) -> list[str]:
    """Names whose order counts. A set has none: it would be another one in the next process."""
    return _texts(_only(value, not isinstance(value, (set, frozenset))))


def _different(value: Any) -> list[str]:
    texts = _listed(value)
    return _only(texts, len(set(texts)) == len(texts))


def _names(value: Any) -> list[str]:
    """One name, or a list of different names of which there is at least one."""
    texts = _different([value] if isinstance(value, str) else value)
    return _only(texts, bool(texts))


def _function(value: Any) -> Any:
    return _only(value, callable(value))


def _errors(value: Any) -> Any:
    kinds = value if isinstance(value, tuple) else (value,)
    are_types = all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds)
    is_predicate = callable(value) and not isinstance(value, type) and not gives_coroutine(value)
    return _only(value, are_types or is_predicate)


def asked_count(name: str, value: Any) -> int | None:
    """A count of at least 1 that an option `name` of a run or workflow was given, None if it was
    not; raises ValidationError."""
    try:
        return None if value is None else count(value, 1)
    except WRONG:
        raise ValidationError(f"{name} is a count of at least 1, not {value!r}") from None


def asked_deadline(name: str, value: Any) -> float | None:
    """The same for a number of seconds."""
    try:
        return None if value is None else deadline(value)
    except WRONG:
        raise ValidationError(f"{name} is {_DEADLINE}, not {value!r}") from None


_SECONDS = "a number of seconds, zero or more, or a timedelta"
_DEADLINE = "a number of seconds above 0, or a timedelta"


class Option(Fields):
    """One option of nodes.

    Parameters
    ----------
    name, default, doc:
        As the reference shows them.
    words, read:
        What a value must be; what returns the value to keep, or raises ValueError.
    by_name:
        How a file has a value that is no plain data: a "function" or "exceptions" by where they are
        imported from, a "registered" object by its name in a registry.
    label:
        How `fast-dag show` tells it: a format, or a function, of the value; '' if it does not.
    type:
        The only type of node that it fits, "map" for nodes that map their function; '' if it fits
        every type.
    """

    __slots__ = ("by_name", "default", "doc", "label", "name", "read", "type", "words")

    def __init__(
        self,
        name: str,
        words: str,
        read: Callable[[Any], Any],
        doc: str,
        *,
        default: Any = None,
        by_name: str = "",
        label: str | Callable[[Any], str] = "",
        type: str = "",
    ) -> None:
        self.name = name
        self.words = words
        self.read = read
        self.doc = doc
        self.default = default
        self.by_name = by_name
        self.label = label
        self.type = type

    def told(self, value: Any) -> str:
        """The option with a value, in words.

        >>> OPTIONS["timeout"].told(2.5), OPTIONS["uses"].told({"db": 1, "api": 2})
        ('timeout 2.5 s', 'uses db, 2 api')
        """
        return self.label.format(value) if isinstance(self.label, str) else self.label(value)

    def fits(self, value: Any) -> bool:
        """Whether a value is what it must be."""
        try:
            self.read(value)
        except WRONG:
            return False
        return True


def _switch(name: str, doc: str, *, default: bool = False, type: str = "") -> Option:
    return Option(
        name,
        "True or False",
        lambda value: _only(value, isinstance(value, bool)),
        doc,
        default=default,
        label="" if default else name,
        type=type,
    )


def _table(*options: Option) -> dict[str, Option]:
    return {each.name: each for each in options}


CACHE_OPTIONS: Final = _table(
    Option("ttl", _DEADLINE, deadline, "how long a result is good for"),
    Option(
        "cache_key",
        "a list of names, or a function of the inputs",
        lambda value: value if callable(value) else _texts(value),
        "the parameters that count, all when not given; or a function that is called with the "
        "inputs and returns what counts",
    ),
    Option("version", "a string or a number", lambda value: value, "part of a backend's keys"),
    Option(
        "backend",
        "an object with get, set, delete and clear",
        lambda value: value,
        "where results are kept, for others, too; the memory of this process when not given",
        by_name="registered",
    ),
    Option(
        "max_entries",
        "a count of at least 1",
        lambda value: count(value, 1),
        "how many results are kept in memory; the least recently used make room; of a map all, "
        "when not given",
        default=1024,
    ),
)
"""The additional options of `cached_node`."""

OPTIONS: Final = _table(
    Option(
        "description",
        "a string",
        _text,
        "shown, never interpreted; the first line of the docstring when not given",
    ),
    Option("metadata", "a mapping", dict, "yours; shown, never interpreted"),
    Option(
        "inputs",
        "a list of names",
        _listed,
        "names for the parameters, in their order, in place of the function's own; needed for "
        "builtins whose signature cannot be read",
    ),
    Option(
        "outputs",
        "a list of different names",
        _different,
        "names for the elements of a returned tuple, for `connect(..., output=)`",
    ),
    Option(
        "retry",
        "a count of further attempts (0, 1, ...)",
        count,
        "further attempts after the first",
        default=0,
        label="retry {}",
    ),
    Option("retry_delay", _SECONDS, seconds, "the wait before the first", default=0.1),
    Option(
        "retry_backoff",
        "a number, zero or more",
        number,
        "times the wait before each later one",
        default=2.0,
    ),
    Option("retry_max_delay", _SECONDS, seconds, "the longest wait"),
    Option(
        "retry_jitter",
        "True, False or a fraction from 0 to 1",
        lambda value: value if isinstance(value, bool) else number(value, 1),
        "shortens each wait at random by up to that part; True is 1",
        default=False,
    ),
    Option(
        "retry_on",
        "exception types, or a sync function of one",
        _errors,
        "which failures are tried again; all when not given",
        by_name="exceptions",
    ),
    Option(
        "timeout",
        _DEADLINE,
        deadline,
        "for each attempt; a late thread is abandoned, a late process is killed",
        label="timeout {:g} s",
    ),
    Option(
        "run_in",
        "'thread', 'process' or 'inline'",
        lambda value: _only(value, value in ("thread", "process", "inline")),
        "where it runs, whatever the mode; inline is the thread that called `run()`, or the loop's "
        "in `run_async`",
        label="in {}",
    ),
    Option(
        "uses",
        "the name of a limit, or a mapping of names to counts of at least 1",
        _units,
        "the limits that each attempt takes units of while it runs; see `Limits`",
        label=_units_told,
    ),
    Option(
        "priority",
        "a whole number",
        _whole,
        "of the nodes that wait for a slot or a limit the highest first",
        default=0,
        label="priority {}",
    ),
    _switch(
        "stored",
        "whether stores keep the value; if not, a run that goes on computes it again if it must",
        default=True,
    ),
    _switch(
        "once",
        "a run with a store calls it at most once, and is in doubt if nobody knows how that ended",
    ),
    _switch("wait", "wait for all edges in every mode", type="any"),
    _switch("several", "it may return a list of branches, which are all taken", type="select"),
    Option(
        "collect",
        "the name of a parameter",
        _text,
        "the parameter that gets a dict of the edges even when there is one",
        label="collect {}",
        type="all",
    ),
    Option(
        "over",
        "the name of a parameter, or a list of different names",
        _names,
        "a map: the function is called for each item of the collection that this parameter gets; "
        "of several side by side",
        label=lambda value: f"over {', '.join(value)}",
        type="map",
    ),
    Option(
        "product",
        "a list of different names of parameters",
        _names,
        "a map over all combinations of the items of several collections, the last one fastest",
        label=lambda value: f"product of {', '.join(value)}",
        type="map",
    ),
    Option(
        "keys",
        "a function of the items",
        _function,
        "makes the key of each item: the map returns a dict",
        by_name="function",
        label=lambda value: f"keys by {name_of_function(value)}",
        type="map",
    ),
    Option(
        "into",
        "a function of an iterator",
        _function,
        "is given the results as they come, and makes the value of the map",
        by_name="function",
        label=lambda value: f"into {name_of_function(value)}",
        type="map",
    ),
    _switch(
        "ordered",
        "whether `into` gets the results in the order of the items",
        default=True,
        type="map",
    ),
    Option(
        "on_error",
        "'fail', 'keep' or 'drop'",
        lambda value: _only(value, value in ("fail", "keep", "drop")),
        "what the failure of an item means: the map fails, an ItemError is in its place, or it is "
        "left out",
        default="fail",
        label="on_error {}",
        type="map",
    ),
    Option(
        "min_success",
        "a fraction from 0 to 1",
        lambda value: number(value, 1),
        "the least share of items that must complete; else the map fails",
        label="min_success {:g}",
        type="map",
    ),
    Option(
        "max_concurrency",
        "a count of at least 1",
        lambda value: count(value, 1),
        "how many items may be in progress at once",
        label="{} at once",
        type="map",
    ),
    Option(
        "cache",
        "a mapping that @dag.cached_node, or dag.cached_node(function, ...), makes of its options",
        dict,
        "what `cached_node` makes of its own options",
        label="cached",
    ),
)
"""The options of nodes, in the order in which files have them."""


def checked(
    given: Mapping[str, Any],
    whose: str,
    node: str | None,
    *,
    type: str = "node",
    table: Mapping[str, Option] = OPTIONS,
    others: Iterable[str] = ("name", "replace"),
) -> dict[str, Any]:
    """The options as they are kept: converted, and without those that are None.

    Raises InvalidNodeError for the first that there is not, or is not what it should be. `others`
    are suggested for it, too.

    >>> checked({"retry": True}, "node 'load'", "load")
    Traceback (most recent call last):
    fast_dag.errors.InvalidNodeError: node 'load': retry is a count of further attempts ...
    """
    kept = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            hint = closest(name, [*table, *others])[1]
            raise InvalidNodeError(f"{whose}: there is no option {name!r}{hint}", node=node)
        if value is None:
            continue
        try:
            kept[name] = option.read(value)
        except WRONG:
            raise InvalidNodeError(
                f"{whose}: {name} is {option.words}, not {value!r}", node=node
            ) from None
        if option.type and value and option.type not in fitting(type):
            advice = f"; {MAP_A_WORKFLOW}" if option.type == "map" else ""
            raise InvalidNodeError(f"{whose}: {name}= is for @dag.{option.type}{advice}", node=node)
    return kept


def told(options: Mapping[str, Any], names: Iterable[str] = OPTIONS) -> list[str]:
    """The options of a node in words, as far as they are of interest to readers; those with these
    names only.

    >>> told({"retry": 2, "over": ["x", "y"], "into": sum})
    ['retry 2', 'over x, y', 'into sum']
    """
    return [
        OPTIONS[name].told(options[name])
        for name in names
        if OPTIONS[name].label and options.get(name) not in (None, 0)
    ]


def fitting(type: str) -> tuple[str, str]:
    """What the options have as `type` that a type of node takes.

    >>> fitting("any"), fitting("node")
    (('', 'any'), ('', 'map'))
    """
    return "", "map" if type == "node" else type


MAP_A_WORKFLOW: Final = (
    "map a workflow that this one is a part of: dag.map(workflow, over=...) calls it for each item"
)
"""What to do instead of a map of what is no plain node."""
