"""COVID-19 or other, from pictures and scans: logistic heads on the frozen encoder of an infection network.

Whoever fits such a head learns what tells the sources of the classes apart. So each is judged by source groups that it
has not seen, and beside it the same is done with what cannot show the disease: the borders of the pictures alone, with
their letters, and the tones of the picture without any place. What these reach, the whole picture owes to no disease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covct.data.classified import Classified, read_classified, read_picture
from covct.disk.durable import output_errors, replace_file
from covct.errors import UsageError
from covct.intake.volume_file import read_volume
from covct.networks.cards import Card, default_weights_folder
from covct.networks.diagnosis import FILE, DiagnosisCard, Head
from covct.networks.network import Network, field_of_view, probabilities
from covct.networks.segment import keras_describer, load_network
from covct.voxels.volume import Scan, spacing_mm

FRAME = 0.12  # of each side: what of a picture is its border
SLICES, TOLD_EVERY = 16, 50
SHOWN = ("whole", "borders", "tones")
FOLDS, RESAMPLES, LEVEL = 5, 40, 0.9
PENALTY = 30.0  # of a standardised coefficient's square, in samples: there are as many features as pictures
ROUNDS = 50
LIMITS = (
    "The classes come from different sources: what is learned is in part what tells the sources apart, by as much as "
    "the borders and the tones alone reach. A whole scan in HU is no picture of a paper."
)
Describe = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Report = Callable[[dict[str, Any]], None]
Seen = tuple[np.ndarray, np.ndarray, np.ndarray]  # of one picture, by SHOWN


def train_diagnosis(
    data: Path, out: Path, initial: Path | None = None, seed: int = 0, report: Report = lambda event: None
) -> DiagnosisCard:
    """Fit and judge the heads, and write `out`/diagnosis.json.

    Parameters
    ----------
    initial : Path, optional
        Card of the infection network whose encoder is taken; the shipped one by default.

    Raises
    ------
    UsageError, WeightsError, OutputNotWritable
    """
    found = read_classified(data)
    card, network = load_network(initial or default_weights_folder() / "infection.json")
    if card.task != "infection" or card.patch:
        raise UsageError(f"{card.name}: wanted the card of an infection network of slices, whose encoder is taken")
    label, groups = np.array([one.is_covid for one in found]), np.array([one.group for one in found])
    features = features_of(found, card, keras_describer(network), report)
    fitted = fit(features["whole"], label, groups, seed)
    scores = _scores(features, label, groups, seed)
    told = DiagnosisCard(
        encoder_sha256=card.sha256, **fitted, level=LEVEL, scores=scores, limits=LIMITS,
        training=_counted(found), licence="that of the pictures",
    )  # fmt: skip
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / FILE, told.as_json(None).encode())
    return told


def _counted(found: list[Classified]) -> dict[str, int | str]:
    counts: dict[str, int | str] = {"split": f"{FOLDS} folds by source group"}
    for name, is_covid in (("covid", True), ("other", False)):
        counts[name] = sum(one.is_covid == is_covid for one in found)
        counts[f"{name}_groups"] = len({one.group for one in found if one.is_covid == is_covid})
    return counts


# Features


def features_of(found: list[Classified], card: Card, describe: Describe, report: Report) -> dict[str, np.ndarray]:
    """(pictures, features) of whole pictures and of their borders alone, and (pictures, 9) of their tones."""
    made = []
    for number, one in enumerate(found):
        if number % TOLD_EVERY == 0:
            report({"event": "note", "text": f"{number} of {len(found)} pictures seen"})
        made.append((of_volume if one.is_volume else of_picture)(one.path, card, describe))
    return {name: np.stack(of_each) for name, of_each in zip(SHOWN, zip(*made, strict=True), strict=True)}


def of_picture(path: Path, card: Card, describe: Describe) -> Seen:
    picture, there = read_picture(path, card.size)
    whole, border = describe(_in_the_middle(np.stack([picture, border_of(picture, there)]), card.channels))[1]
    return whole, border, tones_of(picture, there)


def _in_the_middle(slices: np.ndarray, channels: int) -> np.ndarray:
    """(n, size, size) as the middle channel, its neighbours not there."""
    out = np.zeros((*slices.shape, channels), np.float32)
    out[..., channels // 2] = slices
    return out


def border_of(picture: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The picture without its middle, in which the lungs lie: no disease is left, but letters, scales and cuts are."""
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    inside = picture.copy()
    down, across = (int(round(FRAME * len(side))) for side in (rows, columns))
    inside[rows[0] + down : rows[-1] + 1 - down, columns[0] + across : columns[-1] + 1 - across] = 0
    return inside


