"""Which choices exclude each other: what sets of pairs tell, at a cost that does not grow."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, Node
from fast_dag.plan.choices import Choices
from tests.counting import steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_dag.plan.choices import Needs

Pairs = frozenset[tuple[str, bool | str]]

DECIDERS = [f"d{number}" for number in range(70)]  # three levels
a_pair = st.tuples(st.sampled_from(DECIDERS), st.sampled_from([True, False, "a"]))
some_pairs = st.lists(a_pair, max_size=12)


def made(choices: Choices, pairs: Sequence[tuple[str, bool | str]]) -> Needs | None:
    needs = None
    for decider, branch in pairs:
        needs = choices.add(decider, branch, needs)
    return needs


def read(needs: Needs | None, levels: int = 3) -> Pairs:
    if needs is None:
        return frozenset()
    if levels == 0:
        return frozenset((each.decider, each.branch) for each in needs)
    return frozenset().union(*(read(each, levels - 1) for each in needs))


@given(st.lists(some_pairs, min_size=2, max_size=5))
def test_joined_and_common_choices_are_those_of_sets(several: list[list[tuple[str, bool]]]) -> None:
    choices = Choices(DECIDERS)
    trees = [made(choices, pairs) for pairs in several]
    for _ in range(2):  # what is remembered is the same
        for one, other in pairwise(trees):
            assert read(choices.either(one, other)) == read(one) | read(other)
            assert read(choices.both(one, other)) == read(one) & read(other)


@given(some_pairs, some_pairs)
def test_contradiction_is_found_where_a_decider_needs_two_branches(
    one: list[tuple[str, bool | str]], other: list[tuple[str, bool | str]]
) -> None:
    one, other = list(dict(one).items()), list(dict(other).items())  # one branch each
    choices = Choices(DECIDERS)
    clashing = [name for name in DECIDERS if dict(one).get(name, 0) != dict(other).get(name, 0)]
    clashing = [name for name in clashing if name in dict(one) and name in dict(other)]
    for _ in range(2):
        clash = choices.contradiction(made(choices, one), made(choices, other))
        assert (clash is None) is (not clashing)
        if clash is not None:
            assert {each.decider for each in clash} == {clashing[-1]}, "the latest is named"
            assert clash[0].branch == dict(one)[clashing[-1]]
            assert clash[1].branch == dict(other)[clashing[-1]]


def test_trees_that_add_nothing_are_shared() -> None:
    choices = Choices(DECIDERS)
    small, large = made(choices, [("d1", True)]), made(choices, [("d9", "a"), ("d1", True)])
    assert choices.either(large, small) is large
    assert choices.both(small, large) is small
    assert choices.add("d9", "a", large) is large


# What conditions that share a source cost.


def fan(count: int) -> DAG:
    """So many conditions of one source."""
    dag = DAG("fan").add_node("source", lambda: 1)
    for number in range(count):
        decider = dag.condition(lambda x: True, name=f"c{number}")
        dag.connect("source", decider)
        dag.add_node(f"n{number}", lambda x: x)
        decider.on_true >> dag.nodes[f"n{number}"]
    return dag


def joined_by_all(count: int) -> DAG:
    return _into(fan(count), count, Node(lambda *values: 1, "join", type="all"))


def joined_by_any(count: int) -> DAG:
    return _into(fan(count), count, Node(lambda x: 1, "join", type="any"))


def _into(dag: DAG, count: int, join: Node[..., object]) -> DAG:
    dag.add_node(join)
    for number in range(count):
        dag.connect(f"n{number}", "join")
    return dag


def joined_one_by_one(count: int) -> DAG:
    return _stairs(fan(count), range(count))


def joined_one_by_one_from_the_last(count: int) -> DAG:
    return _stairs(fan(count), range(count - 1, -1, -1))


def _stairs(dag: DAG, numbers: Sequence[int]) -> DAG:
    before = f"n{numbers[0]}"
    for number in numbers[1:]:
        dag.add_node(f"j{number}", lambda x, y: x)
        dag.connect(before, f"j{number}").connect(f"n{number}", f"j{number}")
        before = f"j{number}"
    return dag


def two_lanes(count: int) -> DAG:
    """Two chains of conditions, joined at every step."""
    dag = DAG("lanes").add_node("source", lambda: 1)
    last = dict.fromkeys("lr", dag.nodes["source"])
    for number in range(count):
        for lane in "lr":
            decider = dag.condition(lambda x: True, name=f"{lane}{number}")
            before = last[lane]
            (before.on_true if number else before) >> decider
            last[lane] = decider
        dag.add_node(f"j{number}", lambda x, y: x)
        for decider in last.values():
            decider.on_true >> dag.nodes[f"j{number}"]
    return dag


@pytest.mark.parametrize(
    "shape",
    [
        joined_by_all,
        pytest.param(joined_by_any, marks=pytest.mark.stress),
        joined_one_by_one_from_the_last,
        pytest.param(joined_one_by_one, marks=pytest.mark.stress),
        pytest.param(two_lanes, marks=pytest.mark.stress),
    ],
)
def test_condition_costs_the_same_among_many(shape: Callable[[int], DAG]) -> None:
    costs = []
    for count in (60, 600):
        dag = shape(count)
        costs.append(steps_of(dag.validate) / count)
        assert dag.validate() == []
    assert costs[1] < 2 * costs[0]
