"""Pairs to learn the way back from 8-bit CLAHE slices to Hounsfield units, and the trained way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from covct.data.model_space import recipe_pixels
from covct.data.noise import noise
from covct.data.slices import SIZE
from covct.data.views import WINDOW
from covct.errors import UsageError
from covct.networks.segment import load_network
from covct.training.samples import augment
from covct.voxels.preprocess import CT_RANGE_HU, RECIPES

Sample = tuple[np.ndarray, np.ndarray]
WEIGHTS = (0, 1, 2, 4)  # by `pairs.Pairs.kind`; as in `restoration_pair`, where a lesion costs as much


def restoration_pair(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> Sample:
    """One HU slice to (CLAHE input, windowed target): (256, 256, 1) and (256, 256, 2) float32.

    Fields of view, lungs of every density, opacities of every density, noise, windowing before publication.
    """
    hu, lungs = augment.affine((hu, lungs), ("hu", "mask"), rng, scale=(0.95, 1.8), rotation=8)
    if rng.random() < 0.7:
        hu = augment.lung_density(hu, lungs, rng)
    weight = 1.0 + (lungs > 0)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.12, 0.38, 0.3, 0.2])):
        hu, lesion = augment.insert_opacity(hu, lungs, rng)
        weight = weight + 2 * lesion  # a faded lesion costs more than a blurred rib
    target = RECIPES["hu-window"](hu, **WINDOW)
    seen = np.clip(noise(hu, rng, strongest=110), *CT_RANGE_HU)
    if rng.random() < 0.4:
        seen = np.clip(seen, rng.uniform(-1350, -900), rng.uniform(100, 600))
    if rng.random() < 0.35:
        rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        outside = np.hypot(rows, columns) > SIZE / 2 * rng.uniform(0.97, 1.05)
        seen = np.where(outside, seen.min(), seen)
        target = np.where(outside, 0, target)
    pixels = recipe_pixels(seen[None])[0]
    return (pixels[..., None] / np.float32(255)), np.stack([target, weight], -1).astype(np.float32)


def published_pair(grey: np.ndarray, hu: np.ndarray, kind: np.ndarray, rng: np.random.Generator) -> Sample:
    """One slice that was published in both forms (`covct.data.pairs`); shapes as of `restoration_pair`.

    Moved a little only: the tiles of CLAHE lie where they lie in every slice that is to be restored.
    """
    shifted = grey.astype(np.float32), hu, kind
    grey, hu, kind = augment.affine(shifted, ("hu", "hu", "mask"), rng, scale=(0.95, 1.1), rotation=4, shift=0.02)
    target, weight = RECIPES["hu-window"](hu, **WINDOW), np.array(WEIGHTS, np.float32)[kind]
    grey = np.clip(grey, 0, 255) / np.float32(255)
    return grey[..., None], np.stack([target, weight], -1).astype(np.float32)


def load_restorer(card_path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The trained way back: (slices, 256, 256) uint8 CLAHE -> int16 HU within the window; UsageError of other sizes."""
    _, network = load_network(card_path)
    wanted = network.input_shape[1:3]

    def restore(pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[1:] != wanted:
            got = f"{pixels.shape[1]} x {pixels.shape[2]}"
            raise UsageError(f"{card_path}: it restores slices of {wanted[0]} x {wanted[1]} pixels, got {got}")
        out = np.empty(pixels.shape, np.int16)
        for start in range(0, len(pixels), 16):
            chunk = pixels[start : start + 16, ..., None].astype(np.float32) / 255
            scaled = np.asarray(network.predict_on_batch(chunk))[..., 0]
            out[start : start + 16] = np.rint(WINDOW["low"] + scaled * (WINDOW["high"] - WINDOW["low"]))
        return out

    return restore
