"""The recipe of a training: a configuration file that repeats it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import Any

from covct import __version__
from covct.commands.train_options import Asked
from covct.disk.durable import output_errors, replace_file

RECIPE = "{task}-recipe.toml"  # a folder of weights holds several tasks
HEAD = """\
# Repeats this training: covct train --config {name} --out ANOTHER_FOLDER
# Written by covct {version}.

[train]
"""
# What does not change the weights: where they go, how a machine gets there, and what is done in place of a training.
LEFT_OUT = {
    "out", "resume", "parallel", "workers", "checkpoint_steps", "log_format", "find_lr", "show_augmented",
}  # fmt: skip


def write_recipe(asked: Asked, folder: Path) -> None:
    """Write `folder`/TASK-recipe.toml.

    Raises
    ------
    OutputNotWritable
    """
    with output_errors(folder):
        replace_file(folder / name_of(asked), recipe(asked).encode(errors="surrogateescape"))


def name_of(asked: Asked) -> str:
    return RECIPE.format(task=asked.task.value)


def recipe(asked: Asked) -> str:
    """The training as a configuration file: defaults too, which may be others one day. Paths are absolute."""
    return HEAD.format(name=name_of(asked), version=__version__) + "".join(f"{line}\n" for line in _lines(asked))


def _lines(asked: Asked) -> Iterator[str]:
    for name, value in asdict(asked).items():
        if name not in LEFT_OUT and value is not None:
            yield f"{name.replace('_', '-')} = {_toml(value)}"


def command_line(asked: Asked) -> list[str]:
    """The call of covct that asks for the same, in a process that tells JSON; what is as its default is not in it."""
    words = ["train", asked.task.value, str(asked.data), "--log-format", "json"]
    for one in fields(asked):
        value, option = getattr(asked, one.name), f"--{one.name.replace('_', '-')}"
        if one.name in ("task", "data", "log_format") or value == one.default:
            continue
        words += [option] if value is True else [option, str(value.value if isinstance(value, Enum) else value)]
    return words


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, int | float):
        return repr(value)
    text = str(value.absolute() if isinstance(value, Path) else value)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for this
