"""From labelled slices to what a network sees: crop, size and recipe as its card will name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from covct.data.slices import SIZE, Slices
from covct.errors import UsageError
from covct.training.samples.presets import PRESETS, Preset, with_strength
from covct.training.settings import Settings
from covct.voxels.fields_of_view import FIELDS_OF_VIEW, MODEL_PIXEL_MM
from covct.voxels.preprocess import FieldOfView, parse_recipe, to_model_space, with_arguments

TRAINED_VIEWS = ("body", "otsu-body", "lung-contours", "lung-mask")  # slices are read cut to the body already
LEAST_SIDE, LARGEST_SIDE = 32, 512


@dataclass(frozen=True)
class Preparation:
    """How slices are changed and shown, checked: a preset, a recipe with its arguments, a crop and a size."""

    preset: Preset
    recipe: str
    arguments: Mapping[str, float]
    field_of_view: str
    size: int


def preparation(settings: Settings) -> Preparation:
    """What the settings ask for.

    Raises
    ------
    UsageError
        No such preset, recipe or crop; a size that does not pass four poolings; anything of one's own for the
        restorer; a lung crop for the lungs.
    """
    try:
        recipe, arguments = parse_recipe(settings.recipe)
    except ValueError as error:
        raise UsageError(f"--recipe: {error}") from error
    if settings.augment not in PRESETS:
        raise UsageError(f"--augment: got {settings.augment!r}, wanted one of {', '.join(PRESETS)}")
    if settings.field_of_view not in TRAINED_VIEWS:
        raise UsageError(f"--field-of-view: got {settings.field_of_view!r}, wanted one of {', '.join(TRAINED_VIEWS)}")
    if settings.size % 16 or not LEAST_SIDE <= settings.size <= LARGEST_SIDE:
        raise UsageError(f"--size: got {settings.size}, wanted a multiple of 16 from {LEAST_SIDE} to {LARGEST_SIDE}")
    if settings.task == "lungs" and settings.field_of_view == "lung-mask":
        raise UsageError(
            "--field-of-view: a lungs network runs before the lungs are known; wanted body, otsu-body or lung-contours"
        )
    chosen = Preparation(PRESETS[settings.augment], recipe, arguments, settings.field_of_view, settings.size)
    plain = Settings(settings.task, 1, 1)
    if settings.task == "restorer" and any(
        getattr(settings, name) != getattr(plain, name) for name in ("augment", "recipe", "field_of_view", "size")
    ):
        raise UsageError(
            "the restorer has its own augmentation, recipe and size: "
            "--augment, --recipe, --field-of-view and --size do not apply"
        )
    return chosen


def crop(part: Slices, field_of_view: str) -> Slices:
    """Slices cut to another field of view, one for each patient, and brought back to 256 x 256."""
    if field_of_view == "body":
        return part
    hu, lungs, infection = (np.empty_like(array) for array in (part.hu, part.lungs, part.infection))
    labels = {name: value for name in ("classes", "sides") if (value := getattr(part, name)) is not None}
    cut = {name: np.empty_like(value) for name, value in labels.items()}
    spacing = None if part.spacing_mm is None else part.spacing_mm.copy()
    for patient in sorted(set(part.patients)):
        mine = np.array([one == patient for one in part.patients])
        view = FIELDS_OF_VIEW[field_of_view](part.hu[mine], (MODEL_PIXEL_MM, MODEL_PIXEL_MM), part.lungs[mine] == 1)
        hu[mine] = np.rint(to_model_space(part.hu[mine], view, SIZE))
        for out, masks in ((lungs, part.lungs), (infection, part.infection)):
            out[mine] = _cut_labels(masks[mine], view)
        for name, value in labels.items():
            cut[name][mine] = _cut_labels(value[mine], view)
        if spacing is not None:
            spacing[mine, 1:] *= np.array((view.height, view.width)) / SIZE
    return replace(part, hu=hu, lungs=lungs, infection=infection, spacing_mm=spacing, **cut)


def _cut_labels(labels: np.ndarray, view: FieldOfView) -> np.ndarray:
    """Labels cut like the slices: of each pixel the label that holds most of it; 0 beyond."""
    best = np.zeros((len(labels), SIZE, SIZE), np.uint8)
    most = np.full(best.shape, 0.5, np.float32)
    for value in np.unique(labels[labels > 0]):
        share = to_model_space((labels == value) * 1000.0 - 1000, view, SIZE) / 1000 + 1
        best[share >= most] = value
        most = np.maximum(most, share)
    return best


def show(
    how: Preparation, hu: np.ndarray, label: np.ndarray, weight: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Slices as the network sees them, with their truth.

    hu, label, weight (..., rows, columns) -> (..., size, size, 1) float32 and (..., size, size, 2) float32, label and
    weight. With `rng` CLAHE is as strong as the preset has it by chance.
    """
    return see(how, hu, rng)[..., None], truth_of(how, label, weight)


def see(how: Preparation, hu: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """HU (..., rows, columns) as the network sees it: (..., size, size) float32. `rng` as of `show`."""
    sized = to_size(np.asarray(hu, np.float32).reshape(-1, *hu.shape[-2:]), how.size)
    return recipe_of(how, rng)(sized).reshape(*hu.shape[:-2], how.size, how.size)


def recipe_of(how: Preparation, rng: np.random.Generator | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """The recipe, (slices, rows, columns) HU -> float32 of that shape, with `rng` as strong as chance has it."""
    arguments = how.arguments if rng is None else with_strength(how.preset, how.recipe, how.arguments, rng)
    return with_arguments(how.recipe, arguments)


def to_size(hu: np.ndarray, size: int) -> np.ndarray:
    """Slices (slices, rows, columns) float32 brought to `size` x `size`."""
    if hu.shape[1:] == (size, size) or not len(hu):
        return hu.reshape(-1, size, size)
    shrink = cv2.INTER_AREA if size < hu.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(one, (size, size), interpolation=shrink) for one in hu])


def truth_of(how: Preparation, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Labels and weights (..., rows, columns) of slices as one truth: (..., size, size, 2) float32."""
    truth = np.stack([label, weight], -1).astype(np.float32)
    if truth.shape[-3:-1] == (how.size, how.size) or not truth.size:
        return truth.reshape(*truth.shape[:-3], how.size, how.size, 2)
    side = (how.size, how.size)
    sized = [
        cv2.resize(one, side, interpolation=cv2.INTER_NEAREST_EXACT) for one in truth.reshape(-1, *truth.shape[-3:])
    ]
    return np.stack(sized).reshape(*truth.shape[:-3], *side, 2)
