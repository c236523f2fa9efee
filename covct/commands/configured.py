"""A command whose options may also stand in the environment or in a configuration file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from covct.commands.config_file import VARIABLE, ConfigFile, check, find, name_of, read

COMMAND_LINE, ENVIRONMENT, FILE, DEFAULT = "command line", "environment", "file", "default"
CONFIG = "covct.config"  # of a context: the configuration file that was read
ORIGINS = {"COMMANDLINE": COMMAND_LINE, "ENVIRONMENT": ENVIRONMENT, "DEFAULT_MAP": FILE, "DEFAULT": DEFAULT}


@dataclass(frozen=True)
class Setting:
    """A value that holds, and where it comes from.

    Attributes
    ----------
    name : str
        Of the option, without dashes.
    value : bool, int, float, str, list or None
        None where nothing is given and there is no default.
    origin : str
        COMMAND_LINE, ENVIRONMENT, FILE or DEFAULT.
    place : str or None
        The variable's name, or the file and the line.
    missing : bool
        It has to be given, and is not.
    """

    name: str
    value: Any
    origin: str
    place: str | None
    missing: bool


class Configured(TyperCommand):
    """Every option also as COVCT_COMMAND_OPTION and in a file: command line before environment before file."""

    def __init__(self, name: str, **settings: Any) -> None:
        context = {"auto_envvar_prefix": f"COVCT_{name}", **(settings.pop("context_settings", None) or {})}
        super().__init__(name, context_settings=context, **settings)
        for param in self.params:
            param.show_envvar = bool(param.envvar)  # type: ignore[attr-defined]  # the others follow one rule

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters and, before --help, `--config`."""
        *own, asks_for_help = super().get_params(ctx)
        return [*own, _config_option(), asks_for_help]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse twice: at first to find the file, then with what stands in it."""
        asks_for_help = set(ctx.help_option_names) & set(args)
        if not asks_for_help and not ctx.resilient_parsing:  # a shell asks what may come next
            opts, *_ = self.make_parser(ctx).parse_args(list(args))
            self.configure(ctx, opts)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.param and ORIGINS.get(_source(ctx, error.param)) == ENVIRONMENT:
                error.message = f"{error.message.rstrip('.')} (environment variable {variable_of(ctx, error.param)})."
            raise

    def configure(self, ctx: Any, opts: dict[str, Any]) -> ConfigFile:
        """Take what the configuration file says as this context's defaults."""
        given, _ = _config_option().consume_value(ctx, opts)
        path = find(Path(given) if given else None, Path(opts["out"]) if opts.get("out") else None)
        config = read(path) if path else ConfigFile()
        if path:
            every = ctx.parent.command.every() if ctx.parent else {str(self.name): self}
            check(config, {name: one for name, one in every.items() if isinstance(one, Configured)})
        ctx.default_map = {**config.defaults(self), **(ctx.default_map or {})}  # a recipe's go before the file's
        ctx.meta[CONFIG] = config
        return config

    def settings(self, arguments: list[str], parent: Any) -> tuple[ConfigFile, list[Setting]]:
        """What would hold with these arguments, and the file that was read; what is missing is no error."""
        ctx, opts, config = self.read_ahead(arguments, parent)
        return config, [self._setting(ctx, param, opts, config) for param in self.params]

    def read_ahead(self, arguments: list[str], parent: Any) -> tuple[Any, dict[str, Any], ConfigFile]:
        """Read the file that these arguments mean, without more; with the context and the options that were given."""
        ctx = typer.Context(self, info_name=self.name, parent=parent, **self.context_settings)
        opts, *_ = self.make_parser(ctx).parse_args(list(arguments))
        return ctx, opts, self.configure(ctx, opts)

    def _setting(self, ctx: Any, param: Any, opts: dict[str, Any], config: ConfigFile) -> Setting:
        value, source = param.consume_value(ctx, opts)
        origin, name = ORIGINS[source.name], name_of(param)
        place = variable_of(ctx, param) if origin == ENVIRONMENT else None
        if origin == FILE:
            place = f"{config.path}:{config.line(str(self.name), name)}"
        missing = value is None and param.required
        if value is not None:
            value = _plain(param.process_value(ctx, value))
        return Setting(name, value, origin, place, missing)


def config_of(context: typer.Context) -> ConfigFile:
    """The configuration file that a command's settings came from; an empty one where there is none."""
    found: ConfigFile = context.meta.get(CONFIG, ConfigFile())
    return found


@cache
def _config_option() -> Any:
    """`--config`, as typer makes options."""

    def command(
        config: Annotated[
            Path | None,
            typer.Option(
                "--config",
                help="Configuration file. Default: covct.toml beside the output tree, if there is one.",
                envvar=VARIABLE,
                allow_from_autoenv=False,
                expose_value=False,
                show_default=False,
            ),
        ] = None,
    ) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(command)
    return typer.main.get_command(app).params[0]


def variable_of(ctx: Any, param: Any) -> str:
    """The environment variable that a parameter's value comes from."""
    own = [param.envvar] if isinstance(param.envvar, str) else param.envvar or []
    return next((name for name in own if os.environ.get(name)), f"{ctx.auto_envvar_prefix}_{param.name.upper()}")


def _source(ctx: Any, param: Any) -> str:
    source = ctx.get_parameter_source(param.name)
    return source.name if source else ""


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = getattr(value, "value", value)  # of an enum
    return str(value) if isinstance(value, Path) else value
