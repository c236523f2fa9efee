"""`covct send`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covct.commands.config_file import ConfigFile
from covct.commands.configured import config_of
from covct.commands.options import Json, LogFormatOption, MetricsFile, check_metrics
from covct.commands.told import told
from covct.disk.signals import stoppable
from covct.errors import UsageError
from covct.outputs import Emit
from covct.unattended.logs import LogFormat

if TYPE_CHECKING:
    from covct.exchange.beside import Task
    from covct.exchange.destinations import Destination


def send_command(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Output tree.", show_default=False)],
    to: Annotated[
        list[str],
        typer.Option(
            help="TITLE@HOST:PORT, https://HOST/PATH, or a name of covct.toml; may be repeated.", show_default=False
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on sending what comes, until stopped by SIGTERM or SIGINT (exit 130).")
    ] = False,
    interval: Annotated[
        float, typer.Option(help="With --follow: look for new results every N seconds.", min=0.1)
    ] = 10.0,
    commit: Annotated[
        bool, typer.Option("--commit", help="Ask DICOM nodes to take responsibility for what they have stored.")
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(help="Audit log. Default: .covct/audit.jsonl in the output tree.", show_default=False)
    ] = None,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    metrics: MetricsFile = None,
) -> None:
    """Send the DICOM objects of results to archives: each once, again where it failed; exit 3 if something waits."""
    from covct.commands.results import check_tree
    from covct.disk.places import is_output_tree
    from covct.exchange.audit import audit_log
    from covct.exchange.sender import send
    from covct.unattended.sending import as_document

    check_tree(out)
    if not is_output_tree(out):
        raise UsageError(f"{out} is not an output tree of covct, or cannot be read")
    check_metrics(metrics, out)
    destinations = destinations_of(config_of(context), to, "--to")
    if commit:
        if web := [one.name for one in destinations if one.peer is None]:
            raise UsageError(f"--commit: {web[0]} is no DICOM node, and STOW-RS has no storage commitment")
        destinations = tuple(replace(one, commitment=True) for one in destinations)
    with told(out, json_events, log_format, False, metrics, of_series=False) as emit, stoppable():
        states = send(out, destinations, emit, audit_log(out, audit), interval if follow else None)
        for row in as_document(states):
            emit({"event": "destination", **row})
    if not all(state.is_done for state in states):
        raise typer.Exit(3)


@dataclass(frozen=True)
class Sent:
    """A sender beside a run: `emit` for the run's events, and, once it has ended, whether all is there."""

    emit: Emit
    all_there: Callable[[], bool]


def sending_of(
    context: typer.Context, out: Path, send_to: Sequence[str] | None
) -> Callable[[Emit], AbstractContextManager[Sent]]:
    """`--send-to` of a run: what sends beside it, and makes one more attempt when it has ended.

    Raises
    ------
    UsageError
        A destination is none.
    """
    if not send_to:
        return lambda emit: nullcontext(Sent(emit, lambda: True))
    from covct.exchange.beside import Task

    config = config_of(context)
    task = Task(out, tuple(send_to), destinations_of(config, send_to, "--send-to"), config.path)
    return partial(_beside, task)


@contextmanager
def _beside(task: Task, emit: Emit) -> Iterator[Sent]:
    from covct.exchange.beside import beside, last_attempt
    from covct.unattended.sending import as_document, as_event

    def all_there() -> bool:
        states = last_attempt(task, emit)
        for state, row in zip(states or [], as_document(states or []), strict=True):
            emit(as_event(state))
            emit({"event": "destination", **row})
        return states is not None and all(state.is_done for state in states)

    with beside(task, emit) as emitting:
        yield Sent(emitting, all_there)


def destinations_of(config: ConfigFile, texts: Sequence[str], option: str) -> tuple[Destination, ...]:
    """Destinations as they are named on a command line; names are those of the configuration file."""
    from covct.exchange.destinations import of_texts

    return of_texts(list(texts), config.destinations, option)
