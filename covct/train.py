"""Training: one U-Net a task, whole patients held out, the best epoch kept, a card beside the weights.

Pure Keras 3 (no `tf.*`): runs the same on tensorflow and on jax.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covct import augment
from covct.architectures import ARCHITECTURES
from covct.cards import Card, file_sha256, read_card, write_card
from covct.dataset import (
    SIZE,
    UNKNOWN,
    Slices,
    find_sources,
    held_out_patients,
    read_lung_slices,
    read_lung_volumes,
    read_ma_slices,
    read_medseg_slices,
    recipe_pixels,
)
from covct.errors import UsageError
from covct.losses import LOSSES, WeightedDice
from covct.networks import Network, predict
from covct.preprocess import CT_RANGE_HU, RECIPES
from covct.segment import keras_predictor, load_network

WINDOW = {"low": -1000, "high": 200}
LICENCE = "research, non-commercial"
SOURCES = {
    "ma": "COVID-19 CT Lung and Infection Segmentation (Ma et al. 2020, doi 10.5281/zenodo.3757476), "
    "8-bit CLAHE slices; partly CC BY-NC-SA",
    "lungs": "LCTSC (The Cancer Imaging Archive), CC BY 3.0",
    "medseg": "medicalsegmentation.com COVID-19 CT segmentation slices, non-commercial use only",
}
CROPPED = {"scale": (0.6, 1.0), "border_hu": 40.0}  # medseg's slices end at the ribs: shrink, and put tissue around
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
Sample = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What `covct train` was asked for; stored in the card."""

    task: str
    epochs: int
    samples_per_epoch: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    base_filters: int = 16
    architecture: str = "unet"
    validation_share: float = 0.3
    seed: int = 0
    mixed_precision: bool = False


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
    network = ARCHITECTURES[settings.architecture](size=SIZE, base_filters=settings.base_filters)
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


@dataclass(frozen=True)
class Plan:
    """One task's data: how to draw a sample, what to validate on, and what the card says of it."""

    draw: Callable[[np.random.Generator], Sample]
    validation: tuple[np.ndarray, np.ndarray]
    loss: str
    recipe: str
    field_of_view: str
    held_out: dict[str, list[str]]
    sources: dict[str, str]
    slices: dict[str, int]


def plan_restorer(sources: dict[str, Path], settings: Settings, restore=None) -> Plan:
    """The way back from 8-bit CLAHE to HU: pairs are free from any HU scan through the recipe."""
    if "lungs" not in sources:
        raise UsageError("the restorer learns from HU volumes with lung masks (NAME_ct.nii.gz, NAME_lungs.nii.gz)")
    volumes = read_lung_volumes(sources["lungs"])
    held = held_out_patients(list(volumes), settings.validation_share, settings.seed)
    kept = [(hu, lungs) for name, (hu, lungs, _) in volumes.items() if name not in held]
    hu, lungs = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    check = [(hu, lungs) for name, (hu, lungs, _) in volumes.items() if name in held]
    check_hu, check_lungs = (np.concatenate(arrays)[::4] for arrays in zip(*check, strict=True))
    rng = np.random.default_rng(settings.seed)
    validation = [restoration_pair(h, m, rng) for h, m in zip(check_hu, check_lungs, strict=True)]

    def draw(rng: np.random.Generator) -> Sample:
        index = rng.integers(len(hu))
        return restoration_pair(hu[index], lungs[index], rng)

    x, y = (np.stack(arrays) for arrays in zip(*validation, strict=True))
    return Plan(
        draw, (x, y), "l1", "clahe", "whole", {"lctsc": sorted(held)}, _cite(sources, "lungs"), {"lctsc": len(hu)}
    )


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
    seen = np.clip(augment.noise(hu, rng, strongest=110), *CT_RANGE_HU)
    if rng.random() < 0.4:
        seen = np.clip(seen, rng.uniform(-1350, -900), rng.uniform(100, 600))
    if rng.random() < 0.35:
        rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        outside = np.hypot(rows, columns) > SIZE / 2 * rng.uniform(0.97, 1.05)
        seen = np.where(outside, seen.min(), seen)
        target = np.where(outside, 0, target)
    pixels = recipe_pixels(seen[None])[0]
    return (pixels[..., None] / np.float32(255)), np.stack([target, weight], -1).astype(np.float32)


