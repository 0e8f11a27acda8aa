"""Nodes whose annotations are text, as in any module with this import."""

from __future__ import annotations

from typing import Annotated, Optional

import fast_dag
from fast_dag import Context


def by_class(c: Context):
    return c.metadata["user"]


def by_bar(c: Context | None = None):
    return c.metadata["user"]


def by_optional(c: Optional[Context]):  # noqa: UP045
    return c.metadata["user"]


def by_annotated(c: Annotated[Context | None, 1] = None):
    return c.metadata["user"]


def by_quoted_name(c: "Context"):  # noqa: UP037
    return c.metadata["user"]


def by_quoted_optional(c: Optional["Context"]):  # noqa: UP037, UP045
    return c.metadata["user"]


def by_dotted_name(c: fast_dag.Context):
    return c.metadata["user"]


def by_bare_name(context):
    return context.metadata["user"]


def as_dict(context: dict):
    return context


def as_list(c: list[Context]):
    return c


FORMS = [
    by_class,
    by_bar,
    by_optional,
    by_annotated,
    by_quoted_name,
    by_quoted_optional,
    by_dotted_name,
    by_bare_name,
]
ORDINARY = [as_dict, as_list]
