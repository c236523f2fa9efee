"""Training data: folders of labelled slices, each source with its intensity domain, split by patient.

Domains are never mixed silently: `ma-slices` come as 8-bit CLAHE and reach Hounsfield units only through a
restoration network (`covct train restorer`), `medseg` slices through two anchors of their own histogram.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from covct.errors import UsageError
from covct.nifti import read_nifti
from covct.preprocess import FieldOfView, body_field_of_view, clahe, to_model_space, whole_slice
from covct.training.augment import noise

SIZE = 256
Restore = Callable[[np.ndarray], np.ndarray]
UNKNOWN = 2  # infection label of a pixel nobody vouches for; left out of the loss
AERATED_HU = -640  # smoothed lung below this holds no infection; above it a cancer patient's lung may
TRUSTED_HU = -700  # darker still: only so far is a cancer patient's lung taken as a negative in training
TISSUE_HU = 40


@dataclass(frozen=True)
class Slices:
    """Labelled axial slices of one source, anterior up.

    Attributes
    ----------
    hu : (slices, 256, 256) int16
    lungs : (slices, 256, 256) uint8
        1 inside either lung; `UNKNOWN` where the source has no lung mask.
    infection : (slices, 256, 256) uint8
        0, 1 or `UNKNOWN`.
    patients : tuple of str
        Patient group of each slice: the unit of every split.
    source : str
    """

    hu: np.ndarray
    lungs: np.ndarray
    infection: np.ndarray
    patients: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.hu)

    @property
    def first_of_patients(self) -> list[int]:
        """Index of each patient's first slice."""
        return sorted({patient: index for index, patient in reversed(list(enumerate(self.patients)))}.values())

    def with_lung(self, pixels: int = 200) -> Slices:
        """The slices with at least so much lung."""
        return self._chosen(np.count_nonzero(self.lungs == 1, axis=(1, 2)) >= pixels)

    def of(self, patients: frozenset[str], keep: bool = True) -> Slices:
        """The slices of these patients, or with `keep` false of all others."""
        return self._chosen(np.array([(patient in patients) == keep for patient in self.patients], bool))

    def _chosen(self, chosen: np.ndarray) -> Slices:
        return replace(
            self,
            hu=self.hu[chosen],
            lungs=self.lungs[chosen],
            infection=self.infection[chosen],
            patients=tuple(p for p, c in zip(self.patients, chosen, strict=True) if c),
        )


def held_out_patients(patients: list[str], share: float, seed: int) -> frozenset[str]:
    """Choose whole patients for validation, the same for the same seed. At least one, never all."""
    distinct = sorted(set(patients))
    if len(distinct) < 2:
        raise UsageError(f"a split by patient needs two patients or more, got {len(distinct)}")
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    return frozenset(random.Random(seed).sample(distinct, count))


def read_ma_volumes(folder: Path) -> list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Read slices of Ma et al. 2020 as published on 8 bit: CLAHE images with lung and infection masks.

    Returns
    -------
    list of (patient, source_intensity, pixels, lungs, infection)
        One entry a volume; (slices, 256, 256) uint8, anterior up.
    """
    with open(folder / "volumes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    volumes = []
    for row in rows:
        names = [f"{index:04d}.png" for index in range(int(row["first"]), int(row["last"]) + 1)]
        images = [
            np.stack([_read_gray(folder / kind / name) for name in names]) for kind in ("ct", "lungs", "infection")
        ]
        if row["anterior"] == "down":
            images = [image[:, ::-1] for image in images]
        pixels, lungs, infection = images
        volumes.append(
            (
                row["patient_group"],
                row["source_intensity"],
                pixels,
                (lungs > 127).astype(np.uint8),
                (infection > 127).astype(np.uint8),
            )
        )
    return volumes


def read_ma_slices(folder: Path, restore: Restore, only: frozenset[str] | None = None) -> Slices:
    """The slices of Ma et al. in Hounsfield units, body-cropped, by `restore` (slices, 256, 256) uint8 -> HU.

    `only`: of these patients.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    patients: list[str] = []
    for patient, _, pixels, lungs, infection in read_ma_volumes(folder):
        if only is not None and patient not in only:
            continue
        hu = restore(pixels)
        parts.append(_model_space(hu, lungs, infection, _view_around_lungs(lungs)))
        patients += [patient] * len(pixels)
    return _join(parts, patients, "ma")


