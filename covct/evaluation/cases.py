"""Cases with truth: where they lie, whose they are, and whether a network has learned from their patient.

The only module of the evaluation that knows the layouts of data sets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np

from covct.data.cases import identity, medseg_patient, person_of
from covct.data.dicom_cases import pseudonym
from covct.data.layouts import declared, patient_of, read_volume_rows
from covct.data.leakage import LAYOUTS, OWN, has_learned_from
from covct.data.slices import (
    UNKNOWN,
    Restore,
    Slices,
    _model_space,
    _view_around_lungs,
    published_source,
    read_medseg_slice,
)
from covct.errors import UsageError
from covct.evaluation.masks import (
    TASKS,
    Labels,
    SegFile,
    find_segs,
    grid_difference,
    read_png_mask,
    read_seg_mask,
    read_volume_mask,
)
from covct.intake.discover import Series, discover
from covct.intake.load_dicom import load_dicom
from covct.intake.volume_file import load_volume
from covct.intake.volume_header import stem_of, volume_beside
from covct.networks.cards import Card
from covct.voxels.overlay import LUNG_WINDOW_HU
from covct.voxels.volume import Scan, spacing_mm


@dataclass(frozen=True)
class Truth:
    """A case in memory; everything (slices, rows, columns), head to feet, anterior up.

    Attributes
    ----------
    hu : number
        Of slices as published: a grey value as its place in the lung window, to look at only.
    masks : dict of str to bool array
        By task; a task without truth has none.
    spacing_mm : (float, float, float) or None
        Between slices, rows and columns; None where nobody knows.
    scan : Scan or None
        Of a whole series.
    """

    hu: np.ndarray
    masks: dict[str, np.ndarray]
    spacing_mm: tuple[float, float, float] | None = None
    scan: Scan | None = None


@dataclass(frozen=True)
class Case:
    """One volume, or a lone slice, with truth that is read when it is asked for.

    Attributes
    ----------
    name, patient, source : str
        The patient is the unit of splits; patient and source are called as in the cards of networks.
    series : Series or None
        A whole series, which the pipeline segments; None for slices of an unknown place.
    slice_names : tuple of str
        Of loose slices: the names of their pictures.
    upside_down : bool
        Their pictures have anterior down, and so will other tools' masks of them.
    domain : str
        "hu", "clahe-8bit" (a restorer is needed) or "window-8bit".
    read : function () -> Truth
        As published.
    in_model_space : function (restore or None) -> Truth
        Loose slices only: in HU and 256 x 256, as networks learn from them.
    """

    name: str
    patient: str
    source: str
    domain: str
    read: Callable[[], Truth]
    series: Series | None = None
    slice_names: tuple[str, ...] = ()
    upside_down: bool = False
    in_model_space: Callable[[Restore | None], Truth] | None = None

    @property
    def key(self) -> str:
        """A name that tells nothing: names of files may be names of patients."""
        return "case-" + _hashed(f"{self.source}/{self.name}")

    @property
    def person(self) -> tuple[str, str]:
        """Who it is, in whatever source; the unit of resamples."""
        return identity(self.source, self.patient)

    @property
    def patient_key(self) -> str:
        """Likewise a name that tells nothing, of the person."""
        return _hashed("/".join(self.person))

    @property
    def named_by_patient(self) -> bool:
        """Whether the case's name tells no more than the patient's does."""
        return self.source in LAYOUTS or person_of(self.name) == person_of(self.patient)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]


def find_cases(data: Path, labels: Labels, source: str = "") -> list[Case]:
    """All cases with truth below a folder, by their layouts.

    Parameters
    ----------
    labels : dict
        Of masks that hold more than one label, from `parse_labels`.
    source : str
        A name for all of them, in place of the layout's.

    Raises
    ------
    UsageError
        There is none.
    """
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    cases: list[Case] = []
    for folder in (data, *sorted(path for path in data.rglob("*") if path.is_dir())):
        if (folder / "volumes.csv").is_file():
            cases += _ma_cases(folder)
        elif (folder / "Imgs").is_dir() and (folder / "GT").is_dir():
            cases += _medseg_cases(folder)
        cases += [*_volume_cases(folder, labels), *_masked_dicom_cases(folder, labels)]
    cases += _dicom_cases(data, labels)
    if not cases:
        raise UsageError(
            f"{data}: no case with truth; wanted volumes.csv (ct/, lungs/, infection/ slices), Imgs/ with GT/, "
            "NAME_ct.nii.gz (or DICOM in NAME/ or NAME.zip) with NAME_lungs.nii.gz or NAME_infection.nii.gz, or DICOM "
            "series with DICOM SEG"
        )
    if source:
        cases = [Case(**{**vars(case), "source": source}) for case in cases]
    return cases


def seen_by(case: Case, cards: Mapping[str, Card]) -> list[str]:
    """Names, as `cards` has them, of the networks that have learned from the case's patient."""
    return [name for name, card in cards.items() if has_learned_from(card, case.source, case.patient)]


