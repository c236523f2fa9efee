"""Whose study is whose: several people under one Study Instance UID get a study each, and keep it night after night.

The first patient of a study has the folder of its UID, as in every tree; each further one that folder with a number.
Who has which is read from the outcomes, which hold digests of the patient under the tree's own key; where they do not
(an earlier version, a key that is lost), from the DICOM objects of the result. Converted series have no outcomes: whose
they are stands in a note beside the key.
"""

from __future__ import annotations

import hmac
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from covct.dicom.header import read_values
from covct.dicom.patient import PATIENT_TAGS, Kin, Patient, merged, patient_of
from covct.disk.durable import make_folder, replace_json
from covct.disk.outcome import Outcome, content_key, read_outcome
from covct.disk.places import PRIVATE
from covct.disk.sources import SourceFile
from covct.errors import SeriesError, UsageError
from covct.intake.discover import Series
from covct.unattended.logs import KEY_NAME, SHORTEST_KEY, identifier_key

MIXED = "mixed"  # the study, beside the others of its UID, of series that are refused as those of several people
NUMBERED = re.compile(r"(.+)-p(\d{1,6})")
RECORDED = 4  # attributes of a patient in an outcome; the sex is not among them: a digest of two values tells which
SOMEBODY = Patient(sex="not known")  # whose result it is cannot be told: under a key that is lost, without objects
NOTES = "patients"  # by study, in the private folder of a tree of converted series
Seal = Callable[[Patient], Patient]
Owners = Callable[[Path, Seal], list[Patient]]


@dataclass(frozen=True)
class Person:
    """All series of one person under a Study Instance UID, and who that is, under the tree's key."""

    who: Patient
    namings: set[Patient]
    series: list[Series]


Claim = Callable[[Path, Person, Mapping[str, list[Patient]]], list[str]]  # free folders with their owners to own ones


def told_apart(
    out: Path, found: Sequence[Series], further: Mapping[str, list[str]], owners_of: Owners | None = None
) -> list[list[Series]]:
    """The series of a Study Instance UID, by patient; of the second and further ones with folders of their own.

    A series that does not say whose it is belongs to the one patient of its study; where there are several, to none
    of them. A result stays where it is, and nobody's series ever take the place of another's.

    Parameters
    ----------
    further : mapping of str to list of str
        What `further_patients` finds below `out`.
    owners_of : function (Path, Seal) -> list of Patient, optional
        Whose a study's folder is. Default: by the outcomes in it.
    """
    namings = [series.patient for series in found]
    studies: dict[str, list[int]] = defaultdict(list)
    for index, series in enumerate(found):
        studies[_study(series)].append(index)
    seal = sealing(tree_key(out))
    homes: dict[str, list[Series]] = defaultdict(list)
    for study, candidates in studies.items():
        groups = people(namings[index] for index in candidates if not found[index].mixed)
        standing = [folder for folder in (study, *further.get(study, ())) if _stands(out, folder)]
        owners = {folder: (owners_of or _owners)(out / folder, seal) for folder in standing}
        persons = [
            Person(
                seal(merged(group)),
                {seal(naming) for naming in group},
                [found[index] for index in candidates if namings[index] in group and not found[index].mixed],
            )
            for group in groups
        ]
        claims = (_by_name,) if owners_of else (_by_input, _by_name, _by_silence)
        folders = _assigned(out, study, persons, owners, claims)
        of = {naming: folder for group, folder in zip(groups, folders, strict=True) for naming in group}
        for index in candidates:
            home = f"{study}-{MIXED}" if found[index].mixed else of[namings[index]]
            homes[home].append(_at_home(found[index], home))
    return [homes[home] for home in sorted(homes)]


def people(namings: Iterable[Patient]) -> list[list[Patient]]:
    """Which namings mean one person, each group with those that name him first, and of these the most telling."""
    found: list[list[Patient]] = []
    for who in sorted(set(namings), key=lambda one: (not one.is_named, -one.telling, one)):
        may_be = [group for group in found if Kin.DIFFERENT not in who.kin_to_each(group)]
        surely = [group for group in may_be if Kin.SAME in who.kin_to_each(group)]
        home = surely if len(surely) == 1 else may_be
        if len(home) == 1:
            home[0].append(who)
        else:
            found.append([who])
    return found


