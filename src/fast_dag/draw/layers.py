"""Sugiyama's layered layout of a connected graph without cycles, in the standard library alone."""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Size = tuple[float, float]
    Pair = tuple[str, str]

Point = tuple[float, float]

_SWEEPS = 8
"""How many passes improve the order in the layers, and then the positions."""
_MOST_BENDS = 20_000
"""If all links together would have more bends, long links go straight instead."""
_STRAIGHTNESS = 8.0
"""The pull between two bends of a link; between boxes it is 1."""


class Part(NamedTuple):
    """A connected part laid out; its upper left corner is at (0, 0). `bends`: where links bend."""

    centres: dict[str, Point]
    bends: dict[tuple[str, str], list[Point]]
    width: float
    height: float


class _Slot:
    """A place in a layer, for a box or for a link that passes through the layer."""

    __slots__ = ("above", "below", "half", "is_bend", "rank", "x")

    def __init__(self, rank: int, half: float, *, is_bend: bool) -> None:
        self.rank = rank
        self.half = half
        self.is_bend = is_bend
        self.x = 0.0
        self.above: list[_Slot] = []
        self.below: list[_Slot] = []


def layered(
    sizes: Mapping[str, Size], pairs: Sequence[Pair], *, gap: float, layer_gap: float
) -> Part:
    """Place the boxes of these sizes. `pairs` (source, target) connect them and close no cycle;
    `gap` is the room between boxes of a layer, `layer_gap` between layers.

    >>> part = layered({"a": (60, 30), "b": (60, 30)}, [("a", "b")], gap=24, layer_gap=46)
    >>> part.centres, part.bends
    ({'a': (30.0, 15.0), 'b': (30.0, 91.0)}, {('a', 'b'): [(30.0, 30.0), (30.0, 76.0)]})
    """
    ranks = _ranks(sizes, pairs)
    slots = {name: _Slot(ranks[name], sizes[name][0] / 2, is_bend=False) for name in sizes}
    lengths = [ranks[target] - ranks[source] for source, target in pairs]
    is_crowded = sum(lengths) - len(lengths) > _MOST_BENDS
    ways: list[list[_Slot]] = []
    for (source, target), length in zip(pairs, lengths, strict=True):
        way = [slots[source]]
        if not is_crowded:
            way += [_Slot(way[0].rank + step, 0.0, is_bend=True) for step in range(1, length)]
        way.append(slots[target])
        for upper, lower in pairwise(way):
            upper.below.append(lower)
            lower.above.append(upper)
        ways.append(way)
    layers: list[list[_Slot]] = [[] for _ in range(max(ranks.values()) + 1)]
    for slot in slots.values():
        layers[slot.rank].append(slot)
    for way in ways:
        for slot in way[1:-1]:
            layers[slot.rank].append(slot)
    layers = _untangled(layers)
    _place(layers, gap)
    return _measured(sizes, pairs, slots, ways, layer_gap)


def _ranks(ids: Mapping[str, Size], pairs: Sequence[Pair]) -> dict[str, int]:
    """The layer of each box: below all its sources, and near its targets if these are as many."""
    targets: dict[str, list[str]] = {each: [] for each in ids}
    waiting = dict.fromkeys(ids, 0)
    for source, target in pairs:
        targets[source].append(target)
        waiting[target] += 1
    degrees = dict(waiting)
    order = [name for name, count in waiting.items() if not count]
    ranks = dict.fromkeys(ids, 0)
    for name in order:  # it grows
        for target in targets[name]:
            ranks[target] = max(ranks[target], ranks[name] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                order.append(target)
    for name in reversed(order):
        if targets[name] and len(targets[name]) >= degrees[name]:
            ranks[name] = min(ranks[target] for target in targets[name]) - 1
    return ranks


def _untangled(layers: list[list[_Slot]]) -> list[list[_Slot]]:
    """The layers, each in the order in which the fewest links cross: the best of several passes."""
    best, fewest = layers, _crossings(layers)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        layers = list(layers)
        is_down = sweep % 2 == 0
        numbers = range(1, len(layers)) if is_down else range(len(layers) - 2, -1, -1)
        for number in numbers:
            beside = layers[number - 1 if is_down else number + 1]
            at = {slot: position for position, slot in enumerate(beside)}
            wanted: list[tuple[float, int, _Slot]] = []
            for position, slot in enumerate(layers[number]):
                near = [at[each] for each in (slot.above if is_down else slot.below) if each in at]
                middle = sum(near) / len(near) if near else float(position)
                wanted.append((middle, position, slot))
            layers[number] = [slot for *_, slot in sorted(wanted, key=lambda each: each[:2])]
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: Sequence[Sequence[_Slot]]) -> int:
    crossings = 0
    for upper, lower in pairwise(layers):
        at = {slot: position for position, slot in enumerate(lower)}
        ends: list[int] = []  # of the links from further left, sorted
        for slot in upper:
            own = [at[each] for each in slot.below if each in at]
            crossings += sum(len(ends) - bisect_right(ends, end) for end in own)
            for end in own:
                insort(ends, end)
    return crossings


