"""Published systems as recipes: files of `covct train --like`, of several trainings each.

A recipe is a configuration file with one table, [train]: options of `covct train` for all of its trainings, and a table
[train.FOLDER.TASK] for each of these with its own. What they make goes into OUT/FOLDER.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from covct.commands.config_file import ConfigFile, check_table, read, unknown
from covct.commands.train_options import Task
from covct.errors import UsageError, did_you_mean

TABLE, SUFFIX = "train", ".toml"
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TASKS = [task.value for task in Task if task is not Task.diagnosis]  # which trains no network
NOT_ITS_OWN = ("out", "task", "resume")  # a recipe is of any folder, and its tables name the tasks


@dataclass(frozen=True)
class Training:
    """One of a system's trainings: where it goes below OUT, and the options that its recipe has for it."""

    folder: str
    task: str
    options: dict[str, Any]

    @property
    def table(self) -> str:
        """Its table in the recipe."""
        return f"{TABLE}.{self.folder}.{self.task}"


@dataclass(frozen=True)
class System:
    """A recipe as it was read, with its trainings in their order."""

    name: str
    config: ConfigFile
    trainings: tuple[Training, ...]


def published() -> list[str]:
    """The systems whose recipes come with covct."""
    return sorted(path.name.removesuffix(SUFFIX) for path in _shelf().iterdir() if path.name.endswith(SUFFIX))


def _shelf() -> Any:
    return files("covct.training") / "recipes"


def read_system(name: str, command: Any) -> System:
    """The recipe of a name, or of a file.

    Parameters
    ----------
    command : the command whose options it holds

    Raises
    ------
    UsageError
        There is no such recipe, or a key of it is no option of the command, with the near one; a value does not fit.
    """
    config = read(_file_of(name))
    options = config.document.get(TABLE)
    for key in config.document:
        if key != TABLE:
            raise unknown(config, "", key, f"a recipe has one table, [{TABLE}]", [TABLE])
    if not isinstance(options, dict):
        raise UsageError(f"{config.path}: no table [{TABLE}], wanted a recipe")
    return System(name, config, tuple(_trainings(config, options, command)))


def _file_of(name: str) -> Path:
    if name.endswith(SUFFIX):
        return Path(name)
    if name not in published():
        wanted = f"wanted one of {', '.join(published())}, or a file NAME{SUFFIX}"
        raise UsageError(f"--like {name}: no system of that name; {did_you_mean(name, published()) or wanted}")
    return Path(str(_shelf() / f"{name}{SUFFIX}"))


def _trainings(config: ConfigFile, options: dict[str, Any], command: Any) -> Iterator[Training]:
    shared = {key: value for key, value in options.items() if not isinstance(value, dict)}
    folders = {key: value for key, value in options.items() if isinstance(value, dict)}
    _check_options(config, TABLE, shared, command)
    if not folders:
        raise UsageError(f"{config.path}: no table [{TABLE}.FOLDER.TASK], wanted one for each training")
    for folder, tasks in folders.items():
        if not FOLDER.fullmatch(folder):
            raise UsageError(f"{config.path}: [{TABLE}.{folder}]: wanted letters, digits, dots and dashes")
        for task, own in tasks.items():
            if task not in TASKS or not isinstance(own, dict):
                raise unknown(config, f"{TABLE}.{folder}", task, f"wanted a table of {', '.join(TASKS)}", TASKS)
            training = Training(folder, task, {**shared, **own})
            _check_options(config, training.table, own, command)
            yield training


def _check_options(config: ConfigFile, table: str, options: dict[str, Any], command: Any) -> None:
    for key in options:
        if key in NOT_ITS_OWN:
            raise unknown(config, table, key, "not for a recipe to say", ())
    check_table(config, table, command, options)
