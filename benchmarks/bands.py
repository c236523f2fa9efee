"""Do the HU bands of the report tell ground glass from consolidation as a reader does?

    python benchmarks/bands.py DATA [--cut HU]

DATA holds `medseg-full` and `medseg-train`, whose readers marked both (and effusion, which is left out). No network
takes part: within what they marked as either, the bands of `covct.terms.HU_BANDS` name each pixel, and so does one cut
in HU that is chosen on the other patients. By patient, since slices of one are alike: Dice of ground glass and of
consolidation (empty where neither side has any), and the share of consolidation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from covct.data.published import find_sources, read_medseg_slices
from covct.data.slices import Slices
from covct.terms import HU_BANDS

GROUND_GLASS, CONSOLIDATION = 1, 2
CUTS_HU = range(-500, 101, 25)
Patient = tuple[np.ndarray, np.ndarray]  # HU and class of each pixel that was marked as either


def by_patient(slices: Slices) -> dict[str, Patient]:
    """The marked pixels of each patient."""
    assert slices.classes is not None
    out = {}
    for patient in dict.fromkeys(slices.patients):
        part = slices.of(frozenset([patient]))
        assert part.classes is not None
        marked = np.isin(part.classes, (GROUND_GLASS, CONSOLIDATION))
        if marked.any():
            out[patient] = part.hu[marked], part.classes[marked]
    return out


def by_bands(hu: np.ndarray) -> np.ndarray:
    """The class of each pixel, 0 in neither band."""
    called = np.zeros(hu.shape, np.uint8)
    for value, name in ((GROUND_GLASS, "ground_glass"), (CONSOLIDATION, "consolidation")):
        low, high = HU_BANDS[name]
        called[(hu >= low) & (hu < high)] = value
    return called


def by_cut(hu: np.ndarray, cut: float) -> np.ndarray:
    return np.where(hu < cut, GROUND_GLASS, CONSOLIDATION).astype(np.uint8)


def dice(truth: np.ndarray, called: np.ndarray, value: int) -> float:
    """NaN where neither has any."""
    sizes = np.count_nonzero(truth == value) + np.count_nonzero(called == value)
    return 2 * np.count_nonzero((truth == value) & (called == value)) / sizes if sizes else np.nan


def best_cut(patients: list[Patient]) -> int:
    """The cut with the highest mean of both Dice, pooled over these patients."""
    hu, truth = (np.concatenate(arrays) for arrays in zip(*patients, strict=True))
    scores = {
        cut: np.mean([dice(truth, by_cut(hu, cut), value) for value in (GROUND_GLASS, CONSOLIDATION)])
        for cut in CUTS_HU
    }
    return max(scores, key=lambda cut: scores[cut])


def figures(truth: np.ndarray, called: np.ndarray) -> list[float]:
    pair = [dice(truth, called, value) for value in (GROUND_GLASS, CONSOLIDATION)]
    return [*pair, 100 * float(np.mean(called == CONSOLIDATION))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cut", type=float, help="in place of those chosen on the other patients, HU")
    arguments = parser.parse_args()
    sources = find_sources(arguments.data)
    slices = read_medseg_slices(sources["medseg"], True, sources.get("medseg-full"))
    patients = by_patient(slices)
    rows, calls = {}, []
    for patient, (hu, truth) in patients.items():
        others = [one for name, one in patients.items() if name != patient]
        cut = best_cut(others) if arguments.cut is None else arguments.cut
        called = by_bands(hu), by_cut(hu, cut)
        calls.append((truth, *called))
        rows[patient] = [*figures(truth, called[0]), *figures(truth, called[1]), 100 * np.mean(truth == CONSOLIDATION)]
        print(patient, len(truth), cut, *(f"{one:.2f}" for one in rows[patient]))
    truth, banded, cutted = (np.concatenate(arrays) for arrays in zip(*calls, strict=True))
    table = np.array(list(rows.values()))
    print("patients", len(rows), "with consolidation", int(np.count_nonzero(table[:, -1] > 0)))
    print("mean", *(f"{one:.3f}" for one in np.nanmean(table, 0)))
    print("median", *(f"{one:.3f}" for one in np.nanmedian(table, 0)))
    for name, called in (("bands", banded), ("cut", cutted)):
        outside = 100 * float(np.mean(called == 0))
        print(f"pooled {name}", *(f"{one:.3f}" for one in figures(truth, called)), f"in neither band {outside:.1f} %")
    for name, column in (("bands", 2), ("cut", 5)):
        print(
            f"share of consolidation by {name}, mean absolute error",
            f"{np.abs(table[:, column] - table[:, 6]).mean():.1f}",
        )


if __name__ == "__main__":
    main()
