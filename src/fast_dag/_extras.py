"""Optional dependencies, imported when first needed."""

from __future__ import annotations

from importlib import import_module

from fast_dag.errors import MissingExtraError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def needed(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return a module. Raises MissingExtraError, which says how to install it.

    Only the module itself, or a package that it is in, counts as missing. If an installed package
    fails to import another module, that ModuleNotFoundError is raised as it is.

    >>> needed("math", extra="process", purpose="worker processes").floor(3.5)
    3
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module}.".startswith(f"{missing}."):
            raise
        # The message names no package: on the package index, `fast-dag` is another project.
        raise MissingExtraError(
            f"{purpose} need {missing}: pip install '/path/to/checkout[{extra}]', with the path of "
            f"your checkout of fast-dag",
            extra=extra,
        ) from None
