"""Directory tree to series references, by headers only."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from covct.dicom.header import Header, Instance, MediaDirectory, read_header
from covct.dicom.patient import Patient, merged
from covct.dicom.valid import is_uid
from covct.disk.sources import Opener, Problem, SourceFile, walk
from covct.errors import SeriesError, logged
from covct.intake.foreign import set_aside
from covct.intake.mixture import sort_out
from covct.intake.scattered import scattered, unlike
from covct.intake.split import Part, split_scans
from covct.intake.unread import Unread
from covct.intake.volume_header import format_of, identity

MEDIA = "media-directory"  # in place of a study's folder
NOT_IMAGES = {".png", ".jpg", ".jpeg", ".txt", ".csv", ".json", ".xml", ".html", ".pdf", ".md", ".log"}
# Names under which programs write what they rename when it is whole: SFTP and FTP clients, browsers, rsync, editors.
PARTIAL_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".upload", "~")
T = TypeVar("T")
UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*")  # no dot at an end: one in front hides a folder, SMB drops one behind
LONGEST_UID = 64
HASH_DIGITS = 32  # of a sha256 in a folder's name: nobody finds two inputs that share 128 bits
# What a file says: its slices; that it lists others; the sha256 of a volume file; nothing, as it is no image.
Facts = Header | MediaDirectory | str | None


@dataclass(frozen=True)
class Series:
    """A candidate for segmentation: one DICOM series (or one scan of several in it), or one file with a volume.

    Attributes
    ----------
    kind : str
        "dicom", "nifti", "metaimage" or "nrrd".
    folder : str
        Where its result goes below the output tree: ``study/series``; safe as a path whatever the UIDs hold.
    instances : tuple of Instance
        DICOM only: the slices, each once.
    path : SourceFile or None
        Of a volume file only.
    content : tuple of str
        What identifies the input: sorted SOP Instance UIDs, or the file's sha256.
    twins : tuple of SourceFile
        Files that repeat an instance already there; whether they say the same is seen when they are read. Of a volume
        file: files of the same contents.
    unreadable_beside : int
        Unreadable files in the same folder or archive: an end slice may be among them.
    study : str
        What the study is called where its result keeps the folder that an earlier version gave it; else empty.
    part : tuple of str
        What tells it from other scans under its Series Instance UID, such as "80 kV"; empty where it is the only one.
    suffix : str
        Of the folder, where the series was taken apart.
    copies : int
        How many of the twins name the patient otherwise, or not at all.
    mixed : tuple of str
        Keywords of what differs between the people whose slices these are; empty where they are one person's.
    uid_per_slice : tuple of str
        Keywords of UIDs that each of the slices has of its own, where they are one scan all the same.
    aside : tuple of Instance
        What lies under the Series Instance UID and is no slice: it belongs to the study (and is moved with it), not to
        the input, so that a dose page that comes later changes nothing.
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
    study: str = ""
    part: tuple[str, ...] = ()
    suffix: str = ""
    copies: int = 0
    mixed: tuple[str, ...] = ()
    uid_per_slice: tuple[str, ...] = ()
    aside: tuple[Instance, ...] = ()

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """DICOM only: each once, sorted. Fewer than slices where an instance has several frames."""
        return tuple(sorted({i.sop_instance_uid for i in self.instances}))

    @property
    def whole_folder(self) -> str:
        """The folder that the series has where it is not taken apart."""
        return self.folder.removesuffix(self.suffix)

    @property
    def can_be_referred_to(self) -> bool:
        """Whether a DICOM object may name its instances and lie in its study: all have UIDs, and valid ones."""
        return self.kind == "dicom" and all(map(is_uid, (self.study_uid, self.series_uid, *self.sop_instance_uids)))

    @property
    def patient(self) -> Patient:
        """Whose it is, as far as its slices say; empty of a NIfTI."""
        return merged({i.patient for i in self.instances})

    @property
    def study_folder(self) -> str:
        return self.study or self.folder.split("/")[0]


@dataclass(frozen=True)
class Discovery:
    """Everything found below the sources; `not_read` are those of which nothing was read."""

    series: tuple[Series, ...]
    problems: tuple[Problem, ...]
    ignored: int
    not_read: tuple[Problem, ...] = ()


