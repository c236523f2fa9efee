"""Judge weights on three things at once: kept-out patients with truth, people without COVID in HU, a whole series.

    python benchmarks/accuracy.py DATA [--weights DIR]

DATA holds `ma-slices`, `lctsc-256` and `dicom/lctsc-case-005.zip` with its mask. Only patients that the cards name as
held out are used, so that a network is never judged on what it learned from. Prints a table; `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from covct.cards import default_weights_folder, read_card
from covct.choice import Choice
from covct.discover import discover
from covct.networks import Networks, probabilities
from covct.nifti import read_nifti
from covct.pipeline import Clock, Result, process
from covct.preprocess import whole_slice
from covct.segment import load_keras_networks
from covct.training.dataset import AERATED_HU, read_ma_slices, read_medseg_slices
from covct.training.restoration import load_restorer
from covct.volume import WORKING_ORIENTATION, spacing_mm


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


def held_out_slices(networks: Networks, part, patients: list[str]) -> list[dict]:
    """Dice per patient and pooled on slices in model space; infection counted inside the found lungs."""
    rows, kept = [], []
    for patient in patients:
        mine = part.of(frozenset([patient]))
        view = whole_slice(mine.hu.shape[1:])
        everything = np.ones(len(mine), bool)
        lungs = probabilities(networks.lungs, mine.hu, view, everything) >= networks.lungs.card.threshold
        infection = probabilities(networks.infection, mine.hu, view, everything) >= networks.infection.card.threshold
        kept.append((lungs, infection & lungs, mine.lungs == 1, mine.infection == 1))
        rows.append(_scores(patient, [kept[-1]]))
    return [*rows, _scores(f"pooled, {len(patients)} patients", kept)]


def _scores(name: str, kept: list[tuple[np.ndarray, ...]]) -> dict:
    lungs, infection, true_lungs, true_infection = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    hit = np.count_nonzero(infection & true_infection)
    return {
        "case": name,
        "slices": len(lungs),
        "lung_dice": round(dice(lungs, true_lungs), 3) if true_lungs.any() else None,
        "infection_dice": round(dice(infection, true_infection), 3),
        "infection_recall": round(hit / max(1, np.count_nonzero(true_infection)), 3),
        "infection_precision": round(hit / max(1, np.count_nonzero(infection)), 3),
    }


def whole_series(networks: Networks, source: Path, mask: Path) -> dict:
    """The whole pipeline on one scan in HU of a patient without COVID: lung Dice, and infection called all the same."""
    [series] = discover([source]).series
    result: Result = process(Choice(series, (), ()), lambda: networks, "accuracy", Clock())
    volume = result.scan.working
    truth = read_nifti(mask).to_patient_orientation(WORKING_ORIENTATION).array > 0
    aerated = np.stack([_aerated(hu, one, spacing_mm(volume)[1]) for hu, one in zip(volume.array, truth, strict=True)])
    return {
        "case": mask.name.removesuffix("_lungs.nii.gz"),
        "slices": len(truth),
        "lung_dice": round(dice(np.asarray(result.masks.lungs) > 0, truth), 3),
        "infection_percent_of_lung": round(
            100 * np.count_nonzero(np.asarray(result.masks.infection)) / max(1, np.count_nonzero(truth)), 2
        ),
        "infection_percent_of_aerated_lung": round(
            100 * np.count_nonzero(np.asarray(result.masks.infection) & aerated) / max(1, np.count_nonzero(aerated)), 2
        ),
    }


def _aerated(hu: np.ndarray, lungs: np.ndarray, spacing: float) -> np.ndarray:
    """Lung whose smoothed density (4 mm) is below `AERATED_HU`: no disease is to be expected there."""
    return lungs & (cv2.GaussianBlur(hu.astype(np.float32), (0, 0), 4.0 / spacing) < AERATED_HU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=default_weights_folder())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    networks = load_keras_networks(arguments.weights)
    held = read_card(arguments.weights / "infection.json").training["held_out_patients"]
    restore = load_restorer(arguments.weights / "restorer.json")
    rows = held_out_slices(networks, read_ma_slices(arguments.data / "ma-slices", restore), held["ma"])
    if "medseg" in held:
        rows += held_out_slices(networks, read_medseg_slices(arguments.data / "medseg-train"), held["medseg"])[-1:]
    for name in held["lctsc"]:
        folder = arguments.data / "lctsc-256"
        rows.append(whole_series(networks, folder / f"{name}_ct.nii.gz", folder / f"{name}_lungs.nii.gz"))
    dicom = arguments.data / "dicom"
    rows.append(whole_series(networks, dicom / "lctsc-case-005.zip", dicom / "lctsc-case-005_lungs.nii.gz"))
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
