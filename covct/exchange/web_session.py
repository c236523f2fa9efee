"""Sessions with web services: who we are stands in files, never on a command line or in a log."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from covct.errors import UsageError

if TYPE_CHECKING:
    from requests import Session


@contextmanager
def session_of(
    url: str,
    authorities: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    *,
    credentials: str = "",
) -> Iterator[Session]:
    """A session with a web service.

    Parameters
    ----------
    authorities, certificate, key : Path, optional
        As in `tls.client_context`.
    credentials : str, optional
        ``USER:PASSWORD``, or a bearer token, which holds no colon.

    Raises
    ------
    UsageError
        A file of TLS cannot be used; or credentials would be seen: in the URL, or without TLS.
    """
    import requests

    from covct.exchange.tls import authorities_of_system, client_context

    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError("credentials stand in no URL, where logs and lists of processes show them")
    if credentials and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UsageError(f"a password or token goes nowhere without TLS; wanted https in place of {url}")
    client_context(authorities, certificate, key)  # what is wrong with them is said in a sentence now
    with requests.Session() as session:
        session.trust_env = False  # neither proxies nor passwords of somebody's home
        session.headers["Accept-Encoding"] = "identity"  # gzip takes an archive 180 ms for a slice of 512 x 512
        if credentials:
            _authenticate(session, credentials)
        if trusted := authorities or authorities_of_system():  # else requests' own list
            session.verify = str(trusted)
        if certificate and key:
            session.cert = (str(certificate), str(key))
        yield session


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def credentials_in(auth_file: Path) -> str:
    """What a file holds: ``USER:PASSWORD``, or a bearer token.

    Raises
    ------
    UsageError
        It cannot be read, or holds more than one line, or none.
    """
    try:
        lines = auth_file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UsageError(f"{auth_file}: cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from error
    if len(lines) != 1:
        raise UsageError(f"{auth_file}: wanted one line, USER:PASSWORD or a bearer token")
    return lines[0]


def _authenticate(session: Session, credentials: str) -> None:
    user, is_basic, password = credentials.partition(":")
    if is_basic:
        session.auth = (user, password)
    else:
        session.headers["Authorization"] = f"Bearer {credentials}"
