"""How often do the intervals of the report hold the truth, and what factor makes them do so as often as promised?

    python benchmarks/uncertainty.py DATA [--weights DIR ...] [--every N] [--json FILE] [--write-cards DIR]

DATA holds `ma-slices`, `medseg-train` and `lctsc-256`. Only patients that the cards name as held out are used:

- `ma`: whole volumes of patients with radiologists' masks, restored to HU;
- `medseg`: single slices of other patients, from another source;
- `inserted`: lesions of known volume in held-out LCTSC volumes. The hosts have dense lung of their own that the network
  calls: it counts as true here, so that the error is that of the lesions put in;
- `inserted-only`: the same, the hosts' own opacities counted as false calls: what happens in another disease;
- `phantom`: a synthetic chest, another domain altogether.

The factor for infection is the conformal quantile of the patients of `ma` and `medseg`; that for the lungs of `ma` and
of the LCTSC hosts. The other groups only tell how far it carries. `--write-cards` puts both into the cards of a folder.

With the folds of a cross-validation as `--weights` (CV/fold-0 CV/fold-1 ...) each patient is seen by the fold that held
him out, and the factor is that of the recipe: for weights that were then trained on all of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from covct.data.published import read_lung_volumes, read_ma_slices, read_medseg_slices
from covct.data.slices import UNKNOWN
from covct.networks.cards import Card, default_weights_folder, write_card
from covct.networks.network import Networks, field_of_view, probabilities
from covct.networks.segment import load_keras_networks
from covct.phantom.chest import make_phantom
from covct.pipeline.uncertainty import FLOOR_SHARE, LEVEL, Tally, conformal_factor, error_in_widths, tally_lungs, widths
from covct.training.samples.augment import fill_air
from covct.training.samples.restoration import load_restorer
from covct.voxels.fields_of_view import MODEL_PIXEL_MM
from covct.voxels.preprocess import FieldOfView, body_field_of_view, from_model_space, to_model_space, whole_slice

LOADS_PERCENT = (0.5, 2.0, 6.0, 15.0, 35.0)
LESION_HU = (-650.0, -500.0, -350.0, -150.0)


def measured(
    networks: Networks, hu: np.ndarray, view: FieldOfView, lungs: np.ndarray, infection: np.ndarray, owners: list[str]
) -> dict[str, dict]:
    """What the networks make of some slices, against the truth on the same grid, by owner. Shares in percent of lung.

    hu, lungs, infection : (slices, rows, columns); without a true lung the found one is taken.
    """
    everything, threshold = np.ones(len(hu), bool), networks.lungs.card.threshold
    size, called_from = networks.infection.card.size, networks.infection.card.threshold
    tallies = {owner: Tally.empty(called_from) for owner in owners}
    probability = probabilities(networks.lungs, hu, view, everything)
    lungs_found = (probability >= threshold).astype(np.uint8)
    on_source = [from_model_space(one.astype(np.float32), view, hu.shape[1:]) > 0.5 for one in lungs_found]
    infection_view = _infection_view(networks, hu, view, np.stack(on_source).astype(np.uint8))
    found = _seen_in(np.stack(on_source), infection_view, size).astype(np.uint8)
    true_lungs = _seen_in(lungs == 1, view, networks.lungs.card.size)
    lungs, infection = (_seen_in(mask == 1, infection_view, size) for mask in (lungs, infection))
    calls = np.zeros(found.shape, bool)

    def watch(indices: np.ndarray, looks: list[np.ndarray]) -> None:
        for place, index in enumerate(indices.tolist()):
            tallies[owners[index]].add([look[place : place + 1] for look in looks], found[index : index + 1])
        mean = np.mean(looks, axis=0)
        calls[indices] = (mean >= called_from) & (found[indices] > 0)

    probabilities(networks.infection, hu, infection_view, found.any((1, 2)), watch=watch)
    out = {}
    for owner, tally in tallies.items():
        mine = np.array([one == owner for one in owners])
        whole = lungs[mine] if lungs[mine].any() else found[mine] > 0
        below, above = widths(tally)
        lungs_below, lungs_above = widths(tally_lungs(lungs_found[mine], probability[mine], threshold))
        lungs_there = true_lungs[mine] if lungs[mine].any() else lungs_found[mine] > 0
        out[owner] = {
            "slices": int(mine.sum()),
            "percent": 100 * int(tally.called.sum()) / max(1, int(tally.lungs.sum())),
            "truth": 100 * np.count_nonzero(infection[mine] & whole) / max(1, np.count_nonzero(whole)),
            "below": below,
            "above": above,
            "lungs_error": 100 * (np.count_nonzero(lungs_there) / max(1, np.count_nonzero(lungs_found[mine])) - 1),
            "lungs_below": lungs_below + 100 * FLOOR_SHARE,
            "lungs_above": lungs_above + 100 * FLOOR_SHARE,
            "calls": calls[mine],
            "lungs": whole,
            "view": infection_view,
        }
    return out


def _infection_view(networks: Networks, hu: np.ndarray, view: FieldOfView, lungs: np.ndarray) -> FieldOfView:
    """Where the infection network looks: where the lungs' does, or around the lungs found. lungs as `hu`, uint8."""
    card = networks.infection.card
    if card.field_of_view == networks.lungs.card.field_of_view:
        return view
    return field_of_view(card, hu, (MODEL_PIXEL_MM, MODEL_PIXEL_MM), lungs)


