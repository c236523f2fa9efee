"""`covct config`: what holds, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from covct.commands.config_file import NAME, VARIABLE
from covct.commands.configured import DEFAULT, Configured, Setting
from covct.commands.console import plain, stderr, stdout
from covct.visible import json_line


def config_command(
    context: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(
            help="A command. Default: all, but only what is not a default.", metavar="COMMAND", show_default=False
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Options and arguments of the command.", metavar="ARGS", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file.", envvar=VARIABLE, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per command to stdout.")] = False,
) -> None:
    """Show the settings of a command, and where each comes from: command line, environment, file or default."""
    root: Any = context.parent
    given = ["--config", str(config)] if config else []
    if command:
        root.command.resolve_command(root, [command])  # an unknown one is refused, with the near one
    names = [command] if command else root.command.list_commands(root)
    for name in names:
        one = root.command.named(name)
        if not isinstance(one, Configured):
            continue
        file, settings = one.settings([*given, *(arguments or [])], root)
        shown = [setting for setting in settings if command or setting.origin != DEFAULT]
        if as_json:
            path = str(file.path) if file.path else None
            print(json_line({"command": name, "file": path, "settings": [_as_json(setting) for setting in shown]}))
        elif shown:
            _show(name, shown)
        if command and not as_json:
            stderr.print(_file_read(file.path), soft_wrap=True, highlight=False)
    if not command and not as_json:
        stderr.print(_file_read(config), soft_wrap=True, highlight=False)


def _file_read(path: Path | None) -> str:
    none = f"no configuration file: none by --config or {VARIABLE}, and no {NAME} beside an output tree that was named"
    return f"configuration file: {plain(path)}" if path else none


def _as_json(setting: Setting) -> dict[str, Any]:
    return {"name": setting.name, "value": setting.value, "from": setting.origin, "place": setting.place}


def _show(name: str, settings: list[Setting]) -> None:
    table = Table(title=f"covct {name}", title_justify="left")
    table.add_column("option", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for one in settings:
        origin = "[red]missing[/]" if one.missing else plain(one.place or one.origin)
        table.add_row(one.name, plain(_value(one.value)), origin)
    stdout.print(table)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {None: "", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
