"""Functions of arrays that workers find by name; apart, because numpy is slow to import."""

from __future__ import annotations

from typing import Any

import numpy as np


def ones(n: int) -> np.ndarray[Any, Any]:
    return np.ones(n)


def tripled(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x *= 3
    return x


def total(*args: Any) -> float:
    return float(sum(each.sum() for each in args))
