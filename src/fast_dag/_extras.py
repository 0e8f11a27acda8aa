"""Optional dependencies, imported when first needed."""

from __future__ import annotations

from importlib import import_module

from fast_dag.errors import MissingExtraError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def needed(module: str, *, extra: str, purpose: str) -> Any:
    """The module; raises MissingExtraError that says how to get it.

    Only the module itself, or a package it is in, counts as missing: what else an installed package
    fails to import is an error of its own.

    >>> needed("math", extra="process", purpose="worker processes").floor(3.5)
    3
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module}.".startswith(f"{missing}."):
            raise
        # Not by name: on the package index the name belongs to another project.
        raise MissingExtraError(
            f"{purpose} need {missing}: pip install '/path/to/checkout[{extra}]', with the path of "
            f"your checkout of fast-dag",
            extra=extra,
        ) from None
