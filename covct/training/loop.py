"""Training: one U-Net a task, whole patients held out, the best epoch kept, a card beside the weights.

Pure Keras 3 (no `tf.*`): runs the same on tensorflow and on jax.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.cards import Card, file_sha256, read_card, write_card
from covct.errors import UsageError
from covct.networks import Network
from covct.segment import keras_predictor, load_network
from covct.training.dataset import find_sources
from covct.training.losses import LOSSES, WeightedDice
from covct.training.plans import PLANS, Plan
from covct.training.restoration import Sample, load_restorer
from covct.training.settings import Settings
from covct.training.threshold import choose_threshold

LICENCE = "research, non-commercial"
OPTIMISTIC = (
    "The validation score is optimistic: the best epoch was chosen on the same held-out patients, and restored slices "
    "are cropped around their true lungs."
)
LIMITS = {
    "restorer": "Learned from six lung cancer patients' scans of one archive with invented opacities; faint ground "
    "glass comes back fainter than it was. " + OPTIMISTIC,
    "lungs": "Few patients, adults only; no large effusions, no pneumonectomy, no pneumothorax in the training data. "
    "Gas in the stomach is called now and then. " + OPTIMISTIC,
    "infection": "Trained on restored and JPEG slices of few patients, and on lesions put into lungs without "
    "COVID-19: any other opacity (atelectasis, tumour, oedema, other pneumonia) may be called. " + OPTIMISTIC,
}


class Batches(keras.utils.PyDataset):
    """Endless variety, exactly repeatable: sample i of epoch e is a function of (seed, e, i)."""

    def __init__(self, draw: Callable[[np.random.Generator], Sample], samples: int, batch_size: int, seed: int):
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=8)
        self.draw, self.count, self.batch_size, self.seed, self.epoch = draw, samples // batch_size, batch_size, seed, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        inputs, truths = zip(*(self.draw(rng) for _ in range(self.batch_size)), strict=True)
        return np.stack(inputs), np.stack(truths)

    def on_epoch_end(self) -> None:
        self.epoch += 1


def train(settings: Settings, data: Path, out: Path, initial: Path | None = None, restorer: Path | None = None) -> Card:
    """Train one network and write `<task>.keras` with its card into `out`.

    Parameters
    ----------
    data : Path
        Folder with the sources `find_sources` recognises.
    initial : Path, optional
        A card to start the weights from.
    restorer : Path, optional
        The restorer's card; needed where 8-bit CLAHE slices are among the data.
    """
    keras.utils.set_random_seed(settings.seed)
    if settings.mixed_precision:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    out.mkdir(parents=True, exist_ok=True)
    restore = load_restorer(restorer) if restorer else None
    plan = PLANS[settings.task](find_sources(data), settings, restore)
    network = ARCHITECTURES[settings.architecture](size=plan.size, base_filters=settings.base_filters)
    started_from = {}
    if initial:
        card, trained = load_network(initial)
        _refuse_a_leak(plan, card)
        network.set_weights(trained.get_weights())
        started_from = {"initial": {"task": card.task, "sha256": card.sha256, "epochs": card.training.get("epochs")}}
    if restorer:
        _refuse_a_leak(plan, read_card(restorer))
    batches = Batches(plan.draw, settings.samples_per_epoch, settings.batch_size, settings.seed)
    steps = len(batches) * settings.epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 10, steps, warmup_target=settings.learning_rate, warmup_steps=min(100, steps // 10)
    )
    metrics = [] if settings.task == "restorer" else [WeightedDice()]
    network.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4, clipnorm=1.0), LOSSES[plan.loss], metrics=metrics
    )
    monitor, mode = ("val_loss", "min") if settings.task == "restorer" else ("val_dice", "max")
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.weights.h5"
        history = network.fit(
            batches,
            epochs=settings.epochs,
            validation_data=plan.validation,
            validation_batch_size=settings.batch_size,
            callbacks=[
                keras.callbacks.ModelCheckpoint(
                    best, monitor=monitor, mode=mode, save_best_only=True, save_weights_only=True
                ),
                keras.callbacks.CSVLogger(out / f"{settings.task}.csv"),
                keras.callbacks.TerminateOnNaN(),
            ],
            verbose=2,
        ).history
        network.load_weights(best)
    return _save(network, settings, plan, history, out, started_from)


def _refuse_a_leak(plan: Plan, earlier: Card) -> None:
    """A patient held out now must not have been learned from before, by the network started from or the restorer."""
    for source, patients in plan.held_out.items():
        seen = set(patients) - set(earlier.training.get("held_out_patients", {}).get(source, patients))
        if seen:
            raise UsageError(
                f"{earlier.name} has learned from {', '.join(sorted(seen))}, which would be held out here; "
                "use its --seed and --validation-share"
            )


def _save(network, settings: Settings, plan: Plan, history: dict[str, list[float]], out: Path, started_from) -> Card:
    # A float32 twin: the policy of the training run does not travel with the weights.
    keras.mixed_precision.set_global_policy("float32")
    arguments: dict[str, Any] = {"size": plan.size, "base_filters": settings.base_filters}
    plain = ARCHITECTURES[settings.architecture](**arguments)
    plain.set_weights(network.get_weights())
    weights = out / f"{settings.task}.keras"
    plain.save(weights)
    key = "val_loss" if settings.task == "restorer" else "val_dice"
    best = (np.argmin if settings.task == "restorer" else np.argmax)(history[key])
    card = Card(
        name=settings.task,
        task=settings.task,
        architecture={"name": settings.architecture, "arguments": arguments},
        recipe={"name": plan.recipe, "arguments": plan.arguments},
        field_of_view=plan.field_of_view,
        size=plan.size,
        threshold=0.5,
        flip=settings.task == "infection",  # faint borders: steadier by 0.03 Dice; the lungs gain nothing
        weights=weights.name,
        sha256=file_sha256(weights),
        licence=LICENCE,
        training={
            "sources": plan.sources,
            "slices": plan.slices,
            "held_out_patients": plan.held_out,
            "epochs": len(history["loss"]),
            "best_epoch": int(best) + 1,
            "samples_per_epoch": settings.samples_per_epoch,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "loss": plan.loss,
            "seed": settings.seed,
            "augment": settings.augment,
            "backend": keras.backend.backend(),
            **started_from,
        },
        limits=LIMITS[settings.task],
        scores={"best_epoch_" + key: round(float(history[key][best]), 4)},
    )
    if settings.task != "restorer":
        threshold, scores = choose_threshold(Network(card, keras_predictor(plain)), plan.validation)
        card = replace(card, threshold=threshold, scores={**card.scores, **scores})
    write_card(card, out)
    (out / f"{settings.task}-history.json").write_text(json.dumps(history, indent=1, default=float) + "\n")
    return card
