"""Values as bytes, for Runs and Contexts: exceptions always travel, and what does not is named."""

from __future__ import annotations

from io import BytesIO

from fast_dag.errors import ValidationError, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def packed(value: Any, whose: str, parts: Callable[[], Iterable[tuple[str, str, Any]]]) -> bytes:
    """`value` as bytes.

    Parameters
    ----------
    whose:
        What is pickled, for messages.
    parts:
        Returns the values in it that are the user's, as (node, words, value): the node is '' for
        what belongs to none. Called only after a failure, to find which of them it was.

    Raises ValidationError that names each part that does not pickle.
    """
    try:
        return _dumps(value)
    except Exception as error:
        raise _refused(error, whose, parts()) from error


def unpacked(data: bytes) -> Any:
    """The value that `packed` made bytes of."""
    import pickle  # slow to import

    return pickle.loads(data)


def _refused(
    error: Exception, whose: str, parts: Iterable[tuple[str, str, Any]]
) -> ValidationError:
    nodes, told = [], []
    for node, words, value in parts:
        try:
            _dumps(value)
        except Exception as problem:
            nodes.append(node)
            told.append(f"{words}, a {type(value).__name__} ({text_of(problem)})")
    lines = "; ".join(told) or text_of(error)
    return ValidationError(
        f"{whose} cannot be pickled: {lines}. Delete what is not needed, or replace it by plain "
        "data; a run that resumes computes deleted results again if it needs them",
        node=next(filter(None, nodes), None),
        nodes=tuple(filter(None, nodes)),
    )


def _dumps(value: Any, above: tuple[int, ...] = (), root: BaseException | None = None) -> bytes:
    import pickle

    from fast_dag.drive.faults import Travelling

    class Pickler(Travelling, pickle.Pickler):
        def part(self, value: Any, above: tuple[int, ...], root: BaseException | None) -> bytes:
            return _dumps(value, above, root)

        def reducer_override(self, obj: Any) -> Any:
            if issubclass(type(obj), BaseException):
                return self.of_exception(obj)
            return NotImplemented

    buffer = BytesIO()
    pickler = Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.inside(above, root)
    pickler.dump(value)
    return buffer.getvalue()