def _ma_cases(folder: Path) -> list[Case]:
    """Volumes of `volumes.csv`; two volumes of one patient are numbered."""
    rows = read_volume_rows(folder)
    volumes, numbers = Counter(row["patient_group"] for row in rows), Counter[str]()
    cases = []
    for row in rows:
        patient = row["patient_group"]
        numbers[patient] += 1
        name = patient if volumes[patient] == 1 else f"{patient}-{numbers[patient]}"
        names = tuple(f"{index:04d}.png" for index in range(int(row["first"]), int(row["last"]) + 1))
        cases.append(
            Case(
                name, patient, "ma", "clahe-8bit",
                read=partial(_published, folder, "ct", TASKS, names, row["anterior"] == "down"),
                slice_names=names, upside_down=row["anterior"] == "down",
                in_model_space=partial(_ma_in_model_space, folder, names, row["anterior"] == "down"),
            )
        )  # fmt: skip
    return cases


def _published(folder: Path, pictures: str, tasks: tuple[str, ...], names: tuple[str, ...], upside_down: bool) -> Truth:
    grey = np.stack([_read_grey(folder / pictures / name) for name in names]).astype(np.float32)
    low, high = LUNG_WINDOW_HU
    masks = {
        task: np.stack([read_png_mask(folder / task / name, task, {}, grey.shape[1:]) for name in names])
        for task in tasks
    }
    turn = slice(None, None, -1 if upside_down else 1)
    return Truth((low + grey / 255 * (high - low))[:, turn], {task: mask[:, turn] for task, mask in masks.items()})


def _read_grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UsageError(f"{path}: not a readable image")
    return image


def _ma_in_model_space(folder: Path, names: tuple[str, ...], upside_down: bool, restore: Restore | None) -> Truth:
    """As training has them: restored to HU, cropped around the lungs."""
    if restore is None:
        raise UsageError(f"{folder}: 8-bit CLAHE slices need a restorer: --restorer CARD (covct train restorer)")
    pixels = np.stack([_read_grey(folder / "ct" / name) for name in names])[:, :: -1 if upside_down else 1]
    masks = _published(folder, "ct", ("lungs", "infection"), names, upside_down).masks
    lungs, infection = (masks[task].astype(np.uint8) for task in ("lungs", "infection"))
    hu, lungs, infection = _model_space(restore(pixels), lungs, infection, _view_around_lungs(lungs))
    return Truth(hu, {"lungs": lungs == 1, "infection": infection == 1})


def _of_slices(part: Slices) -> Truth:
    both = {"lungs": part.lungs, "infection": part.infection}
    return Truth(part.hu, {task: mask == 1 for task, mask in both.items() if not (mask == UNKNOWN).any()})


def _medseg_cases(folder: Path) -> list[Case]:
    cases = []
    for path in sorted((folder / "Imgs").glob("*.jpg"), key=lambda path: path.stem.zfill(9)):
        cases.append(
            Case(
                f"medseg_{path.stem}", medseg_patient(path.stem), "medseg", "window-8bit",
                read=partial(_medseg_published, folder, path.stem),
                slice_names=(f"{path.stem}.png",),
                in_model_space=partial(_medseg_in_model_space, folder, path.stem),
            )
        )  # fmt: skip
    return cases


def _medseg_published(folder: Path, stem: str) -> Truth:
    """As published: the patient on the side, as predictions of other tools will be."""
    grey = _read_grey(folder / "Imgs" / f"{stem}.jpg").astype(np.float32)
    mask = read_png_mask(folder / "GT" / f"{stem}.png", "infection", {}, grey.shape)
    low, high = LUNG_WINDOW_HU
    return Truth((low + grey / 255 * (high - low))[None], {"infection": mask[None]})


def _medseg_in_model_space(folder: Path, stem: str, restore: Restore | None) -> Truth:
    return _of_slices(read_medseg_slice(folder, stem))


def _volume_cases(folder: Path, labels: Labels) -> list[Case]:
    """Pairs NAME_ct with NAME_lungs, NAME_infection; their source and patients are called as in training."""
    cases: list[Case] = []
    paths = _volumes(folder, ["ct"])
    if not paths:  # a cases.csv here would be something else
        return cases
    source, said = "lctsc" if published_source(folder) == "lungs" else OWN, declared(folder)
    for path in paths:
        name = (stem_of(path.name) or "").removesuffix("_ct")
        masks = {task: found for task in TASKS if (found := volume_beside(path.parent / f"{name}_{task}"))}
        if not masks:
            continue
        [series] = discover([path]).series
        read = partial(_read_masked, series, path, masks, labels)
        patient = patient_of(name, said.get(name, {}))
        cases.append(Case(name, patient, source, "hu", read=read, series=series))
    return cases