def _seen_in(mask: np.ndarray, view: FieldOfView, size: int) -> np.ndarray:
    return to_model_space(mask.astype(np.float32), view, size) > 0.5


def row(group: str, case: str, figures: dict, **changes: float) -> dict:
    figures = {name: value for name, value in {**figures, **changes}.items() if name not in ("calls", "lungs", "view")}
    score = error_in_widths(figures["percent"], figures["truth"], (figures["below"], figures["above"]))
    side = figures["lungs_above"] if figures["lungs_error"] > 0 else figures["lungs_below"]
    known = group in ("ma", "lctsc")
    return {
        "group": group,
        "case": case,
        **{name: round(float(value), 3) for name, value in figures.items()},
        "score": round(score, 3),
        "lungs_score": round(abs(figures["lungs_error"]) / side, 3) if known else None,
    }


def of_slices(networks: Networks, part, group: str) -> list[dict]:
    """Every patient of a set of slices in model space. Slices that were not restored are all zero, and left out."""
    chosen = np.flatnonzero(np.count_nonzero(part.hu == 0, axis=(1, 2)) < part.hu[0].size / 2)
    lungs = np.where(part.lungs == UNKNOWN, 0, part.lungs)
    owners = [part.patients[index] for index in chosen.tolist()]
    figures = measured(
        networks, part.hu[chosen], whole_slice(part.hu.shape[1:]), lungs[chosen], part.infection[chosen], owners
    )
    return [row(group, patient, one) for patient, one in figures.items()]


