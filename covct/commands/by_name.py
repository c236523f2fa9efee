"""Commands that are imported once they are named: a list of all needs a line of each, and not what each one loads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

WHOLE_LINE = {"allow_interspersed_args": False}


@dataclass(frozen=True)
class Row:
    """A command as the list of commands shows it.

    Attributes
    ----------
    panel : str
        Under which it stands.
    function : str
        Its module in `covct.commands` and the function there without ``_command``, as ``results.status``; or the
        group of commands there.
    says : str
        The first paragraph of that function's docstring, or of the group's help.
    epilog : str or None
        What ends its help.
    configured : bool
        Its options may also stand in the environment and in a file.
    """

    panel: str
    function: str
    says: str
    epilog: str | None = None
    configured: bool = True


def command(name: str, row: Row) -> Any:
    """The command, with its parameters; `COMMAND` of its module is a class of its own for it."""
    from covct.commands.configured import Configured

    name_of_module, _, function = row.function.partition(".")
    module = import_module(f"covct.commands.{name_of_module}")
    app = typer.Typer(add_completion=False)
    if isinstance(group := getattr(module, function, None), typer.Typer):
        app.add_typer(group, name=name, rich_help_panel=row.panel)
        made: Any = typer.main.get_command(app)
        return made.commands[name]
    # What follows the arguments of one that is not configured is another command's line.
    of_its_own = getattr(module, "COMMAND", Configured)
    kind: dict[str, Any] = {"cls": of_its_own} if row.configured else {"context_settings": WHOLE_LINE}
    app.command(name, rich_help_panel=row.panel, epilog=row.epilog, **kind)(getattr(module, f"{function}_command"))
    return typer.main.get_command(app)


class ByName(TyperGroup):
    """A group of commands, each imported when a command line or `every` asks for it.

    What lists them, or completes their names, sees commands without parameters.
    """

    rows: ClassVar[dict[str, Row]] = {}

    def __init__(self, **settings: Any) -> None:
        listed = {name: TyperCommand(name, help=row.says, rich_help_panel=row.panel) for name, row in self.rows.items()}
        super().__init__(**{**settings, "commands": listed})
        self._imported: dict[str, Any] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take flags that were not given as not set: typer imports pydantic to make None of None."""
        for param in self.get_params(ctx):
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that a command line names; without one of that name it ends, with the near ones."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, self.named(name) if name and listed else listed, rest

    def named(self, name: str) -> Any:
        """The command of this name, with its parameters."""
        if name not in self._imported:
            self._imported[name] = command(name, self.rows[name])
        return self._imported[name]

    def every(self) -> dict[str, Any]:
        """All commands with their parameters, by their names."""
        return {name: self.named(name) for name in self.rows}