def tones_of(picture: np.ndarray, there: np.ndarray) -> np.ndarray:
    """What says nothing of where: shape, mean, spread, quartiles, share of black and white. (9,)"""
    grey = picture[there]
    shape = there.any(1).sum() / there.any(0).sum()
    quartiles = np.quantile(grey, [0.1, 0.25, 0.5, 0.75])
    return np.array([shape, grey.mean(), grey.std(), *quartiles, (grey < 0.02).mean(), (grey > 0.98).mean()])


def of_volume(path: Path, card: Card, describe: Describe) -> Seen:
    """The same of a volume in HU: means over slices of its middle, seen as a scan sees them."""
    volume = Scan(read_volume(path)).working
    hu, spacing = volume.array, spacing_mm(volume)
    chosen = np.zeros(len(hu), bool)
    chosen[np.unique(np.linspace(0.25 * len(hu), 0.75 * len(hu), SLICES).astype(int).clip(0, len(hu) - 1))] = True
    view = field_of_view(card, hu, spacing[1:])
    whole: list[np.ndarray] = []
    kept: list[np.ndarray] = []

    def describing(slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept.extend(slices[..., card.channels // 2])
        return describe(slices)

    network = Network(card.replaced(flip=False), lambda slices: describe(slices)[0], describe=describing)
    probabilities(network, hu, view, chosen, spacing, notice=whole.append)
    everywhere = np.ones((card.size, card.size), bool)
    framed = np.stack([border_of(one, everywhere) for one in kept])
    tones = np.mean([tones_of(one, everywhere) for one in kept], 0)
    return np.concatenate(whole).mean(0), describe(_in_the_middle(framed, card.channels))[1].mean(0), tones


# Heads


@dataclass(frozen=True)
class _Fitted:
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        found: np.ndarray = (features - self.mean) / self.scale @ self.coefficients + self.intercept
        return found


def weights_of(label: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each source group weighs the same within its class, and both classes alike; the mean is 1."""
    sizes = {group: np.count_nonzero(groups == group) for group in set(groups.tolist())}
    weight = np.array([1 / sizes[group] for group in groups.tolist()])
    for side in (True, False):
        weight[label == side] /= max(weight[label == side].sum(), 1e-12)
    found: np.ndarray = weight * len(weight) / 2
    return found


def logistic(seen: np.ndarray, label: np.ndarray, weight: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients and, last, the intercept (not penalised), by Newton's method. seen (n, k) -> (k + 1,)"""
    design = np.concatenate([seen, np.ones((len(seen), 1))], 1)
    ridge = np.diag([*[penalty] * seen.shape[1], 1e-6])
    theta = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        told = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        slope = design.T @ (weight * (told - label)) + ridge @ theta
        step = np.linalg.solve(design.T @ (design * (weight * told * (1 - told) + 1e-9)[:, None]) + ridge, slope)
        theta = theta - step
        if np.abs(step).max() < 1e-8:
            break
    return theta


def _head(features: np.ndarray, label: np.ndarray, weight: np.ndarray, like: _Fitted | None = None) -> _Fitted:
    mean = features.mean(0) if like is None else like.mean
    scale = np.maximum(features.std(0), 1e-6) if like is None else like.scale
    theta = logistic((features - mean) / scale, label.astype(float), weight, PENALTY)
    return _Fitted(mean, scale, theta[:-1], float(theta[-1]))


def fit(features: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, Any]:
    """Fields of the card: the head of all groups, heads of groups drawn anew, the calibration by groups held out."""
    features = np.asarray(features, np.float64)
    first = _head(features, label, weights_of(label, groups))
    rng, heads = np.random.default_rng(seed), [first]
    for _ in range(RESAMPLES):
        weight = weights_of(label, groups) * _drawn(label, groups, rng)
        heads.append(_head(features, label, weight, first))
    held_out = out_of_fold(features, label, folds_of(label, groups, seed), groups)
    slope, offset = logistic(held_out[:, None], label.astype(float), weights_of(label, groups), 1e-3)
    return {
        "mean": _plain(first.mean), "scale": _plain(first.scale), "slope": float(slope), "offset": float(offset),
        "heads": [Head(coefficients=_plain(one.coefficients), intercept=one.intercept) for one in heads],
    }  # fmt: skip


def _plain(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _drawn(label: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often the group of each picture was drawn, with replacement, among those of its class. (n,)"""
    often = np.zeros(len(groups))
    for side in (True, False):
        names = sorted(set(groups[label == side].tolist()))
        counts = dict(zip(names, rng.multinomial(len(names), [1 / len(names)] * len(names)), strict=True))
        often[label == side] = [counts[group] for group in groups[label == side].tolist()]
    return often


def folds_of(label: np.ndarray, groups: np.ndarray, seed: int, by_group: bool = True) -> np.ndarray:
    """The fold of each picture, whole source groups together, the classes dealt out one by one. (n,) int"""
    units = groups if by_group else np.arange(len(groups)).astype(str)
    rng, fold = np.random.default_rng(seed), {}
    for side in (True, False):
        names = sorted(set(units[label == side].tolist()))
        for place, name in enumerate(rng.permutation(names).tolist()):
            fold[name] = place % FOLDS
    return np.array([fold[unit] for unit in units.tolist()])


def out_of_fold(features: np.ndarray, label: np.ndarray, fold: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The logit of each picture by a head that has not seen its fold. (n,)"""
    logits = np.zeros(len(label))
    for number in np.unique(fold):
        seen = fold != number
        head = _head(features[seen], label[seen], weights_of(label[seen], groups[seen]))
        logits[~seen] = head.logits(features[~seen])
    return logits


# Scores


def auc(score: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The chance that one of the class covid scores above one of the other, ties by half; `weight` of each."""
    weight = np.ones(len(score)) if weight is None else weight
    one, other = label & (weight > 0), ~label & (weight > 0)
    if not one.any() or not other.any():
        return float("nan")
    apart = score[one][:, None] - score[other][None, :]
    pairs = weight[one][:, None] * weight[other][None, :]
    return float(((apart > 0) + 0.5 * (apart == 0)).ravel() @ pairs.ravel() / pairs.sum())


def _scores(features: dict[str, np.ndarray], label: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float]:
    """AUC by source groups held out, of the picture and of what shows no disease; by picture, which flatters it."""
    fold = folds_of(label, groups, seed)
    scores: dict[str, float] = {}
    for name, seen in features.items():
        logits = out_of_fold(np.asarray(seen, np.float64), label, fold, groups)
        low, high = _auc_interval(logits, label, groups, seed)
        scores |= {f"auc_{name}": auc(logits, label), f"auc_{name}_low": low, f"auc_{name}_high": high}
        if name == "whole":
            scores |= _calibration(logits, label, fold, groups)
    whole = np.asarray(features["whole"], np.float64)
    flattered = out_of_fold(whole, label, folds_of(label, groups, seed, by_group=False), groups)
    scores["auc_whole_by_picture"] = auc(flattered, label)
    return {name: round(value, 4) for name, value in scores.items()}


def _auc_interval(logits: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """95 %, by source groups drawn anew."""
    rng = np.random.default_rng(seed)
    drawn = [auc(logits, label, _drawn(label, groups, rng)) for _ in range(200)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _calibration(logits: np.ndarray, label: np.ndarray, fold: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Brier score and expected calibration error, as they come and calibrated on the other folds."""
    raw, mended = 1 / (1 + np.exp(-logits)), np.zeros(len(logits))
    for number in np.unique(fold):
        seen = fold != number
        slope, offset = logistic(
            logits[seen, None], label[seen].astype(float), weights_of(label[seen], groups[seen]), 1e-3
        )
        mended[~seen] = 1 / (1 + np.exp(-(slope * logits[~seen] + offset)))
    weight = weights_of(label, groups)
    told = {}
    for name, chance in (("uncalibrated", raw), ("calibrated", mended)):
        told[f"brier_{name}"] = float(np.average((chance - label) ** 2, weights=weight))
        told[f"calibration_error_{name}"] = _error(chance, label, weight)
    return told


def _error(chance: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """Mean distance of chance and share in ten bins."""
    bins, error = np.minimum((chance * 10).astype(int), 9), 0.0
    for number in np.unique(bins):
        here = bins == number
        gap = abs(np.average(chance[here], weights=weight[here]) - np.average(label[here], weights=weight[here]))
        error += gap * weight[here].sum()
    return float(error / weight.sum())
