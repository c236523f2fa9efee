"""What an image says that it is: an original slice, an axial reformat of slices, or nothing that lungs are seen on."""

from __future__ import annotations

import re

import numpy as np

from covct.dicom.header import Instance

ORIGINAL, REFORMATTED, DERIVED, LOCALIZER = "original", "reformatted", "derived", "localizer"
# What no voxel of is the density at one place: projections, renderings, pages of text, statistics, differences.
NO_DENSITY = {
    "MIP", "MINIP", "CSA MIP", "CSA MINIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "STD_DEVIATION", "PJN",
    "PROJECTION IMAGE", "VRT", "VOLREN", "VOLUME_RENDER", "SURFACE_RENDER", "RENDERED", "3DREND", "SSD", "CPR",
    "CURVED_MPR", "SCREEN SAVE", "DOSE_INFO", "DISTORTED", "SUBTRACTION", "MASKED",
}  # fmt: skip
REFORMATS = {"REFORMATTED", "MPR", "CSA MPR", "CSA MPR THICK"}  # cut from a volume along planes of their own
AVERAGES = {"AVERAGE", "AVG"}
# What else reformats of GE, Siemens, Philips and Canon are called; another word may mean anything.
BESIDE = re.compile(
    r"DERIVED|ORIGINAL|PRIMARY|SECONDARY|AXIAL|VOLUME|THICK|CSA|CSA ?PARALLEL|(CSA )?RESAMPLED|PARALLEL|NONE|OTHER|M|ND"
    r"|NORM|STD|SNRG|CT_SOM\d+|SPI|SEQ|DUAL|DET_\w+|JP2K|LOSSY|\d+:1|"
)


def words_of(instance: Instance) -> set[str]:
    """The values of Image Type, and the words of each: Siemens writes DERIVED, PRIMARY, AXIAL, CT_SOM5 MIP."""
    return {*instance.image_type, *" ".join(instance.image_type).split()}


def kind_of(instance: Instance) -> str:
    """ORIGINAL, REFORMATTED, DERIVED or LOCALIZER, by Image Type and orientation.

    Reformats are those along axial planes only: the type often says AXIAL of a coronal one too.
    """
    words = words_of(instance)
    if "LOCALIZER" in words:
        return LOCALIZER
    if NO_DENSITY & words:
        return DERIVED
    if REFORMATS & words or (AVERAGES & words and is_cut(instance)):
        known = all(word in REFORMATS | AVERAGES or BESIDE.fullmatch(word) for word in words if " " not in word)
        return REFORMATTED if known and _is_axial(instance) else DERIVED
    made = instance.image_type[:1] == ("DERIVED",) and not {"AXIAL", "VOLUME"} & words
    if "SECONDARY" in words or made:
        return DERIVED
    return REFORMATTED if AVERAGES & words else ORIGINAL


def is_cut(instance: Instance) -> bool:
    """Whether it was made from a volume that is there, and not from the scan: of a reformat."""
    return bool((REFORMATS | {"SECONDARY"}) & words_of(instance))


def projection_of(instance: Instance) -> str:
    """Which projection, rendering or page an image says that it is; empty for what says nothing of the kind."""
    return min(NO_DENSITY & words_of(instance), default="")


def _is_axial(instance: Instance) -> bool:
    if instance.orientation is None:
        return False
    normal = np.cross(instance.orientation[:3], instance.orientation[3:])
    return int(np.argmax(np.abs(normal))) == 2
