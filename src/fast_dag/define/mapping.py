"""Mapping: what a node is told of the collection that it maps its function over."""

from __future__ import annotations

from fast_dag._fields import Fields
from fast_dag.define.node import Nestable
from fast_dag.define.signature import Signature, gives_coroutine
from fast_dag.errors import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any
