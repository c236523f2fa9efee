"""Options of the commands that speak over a network, and what their texts mean."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covct.errors import UsageError

if TYPE_CHECKING:
    import ssl

_listener = partial(typer.Option, rich_help_panel="Listener")
_secured = partial(typer.Option, rich_help_panel="TLS", show_default=False)

LEAST_PDU, LARGEST_PDU = 4096, 1 << 20

Address = Annotated[str, _listener(help="Address to listen on. Others than this machine reach it only if told.")]
Port = Annotated[int, _listener(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
AeTitle = Annotated[str, _listener("--ae-title", help="Our AE title; who calls another is rejected.")]
Allow = Annotated[
    list[str] | None,
    _listener(
        "--allow",
        help="Who may call: TITLE, TITLE@ADDRESS or TITLE@NETWORK, * for any title; may be repeated. "
        "Default: this machine alone.",
        show_default=False,
    ),
]
MaxPdu = Annotated[int, _listener("--max-pdu", help="Bytes of the longest PDU taken.", min=LEAST_PDU, max=LARGEST_PDU)]
MaxAssociations = Annotated[int, _listener("--max-associations", help="Associations at once.", min=1, max=1000)]
Timeout = Annotated[float, _listener(help="Seconds after which a silent peer is given up.", min=1)]
Audit = Annotated[
    Path | None,
    typer.Option("--audit", help="Audit log to append to: who sent how many instances.", show_default=False),
]
TlsCertificate = Annotated[
    Path | None, _secured("--tls-certificate", help="Our certificate, PEM. With it, nothing but TLS is spoken.")
]
TlsKey = Annotated[Path | None, _secured("--tls-key", help="Its private key, PEM, without a passphrase.")]
TlsAuthorities = Annotated[
    Path | None,
    _secured("--tls-authorities", help="Authorities, PEM: peers must show a certificate that one of them signed."),
]


def server_tls_of(certificate: Path | None, key: Path | None, authorities: Path | None) -> ssl.SSLContext | None:
    """The TLS options as a listener's context; None where none is given."""
    from covct.exchange.tls import server_context

    if certificate and key:
        return server_context(certificate, key, authorities=authorities)
    if certificate or key or authorities:
        raise UsageError("TLS takes --tls-certificate and --tls-key, with --tls-authorities or without; one is missing")
    return None
