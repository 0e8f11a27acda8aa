"""The command `fast-dag`, also as `python -m fast_dag`."""

from __future__ import annotations

import sys
from contextlib import suppress

from fast_dag._extras import needed
from fast_dag.errors import MissingExtraError


def main() -> None:
    """Run the command line of `sys.argv`, and exit with its code."""
    try:
        needed("click", extra="cli", purpose="fast-dag's commands")
        from fast_dag.cli.app import start  # click is there

        sys.exit(start())
    except MissingExtraError as error:
        with suppress(OSError):  # stderr is full: the exit code must do
            print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while that is imported, say
        sys.exit(130)


if __name__ == "__main__":
    main()