def record(out: Path, series: Series) -> list[str]:
    """What an outcome notes of the patient, so that a later night knows whose result it is; empty where it cannot."""
    if series.kind != "dicom" or series.mixed:
        return []
    try:
        key = identifier_key(out / PRIVATE)
    except (OSError, UsageError):  # another user's, or no key: `--hash-identifiers` says so, no result is lost for it
        return []
    seal = sealing(key)
    return [*astuple(seal(series.patient))[:RECORDED], _mark_of(seal)]


def tree_key(out: Path) -> bytes:
    """The tree's key, where there is one that can be read; none is made."""
    with suppress(OSError):
        key = (out / PRIVATE / KEY_NAME).read_bytes().strip()
        return key if len(key) >= SHORTEST_KEY else b""
    return b""


def sealing(key: bytes) -> Seal:
    """What seals a patient's digests with a tree's key; without one they stay as they are."""

    def digest(value: str) -> str:
        return hmac.new(key, f"patient {value}".encode(), "sha256").hexdigest()[:16] if value else ""

    def seal(who: Patient) -> Patient:
        names = " ".join(sorted(digest(word) for word in who.names.split()))
        return Patient(digest(who.id), digest(who.issuer), names, digest(who.birth_date))

    return seal if key else lambda who: replace(who, sex="")


def _study(series: Series) -> str:
    return series.folder.split("/")[0]


def _at_home(series: Series, study: str) -> Series:
    """The series in this study's folder. Its work key is not that of another's, whose instances may have its UIDs."""
    if study == _study(series):
        return series
    folder = f"{study}/{_name_of(series)}"
    content = (*series.content, study.removeprefix(_study(series)))
    return replace(series, folder=folder, study=series.study_folder, content=content)


def further_patients(out: Path) -> dict[str, list[str]]:
    """By study the folders of its further patients in an output tree, lowest number first."""
    found: dict[str, list[str]] = defaultdict(list)
    names: set[str] = set()
    with suppress(OSError):
        names |= {*os.listdir(out)}
        names |= {name.removesuffix(".json") for name in os.listdir(out / PRIVATE / NOTES)}
    for name in sorted(names, key=lambda name: (len(name), name)):
        if match := NUMBERED.fullmatch(name):
            found[match[1]].append(name)
    return found


def _owners(folder: Path, seal: Seal) -> list[Patient]:
    """Whose results lie in a study's folder, as far as can be known."""
    with suppress(OSError):
        outcomes = [(path.parent, read_outcome(path.parent)) for path in sorted(folder.glob("*/outcome.json"))]
        known = [owner_of(place, outcome, seal) for place, outcome in outcomes if outcome]
        return [owner for owner in known if owner is not None]
    return []


def _stands(out: Path, study: str) -> bool:
    """Whether the folder is somebody's. Series that get UIDs lie in a folder of that name, and have only the note."""
    return (out / study).is_dir() or _note(out, study).is_file()


def _note(out: Path, study: str) -> Path:
    return out / PRIVATE / NOTES / f"{study}.json"


def note_owner(out: Path, series: Series) -> None:
    """Note beside the key whose a study's folder of converted series is: before there is a file in it.

    Raises
    ------
    OSError
    """
    study = _study(series)
    owner, noted = record(out, series), _noted(out, study)
    if owner and owner not in noted:
        make_folder(out / PRIVATE / NOTES)
        replace_json(_note(out, study), [*noted, owner])


def noted_owners(folder: Path, seal: Seal) -> list[Patient]:
    """Whose a study's folder of converted series is, by its note; none where there is none, or no key to read it by."""
    return [Patient(*one[:RECORDED]) for one in _noted(folder.parent, folder.name)] if _is_keyed(seal) else []


