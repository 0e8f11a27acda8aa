"""Random graphs that go on after failures, against the model of `tests.model`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.model import Model, Shape, World, definition_order, make_dag
from tests.properties import tries
from tests.test_properties import EXAMPLES, in_every_way, shaped_worlds, statuses_of, worlds
from tests.ways import EXECUTE

if TYPE_CHECKING:
    from tests.model import Edge


class Resumed:
    """What must come of going on: which nodes are `taken` from a run in the world `before`; the
    others run in the world `after`. The values of the nodes in `gone` were deleted."""

    def __init__(self, shape: Shape, before: World, after: World, gone: set[str]) -> None:
        self.shape = shape
        self.first = Model(shape, before)
        self.gone = gone
        self.stands: dict[str, str] = {}
        sources = {edge.source for edge in shape.edges}
        sinks = [name for name in definition_order(shape) if name not in sources]
        self.forced: set[str] = set()
        while True:
            self.stands = {}
            for name in self.first.shape.by_name:
                self.stand(name)
            lost = {each for name in self.stands for each in self.lost(name)} - self.forced
            if not self.forced:  # what the run returns
                lost |= gone & set([n for n in sinks if self.stands[n] == "taken"][-1:])
            if not lost:
                break
            self.forced |= lost
        self.taken = {name for name, stand in self.stands.items() if stand == "taken"}
        self.world = {name: (before if name in self.taken else after)[name] for name in before}
        self.model = Model(shape, self.world)

    def stand(self, name: str) -> str:
        if name not in self.stands:
            self.stands[name] = self._stand(name)
        return self.stands[name]

    def _stand(self, name: str) -> str:
        edges = self.shape.into(name)
        dead = [self.live(edge) is False for edge in edges if not edge.optional]
        if dead and (all(dead) if self.shape.by_name[name].kind == "any" else any(dead)):
            return "skipped"
        if self.first.status(name) != "completed" or name in self.forced:
            return "runs"
        return "runs" if any(self.stand(e.source) == "runs" for e in edges) else "taken"

    def live(self, edge: Edge) -> bool | None:
        stand = self.stand(edge.source)
        if stand == "runs":
            return None
        if stand != "taken":
            return False
        return edge.branch is None or self.first.takes(edge.source, edge.branch)

    def carries(self, name: str) -> bool:
        """Whether the edges of a decider carry what it was given."""
        decides = self.shape.by_name[name].kind in ("condition", "select")
        return decides and not self.first.world[name].passes

    def lost(self, name: str, *, carries: bool = False) -> set[str]:
        """What a node that runs needs, and is gone."""
        lost: set[str] = set()
        if self.stands[name] != "runs" and not carries:
            return lost
        for edge in self.shape.into(name):
            source = edge.source
            if edge.parameter is None or self.stands[source] != "taken" or not self.live(edge):
                continue
            if source in self.gone:
                lost.add(source)
            elif self.carries(source):
                lost |= self.lost(source, carries=True)
        return lost


@in_every_way
def test_run_that_goes_on_runs_what_did_not_complete_and_all_below(way: str) -> None:
    @tries(EXAMPLES.get(way, 20))
    @given(st.data(), shaped_worlds(), st.booleans())
    def check(data: Any, drawn: tuple[Shape, World], travels: bool) -> None:
        shape, before = drawn
        shape = shape.waiting()
        after = data.draw(worlds(shape))
        world = dict(before)
        dag = make_dag(shape, world)
        first = EXECUTE[way](dag, error_strategy="continue")
        completed = sorted(first.results)
        gone = data.draw(st.sets(st.sampled_from(completed), max_size=2)) if completed else set()
        for name in gone:
            del first.results[name]
        if travels:
            first = pickle.loads(pickle.dumps(first))
        expected = Resumed(shape, before, after, gone)
        world.update(expected.world)
        run = EXECUTE[way](dag, resume=first, error_strategy="continue")
        model = expected.model
        assert statuses_of(run) == model.statuses
        called = {name for name, at in model.statuses.items() if at != "skipped"} - expected.taken
        assert set(run.timings) == called
        lost = gone & expected.taken
        assert run.results == {n: v for n, v in model.values.items() if n not in lost}

    check()
