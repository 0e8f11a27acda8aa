"""Runs in files: `fast-dag run --save FILE` writes one, `--resume FILE` reads it."""

from __future__ import annotations

import os
import pickle
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fast_dag.errors import ValidationError, brief_of, names
from fast_dag.run.past import Past
from fast_dag.run.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence


def refuse_file(option: str, file: Path) -> None:
    """Raise ValidationError where a run could not be written to this file at its end."""
    problem = ""
    if not file.parent.is_dir():
        problem = f"there is no directory {str(file.parent)!r}"
    elif not os.access(file.parent, os.W_OK):
        problem = f"the directory {str(file.parent)!r} cannot be written"
    elif file.exists() and not file.is_file():
        problem = f"{str(file)!r} is no regular file"
    if problem:
        raise ValidationError(f"{option}: {problem}")


def save(run: Run, file: Path) -> Sequence[str]:
    """Write a run to a file that only its owner can read. A file that is there is replaced by a
    whole one, or stays.

    Results that do not pickle are left out, since a run that resumes can compute them again;
    returns the names of their nodes. Raises ValidationError if the rest does not pickle either, and
    OSError.
    """
    lost: Sequence[str] = ()
    try:
        data = pickle.dumps(run)
    except ValidationError as error:
        lost = tuple(dict.fromkeys(error.nodes))  # a map is named once for each of its items
        if not lost:
            raise
        data = pickle.dumps(Past(run._execution).without(lost).run)
    file = file.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with open(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    return lost


def saved(file: IO[bytes]) -> Run:
    """The run in a file. Raises ValidationError if there is none."""
    try:
        run = pickle.load(file)
    except Exception as error:
        raise ValidationError(
            f"--resume: {file.name!r} has no run that can be read "
            f"({brief_of(error)}); --save writes such a file"
        ) from error
    if not isinstance(run, Run):
        raise ValidationError(
            f"--resume: {file.name!r} has a {type(run).__name__}, not a run as --save writes it"
        )
    return run


def told_lost(lost: Sequence[str], file: Path) -> str:
    """Words for the results that a file lacks."""
    return (
        f"{str(file)!r} is without the results of {names(lost)}, which do not pickle; "
        "a run that resumes computes them again where they are needed"
    )
