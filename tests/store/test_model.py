"""Random graphs that are interrupted, run again and forked, against the model of `tests.model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag.store import Store
from tests.model import Act, Model, Shape, World, make_dag
from tests.properties import tries
from tests.test_properties import shaped_worlds, statuses_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_dag import DAG, Run

pytestmark = pytest.mark.stress


class Ran(list[str]):
    """What was called. A node in `deadly` ends the run before it does anything, once."""

    def __init__(self, deadly: Iterable[str]) -> None:
        super().__init__()
        self.deadly = set(deadly)

    def append(self, name: str) -> None:
        super().append(name)
        if name in self.deadly:
            self.deadly.discard(name)
            raise KeyboardInterrupt

    def taken(self) -> list[str]:
        taken = list(self)
        self.clear()
        return taken


class Case:
    """A graph in a store, and what must be true of it after each step."""

    def __init__(self, data: st.DataObject, mode: Any) -> None:
        shape, self.world = data.draw(shaped_worlds())
        self.shape: Shape = shape.waiting()
        names = sorted(self.shape.by_name)
        self.data, self.mode = data, mode
        self.ran = Ran(data.draw(st.sets(st.sampled_from(names))))
        self.dag: DAG = make_dag(self.shape, self.world, self.ran)
        self.store = Store(":memory:")

    def finished(self, run_id: str, **options: Any) -> Run:
        """Go on with a run until it has ended."""
        committed: dict[str, Any] = {}
        while True:
            try:
                run = self.dag.execute(
                    store=self.store,
                    run_id=run_id,
                    mode=self.mode,
                    error_strategy="continue",
                    **options,
                )
            except KeyboardInterrupt:
                assert self.store.run(run_id).status == "interrupted"
            else:
                self.same(run_id, committed)
                return run
            committed = self.same(run_id, committed)

    def same(self, run_id: str, committed: dict[str, Any]) -> dict[str, Any]:
        """What is committed. What was before has not changed, and was not called again."""
        record = self.store.run(run_id)
        now = {
            path: (each.generation, str(each.error), record.get(path))
            for path, each in record.nodes.items()
        }
        if committed and next(iter(committed.values()))[0] == record.generation:
            assert committed.items() <= now.items()
            assert not committed.keys() & set(self.ran)
        self.ran.clear()
        return now

    def check(self, run: Run, world: World) -> None:
        model = Model(self.shape, world)
        assert statuses_of(run) == {name: model.status(name) for name in self.shape.by_name}
        for name in self.shape.by_name:
            if model.status(name) == "completed":
                assert run[name] == model.value(name)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@given(data=st.data())
@tries(40)
def test_interrupted_rerun_and_forked_runs_end_as_undisturbed_ones(
    mode: str, data: st.DataObject
) -> None:
    case = Case(data, mode)
    names = sorted(case.shape.by_name)
    with case.store:
        case.check(case.finished("a"), case.world)
        case.ran.clear()
        case.check(case.dag.execute(store=case.store, run_id="a"), case.world)
        assert case.ran == []
        chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
        below = {name for each in chosen for name in case.shape.below(each)}
        case.ran.deadly = data.draw(st.sets(st.sampled_from(names)))
        case.check(case.finished("a", rerun=sorted(chosen)), case.world)
        case.store.fork("a", run_id="b", at=chosen)
        assert not below & case.store.run("b").nodes.keys()
        case.ran.deadly = data.draw(st.sets(st.sampled_from(names)))
        case.check(case.finished("b"), case.world)
        for name, act in case.world.items():
            case.world[name] = Act(False, act.choice, act.passes)
        case.check(case.finished("a", rerun="failed"), case.world)
