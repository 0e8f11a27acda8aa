"""Store: the runs that survive, in a database file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from fast_dag.define.signature import ABSENT
from fast_dag.errors import ValidationError, failures
from fast_dag.store.codec import CloudPickle, Pickle, Plain
from fast_dag.store.database import Database
from fast_dag.store.errors import DecodeError, StoreError
from fast_dag.store.values import LARGE, Values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from fast_dag.store.codec import Codec
    from fast_dag.store.durable import Placed

FINAL: Final = frozenset({"completed", "completed_with_errors", "failed", "timed_out", "cancelled"})
"""The statuses of runs that are over."""


class Store:
    """Where durable runs are kept.

    Parameters
    ----------
    path:
        The database file, which is made if there is none; ":memory:" keeps nothing.
    codec:
        How values become bytes: "plain" for data of exact types; "pickle" or "cloudpickle" for
        anything, with a `key`.
    key:
        The secret of the pickles, at least 16 bytes.
    allow:
        Classes that plain values may have, beside those in the annotations of nodes: classes,
        "module:Class", or names of modules.
    durability:
        "disk": what is committed survives a power cut. "process": it survives the process only,
        for a tenth of the time.
    check_filesystem:
        False allows file systems of networks, whose locks may not hold what they promise.
    max_resumes:
        So many owners of a run may die in a row without a commit; then the run has failed.

    >>> from fast_dag import DAG
    >>> dag = DAG("shop").add_node("price", lambda: 21).add_node("total", lambda x: 2 * x)
    >>> dag = dag.connect("price", "total")
    >>> with Store(":memory:") as store:
    ...     dag.run(store=store, run_id="order-17"), dag.run(store=store, run_id="order-17")
    (42, 42)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codec: str = "plain",
        key: bytes | None = None,
        allow: Iterable[type | str] = (),
        durability: str = "disk",
        check_filesystem: bool = True,
        max_resumes: int = 10,
    ) -> None:
        self.path = os.fspath(path)
        self.allow = tuple(allow)
        self.max_resumes = max_resumes
        if codec not in ("plain", "pickle", "cloudpickle"):
            raise ValidationError(f"codec is 'plain', 'pickle' or 'cloudpickle', not {codec!r}")
        if codec != "plain" and key is None:
            raise ValidationError(
                f"codec={codec!r} needs key=, a secret like secrets.token_bytes(32): a pickle can "
                "run any code, so only what was written with the key is loaded"
            )
        self.codec = codec
        self.key = key
        self.database = Database.of(self.path, durability, check_filesystem)
        self.is_closed = False
        self.values = Values(f"{self.path}-values") if self.database.is_file else None
        self.shelf = Shelf(self, [])

    def close(self) -> None:
        """Close the store. Runs that are at work with it are interrupted."""
        if not self.is_closed:
            self.is_closed = True
            self.database.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended_by: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.path!r}>"

    def shelf_of(self, workflow: Any) -> Shelf:
        """Where the values of a workflow's nodes are: annotations name their classes."""
        return Shelf(self, list(annotations_of(workflow)))

    def graph_of(self, execution: Any) -> str | None:
        """The graph as data."""
        return None


class Shelf:
    """The codecs and files of a store, for values with classes that these annotations name."""

    def __init__(self, store: Store, annotations: list[Any]) -> None:
        self._values = store.values
        self._key = store.key
        self._plain = Plain(store.allow, annotations)
        self._codecs: dict[str, Codec] = {"plain": self._plain}
        self._codec = self._codec_of(store.codec)

    def put(self, value: object, identity: tuple[Any, ...]) -> Placed:
        """Encode a value. Raises EncodeError, and StoreError if its file cannot be written."""
        codec = self._codec
        if codec is self._plain:
            data = codec.encode(value)
        else:
            data = codec.encode(value, context=repr(identity).encode("utf-8", "surrogatepass"))
        if len(data) < LARGE or self._values is None:
            return codec.name, data, None
        return codec.name, None, self._values.write(data)

    def take(self, placed: Any, identity: tuple[Any, ...]) -> Any:
        """The value of a row. Raises StoreError."""
        name, data, file = placed
        if name == "plain" and file is None:
            return self._plain.decode(data)
        if file is not None:
            if self._values is None:
                raise StoreError(f"there is no file of values with {file!r}")
            data = self._values.read(file)
        codec = self._codecs.get(name) or self._codec_of(name)
        return codec.decode(data, context=repr(identity).encode("utf-8", "surrogatepass"))

    def is_there(self, placed: Placed) -> bool:
        """Whether the file of a value is there."""
        return placed[2] is None or (self._values is not None and self._values.has(placed[2]))

    def _codec_of(self, name: str) -> Codec:
        if name == "plain":
            return self._plain
        kind = {"pickle": Pickle, "cloudpickle": CloudPickle}.get(name)
        if kind is None or self._key is None:
            raise DecodeError(
                f"a stored value has the codec {name!r}, for which this Store has no key"
            )
        try:
            made = self._codecs[name] = kind(self._key)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return made


def annotations_of(workflow: Any) -> Iterator[Any]:
    """The annotations of all nodes, also of nested workflows."""
    for node in workflow.nodes.values():
        if node.workflow is not None:
            if hasattr(node.workflow, "nodes"):
                yield from annotations_of(node.workflow)
            continue
        signature = node.signature
        for name in ("return", *(each.keyword for each in signature.parameters)):
            try:
                found = signature.annotation(name)
            except failures():
                continue
            if found is not ABSENT:
                yield found
