"""Durable runs: what was computed is in a database as soon as it is there.

    from fast_dag.store import Store

A run that is given a store goes on, whatever ended it, with what has not run yet. Nothing of this
package is loaded unless it is asked for.
"""

from __future__ import annotations

from fast_dag.store.errors import (
    ChangedError,
    DecodeError,
    EncodeError,
    InDoubtError,
    RunExistsError,
    RunInUseError,
    RunLostError,
    StoredError,
    StoreError,
    UnknownRunError,
    WaitingError,
)
from fast_dag.store.store import Store

__all__ = [
    "ChangedError",
    "DecodeError",
    "EncodeError",
    "InDoubtError",
    "RunExistsError",
    "RunInUseError",
    "RunLostError",
    "Store",
    "StoreError",
    "StoredError",
    "UnknownRunError",
    "WaitingError",
]
