"""Slices as pictures in Hounsfield units: 16 bit, HU + 1024, 65535 where nobody knows what was there.

``slices.csv`` (number, patient_group, perhaps anterior) lies over ``ct/NNNN.png``. The masks lie in ``lungs/`` and
``infection/`` beside it, or, where the same slices are also published on 8 bit, in that folder (``volumes.csv``) beside
this one: one number is one slice, and its patient must be the same in both.

Unknown surroundings are out of the loss and out of the scores. For a network they are filled with soft tissue, as what
lies beyond a slice that was cropped at the ribs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from covct.data.cases import MA, TASKS, Case, LeftOut
from covct.data.domains import HU
from covct.data.pictures import numbered_pictures
from covct.data.tables import ROWS_RUN, named_volumes, read_table, read_volume_rows
from covct.errors import UsageError

TABLE = "slices.csv"


@dataclass(frozen=True)
class _Volume:
    """Slices of one volume, by their numbers."""

    name: str
    patient: str
    mirrored: bool
    numbers: tuple[int, ...]


def is_hu_slices(folder: Path) -> bool:
    return (folder / TABLE).is_file() and (folder / "ct").is_dir()


def find_hu_slices(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    """The volumes of a folder of this layout.

    Raises
    ------
    UsageError
        The table cannot be read, or names another patient than the one beside it.
    """
    patients, mirrored = _read_rows(folder)
    twin = _twin(folder, set(patients))
    place = folder if any((folder / task).is_dir() for task in TASKS) else twin
    files = {kind: numbered_pictures(folder / "ct" if kind == "ct" else (place or folder) / kind) for kind in _KINDS}
    if masked and not any(files[task] for task in TASKS):
        wanted = "wanted lungs/ or infection/ in it, or the same numbers in a folder with volumes.csv beside it"
        yield LeftOut(source, "ct", "no-mask", f"{folder.name}: no masks; {wanted}")
        return
    volumes = _volumes_of_twin(folder, twin, patients) if twin else _volumes(patients, mirrored)
    kinds = [kind for kind in _KINDS if files[kind]]
    for volume in volumes:
        expected = [(kind, number) for number in volume.numbers for kind in kinds]
        absent = [f"{kind}/{number:04d}.png" for kind, number in expected if number not in files[kind]]
        if absent:
            got = f"{len(absent)} of {len(expected)} files are not there, first {absent[0]}"
            yield LeftOut(source, volume.name, "incomplete", got)
            continue
        chosen = {kind: tuple(files[kind][number] for number in volume.numbers) for kind in kinds}
        images = chosen.pop("ct")
        yield Case(
            volume.name, source, folder, "slices-hu", volume.patient, images, chosen, HU,
            mirrored=volume.mirrored, known_as=MA,
        )  # fmt: skip


_KINDS = ("ct", *TASKS)


def _read_rows(folder: Path) -> tuple[dict[int, str], dict[str, bool]]:
    """The patient of each number; and of each patient whether his rows run from back to front."""
    path = folder / TABLE
    patients: dict[int, str] = {}
    mirrored: dict[str, bool] = {}
    for line, row in enumerate(read_table(path, ("number", "patient_group")), 2):
        if not row["number"].isdigit() or int(row["number"]) in patients:
            raise UsageError(f"{path}, line {line}: number is {row['number']!r}; wanted each number once")
        if not row["patient_group"]:
            raise UsageError(f"{path}, line {line}: no patient_group; without it patients cannot be kept apart")
        if row.get("anterior", "") not in ("", *ROWS_RUN):
            raise UsageError(f"{path}, line {line}: anterior is {row['anterior']!r}, wanted {' or '.join(ROWS_RUN)}")
        patients[int(row["number"])] = row["patient_group"]
        mirrored[row["patient_group"]] = row.get("anterior") == "down"
    return patients, mirrored


def _twin(folder: Path, numbers: set[int]) -> Path | None:
    """The folder beside this one with masks of all these numbers."""
    for other in sorted(folder.resolve().parent.iterdir()):
        if (other / "volumes.csv").is_file() and numbers <= numbered_pictures(other / "lungs").keys():
            return other
    return None


def _volumes(patients: dict[int, str], mirrored: dict[str, bool]) -> Iterator[_Volume]:
    for patient in dict.fromkeys(patients.values()):
        numbers = tuple(sorted(number for number, one in patients.items() if one == patient))
        yield _Volume(patient, patient, mirrored[patient], numbers)


def _volumes_of_twin(folder: Path, twin: Path, patients: dict[int, str]) -> Iterator[_Volume]:
    for name, row in named_volumes(read_volume_rows(twin)):
        numbers = tuple(n for n in range(int(row["first"]), int(row["last"]) + 1) if n in patients)
        for number in numbers:
            if patients[number] != row["patient_group"]:
                got = f"slice {number:04d} is of {patients[number]}"
                raise UsageError(f"{folder / TABLE}: {got}, {twin / 'volumes.csv'} says {row['patient_group']}")
        if numbers:
            yield _Volume(name, row["patient_group"], row["anterior"] == "down", numbers)
