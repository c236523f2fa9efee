"""What a network sees at once and what it gives: neighbours (2.5D), patches (3D), classes. As its card will say it."""

from __future__ import annotations

import math
from typing import Any

from covct.errors import UsageError
from covct.networks.cards import MOST_CHANNELS, MOST_VOXELS, NEIGHBOURS_MM, SPACINGS_MM
from covct.training.settings import Settings

VOLUMETRIC = "unet3d"
PATCH = (80, 160, 160)  # as MIScnn's, at 2.70 x 1.58 x 1.58 mm (Mueller 2020)
HALVED = 16  # by the four levels of the U-Net
# The networks' outputs with --classes, in their order.
CLASSES = {
    "infection": ("background", "ground-glass", "consolidation", "effusion"),
    "lungs": ("background", "right-lung", "left-lung"),
}


def parse_three(option: str, text: str | None) -> tuple[float, ...]:
    """Three numbers above 0 as on a command line, "80,160,160"; nothing where there is no text."""
    if text is None:
        return ()
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise UsageError(f"{option}: got {text!r}, wanted three numbers: of slices, rows and columns, with commas")
    return numbers


def parse_patch(text: str | None) -> tuple[int, ...]:
    """As `parse_three`, whole numbers of voxels."""
    numbers = parse_three("--patch", text)
    if not all(number.is_integer() for number in numbers):
        raise UsageError(f"--patch: got {text!r}, wanted whole numbers of voxels")
    return tuple(int(number) for number in numbers)


def check_inputs(settings: Settings) -> None:
    """Raise UsageError where neighbours, patches or classes are asked of what has none, or do not fit each other."""
    volumetric = settings.architecture == VOLUMETRIC
    if settings.task == "restorer" and (settings.channels > 1 or volumetric):
        raise UsageError("the restorer is trained on single slices: --neighbours and unet3d do not apply")
    _check_distances(settings)
    if not 0 <= settings.neighbours <= MOST_CHANNELS // 2:
        raise UsageError(f"--neighbours {settings.neighbours}: wanted 0 to {MOST_CHANNELS // 2} on either side")
    if settings.channels > 1 and volumetric:
        asked = f"--neighbours {settings.neighbours}" if settings.neighbours else "--neighbours-mm"
        raise UsageError(
            f"{asked}: {VOLUMETRIC} sees patches of volumes; wanted --patch, or a network of slices such as unet"
        )
    if (settings.channels > 1 or volumetric) and not settings.folds and settings.split.startswith("slice"):
        raise UsageError(
            f"--split {settings.split}: held-out slices would be neighbours of training slices; "
            "wanted a split by patient, such as 70/30"
        )
    if (settings.patch or settings.spacing_mm) and not volumetric:
        raise UsageError(f"--patch and --spacing are for --architecture {VOLUMETRIC}, got {settings.architecture}")
    if settings.classes and (settings.task not in CLASSES or volumetric):
        got = VOLUMETRIC if volumetric else settings.task
        raise UsageError(f"--classes: got {got}, wanted infection or lungs, and a network of slices such as unet")
    if volumetric:
        _check_patch(settings)


def _check_patch(settings: Settings) -> None:
    depth, rows, columns = patch = patch_of(settings)
    got = f"--patch {','.join(map(str, patch))}"
    if any(length % HALVED for length in patch) or rows != columns:
        raise UsageError(f"{got}: wanted multiples of {HALVED}, and as many rows as columns")
    if depth * rows * columns > MOST_VOXELS:
        raise UsageError(f"{got}: {depth * rows * columns} voxels, wanted {MOST_VOXELS} at most")
    low, high = SPACINGS_MM
    if not all(low <= distance <= high for distance in settings.spacing_mm):
        raise UsageError(f"--spacing {','.join(map(str, settings.spacing_mm))}: wanted {low} to {high} mm each")
    if not settings.spacing_mm and rows > settings.size:
        raise UsageError(f"{got}: slices have {settings.size} rows, wanted no more (or --size, or --spacing)")


def parse_distances(text: str | None) -> tuple[float, ...]:
    """Distances as on a command line, "3,6", in mm; nothing where there is no text."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--neighbours-mm: got {text!r}, wanted distances in mm with commas, such as 3,6") from None


def _check_distances(settings: Settings) -> None:
    distances, (low, high) = settings.neighbours_mm, NEIGHBOURS_MM
    if distances and settings.neighbours:
        raise UsageError("--neighbours and --neighbours-mm: wanted one of them, the adjacent slices or distances")
    ascending = list(distances) == sorted(set(distances))
    if not ascending or not all(low <= one <= high for one in distances) or len(distances) > MOST_CHANNELS // 2:
        got = ",".join(f"{one:g}" for one in distances)
        raise UsageError(
            f"--neighbours-mm {got}: wanted up to {MOST_CHANNELS // 2} distances, ascending, {low:g} to {high:g} mm"
        )


def patch_of(settings: Settings) -> tuple[int, ...]:
    """Slices, rows and columns of what a network of volumes sees at once; nothing of any other."""
    return (settings.patch or PATCH) if settings.architecture == VOLUMETRIC else ()


def classes_of(settings: Settings) -> tuple[str, ...]:
    return CLASSES[settings.task] if settings.classes else ()


def input_of(settings: Settings, size: int) -> tuple[int, ...]:
    """The shape of one sample."""
    patch = patch_of(settings)
    return (*patch, 1) if patch else (size, size, settings.channels)


def arguments_for(settings: Settings, size: int) -> dict[str, Any]:
    """The architecture's arguments that follow from it; what is as its default is not among them."""
    arguments: dict[str, Any] = {"size": size}
    if patch := patch_of(settings):
        arguments |= {"size": patch[1], "slices": patch[0]}
    if settings.channels > 1:
        arguments["channels"] = settings.channels
    if classes := classes_of(settings):
        arguments |= {"outputs": len(classes), "activation": "softmax"}
    return arguments


def card_fields(settings: Settings) -> dict[str, Any]:
    """The same in the card, for inference."""
    return {
        "channels": settings.channels,
        "neighbours_mm": list(settings.neighbours_mm),
        "patch": list(patch_of(settings)),
        "classes": list(classes_of(settings)),
        "spacing_mm": list(settings.spacing_mm) or None,
    }


def limits_of(settings: Settings) -> list[str]:
    """What is known to be wrong with a network for what it sees, in words."""
    texts = []
    if settings.neighbours:
        texts.append(
            "Neighbours are the next slices, whatever their distance; of published slices, the next available ones."
        )
    if settings.neighbours_mm:
        texts.append(
            "Where published slices do not say how far apart they lie, it was estimated from the texture of the lungs, "
            "to within about a fifth."
        )
    if patch_of(settings) and not settings.spacing_mm:
        texts.append(
            "It was trained on slices whose distance is not known, on their own grid: "
            "a series of thicker or thinner slices looks compressed or stretched to it."
        )
    if settings.task == "lungs" and settings.field_of_view == "lung-contours":
        texts.append("It sees the square around what holds air: dense lung more than 25 mm beyond that is cut off.")
    if settings.classes:
        texts.append("Its classes were learned only from slices on which they were marked separately.")
    return texts
