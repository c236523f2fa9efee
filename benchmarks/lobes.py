"""How well do the lobes of `--lobes atlas` agree with drawn ones, and do their scores' intervals hold the truth?

    python benchmarks/lobes.py DATA [--write FOLDER] [--result FOLDER]

DATA holds `lobes51/labels3mm`: lobe maps of 51 scans, 3 mm, without their CT. Each person's lobes are predicted from
the shape of the lungs by an atlas of the 50 others: Dice by lobe, beside that of the mean of the others (which does
without the shape). Then opacities of every extent are put into these lungs: how often the score by drawn lobes, and
the share of each lobe, lie in the interval. `--write` writes the atlas of all 51 and its card. `--result` is what
`covct scan --lobes atlas --formats nifti` made of `covid-ct-md/P001_hu256.nii.gz`: its lobes against the slice labels.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from covct.disk.places import REPORT_NAME
from covct.networks.lobe_card import CARD, LobeCard
from covct.pipeline.conformal import rank
from covct.pipeline.lobes import lobe_scores
from covct.terms import LOBES
from covct.voxels.lobes import FISSURES, NODES, REACH_MM, SIDES, Atlas, Box, boxes_of, counted, lobes_of, other_courses

BLOCK_MM = 3.0
PATTERNS = 10  # of opacity in each person
LICENCE = "CC BY-NC-SA 4.0"
SOURCE = (
    "lobe maps of 51 LIDC-IDRI scans by Tang, Zhang, Xie (Automatic pulmonary lobe segmentation using deep learning, "
    "ISBI 2019), CC BY-NC-SA 4.0, reduced to 3 mm; the atlas is a work derived from them, under the same licence"
)
LIMITS = (
    "Approximate: fissures are put where lungs of this shape have them, not looked for in the scan. The horizontal "
    "fissure is the least certain. Lungs of 51 people with nodules: lobes that were removed, collapsed or are absent, "
    "and scoliosis, are not known to it."
)


def read_lobes(folder: Path) -> list[np.ndarray]:
    """Each person's lobes, (slices, rows, columns) uint8 in working orientation, cut to the lungs."""
    found = []
    for path in sorted(folder.glob("*.nii.gz")):
        image = nibabel.load(path)
        lobes = np.asarray(image.dataobj).transpose(2, 1, 0)[::-1]  # stored to the left, the back and the head
        assert np.allclose(np.diag(image.affine)[:3], [-BLOCK_MM, -BLOCK_MM, BLOCK_MM])
        held = [np.flatnonzero(lobes.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        found.append(np.ascontiguousarray(lobes[tuple(slice(one[0], one[-1] + 1) for one in held)]))
    return found


def lungs_of(lobes: np.ndarray) -> np.ndarray:
    return np.array([0, *(lobe.lung for lobe in LOBES)], np.uint8)[lobes]


def fissures(lobes: np.ndarray, boxes: tuple[Box | None, ...]) -> np.ndarray:
    """(3, NODES, NODES, NODES) mm: distances from the fissures at the nodes of each lung's box."""
    upper, middle, lower, left_upper, left_lower = (lobes == lobe.number for lobe in LOBES)
    apart = ((lower, upper | middle), (upper, middle), (left_lower, left_upper))
    found = []
    for (side, _), (positive, negative) in zip(FISSURES, apart, strict=True):
        box = boxes[SIDES.index(side)]
        assert box
        away = ndimage.distance_transform_edt(~negative) - ndimage.distance_transform_edt(~positive)
        nodes = [first - 0.5 + (np.arange(NODES) + 0.5) * (end - first) / NODES for first, end in box]
        clipped = np.clip(away * BLOCK_MM, -REACH_MM, REACH_MM)
        found.append(ndimage.map_coordinates(clipped, np.meshgrid(*nodes, indexing="ij"), order=1, mode="nearest"))
    return np.stack(found).astype(np.float32)


def atlas_of(people: list[np.ndarray]) -> Atlas:
    shapes, courses = [], []
    for lobes in people:
        lungs = lungs_of(lobes)
        shapes.append(counted(lungs, np.zeros(lungs.shape, bool)).shapes)
        courses.append(fissures(lobes, boxes_of(lungs)))
    return Atlas.decoded(Atlas(np.stack(shapes), np.stack(courses)).coded())


def dice(found: np.ndarray, drawn: np.ndarray) -> list[float]:
    both = ((found == lobe.number, drawn == lobe.number) for lobe in LOBES)
    return [2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)) for a, b in both]


class MeanAtlas(Atlas):
    """What does without the shape: the mean of all people."""

    def predicted(self, shapes: np.ndarray) -> np.ndarray:
        return self.fissures.mean(0)


