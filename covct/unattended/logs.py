"""What covct says while it runs, as JSON lines or text: identifiers hashed on demand, other people's texts withheld.

Nothing here holds a patient's name or date. Events come from covct's own code; what libraries log or warn of may quote
a header, so only its kind and place is told.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from covct.disk.durable import BESIDE, fsync
from covct.errors import UsageError
from covct.outputs import Emit, Event
from covct.visible import json_line

# For metrics and the heartbeat: many a minute, and nothing new for a reader.
QUIET = {"look", "looking", "kept-back", "alive", "sending"}
LEVELS = {"failed": "error", "rejected": "warning", "problem": "warning", "not-moved": "warning", "warning": "warning"}
KEY_NAME = "identifier-key"
SHORTEST_KEY = 32  # characters; covct's own have 64
# Text that stays as it is when identifiers are hashed: words of covct's own. All other text is hashed, so that a new
# field cannot leak.
WORDS = {
    "event", "level", "time", "slug", "status", "step", "device", "severity_class", "research_use", "warnings", "at",
    "logger", "until", "reason", "why",
}  # fmt: skip
OWN_MESSAGES = {
    "unexpected-error",
    "crashed-repeatedly",
    "timeout",
    "source-gone",
}  # kind and place in our code, a count: never a path

log = logging.getLogger("covct")


class LogFormat(str, Enum):
    """Of `--log-format`."""

    text = "text"
    json = "json"


def identifier_key(private: Path) -> bytes:
    """The secret that identifiers of this output tree are hashed with; made when first asked for, mode 600.

    It stays with the tree, so that the lines of several nights can be joined, and nobody without it can try UIDs.

    Raises
    ------
    UsageError
        The file holds less than `SHORTEST_KEY` characters: an empty key hides nothing.
    """
    path = private / KEY_NAME
    private.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        return _long_enough(path)
    beside = private / BESIDE.format(name=KEY_NAME, process=os.getpid())  # goes with the next run if this one dies
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its key is the tree's
            _rename_new(beside, path)
        fsync(private)  # before outcomes that hold digests under it
    finally:
        beside.unlink(missing_ok=True)
    return _long_enough(path)


def _long_enough(path: Path) -> bytes:
    key = path.read_bytes().strip()
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"{path} holds a key of {len(key)} characters; wanted at least {SHORTEST_KEY}. "
            "Restore it, or delete it for a new one to be made: then hashes of earlier "
            "nights no longer match new ones, and only the DICOM objects of earlier "
            "results identify their patients"
        )
    return key


def _rename_new(source: Path, target: Path) -> None:
    """Rename, but never replace; file systems without hard links (SMB) take the renaming that could."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        os.rename(source, target)


def hashed(identifier: str, key: bytes) -> str:
    """The first 16 hex digits of HMAC-SHA256 of a UID or path."""
    return hmac.new(key, identifier.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]


def hide_identifiers(event: Event, key: bytes, meanings: Mapping[str, str]) -> Event:
    """An event without UIDs, paths and free text.

    Parameters
    ----------
    meanings : mapping of str to str
        What a slug means: stands in for the message, which may name a file.
    """
    return {name: _hidden(name, value, event, key, meanings) for name, value in event.items()}


def _hidden(name: str, value: Any, event: Event, key: bytes, meanings: Mapping[str, str]) -> Any:
    if value is None or isinstance(value, bool | int | float) or name in WORDS:
        return value
    if name == "message":
        return value if event.get("slug") in OWN_MESSAGES else meanings.get(event.get("slug") or "", "")
    if name == "folder":  # study/series, so that it can be joined with both
        return "/".join(hashed(part, key) for part in str(value).split("/"))
    if isinstance(value, Mapping):
        return {inner: _hidden(inner, one, event, key, meanings) for inner, one in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(name, one, event, key, meanings) for one in value]
    return hashed(str(value), key)


def as_json(event: Event, level: str | None = None) -> str:
    """One event as one line: time (UTC) and level first."""
    said = {name: value for name, value in event.items() if value is not None}
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": now, "level": level or LEVELS.get(event["event"], "info"), **said}
    return json_line(line)


class JsonLines(logging.Handler):
    """Log records and events on one stream, each a JSON object on one line."""

    def tell(self, event: Event, level: str | None = None) -> None:
        print(as_json(event, level), file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None) or {"event": "log", "message": record.getMessage()}
        self.tell(event, record.levelname.lower())


class WithoutForeignText(logging.Filter):
    """Of records that are not covct's own only level, logger and place remain, and each place speaks once."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[tuple[str, str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] == "covct":
            return True
        place = record.name, record.pathname, record.lineno
        if place in self.told:
            return False
        self.told.add(place)
        at = f"{Path(record.pathname).name}:{record.lineno}"
        record.event = {"event": "warning", "logger": record.name, "at": at}
        record.msg = f"{record.name} warns at {at} (text withheld: it may quote a header)"
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        return True


def install(handler: logging.Handler) -> None:
    """Send everything that is logged or warned of through this handler, without foreign text."""
    handler.addFilter(WithoutForeignText())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("pydicom", "highdicom", "nibabel", "tensorflow", "absl"):  # they bring handlers of their own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    warnings.showwarning = _log_warning


@contextmanager
def as_json_lines() -> Iterator[JsonLines]:
    """Everything on stderr is JSON lines meanwhile, except what Python itself or a C library prints."""
    root = logging.getLogger()
    before, show = root.handlers[:], warnings.showwarning
    handler = JsonLines()
    install(handler)
    try:
        yield handler
    finally:
        root.handlers[:] = before
        warnings.showwarning = show


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of `warnings.showwarning`, which prints the text: pydicom's quotes the value that it warns of."""
    record = logging.LogRecord(category.__name__, logging.WARNING, filename, lineno, "", (), None)
    logging.getLogger().handle(record)


def tell_all(*listeners: Emit) -> Emit:
    """One function that hands an event to each of these."""

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return emit
