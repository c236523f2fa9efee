"""A loss that is not a number ends the training at once, and says by which samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from covct.errors import NotANumber
from covct.training.batches import Batch, draw_batch
from covct.training.progress import Progress
from covct.training.samples.plan import Origins, Plan
from covct.training.samples.restoration import Sample
from covct.training.settings import Settings


def refuse_what_is_not_a_number(
    loss: float,
    network: Any,
    settings: Settings,
    plan: Plan,
    progress: Progress,
    batch: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> None:
    """Raise NotANumber where the loss of a batch, or the weights right after it, are not finite.

    The last of the network's variables lies before its output: no gradient that is not a number gets past it, and so
    it tells of a loss that was finite and a gradient that was not, before the next batch is blamed for it.
    """
    last = np.asarray(network.trainable_variables[-1])
    if math.isfinite(loss) and np.isfinite(last).all():
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4g}, its gradient is not finite"
    raise NotANumber(
        f"{settings.task}: epoch {progress.epoch + 1}, step {progress.step + 1}: {what}, with the samples "
        f"{'; '.join(_samples(settings, plan, progress, batch, seed))}. The checkpoints before it are kept. "
        "Try a lower --learning-rate or --clip-norm in another folder, or look at these slices."
    )


def _samples(settings: Settings, plan: Plan, progress: Progress, batch: Batch, seed: int) -> list[str]:
    """The samples of the batch in words: drawn once more, one by one, to learn where they come from."""
    origins: list[Any] = []
    counts = [0]

    def draw(rng: np.random.Generator, noted: Origins) -> Sample:
        sample = plan.draw(rng, noted)
        counts.append(len(noted))
        return sample

    draw_batch(draw, settings.batch_size, seed, progress.epoch, progress.step, origins)
    return [
        " with ".join(map(str, origins[first:end])) + _fault(x, truth)
        for first, end, x, truth in zip(counts, counts[1:], *batch, strict=False)
    ]


def _fault(x: np.ndarray, truth: np.ndarray) -> str:
    bad = [name for name, array in (("image", x), ("truth", truth)) if not np.isfinite(array).all()]
    return f" (its {' and '.join(bad)} contain NaN or infinite values)" if bad else ""
