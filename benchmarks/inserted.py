"""Is as much marked as was put in? Real lesions of people left out, in whole lungs of people without COVID-19.

    python benchmarks/inserted.py DATA HOST.nii.gz ... [--weights DIR] [--donors NAME,...]

DATA holds `ma-hu`. Of each donor all slices in HU, which run through the middle of a chest, are laid into the lungs of
each host from 20 to 80 % of their height, box on box. A lesion brings its outline and its share of tissue, so that it
lets through as much of the host's own texture as it did of its donor's. What is then marked by the steps of a scan
stands beside what was put in, in percent of the lungs: as reported, of the lungs that were found, and as it is, of the
lungs of `HOST_lungs.nii.gz` beside `HOST_ct.nii.gz`, or where there are none of those found before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from features import name_of, networks_of

from covct.data.domains import TISSUE_HU
from covct.data.published import find_sources, read_ma_slices
from covct.data.slices import Slices
from covct.intake.volume_file import read_volume
from covct.networks.cards import default_weights_folder, read_card
from covct.networks.network import Networks
from covct.pipeline.series import segment
from covct.voxels.volume import Scan

LOWEST, HIGHEST = 0.2, 0.8  # of the height of the lungs: where the donors' slices come from
SOFT_PX = 0.8  # sigma of a lesion's border
FEWEST_PX = 200  # of lung, for a slice to take or to give a lesion


@dataclass(frozen=True)
class Host:
    """A scan without opacity and its lungs: (slices, rows, columns) bool."""

    name: str
    scan: Scan
    lungs: np.ndarray


def read_host(path: Path, networks: Networks) -> Host:
    scan = Scan(read_volume(path))
    truth = path.with_name(path.name.replace("_ct.nii", "_lungs.nii"))
    known = Scan(read_volume(truth)).working.array > 0 if truth != path and truth.exists() else None
    return Host(name_of(path), scan, stacked(segment(networks, scan).lungs) if known is None else known)


def head_first(slices: Slices) -> Slices:
    """One person's slices in the order of a scan here: the end with less lung is the upper one."""
    areas = np.count_nonzero(slices.lungs == 1, axis=(1, 2))
    end = max(1, len(areas) // 5)
    if areas[:end].sum() <= areas[-end:].sum():
        return slices
    return replace(slices, **{name: getattr(slices, name)[::-1] for name in ("hu", "lungs", "infection")})


def stacked(layer: Iterable[np.ndarray]) -> np.ndarray:
    """The masks of a scan's slices as one: (slices, rows, columns) bool."""
    return np.stack([np.asarray(one) > 0 for one in layer])


def box(lungs: np.ndarray) -> np.ndarray:
    """First and last row, first and last column of (rows, columns) bool."""
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    return np.array([rows[0], rows[-1], columns[0], columns[-1]], np.float32)


def brought(donor: Slices, index: int, lungs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a donor's slice brings to a host's: each pixel's share of tissue, float32, and which are lesion, bool."""
    healthy = donor.hu[index][(donor.lungs[index] == 1) & (donor.infection[index] == 0)]
    air = float(np.median(healthy)) if healthy.size else -850.0
    share = np.clip((donor.hu[index].astype(np.float32) - air) / (TISSUE_HU - air), 0, 1)
    infected = (donor.infection[index] == 1).astype(np.float32)
    there, here = box(donor.lungs[index] == 1), box(lungs)
    scale = (here[1::2] - here[::2]) / (there[1::2] - there[::2])
    (down, across), (top, left) = scale, here[::2] - scale * there[::2]
    place = np.array([[across, 0, left], [0, down, top]], np.float32)
    size = lungs.shape[::-1]
    mask = (cv2.warpAffine(infected, place, size, flags=cv2.INTER_LINEAR) >= 0.5) & lungs
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), SOFT_PX) * lungs
    return cv2.warpAffine(share, place, size, flags=cv2.INTER_LINEAR) * soft, mask


def with_lesions(host: Host, donor: Slices) -> tuple[Scan, np.ndarray]:
    """The host with the donor's lesions, and where they are: (slices, rows, columns) bool."""
    volume = host.scan.working
    hu, where = volume.array.astype(np.float32), np.zeros(host.lungs.shape, bool)
    heights = np.flatnonzero(host.lungs.any((1, 2)))
    first, last = (round(one) for one in np.quantile(heights, [LOWEST, HIGHEST]))
    for index in range(first, last + 1):
        giving = round((index - first) / (last - first) * (len(donor) - 1))
        if np.count_nonzero(host.lungs[index]) < FEWEST_PX or np.count_nonzero(donor.lungs[giving] == 1) < FEWEST_PX:
            continue
        share, where[index] = brought(donor, giving, host.lungs[index])
        hu[index] += share * np.maximum(0, TISSUE_HU - hu[index])
    return Scan(volume.with_array(np.rint(hu).astype(np.int16))), where


def row(networks: Networks, host: Host, donor: Slices | None) -> tuple[float, float]:
    """Percent of the lungs put in and reported; prints them, with the Dice of both."""
    scan, where = with_lesions(host, donor) if donor else (host.scan, np.zeros(host.lungs.shape, bool))
    labels = segment(networks, scan)
    found, lungs = stacked(labels.infection), stacked(labels.lungs)
    there = 100 * np.count_nonzero(where) / np.count_nonzero(host.lungs)
    told = 100 * np.count_nonzero(found) / np.count_nonzero(lungs)
    both, inside = np.count_nonzero(found & where), np.count_nonzero(lungs & where)
    dice = 2 * both / max(1, np.count_nonzero(found) + np.count_nonzero(where))
    kept = f"{100 * inside / np.count_nonzero(where):.0f} % | {dice:.3f}" if where.any() else " | "
    who = donor.patients[0] if donor else "nobody"
    print(f"| {host.name} | {who} | {there:.2f} | {told:.2f} | {told - there:+.2f} | {kept} |", flush=True)
    return there, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hosts", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, default=default_weights_folder())
    parser.add_argument("--donors", help="people of Ma et al.; default: those whom the infection network holds out")
    arguments = parser.parse_args()
    card = read_card(arguments.weights / "infection.json")
    names = arguments.donors.split(",") if arguments.donors else card.training["held_out_patients"]["ma"]
    sources = find_sources(arguments.data)
    slices = read_ma_slices(sources["ma"], None, frozenset(names), sources["ma-hu"])
    networks = networks_of(arguments.weights / "infection.json")
    print("| lungs of | lesions of | % put in | % reported | points off | of it in the lungs found | Dice |")
    print("|---|---|---|---|---|---|---|", flush=True)
    off = []
    for path in arguments.hosts:
        host = read_host(path, networks)
        row(networks, host, None)
        for name in dict.fromkeys(slices.patients):
            there, told = row(networks, host, head_first(slices.of(frozenset([name]))))
            off.append(told - there)
    print(f"\nmean absolute {np.abs(off).mean():.2f} points, mean {np.mean(off):+.2f}, {len(off)} scans")


if __name__ == "__main__":
    main()
