"""What lies under a chest's Series Instance UID and is no slice of it: structure sets, dose pages, MIPs, slabs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from covct.dicom.header import CT_IMAGE, MULTI_FRAME_CT, Instance
from covct.dicom.quotable import MODALITIES, quoted
from covct.intake.image_type import LOCALIZER, ORIGINAL, REFORMATTED, kind_of, projection_of

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and with more digits its multi-frame kinds
FEWEST_SLICES = 3  # of a chest that something can lie beside
COSINES_DIFFER = 0.01
SIZES_DIFFER = 0.01
THICKNESSES_DIFFER = 0.1
OWN_PLACE = 0.25  # of a slice step from the next slice: nearer they would be two slices at one place


@dataclass(frozen=True)
class _Stack:
    """How the slices of a chest lie, for asking whether another image could be one of them.

    `along` are their places on the normal, mm, ascending; `step` is the way from one to the next.
    """

    shape: tuple[int, int]
    orientation: np.ndarray
    spacing: np.ndarray
    thickness: float | None
    along: np.ndarray
    step: float


def set_aside(instances: tuple[Instance, ...]) -> tuple[tuple[Instance, ...], tuple[Instance, ...]]:
    """The series without what is provably no slice of it, and that.

    Provably: it is of another kind by SOP class and modality, or a projection, rendering or page by its own word.
    Secondary captures, and images that say no more than that they are derived, could be a slice that somebody sent
    anew: they are set aside only where they have no place, or size, plane and thickness of their own, or lie where
    there is a slice already. Else all stay together, for the gate to refuse. Multi-frame images and localizers are
    taken apart by nature, see `split_scans`.
    """
    slices = _plain(instances)
    if len(slices) < FEWEST_SLICES:
        return instances, ()
    stack, own = _stack(slices), set(slices)
    foreign = {one for one in instances if one not in own and _is_foreign(one, stack)}
    return tuple(i for i in instances if i not in foreign), tuple(i for i in instances if i in foreign)


def described(instances: Iterable[Instance]) -> str:
    """What was set aside, in words: "1 RTSTRUCT, 2 MIP"."""
    return ", ".join(f"{number} {what}" for what, number in sorted(Counter(map(_described, instances)).items()))


def _described(instance: Instance) -> str:
    if instance.sop_class_uid.startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if not _is_ct_class(instance):
        modality = quoted(instance.modality, MODALITIES)
        return modality if modality == instance.modality != "CT" else "object that is no CT image"
    return projection_of(instance) or f"{kind_of(instance)} image"


def _plain(instances: tuple[Instance, ...]) -> list[Instance]:
    """CT slices with a place, in single frames: the original ones, or where there is none the reformatted ones."""
    placed = [
        one
        for one in instances
        if (one.sop_class_uid, one.modality, one.frame) == (CT_IMAGE, "CT", None)
        and None not in (one.position, one.orientation, one.pixel_spacing)
    ]
    kinds = [kind_of(one) for one in placed]
    wanted = ORIGINAL if ORIGINAL in kinds else REFORMATTED
    return [one for one, kind in zip(placed, kinds, strict=True) if kind == wanted]


def _stack(slices: list[Instance]) -> _Stack:
    orientation = np.array(_usual(one.orientation for one in slices))
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.sort(np.array([one.position for one in slices]) @ normal)
    return _Stack(
        shape=_usual(one.shape for one in slices),
        orientation=orientation,
        spacing=np.array(_usual(one.pixel_spacing for one in slices)),
        thickness=_usual(one.thickness for one in slices),
        along=along,
        step=float(np.median(np.diff(along))),
    )


def _usual(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _is_foreign(one: Instance, stack: _Stack) -> bool:
    if one.frame or kind_of(one) == LOCALIZER or not one.sop_class_uid:
        return False
    other_class = not _is_ct_class(one)
    capture = one.sop_class_uid.startswith(SECONDARY_CAPTURE)
    if other_class and not capture and one.modality not in ("", "CT"):
        return True
    if projection_of(one):
        return True
    unlike = other_class or one.modality != "CT" or kind_of(one) != ORIGINAL
    return unlike and not _could_be_slice(one, stack)


def _is_ct_class(instance: Instance) -> bool:
    return instance.sop_class_uid in {CT_IMAGE, *MULTI_FRAME_CT}


def _could_be_slice(one: Instance, stack: _Stack) -> bool:
    """Whether it lies as the slices do, in a place that none of them has."""
    if one.position is None or one.orientation is None or one.pixel_spacing is None or one.shape != stack.shape:
        return False
    if np.abs(np.array(one.orientation) - stack.orientation).max() > COSINES_DIFFER:
        return False
    if np.abs(np.array(one.pixel_spacing) / stack.spacing - 1).max() > SIZES_DIFFER:
        return False
    if one.thickness and stack.thickness and abs(one.thickness / stack.thickness - 1) > THICKNESSES_DIFFER:
        return False
    normal = np.cross(stack.orientation[:3], stack.orientation[3:])
    away = np.abs(stack.along - np.array(one.position) @ normal).min()
    return bool(away >= OWN_PLACE * stack.step)
