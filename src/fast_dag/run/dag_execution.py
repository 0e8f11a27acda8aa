"""The execution of a DAG: edges, branches, and what was known before it began."""

from __future__ import annotations

from time import perf_counter, time

from fast_dag.call.effects import ONE_SHOT
from fast_dag.define.node import NodeType
from fast_dag.define.signature import ABSENT
from fast_dag.errors import failures
from fast_dag.plan.binding import gives_one_shot, part_of
from fast_dag.plan.branches import choice_of
from fast_dag.returns import ConditionalReturn, SelectReturn
from fast_dag.run import failures as told
from fast_dag.run.execution import Execution, Verdict
from fast_dag.run.keeping import Keeping
from fast_dag.run.record import Record
from fast_dag.run.resumption import Resumption, changed_inputs
from fast_dag.schedule.base import COMPLETED, NodeStatus
from fast_dag.schedule.dag import DagSchedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from fast_dag.call.effects import Attempt, Outcome
    from fast_dag.context import Context
    from fast_dag.define.graph import Edge, Graph
    from fast_dag.define.mapspec import MapSpec
    from fast_dag.draw.view import RunView
    from fast_dag.plan.plan import Plan
    from fast_dag.run.execution import Ended
    from fast_dag.run.items import Items
    from fast_dag.run.resumption import Earlier
    from fast_dag.run.settings import Settings
    from fast_dag.schedule.dag import Choice


_RETURNS = (ConditionalReturn, SelectReturn)

_TELLS = frozenset({"completed", "completed_with_errors"})
"""The ends of executions that tell the next one how long its nodes take."""


