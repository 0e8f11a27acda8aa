"""Results that are kept from one run to the next: keys, backends, and who computes what.

`DiskCache` is public: `from fast_dag.cache import DiskCache`. It loads when somebody asks for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fast_dag.cache.disk import DiskCache

__all__ = ["DiskCache"]


def __getattr__(name: str) -> Any:
    if name != "DiskCache":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fast_dag.cache.disk import DiskCache  # with pickle and hashlib, for those who use it

    return DiskCache