def _place(layers: Sequence[Sequence[_Slot]], gap: float) -> None:
    """Find each slot's `x`: near the slots it is linked with, without overlap in its layer."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer), [1.0] * len(layer), gap)
    for sweep in range(_SWEEPS):
        is_last = sweep >= _SWEEPS - 2
        is_down = sweep % 2 == 0
        for layer in layers if is_down else reversed(layers):
            wanted, weights = [], []
            for slot in layer:
                near = slot.above if is_down else slot.below
                if is_last or not near:
                    near = slot.above + slot.below
                pulls = [_STRAIGHTNESS if slot.is_bend and each.is_bend else 1.0 for each in near]
                weight = sum(pulls)
                middle = sum(each.x * pull for each, pull in zip(near, pulls, strict=True))
                wanted.append(middle / weight if weight else slot.x)
                weights.append(weight or 1.0)
            _spread(layer, wanted, weights, gap)


def _spread(
    layer: Sequence[_Slot], wanted: Sequence[float], weights: Sequence[float], gap: float
) -> None:
    """Place the slots of a layer, each as near to its wanted `x` as the others allow. Slots that
    would overlap become a block, and a block goes to the weighted mean of what its slots want."""
    offsets, offset = [], 0.0
    for position, slot in enumerate(layer):
        if position:
            before = layer[position - 1]
            offset += (
                before.half + slot.half + (gap / 2 if before.is_bend and slot.is_bend else gap)
            )
        offsets.append(offset)
    blocks: list[tuple[float, float, int]] = []  # weighted sum, weight, slots
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        total, heavy, count = (want - offset) * weight, weight, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / heavy:
            before_total, before_weight, before_count = blocks.pop()
            total, heavy = total + before_total, heavy + before_weight
            count += before_count
        blocks.append((total, heavy, count))
    start = 0
    for total, heavy, count in blocks:
        for position in range(start, start + count):
            layer[position].x = total / heavy + offsets[position]
        start += count


def _measured(
    sizes: Mapping[str, Size],
    pairs: Sequence[Pair],
    slots: Mapping[str, _Slot],
    ways: Sequence[Sequence[_Slot]],
    layer_gap: float,
) -> Part:
    """The part, with its upper left corner at (0, 0)."""
    heights: dict[int, float] = {}
    for name, slot in slots.items():
        heights[slot.rank] = max(heights.get(slot.rank, 0.0), sizes[name][1])
    middles, top = {}, 0.0
    for rank in sorted(heights):
        middles[rank] = top + heights[rank] / 2
        top += heights[rank] + layer_gap
    everywhere = [*slots.values(), *(slot for way in ways for slot in way[1:-1])]
    left = min(slot.x - slot.half for slot in everywhere)
    right = max(slot.x + slot.half for slot in everywhere)
    centres = {name: (slot.x - left, middles[slot.rank]) for name, slot in slots.items()}
    # Links bend between layers only; within a layer they are vertical, so that they pass its boxes.
    bends = {
        pair: [
            (slot.x - left, middles[slot.rank] + side * heights[slot.rank] / 2)
            for slot in way
            for side in (-1, 1)
        ][1:-1]
        for pair, way in zip(pairs, ways, strict=True)
    }
    return Part(centres, bends, right - left, top - layer_gap)