class DagExecution(Execution):
    """One execution of a DAG.

    `outputs` are the nodes whose values were asked for. `earlier` is an execution of the same DAG
    that the results from outside of a narrowed plan come from.
    """

    _failed: dict[int, Outcome] | None = None  # the nodes that failed before
    _garbage: list[Any] | None = None  # what is to be freed when no lock is held
    _is_resumed = False
    _resumes: tuple[Any, set[str]] | None = None
    _resumption: Resumption | None = None
    _inner: dict[str, Any] | None = None  # what nested workflows go on from
    _items: dict[str, Any] | None = None  # and the results that maps go on with
    _valueless: Collection[int] = ()  # the nodes that completed before, with what is not known

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: Context,
        settings: Settings,
        *,
        outputs: Sequence[str] | None = None,
        earlier: Earlier | None = None,
        parent: Execution | None = None,
        prefix: str = "",
    ) -> None:
        record = Record(plan.topology)
        super().__init__(
            graph, plan, inputs, context, settings, record, parent=parent, prefix=prefix
        )
        self._outputs = outputs
        self._earlier = earlier
        self._carried: dict[str, Any] = {}
        self._outside: dict[int, bool] = {}  # by the edge's id: whether it ended live
        self._known: DagSchedule | None = None  # how nodes outside of a narrowed plan ended
        self._replayed: dict[int, Any] = {}  # the choices of nodes that completed before
        if settings.keep == "outputs":
            kept = (plan.topology.index[name] for name in outputs or ())
            self.keeping = Keeping(plan.topology, {*kept, *plan.topology.sinks})
            self.dropped = self._dropped = set[str]()
            self._left_out: set[int] = set()
            self._garbage = []

    @property
    def _schedule(self) -> DagSchedule:
        schedule = self.record.schedule
        assert isinstance(schedule, DagSchedule)
        return schedule

    @property
    def is_straight(self) -> bool:
        return not self._is_resumed and super().is_straight

    @property
    def wanted(self) -> Sequence[str]:
        """The nodes whose values make its value; of sinks, the last of these that completes."""
        if self._outputs is not None:
            return self._outputs
        return [self.plan.names[index] for index in self.plan.topology.telling]

    @property
    def choices(self) -> Mapping[str, Any]:
        schedule = self.record.schedule
        names = self.plan.names
        chosen = {} if schedule is None else self._schedule.choices
        return {names[index]: choice for index, choice in chosen.items()}

    # Begin and end.

    def resume(self, earlier: Any, changed: set[str]) -> None:
        """Go on from an earlier execution; must be called before `open`. `changed` are the inputs
        that are not what they were there."""
        self._is_resumed, self._resumes = True, (earlier, changed)

    def _check(self) -> None:
        if self.plan.missing or self.plan.topology.external:
            missing = self._end_outside()
            unfed, lost = self._not_passed_on()
            if missing or lost or unfed or self.plan.missing:
                raise told.missing_inputs(
                    self.name,
                    [*self.plan.missing, *unfed],
                    [*missing, *lost],
                    self.advice,
                    self.plan.topology.whole.index,
                    {*(node for node, _ in unfed), *(edge.target for edge in lost)},
                )
            self._refuse_consumed()
        if self.inputs:
            self._refuse_shared_inputs()
        if self._resumes is not None:
            earlier, changed = self._resumes
            topology = self.plan.topology
            self._resumption = Resumption(self, earlier, changed, self._outputs)
            self._refuse_consumed_inputs(self._resumption)
            for index in self._resumption.taken:
                name = topology.names[index]
                value = earlier.results.get(name)
                if ONE_SHOT[type(value)] and name not in earlier.consumed:
                    self.refuse_sharing(index, value)

    def _prepare_results(self) -> None:
        resumption = self._resumption
        known = None if resumption is None else dict(resumption.earlier.results)
        super()._prepare_results()
        if self._earlier is not None:
            self._take_results(self._earlier)
        if resumption is not None and known is not None:
            self._take_up(resumption, known)
        # All is taken. What is left of the earlier execution, and of those that it went on from,
        # is freed.
        self._earlier = self._resumes = self._resumption = None

    def _take_up(self, resumption: Resumption, known: Mapping[str, Any]) -> None:
        """Take what completed in an earlier execution, of which these are the results."""
        earlier, results, topology = resumption.earlier, self.results, self.plan.topology
        nodes = topology.whole.index
        for name, value in known.items():  # what nodes stored under names of their own
            if name not in nodes:
                results.setdefault(name, value)
        dropped = []
        for index in resumption.taken:
            name = topology.names[index]
            self._replayed[index] = resumption.choices.get(index)
            if name in known:
                results[name] = known[name]
            elif name in earlier.dropped:
                dropped.append(name)
            child = earlier.children.get(name)
            if child is not None:
                self.children[name] = child
                if child.failures.are_items:
                    self.failures.adopt(name, child.failures)
            if name in earlier.items:
                self._take_items(name, earlier.items[name])
        if self.keeping is None:
            self.dropped = dropped
        else:
            self._dropped.update(dropped)
        self.record.taken = frozenset(self._replayed)
        self.record.used_up = earlier.consumed
        self._items = {}
        for name, items in earlier.items.items():
            at = topology.index.get(name)
            if at is not None and resumption.goes_on(at):
                self._items[name] = items._results
        self._inner = {}
        for name, child in earlier.children.items():
            at = topology.index.get(name)
            if at is not None and resumption.runs(at) and not resumption.is_fed_anew(at):
                self._inner[name] = child

    def _refuse_consumed_inputs(self, resumption: Resumption) -> None:
        earlier = resumption.earlier
        for name, value in self.inputs.items():
            if not ONE_SHOT[type(value)] or value is not earlier.inputs.get(name):
                continue
            for taker in self.plan.takers(name):
                if resumption.runs(self.plan.topology.index[taker]):
                    raise told.consumed(f"the input {name!r}", value, taker)

    def child(self, index: int, inputs: dict[str, Any]) -> Execution:
        child = super().child(index, inputs)
        name = self.plan.names[index]
        earlier: Any = None if self._inner is None else self._inner.pop(name, None)
        if earlier is not None and earlier.noun == self.noun and isinstance(child, DagExecution):
            child.resume(earlier, changed_inputs(inputs, earlier.inputs))
        return child

    def nested(self, index: int, attempt: Attempt) -> Execution:
        step = self.plan.steps[index]
        if not step.maps:
            return super().nested(index, attempt)
        from fast_dag.run.map_execution import MapExecution  # for those who map

        known = {} if self._items is None else self._items.pop(step.name, {})
        store = None if self.store is None else self.store.items(self, index)
        if store is not None:
            known = store.known
        mapping = MapExecution(self, index, step.nested, attempt, known)
        mapping.store = store
        self.items = {**self.items, step.name: mapping.tally}
        return mapping

    def replay(self, ended: Iterable[Ended]) -> None:
        """Take these as the ends of nodes, instead of calling them. Must be called after `open` and
        before `begin`."""
        index_of, results, spans = self.plan.topology.index, self.results, self.record.spans
        shift = perf_counter() - time()
        steps, replayed = self.plan.steps, self._replayed
        known = self._failed = {}
        valueless = self._valueless = set[int]()
        for name, failed, value, choice, began, seconds in ended:
            index = index_of[name]
            start = began + shift
            spans.append((index, start, start + seconds))
            if failed is None:
                if value is ABSENT:
                    valueless.add(index)
                else:
                    results[name] = value
                replayed[index] = choice
            else:
                known[index] = failed
            if steps[index].maps or steps[index].nests:
                self._replay_inside(index, ABSENT if failed is not None else value)
        self.record.taken = {*self._replayed, *known}
        self.context._metrics["replayed"] = len(self.record.taken)

    def keep(self, index: int, outcome: Outcome) -> None:
        """A node is not called, because its old end, which was not replayed, still holds."""
        taken = self.record.taken
        assert isinstance(taken, set)
        taken.add(index)
        if outcome.value is ABSENT:
            self._valueless = {*self._valueless, index}
        self.context._metrics["replayed"] = len(taken)
        self._replay_inside(index, outcome.value if outcome.ok else ABSENT)

    def _replay_inside(self, index: int, result: Any) -> None:
        """Take what a node that is not called has inside, if it is a map or a workflow."""
        step = self.plan.steps[index]
        if step.maps:
            assert step.node.map is not None
            self._replay_items(step.name, step.node.map, result)
        elif step.nests:
            self._replay_child(index)

    def _replay_items(self, name: str, spec: MapSpec, result: Any) -> None:
        """Take what is known of the items of a map that has ended."""
        from fast_dag.run.items import Items  # for those who map

        assert self.store is not None
        known = self.store.ended_items(name)
        self._take_items(name, Items._restored(self.prefix + name, spec, result, *known))

    def _take_items(self, name: str, tally: Items) -> None:
        """Take the items of a map that is not called, and the errors of those that failed."""
        self.items = {**self.items, name: tally}
        for failed in tally._kept:
            self.failures.add_item(name, failed)

    def _replay_child(self, index: int) -> None:
        """Make the execution of a nested workflow whose node has ended, as it was."""
        nested = self.plan.steps[index].nested
        child = self.child(index, {} if nested is None else dict.fromkeys(nested.input_names))
        if child.store is None:
            del self.children[self.plan.names[index]]
            return
        child.context._enter_run(child.record)
        child.record.begin()
        child.begin(eager=True)
        child.close()
        child.inputs = {}
        if child.failures.are_items:
            self.failures.adopt(self.plan.names[index], child.failures)

    def _fail_again(self, failed: Mapping[int, Outcome]) -> None:
        """Record failures that were committed. They stand, and nobody is asked about them."""
        for index, outcome in failed.items():
            name, verdict = self.plan.names[index], outcome.verdict
            child = self.children.get(name)
            if child is not None and verdict.key != name:
                self.failures.adopt(name, child.failures)
            key, known = verdict.key, self.failures.errors
            # The item that failed a map is among those of its items, as if the map had kept it.
            if key is not None and (key not in known or name in self.items):
                self.failures.add(key, outcome.value, outcome.attempts, outcome.where)
            if not verdict.goes_on and not self._stopped:
                self._stopped, self.failures.fatal = True, verdict.key

    def begin(self, *, eager: bool) -> list[int]:
        if self.store is not None:
            self.replay(self.store.load(self))
        if self.observers is not None and self._replayed and self.parent is None:
            self.observers.go_on_from(
                {self.plan.names[index] for index in (*self._replayed, *(self._failed or ()))}
            )
        schedule = DagSchedule(self.plan.topology, eager=eager)
        self.record.schedule = schedule
        outside = [
            (target, edge.optional or self._outside[id(edge)]) for target, edge in self._external
        ]
        ready = schedule.begin(outside, self._replayed, self._failed)
        if self._failed:
            self._fail_again(self._failed)
        if self.keeping is not None:
            for index in self._replayed:
                self._drop(self.keeping.ended(index))
        if self.is_told_each:
            self._note_ended(None)
        return [] if self._stopped else ready

    # Results that nobody takes any more.

    def _note_ended(self, completed: int | None) -> None:
        if self.keeping is not None:
            if completed is not None:
                child = self.children.get(self.plan.names[completed])
                if child is not None:
                    child.inputs = {}  # which it took from here
                self._drop(self.keeping.ended(completed))
            for index in self._schedule.skipped:
                if self._is_left_out(index):
                    self._left_out.add(index)
                    self._drop(self.keeping.ended(index))
        super()._note_ended(completed)

    def _is_left_out(self, index: int) -> bool:
        """Whether a node was skipped for a choice, and not because something failed."""
        topology = self.plan.topology
        dead = [
            source is None or source in self._left_out or self.record.status(source) == COMPLETED
            for edge in topology.incoming[index]
            for source in [topology.index.get(edge.source)]
            if not (edge.optional or self.is_live(edge))
        ]
        return all(dead) if topology.nodes[index].type is NodeType.ANY else any(dead)

    def _drop(self, nodes: list[int]) -> None:
        garbage = self._garbage
        assert garbage is not None
        for index in nodes:
            name = self.plan.names[index]
            value = self.results.pop(name, ABSENT)
            if value is not ABSENT:
                garbage.append(value)
                self._dropped.add(name)
            garbage.append(self._carried.pop(name, None))
            if index in self._replayed:  # what it nested belongs to the earlier run
                self.children.pop(name, None)
            elif name in self.children:
                garbage.append(self.children[name].let_go())

    def let_go(self) -> object:
        self.dropped = {*self.dropped, *self.results}
        return super().let_go()

    def deliver(self) -> None:
        if self._garbage:
            self._garbage = []
        super().deliver()

    def leave_straight(self) -> tuple[int, list[int]]:
        """A node of the straight line failed: its index, and the others that may start. From here
        on the schedule tells what has run."""
        order, done = self.plan.topology.order, len(self.record.stamps) - 1
        self.record.leave_straight()
        self._replayed = dict.fromkeys(order[:done])
        ready = self.begin(eager=False)
        ready.remove(order[done])
        return order[done], ready

    def close(self, status: str | None = None) -> None:
        super().close(status)
        if self.status in _TELLS:  # its record has times, and no values
            self.plan.told = self.record
        self._carried.clear()
        self._inner = self._items = None

    def _final_value(self) -> Any:
        results, names = self.results, self.plan.names
        if self._outputs is not None:
            return {name: results[name] for name in self._outputs if name in results}
        sinks = self.plan.topology.sinks
        if len(sinks) == 1:
            return results.get(names[sinks[0]])
        done = [index for index in sinks if names[index] in results or index in self._valueless]
        if len(done) > 1 and self.record.schedule is not None:
            done = self._schedule.in_order(done)
        return results.get(names[done[-1]]) if done else None

    # One node.

    def gather(self, index: int) -> Attempt:
        step = self.plan.steps[index]
        arguments = step.gather(self)
        if step.decides:
            self._carried[step.name] = self.plan.decider_bindings[step.name].fetch_given(self)
        return arguments

    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        step, value, choice = self.plan.steps[index], outcome.value, None
        if step.decides:
            choice = self._choice(step.name, value)
            if isinstance(value, _RETURNS):
                value = value.value
            else:
                value = self._carried.get(step.name)
                kind = type(value)
                if kind is dict or ONE_SHOT[kind] or step.name in self.plan.topology.picked:
                    self._refuse_taken(index, value)
        if ONE_SHOT[type(value)]:
            self.refuse_sharing(index, value)
        elif step.is_parted:
            self.refuse_shared_parts(index, value)
        return Verdict(outcome, step.name, choice)

    def refuse_sharing(self, index: int, value: Any) -> None:
        """Raise ValidationError if several would share what only one can go through: nodes, or a
        node and the caller, who asked for it by `outputs=`."""
        topology = self.plan.topology
        takers = topology.consumers(index)
        clash: Sequence[str] | None = topology.clash(takers)
        if clash is None and takers and topology.names[index] in (self._outputs or ()):
            clash = [topology.names[takers[0][0]], "outputs="]
        if clash is not None:
            raise told.shared(topology.names[index], "returned", value, clash)

    def refuse_shared_parts(self, index: int, value: Any) -> None:
        """The same for parts of it."""
        topology = self.plan.topology
        by_output: dict[str, list[tuple[int, Edge]]] = {}
        for target, edge in topology.consumers(index):
            if edge.output is not None:
                by_output.setdefault(edge.output, []).append((target, edge))
        for output, takers in by_output.items():
            clash = topology.clash(takers) if len(takers) > 1 else None
            if clash is None:
                continue
            node, edge = topology.nodes[index], takers[0][1]
            try:
                part, again = part_of(value, edge, node), part_of(value, edge, node)
            except failures():  # they will fail, and say why
                continue
            if part is again and ONE_SHOT[type(part)]:  # and is not made anew for each
                raise told.shared(topology.names[index], f"returned as {output!r}", part, clash)

    def _refuse_taken(self, index: int, given: Any) -> None:
        """Raise ValidationError if a decider passes on what only one node can go through, since it
        has taken that itself."""
        topology = self.plan.topology
        node = topology.nodes[index]
        inside: list[Any] = []
        if type(given) is dict and len(self.plan.decider_bindings[node.name].given) > 1:
            inside = [each for each in given.values() if ONE_SHOT[type(each)]]
        takers = [
            topology.names[target]
            for target, edge in topology.consumers(index)
            if gives_one_shot(edge, node, given) or (inside and edge.output is None)
        ]
        if takers:
            value = inside[0] if inside else given
            raise told.shared(node.name, "passes on", value, [node.name, *takers])

    # Edges and deciders.

    def is_live(self, edge: Edge) -> bool:
        """Whether an edge has ended live by now."""
        outside = self._outside.get(id(edge))
        if outside is not None:
            return outside
        if self.record.schedule is None:  # on the straight line all are
            return True
        topology = self.plan.topology
        source = topology.index.get(edge.source)
        if source is None:  # the edge leads from one node outside of this part to another
            assert self._known is not None
            return self._known.is_live(topology.whole.index[edge.source], edge.branch)
        return self._schedule.is_live(source, edge.branch)

    def carried(self, name: str) -> Any:
        """What the edges of a decider carry that returned a plain bool or name: what it was
        given."""
        carried, bindings = self._carried, self.plan.decider_bindings
        todo = [] if name in carried else [name]
        while todo:  # deciders that were not called in this execution
            given = bindings[todo[-1]].given
            before = [
                edge.source
                for _, source in given
                if (edge := getattr(source, "edge", None)) is not None
                and edge.source in bindings
                and edge.source not in carried
                and not isinstance(self.results.get(edge.source), _RETURNS)
            ]
            if before:
                todo.extend(before)
            else:
                carried[todo[-1]] = bindings[todo[-1]].fetch_given(self)
                todo.pop()
        return carried[name]

    def _choice(self, name: str, value: Any) -> Choice:
        """The branch that a decider's result takes."""
        whole = self.plan.topology.whole
        return choice_of(whole.nodes[whole.index[name]], value, whole.known_branches(name))

    # Parts: what comes from outside.

    @property
    def _external(self) -> Sequence[tuple[int, Edge]]:
        return self.plan.topology.external

    def _refuse_consumed(self) -> None:
        """Raise ValidationError where a node would be given a one-shot result that another was."""
        consumed = set[str]()
        results = {**(self._earlier.results if self._earlier else {}), **self.results}
        if self._earlier is not None:
            consumed.update(self._earlier.consumed.difference(self.results))
        if self.context._record is not None:
            consumed |= self.context._record.consumed(self.results)
        self.record.used_up = consumed
        self._refuse_shared_results(results)
        if not consumed:
            return
        whole = self.plan.topology.whole
        for target, external in self._external:
            if not self._outside[id(external)] or external.input is None:
                continue
            for edge in self._carriers(external):
                node, value = whole.nodes[whole.index[edge.source]], results.get(edge.source)
                if edge.source in consumed and gives_one_shot(edge, node, value):
                    name = self.plan.names[target]
                    raise told.consumed(f"the stored result of {edge.source!r}", value, name)

    def _carriers(self, external: Edge) -> Iterator[Edge]:
        """The edges that the value of an edge from outside comes by: itself, and those into the
        deciders above that pass on what they were given."""
        bindings, whole = self.plan.decider_bindings, self.plan.topology.whole
        todo, seen = [external], set[str]()
        while todo:
            edge = todo.pop()
            yield edge
            name = edge.source
            if name in bindings and name not in seen and self._passes_on(name):
                seen.add(name)
                todo += [each for each in whole.incoming[whole.index[name]] if each.input]

    def _passes_on(self, name: str) -> bool:
        """Whether the edges of a decider outside of this part carry what it was given."""
        earlier = {} if self._earlier is None else self._earlier.results
        return not isinstance(self.results.get(name, earlier.get(name)), _RETURNS)

    def _refuse_shared_results(self, results: Mapping[str, Any]) -> None:
        """Raise ValidationError where several nodes would share a one-shot result from outside."""
        topology = self.plan.topology
        takers: dict[str, list[tuple[int, Edge]]] = {}
        for target, edge in self._external:
            is_taken = edge.input is not None and self._outside[id(edge)]
            node = topology.whole.nodes[topology.whole.index[edge.source]]
            if is_taken and gives_one_shot(edge, node, results.get(edge.source)):
                takers.setdefault(edge.origin, []).append((target, edge))
        for origin, several in takers.items():
            clash = topology.clash(several) if len(several) > 1 else None
            if clash is not None:
                value = results.get(several[0][1].source)
                raise told.shared(origin, "returned", value, clash)

    def _take_results(self, earlier: Earlier) -> None:
        """Copy the results of an earlier execution that this one does not compute itself."""
        inside = self.plan.topology.index
        for name, value in earlier.results.items():
            if name not in inside and name not in self.results:
                self.results[name] = value
        for name, child in earlier.children.items():
            if name not in inside:
                self.children.setdefault(name, child)

    def _end_outside(self) -> list[Edge]:
        """Find how each edge from outside ended. Returns those that would have to be known: their
        source has no result, and the choices above it do not tell either."""
        if not self._external:
            return []
        known = self._known = self._known_outside()
        topology = self.plan.topology
        missing: list[Edge] = []
        by_target: dict[int, list[Edge]] = {}
        for target, edge in self._external:
            by_target.setdefault(target, []).append(edge)
        for target, edges in by_target.items():
            lost = []
            for edge in edges:
                source = topology.whole.index[edge.source]
                live: bool | None = known.is_live(source, edge.branch)
                if edge.optional:  # what has no result there has ended dead
                    self._outside[id(edge)] = bool(live)
                    continue
                if known.status[source] not in (NodeStatus.COMPLETED, NodeStatus.SKIPPED):
                    live = True if edge.input is None and edge.branch is None else None
                self._outside[id(edge)] = bool(live)
                if live is None:
                    lost.append(edge)
            required = [edge for edge in edges if not edge.optional]
            live_ones = sum(self._outside[id(edge)] for edge in required)
            if topology.nodes[target].type is NodeType.ANY:
                only_outside = len(edges) == len(topology.incoming[target])
                if not (only_outside and live_ones == 0):
                    lost = []
            elif live_ones + len(lost) < len(required):  # one is dead: the node is skipped
                lost = []
            missing.extend(lost)
        return missing

    def _not_passed_on(self) -> tuple[list[tuple[str, str]], list[Edge]]:
        """What the edges from outside would carry that deciders were given, and that is not there:
        as (decider, parameter) for what no edge feeds, and as edges."""
        topology, known = self.plan.topology, self._known
        unfed: dict[tuple[str, str], None] = {}
        lost: dict[int, Edge] = {}
        for target, external in self._external:
            first = next(edge for edge in topology.incoming[target] if edge.input == external.input)
            is_taken = first is external or topology.nodes[target].type is not NodeType.ANY
            if external.input is None or not self._outside[id(external)] or not is_taken:
                continue
            assert known is not None
            for edge in self._carriers(external):
                source = topology.whole.index[edge.source]
                is_there = known.status[source] is NodeStatus.COMPLETED
                if edge is not external and not (edge.optional or is_there):
                    lost[id(edge)] = edge
                if topology.whole.nodes[source].type.decides and self._passes_on(edge.source):
                    missing = self.plan.decider_bindings[edge.source].missing
                    unfed.update(dict.fromkeys((edge.source, name) for name in missing))
        return list(unfed), list(lost.values())

    def _known_outside(self) -> DagSchedule:
        """The schedule of the whole graph once all nodes outside have ended whose results are
        there. Who is skipped in it was left out by choices, and not because others failed."""
        whole, inside = self.plan.topology.whole, self.plan.topology.index
        earlier = {} if self._earlier is None else self._earlier.results
        ended: dict[int, Any] = {}
        for index, node in enumerate(whole.nodes):
            value = self.results.get(node.name, earlier.get(node.name, ABSENT))
            if value is not ABSENT and node.name not in inside:
                ended[index] = self._choice(node.name, value) if node.type.decides else None
        schedule = DagSchedule(whole, eager=True)
        schedule.begin((), ended)
        return schedule

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
