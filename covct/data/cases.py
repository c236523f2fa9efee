"""Labelled cases, on disk (`Case`) and in memory (`Labelled`): what every layout of training data becomes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covct.disk.sources import SourceFile
from covct.errors import UsageError
from covct.intake.discover import Series
from covct.voxels.volume import Scan

TASKS = ("lungs", "infection")
# What cards of networks call a source: those that training knows by their layout, and whatever else it learns from.
MA, LCTSC, MEDSEG, OWN = "ma", "lctsc", "medseg", "cases"
BY_LAYOUT = (MA, LCTSC, MEDSEG)
NUMBERED = ("slices", "slices-hu")
OF_PICTURES = (*NUMBERED, "medseg", "slices-line", "pictures")  # layouts
# Of layouts that hold the same slices under the same names: which form is left aside where the other is there too.
IN_PLACE_OF = {"slices-hu": "slices", "slices-line": "medseg"}
PERSON = re.compile(r"(radiopaedia_\d+|coronacases_\d+)")
# Patients under names that mean the same in every source: public ones, and hashes of a Patient ID.
TELLING = re.compile(r"radiopaedia_\d+|coronacases_\d+|patient-[0-9a-f]{10,12}")
# Pictures of medicalsegmentation.com that show one person, as far as eyes can tell from their full field of view: the
# numbers of the training set, which has about thirty people and not fifty.
MEDSEG_PEOPLE = (
    ("3", "12", "28"), ("4", "5", "16", "17", "44", "46"), ("10", "43"), ("13", "31"), ("14", "24"), ("19", "58"),
    ("25", "42", "57"), ("26", "27"), ("29", "55"), ("30", "47"), ("33", "37", "53"), ("35", "67"), ("41", "54"),
)  # fmt: skip
MEDSEG_NAME = re.compile(r"medseg_(\d+)")


class CaseError(UsageError):
    """A case that cannot be learned from: `slug` says why in one word, the message what was got and wanted."""

    def __init__(self, slug: str, message: str):
        super().__init__(message)
        self.slug = slug


@dataclass(frozen=True)
class LeftOut:
    """What is not learned from, and why.

    Attributes
    ----------
    source, case : str
    slug : str
        The reason in one word.
    message : str
        What was got and what was wanted.
    slices : tuple of int
        Only these slices of the case (from 0, in its own order); empty: all of it.
    """

    source: str
    case: str
    slug: str
    message: str
    slices: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name that tells nothing: names of files may be names of patients."""
        return "case-" + _hashed(f"{self.source}/{self.case}")


