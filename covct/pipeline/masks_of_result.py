"""The masks of an earlier result, read from its DICOM SEG; its scan is not needed, and may be gone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from covct.pipeline.lesions_since import Marked, NotMatched
from covct.recompute.masks import NoMasks, read_seg
from covct.recompute.planes import Plane
from covct.voxels.labels import INFECTED, Labels

MOST_BYTES = 128 * 1024**2  # of a SEG, which is read whole; that of 1000 slices of 512 x 512 has up to 100 MB
SAME_MM = 0.05  # by so much rounded positions leave an even grid


def read_masks(path: Path, sha256: str) -> Marked:
    """Masks on an even grid, slices without a mark included.

    Raises
    ------
    NotMatched
        It holds no masks, lies on no even grid, or is not the file that its outcome lists.
    Exception
        Of any kind, where it is damaged.
    """
    if path.stat().st_size > MOST_BYTES:
        raise NotMatched("the earlier result's SEG is too large")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise NotMatched("the earlier result's SEG is not the one that its outcome lists")
    try:
        seg = read_seg(path)
    except NoMasks as reason:
        raise NotMatched(f"in the earlier result {reason}") from reason
    planes = list(seg.planes.values())
    affine, at = _grid(planes)
    labels = Labels((max(at) + 1, *planes[0].shape))
    for plane, index in zip(planes, at, strict=True):
        lungs, infection = seg.slice_of(plane.uid, plane.frame)
        labels[index] = lungs + np.uint8(INFECTED) * (infection & (lungs > 0))
    return Marked(labels.lungs, labels.infection, affine)


def _grid(planes: list[Plane]) -> tuple[np.ndarray, list[int]]:
    """Slice, row and column index to LPS mm, and the slice index of each plane."""
    if len(planes) < 2:
        raise NotMatched("a single slice was marked then")
    first = planes[0]
    normal = np.cross(first.row, first.column)
    places = np.array([plane.position for plane in planes])
    along = (places - places[0]) @ normal
    apart = np.diff(np.sort(along))
    spacing = float(apart[apart > SAME_MM].min(initial=np.inf))
    index = np.rint((along - along.min()) / spacing).astype(int)
    start = places[int(np.argmin(along))]
    even = start + index[:, None] * spacing * normal
    if len(set(index.tolist())) != len(planes) or np.abs(places - even).max() > max(SAME_MM, 0.1 * spacing):
        raise NotMatched("the slices then lie on no even grid")
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing
    affine[:3, 1] = first.column * first.spacing[0]
    affine[:3, 2] = first.row * first.spacing[1]
    affine[:3, 3] = start
    return affine, index.tolist()
