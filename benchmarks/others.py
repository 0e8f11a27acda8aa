"""The same chain of 1,000 functions in other libraries, and a ring of three states, each next to L.

    pip install sf-hamilton dask tawazi dagex pipefunc langgraph transitions python-statemachine
    python benchmarks/others.py [names...] [--json FILE] [--quick]

Libraries that are not installed are skipped. What is timed is a run of a graph that was built and
has run before, as each library's own documentation runs one.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from graphs import chain, dag_of, increment, one, straight_line
from report import command_line
from timing import Row, Skip, in_turn, per_node, ratios, same_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from report import Benchmark
    from timing import Effort

_NODES = 1_000
_LAST = f"n{_NODES - 1}"

# Each gives what runs the chain.


def fast_dag() -> Callable[[], Any]:
    return dag_of(chain(_NODES)).run


def dagex() -> Callable[[], Any]:
    import dagex

    graph = dagex.Graph()
    graph.add(lambda _: {"v": one()}, "n0", None, [("v", "n0")])
    for index in range(1, _NODES):
        ports = [(f"n{index - 1}", "x")], [("v", f"n{index}")]
        graph.add(lambda inputs: {"v": increment(inputs["x"])}, f"n{index}", *ports)
    built = graph.build()
    return lambda: built.execute(parallel=False).get(_LAST)


def dask() -> Callable[[], Any]:
    import dask

    tasks: dict[str, Any] = {"n0": (one,)}
    tasks |= {f"n{index}": (increment, f"n{index - 1}") for index in range(1, _NODES)}
    return lambda: dask.get(tasks, _LAST)


def hamilton() -> Callable[[], Any]:
    from hamilton import ad_hoc_utils, driver

    # Edges are the names of parameters there, so each node needs a function of its own.
    lines = ["def n0() -> int:", "    return 1"]
    for index in range(1, _NODES):
        before = f"n{index - 1}"
        lines += [f"def n{index}({before}: int) -> int:", f"    return {before} + 1"]
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    functions = [made[f"n{index}"] for index in range(_NODES)]
    module = ad_hoc_utils.create_temporary_module(*functions, module_name="chain_of_nodes")
    built = driver.Builder().with_modules(module).build()
    return lambda: built.execute([_LAST])[_LAST]


def langgraph() -> Callable[[], Any]:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(dict)
    graph.add_node("n0", lambda _: {"x": one()})
    graph.add_edge(START, "n0")
    for index in range(1, _NODES):
        graph.add_node(f"n{index}", lambda state: {"x": increment(state["x"])})
        graph.add_edge(f"n{index - 1}", f"n{index}")
    graph.add_edge(_LAST, END)
    compiled = graph.compile()
    return lambda: compiled.invoke({"x": 0}, {"recursion_limit": _NODES + 1})["x"]


def pipefunc() -> Callable[[], Any]:
    from pipefunc import PipeFunc, Pipeline

    steps = (
        PipeFunc(increment, f"n{index}", renames={"x": f"n{index - 1}"})
        for index in range(1, _NODES)
    )
    return partial(Pipeline([PipeFunc(one, "n0"), *steps]).run, _LAST, kwargs={})


def tawazi() -> Callable[[], Any]:
    from tawazi import dag, xn

    first, step = xn(one), xn(increment)

    @dag
    def pipeline() -> Any:
        value = first()
        for _ in range(_NODES - 1):
            value = step(value)
        return value

    return pipeline  # type: ignore[no-any-return]


# Each gives what sends a state machine a thousand times around the ring.

_STATES = "red", "green", "yellow"


def transitions() -> Callable[[], Any]:
    from transitions import Machine

    follows = [["go", at, _STATES[index - 2]] for index, at in enumerate(_STATES)]
    machine: Any = Machine(states=list(_STATES), transitions=follows, initial="red")

    def ring() -> Any:
        machine.set_state("red")
        for _ in range(_NODES):
            machine.go()
        return machine.state

    return ring


def python_statemachine() -> Callable[[], Any]:
    from statemachine import State, StateMachine

    class Ring(StateMachine):  # type: ignore[misc]
        red, green, yellow = State(initial=True), State(), State()
        go = red.to(green) | green.to(yellow) | yellow.to(red)

    def ring() -> Any:
        machine = Ring()
        for _ in range(_NODES):
            machine.send("go")
        return next(iter(machine.configuration)).id

    return ring


def _ring_by_hand() -> Any:
    follows = {at: _STATES[index - 2] for index, at in enumerate(_STATES)}
    state = "red"
    for _ in range(_NODES):
        state = follows[state]
    return state


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Some of these libraries go through a graph by recursion."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _next_to(
    make: Callable[[], Callable[[], Any]],
    package: str | None,
    by_hand: Callable[[], Any],
    unit: str,
    effort: Effort,
) -> Iterator[Row]:
    with deep_recursion():
        try:
            theirs = make()
        except ImportError as error:
            raise Skip(f"{error.name} is not installed") from None
        same_results(by_hand, theirs)
        seconds, line = in_turn(theirs, by_hand, rounds=effort.of(7, 1))
    noted = per_node("us a node", seconds, _NODES)
    work = "this fast_dag" if package is None else f"{package} {version(package)}"
    yield Row(work, ratios(seconds, line), unit, None, noted)


def _benchmarks() -> Iterator[tuple[str, Benchmark]]:
    line = straight_line(chain(_NODES))
    for make, package, by_hand, unit in (
        (fast_dag, None, line, "x L"),
        (dagex, "dagex", line, "x L"),
        (dask, "dask", line, "x L"),
        (hamilton, "sf-hamilton", line, "x L"),
        (tawazi, "tawazi", line, "x L"),
        (pipefunc, "pipefunc", line, "x L"),
        (langgraph, "langgraph", line, "x L"),
        (transitions, "transitions", _ring_by_hand, "x dict lookup"),
        (python_statemachine, "python-statemachine", _ring_by_hand, "x dict lookup"),
    ):
        yield make.__name__, partial(_next_to, make, package, by_hand, unit)


if __name__ == "__main__":
    command_line(dict(_benchmarks()), description=__doc__)
