"""What of a report is measured together: the groups of the DICOM SR, before they are encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from covct.outputs import SEG_TYPES, Outputs
from covct.terms import (
    ABNORMAL_STRUCTURE,
    ANATOMICAL_STRUCTURE,
    BILATERAL,
    CALLED,
    FIGURES,
    IN_LOBES,
    LABELMAP_SEGMENTS,
    LEFT,
    LOBE_OF_LUNG,
    LOBE_SCORE,
    LOBE_SEGMENTS,
    LOBES,
    LOBES_OF_ATLAS,
    LOBES_SCORE,
    LUNG,
    NOT_ATTEMPTED,
    OPACITY,
    RIGHT,
    SEGMENTS,
    SHARE_OF_LOBE,
    SUM_OF_VOXELS,
    THIRD_OF_LUNG,
    THIRDS,
    VALUE_UNKNOWN,
    CodedTerm,
    Figure,
    Segment,
)

# Regions of the report, each with its side and its words.
SIDES = {"lungs": (BILATERAL, "Both lungs"), "right_lung": (RIGHT, "Right lung"), "left_lung": (LEFT, "Left lung")}
REGION_OF = {RIGHT: "right_lung", LEFT: "left_lung", None: "lungs"}
FIVE_LOBES = "Five lobes (approximate)"
[VOLUME] = (figure for figure in FIGURES if figure.name == "volume_ml")


@dataclass(frozen=True)
class Measured:
    """A figure of the report under the name that it has in a group.

    Attributes
    ----------
    value : float or None
        None: it is unknown, as the mean of nothing, or withheld.
    interval : (float, float) or None
        Where it is put.
    withheld : bool
        The input does not allow it.
    method : CodedTerm
        How it was measured.
    """

    figure: Figure
    name: CodedTerm
    value: float | None
    interval: tuple[float, float] | None = None
    withheld: bool = False
    method: CodedTerm = SUM_OF_VOXELS

    @property
    def why_absent(self) -> CodedTerm:
        """Why there is no value (PS3.16 CID 42)."""
        return NOT_ATTEMPTED if self.withheld else VALUE_UNKNOWN

    @property
    def reach(self) -> tuple[float, float] | None:
        """How far the upper end of the interval lies above the value, and the lower below it; None without one."""
        if self.value is None or not self.interval:
            return None
        (low, high), digits = self.interval, self.figure.digits
        return round(high - self.value, digits) + 0.0, round(self.value - low, digits) + 0.0


@dataclass(frozen=True)
class Group:
    """What is measured together.

    Attributes
    ----------
    label : str
        Names the tracking identifier, as in the SEG.
    category, finding : CodedTerm
    side : CodedTerm or None
        None: of opacity wherever it lies, which may be one side only.
    measured : tuple of Measured
    segment : int or None
        Its number in the SEG; None where the region is no single segment.
    third : CodedTerm or None
        Which third of the region.
    site : CodedTerm
        The organ, or the part of it.
    slices : (int, int) or None
        Of a third: its first slice and the one after its last, in working orientation.
    outlined : str
        The mask whose outline a viewer is sent to, a key of `sr_regions.LABELS`; of a third or a lesion that whose
        part it is.
    centre_mm : (float, float, float) or None
        Of a lesion, in the patient (LPS).
    """

    label: str
    category: CodedTerm
    finding: CodedTerm
    side: CodedTerm | None
    measured: tuple[Measured, ...]
    segment: int | None = None
    third: CodedTerm | None = None
    site: CodedTerm = LUNG
    slices: tuple[int, int] | None = None
    outlined: str = "lungs"
    centre_mm: tuple[float, float, float] | None = None


def groups_of(report: dict[str, Any], outputs: Outputs) -> list[Group]:
    """The lungs, their opacity, the rest of a label map's segments, thirds of the lungs, lobes, the largest lesions.

    Figures of opacity stand in groups of opacity, also by side: where the SEG has a segment of it the group refers to
    that one, and to none where it has not.
    """
    split = outputs.seg_type == "labelmap"
    segments = {one.label: one.number for one in (LABELMAP_SEGMENTS if split else SEGMENTS)}
    regions = report["regions"]
    lungs = [
        Group(
            words, ANATOMICAL_STRUCTURE, LUNG, side, _of_lung(report, regions[name]), segments.get(words), outlined=name
        )
        for name, (side, words) in SIDES.items()
    ]
    opacity = [
        Group(
            label,
            ABNORMAL_STRUCTURE,
            OPACITY,
            side,
            _of_opacity(report, regions[REGION_OF[side]]),
            segments.get(label),
            outlined=f"opacity {REGION_OF[side]}",
        )
        for label, side in ((CALLED, None), (f"{CALLED}, right lung", RIGHT), (f"{CALLED}, left lung", LEFT))
    ]
    outside = [_outside(report, segment) for segment in LABELMAP_SEGMENTS if split and segment.task == "lungs"]
    lobes = _lobes(report, {} if outputs.seg_type != SEG_TYPES[0] else {one.label: one.number for one in LOBE_SEGMENTS})
    return [*lungs, *opacity, *outside, *_thirds(report), *lobes, *_lesions(report)]


def _measured(report: dict[str, Any], figure: Figure, name: CodedTerm, region: dict[str, Any]) -> Measured:
    denied = any(not report["valid_for"][kind] for kind in figure.valid_for)
    interval = region.get(f"{figure.name}_interval")
    return Measured(figure, name, region[figure.name], tuple(interval) if interval else None, denied)


def _of_lung(report: dict[str, Any], region: dict[str, Any]) -> tuple[Measured, ...]:
    """What is said of the lung itself."""
    own = [one for one in FIGURES if one.of_lung and not one.of_infection]
    return tuple(_measured(report, one, one.of_lung, region) for one in own if one.of_lung)


def _of_opacity(report: dict[str, Any], region: dict[str, Any]) -> tuple[Measured, ...]:
    """What is said of opacity. Nothing has no mean: where there is none, it is left out."""
    every = (_measured(report, one, one.of_infection, region) for one in FIGURES if one.of_infection)
    nothing = region["infection_ml"] == 0
    return tuple(one for one in every if one.value is not None or one.withheld or not nothing)


def _outside(report: dict[str, Any], segment: Segment) -> Group:
    """The volume of a label map's lung segment: its opacity lies in another one."""
    name = REGION_OF[segment.side]
    region = report["regions"][name]
    whole, opacity = region["volume_ml"], region["infection_ml"]
    value = None if whole is None else round(whole - opacity, VOLUME.digits)
    assert VOLUME.of_lung
    measured = Measured(VOLUME, VOLUME.of_lung, value, withheld=not report["valid_for"]["volume"])
    return Group(
        segment.label, segment.category, segment.type, segment.side, (measured,), segment.number, outlined=name
    )


