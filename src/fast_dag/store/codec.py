"""Codecs: values as bytes, and back.

`Plain` is for data: it keeps exact types, or says what it cannot keep. Its format is described in
`stream.py`. `Pickle` and `CloudPickle` take nearly anything. Loading a pickle can run any code, so
each has a digest with a secret key, which is checked before anything is loaded.
"""

from __future__ import annotations

import hmac
import pickle
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol

from fast_dag._extras import needed
from fast_dag.cache.origins import Pickler
from fast_dag.call.effects import ONE_SHOT
from fast_dag.errors import brief_of, failures, text_of
from fast_dag.store.classes import Classes
from fast_dag.store.errors import DamagedError, DecodeError
from fast_dag.store.forms import Refused
from fast_dag.store.stream import Writers, decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterable


class Codec(Protocol):
    """Turns values into bytes and back. A row of a store names its codec by `name`."""

    @property
    def name(self) -> str: ...

    def encode(self, value: object, *, context: bytes = b"") -> bytes:
        """The bytes of a value. Raises EncodeError.

        `context` says where the bytes belong; a codec with a key has them decoded nowhere else."""
        ...

    def decode(self, data: bytes, *, context: bytes = b"") -> Any:
        """The value of bytes. Raises DecodeError, or DamagedError, which is one."""
        ...


def digest(data: bytes) -> str:
    """Tells any two data apart, as short text.

    >>> digest(b"anything")[:8], len(digest(b""))
    ('f32273e4', 64)
    """
    return blake2b(data, digest_size=32).hexdigest()


class Plain:
    """The codec for data: exact types or an EncodeError, no pickle, no call of `__init__`.

    Parameters
    ----------
    allow:
        Classes of values: the class, "module:qualname", or the name of a module whose classes are
        meant. Bytes that name any other class are refused, and nothing is imported.
    annotations:
        Annotations of nodes, or functions that have them. Classes in them are allowed, and so are
        those in the annotations of their fields.
    all_classes:
        Allow any class that can be imported. Only to write values of your own: bytes of others
        that are read so import what they name.

    >>> from datetime import date
    >>> plain = Plain()
    >>> plain.decode(plain.encode({"when": date(2026, 11, 27), "rows": (1, 2.5)}))
    {'when': datetime.date(2026, 11, 27), 'rows': (1, 2.5)}
    >>> plain.encode({"rows": [0, print]})
    Traceback (most recent call last):
    fast_dag.store.errors.EncodeError: what is at ['rows'][1] in the value cannot be stored: ...
    """

    name: str = "plain"

    def __init__(
        self,
        allow: Iterable[type | str] = (),
        annotations: Iterable[object] = (),
        *,
        all_classes: bool = False,
    ) -> None:
        self._given = tuple(allow) if not isinstance(allow, (str, type)) else (allow,)
        self._annotations = tuple(annotations)
        self._classes = Classes(self._given, self._annotations, all_classes)
        self._writers = Writers(self._classes)

    def __repr__(self) -> str:
        return f"Plain(allow={list(self._given)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Plain, (self._given, self._annotations)

    def encode(self, value: object, *, context: bytes = b"") -> bytes:
        """The bytes of a value. Raises EncodeError, which says where in the value the reason is."""
        try:
            data, is_checked = encoded(value, self._writers)
            if is_checked:
                self._check(value, data)
        except Refused as refused:
            raise refused.error() from refused.__cause__
        except failures() as error:
            raise _unencodable(value, error) from error
        return data

    def decode(self, data: bytes, *, context: bytes = b"") -> Any:
        """The value of bytes. Raises DecodeError."""
        return decoded(data, self._classes)

    def _check(self, value: object, data: bytes) -> None:
        """Read the bytes of a value whose classes have ways of their own, and write what was read:
        the bytes must be the same."""
        try:
            again = decoded(data, self._classes)
        except DecodeError as error:
            raise Refused(value, f"which could not be read again: {text_of(error)}") from error
        if encoded(again, self._writers)[0] != data:
            raise Refused(value, "which is another when it is read again")


