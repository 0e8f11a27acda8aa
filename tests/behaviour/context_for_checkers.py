"""Nodes whose annotations name what only type checkers import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

if TYPE_CHECKING:
    import fast_dag
    import fast_dag as fd
    from fast_dag import Context

    Rows = list[int]


def by_class(c: Context):
    return c.metadata["user"]


def by_bar(c: Context | None = None):
    return c.metadata["user"]


def by_bar_reversed(c: None | Context = None):
    return c.metadata["user"]


def by_optional(c: Optional[Context]):  # noqa: UP045
    return c.metadata["user"]


def by_annotated(c: Annotated[Context, "the run's", [1]]):
    return c.metadata["user"]


def by_annotated_optional(c: Annotated[Optional[Context], 1]):  # noqa: UP045
    return c.metadata["user"]


def by_annotated_or_none(c: Annotated[fd.Context, 1] | None = None):
    return c.metadata["user"]


def by_quoted_name(c: "Context"):  # noqa: UP037
    return c.metadata["user"]


def by_dotted_name(c: fast_dag.Context):
    return c.metadata["user"]


def by_short_name(c: fd.Context | None = None):
    return c.metadata["user"]


def beside_others(c: Context, rows: Rows = ()) -> Rows:
    return c.metadata["user"]


def as_rows(context: Rows):
    return context


def as_list(c: list[Context]):
    return c


def as_mapping(c: dict[str, Context]):
    return c


def annotated_with_a_context(c: Annotated[Rows, Context]):
    return c


def annotated_or_list(c: Annotated[Context, 1] | list[int]):
    return c


FORMS = [
    by_class,
    by_bar,
    by_bar_reversed,
    by_optional,
    by_annotated,
    by_annotated_optional,
    by_annotated_or_none,
    by_quoted_name,
    by_dotted_name,
    by_short_name,
    beside_others,
]
ORDINARY = [as_rows, as_list, as_mapping, annotated_with_a_context, annotated_or_list]
