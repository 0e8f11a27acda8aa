"""The graphs that are measured, and the same calls made by hand.

L is straight-line Python, a line for each call; P a loop over prepared (function, positions) pairs
with the results in a list; G the obvious loop with keyword calls and the results in a dict; M is G
with two clock reads for each call.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Callable


class Call(NamedTuple):
    """A node: its function, and the nodes whose results are its arguments, in order."""

    name: str
    func: Callable[..., Any]
    sources: tuple[str, ...] = ()


Calls = list[Call]
"""A graph, each node after those it depends on."""


def one() -> int:
    return 1


def increment(x: int) -> int:
    return x + 1


def larger(x: int, y: int) -> int:
    return 1 + (x if x > y else y)


def count(*values: int) -> int:
    return len(values)


def chain(
    nodes: int,
    step: Callable[[Any], Any] = increment,
    start: Callable[[], Any] = one,
) -> Calls:
    """Each node takes the result of the one before."""
    first = Call("n0", start)
    return [first, *(Call(f"n{index}", step, (f"n{index - 1}",)) for index in range(1, nodes))]


def side_by_side(calls: Calls) -> Calls:
    """The same twice, independent of each other."""
    twins = [
        Call(f"{name} too", func, tuple(f"{source} too" for source in sources))
        for name, func, sources in calls
    ]
    return [*calls, *twins]


def layered(depth: int, width: int) -> Calls:
    """Layers of `width` nodes, each of which takes two results of the layer above."""
    calls = [Call(f"n0_{column}", one) for column in range(width)]
    for row in range(1, depth):
        for column in range(width):
            above = f"n{row - 1}_{column}", f"n{row - 1}_{(column + 1) % width}"
            calls.append(Call(f"n{row}_{column}", larger, above))
    return calls


def fan(width: int) -> Calls:
    """From one node to `width`, and from all of these to one."""
    middle = [Call(f"n{index}", increment, ("start",)) for index in range(width)]
    return [Call("start", one), *middle, Call("end", count, tuple(call.name for call in middle))]


def independent(nodes: int, func: Callable[[], Any]) -> Calls:
    """No edges at all."""
    return [Call(f"n{index}", func) for index in range(nodes)]


# The engine.


def define(calls: Calls, **options: Any) -> DAG:
    """The calls as nodes of a DAG, not connected yet; `options` are those of each node."""
    dag = DAG("measured")
    for name, func, _ in calls:
        dag.add_node(name, func, **options)
    return dag


def connect(dag: DAG, calls: Calls) -> DAG:
    for name, _, sources in calls:
        for source in sources:
            dag.connect(source, name)
    return dag


def dag_of(calls: Calls, **options: Any) -> DAG:
    """The calls as a DAG; `options` are those of each node."""
    return connect(define(calls, **options), calls)


def hooked_dag(calls: Calls) -> DAG:
    """The calls as nodes with a hook that does nothing."""
    dag = dag_of(calls)
    dag.set_default_hooks(pre_execute=lambda node, inputs: None)
    return dag


def cached_dag(calls: Calls) -> DAG:
    """The calls as cached nodes."""
    dag = DAG("cached")
    for name, func, _ in calls:
        dag.cached_node(name=name)(func)
    return connect(dag, calls)


# By hand.


def straight_line(calls: Calls) -> Callable[[], Any]:
    """L: the calls as the lines of one function, their results in its local variables."""
    variables = {call.name: f"v{index}" for index, call in enumerate(calls)}
    functions = {call.func: f"f{index}" for index, call in enumerate(calls)}  # the last name counts
    lines = ["def line():"]
    for name, func, sources in calls:
        arguments = ", ".join(variables[source] for source in sources)
        lines.append(f"    {variables[name]} = {functions[func]}({arguments})")
    lines.append(f"    return {variables[calls[-1].name]}")
    namespace: dict[str, Any] = {name: func for func, name in functions.items()}
    exec("\n".join(lines), namespace)
    return namespace["line"]  # type: ignore[no-any-return]


def prepared_pairs(calls: Calls) -> Callable[[], Any]:
    """P: a loop over prepared (function, positions) pairs, the results in a list."""
    positions = {call.name: index for index, call in enumerate(calls)}
    pairs = [(call.func, [positions[source] for source in call.sources]) for call in calls]

    def loop() -> Any:
        results: list[Any] = []
        for func, where in pairs:
            results.append(func(*[results[position] for position in where]))
        return results[-1]

    return loop


def _by_keyword(calls: Calls) -> list[tuple[str, Callable[..., Any], list[tuple[str, str]]]]:
    return [
        (name, func, list(zip(func.__code__.co_varnames, sources, strict=False)))
        for name, func, sources in calls
    ]


def keyword_loop(calls: Calls) -> Callable[[], Any]:
    """G: a loop of keyword calls, the results in a dict."""
    steps, last = _by_keyword(calls), calls[-1].name

    def loop() -> Any:
        results: dict[str, Any] = {}
        for name, func, arguments in steps:
            results[name] = func(**{parameter: results[key] for parameter, key in arguments})
        return results[last]

    return loop


def measured_loop(calls: Calls) -> Callable[[], Any]:
    """M: the same with two clock reads for each call."""
    steps, last = _by_keyword(calls), calls[-1].name

    def loop() -> Any:
        results: dict[str, Any] = {}
        times: dict[str, float] = {}
        for name, func, arguments in steps:
            started = perf_counter()
            results[name] = func(**{parameter: results[key] for parameter, key in arguments})
            times[name] = perf_counter() - started
        return results[last]

    return loop
