"""The configuration file, covct.toml: found, read, and checked by the commands' own parameters."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from covct.errors import UsageError, did_you_mean

NAME = "covct.toml"
DESTINATIONS = "destinations"  # tables that are no command's: [destinations.NAME]
VARIABLE = "COVCT_CONFIG"
LARGEST = 64 * 1024  # bytes; a page of settings has two thousand
WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    Path: "a path in quotes",
}


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file as it was read.

    Attributes
    ----------
    path : Path or None
        None where there is no file: then nothing is configured.
    text : str
        Its contents.
    document : dict
        The same, parsed: keys for every command that has such an option, and a table for each command.
    """

    path: Path | None = None
    text: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, command: Any) -> dict[str, Any]:
        """What a command gets from this file, by the names of its function's parameters. Its own table goes first."""
        shared = {name: value for name, value in self.document.items() if not isinstance(value, dict)}
        return self.of_options(command, shared | self.document.get(command.name, {}))

    def of_options(self, command: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as this file has them, by the names of the parameters of a command that has them."""
        known = parameters(command)
        return {
            known[name].name: self._in_place(value, annotation(command, known[name]))
            for name, value in given.items()
            if name in known
        }

    def _in_place(self, value: Any, kind: Any) -> Any:
        """A relative path counts from the folder of the file, wherever covct is started."""
        if kind is Path and self.path:
            return str(self.path.parent / value)
        if isinstance(value, list):
            return [self._in_place(one, kind_in_list(kind)) for one in value]
        return value

    @property
    def destinations(self) -> dict[str, Any]:
        """The tables of destinations by their names, paths in their places."""
        from covct.exchange.destinations import PATHS

        tables = self.document.get(DESTINATIONS, {})
        return {
            name: {key: self._in_place(value, Path) if key in PATHS else value for key, value in table.items()}
            for name, table in tables.items()
        }

    def line(self, command: str, key: str) -> int:
        """The line at which a command's value begins, in its table or above all tables."""
        lines = lines_of(self.text)
        return lines.get((command, key)) or lines.get(("", key), 1)


def find(given: Path | None, out: Path | None) -> Path | None:
    """The file that holds: the one asked for, else `covct.toml` beside the output tree, if it is there.

    Raises
    ------
    UsageError
        The file beside the output tree is another user's: whoever may write there must not say what covct does.
    """
    if given or not out:
        return given
    beside = out.absolute().parent / NAME
    try:
        owner = beside.stat().st_uid
    except OSError:  # none there; or none to be reached, and the output tree neither
        return None
    if owner not in (0, os.getuid()):
        raise UsageError(f"{beside}: a file of user {owner}, wanted one of yours or root's; --config FILE takes any")
    return beside


@cache
def read(path: Path) -> ConfigFile:
    """Read a configuration file; a process reads it once, and those that it forks have what it has.

    Raises
    ------
    UsageError
        It cannot be read, or is not TOML.
    """
    import tomllib

    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise UsageError(f"{path}: more than {LARGEST // 1024} KiB, wanted a configuration file")
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        return ConfigFile(path.absolute(), text, tomllib.loads(text))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}, wanted a configuration file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8, wanted a configuration file in TOML") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error


@cache
def lines_of(text: str) -> dict[tuple[str, str], int]:
    """The line at which each key begins, by (table, key); the table of a key above all tables is "".

    tomllib tells no places. But the beginning of a TOML document up to the end of a statement is a TOML document too,
    and no other beginning is: so a key begins behind the longest one that does not hold it yet.
    """
    import tomllib

    lines, found, end = text.split("\n"), dict[tuple[str, str], int](), 0
    for count in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        for key in _keys(document):
            found.setdefault(key, end + 1)
        end = count
    return found


