"""Headers of MetaImage (`.mha`, `.mhd`), of which the fields that say where voxels lie are read, and no others.

https://itk.org/Wiki/MetaIO/Documentation. ITK's own reader is not let near an inbox: see DESIGN.md.
"""

from __future__ import annotations

import numpy as np

from covct.errors import SourceDefect
from covct.intake.voxel_layout import LONGEST_HEADER, VoxelLayout, extents, name_beside, numbers, whole

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
UNIT_TOLERANCE = 0.01
LAST = "ElementDataFile"  # the field that ends the header
SYNONYMS = {
    "BinaryDataByteOrderMSB": ("ElementByteOrderMSB",),
    "TransformMatrix": ("Rotation", "Orientation"),
    "Offset": ("Position", "Origin"),
    "ElementSpacing": (),
}
# What says where voxels lie, under any of its names.
PLACES = (
    "DimSize", "TransformMatrix", *SYNONYMS["TransformMatrix"], "Offset", *SYNONYMS["Offset"], "CenterOfRotation",
    "AnatomicalOrientation", "ElementSpacing",
)  # fmt: skip


def parse(start: bytes) -> VoxelLayout:
    """What a header declares.

    Raises
    ------
    SourceDefect
        No MetaImage, or one that is written in a way that is not read.
    """
    fields, end = _fields(start)
    axes = whole(fields.get("NDims", ""), "NDims")
    if not 1 <= axes <= 10:
        raise SourceDefect(f"NDims in its header is {axes}")
    if fields.get("BinaryData", "False").lower() != "true":
        raise SourceDefect("its voxels are stored as text; wanted BinaryData = True")
    data = "" if fields[LAST] in ("LOCAL", "Local", "local") else name_beside(fields[LAST])
    skipped = whole(fields.get("HeaderSize", "0"), "HeaderSize")
    if skipped < -1 or (skipped and not data):
        raise SourceDefect(f"HeaderSize in its header is {skipped}; wanted none where the voxels follow the header")
    kind = TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise SourceDefect(f"ElementType in its header is none of {', '.join(TYPES)}")
    order = ">" if _said(fields, "BinaryDataByteOrderMSB").lower() == "true" else "<"
    affine, missing = _affine(fields, axes)
    return VoxelLayout(
        format="MetaImage",
        shape=extents(fields.get("DimSize", ""), axes),
        dtype=np.dtype(order + kind),
        components=max(1, whole(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels")),
        offset=skipped if data else end,
        compressed=fields.get("CompressedData", "False").lower() == "true",
        data=data,
        affine=affine,
        missing=missing,
    )


def header_of_mask(start: bytes, compressed: int) -> bytes:
    """The header of a mask of bytes on the grid of a MetaImage: the fields that tell places are repeated as they are.

    Parameters
    ----------
    start : bytes
        Of the image: its header and more.
    compressed : int
        The bytes of the mask's voxels, as zlib packs them.
    """
    fields, _ = _fields(start)
    places = {name: fields[name] for name in ("NDims", *PLACES) if name in fields}
    written = {
        "ObjectType": "Image",
        **places,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(compressed),
        "ElementType": "MET_UCHAR",
        LAST: "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in written.items()).encode("latin-1")


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The fields, each once, and where the header ends."""
    fields: dict[str, str] = {}
    end = 0
    for line in start[:LONGEST_HEADER].splitlines(keepends=True):
        end += len(line)
        key, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not equals:
            if key:
                raise SourceDefect("it is not a MetaImage: its header has a line that is not a field")
            continue
        if key in fields:
            raise SourceDefect("its header has the same field twice")
        fields[key] = value
        if key == LAST:
            return fields, end
    raise SourceDefect(f"its header does not end with {LAST}")


def _said(fields: dict[str, str], key: str) -> str:
    """A field under any of its names."""
    found = {fields[name] for name in (key, *SYNONYMS[key]) if name in fields}
    if len(found) > 1:
        raise SourceDefect(f"its header has {key} under several names that differ")
    return found.pop() if found else ""


def _affine(fields: dict[str, str], axes: int) -> tuple[np.ndarray | None, str]:
    """Index to LPS mm, as ITK means it; each axis' direction is a row of TransformMatrix."""
    if axes != 3:
        return None, "three axes"
    lengths = {"TransformMatrix": 9, "Offset": 3, "ElementSpacing": 3}
    found = {key: numbers(_said(fields, key), length) for key, length in lengths.items()}
    if missing := [key for key, value in found.items() if value is None]:
        return None, missing[0]
    matrix, origin, spacing = (np.asarray(found[key]) for key in lengths)
    directions = matrix.reshape(3, 3).T
    if np.abs(np.linalg.norm(directions, axis=0) - 1).max() > UNIT_TOLERANCE:
        return None, "unit vectors in TransformMatrix"
    if spacing.min() <= 0:
        return None, "a positive ElementSpacing"
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = origin
    return affine, ""
