"""What a detector learns from: masks with their lesions numbered. A lesion is a connected region of a slice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from covct.architectures.mask_rcnn import FOUND
from covct.errors import UsageError
from covct.training.samples.plan import Plan
from covct.training.samples.restoration import Sample
from covct.training.settings import Settings

NETWORK = "mask-rcnn"
OWN_LOSS = "regions+boxes+masks"  # of `covct.training.detector`
FEWEST_PIXELS = 8  # of a lesion, as `empty_slices` has it; what is smaller is not asked for, nor held against anybody


def check(settings: Settings) -> None:
    """Raise UsageError where a detector is asked for what it does not do."""
    if settings.task not in ("infection", "lungs"):
        raise UsageError(f"--architecture {NETWORK} finds regions: wanted infection or lungs, got {settings.task}")
    if settings.classes:
        raise UsageError(f"--classes: {NETWORK} knows one kind of lesion; wanted a network such as unet")
    if settings.loss:
        raise UsageError(f"--loss {settings.loss}: {NETWORK} has losses of its own, as published")


def numbered(truth: np.ndarray) -> np.ndarray:
    """Truth of one slice with its lesions numbered: (rows, columns, 2) label and weight -> the same, float32.

    The label is 0, the number of a lesion from 1, the largest first, or FOUND + 1 of those that are too small or too
    many. What is above 0 is diseased as before.
    """
    mask = (truth[..., 0] > 0.5) & (truth[..., 1] > 0)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    numbers = np.full(len(areas) + 1, FOUND + 1, np.float32)
    numbers[0] = 0
    for number, lesion in enumerate(np.argsort(-areas, kind="stable")[:FOUND], 1):
        if areas[lesion] >= FEWEST_PIXELS:
            numbers[lesion + 1] = number
    return np.stack([numbers[labels], truth[..., 1]], -1).astype(np.float32)


def of_lesions(plan: Plan) -> Plan:
    """The plan of a network of pixels, with lesions numbered in its truth."""

    def draw(*arguments: Any, **named: Any) -> Sample:
        x, truth = plan.draw(*arguments, **named)
        return x, numbered(truth)

    validation = plan.validation and (plan.validation[0], np.stack([numbered(one) for one in plan.validation[1]]))
    return replace(plan, draw=draw, validation=validation, loss=OWN_LOSS)
