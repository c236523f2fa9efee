"""The options of `covct train`, in the panels of its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from covct.unattended.logs import LogFormat

_Options = TypeVar("_Options")


class Task(str, Enum):
    restorer = "restorer"
    lungs = "lungs"
    infection = "infection"
    empty_slices = "empty-slices"
    diagnosis = "diagnosis"


class Optimizer(str, Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Norm(str, Enum):
    batch = "batch"
    group = "group"


class Schedule(str, Enum):
    constant = "constant"
    exponential = "exponential"
    cosine = "cosine"
    cosine_restarts = "cosine-restarts"
    plateau = "plateau"
    one_cycle = "one-cycle"


class Augment(str, Enum):
    none = "none"
    light = "light"
    similar = "similar"
    real_lesions = "real-lesions"
    clinical = "clinical"
    standard = "standard"
    full = "full"


_network = partial(typer.Option, rich_help_panel="Network", show_default=False)
_learning = partial(typer.Option, rich_help_panel="Optimisation")
_samples = partial(typer.Option, rich_help_panel="Samples")
_validation = partial(typer.Option, rich_help_panel="Validation")
_start = partial(typer.Option, rich_help_panel="Starting point and checkpoints")


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line, in the environment and in a recipe: each field is an option."""

    task: Annotated[Task, typer.Argument(help="Network to train.", show_default=False)]
    data: Annotated[Path, typer.Argument(help="Folder with the training data.", show_default=False)]
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for weights, card, history and checkpoints.")]

    architecture: Annotated[
        str | None, _network(help="Architecture, by name. Default: unet, or slice-classifier for empty-slices.")
    ] = None
    base_filters: Annotated[
        int | None, _network(help="Filters on the first level. Default: the architecture's own.", min=1)
    ] = None
    norm: Annotated[Norm | None, _network(help="Normalisation layers. Default: the architecture's own.")] = None
    neighbours: Annotated[
        int, _network(help="2.5D: feed N adjacent slices on either side as extra channels. Default: 0.", min=0)
    ] = 0
    neighbours_mm: Annotated[
        str | None,
        _network(
            help="2.5D: feed what lies at these distances in mm on either side as extra channels, e.g. 3,6, "
            "interpolated between slices."
        ),
    ] = None
    patch: Annotated[str | None, _network(help="Patch size of unet3d: slices, rows, columns. Default: 80,160,160.")] = (
        None
    )
    spacing: Annotated[
        str | None,
        _network(
            help="Resample volumes for unet3d to this spacing in mm: slices, rows, columns, e.g. 2.7,1.58,1.58. "
            "Default: no resampling."
        ),
    ] = None
    classes: Annotated[
        bool,
        _network(
            "--classes", help="Tell ground glass, consolidation and effusion apart, or the right lung from the left."
        ),
    ] = False

    loss: Annotated[
        str | None, _learning(help="Loss function, by name. Default: the task's own.", show_default=False)
    ] = None
    optimizer: Annotated[Optimizer, _learning(help="Optimizer.")] = Optimizer.adamw
    learning_rate: Annotated[float, _learning(help="Peak learning rate.", min=0)] = 1e-3
    schedule: Annotated[Schedule, _learning(help="Learning rate schedule.")] = Schedule.cosine
    clip_norm: Annotated[
        float, _learning(help="Clip the gradient of each variable to this norm; 0 disables clipping.", min=0)
    ] = 1.0
    epochs: Annotated[int, _learning(help="Number of epochs.", min=1)] = 12
    samples: Annotated[int, _learning(help="Augmented samples per epoch: slices, or patches for unet3d.", min=8)] = 1200
    batch_size: Annotated[
        int | None, _learning(help="Samples per batch. Default: 8, or 1 for unet3d.", min=1, show_default=False)
    ] = None
    patience: Annotated[
        int, _learning(help="Stop after N epochs without a better validation score; 0 never stops early.", min=0)
    ] = 0
    ema: Annotated[
        float, _learning(help="Decay of a moving average of the weights, e.g. 0.99; 0 disables it.", min=0)
    ] = 0.0
    mixed_precision: Annotated[bool, _learning("--mixed-precision", help="Compute in bfloat16.")] = False
    seed: Annotated[int, _learning(help="Random seed of weights, samples and splits.", min=0)] = 0
    exact: Annotated[
        bool, _learning("--exact", help="Compute on one thread: every run gives the same weights, bit for bit.")
    ] = False
    find_lr: Annotated[
        bool,
        _learning("--find-lr", help="Find the learning rate instead: a range test, then a short training at its rate."),
    ] = False

    augment: Annotated[Augment, _samples(help="Strength of the augmentation.")] = Augment.standard
    recipe: Annotated[
        str,
        _samples(help="Intensity preprocessing: hu-window, min-max, z-score or clahe, as NAME:ARGUMENT=NUMBER,..."),
    ] = "hu-window:low=-1000,high=200"
    field_of_view: Annotated[str, _samples(help="Crop: body, otsu-body, lung-contours or lung-mask.")] = "body"
    size: Annotated[int, _samples(help="Width and height of the network's input, in pixels.")] = 256
    restorer: Annotated[
        Path | None,
        _samples(
            help="Card of the restorer, for 8-bit CLAHE slices; {fold} stands for the number of the fold. "
            "Default: the shipped one, where slices need one."
        ),
    ] = None
    show_augmented: Annotated[
        int, _samples(help="Write a sheet of N augmented samples to OUT instead of training.", min=0, max=240)
    ] = 0
    workers: Annotated[
        int | None,
        _samples(help="Threads that prepare samples. Default: half of the CPUs.", min=1, show_default=False),
    ] = None

    split: Annotated[
        str,
        _validation(
            help="Hold out patients: 90/10, 70/30 or a share such as 0.2; 72/18/10 leaves a tenth out for a test; "
            "slice or slice:90/10 holds out slices (patients leak); none holds out nobody."
        ),
    ] = "70/30"
    folds: Annotated[
        int, _validation(help="Cross-validate by patient over N folds, into OUT/fold-0, OUT/fold-1, ...", min=0)
    ] = 0
    fold: Annotated[
        int | None, _validation(help="Train this fold only, counted from 0. Default: all.", min=0, show_default=False)
    ] = None
    parallel: Annotated[
        bool, _validation("--parallel", help="Train all folds at the same time, one process per GPU.")
    ] = False
    leave_out: Annotated[
        str,
        _validation(help="Patients, separated by commas, to keep out of training and validation for a later test."),
    ] = ""
    cross_validated: Annotated[
        Path | None,
        _validation(help="With --split none: folder of the folds whose mean threshold and scores go into the card."),
    ] = None
    threshold: Annotated[
        float | None,
        _validation(
            help="Decision threshold in the card. Default: chosen on the patients held out.",
            min=0.01,
            max=0.99,
            show_default=False,
        ),
    ] = None

    initial: Annotated[
        Path | None, _start(help="Card of a network to start from; {fold} stands for the number of the fold.")
    ] = None
    backbone: Annotated[
        Path | None, _start(help="Published ResNet50 weights (.h5) for deeplabv3-plus to start from.")
    ] = None
    resume: Annotated[bool, _start("--resume", help="Resume from the last checkpoint, if there is one.")] = False
    checkpoint_steps: Annotated[int, _start(help="Write a checkpoint every N steps, and after each epoch.", min=1)] = (
        100
    )

    log_format: Annotated[LogFormat, typer.Option(help="Progress on stderr: text, or one JSON object per line.")] = (
        LogFormat.text
    )


def takes(options: type[_Options]) -> Callable[[Callable[[_Options], None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as its options; typer reads the signature, and knows no dataclasses."""

    def decorate(command: Callable[[_Options], None]) -> Callable[..., None]:
        @wraps(command)
        def spread(**given: Any) -> None:
            command(options(**given))

        spread.__signature__ = inspect.signature(options, eval_str=True)  # type: ignore[attr-defined]  # typer reads it
        return spread

    return decorate