@dataclass
class Sighting:
    """What a walk over the sources meets beside images.

    Attributes
    ----------
    arriving : list of SourceFile
        Still being written, by their names.
    media : list of SourceFile
        Media Storage Directories: no images, but they go where those go.
    unread : Unread
        What may hold images and is not read.
    alive : function ()
        Called now and then, as a sign of life.
    """

    problems: list[Problem] = field(default_factory=list)
    unreadable: list[SourceFile] = field(default_factory=list)
    arriving: list[SourceFile] = field(default_factory=list)
    media: list[SourceFile] = field(default_factory=list)
    ignored: int = 0
    alive: Callable[[], None] = lambda: None
    unread: Unread = field(default_factory=Unread)


def discover(sources: Iterable[Path], avoid: Path | None = None) -> Discovery:
    """Find the series below files and directories, nested, DICOM and volume files mixed, zip archives too.

    Parameters
    ----------
    sources : iterable of Path
    avoid : Path, optional
        An output tree not to enter.
    """
    sources = list(sources)
    seen = Sighting(unread=Unread(frozenset(sources)))
    with Opener() as opener:
        series = assemble(candidates(sources, avoid, seen), lambda file: read_facts(file, opener), seen)
    not_read = tuple(seen.unread.by_source(seen.problems))
    return Discovery(series, (*seen.problems, *seen.unread.by_kind()), seen.ignored, not_read)


def candidates(sources: Iterable[Path], avoid: Path | None, seen: Sighting) -> Iterator[SourceFile]:
    """Files that may be images, by their names."""
    for file in walk(sources, seen.problems, avoid):
        seen.alive()
        name = (file.member or file.where).lower()
        if is_partial(name):
            seen.arriving.append(file)
            seen.unread.leave_named(file)
            seen.ignored += 1
        elif os.path.splitext(name)[1] in NOT_IMAGES:
            seen.unread.leave_named(file)
            seen.ignored += 1
        else:
            yield file


def is_partial(name: str) -> bool:
    """Whether a file of this name is still being written: it is left alone until it has another."""
    return name.lower().endswith(PARTIAL_SUFFIXES)


def read_facts(file: SourceFile, opener: Opener | None = None, alive: Callable[[], None] = lambda: None) -> Facts:
    """Read what a file says.

    Parameters
    ----------
    opener : Opener, optional
        Whose archive stays open for the next member.
    alive : function ()
        Called now and then while a long file is read.

    Raises
    ------
    SeriesError
        `unreadable`.
    """
    return identity(file, opener, alive) if format_of(file.name) else read_header(file, opener)


def assemble(files: Iterable[SourceFile], ask: Callable[[SourceFile], Facts], seen: Sighting) -> tuple[Series, ...]:
    """The series that files make. What cannot be read, or is no image, is noted in `seen`.

    Parameters
    ----------
    ask : function (SourceFile) -> Facts
        `read_facts`, or one that remembers.
    """
    headers: list[Header] = []
    volumes: dict[tuple[str, str], set[SourceFile]] = defaultdict(set)
    for file in files:
        facts = asked(file, ask, seen)
        if isinstance(facts, Header):
            headers.append(facts)
        elif isinstance(facts, MediaDirectory):
            seen.ignored += 1
        elif isinstance(facts, str):
            volumes[facts, format_of(file.name) or ""].add(file)
    faulty = scattered(headers)
    in_one = {id(header) for group in faulty for header in group}
    headers = [header for header in headers if id(header) not in in_one]
    spoiled = Counter(file.place for file in seen.unreadable)
    series = [
        replace(one, unreadable_beside=sum(spoiled[where] for where in {i.file.place for i in one.instances}))
        for one in (*_by_study(headers, seen), *map(_as_one, faulty))
    ]
    return (*series, *(_volume_series(same, contents) for (contents, _), same in volumes.items()))


def _by_study(headers: list[Header], seen: Sighting) -> list[Series]:
    """The series of each study; one whose slices break this is noted in `seen`."""
    studies: dict[str, list[Header]] = {}
    for header in headers:
        studies.setdefault(study_folder(header.instances[0].file, header), []).append(header)
    series: list[Series] = []
    for folder, group in sorted(studies.items()):
        try:
            series += _dicom_series(group)
        except Exception as error:
            seen.problems.append(_problem(folder, error))
    return series


