"""`covct node`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from covct.commands.configured import config_of
from covct.commands.listen import DICOM_PORT, callers_of, said
from covct.commands.network_options import (
    Address,
    AeTitle,
    Allow,
    MaxAssociations,
    MaxPdu,
    Port,
    Timeout,
    TlsAuthorities,
    TlsCertificate,
    TlsKey,
    server_tls_of,
)
from covct.commands.options import Json, LogFormatOption, MetricsFile, check_metrics, check_out
from covct.commands.told import telling
from covct.disk.durable import make_folder, output_errors
from covct.disk.places import PRIVATE
from covct.disk.signals import stoppable
from covct.unattended.logs import LogFormat

FIGURES = "figures"  # folder of the parts' own metrics, in the private folder


def node_command(
    context: typer.Context,
    inbox: Annotated[Path, typer.Argument(help="Directory into which studies are received.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Output tree for results.", show_default=False)],
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="Where results go: TITLE@HOST:PORT, https://HOST/PATH, or a name of covct.toml; may be repeated.",
            show_default=False,
        ),
    ] = None,
    port: Port = DICOM_PORT,
    ae_title: AeTitle = "COVCT",
    address: Address = "127.0.0.1",
    allow: Allow = None,
    max_pdu: MaxPdu = 131072,
    max_associations: MaxAssociations = 16,
    timeout: Timeout = 60.0,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_authorities: TlsAuthorities = None,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    metrics: MetricsFile = None,
) -> None:
    """Receive, segment and send, until stopped: covct listen, watch and send under one supervisor (exit 130).

    Whatever else covct watch can do stands in the [watch] table of covct.toml, or in the environment (COVCT_WATCH_...).
    """
    from covct.exchange.audit import NAME as AUDIT_LOG
    from covct.exchange.node import Part, run
    from covct.exchange.node_figures import write_figures
    from covct.unattended.parts import PartState, forget_parts, note_parts

    callers_of(allow, address)  # what cannot work is said at once
    server_tls_of(tls_certificate, tls_key, tls_authorities)
    check_out(out, [inbox], "OUT")
    check_metrics(metrics, out)
    private = out.absolute() / PRIVATE
    with output_errors(out):
        for folder in (inbox, private / FIGURES):
            make_folder(folder)
    both = [*(("--json",) if json_events else ()), *_options({
        "--log-format": log_format.value, "--config": config_of(context).path,
    })]  # fmt: skip
    listen = _options({
        "--port": port, "--ae-title": ae_title, "--address": address, "--max-pdu": max_pdu,
        "--max-associations": max_associations, "--timeout": timeout, "--tls-certificate": tls_certificate,
        "--tls-key": tls_key, "--tls-authorities": tls_authorities, "--audit": private / AUDIT_LOG,
        "--metrics": private / FIGURES / "listen.prom", "--allow": allow,
    })  # fmt: skip
    watch = _options({"--out": out, "--metrics": private / FIGURES / "watch.prom", "--send-to": to})
    parts = (Part("listen", (str(inbox), *listen, *both)), Part("watch", (str(inbox), *watch, *both)))

    def note(states: list[PartState]) -> None:
        note_parts(private, states)
        if metrics:
            write_figures(metrics, private / FIGURES / "watch.prom", private / FIGURES / "listen.prom", states)

    with telling(json_events, log_format, said) as emit, stoppable():
        try:
            raise typer.Exit(run(parts, emit, note))
        finally:
            note([PartState(part.name, False, 0, None) for part in parts])
            forget_parts(private)


def _options(values: dict[str, object]) -> list[str]:
    """Options with their values: none where there is none, and once for each one of a list."""
    each = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return [word for name, many in each.items() for one in many if one is not None for word in (name, str(one))]