def read_lung_volumes(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Read pairs `NAME_ct.nii.gz`, `NAME_lungs.nii.gz`: HU and lung mask, slices head to feet, anterior up.

    Returns
    -------
    dict of str to (hu, lungs, pixel_spacing_mm)
        (slices, rows, columns) int16 and uint8.
    """
    volumes = {}
    for path in sorted(folder.glob("*_ct.nii.gz")):
        name = path.name.removesuffix("_ct.nii.gz")
        ct = read_nifti(path).to_patient_orientation("FPL")
        lungs = read_nifti(path.with_name(f"{name}_lungs.nii.gz")).to_patient_orientation("FPL")
        if ct.shape != lungs.shape:
            raise UsageError(f"{path}: CT has shape {ct.shape}, its lung mask {lungs.shape}")
        spacing = (float(ct.spacing[1]), float(ct.spacing[2]))
        volumes[name] = (ct.array, (lungs.array > 0).astype(np.uint8), spacing)
    return volumes


def read_lung_slices(folder: Path, restore: Restore | None = None) -> Slices:
    """LCTSC-like volumes in model space. No infection where lung is aerated; elsewhere in the lung unknown.

    With `restore` they go through the 8-bit recipe and back first: negatives that look restored, as source
    "lctsc-restored".
    """
    parts: list[tuple[np.ndarray, ...]] = []
    patients: list[str] = []
    rng = np.random.default_rng(0)
    for name, (hu, lungs, spacing) in read_lung_volumes(folder).items():
        if restore:
            noisy = np.stack([noise(one.astype(np.float32), rng, strongest=80) for one in hu])
            hu = restore(recipe_pixels(noisy))
        hu, lungs, _ = _model_space(hu, lungs, np.zeros_like(lungs), body_field_of_view(hu, spacing))
        dense = np.stack([_smoothed_inside(one, mask) > TRUSTED_HU for one, mask in zip(hu, lungs, strict=True)])
        infection = np.where((lungs > 0) & dense, UNKNOWN, 0).astype(np.uint8)
        parts.append((hu, lungs, infection))
        patients += [name] * len(hu)
    return _join(parts, patients, "lctsc-restored" if restore else "lctsc")


def _smoothed_inside(hu: np.ndarray, mask: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    """HU smoothed over the mask alone, so that neither a vessel nor the chest wall makes lung look dense."""
    weight = (mask > 0).astype(np.float32)
    total = cv2.GaussianBlur((hu + 1000) * weight, (0, 0), sigma)
    return total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3) - 1000


def read_medseg_slices(folder: Path) -> Slices:
    """The 50 JPEG slices of medicalsegmentation.com: lung window, cropped, patient on the side.

    The window is not told. Two anchors bring a slice to HU: the darkest two percent are air (-960 HU on average
    with some lung among it), the commonest bright value is soft tissue (40 HU). Where it is saturated, so is HU.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    patients: list[str] = []
    for path in sorted((folder / "Imgs").glob("*.jpg"), key=lambda p: int(p.stem)):
        gray = np.rot90(_read_gray(path), -1).astype(np.float32)
        infection = np.rot90(_read_gray(folder / "GT" / f"{path.stem}.png"), -1)
        air = float(np.percentile(gray, 2))
        counts = np.bincount(gray.astype(np.uint8).ravel(), minlength=256)[150:]
        tissue = 150 + int(np.argmax(np.convolve(counts, np.ones(9), "same")))
        hu = (gray - air) / np.maximum(1.0, tissue - air) * 1000 - 960
        view = whole_slice((max(hu.shape), max(hu.shape)))
        hu = to_model_space(_square(hu, TISSUE_HU)[None], view, SIZE)
        mask = to_model_space(_square((infection > 127).astype(np.float32), 0)[None], view, SIZE) > 0.5
        hu = np.clip(hu, -1100, 3071)
        parts.append((hu.astype(np.int16), np.full(hu.shape, UNKNOWN, np.uint8), mask.astype(np.uint8)))
        patients.append(f"medseg_{path.stem}")
    return _join(parts, patients, "medseg")


def _square(image: np.ndarray, fill: float) -> np.ndarray:
    """Pad (rows, columns) to a square: what lies beyond a slice cropped at the ribs is chest wall, not air."""
    side = max(image.shape)
    above, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    below, right = side - image.shape[0] - above, side - image.shape[1] - left
    return cv2.copyMakeBorder(image, above, below, left, right, cv2.BORDER_CONSTANT, value=fill)


def recipe_pixels(hu: np.ndarray) -> np.ndarray:
    """HU slices as the publisher of `ma-slices` would have made them: (slices, 256, 256) uint8."""
    return np.rint(clahe(hu) * 255).astype(np.uint8)


def find_sources(data: Path) -> dict[str, Path]:
    """Which sources lie under a data folder, recognised by their layout.

    Returns a dict with any of the keys `ma`, `lungs`, `medseg`. Raises UsageError where there is none.
    """
    folders = [data, *sorted(p for p in data.iterdir() if p.is_dir())] if data.is_dir() else []
    found: dict[str, Path] = {}
    for folder in folders:
        if (folder / "volumes.csv").is_file():
            found.setdefault("ma", folder)
        elif any(folder.glob("*_lungs.nii.gz")) and any(folder.glob("*_ct.nii.gz")):
            found.setdefault("lungs", folder)
        elif (folder / "Imgs").is_dir() and (folder / "GT").is_dir():
            found.setdefault("medseg", folder)
    if not found:
        raise UsageError(
            f"{data}: no training data; wanted a folder with volumes.csv (ct/, lungs/, infection/ slices), "
            "NAME_ct.nii.gz with NAME_lungs.nii.gz, or Imgs/ with GT/"
        )
    return found


def _view_around_lungs(lungs: np.ndarray) -> FieldOfView:
    """A square as large as the body's would be: restored air outside the body is not to be trusted.

    lungs (slices, rows, columns) uint8. In the LCTSC volumes the body's square is 1.5 times as wide as the lungs.
    """
    rows, columns = np.flatnonzero(lungs.any((0, 2))), np.flatnonzero(lungs.any((0, 1)))
    side = 1.5 * (columns[-1] - columns[0] + 1)
    return FieldOfView((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2, side, side)


def _model_space(hu, lungs, infection, view: FieldOfView):
    masks = [
        (to_model_space(mask.astype(np.float32) * 1000 + -1000, view, SIZE) > -500).astype(np.uint8)
        for mask in (lungs, infection)
    ]
    return np.clip(np.rint(to_model_space(hu, view, SIZE)), -1100, 3071).astype(np.int16), *masks


def _join(parts, patients, source) -> Slices:
    hu, lungs, infection = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Slices(hu, lungs, infection, tuple(patients), source)


def _read_gray(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UsageError(f"{path}: not a readable image")
    return image
