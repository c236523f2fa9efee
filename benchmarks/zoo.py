"""Every architecture on the same held-out patients with the same small budget, as a markdown table.

    python benchmarks/zoo.py DATA -o DIR --restorer CARD [--only unet,segnet] [--epochs 2] [--samples 240]

One fold of five by patient. First the lungs, then infection from the weights of the lungs, both from nothing before;
what differs is the network alone: data are read once, samples drawn by the same seed. The scores are pooled over
every second slice of the held-out patients of all sources, thresholds chosen on them. So small a budget tells who
learns fast, not who is best in the end. Rows are kept in DIR/zoo.json, and what has one is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from covct.commands.quiet import quiet_tensorflow

with quiet_tensorflow():
    from covct.architectures import ARCHITECTURES
    from covct.training.loop import train
    from covct.training.samples.reading import Readings

from covct.training.settings import Settings

NOT_SLICES = ("unet3d", "slice-classifier")  # volumes; one figure a slice
FIGURES = ("dice", "recall", "precision")


def settings_of(task: str, architecture: str, options: argparse.Namespace) -> Settings:
    view = {"field_of_view": "lung-mask", "size": 192} if task == "infection" else {}
    return Settings(
        task, options.epochs, options.samples, learning_rate=options.learning_rate, architecture=architecture,
        folds=5, fold=options.fold, mixed_precision=True, seed=options.seed, **view,
    )  # fmt: skip


def show(rows: dict[str, dict]) -> None:
    heads = [f"{task} {figure}" for task in ("lungs", "infection") for figure in ("Dice", "IoU", "recall", "precision")]
    print("| network | parameters, million | " + " | ".join(heads) + " | trained in, s |")
    print("|---" * (len(heads) + 3) + "|")
    for name, row in rows.items():
        cells = [f"`{name}`", f"{row['parameters'] / 1e6:.2f}"]
        for task in ("lungs", "infection"):
            told = row.get(task)
            if told:
                iou = told["dice"] / (2 - told["dice"])
                cells += [f"{value:.3f}" for value in (told["dice"], iou, told["recall"], told["precision"])]
            else:
                cells += ["–"] * 4
        cells.append(str(sum(row[task]["seconds"] for task in ("lungs", "infection") if task in row)))
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, required=True)
    parser.add_argument("--only", default=",".join(name for name in ARCHITECTURES if name not in NOT_SLICES))
    parser.add_argument("--tasks", default="lungs,infection")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=240, help="an epoch")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--fold", type=int, default=0, choices=range(5))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept, names = options.out / "zoo.json", options.only.split(",")
    rows: dict[str, dict] = json.loads(kept.read_text()) if kept.exists() else {}
    readings = Readings()
    for task in options.tasks.split(","):
        for name in names:
            if task in rows.get(name, {}):
                continue
            settings = settings_of(task, name, options)
            folder, begun = options.out / name, time.monotonic()
            initial = folder / f"fold-{options.fold}" / "lungs.json" if task == "infection" else None
            card = train(settings, options.data, folder, initial, options.restorer, readings=readings)
            told = {key: card.scores[f"validation_{key}"] for key in FIGURES}
            row = rows.setdefault(name, {"parameters": ARCHITECTURES[name]().count_params()})
            row[task] = {**told, "seconds": round(time.monotonic() - begun)}
            kept.write_text(json.dumps(rows, indent=1) + "\n")
            print(name, task, row[task], flush=True)
    show(rows)


if __name__ == "__main__":
    main()
