"""`covct train`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from covct.errors import UsageError
from covct.quiet import quiet_tensorflow


class Task(str, Enum):
    restorer = "restorer"
    lungs = "lungs"
    infection = "infection"
    empty_slices = "empty-slices"


class Augment(str, Enum):
    none = "none"
    light = "light"
    standard = "standard"
    full = "full"


def train_command(
    task: Annotated[Task, typer.Argument(help="What to train.")],
    data: Annotated[Path, typer.Argument(help="Folder with the training data.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, card and history.")],
    epochs: Annotated[int, typer.Option(min=1)] = 12,
    samples: Annotated[int, typer.Option(help="Augmented slices an epoch.", min=8)] = 1200,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    learning_rate: Annotated[float, typer.Option(help="At its highest; cosine decay to 0.", min=0)] = 1e-3,
    base_filters: Annotated[int, typer.Option(help="Filters of the first level.", min=4)] = 16,
    validation_share: Annotated[
        float, typer.Option(help="Share of patients held out, per source.", min=0, max=0.9)
    ] = 0.3,
    seed: Annotated[int, typer.Option()] = 0,
    initial: Annotated[Path | None, typer.Option(help="Card of a network to start from.")] = None,
    restorer: Annotated[
        Path | None, typer.Option(help="Card of the CLAHE-to-HU restorer (8-bit slices need it).")
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="bfloat16 arithmetic.")] = False,
    augment: Annotated[Augment, typer.Option(help="How much slices are changed on the fly.")] = Augment.standard,
    recipe: Annotated[
        str, typer.Option(help="Intensities: hu-window, min-max, z-score or clahe, as NAME:ARGUMENT=NUMBER,...")
    ] = "hu-window:low=-1000,high=200",
    field_of_view: Annotated[str, typer.Option(help="body, otsu-body, lung-contours or lung-mask.")] = "body",
    size: Annotated[int, typer.Option(help="Side of the network's input, pixels.")] = 256,
    show_augmented: Annotated[
        int, typer.Option(help="Write a sheet of so many augmented samples to OUT, and train nothing.", min=0, max=240)
    ] = 0,
) -> None:
    """Train the restorer, the lungs or the infection network; whole patients are held out."""
    if not data.is_dir():
        raise UsageError(f"no such directory: {data}")
    with quiet_tensorflow():
        from covct.training.loop import train
        from covct.training.settings import Settings

    settings = Settings(
        task.value, epochs, samples, batch_size, learning_rate, base_filters,
        validation_share=validation_share, seed=seed, mixed_precision=mixed_precision,
        augment=augment.value, recipe=recipe, field_of_view=field_of_view, size=size,
    )  # fmt: skip
    if show_augmented:
        from covct.training.sheet import write_augmented

        typer.echo(json.dumps({"sheet": str(write_augmented(settings, data, out, restorer, show_augmented))}))
        return
    card = train(settings, data, out, initial, restorer)
    typer.echo(json.dumps({"card": str(out / f"{card.name}.json"), "scores": card.scores}))
