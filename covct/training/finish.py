"""The end of a training: the best weights as a file, the card beside them, each whole or not there."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct.data.leakage import learned_patients
from covct.disk.durable import bring_to_disk, output_errors, rename
from covct.disk.signals import unbroken
from covct.networks.cards import Call, Card, file_sha256, write_card
from covct.networks.segment import make_network
from covct.training.build import arguments_of, build
from covct.training.folds import is_by_slice
from covct.training.progress import Progress
from covct.training.samples.inputs import card_fields, limits_of
from covct.training.samples.plan import Plan
from covct.training.settings import Settings
from covct.training.threshold import choose_threshold

LICENCE = "research, non-commercial"
OPTIMISTIC = (
    "The validation score is optimistic: the best epoch was chosen on the same held-out patients, and restored slices "
    "are cropped around their true lungs."
)
UNSCORED = "Trained on all patients: it has no scores of its own, only the preceding cross-validation has."
LEFT_OUT = "Trained for a fixed number of epochs without validation; evaluated afterwards on the patients left out."
LIMITS = {
    "restorer": "Learned from scans with invented opacities, and from slices published in both forms where there were "
    "any, all of few patients.",
    "lungs": "Few patients, adults only; no large effusions, no pneumonectomy, no pneumothorax in the training data. "
    "Gas in the stomach is sometimes marked as lung.",
    "infection": "Trained on slices of few patients, many of them published as pictures, and on lesions put into lungs "
    "without COVID-19: any other opacity (atelectasis, tumour, oedema, other pneumonia) may be marked.",
    "empty-slices": "Learned from the same slices as infection: what that network never saw, nor did this one.",
}


def leak_of(plan: Plan) -> str:
    """What a split by slice gives away, in words."""
    count = len({patient for names in plan.patients.values() for patient in names})
    return (
        f"Split by slice: {plan.on_both_sides} of {count} patients lie on both sides. Slices of one patient are nearly "
        "alike, so the scores are far too good; compare them only with scores of such a split."
    )


def finish(
    weights: list[np.ndarray],
    settings: Settings,
    plan: Plan,
    progress: Progress,
    out: Path,
    facts: dict[str, Any],
) -> Card:
    """Write TASK.keras and TASK.json into `out`.

    Parameters
    ----------
    weights : list of float32 array
        The best epoch's, in the order of the network's weights.
    facts : dict
        As in the checkpoints; what the training started from goes into the card.
    """
    network = build(replace(settings, mixed_precision=False), plan.size)  # its arithmetic does not travel with weights
    network.set_weights(weights)
    with output_errors(out), tempfile.TemporaryDirectory(dir=out, prefix=".finish-") as folder:
        staged = Path(folder)
        name = f"{settings.task}.keras"
        network.save(staged / name)
        card = _card(settings, plan, progress, name, file_sha256(staged / name), facts)
        if plan.validation is not None and settings.task != "restorer":
            threshold, scores = choose_threshold(make_network(card, network), plan.validation, plan.validated)
            chosen = threshold if settings.threshold is None else settings.threshold
            card = card.replaced(threshold=chosen, scores={**card.scores, **scores})
        described = write_card(card, staged)
        bring_to_disk(staged)
        with unbroken():
            rename(staged / name, out / name)
            rename(described, out / described.name)
    return card


def _card(settings: Settings, plan: Plan, progress: Progress, name: str, sha256: str, facts: dict[str, Any]) -> Card:
    key = "val_loss" if settings.task == "restorer" else "val_dice"
    scores = {f"best_epoch_{key}": round(progress.best_score, 4)} if progress.best_score is not None else {}
    fields = dict(
        name=settings.task,
        task=settings.task,
        architecture=Call(name=settings.architecture, arguments=arguments_of(settings, plan.size)),
        recipe=Call(name=plan.recipe, arguments=plan.arguments),
        field_of_view=plan.field_of_view,
        size=plan.size,
        threshold=0.5 if settings.threshold is None else settings.threshold,
        flip=settings.task == "infection",  # faint borders: steadier by 0.03 Dice; the lungs gain nothing
        weights=name,
        sha256=sha256,
        licence=LICENCE,
        training=_training(settings, plan, progress, facts),
        limits=limits(settings, plan),
        scores=scores,
        **card_fields(settings),
    )
    return Card.model_validate(fields)


def _training(settings: Settings, plan: Plan, progress: Progress, facts: dict[str, Any]) -> dict[str, Any]:
    """What a card says of how its network came to be."""
    return {
        "sources": plan.sources,
        "slices": plan.slices,
        "held_out_patients": plan.held_out,
        "learned_patients": learned_patients(plan.patients, plan.held_out),
        "split": f"fold {settings.fold} of {settings.folds}, by patient" if settings.folds else settings.split,
        "epochs": len(progress.history["loss"]),
        "best_epoch": (progress.best_epoch or 0) + 1,
        "samples_per_epoch": settings.samples_per_epoch,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "loss": settings.loss or plan.loss,
        "optimizer": settings.optimizer,
        "schedule": settings.schedule,
        "clip_norm": settings.clip_norm,
        "ema": settings.ema,
        "mixed_precision": settings.mixed_precision,
        "patience": settings.patience,
        "augment": settings.augment,
        "seed": settings.seed,
        "backend": keras.backend.backend(),
        **{key: facts[key] for key in ("initial", "ancestors", "backbone", "restorer") if key in facts},
    }


def limits(settings: Settings, plan: Plan) -> str:
    """What is known to be wrong with the network, a leaking split first."""
    texts = [leak_of(plan)] if is_by_slice(settings) else []
    texts += [LIMITS[settings.task]] if settings.task in LIMITS else []
    texts += [*limits_of(settings), *plan.limits]
    judged = OPTIMISTIC if plan.validation is not None else LEFT_OUT if settings.leave_out else UNSCORED
    return " ".join([*texts, judged])
