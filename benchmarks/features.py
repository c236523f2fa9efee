"""What the infection network's training samples look like to it, and which scans look like none of them.

    python benchmarks/features.py DATA [--weights DIR] [--samples N] [--ordinary SCAN.nii.gz ...]
    python benchmarks/features.py DATA [--weights DIR] --scans SCAN.nii.gz ... [--odd]

The first draws samples as the card's training drew them (same sources, same people left out, same augmentation), fits
their features (`covct.networks.features`), writes them beside the weights and names them on the card, with the limit:
MARGIN times the farthest of the people left out with ten slices or more, and of ordinary scans of other scanners.

The second says how far volumes in HU lie from there, as `covct scan` finds it, in multiples of the limit, and the
infected share. With `--odd` also each of them changed in ways of which some were learned and some were not, by 16 of
its slices and in the lungs that were found before the change, so that the share tells what would be reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np

from covct.data.slices import Slices
from covct.data.views import equalised
from covct.evaluation.robustness import thicker
from covct.intake.volume_file import read_volume
from covct.networks.cards import Card, default_weights_folder, file_sha256, read_card, write_card
from covct.networks.features import Learned, fitted
from covct.networks.network import Networks, field_of_view, probabilities
from covct.pipeline.likeness import FEWEST_SLICES, Likeness
from covct.pipeline.series import segment
from covct.voxels.labels import per_slice
from covct.voxels.preprocess import to_model_space
from covct.voxels.volume import Scan, spacing_mm

MARGIN = 1.05  # no scan is quite like those that the limit was set on
NEAREST, FARTHEST = 1, 99  # percentiles, of the ranges on the card
SLICES = 16
LOW_HU, SPAN_HU = -1000, 1200  # of the network's window
Describe = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def drawn(card: Card, data: Path, samples: int, describe: Describe) -> tuple[np.ndarray, dict, dict]:
    """Features of training samples; ranges of what was learned; features of each person left out, by name."""
    from covct.training.samples.neighbours import distances_of, show_part, with_context
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.prepare import crop, preparation
    from covct.training.samples.reading import Readings
    from covct.training.settings import Settings

    held = card.training["held_out_patients"]
    settings = Settings(
        "infection", 1, 8, neighbours_mm=tuple(card.neighbours_mm), augment=card.training["augment"], split="none",
        leave_out=tuple(name for names in held.values() for name in names), field_of_view=card.field_of_view,
        size=card.size,
    )  # fmt: skip
    reading = Readings().of(data, None)
    draw, rng = plan_infection(reading, settings).draw, np.random.default_rng(0)
    features, seen = [], []
    for _ in range(0, samples, 8):
        stacks = np.stack([draw(rng)[0] for _ in range(8)])
        features.append(describe(stacks)[1])
        seen += [(noise_hu(one), float(one.mean() * SPAN_HU + LOW_HU)) for one in stacks[..., stacks.shape[-1] // 2]]
        print(len(seen), "samples", flush=True)
    people: dict[str, np.ndarray] = {}
    distances_mm = []
    for part in reading.parts(("ma", "lungs", "medseg")):
        distances_mm.append(distances_of(part))
        kept = with_context(crop(part, card.field_of_view), settings).of(frozenset(settings.leave_out)).with_lung()
        for patient in dict.fromkeys(kept.patients):
            one: Slices = kept.of(frozenset([patient]))
            x, _ = show_part(preparation(settings), one, one.infection == 1, one.infection != 2, 1)
            people[patient] = np.concatenate([describe(x[start : start + 32])[1] for start in range(0, len(x), 32)])
    known = np.concatenate(distances_mm)
    table = {"noise-hu": [one for one, _ in seen], "mean-hu": [one for _, one in seen], "slice-mm": known[known > 0]}
    ends = {name: np.percentile(values, (NEAREST, FARTHEST)).round(2).tolist() for name, values in table.items()}
    return np.concatenate(features), ends, people


def noise_hu(seen: np.ndarray) -> float:
    """Standard deviation of what no edge or slope explains (after Immerkær 1996), by the median."""
    response = cv2.filter2D(seen.astype(np.float32), -1, np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32))
    return float(np.median(np.abs(response)) / 0.6745 / 6 * SPAN_HU)


def measure(card_path: Path, data: Path, samples: int, ordinary: list[Path]) -> None:
    """Fit, write, set the limit, and write that too. Whatever ends it before, the card is what it was."""
    if missing := [str(one) for one in ordinary if not one.exists()]:
        raise SystemExit(f"no such file or directory: {', '.join(missing)}")
    before = card_path.read_bytes()
    try:
        _measure(card_path, data, samples, ordinary)
    except BaseException:
        card_path.write_bytes(before)
        raise


def _measure(card_path: Path, data: Path, samples: int, ordinary: list[Path]) -> None:
    card = read_card(card_path)
    features, ranges, people = drawn(card, data, samples, describing(card_path))
    table = fitted(features)
    path = card_path.with_name(f"{card.name}.npy")
    stream = BytesIO()
    np.lib.format.write_array(stream, table, version=(1, 0), allow_pickle=False)
    path.write_bytes(stream.getvalue())
    learned = Learned(table[0], table[1:], 1.0)
    print(f"training samples: {np.percentile(learned.distances(features), (5, 50, 95)).round(3)}; {ranges}")
    for name, one in people.items():
        print(f"left out: {name}, {len(one)} slices, {np.median(learned.distances(one)):.3f}")
    told = {
        "file": path.name, "sha256": file_sha256(path), "source_sha256": card.sha256, "limit": 1.0,
        "samples": len(features), "ranges": ranges, "source": "not set yet",
    }  # fmt: skip
    write_card(card.replaced(features=told), card_path.parent)
    found = {k: float(np.median(learned.distances(v))) for k, v in people.items() if len(v) >= FEWEST_SLICES}
    found |= {name_of(one): far for one in ordinary if (far := look(networks_of(card_path), name_of(one), one))}
    if len(found) < 2:
        raise SystemExit(f"{len(found)} people or scans to set the limit on; wanted two or more: --ordinary SCAN")
    limit = round(MARGIN * max(found.values()), 3)
    for name, far in found.items():
        others = MARGIN * max(value for other, value in found.items() if other != name)
        print(f"{name}: {far:.3f}, by a limit set without it {'warned' if far > others else 'not warned'}")
    count = len(found.keys() & people.keys())
    told |= {
        "limit": limit,
        "source": f"benchmarks/features.py: {MARGIN:g} times the farthest of {count} people left out with "
        f"{FEWEST_SLICES} slices or more and {len(found) - count} scans of other scanners",
    }
    write_card(card.replaced(features=told), card_path.parent)
    print(f"limit {limit}")


def describing(card_path: Path) -> Describe:
    """The network, giving its features whatever its card knows of them; in float32."""
    from covct.networks.segment import keras_describer, load_network

    return keras_describer(load_network(card_path)[1])


@dataclass(frozen=True)
class Marked:
    """A volume, and its lungs as they were found before anything was changed: (slices, rows, columns) bool."""

    volume: hd.Volume
    lungs: np.ndarray


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def each_slice(marked: Marked, change: Change) -> Marked:
    """Other HU in the same place."""
    hu = [change(one.astype(np.float32), np.random.default_rng(n)) for n, one in enumerate(marked.volume.array)]
    return replace(
        marked, volume=marked.volume.with_array(np.clip(np.rint(np.stack(hu)), -1024, 3071).astype(np.int16))
    )


def blurred(hu: np.ndarray, marked: Marked, sigma_mm: float) -> np.ndarray:
    return cv2.GaussianBlur(hu, (0, 0), sigma_mm / float(marked.volume.spacing[1]))


def grain(hu: np.ndarray, rng: np.random.Generator, correlated: bool) -> np.ndarray:
    """Noise of standard deviation 1, white or as a smooth kernel leaves it."""
    noise = rng.standard_normal(hu.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 1.0) if correlated else noise
    return noise / noise.std()


def mr_like(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lungs bright, tissue dark, air outside black."""
    return np.where(hu > -950, 0.6 * (200 - np.clip(hu, -1000, 200)) - 1000, -1000)


