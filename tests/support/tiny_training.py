"""A training that takes a second: four patients of 16 x 16 pixels, and a network of two convolutions.

Run as a program it trains in a process of its own, which a test can kill:

    python tests/support/tiny_training.py OUT [--die-at EPOCH STEP] [--resume] [--then OTHER]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import layers

from covct.architectures import ARCHITECTURES
from covct.data.slices import Slices
from covct.training.loop import train
from covct.training.samples import plans
from covct.training.samples.prepare import show
from covct.training.settings import Settings

SIZE = 16
PATIENTS = ("a", "b", "c", "d")
SETTINGS = Settings(
    "lungs", epochs=3, samples_per_epoch=20, batch_size=4, base_filters=2, architecture="tiny", ema=0.9, split="0.25"
)


def tiny(size: int = SIZE, base_filters: int = 2, channels: int = 1) -> keras.Model:
    """Everything that has a state: weights, moving statistics, random layers."""
    inputs = keras.Input((size, size, channels))
    x = layers.Conv2D(base_filters, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Dropout(0.2)(layers.Activation("relu")(x))
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x))


def slices(source: str = "ma", patients=PATIENTS) -> Slices:
    """Six slices a patient: a bright square in the dark, somewhere else in each."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, -600, (6 * len(patients), SIZE, SIZE)).astype(np.int16)
    label = np.zeros(hu.shape, np.uint8)
    for one, mask in zip(hu, label, strict=True):
        row, column = rng.integers(0, SIZE - 6, 2)
        one[row : row + 6, column : column + 6] += 700
        mask[row : row + 6, column : column + 6] = 1
    return Slices(hu, label, label, tuple(p for p in patients for _ in range(6)), source)


def tiny_plan(reading, settings, spoiled: tuple[str, int] | None = None) -> plans.Plan:
    """`spoiled`: the patient and slice whose samples are no numbers."""
    split = plans.split_sources([slices()], settings)
    [part] = split.train_sets
    how = replace(plans.preparation(settings), size=SIZE)

    def draw(rng, origins=None):
        noted: list[plans.Origin] = []
        index = plans._place(part, rng, noted)
        hu, lungs = part.hu[index], part.lungs[index]
        if origins is not None:
            origins += noted
        x, truth = show(how, hu + rng.normal(0, 30, hu.shape), lungs, np.ones(lungs.shape), rng)
        if (noted[0].patient, noted[0].slice) == spoiled:
            x = x * np.nan
        return x, truth

    checks = {p.source: plans._stack(how, p, p.lungs == 1, np.ones(p.lungs.shape)) for p in split.check_sets}
    return replace(plans._plan(draw, how, checks, split, {}), size=SIZE, sources={"ma": "invented"})


def data_folder(parent: Path) -> Path:
    folder = parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "volumes.csv").write_text("first,last,patient_group,anterior\n0,0,invented,up\n")
    return folder


def install(plan=tiny_plan) -> None:
    ARCHITECTURES["tiny"] = tiny
    plans.PLANS["lungs"] = plan


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--die-at", type=int, nargs=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--then", type=Path, help="a folder for the same training, from its beginning")
    asked = parser.parse_args()
    install()

    def report(event) -> None:
        if event["event"] == "step" and [event["epoch"], event["step"]] == asked.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event["event"] == "note":
            print(event["text"], file=sys.stderr)

    data = data_folder(asked.out.parent)
    card = train(SETTINGS, data, asked.out, resume=asked.resume, checkpoint_steps=2, report=report)
    print(card.scores)
    if asked.then:
        print(train(SETTINGS, data, asked.then, checkpoint_steps=2).scores)


if __name__ == "__main__":
    main()