def _thirds(report: dict[str, Any]) -> list[Group]:
    """Each third of each lung, and of both: how much lung there is in it, and how much of that is opacity."""
    given = [one for one in FIGURES if one.in_thirds]
    if not report["thirds"]:  # of an earlier version, which divided each region by its own height
        return []
    edges = report["thirds"]["edges"]
    slices = dict(zip(THIRDS, zip(edges, edges[1:], strict=False), strict=True))
    return [
        Group(
            f"{words}, {third} third",
            ANATOMICAL_STRUCTURE,
            LUNG,
            side,
            tuple(_measured(report, one, one.of_lung, figures) for one in given if one.of_lung),
            third=THIRD_OF_LUNG[third],
            slices=slices[third],
            outlined=name,
        )
        for name, (side, words) in SIDES.items()
        for third, figures in (report["regions"][name].get("thirds") or {}).items()
    ]


def _lobes(report: dict[str, Any], segments: dict[str, int]) -> list[Group]:
    """Each lobe, and the score of all; nothing where lobes were not asked for."""
    found = report.get("lobes")
    if not found:
        return []
    groups = [
        Group(
            segment.label,
            segment.category,
            lobe.code,
            lobe.side,
            _of_lobe(report, found["by_lobe"][lobe.name]),
            segments.get(segment.label),
            site=lobe.code,
            outlined=lobe.name,
        )
        for lobe, segment in zip(LOBES, LOBE_SEGMENTS, strict=True)
    ]
    whole = _by_atlas(report, LOBES_SCORE, LOBES_SCORE.of_lung, found)
    return [*groups, Group(FIVE_LOBES, ANATOMICAL_STRUCTURE, LOBE_OF_LUNG, BILATERAL, (whole,))]


def _of_lobe(report: dict[str, Any], lobe: dict[str, Any]) -> tuple[Measured, ...]:
    named = {figure.name: figure for figure in FIGURES if figure.name in IN_LOBES}
    share = named["infection_percent"]
    return (
        *(_by_atlas(report, named[name], named[name].of_lung, lobe) for name in IN_LOBES if name != share.name),
        _by_atlas(report, share, SHARE_OF_LOBE, lobe),
        _by_atlas(report, LOBE_SCORE, LOBE_SCORE.of_lung, lobe),
    )


def _by_atlas(report: dict[str, Any], figure: Figure, name: CodedTerm | None, values: dict[str, Any]) -> Measured:
    """A share that is null though the input allows it is withheld too: its lung is mostly dense."""
    assert name
    measured = _measured(report, figure, name, values)
    return replace(measured, method=LOBES_OF_ATLAS, withheld=measured.value is None)


def _lesions(report: dict[str, Any]) -> list[Group]:
    """The largest lesions, each where its centre lies."""
    withheld = not report["valid_for"]["volume"]
    assert VOLUME.of_lung
    return [
        Group(
            f"Lesion {number}",
            ABNORMAL_STRUCTURE,
            OPACITY,
            SIDES[lesion["side"]][0],
            (Measured(VOLUME, VOLUME.of_lung, lesion["volume_ml"], withheld=withheld),),
            outlined=f"opacity {lesion['side']}",
            centre_mm=tuple(lesion["centroid_lps_mm"]),
        )
        for number, lesion in enumerate(report["lesions"]["largest"], start=1)
    ]
