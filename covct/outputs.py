"""What comes out: what a result may be written as (for the command line, the work key, the writers), and events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Event = dict[str, Any]  # one line of --json: "event" says which
Emit = Callable[[Event], None]  # told of every event; the caller shows or prints it

FORMATS = {
    "seg": "DICOM SEG: right lung, left lung, infection",
    "sr": "DICOM SR (TID 1500): the report's figures",
    "sc": "DICOM secondary capture: the slices with outlines burned in, for a PACS without SEG",
    "ko": "DICOM key object selection: the source slices with most infection",
    "nifti": "NIfTI masks",
    "png": "a montage to look at",
}
DICOM_FORMATS = ("seg", "sr", "sc", "ko")
SEG_TYPES = ("binary", "labelmap", "fractional")
CAPTURES = ("key", "all")


@dataclass(frozen=True)
class Outputs:
    """What to write of each result.

    Attributes
    ----------
    formats : tuple of str
        Keys of FORMATS.
    seg_type : str
        One of SEG_TYPES: overlapping masks (the default), one label a voxel, or probabilities.
    all_frames : bool
        The SEG has a frame for every slice and segment, not only where something is marked.
    captures : str
        One of CAPTURES: the secondary capture shows key slices or every slice.
    """

    formats: tuple[str, ...] = ("seg", "sr", "png")
    seg_type: str = "binary"
    all_frames: bool = False
    captures: str = "key"

    def settings(self) -> dict[str, Any]:
        """What of it decides a result: part of the work key."""
        return {**asdict(self), "formats": sorted(self.formats)}
