"""What comes out: what a result may be written as (for the command line, the work key, the writers), and events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

Event = dict[str, Any]  # one line of --json: "event" says which
Emit = Callable[[Event], None]  # told of every event; the caller shows or prints it


@dataclass(frozen=True)
class Format:
    """A way to write a result. `--formats`, the writers, `verify`, the page and the docs follow this row.

    Attributes
    ----------
    what : str
        For the docs.
    files : dict of str to str
        Its files in the folder of a result, each with its name on the page; an empty one is no link there. "*" stands
        for a number of four digits: as many files as it takes.
    default : bool
        Written where nothing else is asked for.
    needs : tuple of str
        Formats that are written with it.
    series_number : int or None
        Of DICOM objects, which have a series of their own; None: it is no DICOM.
    stands_in : bool
        Written in place of DICOM objects where there are no instances to refer to.
    """

    what: str
    files: dict[str, str]
    default: bool = False
    needs: tuple[str, ...] = ()
    series_number: int | None = None
    stands_in: bool = False

    @property
    def file(self) -> str:
        """Name of its first file."""
        return self.name(1)

    def name(self, number: int) -> str:
        """Name of one of several files, counted from 1."""
        return next(iter(self.files)).replace("*", f"{number:04d}")

    def among(self, names: Iterable[str]) -> list[str]:
        """Those of the files of a result that are of this format."""
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in self.files)]


# In the order in which they are written.
FORMATS = {
    "seg": Format(
        "DICOM SEG: right lung, left lung, opacity",
        {"segmentation.seg.dcm": "DICOM SEG"},
        default=True,
        series_number=9200,
    ),
    "sr": Format(
        "DICOM SR (TID 1500): the report's figures",
        {"measurements.sr.dcm": "DICOM SR"},
        default=True,
        needs=("seg",),  # its figures are those of the SEG's segments
        series_number=9201,
    ),
    "sc": Format(
        "DICOM secondary capture: the slices with outlines burned in, for a PACS without SEG",
        {"capture-*.sc.dcm": "capture"},
        series_number=9202,
    ),
    "ko": Format(
        "DICOM key object selection: the source slices with most opacity",
        {"key-slices.ko.dcm": "DICOM KO"},
        series_number=9203,
    ),
    "nifti": Format(
        "NIfTI masks",
        {"lungs.nii.gz": "lungs NIfTI", "infection.nii.gz": "infection NIfTI"},
        stands_in=True,
    ),
    "png": Format("a montage to look at", {"overlay.png": "picture"}, default=True),
    "page": Format(
        "a page to look through the slices", {"study.html": "study page", "thumbnail.jpg": ""}, default=True
    ),
}
DICOM_FORMATS = tuple(name for name, one in FORMATS.items() if one.series_number)
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

    formats: tuple[str, ...] = tuple(name for name, one in FORMATS.items() if one.default)
    seg_type: str = "binary"
    all_frames: bool = False
    captures: str = "key"

    def settings(self) -> dict[str, Any]:
        """What of it decides a result: part of the work key."""
        return {**asdict(self), "formats": sorted(self.formats)}


def formats_for(kind: str, wanted: tuple[str, ...], referable: bool = True) -> tuple[str, ...]:
    """The formats to write, each once and in the order of FORMATS, with those that they need.

    A volume file has no DICOM instances to refer to, and no more has a DICOM series that is not `referable`, as its
    instances have no valid UIDs: what stands in for DICOM objects is always written then.
    """
    formats = {*wanted, *(needed for name in wanted for needed in FORMATS[name].needs)}
    if kind != "dicom" or not referable:
        formats = formats - set(DICOM_FORMATS) | {name for name, one in FORMATS.items() if one.stands_in}
    return tuple(name for name in FORMATS if name in formats)
