"""How far are slices that a restorer brought back to HU from those slices in HU?

    python benchmarks/restorer.py DATA [--restorers CARD ...] [--all]

DATA holds `ma-slices` and `ma-hu`, which have the same numbers. Of the patients whom every card holds out (all with
`--all`), by patient and pooled: the median of the error and its mean absolute value, HU within -1000..200, of healthy
lung, of infected lung below -300 HU (ground glass) and above (dense), and of what is outside the lungs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from covct.data.leakage import has_learned_from
from covct.data.pairs import INFECTED, LUNG, TISSUE, Pairs, read_pairs
from covct.data.published import find_sources
from covct.data.views import WINDOW
from covct.networks.cards import default_weights_folder, read_card
from covct.training.samples.restoration import load_restorer

DENSE_HU = -300


def tissues(pairs: Pairs) -> dict[str, np.ndarray]:
    """Which pixels are what."""
    dense = pairs.hu >= DENSE_HU
    infected = pairs.kind == INFECTED
    return {
        "healthy lung": pairs.kind == LUNG,
        "ground glass": infected & ~dense,
        "dense": infected & dense,
        "outside the lungs": pairs.kind == TISSUE,
    }


def told(card: Path, pairs: Pairs, people: list[str]) -> None:
    """Print one row for each person and one for all of them."""
    mine = np.isin(pairs.patients, people)
    error = load_restorer(card)(pairs.grey[mine]) - np.clip(pairs.hu[mine], WINDOW["low"], WINDOW["high"])
    owners = np.array(pairs.patients)[mine]
    which = {name: mask[mine] for name, mask in tissues(pairs).items()}
    for who in [*people, "pooled"]:
        row = np.ones(len(owners), bool) if who == "pooled" else owners == who
        cells = []
        for mask in which.values():
            off = error[row][mask[row]].astype(np.float64)
            cells.append(f"{np.median(off):+.0f}, {np.abs(off).mean():.0f}" if off.size else "")
        print(f"| {card} | {who} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--restorers", type=Path, nargs="+", default=[default_weights_folder() / "restorer.json"])
    parser.add_argument("--all", action="store_true", help="also patients whom a card has learned from")
    arguments = parser.parse_args()
    sources = find_sources(arguments.data)
    pairs = read_pairs(sources["ma"], sources["ma-hu"])
    cards = [read_card(path) for path in arguments.restorers]
    people = [
        who
        for who in dict.fromkeys(pairs.patients)
        if arguments.all or not any(has_learned_from(card, "ma", who) for card in cards)
    ]
    print(f"| restorer | patient | {' | '.join(tissues(pairs))} |")
    for path in arguments.restorers:
        told(path, pairs, people)


if __name__ == "__main__":
    main()
