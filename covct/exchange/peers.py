"""Who is spoken to, and who may speak to us: application entities, as people write them on a command line."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from covct.errors import UsageError

ANY = "*"
VERIFICATION = "1.2.840.10008.1.1"  # SOP class of C-ECHO
PLAIN, SECURED = "dicom", "dicoms"  # schemes, as http and https
WANTED = f"wanted TITLE@HOST:PORT, or {SECURED}://TITLE@HOST:PORT for TLS"
TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # ASCII that prints, without the backslash (PS3.5 6.2)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Peer:
    """An application entity that can be called.

    Attributes
    ----------
    title : str
        AE title, 1 to 16 characters.
    host : str
        Name or address; of an IPv6 address without brackets.
    port : int
    is_secured : bool
        Whether it is spoken to by TLS.
    """

    title: str
    host: str
    port: int
    is_secured: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SECURED}://{self.title}@{host}:{self.port}" if self.is_secured else f"{self.title}@{host}:{self.port}"


def peer_of(text: str, option: str = "--to") -> Peer:
    """A peer as it is written: ``TITLE@HOST:PORT``, with ``dicoms://`` before it where it is spoken to by TLS.

    Raises
    ------
    UsageError
        Naming `option`.
    """
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        scheme, rest = PLAIN, text
    title, _, place = rest.rpartition("@")
    host, _, port = place.rpartition(":")
    if scheme not in (PLAIN, SECURED) or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{option} {text}: {WANTED}")
    return Peer(title_of(title, option), _host_of(host, f"{option} {text}"), int(port), scheme == SECURED)


def _host_of(host: str, what: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{what}: wanted an IPv6 address in brackets, as in TITLE@[::1]:104")
    if not re.fullmatch(r"[\w.:%-]+", host, re.ASCII):
        raise UsageError(f"{what}: wanted a host name or an address")
    return host


def title_of(text: str, option: str) -> str:
    """An AE title without the spaces around it, which mean nothing (PS3.8 9.3.2).

    Raises
    ------
    UsageError
        It is none; naming `option`.
    """
    title = text.strip(" ")
    if not TITLE.fullmatch(title):
        raise UsageError(f"{option} {text!r}: wanted an AE title of 1 to 16 ASCII characters without backslash")
    return title


@dataclass(frozen=True)
class Caller:
    """Who may call.

    Attributes
    ----------
    title : str
        AE title; `ANY` for every one.
    network : ipaddress network or None
        Where it calls from; None for anywhere.
    """

    title: str
    network: Network | None

    def is_it(self, title: str, address: str) -> bool:
        """Whether who calls by this title, from this address, is meant."""
        return self.title in (ANY, title) and (self.network is None or _is_within(address, self.network))


def _is_within(address: str, network: Network) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)  # on a socket for both families, IPv4 comes as ::ffff:10.0.0.1
    return (mapped or found) in network


def caller_of(text: str, option: str = "--allow") -> Caller:
    """A caller as it is written: ``TITLE@ADDRESS``, ``TITLE@10.1.0.0/16`` or ``TITLE``; ``*`` for any title.

    Raises
    ------
    UsageError
        Naming `option`.
    """
    title, at, address = text.rpartition("@") if "@" in text else (text, "", "")
    try:
        network = ipaddress.ip_network(address) if at else None
    except ValueError:
        raise UsageError(
            f"{option} {text}: wanted TITLE, TITLE@ADDRESS or TITLE@NETWORK, such as CT1@10.1.2.3 or {ANY}@10.1.0.0/16"
        ) from None
    return Caller(title if title == ANY else title_of(title, option), network)


def may_call(allowed: Iterable[Caller], title: str, address: str) -> bool:
    """Whether one of these is meant by a title and an address."""
    return any(caller.is_it(title, address) for caller in allowed)
