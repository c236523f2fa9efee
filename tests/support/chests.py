"""A tiny chest with known masks, for folders of training data: 6 slices of 48 x 48."""

from __future__ import annotations

from pathlib import Path

import cv2
import highdicom as hd
import numpy as np
import pydicom

from covct.intake.nifti import write_nifti

SPACING = (5.0, 4.0, 4.0)


def chest(seed: int = 0, infected: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU int16, lungs (1 right, 2 left) and infection (in the right lung only) uint8; (6, 48, 48), anterior up."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :48]
    tall, wide = 18 - 2 * (seed % 3), 22 - seed % 4  # no two people look alike
    body = ((rows - 24) / tall) ** 2 + ((columns - 24) / wide) ** 2 < 1
    right = ((rows - 24) / (tall - 7)) ** 2 + ((columns - 14) / 7) ** 2 < 1
    left = ((rows - 24) / (tall - 9)) ** 2 + ((columns - 34) / 6) ** 2 < 1
    sick = right & (rows > 26)
    hu = np.where(body, 40, -1000)
    hu = np.where(right | left, -850, hu)
    if infected:
        hu = np.where(sick, -450, hu)
    volume = hu[None] + rng.normal(0, 12, (6, 48, 48)) * (hu > -1000)
    lungs = np.repeat((right + 2 * left)[None], 6, 0).astype(np.uint8)
    infection = np.repeat((sick & infected)[None], 6, 0).astype(np.uint8)
    lungs[0], infection[0] = 0, 0  # above the lungs
    volume[0] = np.where(body, 40, -1000) + rng.normal(0, 12, (48, 48)) * body
    return np.rint(volume).astype(np.int16), lungs, infection


def volume_of(array: np.ndarray, shift_mm: float = 0.0) -> hd.Volume:
    """Slices head to feet, rows front to back, columns right to left."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, SPACING[2]], [0, SPACING[1], 0], [-SPACING[0], 0, 0]])
    affine[0, 3] = shift_mm
    return hd.Volume(array, affine, "PATIENT")


def save(array: np.ndarray, path: Path, shift_mm: float = 0.0) -> Path:
    """As NIfTI with its axes turned, as files are: left, posterior, head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(volume_of(array, shift_mm).to_patient_orientation("LPH"), path)
    return path


def save_pair(folder: Path, name: str, seed: int = 0, infected: bool = True, kinds=("lungs", "infection")) -> None:
    """NAME_ct.nii.gz with masks beside it."""
    hu, lungs, infection = chest(seed, infected)
    save(hu, folder / f"{name}_ct.nii.gz")
    for kind, mask in (("lungs", lungs), ("infection", infection)):
        if kind in kinds:
            save(mask, folder / f"{name}_{kind}.nii.gz")


def save_slices(folder: Path, patients: list[str], grey, anterior: str = "up") -> None:
    """The layout with volumes.csv: 5 slices a patient, 64 x 64; `grey` a function HU (rows, columns) -> uint8.

    So few pixels do not tell that they went through CLAHE, so it is declared.
    """
    lines = ["first,last,slices,patient_group,anterior,source_intensity,domain"]
    domain = "clahe-8bit" if grey is equalised else ""
    number = 0
    for kind in ("ct", "lungs", "infection"):
        (folder / kind).mkdir(parents=True)
    for seed, patient in enumerate(patients):
        hu, lungs, infection = (array[1:] for array in chest(seed))
        lines.append(f"{number:04d},{number + 4:04d},5,{patient},{anterior},HU,{domain}")
        for one, lung, sick in zip(hu, lungs, infection, strict=True):
            pictures = {"ct": grey(one), "lungs": (lung > 0) * np.uint8(255), "infection": sick * np.uint8(255)}
            for kind, picture in pictures.items():
                picture = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_NEAREST)
                cv2.imwrite(str(folder / kind / f"{number:04d}.png"), picture[::-1] if anterior == "down" else picture)
            number += 1
    (folder / "volumes.csv").write_text("\n".join(lines) + "\n")


