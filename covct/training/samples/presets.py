"""How much training slices are changed, by name: `covct train --augment NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from covct.data.noise import noise
from covct.training.samples import augment

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class LungChanges:
    """How often lungs become denser, and gas is put where no lung is.

    Attributes
    ----------
    density : float
        Chance that the air content of the lungs is scaled.
    opacity : float
        Chance of lesions of any shape and density.
    dependent : float
        Chance that the lowest part of the lungs is filled; not where only infection was marked.
    gas : float
        Chance of gas, stool or an air-fluid level in what is known to be no lung: stomach, bowel, a hiatal hernia.
    partial : float
        Share of the samples from slices of which only parts of the lungs are known, where there are any.
    """

    density: float = 0.4
    opacity: float = 0.5
    dependent: float = 0.2
    gas: float = 0.0
    partial: float = 0.15


@dataclass(frozen=True)
class Preset:
    """What is done to a slice, and how often.

    Attributes
    ----------
    geometry : mapping or None
        Arguments of `augment.affine`; None moves nothing. Without a scale the task's own is used.
    elastic : float
        Chance that `elastic_px` of the geometry is used.
    lesions : bool
        Whether the infection network sees lesions put in, transplanted, changed or taken away, and lungs made denser.
    lungs : LungChanges or None
        What the lungs network sees changed; None: nothing.
    intensities : tuple of (float, function)
        Chance and change (hu, rng) -> hu, one after the other.
    clip_limit : float
        Where slices are seen through CLAHE: its clip limit times exp(-clip_limit) to exp(clip_limit).
    thickest_mm : float
        With neighbours at distances, half of the slices are averaged to a thickness of 1 mm up to this.
    transplants : float
        Chance that a person without disease receives somebody's lesions, as dense as they are; for where `lesions` is
        not set.
    """

    geometry: Mapping[str, Any] | None = None
    elastic: float = 0.0
    lesions: bool = False
    lungs: LungChanges | None = None
    intensities: tuple[tuple[float, Change], ...] = field(default_factory=tuple)
    clip_limit: float = 0.0
    thickest_mm: float = 0.0
    transplants: float = 0.0


PRESETS = {
    "none": Preset(),
    "light": Preset(
        {"scale": (0.9, 1.1), "rotation": 20.0, "shift": 0.06},
        intensities=((0.5, partial(noise, strongest=35.0)), (1.0, augment.contrast)),
    ),
    "similar": Preset({"scale": (0.9, 1.1), "rotation": 20.0, "shift": 0.0}),  # no grey is another
    # as standard, and every lesion is where and as dense as radiologists marked it
    "real-lesions": Preset({}, intensities=((1.0, noise), (1.0, augment.contrast))),
    # as real-lesions, in slices of every thickness, and real lesions in people who have none
    "clinical": Preset(
        {},
        lungs=LungChanges(dependent=0.35, gas=0.35, partial=0.25),
        intensities=((1.0, noise), (1.0, augment.contrast)),
        thickest_mm=10.0,
        transplants=0.35,
    ),
    "standard": Preset({}, lesions=True, lungs=LungChanges(), intensities=((1.0, noise), (1.0, augment.contrast))),
    "full": Preset(
        {"rotation": 20.0, "shift": 0.08, "elastic_px": 2.5, "cells": 4},  # at 5 px chests look lobed
        elastic=0.5,
        lesions=True,
        lungs=LungChanges(),
        intensities=(
            (0.3, augment.gamma),
            (0.2, augment.local_contrast),
            (0.15, augment.blur),
            (1.0, noise),
            (1.0, augment.contrast),
        ),
        clip_limit=0.7,
    ),
}


def deform(
    preset: Preset, images: Sequence[np.ndarray], orders: Sequence[str], rng: np.random.Generator, **own: Any
) -> list[np.ndarray]:
    """Move images together, as `augment.affine` with the preset's arguments; `own` are the task's.

    The preset's go first, unless `own` holds a `border_hu`: a source cropped at the ribs has to shrink.
    """
    if preset.geometry is None:
        return list(images)
    arguments = {**preset.geometry, **own} if "border_hu" in own else {**own, **preset.geometry}
    if "elastic_px" in arguments and rng.random() >= preset.elastic:
        arguments["elastic_px"] = 0.0
    return augment.affine(images, orders, rng, **arguments)


def tint(preset: Preset, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the intensities of one slice: HU (rows, columns) -> HU float32."""
    hu = hu.astype(np.float32)
    for chance, change in preset.intensities:
        if chance >= 1 or rng.random() < chance:
            hu = change(hu, rng)
    return hu.astype(np.float32, copy=False)


def augmented(
    preset: Preset, hu: np.ndarray, masks: Sequence[np.ndarray], rng: np.random.Generator, **own: Any
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All but lesions, for one slice or a stack of neighbours. The same generator, the same result.

    hu (rows, columns) or (slices, rows, columns), masks likewise -> (hu, masks).
    """
    hu, *masks = deform(preset, (hu, *masks), ("hu", *("mask" for _ in masks)), rng, **own)
    return tint_alike(preset, hu, rng), masks


def tint_alike(preset: Preset, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`tint` of one slice (rows, columns), or of a stack (slices, rows, columns) whose slices change alike."""
    if hu.ndim == 2:
        return tint(preset, hu, rng)
    seed = int(rng.integers(2**32))
    return np.stack([tint(preset, one, np.random.default_rng(seed)) for one in hu])


def with_strength(
    preset: Preset, recipe: str, arguments: Mapping[str, float], rng: np.random.Generator
) -> dict[str, float]:
    """A recipe's arguments with CLAHE as strong as chance has it; those of other recipes as they are."""
    if recipe != "clahe" or not preset.clip_limit:
        return dict(arguments)
    factor = float(np.exp(rng.uniform(-preset.clip_limit, preset.clip_limit)))
    return {**arguments, "clip_limit": min(256.0, arguments.get("clip_limit", 7.0) * factor)}
