"""Finds the workflow that a command line names: a module or a file, and a name in it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag._frames import PACKAGE, trace_of
from fast_dag.define.workflow import Workflow
from fast_dag.drive.scripts import import_file
from fast_dag.errors import ValidationError, closest, is_a, names, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType, TracebackType

_DATA = {".json": "from_json", ".yaml": "from_yaml", ".yml": "from_yaml"}


class Target(NamedTuple):
    """A module or a file, and the name of a workflow in it; None means the only one."""

    place: str
    name: str | None

    @classmethod
    def of(cls, text: str) -> Target:
        """Split what the command line has.

        >>> Target.of("shop.flows:daily"), Target.of("flows/daily.py")
        (Target(place='shop.flows', name='daily'), Target(place='flows/daily.py', name=None))
        """
        place, colon, name = text.rpartition(":")
        if colon and all(part.isidentifier() for part in name.split(".")):
            return cls(place, name)
        return cls(text.removesuffix(":"), None)

    @property
    def is_file(self) -> bool:
        """Whether the place is a file and not a module."""
        path = Path(self.place)
        separated = os.sep in self.place or "/" in self.place
        return path.suffix in (".py", *_DATA) or separated or path.is_file()


def found(text: str, allow: Sequence[str] = ()) -> Workflow:
    """The workflow that a command line names. Raises ValidationError if there is none, or if it
    could be one of several."""
    target = Target.of(text)
    here = all_found(target, allow)
    if target.name is not None:
        return here[target.name]
    inner = {id(node.workflow) for each in here.values() for node in each.nodes.values()}
    outermost = {name: each for name, each in here.items() if id(each) not in inner} or here
    if len(outermost) > 1:
        raise ValidationError(
            f"{target.place!r} has several workflows: {names(outermost)}; say which: "
            f"{target.place}:{next(iter(outermost))}"
        )
    return next(iter(outermost.values()))


def all_found(target: Target, allow: Sequence[str] = ()) -> dict[str, Workflow]:
    """The workflows of a module or file by their variables, or the one that the target names.
    Raises ValidationError if there is none."""
    if Path(target.place).suffix in _DATA:
        return _from_data(target, allow)
    module = _loaded(target)
    if target.name is not None:
        return {target.name: _named(module, target)}
    here = {name: each for name, each in vars(module).items() if isinstance(each, Workflow)}
    distinct = {id(each): name for name, each in reversed(here.items()) if name[0] != "_"}
    here = {name: each for name, each in here.items() if distinct.get(id(each)) == name}
    if not here:
        raise ValidationError(
            f"{target.place!r} has no workflow: no DAG or FSM in a variable of the module"
        )
    return here


def _from_data(target: Target, allow: Sequence[str]) -> dict[str, Workflow]:
    path = Path(target.place)
    if target.name is not None:
        raise ValidationError(f"{target.place!r} has one workflow; leave out ':{target.name}'")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    search_first(Path.cwd())
    workflow: Workflow = getattr(Workflow, _DATA[path.suffix])(text, allow=allow)
    return {workflow.name: workflow}


def _unreadable(path: Path, error: OSError) -> ValidationError:
    return ValidationError(f"{str(path)!r} cannot be read: {error.strerror or error}")


def _named(module: ModuleType, target: Target) -> Workflow:
    assert target.name is not None
    value: Any = module
    for part in target.name.split("."):
        if not hasattr(value, part):
            known = [each for each, it in vars(module).items() if isinstance(it, Workflow)]
            has = f"; it has {names(known)}" if known else ""
            raise ValidationError(
                f"{target.place!r} has no {target.name!r}{has}{closest(target.name, known)[1]}"
            )
        value = getattr(value, part)
    if not isinstance(value, Workflow):
        raise ValidationError(
            f"{target.name!r} of {target.place!r} is a {type(value).__name__}, not a DAG or FSM"
        )
    return value


# Importing what the user wrote.


def _loaded(target: Target) -> ModuleType:
    """The module; raises ValidationError if there is none, or if its import fails."""
    try:
        return _of_file(Path(target.place)) if target.is_file else _of_module(target.place)
    except ValidationError:
        raise
    except (Exception, SystemExit) as error:
        told = "it ended the program" if is_a(error, SystemExit) else text_of(error)
        raise ValidationError(
            f"importing {target.place!r} failed: {type(error).__name__}: {told}{place_of(error)}"
        ) from error


def search_first(directory: Path) -> None:
    """Make imports look in a directory first, as Python does for that of a script."""
    if str(directory) in sys.path:
        sys.path.remove(str(directory))
    sys.path.insert(0, str(directory))


def _of_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValidationError(f"{name!r} is neither a file nor the name of a module")
    search_first(Path.cwd())
    parents = [name.rsplit(".", count)[0] for count in range(name.count(".") + 1)]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in parents:
            raise
        file = Path(*name.split(".")).with_suffix(".py")
        raise ValidationError(
            f"there is no module {error.name!r}, neither in {str(Path.cwd())!r} nor installed; "
            f"a file is named with its end, like {str(file)!r}"
        ) from None


def _of_file(path: Path) -> ModuleType:
    """Import a file as the module that it is, inside its package if it has one."""
    if not path.is_file():
        siblings = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = closest(path.name, siblings)[1]
        raise ValidationError(f"there is no file {str(path)!r}{hint}")
    path = path.resolve()
    top, parts = path.parent, [path.stem]
    while (top / "__init__.py").is_file():
        parts.insert(0, top.name)
        top = top.parent
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    search_first(top)
    name = ".".join(parts)
    if _leads_to(name, path):
        return import_module(name)
    # Its name is not that of a module, or another module has it, say one of the standard library.
    if spec_from_file_location("any", path) is None:
        raise ValidationError(f"{str(path)!r} is no Python file")
    return import_file(path)


def _leads_to(name: str, path: Path) -> bool:
    if "." in path.stem:  # Python would look for a package
        return False
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def place_of(error: BaseException) -> str:
    """The place in the user's code that raised an error, for the end of a message; "" if there is
    none."""
    at: TracebackType | None = trace_of(error)
    place = ""
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if not file.startswith((PACKAGE, "<frozen")):
            shown = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
            here = f" ({shown}, line {at.tb_lineno})"
            is_library = "site-packages" in file or file.startswith(os.path.dirname(os.__file__))
            place = here if not (is_library and place) else place
        at = at.tb_next
    return "" if is_a(error, SyntaxError) else place
