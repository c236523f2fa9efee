"""Whether a value follows its value representation (PS3.5 section 6.2), at any depth; decimal commas."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

# The first arc of an object identifier is 0, 1 or 2. Leading zeros of the others are forbidden too, but many write
# them, and archives find by such a UID what was filed under it.
UID = re.compile(r"[0-2](\.[0-9]+)*")
LONGEST_UID = 64
LENGTHS = {"AE": 16, "CS": 16, "SH": 16, "LO": 64, "ST": 1024, "LT": 10240, "UC": 2**16, "UT": 2**16}
PATTERNS = {
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]*"),
    "DA": re.compile(r"[0-9]{8}"),
    "DS": re.compile(r"(?=.{1,16}$)[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    "DT": re.compile(r"[0-9]{4}([0-9]{2}){0,5}(?:(?<=[0-9]{14})\.[0-9]{1,6})?([+-][0-9]{4})?"),
    "IS": re.compile(r"[+-]?[0-9]{1,10}"),
    "TM": re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?"),
}
ENUMERATED = {
    "PatientSex": {"M", "F", "O"},
    "PatientIdentityRemoved": {"YES", "NO"},
    "QualityControlSubject": {"YES", "NO"},
    "LossyImageCompression": {"00", "01"},
}
SEVERAL_LINES = {"ST", "LT", "UT"}
DEEPEST = 16  # sequences within each other; headers of CT have four
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


def is_valid(element: DataElement) -> bool:
    """Whether an element's values follow its value representation, and are as many as the dictionary allows.

    Sequences are: their items are looked at one by one. An empty value is valid.
    """
    if element.VR == "SQ":
        return True
    value = element.value
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    values = [one for one in values if one is not None and one != "" and one != b""]
    if not values:
        return True
    if dictionary_has_tag(element.tag):
        if element.VR not in dictionary_VR(element.tag) or not _as_many(len(values), dictionary_VM(element.tag)):
            return False
        allowed = ENUMERATED.get(keyword_for_tag(element.tag))
        if allowed and not all(str(one).strip(" ") in allowed for one in values):
            return False
    return all(follows(element.VR, one) for one in values)


def _as_many(count: int, multiplicity: str) -> bool:
    """Whether a value multiplicity (1, 1-3, 1-n, 2-2n) allows so many values."""
    first, _, last = multiplicity.partition("-")
    return count >= int(first) and (last.endswith("n") or count <= int(last or first))


def follows(vr: str, value: Any) -> bool:
    """Whether a single value that is not empty follows a value representation."""
    if isinstance(value, bytes):
        return vr in ("OB", "OW", "UN", "OD", "OF", "OL", "OV")
    if vr in ("FL", "FD"):
        return isinstance(value, float | int) and math.isfinite(value)
    if vr not in LENGTHS and vr not in PATTERNS and vr not in ("UI", "PN"):
        return not isinstance(value, str)
    text = str(value)
    if vr == "UI":
        return is_uid(text)
    if vr == "PN":
        groups = text.split("=")
        return len(groups) <= 3 and all(_is_text(group, 64) and group.count("^") <= 4 for group in groups)
    if vr in PATTERNS and not PATTERNS[vr].fullmatch(text.strip(" ")):
        return False
    if vr == "DA":
        return _is_date(text.strip(" "))
    if vr == "IS":
        return -(2**31) <= int(text) < 2**31
    return vr not in LENGTHS or _is_text(text, LENGTHS[vr], several_lines=vr in SEVERAL_LINES)


def _is_text(text: str, most: int, several_lines: bool = False) -> bool:
    allowed = "\t\n\f\r" if several_lines else ""
    controls = any(unicodedata.category(one) in ("Cc", "Cs") and one not in allowed for one in text)
    return len(text) <= most and not controls and (several_lines or "\\" not in text)


def _is_date(text: str) -> bool:
    try:
        return bool(date(int(text[:4]), int(text[4:6]), int(text[6:])))
    except ValueError:
        return False


def commas_to_points(
    dataset: pydicom.Dataset, tags: Iterable[BaseTag], depth: int = DEEPEST
) -> tuple[list[str], list[str]]:
    """Put points for decimal commas in decimal strings that were not parsed yet, here and in items below.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Its elements are changed.
    tags : iterable of BaseTag
        The elements to look at, sequences among them.
    depth : int
        How many sequences within each other are looked into: each level holds a copy of what is in it.

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
        elif vr == "SQ" and depth:
            for item in dataset[tag].value or ():
                below = commas_to_points(item, list(item.keys()), depth - 1)
                for found, more in zip((read, doubtful), below, strict=True):
                    found += more
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
