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

from covct import RESEARCH_USE, __version__
from covct.commands.by_name import ByName, Row
from covct.commands.console import Log, plain, stamp, stderr
from covct.commands.exit_codes import EXIT_CODES
from covct.commands.listeners import listen, unheard
from covct.errors import OutputNotWritable, RunError, SeriesError, Stopped, whereabouts
from covct.unattended.logs import install

SUPERVISED = ("scan", "watch", "platform")

segmentation = partial(Row, "Segmentation", epilog=EXIT_CODES)
exchange = partial(Row, "Other machines", epilog=EXIT_CODES)
results = partial(Row, "Results and runs")
networks = partial(Row, "Networks")
tools = partial(Row, "Tools")


class Commands(ByName):
    """What covct can do; what each says of itself is the first paragraph of its help."""

    rows = {
        "scan": segmentation(
            "scan.scan",
            "Segment every study in the sources and write DICOM SEG and report; finished series are not redone.",
        ),
        "watch": segmentation(
            "scan.watch",
            "Poll an inbox and segment each study once it is complete, until stopped by SIGTERM or SIGINT (exit 130).",
        ),
        "listen": exchange(
            "listen.listen",
            "Receive CT from modalities and archives (C-STORE) into an inbox, until stopped by SIGTERM or SIGINT "
            "(exit 130).",
        ),
        "node": exchange(
            "node.node",
            "Receive, segment and send, until stopped: covct listen, watch and send under one supervisor (exit 130).",
        ),
        "pull": exchange(
            "pull.pull",
            "Pull chest CT of some days from a PACS into an inbox: only what is not known and not there yet.",
        ),
        "platform": segmentation(
            "platform.platform",
            "Scan as the platform wants it that started this container, and write results in its form; exit 0 only if "
            "done.",
        ),
        "worker": segmentation(
            "crews.worker", "Work for scans and watches that were started with --scheduler, until stopped."
        ),
        "status": results(
            "results.status",
            "Show whether covct is alive, its current work and queue, its last run, and results by outcome and reason.",
        ),
        "health": results(
            "machine.health",
            "Check that scans and watches are alive; exit 3 if one hangs, was killed, failed or lost its source.",
            EXIT_CODES,
        ),
        "summary": results("results.summary", "Rewrite summary.csv and index.html of an output tree."),
        "digest": results(
            "results.digest",
            "Tell what the last run came to, to be mailed or posted: figures, the most affected series, reasons.",
        ),
        "send": results(
            "send.send",
            "Send the DICOM objects of results to archives: each once, again where it failed; exit 3 if something "
            "waits.",
            EXIT_CODES,
        ),
        "prune": results(
            "prune.prune",
            "Remove formats from old results of an output tree; outcome, report and what is to be kept stay.",
            EXIT_CODES,
        ),
        "verify": results(
            "results.verify",
            "Check every result against its hashes, its report, its references and its source; exit 3 on any defect.",
            EXIT_CODES,
        ),
        "view": results(
            "view.view",
            "Look at results or a scan in the browser, compare the masks with a truth, and correct them.",
        ),
        "explore": networks(
            "explore.explore",
            "Show what training data holds, in which intensity domain, and what is left out and why.",
        ),
        "train": networks(
            "train.train",
            "Train the restorer, lung, infection or empty-slice network; whole patients are held out.",
        ),
        "evaluate": networks(
            "evaluate.evaluate",
            "Evaluate networks or other tools' masks: overlap, distances, volumes, calibration, confidence intervals.",
        ),
        "restore": networks(
            "restore.restore",
            "Restore Hounsfield units of 8-bit slices (CLAHE or a lung window); exit 3 if some volumes were refused.",
            EXIT_CODES,
        ),
        "export": tools("export.export", "Write results for reporting systems, and networks for other runtimes."),
        "doctor": tools(
            "machine.doctor",
            "Check packages, weights, device, memory, disk, locks and decoders here, with a fix for every problem.",
            EXIT_CODES,
        ),
        "config": tools(
            "config.config",
            "Show the settings of a command, and where each comes from: command line, environment, file or default.",
            configured=False,
        ),
        "convert": tools(
            "convert.convert",
            "Convert DICOM CT series to NIfTI in HU, and volume files to DICOM CT series marked as derived.",
            EXIT_CODES,
        ),
        "phantom": tools(
            "phantom.phantom", "Write a synthetic chest CT as a DICOM series, with its true volumes in truth.json."
        ),
    }


app = typer.Typer(
    name="covct",
    cls=Commands,
    help=f"Segment lungs and COVID-19 infection in chest CT, unattended. {RESEARCH_USE}",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    install(Log())
    try:
        if sys.argv[1:2] and sys.argv[1] in SUPERVISED:
            from covct.unattended.supervisor import supervise

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
        group.named(name).read_ahead(arguments, typer.Context(group))


def _at() -> str:
    """The time, in the log of a night; empty for who sits before it."""
    from covct.unattended.supervisor import worker

    return stamp() if worker() and not stderr.is_terminal else ""


if __name__ == "__main__":
    main()
