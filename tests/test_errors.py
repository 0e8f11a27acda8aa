"""The tree of errors: what each is, what each carries, that each pickles."""

from __future__ import annotations

import builtins
import copy
import copyreg
import pickle
from typing import Any

import pytest

import fast_dag
from fast_dag import (
    DAG,
    CycleError,
    DisconnectedNodeError,
    ExecutionError,
    FastDAGError,
    InvalidNodeError,
    InvalidTransitionError,
    MaxCyclesError,
    MissingConnectionError,
    MissingInputError,
    TimeoutError,
    ValidationError,
)
from fast_dag.errors import MissingResultError, UnknownNodeError, closest, names, text_of

VALIDATION = [
    CycleError,
    DisconnectedNodeError,
    MissingConnectionError,
    MissingInputError,
    InvalidNodeError,
]
EXECUTION = [TimeoutError, InvalidTransitionError, MaxCyclesError]

EXAMPLES: list[tuple[type[FastDAGError], dict[str, Any]]] = [
    (FastDAGError, {"node": "a"}),
    (ValidationError, {"inputs": ("x",)}),
    (CycleError, {"cycle": ("a", "b", "a")}),
    (DisconnectedNodeError, {"nodes": ("a", "b")}),
    (MissingConnectionError, {"source": "a", "target": None}),
    (MissingInputError, {"missing": (("a", "x"), ("b", "y"))}),
    (InvalidNodeError, {"node": None}),
    (UnknownNodeError, {"node": "a", "suggestion": "b"}),
    (MissingResultError, {"node": "a", "reason": "skipped"}),
    (ExecutionError, {"node_name": "a", "attempts": 2}),
    (TimeoutError, {"node_name": None, "attempts": 1, "timeout": 0.5}),
    (InvalidTransitionError, {"state": "a", "target": "b"}),
    (MaxCyclesError, {"max_cycles": 10}),
]
every_error = pytest.mark.parametrize(
    ("kind", "facts"), EXAMPLES, ids=[kind.__name__ for kind, _ in EXAMPLES]
)


@every_error
def test_every_error_is_a_fast_dag_error(kind: Any, facts: Any) -> None:
    assert issubclass(kind, FastDAGError)
    assert issubclass(kind, Exception)


@pytest.mark.parametrize("kind", VALIDATION)
def test_what_is_wrong_before_a_run_is_a_value_error(kind: Any) -> None:
    assert issubclass(kind, ValidationError)
    assert issubclass(kind, ValueError)
    assert not issubclass(kind, ExecutionError)


@pytest.mark.parametrize("kind", EXECUTION)
def test_what_goes_wrong_in_a_run_is_a_runtime_error(kind: Any) -> None:
    assert issubclass(kind, ExecutionError)
    assert issubclass(kind, RuntimeError)
    assert not issubclass(kind, ValidationError)


def test_errors_are_the_builtins_that_users_catch_already() -> None:
    assert issubclass(TimeoutError, builtins.TimeoutError)
    assert issubclass(UnknownNodeError, (InvalidNodeError, KeyError))
    assert issubclass(UnknownNodeError, KeyError)
    assert issubclass(MissingResultError, KeyError)


def test_public_errors_are_exported() -> None:
    public = {kind.__name__ for kind in (FastDAGError, ValidationError, ExecutionError)}
    public |= {kind.__name__ for kind in (*VALIDATION, *EXECUTION)}
    assert public <= set(fast_dag.__all__)


@every_error
def test_facts_are_attributes(kind: Any, facts: Any) -> None:
    error = kind("what is wrong", **facts)
    assert str(error) == "what is wrong"
    assert {key: getattr(error, key) for key in facts} == facts


@every_error
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_every_error_pickles(kind: Any, facts: Any, protocol: int) -> None:
    error = kind("what is wrong", **facts)
    error.add_note("a note")
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is kind
    assert str(twin) == "what is wrong"
    assert {key: getattr(twin, key) for key in facts} == facts
    assert twin.__notes__ == ["a note"]


@every_error
def test_every_error_pickles_with_its_cause(kind: Any, facts: Any) -> None:
    error = kind("what is wrong", **facts)
    error.__cause__ = KeyError("cause")
    twin = pickle.loads(pickle.dumps(error))
    assert repr(twin.__cause__) == "KeyError('cause')"


@every_error
def test_every_error_copies(kind: Any, facts: Any) -> None:
    twin = copy.copy(kind("what is wrong", **facts))
    assert type(twin) is kind
    assert {key: getattr(twin, key) for key in facts} == facts


def test_pickling_twice_adds_nothing() -> None:
    error = ExecutionError("what is wrong", node_name="a")
    error.__cause__ = LookupError()
    once = pickle.dumps(error)
    assert pickle.dumps(pickle.loads(once)) == once


def test_cause_that_does_not_pickle_becomes_a_note_of_the_copy_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Dask, where another test has imported it, tells pickle how to treat all exceptions.
    monkeypatch.delitem(copyreg.dispatch_table, ExecutionError, raising=False)

    class LocalError(Exception):
        pass

    error = ExecutionError("what is wrong")
    error.__cause__ = LocalError("local")
    twin = pickle.loads(pickle.dumps(error))
    assert twin.__cause__ is None
    (note,) = twin.__notes__
    assert "LocalError: local" in note
    assert not hasattr(error, "__notes__")


def test_execution_error_of_a_run_leaves_it_behind_when_pickled() -> None:
    run = DAG("d").add_node("a", lambda: 1).execute()
    error = ExecutionError("what is wrong", node_name="a", run=run)
    assert error.run is run
    assert pickle.loads(pickle.dumps(error)).run is None


def test_execution_error_without_facts_has_their_defaults() -> None:
    error = ExecutionError("what is wrong")
    assert (error.node_name, error.attempts, error.run) == (None, 0, None)
    assert TimeoutError("late").timeout is None


def test_one_problem_stands_for_itself() -> None:
    problem = CycleError("loop", cycle=("a", "a"))
    assert problem.problems == (problem,)
    assert ValidationError.of([problem], "'d'") is problem


def test_several_problems_are_one_error_that_lists_them() -> None:
    problems = [CycleError("a loop", cycle=("a", "a")), ValidationError("no nodes")]
    error = ValidationError.of(problems, "'d'")
    assert type(error) is ValidationError
    assert error.problems == tuple(problems)
    assert str(error) == "'d' has 2 problems:\n  - a loop\n  - no nodes"


def test_key_errors_show_their_message_not_its_repr() -> None:
    assert str(MissingResultError("it's gone", node="a", reason="deleted")) == "it's gone"
    assert str(UnknownNodeError.named("a", [], "'d'")) == "'d' has no node 'a'"
    assert str(UnknownNodeError.named("a", [], "'m'", "state")) == "'m' has no state 'a'"


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("lod", ["load", "save"], "load"),
        ("xyz", ["load", "save"], None),
        ("a", [], None),
        (3, ["load"], None),
        ("loads", ["load", "loads"], "loads"),
    ],
)
def test_closest_name_is_suggested(name: Any, known: list[str], suggestion: Any) -> None:
    expected = f" (did you mean {suggestion!r}?)" if suggestion else ""
    assert closest(name, known) == (suggestion, expected)


def test_long_lists_of_names_are_cut() -> None:
    assert names(range(3)) == "0, 1, 2"
    assert names("abcd", most=2) == "'a', 'b' and 2 more"
    assert names([]) == ""


def test_text_of_an_error_that_has_none() -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert text_of(ValueError("too small")) == "too small"
    assert text_of(BadError()) == "<its message cannot be shown>"
