"""One execution of a DAG: edges, branches, and what a part of it takes from earlier runs."""

from __future__ import annotations

from fast_dag.call.effects import ONE_SHOT
from fast_dag.define.node import NodeType
from fast_dag.plan.binding import GeneralBinding
from fast_dag.plan.branches import choice_of
from fast_dag.returns import ConditionalReturn, SelectReturn
from fast_dag.run.record import Record
from fast_dag.run.run import MISSING, Run, Verdict, shared_error
from fast_dag.schedule.base import NodeStatus
from fast_dag.schedule.dag import DagSchedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from fast_dag.call.effects import Outcome
    from fast_dag.context import Context
    from fast_dag.define.graph import Edge, Graph
    from fast_dag.draw.view import RunView
    from fast_dag.plan.plan import Plan
    from fast_dag.run.run import Settings


class DagRun(Run):
    """The Run of a DAG.

    `outputs` are the nodes whose values were asked for, `stored` an earlier run that the results
    from outside of a part come from.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: Context,
        settings: Settings,
        *,
        outputs: Sequence[str] | None = None,
        stored: DagRun | None = None,
        parent: Run | None = None,
        prefix: str = "",
    ) -> None:
        record = Record(plan.topology)
        super().__init__(
            graph, plan, inputs, context, settings, record, parent=parent, prefix=prefix
        )
        self._outputs = outputs
        self._stored = stored
        self._carried: dict[str, Any] = {}
        self._outside: dict[int, bool] = {}

    @property
    def _schedule(self) -> DagSchedule:
        schedule = self.record.schedule
        assert isinstance(schedule, DagSchedule)
        return schedule

    # The life of a run.

    def _check(self) -> None:
        if self.plan.missing or self.plan.topology.external:
            self._refuse_missing(self._end_outside())
        if self.inputs:
            self._refuse_shared_inputs()

    def _prepare_results(self) -> None:
        super()._prepare_results()
        if self._stored is not None:
            self._take_stored(self._stored)

    def close(self, status: str | None = None) -> None:
        super().close(status)
        self._carried.clear()

    def _final_value(self) -> Any:
        results, names_ = self.results, self.plan.names
        if self._outputs is not None:
            return {name: results[name] for name in self._outputs if name in results}
        sinks = self.plan.topology.sinks
        if len(sinks) == 1:
            return results.get(names_[sinks[0]])
        done = [index for index in sinks if names_[index] in results]
        if len(done) > 1 and self.record.schedule is not None:
            done = self._schedule.in_order(done)
        return results[names_[done[-1]]] if done else None

    def begin(self, *, eager: bool) -> list[int]:
        schedule = DagSchedule(self.plan.topology, eager=eager)
        self.record.schedule = schedule
        ready = schedule.begin(
            (target, self._outside[id(edge)]) for target, edge in self.plan.topology.external
        )
        if self.observers is not None:
            self._note_skipped()
        return ready

    def leave_straight(self) -> int:
        """The straight line was left at some node: its index. The schedule takes over."""
        done = len(self.record.stamps) - 1
        schedule = DagSchedule(self.plan.topology, eager=False)
        schedule.begin()
        order = self.plan.topology.order
        for index in order[:done]:
            schedule.complete(index)
        self.record.leave_straight(schedule)
        return order[done]

    def ready(self) -> list[int]:
        """The nodes that may start, of a run that left the straight line."""
        assert self.record.schedule is not None
        statuses = enumerate(self.record.schedule.status)
        return [index for index, status in statuses if status is NodeStatus.READY]

    def gather(self, index: int) -> tuple[list[Any], dict[str, Any]]:
        binding = self.plan.bindings[index]
        arguments = binding.gather(self)
        if index in self.plan.deciders:
            assert isinstance(binding, GeneralBinding)
            self._carried[self.plan.names[index]] = binding.fetch_given(self)
        return arguments

    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        name, value, choice = self.plan.names[index], outcome.value, None
        if type(value) in ONE_SHOT:
            self.refuse_sharing(index, value)
        if index in self.plan.deciders:
            choice = self._choice(name, value)
            passed_on = self._carried.get(name)
            returns = (ConditionalReturn, SelectReturn)
            if type(passed_on) in ONE_SHOT and not isinstance(value, returns):
                self.refuse_sharing(index, passed_on)
        return Verdict(outcome, name, choice)

    def refuse_sharing(self, index: int, value: Any) -> None:
        """Raise ValidationError where several nodes would share what only one can go through."""
        clash = self.plan.topology.clashing_consumers(index)
        if clash is not None:
            raise shared_error(self.plan.names[index], "returned", value, clash)

    # Edges and deciders.

    def is_live(self, edge: Edge) -> bool:
        """Whether an edge has ended live by now."""
        outside = self._outside.get(id(edge))
        if outside is not None:
            return outside
        return self._schedule.is_live(self.plan.topology.index[edge.source], edge.branch)

    def _run_view(self) -> RunView:
        view = super()._run_view()
        statuses = view.statuses

        def live(edge: Edge) -> bool | None:
            if edge.target not in statuses:
                return None
            if id(edge) in self._outside:
                return self._outside[id(edge)]
            status = statuses[edge.source]
            if status in (NodeStatus.FAILED, NodeStatus.SKIPPED):
                return False
            if status is not NodeStatus.COMPLETED:
                return None
            return self.record.schedule is None or self.is_live(edge)

        incoming = self.plan.topology.whole.incoming
        return view._replace(live=[[live(edge) for edge in edges] for edges in incoming])

    def carried(self, name: str) -> Any:
        """What the edges of a decider carry that returned a plain bool or name: what it was
        given."""
        carried, bindings = self._carried, self.plan.decider_bindings
        todo = [] if name in carried else [name]
        while todo:  # deciders outside of a narrowed plan, whose results are stored
            given = bindings[todo[-1]].given
            before = [
                edge.source
                for _, source in given
                if (edge := getattr(source, "edge", None)) is not None
                and edge.source in bindings
                and edge.source not in carried
                and not isinstance(self.results.get(edge.source), (ConditionalReturn, SelectReturn))
            ]
            if before:
                todo.extend(before)
            else:
                carried[todo[-1]] = bindings[todo[-1]].fetch_given(self)
                todo.pop()
        return carried[name]

    def _choice(self, name: str, value: Any) -> bool | str:
        """The branch that a decider's result takes."""
        return choice_of(self._node(name), value, self.plan.topology.known_branches(name))

    # Runs of a part: what comes from outside.

    def _take_stored(self, stored: DagRun) -> None:
        """Copy the results of an earlier run that this one does not compute itself."""
        inside = self.plan.topology.index
        for name, value in stored.results.items():
            if name not in inside and name not in self.results:
                self.results[name] = value
        for name, child in stored.children.items():
            if name not in inside:
                self.children.setdefault(name, child)

    def _end_outside(self) -> list[Edge]:
        """Find how each edge from outside ended; those whose source has no result that tells."""
        missing: list[Edge] = []
        topology = self.plan.topology
        by_target: dict[int, list[Edge]] = {}
        for target, edge in topology.external:
            by_target.setdefault(target, []).append(edge)
        for target, edges in by_target.items():
            lost = []
            for edge in edges:
                live = self._stored_liveness(edge)
                self._outside[id(edge)] = bool(live)
                if live is None:
                    lost.append(edge)
            live_ones = sum(self._outside[id(edge)] for edge in edges)
            if topology.nodes[target].type is NodeType.ANY:
                only_outside = len(edges) == len(topology.incoming[target])
                if not (only_outside and live_ones == 0):
                    lost = []
            elif live_ones + len(lost) < len(edges):  # one is dead: the node is skipped
                lost = []
            missing.extend(lost)
        return missing

    def _stored_liveness(self, edge: Edge) -> bool | None:
        """Whether an edge from outside is live, by the stored results; None where they lack it."""
        name, stored = edge.source, self._stored
        value = self.results.get(name, MISSING)
        if value is MISSING and stored is not None:
            value = stored.results.get(name, MISSING)
            if stored.was_left_out(name):
                return False
        if value is not MISSING:
            return edge.branch is None or self._choice(name, value) == edge.branch
        return True if edge.input is None and edge.branch is None else None

    def was_left_out(self, name: str) -> bool:
        """Whether a node was skipped since branches were not taken, and not since others failed."""
        left_out: set[int] = set()
        topology, schedule = self.plan.topology, self.record.schedule
        wanted = topology.index.get(name)
        if schedule is None or wanted is None:
            return False
        for index in topology.order:
            if schedule.status[index] is NodeStatus.SKIPPED:
                chosen_against = [
                    (source := topology.index.get(edge.source)) is None
                    or source in left_out
                    or schedule.status[source] is NodeStatus.COMPLETED
                    for edge in topology.incoming[index]
                    if not self.is_live(edge)
                ]
                all_or_any = all if topology.nodes[index].type is NodeType.ANY else any
                if all_or_any(chosen_against):
                    left_out.add(index)
        return wanted in left_out