def _unencodable(value: object, error: BaseException, codec: str = "plain") -> Exception:
    raised = brief_of(error)
    return Refused(value, f"which cannot be written ({raised})").error(codec)


_DIGEST: Final = 32  # bytes
_SHORTEST: Final = 16
"""Bytes of a key. Shorter ones can be guessed."""
_VERSION: Final = b"\x01"


class _Keyed:
    """A pickle behind a digest with a key, over where it belongs and what it is.

    The bytes are a version, the digest (BLAKE2b, 32 bytes) and the pickle.
    """

    name: str

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) < _SHORTEST:
            raise ValueError(
                f"key= is a secret of at least {_SHORTEST} bytes, like secrets.token_bytes(32), "
                "which every process that reads the store has"
            )
        self._key = blake2b(key, digest_size=64).digest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key=...)"

    def encode(self, value: object, *, context: bytes = b"") -> bytes:
        """The bytes of a value. Raises EncodeError."""
        try:
            if ONE_SHOT[type(value)]:
                raise Refused(value, "which can be gone through once only", "return a list")
            body = self._dumps(value)
            pickle.loads(body)  # so that what is stored can be read
        except Refused as refused:
            raise refused.error(self.name) from None
        except failures() as error:
            raise _unencodable(value, error, self.name) from error
        return b"".join((_VERSION, self._digest(body, context), body))

    def decode(self, data: bytes, *, context: bytes = b"") -> Any:
        """The value of bytes. Raises DamagedError before anything is loaded, if the bytes were not
        written with this key for this context; DecodeError if loading fails."""
        start = len(_VERSION) + _DIGEST
        body = memoryview(data)[start:]
        told = data[len(_VERSION) : start]
        if data[:1] != _VERSION or not hmac.compare_digest(told, self._digest(body, context)):
            raise DamagedError(
                "the stored value is damaged, belongs to another place, or was written with "
                "another key; nothing of it was loaded"
            )
        try:
            return pickle.loads(body)
        except failures() as error:
            raised = brief_of(error)
            raise DecodeError(f"the stored value cannot be loaded: {raised}") from error

    def _digest(self, body: bytes | memoryview, context: bytes) -> bytes:
        mac = blake2b(key=self._key, digest_size=_DIGEST, person=self.name.encode())
        mac.update(len(context).to_bytes(8, "little"))
        mac.update(context)
        mac.update(body)
        return mac.digest()

    def _dumps(self, value: object) -> bytes:
        raise NotImplementedError


_PROTOCOL: Final = 5  # of pickle: the same for every Python that fast_dag supports


class Pickle(_Keyed):
    """The codec that takes what pickle takes. `key` is a secret of at least 16 bytes.

    >>> codec = Pickle(key=b"sixteen bytes or more")
    >>> codec.decode(codec.encode({1, 2}, context=b"a"), context=b"a")
    {1, 2}
    >>> codec.decode(codec.encode({1, 2}, context=b"a"), context=b"b")
    Traceback (most recent call last):
    fast_dag.store.errors.DamagedError: the stored value is damaged, belongs to another place, ...
    """

    name = "pickle"

    def _dumps(self, value: object) -> bytes:
        return Pickler.dumps(value, _PROTOCOL)


class CloudPickle(_Keyed):
    """The codec that takes lambdas and classes of functions, too. It needs cloudpickle.

    >>> codec = CloudPickle(key=b"sixteen bytes or more")
    >>> codec.decode(codec.encode(lambda x: 2 * x))(21)
    42
    """

    name = "cloudpickle"

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._cloudpickle = needed("cloudpickle", extra="process", purpose="cloudpickle codecs")

    def _dumps(self, value: object) -> bytes:
        data: bytes = self._cloudpickle.dumps(value, _PROTOCOL)
        return data
