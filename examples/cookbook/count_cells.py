"""Count the cells on an image, one step after the other, as in the cells of a notebook.

    python examples/cookbook/count_cells.py

Needs numpy. Every `# %%` begins a cell, which many editors run alone. The image is made: twelve
bright discs on a dark ground, with noise.
"""

# %% A first try: look at the image before anything else is written.
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fast_dag import DAG

Image = npt.NDArray[np.float64]
dag = DAG("cells", autowire=True)
calls: list[str] = []


@dag.node
def image(seed: int = 3) -> Image:
    """The slow step: it stands for a microscope."""
    calls.append("image")
    ground = np.random.default_rng(seed).normal(0.2, 0.45, (60, 160))
    rows, columns = np.ogrid[:60, :160]
    for place in range(12):
        row, column = 15 + 30 * (place % 2), 14 + 26 * (place // 2)
        ground[(rows - row) ** 2 + (columns - column) ** 2 < 49] += 0.8
    return ground


@dag.node
def smooth(image: Image) -> Image:
    """For now: as it is."""
    return image


found = dag.run_until("smooth")
print(f"the image has {found.shape[0]} rows, from {found.min():.1f} to {found.max():.1f}")


# %% The rest of the pipeline.
@dag.node
def mask(smooth: Image, level: float = 0.6) -> npt.NDArray[np.bool_]:
    """What is bright."""
    return smooth > level


@dag.node
def sizes(mask: npt.NDArray[np.bool_]) -> list[int]:
    """How many points each spot has: neighbours belong together."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    spots = []
    while left:
        spot, edge = 0, [left.pop()]
        while edge:
            row, column = edge.pop()
            spot += 1
            near = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}
            edge += near & left
            left -= near
        spots.append(spot)
    return sorted(spots, reverse=True)


print(f"as it is: {len(dag.run_from('mask'))} spots")


# %% Too many: noise. The cell with `smooth` is written anew, and the image is not made again.
@dag.node(name="smooth", replace=True)
def average(image: Image, width: int = 2) -> Image:
    """The mean of the points around each one."""
    shifts = range(-width, width + 1)
    shifted = [np.roll(image, (down, right), (0, 1)) for down in shifts for right in shifts]
    mean: Image = np.mean(shifted, axis=0)
    return mean


for width in (1, 2):
    print(f"averaged by {width}: {len(dag.run_from('smooth', width=width))} spots")
print(f"the smallest has {dag['sizes'][-1]} points, the biggest {dag['sizes'][0]}")
print(f"the image was made {len(calls)} time(s)")

# %% A look at what came out: every fourth row, every second column.
for row in dag["mask"][::4, ::2]:
    print("".join("#" if point else "." for point in row))

# %% A picture of the pipeline. In a notebook `dag` as the last line of a cell is enough.
print(dag.visualize(options={"direction": "LR"}).rstrip())
