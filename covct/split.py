"""One series to the scans that it holds: acquisitions, stacks, phases and a scout may share a Series Instance UID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from covct.dicom.header import Instance

MOSTLY = 0.5  # of an acquisition's positions are another's too: two scans of one region, not one scan in rotations
Part = tuple[str, tuple[Instance, ...]]  # what to append to the folder's name, and the slices


def split_scans(instances: tuple[Instance, ...]) -> list[Part]:
    """Take a series apart where its headers say, without doubt, that it holds several scans.

    Multi-frame instances, their stacks, and localizers are parts by nature. Slices at doubled positions are taken
    apart by acquisition, temporal position, kernel, or the order of their numbers, but only where that explains the
    doubling: each part has every position once. Else they stay together, for the gate to name what is wrong.
    Acquisitions that lie over one another are taken apart also where no position is doubled: half a step apart they
    would make an even stack of two breaths.

    Returns
    -------
    list of (str, tuple of Instance)
        A suffix for the folder's name ("" where nothing was taken apart) and the slices of each part.
    """
    parts = _by(instances, "m", lambda i: i.sop_instance_uid if i.frame else "")
    parts = _again(parts, lambda some: _by(some, "s", lambda i: i.stack if i.frame else ""))
    parts = _again(parts, lambda some: _by(some, "scout", lambda i: "LOCALIZER" in i.image_type))
    parts = _again(parts, _doubled)
    return _again(parts, _over_one_another)


def _again(parts: Iterable[Part], split: Callable[[tuple[Instance, ...]], list[Part]]) -> list[Part]:
    return [(before + after, some) for before, whole in parts for after, some in split(whole)]


def _by(instances: tuple[Instance, ...], letter: str, key: Callable[[Instance], Any]) -> list[Part]:
    groups: dict[Any, list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[key(instance)].append(instance)
    if len(groups) < 2:
        return [("", instances)]
    return [(f"-{letter}{number}", tuple(groups[value])) for number, value in enumerate(sorted(groups), 1)]


def _doubled(instances: tuple[Instance, ...]) -> list[Part]:
    positions = {i.position for i in instances}
    doubled = len(instances) - len(positions)
    if not doubled or None in positions:
        return [("", instances)]
    order = _passes(instances)
    keys: list[tuple[str, Callable[[Instance], Any]]] = [
        ("", lambda i: i.acquisition),
        ("t", lambda i: i.temporal_position),
        ("k", lambda i: i.kernel or None),
        ("p", lambda i: order.get(i)),
    ]
    for letter, key in keys:
        groups: dict[Any, list[Instance]] = defaultdict(list)
        for instance in instances:
            groups[key(instance)].append(instance)
        if None not in groups and len(groups) > 1 and _explains(groups.values(), doubled):
            names = {value: value if isinstance(value, int) else n for n, value in enumerate(sorted(groups), 1)}
            return [(f"-{letter}{names[value]}", tuple(groups[value])) for value in sorted(groups)]
    return [("", instances)]


def _explains(groups: Iterable[list[Instance]], doubled: int) -> bool:
    parts = list(groups)
    return all(len({i.position for i in part}) == len(part) for part in parts) and doubled >= MOSTLY * min(
        map(len, parts)
    )


def _passes(instances: tuple[Instance, ...]) -> dict[Instance, int]:
    """Where nothing but the instance numbers tells: a pass over the region is a run of numbers. Empty if not so."""
    places: dict[Any, list[Instance]] = defaultdict(list)
    for instance in sorted(instances, key=lambda i: i.number):
        places[instance.position].append(instance)
    counts = {len(there) for there in places.values()}
    if len(counts) != 1 or len({i.number for i in instances}) != len(instances):
        return {}
    runs = [[there[rank].number for there in places.values()] for rank in range(counts.pop())]
    if any(max(before) > min(after) for before, after in zip(runs, runs[1:], strict=False)):
        return {}
    return {instance: rank for there in places.values() for rank, instance in enumerate(there, 1)}


def _over_one_another(instances: tuple[Instance, ...]) -> list[Part]:
    """Take acquisitions apart that all cover one region. The rotations and blocks of one scan follow one another."""
    groups: dict[int | None, list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[instance.acquisition].append(instance)
    orientation = instances[0].orientation
    if None in groups or len(groups) < 2 or orientation is None or any(i.position is None for i in instances):
        return [("", instances)]
    normal = np.cross(orientation[:3], orientation[3:])
    ends = []
    for part in groups.values():
        along = np.array([i.position for i in part]) @ normal
        ends.append((float(along.min()), float(along.max())))
    shared = min(high for _, high in ends) - max(low for low, _ in ends)
    longest = max(high - low for low, high in ends)
    if shared <= 0 or shared < MOSTLY * longest:
        return [("", instances)]
    return _by(instances, "a", lambda i: i.acquisition)
