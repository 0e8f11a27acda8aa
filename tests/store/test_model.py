"""Random graphs that are interrupted, edited, run again and forked, against the model of
`tests.model`."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG
from fast_dag.store import ChangedError, Store
from tests.model import Act, Model, Shape, World, act, connect, make_dag
from tests.properties import tries
from tests.test_properties import shaped_worlds, statuses_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_dag import Run

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


# Edits of functions.

CASES: dict[str, Edited] = {}
"""The cases in progress, for the functions that are written for them."""


def called(case: str, name: str, version: int, given: dict[str, Any]) -> Any:
    """What every written function does."""
    owner = CASES[case]
    owner.ran.append(name)
    value = act(name, owner.shape.by_name[name].kind, owner.world[name], given)
    return (name, version, given) if type(value) is tuple else value


class Versions(Model):
    """A model in which the values of nodes tell the versions of their functions."""

    def __init__(self, shape: Shape, world: World, versions: dict[str, int]) -> None:
        super().__init__(shape, world)
        self.versions = versions

    def _value(self, name: str) -> Any:
        value = super()._value(name)
        return (name, self.versions[name], value[1]) if type(value) is tuple else value

    def takes_in(self, name: str) -> Any:
        """All that a call of a node depends on, beside its code."""
        lives = [
            (self.is_live(edge), self.carried(edge) if self.is_live(edge) else None)
            for edge in self.shape.into(name)
            if edge.parameter is not None or edge.branch is not None
        ]
        return self.may_run(name), lives


class Edited(Case):
    """A graph whose functions are in a file, which is written anew for each edit. An edit may
    change what a function returns, or not."""

    numbers = count()

    def __init__(
        self, data: st.DataObject, mode: Any, directory: Path, has_unstored: bool = False
    ) -> None:
        super().__init__(data, mode)
        self.directory = directory
        self.unstored: set[str] = set()
        if has_unstored:
            names = [spec.name for spec in self.shape.nodes if spec.kind == "node"]
            self.unstored = (
                data.draw(st.sets(st.sampled_from(names)), "unstored") if names else set()
            )
        self.name = f"edited_{next(self.numbers)}"
        self.versions = dict.fromkeys(self.shape.by_name, 0)
        self.silent = dict.fromkeys(self.shape.by_name, 0)
        CASES[self.name] = self
        self.dag = self._written()

    def _written(self) -> DAG:
        lines = ["from tests.store.test_model import called", ""]
        for name, spec in self.shape.by_name.items():
            ordered = sorted(self.shape.parameters(name), key=lambda p: p in spec.defaults)
            taken = ", ".join(f"{p}='default'" if p in spec.defaults else p for p in ordered)
            passed = ", ".join(f"{each}={each}" for each in sorted(ordered))
            lines += [
                f"def {name}({taken}):",
                f"    silent = {self.silent[name]}",
                f"    version = {self.versions[name]}",
                f"    return called({self.name!r}, {name!r}, version, dict({passed}))",
                "",
            ]
        file = self.directory / str(next(self.numbers)) / f"{self.name}.py"
        file.parent.mkdir()
        file.write_text("\n".join(lines))
        module = sys.modules[self.name] = ModuleType(self.name)
        module.__file__ = str(file)
        exec(compile(file.read_text(), str(file), "exec"), vars(module))
        dag = DAG("random")
        for spec in self.shape.nodes:
            options: dict[str, Any] = {"wait": True} if spec.wait else {}
            options |= {"several": True} if spec.several else {}
            options |= {} if spec.collect is None else {"collect": spec.collect}
            options |= {"stored": False} if spec.name in self.unstored else {}
            dag.add_node(spec.name, getattr(module, spec.name), type=spec.kind, **options)
        return connect(dag, self.shape)

    def edit(self) -> set[str]:
        """Edit some functions, and return their names."""
        names = sorted(self.shape.by_name)
        edited = self.data.draw(st.sets(st.sampled_from(names), min_size=1), "edited")
        for name in sorted(edited):
            which = self.versions if self.data.draw(st.booleans(), "tells") else self.silent
            which[name] += 1
        self.dag = self._written()
        return edited

    def close(self) -> None:
        self.store.close()
        del CASES[self.name]
        sys.modules.pop(self.name, None)

    def check_versions(self, run: Run, versions: dict[str, int]) -> Versions:
        model = Versions(self.shape, self.world, versions)
        assert statuses_of(run) == {name: model.status(name) for name in self.shape.by_name}
        for name in self.shape.by_name.keys() - self.unstored:
            if model.status(name) == "completed":
                assert run[name] == model.value(name)
        return model

    def interrupted(self) -> set[str]:
        """Begin a run that may be interrupted. Returns what is committed of it."""
        options: Any = {"mode": self.mode, "error_strategy": "continue"}
        with suppress(KeyboardInterrupt):
            self.dag.execute(store=self.store, run_id="a", **options)
        self.ran.clear()
        self.ran.deadly.clear()
        return {*self.store.run("a").nodes}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@given(data=st.data())
@tries(40)
def test_runs_go_on_after_edits_as_they_were_told_to(mode: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        case = Edited(data, mode, Path(directory))
        committed = case.interrupted()
        is_over = case.store.run("a").status != "interrupted"
        before = dict(case.versions)
        edited = case.edit()
        on_change = data.draw(st.sampled_from(["keep", "rerun"]), "on_change")
        if edited & committed and not is_over:
            with pytest.raises(ChangedError):
                case.finished("a")
            assert case.ran == []
        options: Any = {"mode": mode, "error_strategy": "continue", "on_change": on_change}
        run = case.dag.execute(store=case.store, run_id="a", **options)
        kept = committed
        if on_change == "rerun" and not is_over:
            kept = committed - {n for name in edited & committed for n in case.shape.below(name)}
        assert not kept & {*case.ran}
        versions = {n: before[n] if n in kept or is_over else case.versions[n] for n in before}
        case.check_versions(run, versions)
        case.close()


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@given(data=st.data())
@tries(60)
def test_stale_runs_are_brought_up_to_date_with_no_call_too_many(
    mode: str, data: st.DataObject
) -> None:
    with TemporaryDirectory() as directory:
        case = Edited(data, mode, Path(directory), has_unstored=True)
        case.ran.deadly.clear()
        old = case.check_versions(case.finished("a"), dict(case.versions))
        case.ran.clear()
        edited = case.edit()
        options: Any = {"mode": mode, "error_strategy": "continue", "rerun": "stale"}
        case.ran.deadly = data.draw(st.sets(st.sampled_from(sorted(case.versions))), "deadly")
        called: list[str] = []
        while True:
            try:
                run = case.dag.execute(store=case.store, run_id="a", **options)
            except KeyboardInterrupt:
                called += case.ran.taken()[:-1]
            else:
                called += case.ran.taken()
                break
        new = case.check_versions(run, case.versions)
        differ = {
            name
            for name in case.versions
            if name in edited or old.takes_in(name) != new.takes_in(name)
        }
        unknown = {name for each in case.unstored & differ for name in case.shape.below(each)}
        called = [name for name in called if name not in case.unstored]
        assert {*called} <= differ | unknown, "nothing that was computed is computed twice"
        if mode == "sequential":
            assert len(called) == len({*called})
        told = case.dag.explain(store=case.store, run_id="a")
        assert {*told.states.values()} <= {"fresh", "open"}
        case.close()


# Nested workflows and maps.

SOURCE = """
def load(n):
    return [n + VERSION, 0, n + 1]

