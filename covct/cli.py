"""The program: its commands registered, errors to exit codes."""

from __future__ import annotations

import codecs
import os
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from covct import RESEARCH_USE, __version__
from covct.commands.config import config_command
from covct.commands.configured import Configured
from covct.commands.console import log_time, plain, stamp, stderr
from covct.commands.convert import convert_command
from covct.commands.evaluate import evaluate_command
from covct.commands.exit_codes import EXIT_CODES
from covct.commands.explore import explore_command
from covct.commands.export import export
from covct.commands.listeners import listen, unheard
from covct.commands.machine import doctor_command, health_command
from covct.commands.phantom import phantom_command
from covct.commands.restore import restore_command
from covct.commands.results import status_command, summary_command, verify_command
from covct.commands.scan import scan_command, watch_command
from covct.commands.train import train_command
from covct.errors import OutputNotWritable, RunError, SeriesError, Stopped, whereabouts
from covct.unattended.logs import install
from covct.unattended.supervisor import supervise, worker

SUPERVISED = ("scan", "watch")

app = typer.Typer(
    name="covct",
    help=f"Segment lungs and COVID-19 infection in chest CT, unattended. {RESEARCH_USE}",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = partial(app.command, cls=Configured)
segmentation = partial(command, rich_help_panel="Segmentation", epilog=EXIT_CODES)
results = partial(command, rich_help_panel="Results and runs")
networks = partial(command, rich_help_panel="Networks")
tools = partial(command, rich_help_panel="Tools")

segmentation("scan")(scan_command)
segmentation("watch")(watch_command)
results("status")(status_command)
results("health", epilog=EXIT_CODES)(health_command)
results("summary")(summary_command)
results("verify", epilog=EXIT_CODES)(verify_command)
networks("explore")(explore_command)
networks("train")(train_command)
networks("evaluate")(evaluate_command)
networks("restore", epilog=EXIT_CODES)(restore_command)
app.add_typer(export, name="export", rich_help_panel="Networks")
tools("doctor", epilog=EXIT_CODES)(doctor_command)
tools("config", cls=None, context_settings={"allow_interspersed_args": False})(config_command)
tools("convert", epilog=EXIT_CODES)(convert_command)
tools("phantom")(phantom_command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"covct {__version__}. {RESEARCH_USE}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The program. Losing standard output or error ends nothing; where events were lost to a full disk, exit 12."""
    in_utf8()
    listen()
    try:
        _run()
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    if not code and (lost := unheard()):
        stderr.print(f"[red]covct:[/] standard output could not be written: {lost.strerror}", soft_wrap=True)
        code = OutputNotWritable.exit_code
    sys.exit(code)


def in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale says otherwise.

    Names of files and archives' members are UTF-8 nearly everywhere, and what covct writes is always: a locale of
    Latin-1 or ASCII must not decide whether a study with an umlaut can be read back.
    """
    if not sys.flags.utf8_mode and codecs.lookup(sys.getfilesystemencoding()).name != "utf-8":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8=1", *sys.orig_argv[1:]])


def _run() -> None:
    """covct's errors become sentences and exit codes; a bug keeps its traceback (exit 1)."""
    install(RichHandler(console=stderr, show_path=False, log_time_format=log_time, omit_repeated_times=False))
    try:
        if sys.argv[1:2] and sys.argv[1] in SUPERVISED:
            _read_settings(sys.argv[1], sys.argv[2:])
            supervise()
        app()
    except RunError as error:
        stderr.print(f"{_at()}[red]covct:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SeriesError as error:
        file = f" ({plain(error.file)})" if error.file else ""
        stderr.print(f"[red]covct:[/] {plain(error.message)}{file}", soft_wrap=True)
        sys.exit(3)
    except Stopped as stopped:
        stderr.print(f"{_at()}covct: stopped by {stopped}; finished series are kept", highlight=False)
        sys.exit(130)
    except Exception as error:  # not Python's own traceback: that ends with the error's text, which may quote a header
        frames = "".join(traceback.format_tb(error.__traceback__))
        stderr.print(f"Traceback (most recent call last):\n{frames}{whereabouts(error)}", markup=False, soft_wrap=True)
        sys.exit(1)


def _read_settings(name: str, arguments: list[str]) -> None:
    """Read the configuration file before the first worker is forked: one that follows it shall find the same."""
    group: Any = typer.main.get_command(app)
    with suppress(Exception):  # the worker says what is wrong
        group.commands[name].read_ahead(arguments, typer.Context(group))


def _at() -> str:
    """The time, in the log of a night; empty for who sits before it."""
    return stamp() if worker() and not stderr.is_terminal else ""


if __name__ == "__main__":
    main()