def load_restorer(card_path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The trained way back: (slices, 256, 256) uint8 CLAHE -> int16 HU within the window."""
    _, network = load_network(card_path)

    def restore(pixels: np.ndarray) -> np.ndarray:
        out = np.empty(pixels.shape, np.int16)
        for start in range(0, len(pixels), 16):
            chunk = pixels[start : start + 16, ..., None].astype(np.float32) / 255
            scaled = np.asarray(network.predict_on_batch(chunk))[..., 0]
            out[start : start + 16] = np.rint(WINDOW["low"] + scaled * (WINDOW["high"] - WINDOW["low"]))
        return out

    return restore


def plan_lungs(sources: dict[str, Path], settings: Settings, restore) -> Plan:
    """Lungs with consolidation inside: radiologists' masks, and dense lesions put into real HU lungs."""
    train_sets, check_sets, held = _split(_read(sources, restore, ("ma", "lungs")), settings)

    def draw(rng: np.random.Generator) -> Sample:
        part = train_sets[rng.integers(len(train_sets))]
        index = rng.integers(len(part))
        hu, lungs, infection = part.hu[index], part.lungs[index], part.infection[index]
        hu, lungs, infection = augment.affine((hu, lungs, infection), ("hu", "mask", "mask"), rng, scale=(0.75, 1.25))
        if rng.random() < 0.4:
            hu = augment.lung_density(hu, lungs, rng)
        if rng.random() < 0.5:
            hu, _ = augment.insert_opacity(hu, lungs, rng)
        hu = augment.contrast(augment.noise(hu, rng), rng)
        return _windowed(hu, lungs == 1, np.ones(lungs.shape))

    checks = [_stack(part, part.lungs == 1, np.ones(part.lungs.shape)) for part in check_sets]
    return _plan(draw, checks, held, sources, train_sets)


def plan_infection(sources: dict[str, Path], settings: Settings, restore) -> Plan:
    """Infection where the source of a slice tells nothing: each source comes with disease and without.

    Ma slices keep, change or lose their lesions; LCTSC slices stay as they are or receive transplanted or
    invented ones, and half of them went through the recipe and the restoration like the Ma slices.
    """
    parts = _read(sources, restore, ("ma", "lungs", "medseg"))
    if restore and "lungs" in sources:
        parts.append(read_lung_slices(sources["lungs"], restore))
    train_sets, check_sets, held = _split(parts, settings)
    by_source = {part.source: part for part in train_sets}
    diseased = [by_source[name] for name in ("ma", "medseg") if name in by_source]
    clean = [by_source[name] for name in ("lctsc", "lctsc-restored") if name in by_source]
    if not diseased:
        raise UsageError("infection needs slices with infection masks (volumes.csv with ct/, lungs/, infection/)")
    donors = by_source.get("ma")
    clean = [part.with_lung() for part in clean]  # the network runs on slices with lung only

    def draw(rng: np.random.Generator) -> Sample:
        cropped = False
        if not clean or rng.random() < 0.68:
            part = diseased[0] if len(diseased) == 1 or rng.random() < 0.8 else diseased[1]
            hu, lungs, infection = _pick(part, rng)
            cropped = part.source == "medseg"
            if part.source == "ma" and rng.random() < 0.4:
                hu, infection = augment.rescale_lesion(hu.astype(np.float32), lungs, infection, rng)
        else:
            hu, lungs, infection = _pick(clean[rng.integers(len(clean))], rng)
            hu, infection = _maybe_diseased(hu.astype(np.float32), lungs, infection, donors, rng)
        hu, lungs, infection = augment.affine(
            (hu, lungs, infection), ("hu", "mask", "mask"), rng, **(CROPPED if cropped else {"scale": (0.85, 1.3)})
        )
        if rng.random() < 0.25:
            hu = augment.lung_density(hu, lungs == 1, rng)
        hu = augment.contrast(augment.noise(hu, rng), rng)
        return _windowed(hu, infection == 1, infection != UNKNOWN)

    checks = [
        _stack(part, part.infection == 1, part.infection != UNKNOWN)
        for part in check_sets
        if part.source != "lctsc-restored"
    ]
    return _plan(draw, checks, held, sources, train_sets, "tversky+ce")


def _maybe_diseased(hu, lungs, infection, donors, rng):
    kind = rng.random()
    if kind < 0.45:
        return hu, infection
    if kind < 0.75 and donors is not None:
        donor = rng.integers(len(donors))
        hu, mask = augment.transplant_lesion(
            hu, lungs, donors.hu[donor], donors.lungs[donor], donors.infection[donor], rng
        )
    else:
        before = hu
        hu, mask = augment.insert_opacity(hu, lungs, rng)
        mask = mask * (hu - before > 40)
    return hu, np.where(mask > 0.5, 1, infection).astype(np.uint8)


def _read(sources: dict[str, Path], restore, wanted: tuple[str, ...]) -> list[Slices]:
    parts = []
    if "ma" in wanted and "ma" in sources:
        if restore is None:
            raise UsageError("the 8-bit CLAHE slices need a restorer: --restorer CARD (covct train restorer)")
        parts.append(read_ma_slices(sources["ma"], restore))
    if "lungs" in wanted and "lungs" in sources:
        parts.append(read_lung_slices(sources["lungs"]))
    if "medseg" in wanted and "medseg" in sources:
        parts.append(read_medseg_slices(sources["medseg"]))
    if not parts:
        raise UsageError(f"none of the sources {wanted} was found")
    return parts


def _split(parts: list[Slices], settings: Settings):
    train_sets, check_sets, held = [], [], {}
    for part in parts:
        patients = held_out_patients(list(part.patients), settings.validation_share, settings.seed)
        held[part.source] = sorted(patients)
        train_sets.append(part.of(patients, keep=False))
        check_sets.append(part.of(patients))
    return train_sets, check_sets, held


def _pick(part: Slices, rng):
    """A slice: half the time of any patient alike, else any slice alike; patients have 2 to 180 slices."""
    index = rng.integers(len(part))
    if rng.random() < 0.5:
        patient = part.patients[rng.choice(part.first_of_patients)]
        index = rng.choice(np.flatnonzero(np.array(part.patients) == patient))
    return part.hu[index], part.lungs[index], part.infection[index]


def _windowed(hu, label, weight) -> Sample:
    scaled = RECIPES["hu-window"](hu, **WINDOW)
    return scaled[..., None], np.stack([label, weight], -1).astype(np.float32)


def _stack(part: Slices, label, weight) -> Sample:
    """Every second slice: neighbours tell little more, and cost as much."""
    return _windowed(part.hu[::2], label[::2], weight[::2])


def _plan(draw, checks, held, sources, train_sets, loss="dice+ce") -> Plan:
    x, y = (np.concatenate(arrays) for arrays in zip(*checks, strict=True))
    counts = {part.source: len(part) for part in train_sets}
    return Plan(draw, (x, y), loss, "hu-window", "body", held, _cite(sources, "ma", "lungs", "medseg"), counts)


def _cite(sources: dict[str, Path], *names: str) -> dict[str, str]:
    return {name: SOURCES[name] for name in names if name in sources}


def _save(network, settings: Settings, plan: Plan, history: dict[str, list[float]], out: Path, started_from) -> Card:
    # A float32 twin: the policy of the training run does not travel with the weights.
    keras.mixed_precision.set_global_policy("float32")
    arguments: dict[str, Any] = {"size": SIZE, "base_filters": settings.base_filters}
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
        recipe={"name": plan.recipe, "arguments": WINDOW if plan.recipe == "hu-window" else {}},
        field_of_view=plan.field_of_view,
        size=SIZE,
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


def choose_threshold(network: Network, validation: Sample) -> tuple[float, dict[str, float]]:
    """The highest probability whose pooled Dice on the validation slices is within 0.01 of the best; its scores.

    Chosen on held-out patients and never on others; their score is then a little optimistic, and the card says so.
    """
    slices, truth = validation
    label, known = truth[..., 0] > 0.5, truth[..., 1] > 0
    probability = predict(network, slices)[known]
    label = label[known]
    positives = max(1, int(np.count_nonzero(label)))
    scored = []
    for twentieth in range(1, 20):
        called = probability >= twentieth / 20
        hit, calls = int(np.count_nonzero(called & label)), max(1, int(np.count_nonzero(called)))
        scored.append((2 * hit / (calls + positives), twentieth / 20, hit / positives, hit / calls))
    best = max(scored)[0]
    # Dice is flat around its best; the highest of these thresholds calls least in people without the disease
    dice, threshold, recall, precision = [row for row in scored if row[0] >= best - FLAT_DICE][-1]
    scores = {"validation_dice": dice, "validation_recall": recall, "validation_precision": precision}
    return threshold, {name: round(value, 4) for name, value in scores.items()}


FLAT_DICE = 0.01
PLANS = {"restorer": plan_restorer, "lungs": plan_lungs, "infection": plan_infection}
