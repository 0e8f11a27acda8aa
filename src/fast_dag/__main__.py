"""The command `fast-dag`, also as `python -m fast_dag`."""

from __future__ import annotations

import sys
from contextlib import suppress

from fast_dag._extras import needed
from fast_dag.errors import MissingExtraError


def main() -> None:
    """Run the command that `sys.argv` has, and leave with its exit code."""
    try:
        needed("click", extra="cli", purpose="fast-dag's commands")
    except MissingExtraError as error:
        with suppress(OSError):  # where stderr is full, the code has to do
            print(error, file=sys.stderr)
        sys.exit(2)
    from fast_dag.cli.app import start  # click is there

    sys.exit(start())


if __name__ == "__main__":
    main()
