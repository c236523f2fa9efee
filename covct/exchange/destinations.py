"""Where results go: archives by their address, or by a name that covct.toml gives them, with what each one gets."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from covct.errors import UsageError, did_you_mean
from covct.exchange.peers import Peer, peer_of, title_of
from covct.exchange.rules import Rule, parse_rule
from covct.exchange.web_session import credentials_in, is_loopback
from covct.outputs import DICOM_FORMATS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
OUR_TITLE = "COVCT"
TABLE = "destinations"
WANTED = f"wanted TITLE@HOST:PORT, https://HOST/PATH, or the NAME of a [{TABLE}.NAME] of covct.toml"


class Fault(ValueError):
    """A key of a destination's table, and what is wrong with it."""

    def __init__(self, key: str, why: str):
        super().__init__(why)
        self.key, self.why = key, why


@dataclass(frozen=True)
class Access:
    """What a destination wants to see before it takes anything.

    Attributes
    ----------
    auth_file, auth_variable : Path or None, and str
        Where ``USER:PASSWORD`` or a bearer token stands, never what it is. It is read for each connection, since tokens
        change.
    authorities : Path or None
        PEM file of those who sign the destination's certificate; None: the system's.
    certificate, key : Path or None
        Ours, where it asks for one.
    """

    auth_file: Path | None = None
    auth_variable: str = ""
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> str:
        """What stands there; empty where nothing is asked for.

        Raises
        ------
        UsageError
            It cannot be read.
        """
        if self.auth_file:
            return credentials_in(self.auth_file)
        found = os.environ.get(self.auth_variable, "").strip() if self.auth_variable else ""
        if self.auth_variable and not found:
            raise UsageError(
                f"the environment has no {self.auth_variable}; wanted USER:PASSWORD or a bearer token in it"
            )
        return found


@dataclass(frozen=True)
class Destination:
    """An archive, and what of the results it gets.

    Attributes
    ----------
    name : str
        As the ledger, the status and the figures call it: the name in covct.toml, else its address.
    peer : Peer or None
        A DICOM node. None: it is spoken to by DICOMweb.
    url : str
        Of the DICOMweb service.
    formats : tuple of str
        Those of DICOM_FORMATS that it gets.
    rules : tuple of Rule
        Which results it gets: those for which all of them hold.
    ours : str
        The AE title that we call it by.
    rejects : bool
        It understands rejection notes (IHE IOCM): what was replaced is rejected there, not only told of here.
    commitment : bool
        It is asked to commit itself to what it has stored.
    commitment_port : int or None
        Where our own listener waits for its answer; None: on the same association alone.
    """

    name: str
    peer: Peer | None = None
    url: str = ""
    formats: tuple[str, ...] = DICOM_FORMATS
    rules: tuple[Rule, ...] = ()
    ours: str = OUR_TITLE
    access: Access = field(default=Access(), repr=False)
    rejects: bool = False
    commitment: bool = False
    commitment_port: int | None = None

    @property
    def address(self) -> str:
        """For people and the audit log; it holds no credentials."""
        return str(self.peer) if self.peer else self.url

    @property
    def folder(self) -> str:
        """What its part of the ledger is called on disk."""
        if NAME.fullmatch(self.name):
            return self.name
        plain = re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")[:60]
        return f"{plain}.{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"  # no name has a dot


def of_texts(texts: list[str], tables: Mapping[str, Any], option: str = "--to") -> tuple[Destination, ...]:
    """Destinations as a command line names them, each once.

    Parameters
    ----------
    tables : mapping of str to dict
        The tables below ``[destinations]`` of the configuration file; see `named`.

    Raises
    ------
    UsageError
        One is no address, and no name either.
    """
    found = {text: _of_text(text, tables, option) for text in texts}
    by_folder = {one.folder: one for one in found.values()}
    if not by_folder:
        raise UsageError(f"{option} is missing: {WANTED}")
    return tuple(by_folder.values())


def _of_text(text: str, tables: Mapping[str, Any], option: str) -> Destination:
    if text in tables:
        return named(text, tables[text])
    if NAME.fullmatch(text):
        near = did_you_mean(text, tables)
        raise UsageError(f"{option} {text}: " + (f"no such destination; {near}" if near else WANTED))
    if text.startswith(("http://", "https://")):
        try:
            return Destination(text.rstrip("/"), url=_url(text))
        except Fault as fault:
            raise UsageError(f"{option} {fault.why}") from None
    if "@" not in text:
        raise UsageError(f"{option} {text}: {WANTED}")
    peer = peer_of(text, option)
    return Destination(str(peer), peer)