def windowed(hu: np.ndarray, low: float = -1250, high: float = 250) -> np.ndarray:
    """HU as 8-bit lung window."""
    return np.clip((hu - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def equalised(hu: np.ndarray) -> np.ndarray:
    """HU as the publisher of the CLAHE slices would make them, of a noisy scan."""
    from covct.voxels.preprocess import clahe

    rng = np.random.default_rng(int(hu.astype(np.int64).sum()) % 1000)
    large = cv2.resize(hu.astype(np.float32), (256, 256)) + rng.normal(0, 60, (256, 256)).astype(np.float32)
    return np.rint(clahe(large[None])[0] * 255).astype(np.uint8)


SMALL = {"slices": 30, "rows": 128, "columns": 128, "slice_spacing_mm": None, "pixel_spacing_mm": (3.0, 3.0)}


def fake_restore(pixels):
    return (pixels.astype(np.int16) * 5 - 1000).astype(np.int16)


def published(folder: Path) -> Path:
    """The 20-volume set as published: a volume in HU, two of one person in a lung window, another machine's paths."""
    rows = ["ct_scan,lung_mask,infection_mask,lung_and_infection_mask"]
    names = {
        "coronacases_org_001": "coronacases_001",
        "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm": "radiopaedia_10_85902_1",
        "radiopaedia_org_covid-19-pneumonia-10_85902_3-dcm": "radiopaedia_10_85902_3",
    }
    for seed, (image, mask) in enumerate(names.items()):
        hu, lungs, infection = chest(seed)
        theirs = np.array([0, 2, 1], np.uint8)[lungs]  # 1 is the left lung there
        files = {
            "ct_scans": (image, hu if seed == 0 else windowed(hu)),
            "lung_mask": (mask, theirs),
            "infection_mask": (mask, infection),
            "lung_and_infection_mask": (mask, np.where(infection > 0, 3, theirs).astype(np.uint8)),
        }
        for place, (name, array) in files.items():
            save(array, folder / place / f"{name}.nii.gz")
        rows.append(",".join(f"../input/covid19-ct-scans/{place}/{name}.nii" for place, (name, _) in files.items()))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def corrected(path: Path, to: Path | None = None, algorithm: str = "SEMIAUTOMATIC") -> pydicom.Dataset:
    """A DICOM SEG as a workstation saves it: its own make, and how the segments were drawn."""
    dataset = pydicom.dcmread(path)
    dataset.ManufacturerModelName, dataset.SOPInstanceUID = "Workstation", "1.2.3.4.5"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    for segment in dataset.SegmentSequence:
        segment.SegmentAlgorithmType = algorithm
    dataset.save_as(to or path)
    return dataset


def save_hu_slices(folder: Path, twin: Path, unknown: int = 6, skip: tuple[int, ...] = ()) -> None:
    """The slices of `save_slices` in HU, under their numbers: 16 bit, a frame of so many pixels unknown."""
    (folder / "ct").mkdir(parents=True)
    lines = ["number,patient_group"]
    rows = [line.split(",") for line in (twin / "volumes.csv").read_text().splitlines()[1:]]
    for seed, (first, last, _, patient, anterior, *_) in enumerate(rows):
        hu = chest(seed)[0][1:]
        for number, one in zip(range(int(first), int(last) + 1), hu, strict=True):
            if number in skip:
                continue
            picture = cv2.resize((one + 1024).astype(np.uint16), (64, 64), interpolation=cv2.INTER_NEAREST)
            inside = np.zeros(picture.shape, bool)
            inside[unknown : 64 - unknown, unknown : 64 - unknown] = True
            picture = np.where(inside, picture, np.uint16(65535))
            cv2.imwrite(str(folder / "ct" / f"{number:04d}.png"), picture[::-1] if anterior == "down" else picture)
            lines.append(f"{number:04d},{patient}")
    (folder / "slices.csv").write_text("\n".join(lines) + "\n")


CLASS_BGR = {1: (0, 0, 128), 2: (0, 128, 0), 3: (128, 0, 0)}


def classified(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One slice (48, 48) in HU, and its classes: ground glass above, consolidation below, an effusion."""
    hu, _, infection = (array[2] for array in chest(seed))
    label = infection * np.where(np.arange(48) < 30, 1, 2)[:, None]
    label[40:42, 20:28] = 3
    return hu, label.astype(np.uint8)


def save_medseg(folder: Path, count: int = 3, with_classes: tuple[int, ...] | None = None) -> Path:
    """medicalsegmentation.com's layout, a slice a patient, on their sides."""
    for seed in range(count):
        hu, label = classified(seed)
        pictures = {"Imgs": windowed(hu), "GT": np.isin(label, (1, 2)) * np.uint8(255)}
        if with_classes is None or seed in with_classes:
            pictures["GT-multiclass"] = np.zeros((48, 48, 3), np.uint8)
            for value, colour in CLASS_BGR.items():
                pictures["GT-multiclass"][label == value] = colour
        for place, picture in pictures.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            ending = "jpg" if place == "Imgs" else "png"
            cv2.imwrite(str(folder / place / f"{seed}.{ending}"), np.ascontiguousarray(np.rot90(picture)))
    return folder


def save_line_slices(folder: Path, rows: dict[str, str], slope: float = 5.0, intercept: float = -1100.0) -> None:
    """Slices in full field, each with its line to HU; by NAME the rest of its row: training file, quality, patient."""
    for place in ("img", "mask"):
        (folder / place).mkdir(parents=True)
    lines = ["name,slope,intercept,medseg_train_file,quality,patient_group"]
    for seed, (name, rest) in enumerate(rows.items()):
        hu, label = classified(seed)
        grey = np.clip(np.rint((hu - intercept) / slope), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "img" / f"{name}.png"), grey)
        cv2.imwrite(str(folder / "mask" / f"{name}.png"), label)
        lines.append(f"{name},{slope},{intercept},{rest}")
    (folder / "slices.csv").write_text("\n".join(lines) + "\n")
