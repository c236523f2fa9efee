"""From settings to a network that is ready to be trained, and what cannot be asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from covct.architectures import ARCHITECTURES
from covct.errors import UsageError
from covct.training.detector import Detector
from covct.training.folds import parse_split
from covct.training.losses import LOSSES, WeightedDice
from covct.training.optimizers import OPTIMIZERS
from covct.training.samples import lesions
from covct.training.samples.inputs import arguments_for, check_inputs, input_of
from covct.training.schedules import SCHEDULES
from covct.training.settings import Settings


def check(settings: Settings) -> None:
    """Raise UsageError where the settings name what does not exist or do not fit each other."""
    for what, name, known in (
        ("architecture", settings.architecture, ARCHITECTURES),
        ("loss", settings.loss, [*LOSSES, None]),
        ("optimizer", settings.optimizer, OPTIMIZERS),
        ("schedule", settings.schedule, SCHEDULES),
    ):
        if name not in known:
            raise UsageError(f"no {what} is called {name}; choose one of {', '.join(filter(None, known))}")
    if settings.norm and "norm" not in inspect.signature(ARCHITECTURES[settings.architecture]).parameters:
        raise UsageError(f"--norm {settings.norm}: {settings.architecture} has its own normalisation, as published")
    check_inputs(settings)
    if settings.architecture == lesions.NETWORK:
        lesions.check(settings)
    if not settings.steps_per_epoch:
        raise UsageError(f"--samples {settings.samples_per_epoch}: wanted --batch-size {settings.batch_size} or more")
    if settings.folds and not (settings.folds >= 2 and 0 <= settings.fold < settings.folds):
        raise UsageError(f"fold {settings.fold} of {settings.folds}: wanted at least 2 folds, numbered from 0")
    if not settings.folds and parse_split(settings.split).by == "none":
        if settings.schedule == "plateau" or settings.patience:
            raise UsageError("--split none holds out no patients: --schedule plateau and --patience need some")
        if settings.threshold is None and settings.task != "restorer":
            raise UsageError(
                "--split none holds out no patients to choose a threshold on: give --threshold or --cross-validated"
            )


def arguments_of(settings: Settings, size: int) -> dict[str, Any]:
    """The architecture's arguments, as they go into the card: its own base filters where none were asked for."""
    known = inspect.signature(ARCHITECTURES[settings.architecture]).parameters
    arguments = arguments_for(settings, size)
    base = known["base_filters"].default if "base_filters" in known else None
    if settings.base_filters or base:
        arguments["base_filters"] = settings.base_filters or base
    if settings.norm:
        arguments["norm"] = settings.norm
    return arguments


def build(settings: Settings, size: int) -> keras.Model:
    """The network, in bfloat16 arithmetic where asked for; its weights are float32 always."""
    with _arithmetic("mixed_bfloat16" if settings.mixed_precision else "float32"):
        try:
            network = ARCHITECTURES[settings.architecture](**arguments_of(settings, size))
        except (TypeError, ValueError) as error:
            raise UsageError(f"--architecture {settings.architecture}: {error}") from error
    if network.input_shape[1:] != input_of(settings, size):
        raise UsageError(
            f"--architecture {settings.architecture}: the network takes {network.input_shape[1:]}, "
            f"a sample is {input_of(settings, size)}"
        )
    return network


def started(network: keras.Model, trained: keras.Model) -> list[np.ndarray] | None:
    """Weights with which a network does what a trained one does; None where they are not of one kind.

    A network of more channels (2.5D) starts from one of fewer: those in the middle see what they saw, the others begin
    at 0, so that it does not forget what a slice by itself tells.
    """
    channels = network.input_shape[-1], trained.input_shape[-1]
    if len(network.weights) != len(trained.weights):
        return None
    fitted = []
    for kernel, wanted in zip(trained.get_weights(), network.weights, strict=True):
        wide = _widened(kernel, tuple(wanted.shape), *channels)
        if wide is None:
            return None
        fitted.append(wide)
    return fitted


def _widened(kernel: np.ndarray, shape: tuple[int, ...], wanted: int, got: int) -> np.ndarray | None:
    """A kernel (..., channels in, channels out) that sees the channels around its own, with weights of 0."""
    if kernel.shape == shape:
        return kernel
    if wanted < got or kernel.shape[-2:-1] != (got,) or shape != (*kernel.shape[:-2], wanted, kernel.shape[-1]):
        return None
    wide, before = np.zeros(shape, kernel.dtype), (wanted - got) // 2
    wide[..., before : before + got, :] = kernel
    return wide


@contextmanager
def _arithmetic(policy: str) -> Iterator[None]:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def compiled(network: keras.Model, settings: Settings, loss: str) -> keras.Model:
    """With its loss, optimizer and metrics. `loss` is the plan's own, for where none was asked for."""
    metrics = [] if settings.task == "restorer" else [WeightedDice()]
    optimizer = OPTIMIZERS[settings.optimizer](settings.clip_norm or None)
    if loss == lesions.OWN_LOSS:
        network = Detector(network)
        network.compile(optimizer, metrics=metrics)
    else:
        network.compile(optimizer, LOSSES[settings.loss or loss], metrics=metrics)
    optimizer.build(network.trainable_variables)  # else it has no state to bring back before the first step
    return network
