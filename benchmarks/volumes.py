"""Lay neighbouring slices of unknown spacing as volumes, in the layout of the 20 volumes as published.

    python benchmarks/volumes.py DATA -o DIR

For networks of volumes (`covct train --like miscnn-2021 DIR`). DIR holds ct_scans/, lung_mask/ and infection_mask/
with NIfTI, and metadata.csv. The distance of slices is estimated from the texture of the lungs, that of pixels from
their width, both good to about a fifth: volumes in mL from these files mean nothing. A gap begins another volume,
NAME_2 and so on, where the names of a public set tell that both are of one patient; else the longest part is laid.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import highdicom as hd
import numpy as np

from covct.data.cases import person_of
from covct.data.layouts import at_least_one, search_cases
from covct.data.read_case import read_case
from covct.data.slice_distance import LUNGS_MM, estimated_distance_mm
from covct.data.slices import first_of_runs, one_volume
from covct.intake.nifti import write_nifti

FEWEST = 16  # slices: as a patch has
COLUMNS = {"ct_scan": "ct_scans", "lung_mask": "lung_mask", "infection_mask": "infection_mask"}


def volume_of(array: np.ndarray, spacing_mm: tuple[float, float]) -> hd.Volume:
    """Slices head to feet, rows front to back, columns from the patient's right to left."""
    between, pixel = spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, pixel], [0, pixel, 0], [-between, 0, 0]])
    return hd.Volume(array, affine, "PATIENT")


def spacing_of(hu: np.ndarray, lungs: np.ndarray, numbers: np.ndarray) -> tuple[float, float]:
    columns = np.flatnonzero(lungs.any((0, 1)))
    return estimated_distance_mm(hu, numbers), LUNGS_MM / (columns[-1] - columns[0] + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for case in at_least_one(search_cases(options.data), options.data).cases:
        labelled = read_case(case)
        if len(labelled.pixels) < FEWEST or labelled.lungs is None or labelled.infection is None:
            continue
        if labelled.domain != "hu":
            print(f"{case.name}: left out, it is not in HU", flush=True)
            continue
        numbers = np.arange(len(labelled.pixels)) if labelled.numbers is None else labelled.numbers
        arrays = labelled.pixels.astype(np.int16), labelled.lungs, labelled.infection
        spacing = spacing_of(arrays[0], arrays[1], numbers)
        if not np.isfinite(spacing).all():
            print(f"{case.name}: left out, too little aerated lung to tell how far apart its slices lie", flush=True)
            continue
        bounds = [0, *first_of_runs(one_volume(numbers)), len(numbers)]
        runs = [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if b - a >= FEWEST]
        if person_of(case.name) == case.name:
            runs = sorted(runs, key=lambda run: run[0] - run[1])[:1]
        for part, (first, end) in enumerate(runs, 1):
            name = case.name if part == 1 else f"{case.name}_{part}"
            for place, array in zip(COLUMNS.values(), arrays, strict=True):
                path = options.out / place / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_nifti(volume_of(array[first:end], spacing), path)
            rows.append([f"{place}/{name}.nii.gz" for place in COLUMNS.values()])
            print(f"{name}: {end - first} slices, {spacing[0]:.1f} x {spacing[1]:.2f} mm", flush=True)
    with open(options.out / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([list(COLUMNS), *rows])


if __name__ == "__main__":
    main()
