"""Headers of NRRD (`.nrrd`, `.nhdr`), of which the fields that say where voxels lie are read, and no others.

https://teem.sourceforge.net/nrrd/format.html. ITK's own reader is not let near an inbox: see DESIGN.md.
"""

from __future__ import annotations

import re

import numpy as np

from covct.errors import SourceDefect
from covct.intake.voxel_layout import LONGEST_HEADER, VoxelLayout, extents, name_beside, numbers, whole

TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPE_BY_NAME = {name: kind for kind, names in TYPES.items() for name in names.split(", ")}
SPACES = {  # their signs to LPS
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
VECTOR = re.compile(r"\(([^()]*)\)|none")


def parse(start: bytes) -> VoxelLayout:
    """What a header declares.

    Raises
    ------
    SourceDefect
        No NRRD, or one that is written in a way that is not read.
    """
    fields, end = _fields(start)
    axes = whole(fields.get("dimension", ""), "dimension")
    if not 1 <= axes <= 16:
        raise SourceDefect(f"dimension in its header is {axes}")
    kind = TYPE_BY_NAME.get(fields.get("type", "").lower())
    if kind is None:
        raise SourceDefect("type in its header is none of a whole or a floating-point number")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ENCODINGS:
        raise SourceDefect("its voxels are encoded neither as raw nor as gzip")
    data = name_beside(fields["datafile"]) if "datafile" in fields else ""
    affine, missing = _affine(fields, axes)
    return VoxelLayout(
        format="NRRD",
        shape=extents(fields.get("sizes", ""), axes),
        dtype=np.dtype(_byte_order(fields, kind) + kind),
        components=1,
        offset=_skipped(fields, ENCODINGS[encoding]) if data else end,
        compressed=ENCODINGS[encoding],
        data=data,
        affine=affine,
        missing=missing,
    )


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The fields, each once, their names without spaces, and where the header ends: at an empty line or the file's."""
    fields: dict[str, str] = {}
    lines = start[:LONGEST_HEADER].splitlines(keepends=True)
    if not lines or not re.fullmatch(rb"NRRD000[1-6]", lines[0].strip()):
        raise SourceDefect("it is not an NRRD: it does not begin with NRRD0001 to NRRD0006")
    end = len(lines[0])
    for line in lines[1:]:
        end += len(line)
        text = line.decode("latin-1").strip()
        if not text:
            return fields, end
        key, colon, value = text.partition(":")
        if text.startswith("#") or value.startswith("="):  # a comment; a pair of the writer's own
            continue
        key = key.replace(" ", "").lower()
        if not colon or key in fields:
            raise SourceDefect("its header has a line that is not a field, or a field twice")
        fields[key] = value.strip()
    if len(start) > LONGEST_HEADER or "datafile" not in fields:
        raise SourceDefect("its header does not end with an empty line")
    return fields, end


def _byte_order(fields: dict[str, str], kind: str) -> str:
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and kind not in ("i1", "u1"):
        raise SourceDefect("endian in its header is neither little nor big")
    return order or "<"


def _skipped(fields: dict[str, str], compressed: bool) -> int:
    """Bytes before the voxels in a file of their own."""
    skipped = whole(fields.get("byteskip", "0"), "byte skip")
    if whole(fields.get("lineskip", "0"), "line skip") or skipped < -1 or (skipped and compressed):
        raise SourceDefect("its header skips lines, or bytes of a compressed file, which is not read")
    return skipped


def _affine(fields: dict[str, str], axes: int) -> tuple[np.ndarray | None, str]:
    """Index to LPS mm."""
    if axes != 3:
        return None, "three axes"
    signs = SPACES.get(fields.get("space", "").lower())
    if signs is None:
        return None, "space (LPS, RAS or LAS)"
    if set(fields.get("spaceunits", "").replace('"', " ").split()) - {"mm"}:
        return None, "space units in mm"
    vectors = [
        numbers(found[1].replace(",", " "), 3) if found[1] else None
        for found in VECTOR.finditer(fields.get("spacedirections", ""))
    ]
    origin = numbers(re.sub(r"[(),]", " ", fields.get("spaceorigin", "")), 3)
    if len(vectors) != 3 or any(vector is None for vector in vectors):
        return None, "space directions"
    if origin is None:
        return None, "space origin"
    affine = np.eye(4)
    affine[:3, :3] = np.array(vectors).T
    affine[:3, 3] = origin
    return np.diag([*signs, 1]) @ affine, ""