@dataclass(frozen=True)
class Case:
    """One labelled volume, or one labelled slice, as it lies on disk.

    Attributes
    ----------
    name : str
        Unique within its source.
    source : str
        The folder it was found in, below DATA.
    folder : Path
    layout : str
        As in the table of `covct.data.layouts`.
    patient : str
        The unit of every split: volumes of one patient share it. Of DICOM a hash, never the identifier itself.
    images : tuple of Path
        One volume file, or the slices from head to feet; empty for DICOM.
    masks : dict of str to tuple of Path
        By label: `lungs`, `infection`, `both` (1, 2 lungs, 3 infection) or `classes`.
    domain : str
        As declared by the layout; empty where the intensities have to tell.
    window_hu : (float, float) or None
        HU of grey 0 and 255, where the window is known.
    anterior : str
        Where the front of the patient is in slices without a header, one of `pictures.ANTERIOR`.
    mirrored : bool
        The rows of such slices run the other way, from back to front.
    negative : bool
        A person without COVID-19: aerated lung holds no infection.
    by_index : bool
        The masks fit voxel by voxel, whatever their headers say.
    series : Series or None
        DICOM only.
    segmentations : tuple of SourceFile
        DICOM only: the SEG with the masks, the newest first.
    known_as : str
        What cards of networks call its source.
    slice_labels : tuple of bool or None
        Whether each slice holds infection, head first, where slices are labelled and not marked; see
        `covct.data.slice_labels`. None: nobody says so.
    """

    name: str
    source: str
    folder: Path
    layout: str
    patient: str
    images: tuple[Path, ...] = ()
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    domain: str = ""
    window_hu: tuple[float, float] | None = None
    anterior: str = "up"
    mirrored: bool = False
    negative: bool = False
    by_index: bool = False
    series: Series | None = None
    segmentations: tuple[SourceFile, ...] = ()
    known_as: str = OWN
    slice_labels: tuple[bool | None, ...] = ()

    @property
    def person(self) -> str:
        """The patient under the name that a public set gives in each of its forms."""
        return person_of(self.patient)

    @property
    def identity(self) -> tuple[str, str]:
        """Who it is, in whatever source: the unit of splits and of resamples."""
        return identity(self.known_as, self.patient)

    @property
    def key(self) -> str:
        """A name that tells nothing: names of files may be names of patients."""
        return "case-" + _hashed(f"{self.known_as}/{self.name}")

    @property
    def patient_key(self) -> str:
        """Likewise a name that tells nothing, of the patient."""
        return _hashed("/".join(self.identity))

    @property
    def named_by_patient(self) -> bool:
        """Whether the case's name tells no more than the patient's does."""
        return self.known_as in BY_LAYOUT or person_of(self.name) == self.person

    @property
    def of_pictures(self) -> bool:
        """Slices without a header, whose distance nobody knows."""
        return self.layout in OF_PICTURES

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of slices that are named by number."""
        return tuple(int(path.stem) for path in self.images) if self.layout in NUMBERED else ()

    @property
    def where(self) -> str:
        """The file, or folder, that a message is about."""
        if self.series:
            return f"series {self.name}"
        return str(self.images[0]) if len(self.images) == 1 else f"{self.images[0].parent} ({self.name})"


@dataclass(frozen=True)
class Labelled:
    """A case in memory: slices head to feet where known, anterior up, columns from the patient's right to left.

    Attributes
    ----------
    case : Case
    pixels : (slices, rows, columns) number
        In the units of `domain`.
    domain : str
        One of `DOMAINS`.
    told_by : str
        What the domain was told by.
    lungs : (slices, rows, columns) uint8 or None
        1 right lung, 2 left lung; all 1 where the sides are not told. None: no mask.
    sides : bool
        Whether 1 and 2 are the sides.
    infection : (slices, rows, columns) uint8 or None
        0 or 1; an effusion is none.
    classes : (slices, rows, columns) uint8 or None
        1 ground glass, 2 consolidation, 3 effusion.
    spacing_mm : (float, float, float) or None
        Between slices, rows, columns.
    orientation : str
        Of the file's axes, as it lay on disk.
    scan : Scan or None
        The series or the volume that the pixels are of, with its place in space; None of pictures.
    numbers : (slices,) int or None
        Where some slices are left out, the numbers of those that remain; None: they are all there.
    unknown : (slices, rows, columns) bool or None
        Pixels whose HU nobody knows, filled with soft tissue; None: all are known.
    """

    case: Case
    pixels: np.ndarray
    domain: str
    told_by: str
    lungs: np.ndarray | None
    sides: bool
    infection: np.ndarray | None
    classes: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str
    scan: Scan | None = None
    numbers: np.ndarray | None = None
    unknown: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)


def medseg_patient(stem: str) -> str:
    """Whose slice a file of the medicalsegmentation.com set is: the set does not say, eyes do (`MEDSEG_PEOPLE`)."""
    return f"medseg_{next((people[0] for people in MEDSEG_PEOPLE if stem in people), stem)}"


def aliases(patient: str) -> tuple[str, ...]:
    """All names that cards may have for a person, the given one among them."""
    person = person_of(patient)
    found = MEDSEG_NAME.fullmatch(person)
    people = next((people for people in MEDSEG_PEOPLE if found and found[1] in people), ())
    return tuple(f"medseg_{number}" for number in people) or (person,)


def person_of(name: str) -> str:
    """The person that a name of a public set tells, whatever the form the set comes in; else the name itself."""
    found = PERSON.search(name)
    return found[1] if found else name


def identity(source: str, patient: str) -> tuple[str, str]:
    """Who a patient of a source is: ("", person) where the name tells it in any source, else (source, patient)."""
    person = person_of(patient)
    return ("", person) if TELLING.fullmatch(person) else (source, patient)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]