def _keys(document: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{table}.{name}" if table else name)
        yield table, name


def check(config: ConfigFile, commands: Mapping[str, Any]) -> None:
    """Hold every key and value of a file against the parameters of the commands.

    Raises
    ------
    UsageError
        A key that no command has, or a value that it does not take, with the file and the line.
    """
    for name, value in config.document.items():
        if name == DESTINATIONS:
            _check_destinations(config, value)
            continue
        if isinstance(value, dict):
            if name not in commands:
                raise unknown(config, "", name, "no such command", commands)
            check_table(config, name, commands[name], value)
            continue
        having = [command for command in commands.values() if name in parameters(command)]
        if not having:
            every = {key for command in commands.values() for key in parameters(command)}
            why = f"wanted a table, [{name}]" if name in commands else "no command has such an option"
            raise unknown(config, "", name, why, every)
        for command in having:
            _check_value(config, "", command, name, value)


def _check_destinations(config: ConfigFile, tables: Any) -> None:
    from covct.exchange.destinations import Fault, named

    if not isinstance(tables, dict):
        raise _refusal(config, "", DESTINATIONS, f"wanted tables, [{DESTINATIONS}.NAME]")
    for name, table in tables.items():
        try:
            named(name, table)
        except Fault as fault:
            where = f"{config.path}, line {config.line(DESTINATIONS, name)}: [{DESTINATIONS}.{name}]"
            raise UsageError(f"{where}{f' {fault.key}' if fault.key else ''}: {fault.why}") from None


def check_table(config: ConfigFile, table: str, command: Any, options: Mapping[str, Any]) -> None:
    """Hold the options that stand in a table of a file against the parameters of a command. Raises UsageError."""
    known = parameters(command)
    for key, value in options.items():
        if key not in known:
            raise unknown(config, table, key, f"covct {command.name} has no such option", known)
        _check_value(config, table, command, key, value)


def _check_value(config: ConfigFile, table: str, command: Any, key: str, value: Any) -> None:
    param = parameters(command)[key]
    kind = annotation(command, param)
    if not is_of(kind, value):
        raise _refusal(config, table, key, f"{_shown(value)}, wanted {wanted(kind)}")
    try:
        param.process_value(typer.Context(command, info_name=command.name), value)
    except typer.BadParameter as error:
        raise _refusal(config, table, key, f"{_shown(value)}: {error.message}") from error


def unknown(config: ConfigFile, table: str, key: str, why: str, known: Any) -> UsageError:
    """The refusal of a key that is not among the `known`, with the near one."""
    near = did_you_mean(key.replace("_", "-"), known)
    return _refusal(config, table, key, why + (f"; {near}" if near else ""))


def _refusal(config: ConfigFile, table: str, key: str, why: str) -> UsageError:
    where = f"[{table}] {key}" if table else key
    return UsageError(f"{config.path}, line {config.line(table, key)}: {where}: {why}")


def _shown(value: Any) -> str:
    """As the file has it, in short."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value!r}".replace("'", '"')
    return text if len(text) <= 60 else f"{text[:57]}..."


def parameters(command: Any) -> dict[str, Any]:
    """A command's parameters by the names that a file has for them: an option's without its dashes."""
    return {name_of(param): param for param in command.params}


def name_of(param: Any) -> str:
    name: str = max((option.lstrip("-") for option in param.opts), key=len)
    return name


@cache
def _annotations(function: Any) -> dict[str, Any]:
    return {name: one.annotation for name, one in inspect.signature(function, eval_str=True).parameters.items()}


def annotation(command: Any, param: Any) -> Any:
    """The type of a parameter: bool, int, float, str, Path, an Enum, or a list of one of them."""
    kind = _annotations(command.callback)[param.name]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        [kind] = set(get_args(kind)) - {type(None)}
    return kind


def kind_in_list(kind: Any) -> Any:
    return get_args(kind)[0]


def is_of(kind: Any, value: Any) -> bool:
    """Whether a value of a TOML file is of a parameter's type. Text is no number here, unlike on the command line."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_of(kind_in_list(kind), one) for one in value)
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if issubclass(kind, Enum):
        return value in [one.value for one in kind]
    taken: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,)}
    return isinstance(value, taken.get(kind, (str,)))


def wanted(kind: Any) -> str:
    """What a parameter of a type takes, for a sentence."""
    if get_origin(kind) is list:
        return 'a list, such as ["a", "b"]'
    if issubclass(kind, Enum):
        return "one of " + ", ".join(f'"{one.value}"' for one in kind)
    return WANTED[kind]
