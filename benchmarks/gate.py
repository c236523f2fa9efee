"""What the gate measures of each scan: body, lungs, clefts, spine. The numbers of `GATE` are chosen with these at hand.

Every series below the sources goes through the line with the weights' lung network; infection is not looked for. The
last column says how it ended. Ranges of whole chests (no warning of cut lungs) follow. Copy the table to RESULTS.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

COLUMNS = {
    "lungs mL": lambda c: f"{c.volume_ml:.0f}",
    "left/right": lambda c: f"{c.left_ml / c.right_ml:.2f}" if c.right_ml else "",
    "body mm": lambda c: f"{c.width_mm:.0f}",
    "body cm²": lambda c: f"{c.area_cm2:.0f}",
    "lung of body": lambda c: f"{c.lung_share:.2f}",
    "lungs high/wide": lambda c: f"{c.lungs_mm[0] / c.lungs_mm[2]:.2f}" if c.lungs_mm[2] else "",
    "cleft left-right": lambda c: f"{c.clefts[2]:.2f}",
    "other clefts": lambda c: f"{min(c.clefts[:2]):.2f}",
    "spine": lambda c: "" if c.spine is None else f"{c.spine:.2f}",
    "inner HU": lambda c: "" if c.inner_hu is None else f"{c.inner_hu:.0f}",
    "end slices": lambda c: f"{c.end_share:.2f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    arguments = parser.parse_args()

    import numpy as np

    from covct.intake.choice import choose
    from covct.intake.discover import discover
    from covct.networks.segment import load_keras_networks

    networks = load_keras_networks(arguments.weights)
    nothing = replace(networks.infection, predict=lambda slices: np.zeros(slices.shape[:3], np.float32))
    networks = replace(networks, infection=nothing, empty_slices=None)
    print(f"| scan | {' | '.join(COLUMNS)} | ended |\n|---{'|---' * (len(COLUMNS) + 1)}|")
    whole: list[list[str]] = []
    for source in arguments.sources:
        for series in discover([source]).series:
            chest, ended = measured(choose([series], lambda _: None), networks)
            cells = [say(chest) for say in COLUMNS.values()] if chest else [""] * len(COLUMNS)
            print(f"| {source.name.split('.')[0]} | {' | '.join(cells)} | {ended} |", flush=True)
            if chest and ended == "done":
                whole.append(cells)
    for name, values in zip(COLUMNS, zip(*whole, strict=True), strict=False):
        numbers = [float(value) for value in values if value]
        print(f"{name}: {min(numbers):g} to {max(numbers):g} in {len(numbers)} scans")


def measured(choice, networks):
    """The chest that the gate saw (None: it came to none) and how the series ended: its slugs."""
    from covct.errors import SeriesError
    from covct.pipeline import series as pipeline

    seen = []
    measure = pipeline.measure_chest
    pipeline.measure_chest = lambda *of: seen.append(measure(*of)) or seen[-1]
    try:
        report = pipeline.process(choice, lambda: networks, "0" * 64, pipeline.Clock()).report
        slugs = {warning["slug"] for warning in report["warnings"]} - {"no-seg", "filled-headers", "low-confidence"}
        ended = ", ".join(["done", *sorted(slugs - {"thick-slices"})])
    except SeriesError as error:
        ended = f"refused: {error.slug}"
    finally:
        pipeline.measure_chest = measure
    return (seen[-1] if seen else None), ended


if __name__ == "__main__":
    main()
