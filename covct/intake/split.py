"""One series to the scans that it holds: acquisitions, energies, phases and a scout may share a Series Instance UID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from covct.dicom.header import Instance
from covct.dicom.quotable import quoted_kernel

LEAST_KV = 5  # between two energies: less is one, as it was measured
MOSTLY = 0.5  # of an acquisition's positions are another's too: two scans of one region, not one scan in rotations
Groups = dict[Any, list[Instance]]


@dataclass(frozen=True)
class Part:
    """One scan of a series.

    Attributes
    ----------
    instances : tuple of Instance
        Its slices.
    suffix : str
        What to append to the folder's name; empty where nothing was taken apart.
    words : tuple of str
        What tells it from the other scans of its series, such as "80 kV".
    """

    instances: tuple[Instance, ...]
    suffix: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """What may differ between two scans: the letter of a folder's suffix, the value, and words for the latter."""

    letter: str
    of: Callable[[Instance], Any]
    words: Callable[[Any], str]


def kernel_words(kernel: str) -> str:
    """A kernel as it may be quoted."""
    return f"kernel {quoted_kernel(kernel)}" if quoted_kernel(kernel) else "another kernel"


ACQUISITION = Attribute("", lambda i: i.acquisition, lambda number: f"acquisition {number}")
TIME = Attribute("t", lambda i: i.temporal_position, lambda number: f"temporal position {number}")
KERNEL = Attribute("k", lambda i: i.kernel or None, kernel_words)
PHASE = Attribute("c", lambda i: i.phase_percent, lambda percent: f"phase {percent:g} %")
ENERGY = Attribute("e", lambda i: i.kvp, lambda kilovolts: f"{kilovolts} kV")
TELLING = (ACQUISITION, TIME, KERNEL, PHASE, ENERGY)


def split_scans(instances: tuple[Instance, ...]) -> list[Part]:
    """Take a series apart where its headers say, without doubt, that it holds several scans.

    Multi-frame instances, their stacks, and localizers are parts by nature. Slices at doubled positions are taken
    apart by acquisition, temporal position, kernel, the order of their numbers, cardiac phase, energy, or several of
    these, but only where that explains the doubling: each part has every position once. Else they stay together, for
    the gate to name what is wrong. Scans that lie over one another are taken apart also where no position is doubled:
    half a step apart they would make an even stack of two breaths.
    """
    parts = _by(instances, "m", lambda i: i.sop_instance_uid if i.frame else "")
    parts = _again(parts, lambda some: _by(some, "s", lambda i: i.stack if i.frame else ""))
    parts = _again(parts, lambda some: _by(some, "scout", lambda i: "LOCALIZER" in i.image_type))
    parts = _again(parts, _doubled)
    return _again(parts, _over_one_another)


def differing(instances: Iterable[Instance]) -> list[str]:
    """What slices differ in of all that may tell scans apart, in words: "80 kV and 140 kV"."""
    out = []
    for attribute in TELLING:
        values = {attribute.of(i) for i in instances} - {None}
        if len(values) > 1:
            out.append(" and ".join(dict.fromkeys(map(attribute.words, sorted(values)[:3]))))
    return out


def _again(parts: Iterable[Part], split: Callable[[tuple[Instance, ...]], list[Part]]) -> list[Part]:
    return [
        Part(part.instances, before.suffix + part.suffix, before.words + part.words)
        for before in parts
        for part in split(before.instances)
    ]


def _grouped(instances: tuple[Instance, ...], attributes: tuple[Attribute, ...]) -> Groups:
    """Slices by their values of these."""
    groups: Groups = defaultdict(list)
    for instance in instances:
        groups[tuple(one.of(instance) for one in attributes)].append(instance)
    return groups


def _by(instances: tuple[Instance, ...], letter: str, key: Callable[[Instance], Any]) -> list[Part]:
    groups: Groups = defaultdict(list)
    for instance in instances:
        groups[key(instance)].append(instance)
    if len(groups) < 2:
        return [Part(instances)]
    return [Part(tuple(groups[value]), f"-{letter}{number}") for number, value in enumerate(sorted(groups), 1)]


