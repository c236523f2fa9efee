"""Directory tree to series references, by headers only."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from covct.dicom.header import Header, Instance, read_header
from covct.errors import SeriesError
from covct.sources import Problem, SourceFile, digest, walk
from covct.split import split_scans

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NOT_IMAGES = {".png", ".jpg", ".jpeg", ".txt", ".csv", ".json", ".xml", ".html", ".pdf", ".md", ".log", ".tmp"}
UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*")  # no dot at an end: one in front hides a folder, SMB drops one behind
LONGEST_UID = 64


@dataclass(frozen=True)
class Series:
    """A candidate for segmentation: one DICOM series (or one scan of several in it), or one NIfTI file.

    Attributes
    ----------
    kind : str
        "dicom" or "nifti".
    folder : str
        Where its result goes below the output tree: ``study/series``; safe as a path whatever the UIDs hold.
    instances : tuple of Instance
        DICOM only: the slices, each once.
    path : SourceFile or None
        NIfTI only.
    content : tuple of str
        What identifies the input: sorted SOP Instance UIDs, or the file's sha256.
    twins : tuple of SourceFile
        Files that repeat an instance already there; whether they say the same is seen when they are read.
    unreadable_beside : int
        Unreadable files in the same folder or archive: an end slice may be among them.
    """

    kind: str
    study_uid: str
    series_uid: str
    folder: str
    content: tuple[str, ...]
    instances: tuple[Instance, ...] = ()
    path: SourceFile | None = None
    twins: tuple[SourceFile, ...] = ()
    unreadable_beside: int = 0

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """DICOM only: each once, sorted. Fewer than slices where an instance has several frames."""
        return tuple(sorted({i.sop_instance_uid for i in self.instances}))

    @property
    def study_folder(self) -> str:
        return self.folder.split("/")[0]


@dataclass(frozen=True)
class Discovery:
    """Everything found below the sources."""

    series: tuple[Series, ...]
    problems: tuple[Problem, ...]
    ignored: int


def discover(sources: Iterable[Path], avoid: Path | None = None) -> Discovery:
    """Find the series below files and directories, nested, DICOM and NIfTI mixed, zip archives too.

    Parameters
    ----------
    sources : iterable of Path
    avoid : Path, optional
        An output tree not to enter.
    """
    problems: list[Problem] = []
    headers: list[Header] = []
    volumes: list[Series] = []
    unreadable: list[SourceFile] = []
    ignored = 0
    for file in walk(sources, problems, avoid):
        suffix = Path(file.name).suffix.lower()
        try:
            if file.name.lower().endswith(NIFTI_SUFFIXES):
                volumes.append(_nifti_series(file))
            elif suffix in NOT_IMAGES or Path(file.name).name.upper() == "DICOMDIR":
                ignored += 1
            elif header := read_header(file):
                headers.append(header)
            else:
                ignored += 1
        except SeriesError as error:
            problems.append(Problem(file.label, error.slug, error.message))
            unreadable.append(file)
    spoiled = Counter(_place(file) for file in unreadable)
    series = [
        replace(one, unreadable_beside=sum(spoiled[place] for place in {_place(i.file) for i in one.instances}))
        for one in _dicom_series(headers)
    ]
    return Discovery((*series, *volumes), tuple(problems), ignored)


def _place(file: SourceFile) -> str:
    """The folder, or the archive, that a file lies in."""
    return str(file.path) if file.member else str(file.path.parent)


def _dicom_series(headers: list[Header]) -> list[Series]:
    def identity(header: Header) -> tuple[str, str, str]:
        """Without identifiers only the place tells what belongs together; the gate refuses it, once for all."""
        study, uid, file = header.study_uid, header.series_uid, header.instances[0].file
        return study, uid, "" if study and uid else str((file.path / file.member).parent)

    def order(header: Header):
        return identity(header), header.instances[0].sop_instance_uid, header.instances[0].file

    out: list[Series] = []
    for (study, uid, place), group in groupby(sorted(headers, key=order), key=identity):
        files: dict[str, Header] = {}
        twins: list[SourceFile] = []
        for header in group:
            first = header.instances[0]
            if first.sop_instance_uid in files:
                twins.append(first.file)
            else:
                files[first.sop_instance_uid] = header
        folder = f"{safe_name(study or place)}/{safe_name(uid or place)}"
        slices = tuple(instance for header in files.values() for instance in header.instances)
        for suffix, part in split_scans(slices):
            out.append(Series("dicom", study, uid, folder + suffix, _content(part), part, twins=tuple(twins)))
    return out


def _content(part: tuple[Instance, ...]) -> tuple[str, ...]:
    """The instances, with the frames where a stack of several is meant."""
    return tuple(i.sop_instance_uid if not i.stack else f"{i.sop_instance_uid}#{i.frame}" for i in part)


def _nifti_series(file: SourceFile) -> Series:
    """A NIfTI is known by its contents: the file name may hold a patient's."""
    identity = digest(file)
    return Series("nifti", "", "", f"nifti-{identity[:12]}/volume", (identity,), path=file)


def safe_name(uid: str) -> str:
    """A UID as a folder name; anything that is not one is hashed, since DICOM contents are not to be trusted."""
    if UID_PATTERN.fullmatch(uid) and len(uid) <= LONGEST_UID:
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:24]