def asked(file: SourceFile, ask: Callable[[SourceFile], T | None], seen: Sighting) -> T | None:
    """What `ask` says of a file; None, and a note of it in `seen`, where it cannot be read or is no image."""
    seen.alive()
    try:
        answer = ask(file)
    except Exception as error:
        if os.path.lexists(file.where):  # else it was moved away since it was listed
            seen.problems.append(_problem(file.label, error))
            seen.unreadable.append(file)
        return None
    if answer is None:
        seen.ignored += 1
        seen.unread.leave(file)
    else:
        seen.unread.read(file)
    return answer


def _problem(label: str, error: Exception) -> Problem:
    """What is told of a file, or of a study's folder, that broke a step: also of an error that nobody foresaw."""
    if isinstance(error, SeriesError):
        return Problem(label, error.slug, error.message)
    return Problem(label, "unexpected-error", logged(error))


def study_folder(file: SourceFile, facts: Header | MediaDirectory | str) -> str:
    """The folder of the study that a file belongs to, below the output tree; MEDIA for what lists files of several."""
    if isinstance(facts, MediaDirectory):
        return MEDIA
    if isinstance(facts, str):
        return f"{format_of(file.name)}-{facts[:HASH_DIGITS]}"
    return safe_name(facts.study_uid or _beside(facts, file))


def _beside(header: Header, file: SourceFile) -> str:
    """Without identifiers only the place tells what belongs together; the gate refuses it, once for all."""
    return "" if header.study_uid and header.series_uid else str((file.path / file.member).parent)


def _dicom_series(headers: list[Header]) -> list[Series]:
    def identity(header: Header) -> tuple[str, str, str]:
        return header.study_uid, header.series_uid, _beside(header, header.instances[0].file)

    def order(header: Header) -> tuple[Any, ...]:
        return identity(header), header.instances[0].sop_instance_uid, header.instances[0].file

    out: list[Series] = []
    for (study, uid, beside), group in groupby(sorted(headers, key=order), key=identity):
        found = sort_out(group)
        folder = f"{safe_name(study or beside)}/{safe_name(uid or beside)}"
        slices = tuple(instance for header in found.headers for instance in header.instances)
        slices, aside = (slices, ()) if found.mixed else set_aside(slices)
        frames = {header.instances[0].sop_instance_uid: len(header.instances) for header in found.headers}
        for part in [Part(slices)] if found.mixed else split_scans(slices):
            out.append(
                Series(
                    "dicom",
                    study,
                    uid,
                    folder + part.suffix,
                    _content(part.instances, frames),
                    part.instances,
                    twins=found.twins,
                    part=part.words,
                    suffix=part.suffix,
                    copies=found.copies,
                    mixed=found.mixed,
                    aside=aside,
                )
            )
    return out


def _as_one(group: list[Header]) -> Series:
    """The scan that slices with UIDs of their own would have been, under the lowest of each."""
    study, uid = min(header.study_uid for header in group), min(header.series_uid for header in group)
    found = {header.instances[0].sop_instance_uid: header.instances[0] for header in reversed(group)}
    twins = sorted({header.instances[0].file for header in group} - {one.file for one in found.values()})
    content = tuple(sorted(found))
    slices = tuple(found[uid] for uid in content)
    folder = f"{safe_name(study)}/{safe_name(uid)}"
    return Series("dicom", study, uid, folder, content, slices, twins=tuple(twins), uid_per_slice=unlike(group))


def _content(part: tuple[Instance, ...], frames: dict[str, int]) -> tuple[str, ...]:
    """The instances, with the frames where a stack, or another part, of a multi-frame one is meant."""
    one_by_one = {uid for uid in {i.sop_instance_uid for i in part} if len(part) < frames[uid]}
    return tuple(
        f"{i.sop_instance_uid}#{i.frame}"
        if i.stack or (i.frame and i.sop_instance_uid in one_by_one)
        else i.sop_instance_uid
        for i in part
    )


def _volume_series(same: Iterable[SourceFile], contents: str) -> Series:
    """A volume file is known by its contents, since its name may hold a patient's: under several names it is one."""
    file, *twins = sorted(same)
    folder = f"{study_folder(file, contents)}/volume"
    return Series(format_of(file.name) or "", "", "", folder, (contents,), path=file, twins=tuple(twins))


def safe_name(uid: str) -> str:
    """A UID as a folder name; anything that is not one is hashed, since DICOM contents are not to be trusted."""
    if UID_PATTERN.fullmatch(uid) and len(uid) <= LONGEST_UID:
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
