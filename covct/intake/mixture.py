"""Files of one series that name the patient differently: a copy beside its original, a mixture, or one person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from covct.dicom.header import Header
from covct.dicom.patient import PATIENT_TAGS, Kin, Patient
from covct.disk.sources import SourceFile

Files = dict[str, Header]  # by SOP Instance UID


@dataclass(frozen=True)
class Sorted:
    """The files of one series.

    Attributes
    ----------
    headers : tuple of Header
        Each instance once.
    twins : tuple of SourceFile
        Files that repeat an instance.
    copies : int
        How many twins name the patient otherwise, or not at all: an anonymised copy.
    mixed : tuple of str
        Keywords of what differs between people whose files these are; empty where they are one person's.
    """

    headers: tuple[Header, ...]
    twins: tuple[SourceFile, ...] = ()
    copies: int = 0
    mixed: tuple[str, ...] = ()


def sort_out(headers: Iterable[Header]) -> Sorted:
    """Whose files these are, and which of them repeat others.

    Where files name the patient differently, those of one naming stay together. A naming whose instances all occur
    among another's, in the same places, is a copy of it and left aside, whoever it says they are of; whether the
    pixels are the same is seen when they are read. Taken is the naming with most instances, of equals the one that
    says most of the patient. A naming with instances of its own may only join where it can mean the same person, and,
    if it repeats instances too, where it surely does: the rest would be put together from two incomplete copies.

    Parameters
    ----------
    headers : iterable of Header
        In a fixed order: of equal files the first is taken.
    """
    namings: dict[Patient, Files] = {}
    twins: list[SourceFile] = []
    for header in headers:
        files = namings.setdefault(header.instances[0].patient, {})
        if files.setdefault(_uid(header), header) is not header:
            twins.append(header.instances[0].file)
    ordered = sorted(namings, key=lambda who: (-len(namings[who]), -who.telling, who))
    taken, people = dict(namings[ordered[0]]), [ordered[0]]
    copies, mixed = 0, set()
    for who in ordered[1:]:
        files = namings[who]
        again = files.keys() & taken.keys()
        verdicts = who.kin_to_each(people)
        if len(again) == len(files) and (Kin.DIFFERENT not in verdicts or _lie_together(files, taken)):
            copies += len(again)
        elif Kin.DIFFERENT in verdicts or (again and verdicts != {Kin.SAME}):
            mixed |= {keyword for other in people for keyword in _unlike(who, other)}
        else:
            people.append(who)
        twins += [files[uid].instances[0].file for uid in sorted(again)]
        taken = files | taken
    whole = tuple(taken[uid] for uid in sorted(taken))
    return Sorted(whole, tuple(sorted(twins)), copies, tuple(k for k in PATIENT_TAGS if k in mixed))


def _uid(header: Header) -> str:
    return header.instances[0].sop_instance_uid


def _lie_together(files: Files, others: Files) -> bool:
    """Whether instances of one UID lie in one place: two exports may have counted theirs alike."""
    return all(_places(files[uid]) == _places(others[uid]) for uid in files)


def _places(header: Header) -> list[tuple[Any, ...]]:
    return [(i.frame, i.position, i.orientation, i.pixel_spacing, i.shape) for i in header.instances]


def _unlike(one: Patient, other: Patient) -> list[str]:
    """What differs between two; where nothing does, what only one of them says."""
    said = zip(PATIENT_TAGS, fields(Patient), strict=True)
    return one.differing(other) or [tag for tag, f in said if getattr(one, f.name) != getattr(other, f.name)]
