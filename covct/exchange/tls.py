"""TLS of DICOM associations and web services (PS3.15 B): contexts, and what is wrong with a certificate in a sentence.

Nothing below TLS 1.2 is spoken. What cannot work is refused at the start, not met by the first sender at night: a key
that belongs to another certificate, one that asks for a passphrase, a certificate that is out of date.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from covct.errors import UsageError

NOT_YET_VALID, EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_*
OUT_OF_DATE = {NOT_YET_VALID: "is not valid yet", EXPIRED: "has expired"}
REASONS = {
    "KEY_VALUES_MISMATCH": "the key does not belong to this certificate",
    "KEY_TYPE_MISMATCH": "the key does not belong to this certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "it is signed by a digest that is no longer safe",
}  # of an SSLError, by OpenSSL's names


class _Encrypted(Exception):
    """A key asks for a passphrase."""


def server_context(certificate: Path, key: Path, *, authorities: Path | None = None) -> ssl.SSLContext:
    """TLS for a listener.

    Parameters
    ----------
    certificate : Path
        Ours, PEM, with the certificates between it and its authority, if any.
    key : Path
        Its private key, PEM, without a passphrase: nobody sits before it at night.
    authorities : Path, optional
        PEM file of authorities: callers must show a certificate that one of them has signed.

    Raises
    ------
    UsageError
        A file cannot be read, they do not belong together, or the certificate is out of date.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show(context, certificate, key)
    if authorities:
        _trust(context, authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    authorities: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """TLS for a caller, who wants the host's name, or address, in the certificate of whom it calls.

    Parameters
    ----------
    authorities : Path, optional
        PEM file of authorities, of which one must have signed that certificate. Default: the system's.
    certificate, key : Path, optional
        Ours, as in `server_context`, where callers have to show one.

    Raises
    ------
    UsageError
        As `server_context`; or one of certificate and key is lacking.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities:
        _trust(context, authorities)
    else:
        context.load_default_certs()
    if certificate and key:
        _show(context, certificate, key)
    elif certificate or key:
        raise UsageError(f"{certificate or key}: wanted a certificate and its key, got one of them")
    return context


def authorities_of_system() -> Path | None:
    """File or folder of the authorities that this system trusts, as `client_context` takes them; None: it has none."""
    places = ssl.get_default_verify_paths()
    if places.cafile:
        return Path(places.cafile)
    return Path(places.capath) if places.capath and any(Path(places.capath).iterdir()) else None


def why_not_trusted(error: ssl.SSLError) -> str:
    """Why a handshake failed, in words that name nobody: for the log, or for the state of a delivery."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {error.verify_message}"
    return f"TLS failed: {(error.reason or 'the peer broke off').replace('_', ' ').lower()}"


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load what we show to the other side, and look at it as the other side will."""

    def encrypted() -> str:
        raise _Encrypted

    for path in (certificate, key):
        _check_readable(path)
    try:
        context.load_cert_chain(certificate, key, password=encrypted)
    except _Encrypted:
        raise UsageError(f"{key}: the key is encrypted; wanted one without a passphrase") from None
    except ssl.SSLError as error:
        raise UsageError(f"{certificate}: {_reason(error, 'no PEM certificate with its key')}") from error
    if found := _out_of_date(certificate, key):
        raise UsageError(f"{certificate}: the certificate {found}; wanted one that is valid today by this clock")


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    _check_readable(authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise UsageError(f"{authorities}: {_reason(error, 'no PEM certificates of authorities')}") from error


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _reason(error: ssl.SSLError, otherwise: str) -> str:
    return REASONS.get(error.reason or "", otherwise)


def _out_of_date(certificate: Path, key: Path) -> str:
    """What a peer that trusts this very certificate says of its dates; empty where it is content.

    The handshake is in memory: Python's ssl tells the dates of nobody's certificate but a peer's.
    """
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = False
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    theirs.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server, client = ours.wrap_bio(there, back, server_side=True), theirs.wrap_bio(back, there)
    try:
        for _ in range(4):  # two flights each
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        return OUT_OF_DATE.get(error.verify_code, "")  # what else there is, depends on whom the peer trusts
    return ""