def named(name: str, table: Any) -> Destination:
    """The destination of a table ``[destinations.NAME]``.

    Raises
    ------
    Fault
        A key that is not known, with the near one, or a value that it does not take.
    """
    if not NAME.fullmatch(name):
        raise Fault("", f"{name}: wanted a name of letters, digits, - and _, at most 40")
    if not isinstance(table, dict):
        raise Fault("", f"wanted a table, [{TABLE}.{name}]")
    for key in table:
        if key not in KEYS:
            raise Fault(key, f"not known; {did_you_mean(key, KEYS) or 'wanted ' + ', '.join(KEYS)}")
    read = {key: KEYS[key](key, value) for key, value in table.items()}
    if "address" not in read:
        raise Fault("address", "is missing: wanted TITLE@HOST:PORT, or https://HOST/PATH")
    return _assembled(name, read)


def _assembled(name: str, read: dict[str, Any]) -> Destination:
    peer, url = read["address"]
    secrets = [key for key in ("auth_file", "auth_variable") if key in read]
    if len(secrets) == 2:
        raise Fault(secrets[0], "wanted a file or a variable with the password or token, got both")
    if secrets and not url:
        raise Fault(secrets[0], "a DICOM node asks for no password or token; wanted an https address, or certificates")
    if secrets and url.startswith("http://") and not is_loopback(urlsplit(url).hostname or ""):
        raise Fault("address", "a password or token goes nowhere without TLS; wanted an https address")
    if ("certificate" in read) != ("key" in read):
        raise Fault("certificate", "wanted a certificate and its key, got one of them")
    if url and read.get("commit"):
        raise Fault("commit", "storage commitment is asked of a DICOM node; STOW-RS has none")
    if "commit_port" in read and peer and peer.is_secured and "certificate" not in read:
        raise Fault("commit_port", "its answer comes by TLS, as objects go: wanted certificate and key too")
    access = Access(**{one.name: read[one.name] for one in fields(Access) if one.name in read})
    return Destination(
        name, peer, url, read.get("formats", DICOM_FORMATS), read.get("when", ()), read.get("ours", OUR_TITLE), access,
        read.get("rejects", False), read.get("commit", False), read.get("commit_port"),
    )  # fmt: skip


def _address(key: str, value: Any) -> tuple[Peer | None, str]:
    text = _text(key, value)
    if text.startswith(("http://", "https://")):
        return None, _url(text)
    try:
        return peer_of(text, key), ""
    except UsageError as error:
        raise Fault(key, str(error).removeprefix(f"{key} ")) from None


def _url(text: str) -> str:
    """The address of a DICOMweb service: without credentials, which would stand in logs and in lists of processes."""
    parts = urlsplit(text)
    try:
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if parts.username or parts.password:
        raise Fault("address", "credentials stand in no address; wanted auth_file or auth_variable")
    if not whole or parts.query or parts.fragment:
        raise Fault("address", f"{text}: wanted https://HOST/PATH of a DICOMweb service")
    return text.rstrip("/")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Fault(key, f"{value!r}, wanted text in quotes")
    return value


def _texts(key: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise Fault(key, f"{value!r}, wanted a text, or a list of them")
    return [_text(key, one) for one in values]


def _formats(key: str, value: Any) -> tuple[str, ...]:
    names = _texts(key, value)
    if unknown := [name for name in names if name not in DICOM_FORMATS]:
        told = did_you_mean(unknown[0], DICOM_FORMATS) or f"wanted {', '.join(DICOM_FORMATS)}"
        raise Fault(key, f"{unknown[0]} is no DICOM format; {told}")
    return tuple(name for name in DICOM_FORMATS if name in names)


def _rules(key: str, value: Any) -> tuple[Rule, ...]:
    try:
        return tuple(map(parse_rule, _texts(key, value)))
    except Fault:
        raise
    except ValueError as error:
        raise Fault(key, str(error)) from None


def _yes_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Fault(key, f"{value!r}, wanted true or false")
    return value


def _port(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise Fault(key, f"{value!r}, wanted a port, 1 to 65535")
    return value


def _path(key: str, value: Any) -> Path:
    return Path(_text(key, value))


def _title(key: str, value: Any) -> str:
    try:
        return title_of(_text(key, value), key)
    except UsageError as error:
        raise Fault(key, str(error).removeprefix(f"{key} ")) from None


# Of a table [destinations.NAME]: key, and what reads its value.
KEYS: dict[str, Callable[[str, Any], Any]] = {
    "address": _address,
    "formats": _formats,
    "when": _rules,
    "ours": _title,
    "auth_file": _path,
    "auth_variable": _text,
    "authorities": _path,
    "certificate": _path,
    "key": _path,
    "rejects": _yes_no,
    "commit": _yes_no,
    "commit_port": _port,
}
PATHS = tuple(key for key, reads in KEYS.items() if reads is _path)
