"""Slices of one scan to which a faulty anonymiser gave a study or a series each: one thing to say, not twenty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from covct.dicom.header import Header, Instance

FEWEST = 10  # slices of one scan; fewer single images may be what they say
EVEN = 0.1  # of a step; interventions leave single images too, but wherever the needle was
MOSTLY_EVEN = 0.8  # of the steps: slices may be missing
PER_SLICE = {"StudyInstanceUID": "study_uid", "SeriesInstanceUID": "series_uid"}


def scattered(headers: Iterable[Header]) -> list[list[Header]]:
    """Files that are alone in their series, and all of them, of one folder or of several, an even stack of one patient.

    Files that repeat an instance are in its group.
    """
    series: dict[tuple[str, str], dict[str, list[Header]]] = defaultdict(lambda: defaultdict(list))
    for header in headers:
        series[header.study_uid, header.series_uid][header.instances[0].sop_instance_uid].append(header)
    alone = [files for uids in series.values() if len(uids) == 1 for files in uids.values()]
    alone = [files for files in alone if _has_place(files[0])]
    found: list[list[Header]] = []
    for key in (lambda one: (one.file.place, _kind(one)), _kind):
        groups = _grouped(alone, key)
        found += [[header for files in group for header in files] for group in groups]
        taken = {id(files) for group in groups for files in group}
        alone = [files for files in alone if id(files) not in taken]
    return found


def unlike(group: list[Header]) -> tuple[str, ...]:
    """Keywords of the UIDs that differ from slice to slice."""
    return tuple(keyword for keyword, name in PER_SLICE.items() if len({getattr(header, name) for header in group}) > 1)


def _grouped(alone: list[list[Header]], key: Callable[[Instance], tuple[Any, ...]]) -> list[list[list[Header]]]:
    groups: dict[tuple[Any, ...], list[list[Header]]] = defaultdict(list)
    for files in alone:
        groups[key(files[0].instances[0])].append(files)
    return [g for g in groups.values() if len(g) >= FEWEST and _is_even([files[0].instances[0] for files in g])]


def _has_place(header: Header) -> bool:
    one = header.instances[0]
    return bool(one.position and one.orientation and not one.frame)


def _kind(one: Instance) -> tuple[Any, ...]:
    assert one.orientation
    cosines = tuple(round(cosine, 3) for cosine in one.orientation)
    return one.patient, one.modality, one.sop_class_uid, one.image_type, one.shape, cosines


def _is_even(slices: list[Instance]) -> bool:
    orientation = np.array(slices[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    steps = np.diff(np.sort(np.array([one.position for one in slices]) @ normal))
    middle = float(np.median(steps))
    return middle > 0 and float(np.mean(np.abs(steps - middle) <= EVEN * middle)) >= MOSTLY_EVEN