def with_lesions(
    hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float, float], load_percent: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged ellipsoids of one density, mostly peripheral, put into the lungs until they fill `load_percent` of them.

    Returns HU and the mask, (slices, rows, columns) float32 and bool.
    """
    rng = np.random.default_rng(seed)
    where = np.argwhere((lungs > 0) & (hu < -600)).astype(np.float32)
    wanted = load_percent / 100 * np.count_nonzero(lungs)
    mask = np.zeros(hu.shape, bool)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in hu.shape), indexing="ij"), -1).astype(np.float32)
    grid *= np.array(spacing_mm, np.float32)
    while np.count_nonzero(mask) < wanted:
        left_ml = (wanted - np.count_nonzero(mask)) * np.prod(spacing_mm)
        radius = min(np.exp(rng.uniform(np.log(8), np.log(45))), 1.1 * (3 * left_ml / (4 * np.pi)) ** (1 / 3) + 2)
        distance = grid - where[rng.integers(len(where))] * np.array(spacing_mm, np.float32)
        stretch = rng.uniform(0.6, 1.0, 3)
        ripple = 0.15 * np.sin(grid @ rng.normal(0, 0.25, 3) + rng.uniform(0, 6))
        mask |= (np.sqrt(((distance / stretch) ** 2).sum(-1)) < radius * (1 + ripple)) & (lungs > 0)
    out = hu.astype(np.float32)
    target = rng.choice(LESION_HU)
    for index in np.flatnonzero(mask.any((1, 2))):
        soft = mask[index].astype(np.float32)
        out[index] = fill_air(out[index], soft, target, rng, 0.15)
    return out, mask & (hu < -500)


def of_host(networks: Networks, folder: Path, name: str, every: int) -> list[dict]:
    """One LCTSC volume as it is, and with lesions of several loads."""
    hu, lungs, spacing = read_lung_volumes(folder)[name]
    step, number = max(3, every), int(name[-3:])
    hu, lungs = hu[::step], lungs[::step]
    view = body_field_of_view(hu, spacing)
    owners = [name] * len(hu)
    before = measured(networks, hu, view, lungs, np.zeros_like(lungs), owners)[name]
    rows = [row("lctsc", name, before)]
    own = before["calls"]
    for load in LOADS_PERCENT:
        changed, mask = with_lesions(hu, lungs, (3.0 * step, *spacing), load, 100 * number + int(10 * load))
        after = measured(networks, changed, view, lungs, mask, owners)[name]
        if after["view"] != before["view"]:  # lesions at the edge: the lungs found are others
            own = _seen_in(_back(before["calls"], before["view"], hu.shape[1:]), after["view"], own.shape[1])
        there = _seen_in(mask, after["view"], own.shape[1])
        truth = 100 * np.count_nonzero((there | own) & after["lungs"]) / max(1, np.count_nonzero(after["lungs"]))
        rows.append(row("inserted", f"{name} +{load:g} %", after, truth=truth))
        rows.append(row("inserted-only", f"{name} +{load:g} %", after))
    return rows


def _back(calls: np.ndarray, view: FieldOfView, shape: tuple[int, int]) -> np.ndarray:
    return np.stack([from_model_space(one.astype(np.float32), view, shape) for one in calls]) > 0.5


def of_phantoms(networks: Networks) -> list[dict]:
    rows = []
    for seed, lesions in enumerate(("none", "moderate", "severe")):
        made = make_phantom(
            slices=30, rows=256, columns=256, slice_spacing_mm=None, pixel_spacing_mm=(1.5, 1.5), lesions=lesions,
            seed=seed,
        )  # fmt: skip
        hu, spacing = made.volume.array, tuple(made.volume.spacing[1:])
        view = body_field_of_view(hu, spacing)
        masks = (made.lungs > 0).astype(np.uint8), made.infection.astype(np.uint8)
        figures = measured(networks, hu, view, *masks, [lesions] * len(hu))
        rows.append(row("phantom", lesions, figures[lesions]))
    return rows


def quantile(scores: list[float]) -> tuple[float, float]:
    """The factor, and the level that so few patients allow."""
    level = min(LEVEL, len(scores) / (len(scores) + 1))
    return round(conformal_factor(scores, level), 2), round(level, 2)


def covered(rows: list[dict], factor: float, score: str = "score") -> str:
    scores = [one[score] for one in rows if one[score] is not None]
    return f"{sum(one <= factor for one in scores)} of {len(scores)}"


def calibrated(card: Card, factor: float, level: float, looks: int, source: str) -> Card:
    told = {"factor": factor, "level": level, "looks": looks, "source": source}
    return card.replaced(uncertainty=told)


def measure(arguments: argparse.Namespace, folder: Path, groups: list[str], rows: list[dict]) -> None:
    """Add the rows of those patients that the cards of a folder hold out and `rows` do not have yet."""
    networks = load_keras_networks(folder)
    held = networks.infection.card.training["held_out_patients"]
    there = {one["case"] for one in rows}

    def keep() -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")

    if "ma" in groups:
        restore = load_restorer(arguments.restorer or folder / "restorer.json")

        def restore_some(pixels: np.ndarray) -> np.ndarray:
            """Only what is looked at afterwards."""
            out = np.zeros(pixels.shape, np.int16)
            out[:: arguments.every] = restore(pixels[:: arguments.every])
            return out

        for patient in sorted(set(held["ma"]) - there):
            part = read_ma_slices(arguments.data / "ma-slices", restore_some, frozenset([patient]))
            rows += of_slices(networks, part, "ma")
            keep()
    if "medseg" in groups and not there & set(held["medseg"]):
        medseg = read_medseg_slices(arguments.data / "medseg-train").of(frozenset(held["medseg"]))
        rows += of_slices(networks, medseg, "medseg")
        keep()
    if "inserted" in groups:
        for host in sorted(set(held["lctsc"]) - there):
            rows += of_host(networks, arguments.data / "lctsc-256", host, arguments.every)
            keep()
    if "phantom" in groups and not any(one["group"] == "phantom" for one in rows):
        rows += of_phantoms(networks)
        keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", default=[default_weights_folder()])
    parser.add_argument("--restorer", type=Path, help="its card; default: restorer.json of --weights")
    parser.add_argument("--every", type=int, default=1, help="only every Nth slice")
    parser.add_argument("--groups", default="ma,medseg,inserted,phantom", help="joined by commas")
    parser.add_argument("--json", type=Path, help="keep the rows here; those that are there are not measured again")
    parser.add_argument("--write-cards", type=Path, metavar="DIR", help="of which folder")
    arguments = parser.parse_args()
    groups, rows = arguments.groups.split(","), []
    if arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())
    for folder in arguments.weights:
        measure(arguments, folder, groups, rows)
    networks = load_keras_networks(arguments.write_cards or arguments.weights[-1])
    for one in rows:
        print("  ".join(f"{key} {value}" for key, value in one.items()))
    patients = [one for one in rows if one["group"] in ("ma", "medseg")]
    factor, level = quantile([one["score"] for one in patients])
    lungs = [one for one in rows if one["lungs_score"] is not None]
    lungs_factor, lungs_level = quantile([one["lungs_score"] for one in lungs])
    print(f"\ninfection: factor {factor} for {level:.0%} of {len(patients)} patients")
    for group in dict.fromkeys(one["group"] for one in rows):
        print(f"  {group}: {covered([one for one in rows if one['group'] == group], factor)} inside")
    print(f"lungs: factor {lungs_factor} for {lungs_level:.0%} of {len(lungs)} patients")
    if arguments.write_cards:
        folds = f", by {len(arguments.weights)} folds" if len(arguments.weights) > 1 else ""
        sparse = f", every {arguments.every}th slice" if arguments.every > 1 else ""
        source = (
            f"benchmarks/uncertainty.py: held-out patients, {{}}{sparse}{folds}; the threshold was chosen on them too"
        )
        lung_looks, looks = networks.lungs.looks, networks.infection.looks
        told = (factor, level, looks, source.format(f"{len(patients)} of ma, medseg"))
        write_card(calibrated(networks.infection.card, *told), arguments.write_cards)
        told = (lungs_factor, lungs_level, lung_looks, source.format(f"{len(lungs)} of ma, lctsc"))
        write_card(calibrated(networks.lungs.card, *told), arguments.write_cards)


if __name__ == "__main__":
    main()
