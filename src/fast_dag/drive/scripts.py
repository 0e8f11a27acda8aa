"""Modules made of files that no import finds by their names, such as `etl.v2.py`, or a `json.py` of
the user's.

Each gets a name under which imports find it, in this process and in worker processes.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

FILES: dict[str, str] = {}
"""The paths of these files by the names of their modules."""


class _Finder:
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        file = FILES.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


_FINDER = _Finder()


def know(files: Mapping[str, str]) -> None:
    """Let imports find these files by these names."""
    FILES.update(files)
    if FILES and _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


def import_file(path: Path) -> ModuleType:
    """Import a file, again if it was imported before, under a name of its own."""
    stem = re.sub(r"\W", "_", path.stem)
    name, count = f"fast_dag_file_{stem}", 1
    while FILES.get(name, str(path)) != str(path):
        count += 1
        name = f"fast_dag_file_{stem}_{count}"
    know({name: str(path)})
    sys.modules.pop(name, None)
    return import_module(name)