def _noted(out: Path, study: str) -> list[list[str]]:
    try:
        told = json.loads(_note(out, study).read_text())
        return [
            one for one in told if len(one) in (RECORDED, RECORDED + 1) and all(isinstance(value, str) for value in one)
        ]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _is_keyed(seal: Seal) -> bool:
    return seal(Patient("x")) != Patient("x")


def _mark_of(seal: Seal) -> str:
    """What tells digests under this key from those under another."""
    return seal(Patient("identifier-key")).id


def owner_of(folder: Path, outcome: Outcome, seal: Seal) -> Patient | None:
    """Whose a result is, sealed: by its outcome, or by its DICOM objects where that was sealed with another key.

    None where nothing tells, SOMEBODY where that cannot be read any more.
    """
    *noted, mark = outcome.patient if len(outcome.patient) == RECORDED + 1 else [*outcome.patient, ""]
    if mark == _mark_of(seal):
        return Patient(*noted)
    objects = (name for name in sorted(outcome.files) if name.endswith(".dcm"))  # the SEG, the largest, is last
    for path in (folder / name for name in objects):
        with suppress(SeriesError):
            return seal(patient_of(read_values(SourceFile(str(path)), PATIENT_TAGS).get))
    if len(noted) != RECORDED:
        return None
    return SOMEBODY if mark or not _is_keyed(seal) else Patient(*noted)  # of a version that noted no key


def _assigned(
    out: Path, study: str, persons: list[Person], owners: dict[str, list[Patient]], claims: Sequence[Claim]
) -> list[str]:
    """The folder of each person: the one that is theirs, else the study's own if it is nobody's, else a new number."""
    folders: list[str] = [""] * len(persons)
    for claim in claims:
        if claim is _by_silence and folders.count("") > 1:  # of several, it is none's
            break
        for index, person in enumerate(persons):
            free = {folder: who for folder, who in owners.items() if folder not in folders}
            folders[index] = folders[index] or next(iter(claim(out, person, free)), "")
    own = [study] if study not in folders and not owners.get(study) else []
    numbers = [int(match[2]) for folder in owners if (match := NUMBERED.fullmatch(folder))]
    following = iter(range(max(numbers, default=1) + 1, max(numbers, default=1) + 2 + len(persons)))
    return [folder or (own.pop() if own else f"{study}-p{next(following)}") for folder in folders]


def _by_input(out: Path, person: Person, free: Mapping[str, list[Patient]]) -> list[str]:
    """Where the very instances have their result: a name was put in, or taken out, since."""
    return [folder for folder in free if _may_be(person, free[folder]) and _has_result_of(out / folder, person)]


def _by_name(out: Path, person: Person, free: Mapping[str, list[Patient]]) -> list[str]:
    surely = [folder for folder in free if any(person.who.kin(one) is Kin.SAME for one in free[folder])]
    return surely + [folder for folder in free if person.namings & {*free[folder]}]


def _by_silence(out: Path, person: Person, free: Mapping[str, list[Patient]]) -> list[str]:
    """The only folder whose results name nobody, where none of them would be replaced by another input's."""
    silent = [folder for folder, owners in free.items() if owners and not any(map(_says_something, owners))]
    places = [out / folder / _name_of(one) for folder in silent for one in person.series]
    taken = any((outcome := read_outcome(place)) and outcome.status == "done" for place in places)
    return silent if len(silent) == 1 and not taken and _may_be(person, free[silent[0]]) else []


def _says_something(owner: Patient) -> bool:
    return owner.is_named or owner == SOMEBODY


def _may_be(person: Person, owners: list[Patient]) -> bool:
    return not {person.who.kin(owner) for owner in owners} & {Kin.DIFFERENT, Kin.APART}


def _has_result_of(folder: Path, person: Person) -> bool:
    outcomes = [(read_outcome(folder / _name_of(one)), _at_home(one, folder.name)) for one in person.series]
    return any(outcome and outcome.content == content_key(one.content) for outcome, one in outcomes)


def _name_of(series: Series) -> str:
    return series.folder.split("/")[1]
