"""Slices of a series differ in their UID, number and place: what pydicom said of one holds for the next.

Most of the first look at an inbox was pydicom parsing, in each of 300 slices, the same forty values. Here a header is
only walked over. Where a walk that knows no exceptions reaches the pixels, and every value that covct reads has the
bytes that it had in a slice that pydicom has judged, but for three that are plainly written, the slice says the same.
Whatever is odd, and the first slice of each kind, is pydicom's to judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from struct import Struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from covct.dicom.read import has_too_many_items
from covct.dicom.syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN, SYNTAXES
from covct.dicom.valid import is_uid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from covct.disk.sources import SourceFile

MOST_KNOWN = 256  # kinds of slices: those of a study come one after another, or mixed by their names
MOST_META = 32  # elements of the file meta information; there are 16
DEEPEST = 8  # sequences within sequences
META_BYTES = 4096  # in which a deflated data set may announce itself
PIXEL_GROUP = 0x7FE0
UNDEFINED = 0xFFFFFFFF
CHARACTER_SET, META_LENGTH, META_UID, META_SYNTAX = 0x00080005, 0x00020000, 0x00020003, 0x00020010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
EXPLICIT, LENGTH = Struct("<HH2sH"), Struct("<L")
IMPLICIT = Struct("<HHL")
SHORT = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
# How what differs is written where nobody could read it otherwise: the values of (tag, value representation).
OWN = {
    0x00080018: (b"UI", re.compile(rb"[0-2](?:\.[0-9]+)+\0?")),
    0x00200013: (b"IS", re.compile(rb"[0-9]{1,9} ?")),
    0x00200032: (b"DS", re.compile(rb"(?:-?[0-9]{1,9}(?:\.[0-9]{1,9})?(?:\\|(?= ?\Z))){3} ?")),
}
UID, NUMBER, POSITION = OWN
IS_IMPLICIT = {
    uid.encode() + b"\0" * (len(uid) % 2): uid == IMPLICIT_LITTLE_ENDIAN
    for uid in SYNTAXES
    if uid not in (DEFLATED, EXPLICIT_BIG_ENDIAN)
}
T = TypeVar("T")


@dataclass(frozen=True)
class Walked:
    """What a walk over a header found.

    Attributes
    ----------
    shared : tuple
        Tag, value representation and bytes of all that is read of it and does not differ from slice to slice.
    own : dict of int to bytes
        The bytes of what does, by their tags; plainly written.
    """

    shared: tuple[tuple[int, bytes, bytes], ...]
    own: dict[int, bytes]


class Alike(Generic[T]):
    """Headers (`header.Header`, which asks here) that pydicom has judged, by what slices of their kind share.

    Parameters
    ----------
    tags : iterable of str
        Keywords of all that is read of a header.
    """

    def __init__(self, tags: Iterable[str]):
        self._tags = frozenset({int(Tag(keyword)) for keyword in tags} | {CHARACTER_SET})
        self._known: dict[tuple[object, ...], T] = {}

    def walk(self, start: bytes) -> Walked | None:
        """Walk over the beginning of a file up to its pixels; None where pydicom has to judge it."""
        return walk(start, self._tags)

    def recall(self, walked: Walked, file: SourceFile) -> T | None:
        """The header of a file, from one that says the same; None where none is known."""
        known = self._known.get((walked.shared, *walked.own))
        filled: T | None = _filled(known, walked.own, file) if known else None
        return filled

    def remember(self, walked: Walked, header: Any) -> None:
        """Keep what pydicom says of a file with one slice for others of its kind."""
        if len(header.instances) == 1 and header.instances[0].frame is None and header.study_uid and header.series_uid:
            if _filled(header, walked.own, header.instances[0].file) != header:  # pydicom reads its values otherwise
                return
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[walked.shared, *walked.own] = header


def _filled(header: Any, own: dict[int, bytes], file: SourceFile) -> Any:
    [slice_] = header.instances
    number = int(own[NUMBER]) if NUMBER in own else slice_.number
    x, y, z = map(float, own[POSITION].split(b"\\")) if POSITION in own else slice_.position or (0.0, 0.0, 0.0)
    position = (x, y, z) if POSITION in own else slice_.position
    uid = own[UID].rstrip(b"\0").decode()
    return replace(
        header,
        instances=(replace(slice_, file=file, sop_instance_uid=uid, number=number, position=position),),
    )


def walk(start: bytes, tags: frozenset[int]) -> Walked | None:
    """Walk over the beginning of a file up to its pixels.

    Parameters
    ----------
    tags : frozenset of int
        Of the elements wanted.

    Returns
    -------
    Walked or None
        None unless it is a Part 10 file in little endian, with known value representations, its elements in ascending
        order, no sequence among those wanted, and pixels that begin within these bytes.
    """
    shared: list[tuple[int, bytes, bytes]] = []
    own: dict[int, bytes] = {}
    if start[128:132] != b"DICM" or (found := _meta(start, shared)) is None:
        return None
    at, implicit = found
    if DEFLATED.encode() in start[: max(at, META_BYTES)] or _begins_otherwise(start, at, implicit):
        return None
    last, end = 0x0002FFFF, len(start) - EXPLICIT.size - LENGTH.size
    while at < end:
        tag, vr, value, length = _head(start, at, implicit)
        if tag >> 16 == PIXEL_GROUP:
            plain = UID in own and is_uid(own[UID].rstrip(b"\0").decode()) and not has_too_many_items(start)
            return Walked(tuple(shared), own) if plain else None
        if tag <= last or vr is None:
            return None
        last, at = tag, value + length
        if length == UNDEFINED:
            at = -1 if tag in tags else _behind_sequence(start, value, implicit, tag, vr)
            if at < 0:
                return None
        elif tag in OWN:
            own[tag] = start[value:at]
            if (vr and vr != OWN[tag][0]) or not OWN[tag][1].fullmatch(own[tag]):
                return None
        elif tag in tags:
            if vr in (b"SQ", b"UN") or (not vr and dictionary_VR(tag) == "SQ"):
                return None
            shared.append((tag, vr, start[value:at]))
    return None


def _head(start: bytes, at: int, implicit: bool) -> tuple[int, bytes | None, int, int]:
    """Tag, value representation, where the value begins, and its length; no bytes of a representation where it is
    implicit, None where it is unknown."""
    if implicit:
        group, element, length = IMPLICIT.unpack_from(start, at)
        return group << 16 | element, b"", at + 8, length
    group, element, vr, length = EXPLICIT.unpack_from(start, at)
    if vr in SHORT:
        return group << 16 | element, vr, at + 8, length
    if vr in LONG:
        return group << 16 | element, vr, at + 12, LENGTH.unpack_from(start, at + 8)[0]
    return group << 16 | element, None, at, 0


def _meta(start: bytes, shared: list[tuple[int, bytes, bytes]]) -> tuple[int, bool] | None:
    """Where the data set begins, and whether its value representations are implicit; None of a syntax unknown here."""
    at, last, implicit, end = 132, 0, None, len(start) - EXPLICIT.size - LENGTH.size
    for _ in range(MOST_META):
        if at >= end or start[at : at + 2] != b"\2\0":
            break
        tag, vr, value, length = _head(start, at, implicit=False)
        if vr is None or tag <= last or length == UNDEFINED:
            return None
        last, at = tag, value + length
        if tag == META_SYNTAX:
            implicit = IS_IMPLICIT.get(start[value:at]) if vr == b"UI" else None
        if tag in (META_LENGTH, META_UID):
            if vr != (b"UL" if tag == META_LENGTH else b"UI") or (tag == META_LENGTH and length != 4):
                return None
        else:
            shared.append((tag, vr, start[value:at]))
    return None if implicit is None else (at, implicit)


def _begins_otherwise(start: bytes, at: int, implicit: bool) -> bool:
    """Whether the first element is not as the transfer syntax says: pydicom then believes the element."""
    return implicit == all(0x40 < byte < 0x5B for byte in start[at + 4 : at + 6])


def _behind_sequence(start: bytes, at: int, implicit: bool, tag: int, vr: bytes, depth: int = 0) -> int:
    """Where a sequence of undefined length ends, of which each item and element is as it should be; else -1."""
    is_sequence = vr == b"SQ" or (not vr and dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")
    if not is_sequence or depth == DEEPEST:
        return -1
    while 0 <= at <= len(start) - IMPLICIT.size:
        group, element, length = IMPLICIT.unpack_from(start, at)
        at += IMPLICIT.size
        if group << 16 | element == SEQUENCE_END:
            return -1 if length else at
        if group << 16 | element != ITEM:
            return -1
        at = _behind_item(start, at, None if length == UNDEFINED else at + length, implicit, depth)
    return -1


def _behind_item(start: bytes, at: int, end: int | None, implicit: bool, depth: int) -> int:
    last = 0x0002FFFF
    while at != end and at < len(start) - EXPLICIT.size - LENGTH.size:
        if end is None and IMPLICIT.unpack_from(start, at) == (ITEM_END >> 16, ITEM_END & 0xFFFF, 0):
            return at + IMPLICIT.size
        tag, vr, value, length = _head(start, at, implicit)
        if tag <= last or tag >> 16 == ITEM >> 16 or tag == CHARACTER_SET or vr is None:
            return -1
        last = tag
        at = _behind_sequence(start, value, implicit, tag, vr, depth + 1) if length == UNDEFINED else value + length
        if at < 0 or (end is not None and at > end):
            return -1
    return at if at == end else -1
