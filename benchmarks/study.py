"""What pays in the infection network's training, one change at a time, as a markdown table.

    python benchmarks/study.py DATA -o DIR [--restorer CARD] [--only group-norm,2.5d] [--epochs 2] [--samples 800]

One fold of five by patient, the infection network from nothing; the same budget, seed and held-out patients for all,
and each source scored by itself at the threshold that is best over all of them. One run a row: differences below 0.02
are noise. Without a restorer all is learned from slices in HU and judged in HU. Rows are kept in DIR/study.json, and
what has one is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from covct.commands.quiet import quiet_tensorflow

with quiet_tensorflow():
    from covct.training.loop import train
    from covct.training.samples.reading import Readings

from covct.training.settings import Settings

VARIANTS: dict[str, dict] = {
    "standard": {},
    "real-lesions": {"augment": "real-lesions"},
    "full": {"augment": "full"},
    "group-norm": {"norm": "group"},
    "2.5d": {"neighbours": 1},
    "2.5d-mm": {"neighbours_mm": (3.0, 6.0)},
    "clinical": {"neighbours_mm": (3.0, 6.0), "augment": "clinical"},
    "clinical-wide": {"neighbours_mm": (3.0, 6.0), "augment": "clinical", "base_filters": 24},
    "clinical-dice": {"neighbours_mm": (3.0, 6.0), "augment": "clinical", "loss": "dice+ce"},
    "attention": {"architecture": "attention-unet"},
    "dice+ce": {"loss": "dice+ce"},
    "focal-tversky": {"loss": "focal-tversky"},
}
COLUMNS = {
    "validation_dice_ma": "Ma",
    "validation_dice_ma-equalised": "Ma as published",
    "validation_dice_medseg": "medseg",
    "validation_dice": "all",
    "validation_called_lctsc": "LCTSC called, %",
}


def show(rows: dict[str, dict]) -> None:
    print("| variant | " + " | ".join(COLUMNS.values()) + " | threshold | trained in, s |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, row in rows.items():
        cells = [f"{row[key] * (100 if 'called' in key else 1):.3f}" if key in row else "–" for key in COLUMNS]
        print(f"| `{name}` | " + " | ".join(cells) + f" | {row['threshold']:.2f} | {row['seconds']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--restorer", type=Path)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=800, help="an epoch")
    parser.add_argument("--fold", type=int, default=0, choices=range(5))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept, readings = options.out / "study.json", Readings()
    rows: dict[str, dict] = json.loads(kept.read_text()) if kept.exists() else {}
    plain = Settings(
        "infection", options.epochs, options.samples, learning_rate=2e-3, ema=0.98, folds=5, fold=options.fold,
        mixed_precision=True, seed=options.seed, field_of_view="lung-mask", size=192,
    )  # fmt: skip
    for name in options.only.split(","):
        if name in rows:
            continue
        begun = time.monotonic()
        settings = replace(plain, **VARIANTS[name])
        card = train(settings, options.data, options.out / name, restorer=options.restorer, readings=readings)
        scores = {key: card.scores[key] for key in COLUMNS if key in card.scores}
        rows[name] = scores | {"threshold": card.threshold, "seconds": round(time.monotonic() - begun)}
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)
    show(rows)


if __name__ == "__main__":
    main()