def gamma(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip((hu - LOW_HU) / SPAN_HU, 0, 1) ** 0.6 * SPAN_HU + LOW_HU


def ghost(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (np.roll(hu, 7, 1) + np.roll(hu, -7, 1)) / 2


def cut(marked: Marked, axis: int, share: float) -> Marked:
    """Air in place of the first part of every slice."""
    array, lungs = (np.moveaxis(one.copy(), axis, 0) for one in (marked.volume.array, marked.lungs))
    array[: int(share * len(array))], lungs[: int(share * len(array))] = -1024, False
    return Marked(marked.volume.with_array(np.moveaxis(array, 0, axis)), np.moveaxis(lungs, 0, axis))


def smaller(marked: Marked, factor: float) -> Marked:
    """The same chest in smaller voxels, as long and as wide as a child's."""
    volume, affine = marked.volume, marked.volume.affine.copy()
    affine[:3, :3] *= factor
    return replace(marked, volume=hd.Volume(volume.array, affine, volume.coordinate_system))


def thick(marked: Marked, thickness_mm: float) -> Marked:
    lungs = marked.volume.with_array(marked.lungs.astype(np.int16) * 1000)
    return Marked(thicker(marked.volume, thickness_mm), thicker(lungs, thickness_mm).array > 500)


def upside_down(marked: Marked) -> Marked:
    return Marked(marked.volume.with_array(marked.volume.array[:, ::-1].copy()), marked.lungs[:, ::-1].copy())


def odd_ones(marked: Marked) -> Iterator[tuple[str, Marked]]:
    """By name, one at a time, the scan as it is first."""
    yield "as it is", marked
    for thickness in (5, 10):
        yield f"slices of {thickness} mm", thick(marked, thickness)
    yield "a child's size (x 0.6)", smaller(marked, 0.6)
    yield "without its right half", cut(marked, 2, 0.45)
    yield "without its front half", cut(marked, 1, 0.5)
    yield "upside down", upside_down(marked)
    for name, change in changes(marked).items():
        yield name, each_slice(marked, change)


def changes(marked: Marked) -> dict[str, Change]:
    """What is done to every slice."""
    return {
        **{f"smoothed, {s:g} mm": partial(smoothed, marked, s) for s in (1.0, 2.5, 5.0)},
        **{f"sharpened, {a} times": partial(sharpened, marked, a) for a in (1, 3)},
        **{f"white noise, {s} HU": lambda hu, rng, s=s: hu + s * grain(hu, rng, False) for s in (50, 100, 200)},
        **{f"coarse grain, {s} HU": lambda hu, rng, s=s: hu + s * grain(hu, rng, True) for s in (50, 100, 200)},
        **{f"{b:+d} HU": lambda hu, rng, b=b: hu + b for b in (50, 150, -100)},
        **{f"contrast x {f}": lambda hu, rng, f=f: (hu + 1000) * f - 1000 for f in (0.7, 1.3)},
        "gamma 0.6": gamma,
        "a window of -1000 to 200 HU": lambda hu, rng: np.clip(hu, -1000, 200),
        "a window of -600 to 0 HU": lambda hu, rng: np.clip(hu, -600, 0),
        "CLAHE": lambda hu, rng: equalised(hu),
        "inverted": lambda hu, rng: -800 - np.clip(hu, -1000, 200),
        "MR-like": mr_like,
        "ghost (motion)": ghost,
    }


def smoothed(marked: Marked, sigma_mm: float, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return blurred(hu, marked, sigma_mm)


def sharpened(marked: Marked, times: int, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return hu + times * (hu - blurred(hu, marked, 1.0))


def glance(networks: Networks, name: str, marked: Marked) -> None:
    """One row, of SLICES slices with lung: how far they lie, and the infected share of these lungs."""
    infection, spacing = networks.infection, spacing_mm(marked.volume)
    card, likeness = infection.card, Likeness(infection.learned)
    with_lung = np.flatnonzero(marked.lungs.any((1, 2)))
    indices = with_lung[np.linspace(0, len(with_lung) - 1, min(len(with_lung), SLICES)).astype(int)]
    chosen = np.isin(np.arange(len(marked.lungs)), indices)
    view = field_of_view(card, marked.volume.array, spacing[1:], marked.lungs.astype(np.uint8))
    seen = probabilities(infection, marked.volume.array, view, chosen, spacing, notice=likeness.notice)[chosen]
    inside = to_model_space(marked.lungs[chosen].astype(np.float32), view, card.size) > 0.5
    percent = 100 * np.count_nonzero((seen >= card.threshold) & inside) / max(1, np.count_nonzero(inside))
    print(
        f"| {name} | {'few slices' if likeness.apart is None else f'{likeness.apart:.2f}'} | {percent:.2f} |",
        flush=True,
    )


def name_of(path: Path) -> str:
    return path.name.split(".")[0]


def networks_of(card_path: Path) -> Networks:
    """In OpenVINO's form where there is one: what CPUs use."""
    if read_card(card_path).openvino:
        from covct.networks.converted import load_converted_networks

        return load_converted_networks(card_path.parent)
    from covct.networks.segment import load_keras_networks

    return load_keras_networks(card_path.parent)


def look(networks: Networks, name: str, scan: Path | hd.Volume) -> float | None:
    """One row: how far it lies, and the infected share, by the steps of a scan."""
    infection, volume = networks.infection, Scan(read_volume(scan)).working if isinstance(scan, Path) else scan
    assert infection.describe
    likeness, describe = Likeness(infection.learned), infection.describe

    def noticed(slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability, features = describe(slices)
        likeness.notice(features)
        return probability, features

    labels = segment(replace(networks, infection=replace(infection, describe=noticed)), Scan(volume))
    lungs, infected = (int(per_slice(layer).sum()) for layer in (labels.lungs, labels.infection))
    apart, percent = likeness.apart, 100 * infected / max(1, lungs)
    far = "no lung, or few slices" if apart is None else f"{apart:.2f}"
    print(f"| {name} | {far} | {percent:.2f} |", flush=True)
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=default_weights_folder())
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--ordinary", type=Path, nargs="+", default=[], help="whole scans that the limit must hold")
    parser.add_argument("--scans", type=Path, nargs="+", default=[])
    parser.add_argument("--odd", action="store_true")
    arguments = parser.parse_args()
    card_path = arguments.weights / "infection.json"
    if not arguments.scans:
        measure(card_path, arguments.data, arguments.samples, arguments.ordinary)
        return
    networks = networks_of(card_path)
    for path in arguments.scans:
        look(networks, name_of(path), path)
        volume = Scan(read_volume(path)).working
        lungs = (
            np.stack([np.asarray(one) > 0 for one in segment(networks, Scan(volume)).lungs]) if arguments.odd else None
        )
        for name, changed in odd_ones(Marked(volume, lungs)) if lungs is not None else ():
            glance(networks, name, changed)


if __name__ == "__main__":
    main()
