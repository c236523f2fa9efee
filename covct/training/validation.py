"""After each epoch: the scores on the held-out samples, source by source, and pictures of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import keras
import numpy as np

from covct.training.samples.plan import Plan
from covct.training.samples.sheet import scaled
from covct.voxels.overlay import BACKGROUND, TEXT, paint_agreement, put_text

MOST_EXAMPLES, OF_A_SOURCE = 6, 2
SIDE = 256  # of a tile, pixels


@dataclass(frozen=True)
class Part:
    """The validation samples of one source, beside one another in the plan: views of its arrays."""

    source: str
    x: np.ndarray
    truth: np.ndarray

    @property
    def has_something_to_find(self) -> bool:
        return bool(((self.truth[..., 0] > 0) & (self.truth[..., -1] > 0)).any())


def parts_of(plan: Plan) -> list[Part]:
    """The validation samples by source; none where all is trained on."""
    if plan.validation is None:
        return []
    x, truth = plan.validation
    sources = plan.validated or ("",) * len(x)
    starts = [k for k, source in enumerate(sources) if k == 0 or source != sources[k - 1]]
    ends = [*starts[1:], len(sources)]
    return [Part(sources[a], x[a:b], truth[a:b]) for a, b in zip(starts, ends, strict=True)]


def validate(network: keras.Model, parts: Sequence[Part], batch_size: int) -> dict[str, float]:
    """Loss and metrics over all parts, as ``val_...``, and where there are several the Dice of each that has any truth.

    One pass: the sums of the metrics add up, as the losses of samples do.
    """
    logs: dict[str, float] = {}
    sums: list[np.ndarray] = []
    for part in parts:
        values = network.evaluate(part.x, part.truth, batch_size=batch_size, verbose=0, return_dict=True)
        if "dice" in values and len(parts) > 1 and part.has_something_to_find:
            logs[f"val_dice_{part.source}"] = float(values["dice"])
        mine = [np.asarray(variable) for variable in network.metrics_variables]
        sums = [a + b for a, b in zip(sums, mine, strict=True)] if sums else mine
    for variable, total in zip(network.metrics_variables, sums, strict=True):
        variable.assign(total)
    whole = {f"val_{name}": float(np.asarray(value)) for name, value in network.get_metrics_result().items()}
    return whole | logs


@dataclass(frozen=True)
class Examples:
    """Some held-out samples, the same after each epoch: of every source those with most to find."""

    x: np.ndarray
    truth: np.ndarray
    sources: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence[Part], task: str) -> Examples | None:
        """None where there is nothing to draw: no samples, a restorer's, or some that are answered by a number each."""
        if not parts or parts[0].truth.ndim < 4 or task == "restorer":
            return None
        each = max(1, min(OF_A_SOURCE, MOST_EXAMPLES // len(parts)))
        chosen = [(part, k) for part in parts[:MOST_EXAMPLES] for k in _most_to_find(part)[:each]]
        x, truth = ([getattr(part, name)[k] for part, k in chosen] for name in ("x", "truth"))
        return cls(np.stack(x), np.stack(truth), tuple(part.source for part, _ in chosen))

    def draw(self, network: keras.Model) -> bytes:
        """A row of tiles as PNG: what is called rightly, falsely and not at all."""
        answers = [np.asarray(network.predict_on_batch(self.x[k : k + 1]))[0] for k in range(len(self.x))]
        each = zip(self.x, self.truth, answers, self.sources, strict=True)
        row = np.concatenate([tile(*one) for one in each], axis=1)
        _, png = cv2.imencode(".png", row[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        return png.tobytes()


def _most_to_find(part: Part) -> list[int]:
    to_find = (part.truth[..., 0] * (part.truth[..., -1] > 0)).reshape(len(part.truth), -1).sum(1)
    ranked: list[int] = np.argsort(-to_find, kind="stable").tolist()
    return ranked


def tile(x: np.ndarray, truth: np.ndarray, answer: np.ndarray, source: str) -> np.ndarray:
    """One sample with what the network says of it, (SIDE, SIDE, 3) uint8 RGB; of volumes the slice with most truth.

    x (..., rows, columns, channels), truth and answer as in `losses`.
    """
    if answer.ndim > truth.ndim:  # deep supervision
        answer = answer.mean(-1)
    if truth.ndim == 4:
        shown = int(np.argmax(truth[..., 0].sum((1, 2))))
        x, truth, answer = x[shown], truth[shown], answer[shown]
    image = np.repeat(scaled(x[..., x.shape[-1] // 2], SIDE)[:, :, None], 3, 2)
    known = _sized(truth[..., -1] > 0)
    paint_agreement(image, _sized(_label(truth)) & known, _sized(_called(truth, answer)) & known)
    image[:22] = image[:22] * 0.3
    put_text(image, source, 6, 16, 10, TEXT)
    image[:, -2:] = BACKGROUND
    return image


def _label(truth: np.ndarray) -> np.ndarray:
    return np.asarray((truth[..., :-1] > 0.5).any(-1))


def _called(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Any class but the background: of a softmax the likeliest, else what reaches one half."""
    exclusive = truth.shape[-1] == 2 and answer.shape[-1] > 1
    return np.asarray(answer.argmax(-1) > 0 if exclusive else (answer >= 0.5).any(-1))


def _sized(mask: np.ndarray) -> np.ndarray:
    sized: np.ndarray = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return sized