def opacities(lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(slices, rows, columns) bool: ragged patches at the pleura and low in the lung, of 1 to 60 % of it in all."""
    depth = ndimage.distance_transform_edt(lungs > 0)
    height = np.arange(len(lungs))[:, None, None] / len(lungs)
    noise = ndimage.gaussian_filter(rng.normal(size=lungs.shape), rng.uniform(2, 6))
    likely = noise / noise.std() - 0.05 * depth + rng.uniform(0, 3) * height
    inside = likely[lungs > 0]
    share = rng.choice([0.01, 0.03, 0.08, 0.2, 0.4, 0.6])
    sick: np.ndarray = (lungs > 0) & (likely > np.quantile(inside, 1 - share))
    return sick


def shares(lobes: np.ndarray, sick: np.ndarray) -> np.ndarray:
    whole, ill = (np.bincount(one, minlength=len(LOBES) + 1)[1:] for one in (lobes.ravel(), lobes[sick]))
    return 100 * ill / whole


def held_out(atlas: Atlas, people: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dice (people, 2, lobes) by shape and by the mean; whether intervals hold sum and shares, (people x patterns, 6);
    by how much the sum is off and how wide its interval is, (people x patterns, 2)."""
    rng = np.random.default_rng(0)
    agreed, held, off = [], [], []
    for number, drawn in enumerate(people):
        lungs, others = lungs_of(drawn), atlas.without(number)
        nothing = np.zeros(lungs.shape, bool)
        both = (others, MeanAtlas(others.shapes, others.fissures))
        found = [np.stack(list(lobes_of(one, lungs, nothing)[0])) for one in both]
        agreed.append([dice(one, drawn) for one in found])
        for _ in range(PATTERNS):
            sick = opacities(lungs, rng)
            truth, told = shares(drawn, sick), shares(found[0], sick)
            courses = other_courses(others, counted(lungs, sick))
            other = 100 * courses[..., 1] / np.maximum(courses[..., 0], 1e-9)
            place = rank(len(other))
            low, high = np.sort(other, 0)[[place - 1, -place]]
            sums = np.sort(lobe_scores(other).sum(1))
            least, most = (int(sums[at]) for at in (place - 1, -place))
            score, true_score = int(lobe_scores(told).sum()), int(lobe_scores(truth).sum())
            least, most = min(least, score), max(most, score)
            within = (np.minimum(low, told) <= truth) & (truth <= np.maximum(high, told))
            held.append([least <= true_score <= most, *within])
            off.append([score - true_score, most - least])
    return np.array(agreed), np.array(held), np.array(off)


def write(folder: Path, atlas: Atlas, agreed: np.ndarray, held: np.ndarray) -> None:
    np.save(folder / "lobes.npy", atlas.coded())
    content = (folder / "lobes.npy").read_bytes()
    card = LobeCard(
        name="lobes", task="lobes", weights="lobes.npy", sha256=hashlib.sha256(content).hexdigest(), licence=LICENCE,
        source=SOURCE, people=len(agreed), limits=LIMITS, interval_held=round(float(held[:, 0].mean()), 3),
        dice={lobe.name: round(float(value), 3) for lobe, value in zip(LOBES, agreed[:, 0].mean(0), strict=True)},
    )  # fmt: skip
    (folder / CARD).write_text(card.as_json())


def told_labels(data: Path, result: Path) -> None:
    """The lobes of P001's opacity against what its slices' labels say."""
    lobes, sick = (
        np.asarray(nibabel.as_closest_canonical(nibabel.load(next(result.rglob(name)))).dataobj).T[::-1] > 0
        if name.startswith("infection")
        else np.asarray(nibabel.as_closest_canonical(nibabel.load(next(result.rglob(name)))).dataobj).T[::-1]
        for name in ("lobes.nii.gz", "infection.nii.gz")
    )
    with open(data / "covid-ct-md" / "slice_labels.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["patient"] == "P001"]
    labelled = np.array([[row[lobe.short] == "1" for lobe in LOBES] for row in rows])
    called = np.array(
        [[(one[ill] == lobe.number).any() for lobe in LOBES] for one, ill in zip(lobes, sick, strict=True)]
    )
    print("\n| P001, slices | " + " | ".join(lobe.short for lobe in LOBES) + " | all |\n|" + "---|" * 7)
    for name, mask in (("labelled", labelled), ("labelled and called", labelled & called), ("called", called)):
        print(f"| {name} | {' | '.join(map(str, mask.sum(0)))} | {mask.sum()} |")
    report = json.loads(next(result.rglob(REPORT_NAME)).read_text())
    print("score", report["lobes"]["score"], report["lobes"]["score_interval"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    if arguments.result:
        told_labels(arguments.data, arguments.result)
        return
    start = time.process_time()
    people = read_lobes(arguments.data / "lobes51" / "labels3mm")
    atlas = atlas_of(people)
    agreed, held, off = held_out(atlas, people)
    print(f"{len(people)} people, each by an atlas of the others; {time.process_time() - start:.0f} s of a processor\n")
    print("| Dice | " + " | ".join(lobe.short for lobe in LOBES) + " | mean |\n|" + "---|" * 7)
    for name, values in (
        ("mean of the others", agreed[:, 1].mean(0)),
        ("by shape", agreed[:, 0].mean(0)),
        ("by shape, standard deviation", agreed[:, 0].std(0)),
        ("by shape, median", np.median(agreed[:, 0], 0)),
        ("by shape, worst", agreed[:, 0].min(0)),
    ):
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {values.mean():.3f} |")
    print(f"\nscore in its interval: {held[:, 0].mean():.3f}; shares by lobe: {held[:, 1:].mean(0).round(3)}")
    print(f"score as drawn: {np.mean(off[:, 0] == 0):.3f}, off by 1 at most: {np.mean(abs(off[:, 0]) <= 1):.3f}, "
          f"by {abs(off[:, 0]).max()} at worst; mean width of the interval {off[:, 1].mean():.2f}")  # fmt: skip
    if arguments.write:
        write(arguments.write, atlas, agreed, held)


if __name__ == "__main__":
    main()