def item(n):
    if n == 0:
        raise ValueError("no")
    return 2 * n + VERSION

def check(items):
    return sum(items) + VERSION > 10

def most(items):
    return max(items) + VERSION

def least(items):
    return min(items) + VERSION

def one(items):
    return [*items, VERSION]

def part(n):
    return n + VERSION

def two(parts):
    return sum(parts) + VERSION

def last(sub, most=0, least=0):
    return [sub, most, least, VERSION]
"""
NAMES = ("load", "item", "check", "most", "least", "one", "part", "two", "last")


class Pipeline:
    """load -> items, a map; items -> check -> most | least, and items -> sub, where one -> parts, a
    map -> two; all that -> last."""

    numbers = count()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"pipeline_{next(self.numbers)}"
        self.versions = dict.fromkeys(NAMES, 0)
        self.silent = dict.fromkeys(NAMES, 0)
        self.ran = PIPELINES[self.name] = Ran(())

    def dag(self) -> DAG:
        lines = ["from tests.store.test_model import PIPELINES", ""]
        for each in SOURCE.strip().split("\n\n"):
            head, _, rest = each.partition("\n")
            name = head[4 : head.index("(")]
            lines += [
                head,
                f"    silent = {self.silent[name]}",
                f"    PIPELINES[{self.name!r}].append({name!r})",
                rest.replace("VERSION", str(self.versions[name])),
                "",
            ]
        file = self.directory / str(next(self.numbers)) / f"{self.name}.py"
        file.parent.mkdir()
        file.write_text("\n".join(lines))
        module: Any = ModuleType(self.name)
        sys.modules[self.name] = module
        module.__file__ = str(file)
        exec(compile(file.read_text(), str(file), "exec"), vars(module))
        inner = DAG("inner").add_node("one", module.one)
        inner.map(name="parts", over="n")(module.part)
        inner.add_node("two", module.two).connect("one", "parts").connect("parts", "two")
        dag = DAG("pipeline").add_node("load", module.load)
        dag.map(name="items", over="n", on_error="drop", inputs=["n"])(module.item)
        dag.add_node("check", module.check, type="condition").add_node("sub", inner)
        dag.add_node("most", module.most).add_node("least", module.least)
        dag.add_node("last", module.last, type="any", wait=True)
        dag.connect("load", "items").connect("items", "check").connect("items", "sub")
        dag.connect("check", "most", output="true").connect("check", "least", output="false")
        for name in ("sub", "most", "least"):
            dag.connect(name, "last", input=name)
        return dag


PIPELINES: dict[str, Ran] = {}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@given(data=st.data())
@tries(60)
def test_pipeline_that_is_edited_and_interrupted_again_and_again_ends_up_to_date(
    mode: str, data: st.DataObject
) -> None:
    with TemporaryDirectory() as directory, Store(":memory:") as store:
        made = Pipeline(Path(directory))
        dag = made.dag()
        options: Any = {"store": store, "run_id": "a", "mode": mode}
        named = ["load", "items", "check", "sub", "sub.one", "sub.parts", "sub.two", "last"]
        for _ in range(data.draw(st.integers(1, 4), "steps")):
            made.ran.deadly = data.draw(st.sets(st.sampled_from(NAMES), max_size=2), "deadly")
            asked = data.draw(
                st.sampled_from(
                    [{"rerun": "stale"}, {"rerun": "failed"}, {"on_change": "keep"}]
                    + [{"on_change": "rerun"}]
                    + [{"rerun": name, "on_change": "keep"} for name in named]
                ),
                "asked",
            )
            with suppress(KeyboardInterrupt, ChangedError):
                dag.execute(**options, n=data.draw(st.just(3)), **asked)
            for name in data.draw(st.sets(st.sampled_from(NAMES), max_size=2), "edited"):
                (made.versions if data.draw(st.booleans(), "tells") else made.silent)[name] += 1
            dag = made.dag()
        made.ran.deadly.clear()
        fresh = dag.execute(n=3, mode=mode)
        made.ran.clear()
        run = dag.execute(**options, rerun="stale", n=3)
        assert (run.value, run.status) == (fresh.value, fresh.status)
        assert (run["sub.parts"], run.statuses) == (fresh["sub.parts"], fresh.statuses)
        assert run.errors.keys() == fresh.errors.keys() == {"items[1]"}
        assert {*dag.explain(store=store, run_id="a").states.values()} <= {"fresh", "open"}
        made.ran.clear()
        dag.execute(**options, rerun="stale")
        assert made.ran == [], "nothing is stale"
        at = data.draw(st.sampled_from(named), "forked at")
        fork = dag.execute(**{**options, "run_id": store.fork("a", at=at)})
        assert (fork.value, fork.status, fork.statuses) == (run.value, run.status, run.statuses)
        assert fork.errors.keys() == {"items[1]"}
        del PIPELINES[made.name], sys.modules[made.name]
