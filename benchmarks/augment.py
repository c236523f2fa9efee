"""How many augmented slices a second one core makes, by preset and by change, and how many cores a GPU would need.

    python benchmarks/augment.py DATA [--seconds S] [--gpu SLICES_PER_SECOND]

DATA holds `NAME_ct.nii.gz` with `NAME_lungs.nii.gz` (such as `lctsc-256`). Prints markdown tables. A sample is drawn as
training draws it: picked, moved, changed, with lesions where the preset has them, and shown through the recipe.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from covct.data.noise import noise
from covct.data.published import read_lung_slices
from covct.data.slices import Slices
from covct.training.samples import augment
from covct.training.samples.plans import _maybe_diseased
from covct.training.samples.prepare import preparation, show
from covct.training.samples.presets import PRESETS, deform, tint
from covct.training.settings import Settings

ORDERS = ("hu", "mask", "mask")
SOURCE = "lctsc"


def milliseconds(change: Callable[[int], object], seconds: float) -> float:
    """Mean processor time of one call, ms: not the clock's, which other programs slow."""
    change(0)
    begun, calls = time.process_time(), 0
    while time.process_time() - begun < seconds:
        calls += 1
        change(calls)
    return (time.process_time() - begun) / calls * 1000


def draw(part: Slices, preset: str, recipe: str, seed: int):
    """One infection sample of clean slices, as plans.plan_infection makes it; lesions also from a donor slice."""
    rng = np.random.default_rng(seed)
    how = preparation(Settings("infection", 1, 1, augment=preset, recipe=recipe))
    index = rng.integers(len(part))
    hu, lungs, infection = part.hu[index], part.lungs[index], part.infection[index]
    if how.preset.lesions:
        hu, infection = _maybe_diseased(hu.astype(np.float32), lungs, infection, part, rng, None)
    hu, lungs, infection = deform(how.preset, (hu, lungs, infection), ORDERS, rng, scale=(0.85, 1.3))
    if how.preset.lesions and rng.random() < 0.25:
        hu = augment.lung_density(hu, lungs == 1, rng)
    return show(how, tint(how.preset, hu, rng), infection == 1, infection != 2, rng)


def changes(part: Slices) -> dict[str, Callable[[int], object]]:
    """Every change by itself, on one slice of a chest: function (seed) -> anything."""
    middle = len(part) // 2
    hu, lungs = part.hu[middle].astype(np.float32), part.lungs[middle]
    infection = (lungs == 1) & (np.arange(256) < 100)
    donor = np.where(infection, -400, hu).astype(np.float32)
    three, rng = (hu, lungs, part.infection[middle]), np.random.default_rng
    volume, masks = np.repeat(hu[None], 100, 0), np.repeat(lungs[None], 100, 0)
    return {
        "similarity": lambda seed: augment.affine(three, ORDERS, rng(seed)),
        "similarity and elastic": lambda seed: augment.affine(three, ORDERS, rng(seed), elastic_px=5.0),
        "gamma": lambda seed: augment.gamma(hu, rng(seed)),
        "local contrast (CLAHE)": lambda seed: augment.local_contrast(hu, rng(seed)),
        "blur": lambda seed: augment.blur(hu, rng(seed)),
        "noise, blur or sharpening": lambda seed: noise(hu, rng(seed)),
        "contrast": lambda seed: augment.contrast(hu, rng(seed)),
        "lung density": lambda seed: augment.lung_density(hu, lungs, rng(seed)),
        "inserted lesion": lambda seed: augment.insert_opacity(hu, lungs, rng(seed)),
        "transplanted lesion": lambda seed: augment.transplant_lesion(
            hu, lungs, donor, lungs, infection.astype(np.uint8), rng(seed)
        ),
        "rescaled lesion": lambda seed: augment.rescale_lesion(donor, lungs, infection.astype(np.uint8), rng(seed)),
        "3D patch 80 x 160 x 160": lambda seed: augment.random_patch((volume, masks), (80, 160, 160), rng(seed)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row")
    parser.add_argument("--gpu", type=float, default=500.0, help="slices a second that a GPU takes")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    part = read_lung_slices(arguments.data).with_lung()
    print(f"| preset | recipe | ms a slice | slices/s, one core | cores for {arguments.gpu:.0f} slices/s |")
    print("|---|---|---|---|---|")
    for preset in PRESETS:
        for recipe in ("hu-window:low=-1000,high=200", "clahe"):
            took = milliseconds(partial(draw, part, preset, recipe), arguments.seconds)
            cores = math.ceil(arguments.gpu * took / 1000)
            print(f"| {preset} | {recipe.partition(':')[0]} | {took:.2f} | {1000 / took:.0f} | {cores} |", flush=True)
    print("\n| change | ms |\n|---|---|")
    for name, change in changes(part).items():
        print(f"| {name} | {milliseconds(change, arguments.seconds / 2):.2f} |", flush=True)


if __name__ == "__main__":
    main()
