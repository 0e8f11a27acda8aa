"""A large array goes through steps in worker processes, and is not sent again at each of them.

    python examples/cookbook/array_chain.py

A signal of two million samples is made, cleaned, smoothed and measured, each step in a process.
Needs numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fast_dag import DAG, Workers

Signal = np.ndarray[Any, np.dtype[np.float64]]

dag = DAG("signal")


@dag.node
def signal(samples: int) -> Signal:
    """A slow wave with a fast one on it, and some samples that were lost."""
    time = np.arange(samples) / 1000
    wave = np.sin(time) + 0.2 * np.sin(200 * time)
    wave[::1000] = np.nan
    return wave


@dag.node
def cleaned(signal: Signal) -> Signal:
    """The lost samples filled in. The array is this node's own: it may write to it."""
    lost = np.isnan(signal)
    signal[lost] = np.interp(np.flatnonzero(lost), np.flatnonzero(~lost), signal[~lost])
    return signal


@dag.node
def smooth(cleaned: Signal) -> Signal:
    """A mean over 31 samples, which the fast wave does not survive."""
    sums = np.cumsum(np.insert(cleaned, 0, 0.0))
    mean: Signal = (sums[31:] - sums[:-31]) / 31
    return mean


@dag.node
def crossings(smooth: Signal) -> int:
    """How often the slow wave goes through zero."""
    return int(np.count_nonzero(np.diff(np.signbit(smooth))))


signal >> cleaned >> smooth >> crossings


if __name__ == "__main__":
    with Workers(2) as workers:
        run = dag.execute(samples=2_000_000, executor=workers)
    print(f"{np.count_nonzero(np.isnan(run['signal'])):,} samples were lost")
    print(f"{np.count_nonzero(np.isnan(run['cleaned'])):,} are still")
    print(f"{run['crossings']} crossings, {2_000_000 / 1000 / np.pi:.0f} expected")
