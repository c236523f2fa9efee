"""What comes out: what a result may be written as (for the command line, the work key, the writers), and events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        Of DICOM objects, which have a series of their own; None: it is no DICOM. Of files of both kinds those without
        the suffix ".dcm" are written where there are no instances to refer to.
    stands_in : bool
        Written in place of DICOM objects where there are no instances to refer to.
    of_pixels : bool
        The scan is seen in it: masks and headers alone do not make it.
    """

    what: str
    files: dict[str, str]
    default: bool = False
    needs: tuple[str, ...] = ()
    series_number: int | None = None
    stands_in: bool = False
    of_pixels: bool = False

    @property
    def file(self) -> str:
        """Name of its first file."""
        return self.name(1)

    @property
    def only_dicom(self) -> bool:
        """Whether it has no file that stands without instances to refer to."""
        return all(name.endswith(".dcm") for name in self.files)

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
        of_pixels=True,
    ),
    "ko": Format(
        "DICOM key object selection: the source slices with most opacity",
        {"key-slices.ko.dcm": "DICOM KO"},
        series_number=9203,
    ),
    "pdf": Format(
        "a report on two pages of A4, as PDF and as DICOM Encapsulated PDF, which nearly every PACS shows",
        {"report.pdf": "report", "report.pdf.dcm": "DICOM PDF"},
        default=True,
        series_number=9204,
        of_pixels=True,
    ),
    "nifti": Format(
        "NIfTI masks: lungs, opacity, and with `--lobes atlas` lobes",
        {"lungs.nii.gz": "lungs NIfTI", "infection.nii.gz": "infection NIfTI", "lobes.nii.gz": "lobes NIfTI"},
        stands_in=True,
    ),
    "png": Format("a montage to look at", {"overlay.png": "picture"}, of_pixels=True),
    "page": Format(
        "a page to look through the slices",
        {"study.html": "study page", "thumbnail.jpg": ""},
        default=True,
        of_pixels=True,
    ),
}
NIFTI_PAIR = tuple(FORMATS["nifti"].files)[:2]  # without them it holds no masks
NIFTI_LOBES = tuple(FORMATS["nifti"].files)[2]
DICOM_FORMATS = tuple(name for name, one in FORMATS.items() if one.series_number)
SEG_TYPES = ("binary", "labelmap", "fractional")
CAPTURES = ("key", "all")
ALL_FRAMES = " all-frames"  # follows the type in the kind of a SEG


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
        """All of it, as two calls that ask for the same say it."""
        return {**asdict(self), "formats": sorted(self.formats)}

    def of_key(self, kind: str) -> str:
        """What of it is part of the work key, for a series of a kind: the kind of SEG, which the SR points at. Formats
        are not, as they can be added."""
        return self.kind("seg") if "seg" in formats_for(kind, self.formats) else SEG_TYPES[0]

    def kind(self, name: str) -> str:
        """How a format is written; empty where there is one way only. An SR is of the kind of the SEG it points at."""
        seg = self.seg_type + (ALL_FRAMES if self.all_frames else "")
        return {"seg": seg, "sr": seg, "sc": self.captures}.get(name, "")

    def beside(self, held: Mapping[str, str]) -> Outputs:
        """What a result is to hold for which this is asked, and which holds something: nothing of that goes.

        A SEG of another type takes the place of the one that is there; more frames, and captures of more slices, stay.

        Parameters
        ----------
        held : mapping of str to str
            Its formats, each with its kind; empty where that is not known.
        """
        of_seg = bool(with_needed(self.formats) & {"seg"})
        held_type, held_frames = held.get("seg", "").removesuffix(ALL_FRAMES), held.get("seg", "").endswith(ALL_FRAMES)
        seg_type = self.seg_type if of_seg else held_type or self.seg_type
        return Outputs(
            tuple(name for name in FORMATS if name in self.formats or name in held),
            seg_type,
            (of_seg and self.all_frames) or (seg_type == held_type and held_frames),
            "all" if held.get("sc") == "all" or ("sc" in self.formats and self.captures == "all") else "key",
        )


def formats_for(kind: str, wanted: tuple[str, ...], referable: bool = True) -> tuple[str, ...]:
    """The formats to write, each once and in the order of FORMATS, with those that they need.

    A volume file has no DICOM instances to refer to, and no more has a DICOM series that is not `referable`, as its
    instances have no valid UIDs: what stands in for DICOM objects is always written then, and what is nothing else
    is not.
    """
    formats = with_needed(wanted)
    if kind != "dicom" or not referable:
        objects = {name for name, one in FORMATS.items() if one.only_dicom}
        formats = formats - objects | {name for name, one in FORMATS.items() if one.stands_in}
    return tuple(name for name in FORMATS if name in formats)


def held_in(files: Iterable[str], kinds: Mapping[str, str]) -> dict[str, str]:
    """The formats that files of a result are of, each with its kind: empty where `kinds` does not tell it."""
    names = list(files)
    return {name: kinds.get(name, "") for name, one in FORMATS.items() if one.among(names)}


def with_needed(names: Iterable[str]) -> set[str]:
    """Formats, and those that they need."""
    wanted = set(names)
    return wanted | {needed for name in wanted for needed in FORMATS[name].needs}


def hold_masks(held: Mapping[str, str]) -> bool:
    """Whether what was called can be read from such formats, voxel by voxel: probabilities do not tell it."""
    return "nifti" in held or held.get("seg", "").split(" ")[0] in ("binary", "labelmap")