def _masked_dicom_cases(folder: Path, labels: Labels) -> list[Case]:
    """A DICOM series in NAME.zip or NAME/, with NIfTI masks NAME_lungs, NAME_infection beside."""
    cases = []
    for name in sorted({(stem_of(path.name) or "").rsplit("_", 1)[0] for path in _volumes(folder, TASKS)}):
        place = next((p for p in (folder / f"{name}.zip", folder / name) if p.exists()), None)
        if place is None or volume_beside(folder / f"{name}_ct"):
            continue
        found = [series for series in discover([place]).series if series.kind == "dicom"]
        if len(found) != 1:
            raise UsageError(f"{place}: {len(found)} DICOM series; wanted the one that {name}'s masks are of")
        masks = {task: path for task in TASKS if (path := volume_beside(folder / f"{name}_{task}"))}
        read = partial(_read_masked, found[0], place, masks, labels)
        patient = pseudonym(found[0]) if person_of(name) == name else person_of(name)
        patient = declared(folder).get(name, {}).get("patient") or patient
        cases.append(Case(name, patient, OWN, "hu", read=read, series=found[0]))
    return cases


def _volumes(folder: Path, kinds: Iterable[str]) -> list[Path]:
    """Volume files NAME_KIND of a folder, in whatever format."""
    endings = tuple(f"_{kind}" for kind in kinds)
    return sorted(path for path in folder.iterdir() if (stem_of(path.name) or "").endswith(endings) and path.is_file())


def _read_masked(series: Series, path: Path, masks: dict[str, Path], labels: Labels) -> Truth:
    scan = load_dicom(series) if series.kind == "dicom" else load_volume(series)
    volume = scan.working
    read = {task: read_volume_mask(file, task, labels) for task, file in masks.items()}
    for task, mask in read.items():
        if difference := grid_difference(mask, volume):
            raise UsageError(f"{masks[task]}: {difference} ({path})")
    return Truth(volume.array, {task: mask.array for task, mask in read.items()}, spacing_mm(volume), scan)


def _dicom_cases(data: Path, labels: Labels) -> list[Case]:
    """CT series with the SEG that refer to them."""
    segs = find_segs(data)
    if not segs:
        return []
    cases = []
    for series in discover([data]).series:
        if series.kind != "dicom" or not (own := segs_of(series, segs)):
            continue
        cases.append(
            Case(
                hashlib.sha256(series.series_uid.encode()).hexdigest()[:12], pseudonym(series), OWN, "hu",
                read=partial(_read_dicom_case, series, own, labels), series=series,
            )
        )  # fmt: skip
    return cases


def segs_of(series: Series, segs: Iterable[SegFile]) -> list[SegFile]:
    """Those that refer to the series: to its slices, or where they list none to its UID."""
    instances = set(series.sop_instance_uids)
    return [seg for seg in segs if (seg.instances & instances if seg.instances else series.series_uid in seg.series)]


def _read_dicom_case(series: Series, segs: list[SegFile], labels: Labels) -> Truth:
    scan = load_dicom(series)
    masks = {task: mask for task in TASKS if (mask := one_seg_mask(segs, task, labels, scan)) is not None}
    return Truth(scan.working.array, masks, spacing_mm(scan.working), scan)


def one_seg_mask(segs: Iterable[SegFile], task: str, labels: Labels, scan: Scan) -> np.ndarray | None:
    """The task's mask, from the only SEG that has one; None where none has.

    Raises
    ------
    UsageError
        Two have: which is meant?
    """
    found: list[tuple[Path, np.ndarray]] = []
    for seg in segs:
        mask = read_seg_mask(seg.path, task, labels, scan)
        if mask is not None:
            found.append((seg.path, mask))
    if len(found) > 1:
        raise UsageError(f"{found[0][0]} and {found[1][0]} both hold {task} of one series; wanted one of them")
    return found[0][1] if found else None


def volume_prediction(folder: Path, case: Case, task: str) -> Path | None:
    """Another tool's mask of a case, by name: NAME_TASK, TASK/NAME, NAME/TASK or NAME, then any folder below."""
    for stem in (f"{case.name}_{task}", f"{task}/{case.name}", f"{case.name}/{task}", case.name):
        if found := volume_beside(folder / stem):
            return found
    return None


def png_predictions(folder: Path, case: Case, task: str) -> list[Path] | None:
    """Another tool's pictures of masks of a case's slices, under the slices' names in TASK/ or in the folder itself."""
    for place in (folder / task, folder):
        paths = [place / name for name in case.slice_names]
        there = [path for path in paths if path.is_file()]
        if there and len(there) < len(paths):
            missing = next(path for path in paths if not path.is_file())
            raise UsageError(f"{missing}: no such file; {len(there)} of the case's {len(paths)} slices have a mask")
        if there:
            return paths
    return None


def grid_of(truth: Truth) -> hd.Volume | None:
    """The grid that masks of a case must lie on, working orientation."""
    return truth.scan.working if truth.scan else None
