"""`covct listen`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covct.commands.console import plain
from covct.commands.network_options import (
    Address,
    AeTitle,
    Allow,
    Audit,
    MaxAssociations,
    MaxPdu,
    Port,
    Timeout,
    TlsAuthorities,
    TlsCertificate,
    TlsKey,
    server_tls_of,
)
from covct.commands.options import Json, LogFormatOption, MetricsFile, check_metrics
from covct.commands.told import telling
from covct.disk.signals import stoppable
from covct.errors import UsageError
from covct.unattended.logs import LogFormat

if TYPE_CHECKING:
    from covct.exchange.peers import Caller

DICOM_PORT = 11112  # registered for DICOM, and open to who is not root


def listen_command(
    inbox: Annotated[Path, typer.Argument(help="Directory into which studies are received.", show_default=False)],
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
    audit: Audit = None,
    json_events: Json = False,
    log_format: LogFormatOption = LogFormat.text,
    metrics: MetricsFile = None,
) -> None:
    """Receive CT from modalities and archives (C-STORE) into an inbox, until stopped by SIGTERM or SIGINT (exit 130).

    An instance is acknowledged once it is on the disk, byte for byte as it was sent. covct watch takes a study from the
    inbox once its association has ended and it has settled.
    """
    from covct.exchange.acceptor import Terms
    from covct.exchange.audit import AuditLog
    from covct.exchange.listener import listening
    from covct.exchange.peers import title_of
    from covct.exchange.received import Inbox

    terms = Terms(title_of(ae_title, "--ae-title"), callers_of(allow, address), max_pdu, timeout)
    tls = server_tls_of(tls_certificate, tls_key, tls_authorities)
    log = AuditLog(audit) if audit else None
    check_metrics(metrics, inbox)
    with (
        telling(json_events, log_format, said, metrics) as emit,
        stoppable(),
        listening(address, port, terms, Inbox(inbox), tls, max_associations, emit, log) as listener,
    ):
        host, port = listener.address
        emit({"event": "listening", "ae_title": terms.title, "address": host, "port": port, "tls": tls is not None})
        listener.serve()


def callers_of(allow: list[str] | None, address: str) -> tuple[Caller, ...]:
    """`--allow` as callers. Where other machines can call, somebody has to say which of them may."""
    from covct.exchange.peers import ANY, caller_of
    from covct.viewer.guard import is_loopback

    if allow:
        return tuple(caller_of(one) for one in allow)
    if not is_loopback(address):
        raise UsageError(
            f"--address {address} is reached by other machines; wanted --allow TITLE@ADDRESS for each that may call"
        )
    return caller_of(f"{ANY}@127.0.0.0/8"), caller_of(f"{ANY}@::1")


def said(event: dict[str, Any]) -> str:
    """An event of a listener as a line for a person."""
    kind = event["event"]
    if kind == "listening":
        secured = " by TLS" if event["tls"] else ""
        return f"listening as {plain(event['ae_title'])} on {event['address']}, port {event['port']}{secured}"
    if kind == "part-ended":
        again = f"; again in {event['again_in_s']:g} s" if event["again_in_s"] else ""
        return f"[yellow]{event['part']} ended[/] with exit code {event['exit_code']}{again}"
    if kind == "turned-away":
        return f"[yellow]turned away[/]  {event['address']}: {plain(event['why'])}"
    if kind != "association":
        return ""
    counted = ", ".join(f"{event[name]} {name}" for name in ("stored", "again", "replaced", "refused") if name in event)
    parts = [counted or "nothing stored", *(plain(why) for why in event.get("refusals", {}))]
    if "why" in event:
        parts.append(plain(event["why"]))
    colour = "green" if event["ended"] == "released" and not event.get("refused") else "yellow"
    return f"[{colour}]{event['ended']}[/]  {plain(event['peer'] or '?')}@{event['address']}: {'; '.join(parts)}"
