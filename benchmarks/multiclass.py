"""Does a network tell ground glass from consolidation better than HU do? By patient, out of fold.

    covct train infection DATA -o CV --classes --folds 5 ...
    python benchmarks/multiclass.py DATA CV

The question of `benchmarks/bands.py` put to the networks of a cross-validation: within what readers marked as either,
so that finding the disease is no part of it, which of the two classes has the higher probability? Each patient is asked
of the fold that held that patient out, on the network's grid; the bands of the report, and one cut in HU, are judged on
the same pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from bands import CONSOLIDATION, GROUND_GLASS, best_cut, by_bands, by_cut, figures

from covct.data.slices import Slices
from covct.networks.cards import Card
from covct.networks.segment import load_network
from covct.training.samples import classes
from covct.training.samples.neighbours import show_part, with_context
from covct.training.samples.prepare import Preparation, crop, preparation, to_size
from covct.training.samples.reading import Readings
from covct.training.settings import Settings

Marked = tuple[np.ndarray, np.ndarray, np.ndarray]


def settings_of(card: Card) -> Settings:
    """How the network of a card is fed, as settings of a training."""
    recipe = ",".join(f"{name}={value:g}" for name, value in card.recipe.arguments.items())
    return Settings(
        "infection", 1, 8, classes=True, size=card.size, field_of_view=card.field_of_view,
        recipe=f"{card.recipe.name}:{recipe}", neighbours_mm=tuple(card.neighbours_mm),
    )  # fmt: skip


def marked(part: Slices, network: keras.Model, card: Card, how: Preparation) -> Marked:
    """HU, the readers' class and the network's, of each pixel that readers marked as either class."""
    seen, truth = show_part(how, part, *classes.truth_of_classes(part.classes), step=1)
    said = network.predict(seen, verbose=0)
    names = list(card.classes)
    pair = said[..., [names.index("ground-glass"), names.index("consolidation")]]
    hu = to_size(part.hu, card.size)
    here = np.isin(truth[..., 0], (GROUND_GLASS, CONSOLIDATION)) & (truth[..., 1] > 0)
    return hu[here], truth[..., 0][here].astype(np.uint8), (GROUND_GLASS + pair.argmax(-1))[here].astype(np.uint8)


def by_patient(data: Path, folds: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Every patient in whom readers marked either class, as `marked`, by the fold that held that patient out."""
    readings = Readings()
    for path in sorted(folds.glob("fold-*/infection.json")):
        card, network = load_network(path)
        settings = settings_of(card)
        how = preparation(settings)
        read = readings.of(data, None).parts(("medseg",), with_classes=True)
        for part in classes.with_classes([crop(one, how.field_of_view) for one in read], "infection"):
            for patient in sorted(set(part.patients) & set(card.training["held_out_patients"]["medseg"])):
                found = marked(with_context(part.of(frozenset([patient])), settings), network, card, how)
                if found[0].size:
                    yield (patient, *found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folds", type=Path, help="of `covct train infection --classes --folds N`")
    arguments = parser.parse_args()
    patients = {patient: rest for patient, *rest in by_patient(arguments.data, arguments.folds)}
    called: dict[str, list[np.ndarray]] = {"bands": [], "cut": [], "network": []}
    for patient, (hu, _, network) in patients.items():
        cut = best_cut([(hu, truth) for name, (hu, truth, _) in patients.items() if name != patient])
        for name, one in (("bands", by_bands(hu)), ("cut", by_cut(hu, cut)), ("network", network)):
            called[name].append(one)
    truths = [truth for _, truth, _ in patients.values()]
    print("patients", len(patients), "with consolidation", sum((truth == CONSOLIDATION).any() for truth in truths))
    for name, each in called.items():
        rows = np.array([figures(truth, one) for truth, one in zip(truths, each, strict=True)])
        off = [abs(row[2] - 100 * np.mean(truth == CONSOLIDATION)) for row, truth in zip(rows, truths, strict=True)]
        scores = (np.nanmean(rows[:, :2], 0), np.nanmedian(rows[:, :2], 0))
        pooled = figures(np.concatenate(truths), np.concatenate(each))[:2]
        for title, pair in zip(("mean", "median", "pooled"), (*scores, pooled), strict=True):
            print(f"{name:8} {title:7} ground glass {pair[0]:.3f} consolidation {pair[1]:.3f}")
        print(f"{name:8} share of consolidation off by {np.mean(off):.1f} points")


if __name__ == "__main__":
    main()
