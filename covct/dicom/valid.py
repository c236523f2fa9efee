"""Whether a value follows its value representation (PS3.5 section 6.2), at any depth; decimal commas."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

# The first arc of an object identifier is 0, 1 or 2. Leading zeros of the others are forbidden too, but many write
# them, and archives find by such a UID what was filed under it.
UID = re.compile(r"[0-2](\.[0-9]+)*")
LONGEST_UID = 64
COMMA = re.compile(rb"[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
THOUSANDS = re.compile(rb"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
# Thousands of millimetres are no place in a patient, so that here a comma is never one between thousands.
IN_MILLIMETRES = tuple(
    Tag(keyword)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    )
)  # fmt: skip


def is_uid(text: str | None) -> bool:
    """Whether a text can be referred to as a UID."""
    return bool(text) and len(str(text)) <= LONGEST_UID and UID.fullmatch(str(text)) is not None


def commas_to_points(dataset: pydicom.Dataset, tags: Iterable[BaseTag]) -> tuple[list[str], list[str]]:
    """Put points for decimal commas in decimal strings that were not parsed yet, here and in items below.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Its elements are changed.
    tags : iterable of BaseTag
        The elements to look at, sequences among them.

    Returns
    -------
    read, doubtful : list of str
        Keywords of elements read so; and those left, with the value (digits and commas), where a comma may be one
        between thousands.
    """
    read: list[str] = []
    doubtful: list[str] = []
    for tag in tags:
        if tag not in dataset:
            continue
        element = dataset.get_item(tag)
        vr = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag) if dictionary_has_tag(tag) else ""
        if vr not in ("DS", "SQ") or (isinstance(element, RawDataElement) and b"," not in (element.value or b"")):
            continue
        if isinstance(element, RawDataElement) and vr == "DS":
            _mend(dataset, element, read, doubtful)
        elif vr == "SQ":
            for item in dataset[tag].value or ():
                for found, below in zip((read, doubtful), commas_to_points(item, list(item.keys())), strict=True):
                    found += below
    return read, doubtful


def _mend(dataset: pydicom.Dataset, element: RawDataElement, read: list[str], doubtful: list[str]) -> None:
    parts = [part.strip(b" \0") for part in (element.value or b"").split(b"\\")]
    commas = [part for part in parts if b"," in part]
    if not all(COMMA.fullmatch(part) for part in commas):
        return
    keyword = keyword_for_tag(element.tag)
    if element.tag not in IN_MILLIMETRES and any(THOUSANDS.fullmatch(part) for part in commas):
        doubtful.append(f"{keyword} {commas[0].decode()}")
        return
    value = b"\\".join(part.replace(b",", b".") for part in parts)
    value += b" " * (len(value) % 2)
    dataset._dict[element.tag] = element._replace(value=value, length=len(value))
    read.append(keyword)
