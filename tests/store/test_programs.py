"""What people write who know stores from their documentation only."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import DAG, ConditionalReturn, SelectReturn
from fast_dag.store import Store


class Stop(KeyboardInterrupt):
    """Ctrl-C in a node."""


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_decisions_with_values_of_their_own_are_replayed(mode: Any) -> None:
    dag, calls = DAG("decide"), list[str]()

    @dag.condition
    def is_large(n: int) -> ConditionalReturn:
        calls.append("is_large")
        return ConditionalReturn(n > 2, value=[n])

    @dag.node
    def large(value: list[int]) -> list[int]:
        return value * 2

    @dag.select(several=True)
    def ways(value: Any):  # type: ignore[no-untyped-def]  # nothing names the class
        calls.append("ways")
        return SelectReturn(["left", "right"], value=(1, value))

    @dag.node
    def left(value: Any) -> Any:
        return "left", value

    @dag.node
    def right(value: Any) -> Any:
        if len(calls) == 2:
            calls.append("stopped")
            raise Stop
        return "right", value

    @dag.all
    def both(values: dict[str, Any]) -> dict[str, Any]:
        return values

    is_large.on_true >> large >> ways
    for each in (left, right):
        dag.connect("ways", each, output=each.name)
        each >> both
    with Store(":memory:") as store:
        with pytest.raises(Stop):
            dag.run(store=store, run_id="a", n=3, mode=mode)
        value = dag.run(store=store, run_id="a", mode=mode)
        assert value == {"left": ("left", (1, [3, 3])), "right": ("right", (1, [3, 3]))}
        assert calls == ["is_large", "ways", "stopped"]
        assert store.run("a")["is_large"] == ConditionalReturn(True, value=[3])
