# Without `from __future__ import annotations`, so that annotations are objects here.
"""Which parameters the engine fills with the Context."""

import functools
from typing import Annotated, Any, Optional, Union

import pytest

import fast_dag
from fast_dag import DAG, Context
from tests.behaviour import context_as_text, context_for_checkers


class OurContext(Context):
    """A subclass with something of its own."""


def by_class(c: Context):
    return c.metadata["user"]


def by_string(c: "Context"):
    return c.metadata["user"]


def by_dotted_name(c: fast_dag.Context):
    return c.metadata["user"]


def by_dotted_string(c: "fast_dag.Context"):
    return c.metadata["user"]


def by_optional(c: Optional[Context] = None):  # noqa: UP045
    return c.metadata["user"]


def by_union(c: Union[Context, None]):  # noqa: UP007
    return c.metadata["user"]


def by_bar(c: Context | None = None):
    return c.metadata["user"]


def by_bar_reversed(c: None | Context):
    return c.metadata["user"]


def by_string_with_bar(c: "Context | None"):
    return c.metadata["user"]


def by_optional_string(c: Optional["Context"]):
    return c.metadata["user"]


def by_annotated(c: Annotated[Context, "the run's"]):
    return c.metadata["user"]


def by_annotated_optional(c: Annotated[Optional["Context"], 1, 2] = None):
    return c.metadata["user"]


def by_annotated_or_none(c: Annotated[OurContext, 1] | None = None):
    return c.metadata["user"]


def by_subclass(c: OurContext):
    return c.metadata["user"]


def by_bare_name(context):
    return context.metadata["user"]


def by_bare_name_with_default(context=None):
    return context.metadata["user"]


def by_keyword_only(*, c: Context):
    return c.metadata["user"]


def by_position_only(c: Context, /):
    return c.metadata["user"]


def by_last_after_defaults(x=1, c: Context = None):
    return c.metadata["user"]


async def by_async(c: Context):
    return c.metadata["user"]


class Reader:
    def method(self, c: Context):
        return c.metadata["user"]

    def __call__(self, context):
        return context.metadata["user"]


def dressed(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


def opaque(func):
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


def by_partial(x, c: Context):
    return c.metadata["user"]


FORMS = {
    each.__name__: each
    for each in (
        by_class,
        by_string,
        by_dotted_name,
        by_dotted_string,
        by_optional,
        by_union,
        by_bar,
        by_bar_reversed,
        by_string_with_bar,
        by_optional_string,
        by_annotated,
        by_annotated_optional,
        by_annotated_or_none,
        by_subclass,
        by_bare_name,
        by_bare_name_with_default,
        by_keyword_only,
        by_position_only,
        by_last_after_defaults,
        by_async,
    )
} | {
    "method": Reader().method,
    "callable object": Reader(),
    "wrapped": dressed(by_class),
    "opaque": opaque(by_class),
    "opaque twice": opaque(opaque(by_keyword_only)),
    "partial": functools.partial(by_partial, 1),
    "partial with a keyword": functools.partial(by_partial, x=1),
    "lru_cache": functools.lru_cache(by_class),
    **{f"text: {each.__name__}": each for each in context_as_text.FORMS},
    **{f"for checkers: {each.__name__}": each for each in context_for_checkers.FORMS},
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("form", FORMS)
def test_context_is_filled_by_the_engine(run: Any, form: str) -> None:
    dag = DAG("d").add_node("f", FORMS[form])
    assert "c" not in dag.nodes["f"].inputs
    assert "context" not in dag.nodes["f"].inputs
    assert run(dag, context=Context(metadata={"user": "ada"})) == "ada"


def test_several_contexts_are_all_filled(run: Any) -> None:
    def f(one: Context, x, *, two: Context):
        return one is two, x

    assert run(DAG("d").add_node("f", f), x=1) == (True, 1)


def context_as_dict(context: dict):
    return context


def context_as_any(context: Any):
    return context


def context_as_string(context: "dict[str, int]"):
    return context


def name_without_annotation(c):
    return c


def list_of_contexts(c: list[Context]):
    return c


def annotated_with_a_context(c: Annotated[dict, Context]):
    return c


def annotated_list_of_contexts(c: Annotated[list[Context], 1]):
    return c


def context_or_text(c: Context | str):
    return c


ORDINARY = [
    context_as_dict,
    context_as_any,
    context_as_string,
    name_without_annotation,
    list_of_contexts,
    annotated_with_a_context,
    annotated_list_of_contexts,
    context_or_text,
    *context_as_text.ORDINARY,
    *context_for_checkers.ORDINARY,
]


@pytest.mark.parametrize(
    "func", ORDINARY, ids=lambda func: f"{func.__module__[16:]}.{func.__name__}"
)
def test_what_is_annotated_as_something_else_is_an_ordinary_input(run: Any, func: Any) -> None:
    dag = DAG("d").add_node("f", func)
    (name,) = dag.nodes["f"].inputs
    assert run(dag, {name: {"a": 1}}) == {"a": 1}


def test_ordinary_input_called_context_takes_an_edge(run: Any) -> None:
    dag = DAG("d").add_node("s", lambda: {"a": 1}).add_node("f", context_as_dict)
    assert run(dag.connect("s", "f")) == {"a": 1}


def test_context_is_never_an_input() -> None:
    dag = DAG("d").add_node("f", by_class)
    with pytest.raises(ValueError, match="'c'"):
        dag.run({"c": Context()})


def test_context_given_to_a_run_is_the_one_that_nodes_see() -> None:
    context = Context()
    assert DAG("d").add_node("f", lambda context: context).run(context=context) is context


@pytest.mark.process_mode
def test_nodes_see_results_and_leave_metadata(run: Any) -> None:
    def note(x, context: Context):
        context.metadata.setdefault("audit", []).append(x)
        return context.get("load"), context.get("nothing", default={})

    dag = DAG("d").add_node("load", lambda: 3).add_node("note", note).connect("load", "note")
    context = Context()
    assert run(dag, context=context) == (3, {})
    assert context.metadata["audit"] == [3]
