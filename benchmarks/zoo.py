"""Every architecture on the same held-out patients with the same budget, as a markdown table and learning curves.

    python benchmarks/zoo.py DATA -o DIR [--budget 12000] [--only unet,segnet] [--tasks lungs,infection] [--size 192]

One fold, by patient. First the lungs, then infection from the weights of the lungs, both from nothing before;
what differs is the network alone: data are read once, samples drawn by the same seed. A training ends where its
validation has not become better for `--patience` epochs, or with the budget. Given a larger budget the same command
goes on from the last step of each, exactly as if it had never stopped. A patch of `unet3d` counts as eight slices.

Scores are pooled over every second slice of the held-out patients of all sources, thresholds chosen on them. DIR/zoo.md
is the table, DIR/zoo.png the curves, DIR/zoo.json both; all are written anew after each training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from networks import inputs_of_a_ct, seconds

from covct.commands.quiet import quiet_tensorflow
from covct.evaluation.drawn import COLOURS, as_png, draw_plot
from covct.evaluation.figures import Line, Plot, axis, share_axis

with quiet_tensorflow():
    import numpy as np

    from covct.architectures import ARCHITECTURES
    from covct.training.loop import train
    from covct.training.samples.inputs import VOLUMETRIC
    from covct.training.samples.reading import Readings

from covct.training.settings import Settings

NOT_SLICES = (VOLUMETRIC, "slice-classifier")  # volumes; one figure a slice
TASKS_OF = {"mask-rcnn": ("infection",)}  # it finds lesions
TASKS = ("lungs", "infection")
FIGURES = ("dice", "recall", "precision")
PATCH, SLICES_A_PATCH = (16, 128, 128), 8
FOREVER = 10_000  # epochs: the budget ends a training
Rows = dict[str, dict]


def settings_of(task: str, architecture: str, options: argparse.Namespace) -> Settings:
    """The rate of all falls where validation stands still, and never by how long a training is to be."""
    of_volumes = architecture == VOLUMETRIC
    view = "lung-mask" if task == "infection" else "body"
    return Settings(
        task, FOREVER, options.epoch // (SLICES_A_PATCH if of_volumes else 1), batch_size=1 if of_volumes else 8,
        learning_rate=options.learning_rate, schedule="plateau", patience=options.patience, ema=0.98,
        architecture=architecture, folds=options.folds, fold=options.fold, mixed_precision=True, seed=options.seed,
        augment="real-lesions", field_of_view=view, size=options.size, patch=PATCH if of_volumes else (),
    )  # fmt: skip


def epochs_of(options: argparse.Namespace) -> int:
    return -(-options.budget // options.epoch)


def train_one(task: str, name: str, options: argparse.Namespace, readings: Readings) -> dict:
    """Go on with one training up to the budget, and tell what it came to."""
    folder, begun = options.out / name, time.monotonic()
    initial = start_of_infection(folder, options.fold) if task == "infection" else None
    card = train(
        settings_of(task, name, options), options.data, folder, initial, options.restorer, resume=True,
        readings=readings, most_epochs=epochs_of(options),
    )  # fmt: skip
    history = json.loads((folder / f"fold-{options.fold}" / f"{task}-history.json").read_text())
    curve = [float(value) for value in history["val_dice"]]
    return {
        **{key: card.scores[f"validation_{key}"] for key in FIGURES},
        "threshold": card.threshold,
        "samples": len(curve) * options.epoch,
        "best_at": card.training["best_epoch"] * options.epoch,
        "ended": len(curve) - card.training["best_epoch"] >= options.patience,
        "curve": curve,
        "epoch": options.epoch,
        "seconds": round(time.monotonic() - begun),
    }


def start_of_infection(folder: Path, fold: int) -> Path | None:
    """The lungs as they were when infection began: they may have been trained further since."""
    start, lungs = folder / "start", folder / f"fold-{fold}" / "lungs.json"
    if not (start / lungs.name).exists():
        if not lungs.exists():
            return None
        start.mkdir(exist_ok=True)
        for path in (lungs.with_suffix(".keras"), lungs):
            shutil.copy2(path, start)
    return start / lungs.name


def is_done(row: dict, options: argparse.Namespace) -> bool:
    return bool(row) and (row["ended"] or len(row["curve"]) >= epochs_of(options))


def measured(name: str) -> dict:
    """Parameters, and CPU seconds for a CT of 300 slices of 256 x 256."""
    network = ARCHITECTURES[name]()
    count = 1 if len(network.input_shape) == 5 else 8
    cpu = seconds(network, count)[1] * inputs_of_a_ct(network) / count
    return {"parameters": network.count_params(), "cpu_seconds": round(cpu)}


def table(rows: Rows) -> str:
    figures = ("Dice", "IoU", "recall", "precision", "samples")
    heads = ["network", "parameters, million", *(f"{task} {one}" for task in TASKS for one in figures)]
    heads += ["CPU seconds for 300 slices", "trained in, s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [f"`{name}`", f"{row['parameters'] / 1e6:.2f}"]
        for task in TASKS:
            cells += cells_of(row[task]) if task in row else ["–"] * len(figures)
        spent = sum(row[task]["seconds"] for task in TASKS if task in row)
        lines.append("| " + " | ".join([*cells, str(row["cpu_seconds"]), str(spent)]) + " |")
    return "\n".join(lines) + "\n"


def cells_of(told: dict) -> list[str]:
    iou = told["dice"] / (2 - told["dice"])
    figures = [f"{value:.3f}" for value in (told["dice"], iou, told["recall"], told["precision"])]
    return [*figures, f"{told['samples']:,}" + ("" if told["ended"] else ", not converged")]


def curves(rows: Rows) -> np.ndarray:
    """Both tasks side by side: the Dice of validation at one half, by samples; half of the legend above each."""
    classes = {name: f"s{number % len(COLOURS)}" for number, name in enumerate(rows)}
    legend, half = [(cls, name) for name, cls in classes.items()], -(-len(rows) // 2)
    panels = []
    for task in TASKS:
        there = {name: row[task] for name, row in rows.items() if task in row}
        if not there:
            continue
        lines = [
            Line(classes[name], [((k + 1) * told["epoch"] / 1000, dice) for k, dice in enumerate(told["curve"])])
            for name, told in there.items()
        ]
        x = axis([0.0, *(point for line in lines for point, _ in line.points)], "samples, thousand")
        plot = Plot(task, f"{task.capitalize()}: Dice of validation", x, share_axis("Dice"), lines=lines)
        panels.append(draw_plot(plot, legend[half * len(panels) : half * (len(panels) + 1)]))
    height = max(len(panel) for panel in panels)
    level = [np.pad(one, ((height - len(one), 0), (0, 0), (0, 0)), constant_values=255) for one in panels]
    return np.concatenate(level, 1)


def write(rows: Rows, out: Path) -> None:
    (out / "zoo.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "zoo.md").write_text(table(rows))
    (out / "zoo.png").write_bytes(as_png(curves(rows)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, help="for 8-bit CLAHE slices")
    parser.add_argument("--only", default=",".join(name for name in ARCHITECTURES if name not in NOT_SLICES))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--budget", type=int, default=12_000, help="samples of each training at most")
    parser.add_argument("--epoch", type=int, default=500, help="samples from one validation to the next")
    parser.add_argument("--patience", type=int, default=6, help="epochs without a better validation that end it")
    parser.add_argument("--size", type=int, default=192, help="of a sample, pixels")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, default=0, help="the one that is held out")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "zoo.json"
    rows: Rows = json.loads(kept.read_text()) if kept.exists() else {}
    readings = Readings()
    for name in options.only.split(","):
        for task in options.tasks.split(","):
            if task not in TASKS_OF.get(name, TASKS) or is_done(rows.get(name, {}).get(task, {}), options):
                continue
            told = train_one(task, name, options, readings)
            row = rows.setdefault(name, measured(name))
            told["seconds"] += row.get(task, {}).get("seconds", 0)
            row[task] = told
            write(rows, options.out)
            print(name, task, {key: value for key, value in told.items() if key != "curve"}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