def _doubled(instances: tuple[Instance, ...]) -> list[Part]:
    positions = {i.position for i in instances}
    doubled = len(instances) - len(positions)
    if not doubled or None in positions:
        return [Part(instances)]
    order = _passes(instances)
    passes = Attribute("p", lambda i: order.get(i), lambda number: f"pass {number}")
    # The first that explains it names the folders, as ever: what was learned to be told apart later comes behind.
    alone = [(ACQUISITION,), (TIME,), (KERNEL,), (passes,), (PHASE,), (ENERGY,)]
    several = [some for count in range(2, len(TELLING) + 1) for some in combinations(TELLING, count)]
    for attributes in (*alone, *several):
        groups = _grouped(instances, attributes)
        if not _silent(groups) and len(groups) > 1 and _explains(groups.values(), doubled):
            return _named(groups, attributes)
    return [Part(instances)]


def _silent(groups: Groups) -> bool:
    """Whether some slices have no value."""
    return any(None in values for values in groups)


def _named(groups: Groups, attributes: tuple[Attribute, ...]) -> list[Part]:
    suffixes = dict.fromkeys(groups, "")
    for place, attribute in enumerate(attributes):
        names = _names({values[place] for values in groups})
        for values in groups:
            suffixes[values] += f"-{attribute.letter}{names[values[place]]}"
    return [
        Part(
            tuple(groups[values]),
            suffixes[values],
            tuple(attribute.words(value) for attribute, value in zip(attributes, values, strict=True)),
        )
        for values in sorted(groups)
    ]


def _names(values: Iterable[Any]) -> dict[Any, str]:
    """In a folder's name numbers stand for themselves, so that one more renames no other; texts are counted."""
    return {
        value: f"{value:g}" if isinstance(value, float) else str(value if isinstance(value, int) else number)
        for number, value in enumerate(sorted(values), 1)
    }


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
    """Take scans apart that all cover one region. The rotations and blocks of one scan follow one another."""
    if instances[0].orientation is None or any(i.position is None for i in instances):
        return [Part(instances)]
    groups = _grouped(instances, (ACQUISITION,))
    if len(groups) > 1 and not _silent(groups) and _cover_one_region(groups):
        parts = _named(groups, (ACQUISITION,))
        return [Part(part.instances, f"-a{number}", part.words) for number, part in enumerate(parts, 1)]
    if len({i.position for i in instances}) < len(instances):  # what explains these is taken apart already
        return [Part(instances)]
    for attribute in (TIME, KERNEL, PHASE, ENERGY):
        groups = _grouped(instances, (attribute,))
        if attribute is ENERGY and not _energies(groups):
            continue
        if len(groups) > 1 and not _silent(groups) and _as_many(groups) and _cover_one_region(groups):
            return _named(groups, (attribute,))
    return [Part(instances)]


def _energies(groups: Groups) -> bool:
    """Whether tube voltages are apart as settings of a tube are."""
    kilovolts = sorted(value for (value,) in groups if value is not None)
    return all(high - low >= LEAST_KV for low, high in zip(kilovolts, kilovolts[1:], strict=False))


def _as_many(groups: Groups) -> bool:
    """Whether the scans have about as many slices: a value that strays here and there is no scan of its own."""
    counts = [len(part) for part in groups.values()]
    return min(counts) >= MOSTLY * max(counts)


def _cover_one_region(groups: Groups) -> bool:
    first = next(iter(groups.values()))[0]
    orientation = first.orientation or ()
    normal = np.cross(orientation[:3], orientation[3:])
    ends = []
    for part in groups.values():
        along = np.array([i.position for i in part]) @ normal
        ends.append((float(along.min()), float(along.max())))
    shared = min(high for _, high in ends) - max(low for low, _ in ends)
    longest = max(high - low for low, high in ends)
    return shared > 0 and shared >= MOSTLY * longest
